// SPDX-License-Identifier: MIT
#include "api.hpp"

#include <promptkv/cache_types.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
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

std::string error_type(int status, bool anthropic) {
    switch (status) {
    case 401:
        return "authentication_error";
    case 403:
        return "permission_error";
    case 404:
        return "not_found_error";
    case 413:
        return anthropic ? "request_too_large" : "invalid_request_error";
    case 503:
        return anthropic ? "overloaded_error" : "server_error";
    default:
        return status < 500 ? "invalid_request_error" : anthropic ? "api_error" : "server_error";
    }
}

} // namespace

Caller App::caller(const httplib::Request& request) const {
    // A page of another site must not use a server that only listens to this machine.
    const std::string host = request.get_header_value("Host");
    const std::string origin = request.get_header_value("Origin");
    const auto is = [&](const std::string& own) {
        return host == own || host.starts_with(own + ":");
    };
    if ((!origin.empty() && origin != "http://" + host && origin != "https://" + host) ||
        (loopback && !is("localhost") && !is("127.0.0.1") && !is("[::1]") && !host.empty())) {
        throw ApiError(403, "requests from other web pages are refused");
    }
    if (api_keys.empty()) {
        return {engine.model_key(), true};
    }
    std::string key = request.get_header_value("x-api-key");
    const std::string authorization = request.get_header_value("Authorization");
    if (key.empty() && authorization.starts_with("Bearer ")) {
        key = authorization.substr(7);
    }
    std::size_t found = api_keys.size();
    for (std::size_t i = 0; i < api_keys.size(); ++i) {
        found = same_secret(key, api_keys[i]) ? i : found;
    }
    if (found == api_keys.size()) {
        throw ApiError(401, "a valid API key is required", "", "invalid_api_key");
    }
    // The key names the tenant, not its place among the keys: a second level outlives their order.
    const std::size_t tenant = std::hash<std::string>()(key);
    return {engine.model_key() + " tenant " + std::to_string(tenant), found == 0};
}

httplib::Server::Handler guarded(App& app, Handler handler) {
    return [&app, handler](const httplib::Request& request, httplib::Response& response) {
        try {
            handler(app, app.caller(request), request, response);
        } catch (const ApiError& error) {
            send_error(request, response, error);
        } catch (const std::exception& error) {
            send_error(request, response, ApiError(500, error.what()));
        }
    };
}

void send_error(const httplib::Request& request, httplib::Response& response,
                const ApiError& error) {
    const bool anthropic = request.path.starts_with("/v1/messages");
    json details = {{"type", error_type(error.status, anthropic)}, {"message", error.what()}};
    json body = {{"error", details}};
    if (anthropic) {
        body["type"] = "error";
    } else {
        body["error"]["param"] = error.param.empty() ? json() : json(error.param);
        body["error"]["code"] = error.code.empty() ? json() : json(error.code);
    }
    response.status = error.status == 503 && anthropic ? 529 : error.status;
    if (error.status == 503) {
        response.set_header("Retry-After", "1");
    }
    response.set_content(dump(body), "application/json");
}

void send_json(httplib::Response& response, const json& body) {
    response.set_content(dump(body), "application/json");
}

