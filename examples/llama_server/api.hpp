// SPDX-License-Identifier: MIT
// What the endpoints share: callers, errors, and how an answer is sent.
#ifndef PROMPTKV_EXAMPLES_LLAMA_SERVER_API_HPP
#define PROMPTKV_EXAMPLES_LLAMA_SERVER_API_HPP

#include "engine.hpp"
#include "metrics.hpp"

#include <httplib.h>
#include <nlohmann/json.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <functional>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace llama_server {

using json = nlohmann::json;

/// An answer with an error status, in the form of the API that was asked.
struct ApiError : std::runtime_error {
    ApiError(int http, const std::string& message, std::string field = "", std::string reason = "")
        : std::runtime_error(message), status(http), param(std::move(field)),
          code(std::move(reason)) {}
    int status;
    std::string param, code;
};

/// Who asks. State is shared within a tenant only: the model key names the tenant.
struct Caller {
    std::string model;
    bool operates = true; ///< may change what concerns all tenants
};

/// What the handlers use.
struct App {
    Engine& engine;
    Metrics& metrics;
    std::string name;                  // of the model, for clients
    std::vector<std::string> api_keys; // one a tenant; none: everybody is the same tenant
    std::size_t max_answer = 512;      // tokens, where a request says nothing
    std::size_t most_bytes = 0;        // the budget that the server was started with
    bool loopback = true;
    std::time_t started = std::time(nullptr);

    /// Throws:     ApiError 401 without a valid key, 403 for requests that other web pages make.
    [[nodiscard]] Caller caller(const httplib::Request& request) const;
};

using Handler = void (*)(App&, const Caller&, const httplib::Request&, httplib::Response&);

/// Runs a handler; what it throws becomes an error of the API that was asked.
[[nodiscard]] httplib::Server::Handler guarded(App& app, Handler handler);
void send_error(const httplib::Request& request, httplib::Response& response,
                const ApiError& error);
void send_json(httplib::Response& response, const json& body);

/// The session of a conversation that a client names; 0 for an empty name. A session belongs to its model,
/// and so to its tenant.
[[nodiscard]] inline std::uint64_t session_number(const std::string& name) {
    constexpr std::uint64_t exact = std::uint64_t{1} << 53; // numbers that every reader of JSON has
    return name.empty() ? 0 : 1 + std::hash<std::string>()(name) % (exact - 1);
}

// reading a request ////////////////////////////////////////////////////////////////////////////////////

/// Throws: ApiError where the text is not JSON, or is nested too deeply.
[[nodiscard]] json parse(const std::string& text);
/// The body. Throws: ApiError where it is no JSON object.
[[nodiscard]] json body_of(const httplib::Request& request);

/// A field of a body, or `fallback` where it is missing or null.
/// Throws:     ApiError where it has another type, or lies outside of [least, most].
template <class T>
T field(const json& body, const char* name, T fallback, T least = std::numeric_limits<T>::lowest(),
        T most = std::numeric_limits<T>::max()) {
    const auto found = body.find(name);
    if (found == body.end() || found->is_null()) {
        return fallback;
    }
    const std::string what = std::string("'") + name + "' must be ";
    if constexpr (std::same_as<T, bool>) {
        if (!found->is_boolean()) {
            throw ApiError(400, what + "true or false", name);
        }
    } else {
        const bool fits = std::integral<T> ? found->is_number_integer() : found->is_number();
        const double value = fits ? found->template get<double>() : 0;
        if (!fits || value < static_cast<double>(least) || value > static_cast<double>(most)) {
            throw ApiError(
                400, what + "a number from " + json(least).dump() + " to " + json(most).dump(),
                name);
        }
    }
    return found->template get<T>();
}
/// A text, empty where it is missing or null.
[[nodiscard]] std::string text_field(const json& body, const char* name);

