// SPDX-License-Identifier: MIT
// What the endpoints share: who asks, the fields of a request, errors.
#ifndef PROMPTKV_EXAMPLES_LLAMA_SERVER_API_HPP
#define PROMPTKV_EXAMPLES_LLAMA_SERVER_API_HPP

#include "engine.hpp"

#include <httplib.h>

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <exception>
#include <functional>
#include <limits>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace llama_server {

struct Options {
    std::string name; // of the model, for clients
    std::string host = "127.0.0.1";
    int port = 8080;
    std::vector<std::string> api_keys; // one a tenant; none: everybody is the same tenant
    std::size_t max_answer = 512;      // tokens, where a request says nothing
    std::size_t max_body_kib = 1024;
    Engine::Options engine;
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

/// A field, or `fallback` where it is missing or null.
/// Throws:     ApiError where it has another type, or lies outside of [least, most].
template <class T>
T field(const json& fields, const char* name, T fallback,
        T least = std::numeric_limits<T>::lowest(), T most = std::numeric_limits<T>::max()) {
    const auto found = fields.find(name);
    if (found == fields.end() || found->is_null()) {
        return fallback;
    }
    bool fits = false;
    std::string wanted;
    if constexpr (std::same_as<T, bool>) {
        fits = found->is_boolean();
        wanted = "true or false";
    } else if constexpr (std::same_as<T, std::string>) {
        fits = found->is_string();
        wanted = "a string";
    } else {
        fits = std::integral<T> ? found->is_number_integer() : found->is_number();
        const double value = fits ? found->template get<double>() : 0;
        fits = fits && value >= static_cast<double>(least) && value <= static_cast<double>(most);
        wanted = "a number from " + json(least).dump() + " to " + json(most).dump();
    }
    if (!fits) {
        throw ApiError(400, std::string("'") + name + "' must be " + wanted, name);
    }
    return found->template get<T>();
}

/// Compares without telling by its time where the difference is.
inline bool same_secret(std::string_view a, std::string_view b) {
    unsigned difference = a.size() == b.size() ? 0 : 1;
    for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
        difference |= static_cast<unsigned>(a[i] ^ b[i]);
    }
    return difference == 0;
}

/// Refuses what a page of another site asks of a server that only listens to this machine.
inline void check_origin(const Options& options, const httplib::Request& http) {
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
inline void find_tenant(Call& call) {
    const std::vector<std::string>& keys = call.options.api_keys;
    call.model = call.engine.model_key();
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

inline json parse(const std::string& text) {
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

/// The fields of the body, or of the query where it has none.
inline json fields_of(const httplib::Request& http) {
    json fields = json::object();
    if (!http.body.empty() || (http.method == "POST" && http.params.empty())) {
        fields = parse(http.body);
    }
    if (!fields.is_object()) {
        throw ApiError(400, "the body must be a JSON object");
    }
    if (fields.empty()) {
        for (const auto& [name, value] : http.params) {
            const bool text = name != "messages" && name != "limit" && name != "since";
            fields[name] = text ? json(value) : parse(value);
        }
    }
    return fields;
}

/// JSON as text; bytes that are no UTF-8 are replaced.
inline std::string dump(const json& value) {
    return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

inline bool is_anthropic(const httplib::Request& http) {
    return http.path.starts_with("/v1/messages");
}

inline json error_body(const ApiError& error, bool anthropic) {
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

/// Sends an error in the form of the API that was asked.
inline void send_error(const httplib::Request& http, httplib::Response& response,
                       const ApiError& error) {
    response.status = error.status == 503 && is_anthropic(http) ? 529 : error.status;
    if (error.status == 503) {
        response.set_header("Retry-After", "1");
    }
    response.set_content(dump(error_body(error, is_anthropic(http))), "application/json");
}

/// Calls an endpoint for a caller with a valid key.
inline void handle(const Options& options, Engine& engine, Endpoint endpoint,
                   const httplib::Request& http, httplib::Response& response) {
    try {
        Call call{.options = options, .engine = engine, .http = http, .response = response};
        check_origin(options, http);
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

} // namespace llama_server

#endif