std::string dump(const json& value) {
    return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

std::string new_id(const char* prefix) {
    static const auto start = std::random_device{}();
    static std::atomic<std::uint32_t> count{0};
    return prefix + std::to_string(start) + "-" + std::to_string(++count);
}

// reading a request ////////////////////////////////////////////////////////////////////////////////////

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

json body_of(const httplib::Request& request) {
    json body = parse(request.body);
    if (!body.is_object()) {
        throw ApiError(400, "the body must be a JSON object");
    }
    return body;
}

std::string text_field(const json& body, const char* name) {
    const auto found = body.find(name);
    if (found == body.end() || found->is_null()) {
        return {};
    }
    if (!found->is_string()) {
        throw ApiError(400, std::string("'") + name + "' must be a string", name);
    }
    return found->get<std::string>();
}

Request request_of(App& app, const Caller& caller, const json& body, Tokens prompt,
                   std::size_t max_tokens, const char* stops) {
    const std::size_t room = app.engine.context_tokens();
    if (prompt.empty()) {
        throw ApiError(400, "the prompt is empty");
    }
    if (prompt.size() >= room) {
        throw ApiError(400,
                       "the prompt has " + std::to_string(prompt.size()) +
                           " tokens, the context has room for " + std::to_string(room),
                       "", "context_length_exceeded");
    }
    Request request;
    request.prompt = std::move(prompt);
    request.max_tokens = max_tokens;
    Request& s = request;
    s.temperature = field(body, "temperature", s.temperature, 0.0F, 5.0F);
    s.top_p = field(body, "top_p", s.top_p, 0.0F, 1.0F);
    s.min_p = field(body, "min_p", s.min_p, 0.0F, 1.0F);
    s.top_k = field(body, "top_k", s.top_k, -1, 1'000'000);
    const auto seed = field<std::int64_t>(body, "seed", -1);
    s.seed = seed < 0 ? LLAMA_DEFAULT_SEED : static_cast<std::uint32_t>(seed);
    if (const auto stop = body.find(stops); stop != body.end() && !stop->is_null()) {
        const json list = stop->is_array() ? *stop : json::array({*stop});
        for (const json& text : list) {
            if (!text.is_string() || text.get_ref<const std::string&>().empty() ||
                list.size() > 16) {
                throw ApiError(400, std::string("'") + stops + "' must be at most 16 texts", stops);
            }
            request.stops.push_back(text.get<std::string>());
        }
    }
    request.model = caller.model;
    request.cache_prompt = field(body, "cache_prompt", true);
    request.side_request = field(body, "side_request", false);
    request.session = session_number(text_field(body, "prompt_cache_key"));
    return request;
}

Request chat_request(App& app, const Caller& caller, const json& body,
                     const std::vector<Message>& chat, const char* stops) {
    const std::size_t max_tokens =
        field<std::size_t>(body, "max_completion_tokens",
                           field<std::size_t>(body, "max_tokens", app.max_answer, 1), 1);
    Request request =
        request_of(app, caller, body, app.engine.text().prompt(chat), max_tokens, stops);
    if (chat.front().role == "system") {
        request.marks.push_back(
            {app.engine.text().tokens_until(chat, 0, chat[0].content.size(), request.prompt),
             promptkv::Tier::system});
    }
    return request;
}

// sending an answer ////////////////////////////////////////////////////////////////////////////////////

json diagnostics(const Result& result) {
    if (result.lookup.request() == 0) {
        return {{"type", "unavailable"}};
    }
    const Lookup& found = result.lookup;
    json told = {{"type", result.lookup.reused() > 0 ? "cache_hit" : "cache_miss"},
                 {"cache_missed_tokens", result.prompt_tokens - result.lookup.reused()},
                 {"comparison_reusable_tokens", found.matched()},
                 {"match", name(found.match())},
                 {"tier", result.lookup.reused() > 0 ? json(name(found.tier())) : json()}};
    if (result.lookup.reused() == 0) {
        told["reason"] = found.miss() == promptkv::MissReason::nothing_shared ||
                                 found.miss() == promptkv::MissReason::below_min_reuse
                             ? "input_changed"
                             : "unavailable";
        told["miss"] = name(found.miss());
    }
    return told;
}

void answer(App& app, httplib::Response& response, Request request, std::unique_ptr<Format> format,
            bool streaming) {
    struct State {
        std::shared_ptr<Job> job;
        std::unique_ptr<Format> format;
        std::string text; // all of it, where the answer is sent at once
        bool begun = false;
    };
    const auto state = std::make_shared<State>();
    state->format = std::move(format);
    state->job = app.engine.submit(std::move(request));
    if (state->job == nullptr) {
        throw ApiError(503, "too many requests are waiting", "", "overloaded");
    }
    const auto next = [state, streaming](std::size_t, httplib::DataSink& sink) {
        using std::chrono_literals::operator""ms;
        const std::optional<Job::News> news = state->job->wait(100ms);
        if (!news) {
            return sink.is_writable(); // false where the client is gone: that cancels the request
        }
        const bool failed = news->result.finish == Finish::failed;
        std::string data;
        if (streaming) {
            if (!std::exchange(state->begun, true) && !failed) {
                data += state->format->begin(news->result);
            }
            if (!news->text.empty()) {
                data += state->format->piece(news->text);
            }
            if (news->done) {
                data += failed ? state->format->failed() : state->format->end(news->result);
            }
        } else {
            state->text += news->text;
            if (news->done && failed) {
                return false; // the connection breaks: the status has been sent
            }
            if (news->done) {
                data = dump(state->format->whole(state->text, news->result));
            }
        }
        if (!data.empty() && !sink.write(data.data(), data.size())) {
            return false;
        }
        if (news->done) {
            sink.done();
        }
        return true;
    };
    response.set_header("Cache-Control", "no-store");
    response.set_chunked_content_provider(streaming ? "text/event-stream" : "application/json",
                                          next, [state](bool) { state->job->cancel(); });
}

} // namespace llama_server