/// The text of a message's content: a string, or an array of text parts. `on_part(part, bytes)` sees
/// each part, and how many bytes there are up to its end.
template <class OnPart>
std::string content_of(const json& content, OnPart on_part) {
    if (content.is_null()) {
        return {};
    }
    if (content.is_string()) {
        return content.get<std::string>();
    }
    if (!content.is_array()) {
        throw ApiError(400, "a message's content must be a string or an array", "messages");
    }
    std::string text;
    for (const json& part : content) {
        if (!part.is_object() || !part.contains("text") || !part["text"].is_string()) {
            throw ApiError(400, "only text parts are supported in a message's content", "messages");
        }
        text += part["text"].get<std::string>();
        on_part(part, text.size());
    }
    return text;
}

/// The messages of a chat body; `on_part(message, part, bytes)` sees each part of each message.
template <class OnPart>
void read_messages(const json& body, std::vector<Message>& chat, OnPart on_part) {
    const json messages = body.value("messages", json());
    if (!messages.is_array() || messages.empty()) {
        throw ApiError(400, "'messages' must be an array that is not empty", "messages");
    }
    for (const json& message : messages) {
        if (!message.is_object()) {
            throw ApiError(400, "each message must be an object", "messages");
        }
        std::string role = text_field(message, "role");
        if (role == "developer") {
            role = "system";
        }
        if (role != "system" && role != "user" && role != "assistant" && role != "tool") {
            throw ApiError(400, "unknown role '" + role + "'", "messages");
        }
        const std::size_t index = chat.size();
        chat.push_back({role, content_of(message.value("content", json()),
                                         [&](const json& part, std::size_t bytes) {
                                             on_part(index, part, bytes);
                                         })});
    }
}

/// A request of what all APIs have in common: sampling, limits, the session.
/// Throws:     ApiError, also where the prompt does not fit.
[[nodiscard]] Request request_of(App& app, const Caller& caller, const json& body, Tokens prompt,
                                 std::size_t max_tokens, const char* stops);
/// A chat's request: the end of its system prompt is a mark.
[[nodiscard]] Request chat_request(App& app, const Caller& caller, const json& body,
                                   const std::vector<Message>& chat, const char* stops);

// sending an answer ////////////////////////////////////////////////////////////////////////////////////

/// How an API writes an answer: at once, or as server-sent events.
class Format {
public:
    virtual ~Format() = default;
    [[nodiscard]] virtual json whole(const std::string& text, const Result& result) const = 0;
    [[nodiscard]] virtual std::string begin(const Result& result) const = 0;
    [[nodiscard]] virtual std::string piece(const std::string& text) const = 0;
    [[nodiscard]] virtual std::string end(const Result& result) const = 0;
    [[nodiscard]] virtual std::string failed() const = 0;
};

/// Submits the request, and sends its answer as it comes. A client that goes away cancels the request.
void answer(App& app, httplib::Response& response, Request request, std::unique_ptr<Format> format,
            bool streaming);

[[nodiscard]] std::string new_id(const char* prefix);
/// JSON as text; bytes that are no UTF-8 are replaced.
[[nodiscard]] std::string dump(const json& value);
/// Why the prompt was reused or not, in the terms of OpenAI's prompt_cache_diagnostics, and in ours.
[[nodiscard]] json diagnostics(const Result& result);

// the endpoints ////////////////////////////////////////////////////////////////////////////////////////

void chat_completions(App&, const Caller&, const httplib::Request&, httplib::Response&);
void completions(App&, const Caller&, const httplib::Request&, httplib::Response&);
void messages(App&, const Caller&, const httplib::Request&, httplib::Response&);
void count_tokens(App&, const Caller&, const httplib::Request&, httplib::Response&);
void models(App&, const Caller&, const httplib::Request&, httplib::Response&);
void props(App&, const Caller&, const httplib::Request&, httplib::Response&);
void slots(App&, const Caller&, const httplib::Request&, httplib::Response&);
void tokenize(App&, const Caller&, const httplib::Request&, httplib::Response&);
void show_metrics(App&, const Caller&, const httplib::Request&, httplib::Response&);
void show_cache(App&, const Caller&, const httplib::Request&, httplib::Response&);
void explain_cache(App&, const Caller&, const httplib::Request&, httplib::Response&);
void erase_cache(App&, const Caller&, const httplib::Request&, httplib::Response&);
void set_budget(App&, const Caller&, const httplib::Request&, httplib::Response&);

} // namespace llama_server

#endif
