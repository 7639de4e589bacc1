// SPDX-License-Identifier: MIT
#include "api.hpp"

#include <promptkv/cache_types.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <initializer_list>
#include <optional>
#include <random>
#include <string_view>

namespace llama_server {
namespace {

/// Compares without telling by its time where the difference is.
bool same_secret(std::string_view a, std::string_view b) {
    unsigned difference = a.size() == b.size() ? 0 : 1;
    for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
        difference |= static_cast<unsigned>(a[i] ^ b[i]);
    }
    return difference == 0;
}

/// Refuses what a page of another site asks of a server that only listens to this machine.
void check_origin(const Options& options, const httplib::Request& http) {
    const std::string host = http.get_header_value("Host");
    const std::string origin = http.get_header_value("Origin");
    const auto is = [&](const std::string& own) {
        return host == own || host.starts_with(own + ":");
    };
    const bool loopback =
        options.host == "127.0.0.1" || options.host == "localhost" || options.host == "::1";
    if ((!origin.empty() && origin != "http://" + host && origin != "https://" + host) ||
        (loopback && !is("localhost") && !is("127.0.0.1") && !is("[::1]") && !host.empty())) {
        throw ApiError(403, "requests from other web pages are refused");
    }
}

/// Throws:     ApiError without a valid key.
void find_tenant(Call& call) {
    const std::vector<std::string>& keys = call.app.options.api_keys;
    call.model = call.app.engine.model_key();
    if (keys.empty()) {
        return;
    }
    std::string key = call.http.get_header_value("x-api-key");
    const std::string authorization = call.http.get_header_value("Authorization");
    if (key.empty() && authorization.starts_with("Bearer ")) {
        key = authorization.substr(7);
    }
    if (std::ranges::count_if(keys, [&](const auto& own) { return same_secret(key, own); }) == 0) {
        throw ApiError(401, "a valid API key is required", "", "invalid_api_key");
    }
    // The key names the tenant, not its place among the keys: a second level outlives their order.
    call.model += " tenant " + std::to_string(std::hash<std::string>()(key));
    call.operates = key == keys.front();
}

json parse(const std::string& text) {
    const auto limit_depth = [](int depth, json::parse_event_t, json&) {
        if (depth > 64) {
            throw ApiError(400, "the JSON is nested too deeply");
        }
        return true;
    };
    json value = json::parse(text, limit_depth, false);
    if (value.is_discarded()) {
        throw ApiError(400, "this is not valid JSON");
    }
    return value;
}

json fields_of(const httplib::Request& http) {
    json fields = json::object();
    if (!http.body.empty() || (http.method == "POST" && http.params.empty())) {
        fields = parse(http.body);
        if (!fields.is_object()) {
            throw ApiError(400, "the body must be a JSON object");
        }
        return fields;
    }
    for (const auto& [name, value] : http.params) {
        const bool text = name != "messages" && name != "limit" && name != "since";
        fields[name] = text ? json(value) : parse(value);
    }
    return fields;
}

/// JSON as text; bytes that are no UTF-8 are replaced.
std::string dump(const json& value) {
    return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

bool is_anthropic(const httplib::Request& http) {
    return http.path.starts_with("/v1/messages");
}

json error_body(const ApiError& error, bool anthropic) {
    const int status = error.status;
    const char* const type = status == 401                ? "authentication_error"
                             : status == 403              ? "permission_error"
                             : status == 404              ? "not_found_error"
                             : status == 413 && anthropic ? "request_too_large"
                             : status < 500               ? "invalid_request_error"
                             : !anthropic                 ? "server_error"
                             : status == 503              ? "overloaded_error"
                                                          : "api_error";
    const auto or_null = [](const std::string& text) { return text.empty() ? json() : json(text); };
    json body = {{"error", {{"type", type}, {"message", error.what()}}}};
    if (anthropic) {
        body["type"] = "error";
    } else {
        body["error"]["param"] = or_null(error.param);
        body["error"]["code"] = or_null(error.code);
    }
    return body;
}

} // namespace

void handle(App& app, Endpoint endpoint, const httplib::Request& http,
            httplib::Response& response) {
    try {
        Call call{.app = app, .http = http, .response = response};
        check_origin(app.options, http);
        find_tenant(call);
        call.fields = fields_of(http);
        if (const json answer = endpoint(call); !answer.is_null()) {
            response.set_content(dump(answer), "application/json");
        }
    } catch (const ApiError& error) {
        send_error(http, response, error);
    } catch (const std::exception& error) {
        send_error(http, response, ApiError(500, error.what()));
    }
}

void send_error(const httplib::Request& http, httplib::Response& response, const ApiError& error) {
    response.status = error.status == 503 && is_anthropic(http) ? 529 : error.status;
    if (error.status == 503) {
        response.set_header("Retry-After", "1");
    }
    response.set_content(dump(error_body(error, is_anthropic(http))), "application/json");
}

// reading a request ////////////////////////////////////////////////////////////////////////////////////

void refuse_unsupported(const json& fields, const json& neutral) {
    for (const auto& [name, value] : neutral.items()) {
        const json asked = fields.value(name, json());
        if (!asked.empty() && asked != value) { // null is empty, too
            throw ApiError(400, "'" + name + "' is supported as " + value.dump() + " only", name,
                           "unsupported");
        }
    }
}

std::uint64_t session_number(const std::string& name) {
    constexpr std::uint64_t exact = std::uint64_t{1} << 53; // numbers that every reader of JSON has
    return name.empty() ? 0 : 1 + std::hash<std::string>()(name) % (exact - 1);
}

Chat read_chat(const json& fields) {
    const auto check = [](bool good, const std::string& what) {
        if (!good) {
            throw ApiError(400, what, "messages");
        }
    };
    Chat chat;
    const json messages = fields.value("messages", json());
    check(messages.is_array() && !messages.empty(),
          "'messages' must be an array that is not empty");
    for (const json& message : messages) {
        check(message.is_object(), "each message must be an object");
        std::string role = field<std::string>(message, "role", "");
        if (role == "developer") {
            role = "system";
        }
        check(role == "system" || role == "user" || role == "assistant" || role == "tool",
              "unknown role '" + role + "'");
        json content = message.value("content", json());
        if (content.is_string()) {
            content = json::array({{{"text", content}}});
        }
        check(content.is_array() || content.is_null(),
              "a message's content must be a string or an array");
        std::string text;
        for (const json& part : content) {
            check(part.is_object() && part.value("text", json()).is_string(),
                  "only text parts are supported in a message's content");
            text += part["text"].get<std::string>();
            if (!part.value("cache_control", json()).is_null()) {
                chat.breakpoints.push_back({chat.messages.size(), text.size()});
            }
        }
        chat.messages.push_back({role, text});
    }
    check(chat.breakpoints.size() <= 4, "at most 4 parts may have 'cache_control'");
    return chat;
}

Request read_request(const Call& call, const json& fields, Tokens prompt) {
    const std::size_t room = call.app.engine.context_tokens();
    if (prompt.empty()) {
        throw ApiError(400, "the prompt is empty");
    }
    if (prompt.size() >= room) {
        throw ApiError(400,
                       "the prompt has " + std::to_string(prompt.size()) +
                           " tokens, the context has room for " + std::to_string(room),
                       "", "context_length_exceeded");
    }
    Request r;
    r.prompt = std::move(prompt);
    r.max_tokens = field(fields, "max_tokens", call.app.options.max_answer, std::size_t{1});
    r.max_tokens = field(fields, "max_completion_tokens", r.max_tokens, std::size_t{1});
    r.temperature = field(fields, "temperature", r.temperature, 0.0F, 5.0F);
    r.top_p = field(fields, "top_p", r.top_p, 0.0F, 1.0F);
    r.min_p = field(fields, "min_p", r.min_p, 0.0F, 1.0F);
    r.top_k = field(fields, "top_k", r.top_k, -1, 1'000'000);
    if (const auto seed = field<std::int64_t>(fields, "seed", -1); seed >= 0) {
        r.seed = static_cast<std::uint32_t>(seed);
    }
    const json stop = fields.value("stop", json());
    for (const json& text : stop.is_array() || stop.is_null() ? stop : json::array({stop})) {
        if (!text.is_string() || text == "" || stop.size() > 16) {
            throw ApiError(400, "'stop' must be at most 16 texts", "stop");
        }
        r.stops.push_back(text.get<std::string>());
    }
    r.model = call.model;
    r.cache_prompt = field(fields, "cache_prompt", true);
    r.side_request = field(fields, "side_request", false);
    r.session = session_number(field<std::string>(fields, "prompt_cache_key", ""));
    return r;
}

Request read_chat_request(const Call& call, const json& fields) {
    const Text& text = call.app.engine.text();
    Chat chat = read_chat(fields);
    Request request = read_request(call, fields, text.prompt(chat.messages));
    const auto mark = [&](std::size_t message, std::size_t bytes) {
        const bool system = chat.messages[message].role == "system";
        const std::size_t tokens = text.tokens_until(chat.messages, message, bytes, request.prompt);
        request.marks.push_back({tokens, system ? promptkv::Tier::system : promptkv::Tier::user});
        return tokens;
    };
    if (chat.messages[0].role == "system") {
        mark(0, chat.messages[0].content.size());
    }
    for (const auto& [message, bytes] : chat.breakpoints) {
        request.marked = std::max(request.marked, mark(message, bytes));
    }
    return request;
}

// sending an answer ////////////////////////////////////////////////////////////////////////////////////

std::string new_id(const char* prefix) {
    static const auto start = std::random_device{}();
    static std::atomic<std::uint32_t> count{0};
    return prefix + std::to_string(start) + "-" + std::to_string(++count);
}

std::string event(const json& data) {
    const std::string type = data.value("type", "");
    return (type.empty() ? "" : "event: " + type + "\n") + "data: " + dump(data) + "\n\n";
}

json diagnostics(const Result& result) {
    const Lookup& found = result.lookup;
    if (found.request() == 0) {
        return {{"type", "unavailable"}};
    }
    json told = {{"type", found ? "cache_hit" : "cache_miss"},
                 {"cache_missed_tokens", result.prompt_tokens - found.reused()},
                 {"comparison_reusable_tokens", found.matched()},
                 {"match", name(found.match())},
                 {"tier", found ? json(name(found.tier())) : json()}};
    if (!found) {
        const bool changed = found.miss() == promptkv::MissReason::nothing_shared ||
                             found.miss() == promptkv::MissReason::below_min_reuse;
        told["reason"] = changed ? "input_changed" : "unavailable";
        told["miss"] = name(found.miss());
    }
    return told;
}

json answer(const Call& call, Request request, std::unique_ptr<Format> format) {
    struct State {
        std::unique_ptr<Format> format;
        std::shared_ptr<Job> job;
        std::string text; // all of it, where the answer is sent at once
        bool first = true;
    };
    const bool streaming = field(call.fields, "stream", false);
    const bool anthropic = is_anthropic(call.http);
    const auto state = std::make_shared<State>();
    state->format = std::move(format);
    state->job = call.app.engine.submit(std::move(request));
    if (state->job == nullptr) {
        throw ApiError(503, "too many requests are waiting", "", "overloaded");
    }
    const auto next = [=](std::size_t, httplib::DataSink& sink) {
        const std::optional<Job::News> news = state->job->wait(std::chrono::milliseconds(100));
        if (!news) {
            return sink.is_writable(); // false where the client is gone: that cancels the request
        }
        const bool failed = news->result.finish == Finish::failed;
        std::string data;
        if (streaming && failed) {
            data = event(error_body(ApiError(500, "the engine failed"), anthropic));
        } else if (streaming) {
            data = state->format->events(*news, std::exchange(state->first, false));
        } else if (failed) {
            return false; // the connection breaks: the status has been sent
        } else if (state->text += news->text; news->done) {
            data = dump(state->format->whole(state->text, news->result));
        }
        if (!data.empty() && !sink.write(data.data(), data.size())) {
            return false;
        }
        if (news->done) {
            sink.done();
        }
        return true;
    };
    call.response.set_header("Cache-Control", "no-store");
    call.response.set_chunked_content_provider(streaming ? "text/event-stream" : "application/json",
                                               next, [state](bool) { state->job->cancel(); });
    return nullptr;
}

} // namespace llama_server
