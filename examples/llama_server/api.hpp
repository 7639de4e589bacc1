// SPDX-License-Identifier: MIT
// What the endpoints share: who asks, how a request is read, errors.
#ifndef PROMPTKV_EXAMPLES_LLAMA_SERVER_API_HPP
#define PROMPTKV_EXAMPLES_LLAMA_SERVER_API_HPP

#include "engine.hpp"

#include <httplib.h>

#include <algorithm>
#include <cmath>
#include <concepts>
#include <functional>
#include <limits>
#include <regex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <strings.h>

namespace llama_server {

struct Options {
    Engine::Options engine;
    std::string name; // of the model, for clients
    std::string host = "127.0.0.1";
    int port = 8080;
    std::vector<std::string> api_keys; // one a tenant; none: everybody is the same tenant
    std::size_t max_answer = 512;      // tokens, where a request says nothing
    std::size_t max_body_kib = 1024;

    [[nodiscard]] std::size_t cache_bytes() const { return engine.store.cache_mib << 20U; }
};

/// A request to an endpoint, of a caller who may make it.
struct Call {
    const Options& options;
    Engine& engine;
    const httplib::Request& http;
    httplib::Response& response;
    std::string model{}; // the cache's key of it; names the tenant: state is shared within one only
    bool operates = true; // may change what concerns all tenants
    json fields{};        // of the body, or of the query
};

/// Returns the answer; null where it is in the response already.
using Endpoint = json (*)(const Call&);

/// An answer with an error status.
struct ApiError : std::runtime_error {
    ApiError(int http, const std::string& message, std::string field = "", std::string reason = "")
        : std::runtime_error(message), status(http), param(std::move(field)),
          code(std::move(reason)) {}
    int status;
    std::string param, code;
};

/// Refuses a request, unless `good`.
inline void require(bool good, std::string_view message, std::string_view field = "",
                    std::string_view reason = "") {
    if (!good)
        throw ApiError(400, std::string(message), std::string(field), std::string(reason));
}

/// A field, or `fallback` where it is missing or null.
/// Throws:     ApiError where it has another type, or lies outside of [least, most].
template <class T>
T field(const json& fields, const char* name, T fallback,
        T least = std::numeric_limits<T>::lowest(), T most = std::numeric_limits<T>::max()) {
    const auto found = fields.find(name);
    if (found == fields.end() || found->is_null())
        return fallback;
    const json usual = fallback;
    bool fits = found->type() == usual.type();
    std::string wanted = usual.type_name();
    if constexpr (!std::same_as<T, bool> && !std::same_as<T, std::string>) {
        const bool is_number = std::integral<T> ? found->is_number_integer() : found->is_number();
        const double value = is_number ? found->template get<double>() : std::nan("");
        fits = value >= static_cast<double>(least) && value <= static_cast<double>(most);
        if (!fits)
            wanted += " from " + json(least).dump() + " to " + json(most).dump();
    }
    require(fits, std::string("'") + name + "' must be a " + wanted, name);
    return found->template get<T>();
}

/// Refuses fields that would change the answer and are not supported. `neutral`: each with the value that
/// asks for nothing.
inline void refuse_unsupported(const json& fields, const json& neutral) {
    for (const auto& [name, value] : neutral.items()) {
        const json asked = fields.value(name, json());
        if (!asked.empty() && asked != value) // null is empty, too
            throw ApiError(400,
                           "'" + name + "' must be " + value.dump() + ", the rest is not supported",
                           name, "unsupported");
    }
}

/// Refuses what a page of another site asks of a server that only listens to this machine.
inline void check_origin(const Call& call) {
    static const std::regex own_name(R"(((localhost|127\.0\.0\.1|\[?::1\]?)(:\d+)?)?)");
    const std::string host = call.http.get_header_value("Host");
    const std::string origin = call.http.get_header_value("Origin");
    const bool loopback = std::regex_match(call.options.host, own_name);
    if ((loopback && !std::regex_match(host, own_name)) ||
        (!origin.empty() && origin != "http://" + host && origin != "https://" + host)) {
        throw ApiError(403, "requests from other web pages are refused");
    }
}

/// Throws:     ApiError without a valid key.
inline void find_tenant(Call& call) {
    const std::vector<std::string>& keys = call.options.api_keys;
    call.model = call.engine.model_key();
    if (keys.empty())
        return;
    const auto hash = std::hash<std::string>(); // so the time tells nothing of where keys differ
    std::string key = call.http.get_header_value("x-api-key");
    const std::string authorization = call.http.get_header_value("Authorization");
    if (key.empty() && strncasecmp(authorization.c_str(), "Bearer ", 7) == 0)
        key = authorization.substr(7);
    const auto found = std::ranges::find(keys, hash(key), hash);
    if (found == keys.end() || *found != key)
        throw ApiError(401, "a valid API key is required", "", "invalid_api_key");
    // The key names the tenant, not its place among the keys: a second level outlives their order.
    call.model += " tenant " + std::to_string(hash(key));
    call.operates = key == keys.front();
}

/// `most`: values, each of which takes many times the memory of its text.
inline json parse(const std::string& text, std::size_t most) {
    const auto limit = [&most](int depth, json::parse_event_t, json&) {
        require(depth <= 64 && most-- > 0, "the JSON is nested too deeply, or has too many values");
        return true;
    };
    json value = json::parse(text, limit, false);
    require(!value.is_discarded(), "this is not valid JSON");
    return value;
}

/// The fields of the body, or of the query where it has none.
inline json fields_of(const httplib::Request& http, std::size_t most) {
    json fields = json::object();
    if (!http.body.empty() || (http.method == "POST" && http.params.empty()))
        fields = parse(http.body, most);
    require(fields.is_object(), "the body must be a JSON object");
    if (fields.empty())
        for (const auto& [name, value] : http.params)
            fields[name] = name == "messages" || name == "limit" ? parse(value, most) : json(value);
    return fields;
}

/// JSON as text; bytes that are no UTF-8 are replaced.
inline std::string dump(const json& value) {
    return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

/// An error in the form of the API that was asked.
inline json error_body(const ApiError& error, const httplib::Request& http) {
    const int status = error.status;
    const bool anthropic = http.path.starts_with("/v1/messages");
    const char* const type = status == 401                ? "authentication_error"
                             : status == 403              ? "permission_error"
                             : status == 404              ? "not_found_error"
                             : status == 413 && anthropic ? "request_too_large"
                             : status < 500               ? "invalid_request_error"
                             : !anthropic                 ? "server_error"
                             : status == 503              ? "overloaded_error"
                                                          : "api_error";
    json told = {{"type", type}, {"message", error.what()}};
    if (anthropic)
        return {{"type", "error"}, {"error", told}};
    told["param"] = error.param.empty() ? json() : json(error.param);
    told["code"] = error.code.empty() ? json() : json(error.code);
    return {{"error", told}};
}

inline void send_error(const httplib::Request& http, httplib::Response& response,
                       const ApiError& error) {
    response.status = error.status;
    if (error.status == 503)
        response.set_header("Retry-After", "1");
    response.set_content(dump(error_body(error, http)), "application/json");
}

/// Calls an endpoint for a caller with a valid key.
inline void handle(const Options& options, Engine& engine, Endpoint endpoint,
                   const httplib::Request& http, httplib::Response& response) {
    try {
        Call call{.options = options, .engine = engine, .http = http, .response = response};
        check_origin(call);
        find_tenant(call);
        call.fields = fields_of(http, 10'000 + options.engine.context_tokens); // all of a prompt
        if (const json answer = endpoint(call); !answer.is_null())
            response.set_content(dump(answer), "application/json");
    } catch (const ApiError& error) {
        send_error(http, response, error);
    } catch (const std::exception& error) {
        send_error(http, response, ApiError(500, error.what()));
    }
}

// chats and what is wished of an answer ////////////////////////////////////////////////////////

/// The tokens of a client's text.
/// Throws:     ApiError if it is far longer than what fits: the time that the engine's tokenizer takes for
///             some texts grows with the square of their length.
inline Tokens read_tokens(const Call& call, const std::string& text, bool begin = true,
                          bool special = true) {
    require(text.size() / 16 <= call.options.engine.context_tokens,
            "the text is too long for the tokens of the context", "", "context_length_exceeded");
    return call.engine.text().tokenize(text, begin, special);
}

/// The session of a conversation that a client names; 0 for an empty name. A session belongs to its model,
/// and so to its tenant.
inline std::uint64_t session_number(const std::string& name) {
    constexpr std::uint64_t exact = std::uint64_t{1} << 53; // numbers that every reader of JSON has
    return name.empty() ? 0 : 1 + std::hash<std::string>()(name) % (exact - 1);
}

/// The field `messages`. `breakpoints`: its parts with `cache_control`, each as the chat up to its end.
inline Chat read_chat(const json& fields, std::vector<Chat>* breakpoints = nullptr) {
    const auto check = [](bool good, std::string_view what) { require(good, what, "messages"); };
    Chat chat;
    const json messages = fields.value("messages", json());
    check(messages.is_array() && !messages.empty(),
          "'messages' must be an array that is not empty");
    for (const json& message : messages) {
        check(message.is_object(), "each message must be an object");
        std::string role = field<std::string>(message, "role", "");
        role = role == "developer" ? "system" : role;
        check(role == "system" || role == "user" || role == "assistant" || role == "tool",
              "unknown role '" + role + "'");
        chat.push_back({role, ""});
        json content = message.value("content", json());
        content = content.is_string() ? json::array({{{"text", content}}}) : content;
        check(content.is_array() || content.is_null(),
              "a message's content must be a string or an array");
        for (const json& part : content) {
            check(part.is_object() && part.value("text", json()).is_string(),
                  "only text parts are supported in a message's content");
            chat.back().content += part["text"].get<std::string>();
            check(chat.back().content.find('\0') == std::string::npos,
                  "a message's text must not contain U+0000"); // it would end in a template
            if (breakpoints != nullptr && !part.value("cache_control", json()).is_null()) {
                breakpoints->push_back(chat);
                check(breakpoints->size() <= 4, "at most 4 parts may have 'cache_control'");
            }
        }
    }
    return chat;
}

inline llama_sampler_ptr read_sampler(const json& fields) {
    const auto temperature = field(fields, "temperature", 0.8F, 0.0F, 5.0F);
    const auto top_p = field(fields, "top_p", 0.95F, 0.0F, 1.0F);
    const auto min_p = field(fields, "min_p", 0.05F, 0.0F, 1.0F);
    const auto top_k = field(fields, "top_k", 40, -1, 1'000'000);
    const auto seed = field<std::int64_t>(fields, "seed", -1);
    llama_sampler_ptr chain(llama_sampler_chain_init(llama_sampler_chain_default_params()));
    const auto add = [&](llama_sampler* sampler) { llama_sampler_chain_add(chain.get(), sampler); };
    add(llama_sampler_init_top_k(top_k));
    add(llama_sampler_init_top_p(top_p, 1));
    add(llama_sampler_init_min_p(min_p, 1));
    // 0 leaves the most likely token alone. Divided by much less than 1e-6, logits are no numbers.
    add(llama_sampler_init_temp(temperature < 1e-6F ? 0.0F : temperature));
    add(llama_sampler_init_dist(seed < 0 ? LLAMA_DEFAULT_SEED : static_cast<std::uint32_t>(seed)));
    return chain;
}

/// A request with the sampling, limits and session that the fields have under OpenAI's names.
/// Throws:     ApiError, also where the prompt does not fit.
inline Request read_request(const Call& call, const json& fields, Tokens prompt) {
    const std::size_t room = call.options.engine.context_tokens;
    require(!prompt.empty() && prompt.size() < room,
            "the prompt has " + std::to_string(prompt.size()) +
                " tokens; it must have one or more, and the context has room for " +
                std::to_string(room),
            "", prompt.empty() ? "" : "context_length_exceeded");
    Request r;
    r.prompt = std::move(prompt);
    r.max_tokens = call.options.max_answer;
    for (const char* name : {"n_predict", "max_tokens", "max_completion_tokens"})
        r.max_tokens = field(fields, name, r.max_tokens, std::size_t{1});
    r.sampler = read_sampler(fields);
    const json stop = fields.value("stop", json());
    for (const json& text : stop.is_array() || stop.is_null() ? stop : json::array({stop})) {
        require(text.is_string() && text != "" && stop.size() <= 16,
                "'stop' must be at most 16 texts", "stop");
        r.stops.push_back(text.get<std::string>());
    }
    r.model = call.model;
    r.cache_prompt = field(fields, "cache_prompt", true);
    r.side_request = field(fields, "side_request", false);
    r.session = session_number(field<std::string>(fields, "prompt_cache_key", ""));
    return r;
}

/// Reads the request of a chat. The ends of the system prompt and of each breakpoint are marks.
inline Request read_chat_request(const Call& call, const json& fields) {
    const LlamaText& text = call.engine.text();
    std::vector<Chat> breakpoints;
    const Chat chat = read_chat(fields, &breakpoints);
    Request request = read_request(call, fields, read_tokens(call, text.render(chat, true)));
    const auto mark = [&](const Chat& part) {
        const bool system = part.back().role == "system";
        const std::size_t tokens = text.tokens_of(part, request.prompt);
        request.marks.push_back({tokens, system ? promptkv::Tier::system : promptkv::Tier::user});
        return tokens;
    };
    if (chat.front().role == "system")
        mark({chat.front()});
    for (const Chat& part : breakpoints)
        request.marked = std::max(request.marked, mark(part));
    return request;
}

} // namespace llama_server

#endif
