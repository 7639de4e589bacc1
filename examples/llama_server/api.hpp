// SPDX-License-Identifier: MIT
// What the endpoints share: callers, errors, how a request is read and its answer is sent.
#ifndef PROMPTKV_EXAMPLES_LLAMA_SERVER_API_HPP
#define PROMPTKV_EXAMPLES_LLAMA_SERVER_API_HPP

#include "engine.hpp"
#include "metrics.hpp"

#include <httplib.h>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
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

/// What the endpoints use.
struct App {
    const Options& options;
    Metrics& metrics;
    Engine& engine;
    std::time_t started = std::time(nullptr);
};

/// A request to an endpoint, of a caller who may make it.
struct Call {
    App& app;
    const httplib::Request& http;
    httplib::Response& response;
    std::string model{}; // the cache's key of it; names the tenant: state is shared within one only
    bool operates = true; // may change what concerns all tenants
    json fields{};        // of the body, or of the query where there is none
};

/// Returns the answer; null where it is in the response already.
using Endpoint = json (*)(const Call&);

/// Calls an endpoint for a caller with a valid key. What it throws becomes an error of the API that was asked.
void handle(App& app, Endpoint endpoint, const httplib::Request& http, httplib::Response& response);

/// An answer with an error status.
struct ApiError : std::runtime_error {
    ApiError(int http, const std::string& message, std::string field = "", std::string reason = "")
        : std::runtime_error(message), status(http), param(std::move(field)),
          code(std::move(reason)) {}
    int status;
    std::string param, code;
};
/// Sends an error in the form of the API that was asked.
void send_error(const httplib::Request& http, httplib::Response& response, const ApiError& error);

// reading a request ////////////////////////////////////////////////////////////////////////////////////

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

/// Refuses fields that would change the answer and are not supported. `neutral`: each with the value that
/// asks for nothing.
void refuse_unsupported(const json& fields, const json& neutral);

/// The session of a conversation that a client names; 0 for an empty name. A session belongs to its model,
/// and so to its tenant.
[[nodiscard]] std::uint64_t session_number(const std::string& name);

struct Chat {
    /// The end of a part with `cache_control`.
    struct Breakpoint {
        std::size_t message, bytes; // of its content
    };

    std::vector<Message> messages;
    std::vector<Breakpoint> breakpoints;
};
/// The chat in the field `messages`.
[[nodiscard]] Chat read_chat(const json& fields);

/// A request with the sampling, limits and session that the fields have under OpenAI's names.
/// Throws:     ApiError, also where the prompt does not fit.
[[nodiscard]] Request read_request(const Call& call, const json& fields, Tokens prompt);
/// That of a chat: the end of its system prompt is a mark, and so is each breakpoint.
[[nodiscard]] Request read_chat_request(const Call& call, const json& fields);

// sending an answer ////////////////////////////////////////////////////////////////////////////////////

/// How an API writes an answer.
class Format {
public:
    virtual ~Format() = default;
    /// All of it at once.
    [[nodiscard]] virtual json whole(const std::string& text, const Result& result) const = 0;
    /// What is new, as server-sent events. `first`: there was nothing before.
    [[nodiscard]] virtual std::string events(const Job::News& news, bool first) const = 0;
};

/// Submits the request, and sends its answer: as it comes where the field `stream` says so. A client that
/// goes away cancels the request.
json answer(const Call& call, Request request, std::unique_ptr<Format> format);

[[nodiscard]] std::string new_id(const char* prefix);
/// A server-sent event. It has a name where the data have a type.
[[nodiscard]] std::string event(const json& data);
/// Why the prompt was reused or not, in the terms of OpenAI's prompt_cache_diagnostics, and in ours.
[[nodiscard]] json diagnostics(const Result& result);

// the endpoints ////////////////////////////////////////////////////////////////////////////////////////

json chat_completions(const Call& call);
json completions(const Call& call);
json messages(const Call& call);
json count_tokens(const Call& call);
json models(const Call& call);
json props(const Call& call);
json slots(const Call& call);
json tokenize(const Call& call);
json show_metrics(const Call& call);
json show_cache(const Call& call);
json explain_cache(const Call& call);
json erase_cache(const Call& call);
json set_budget(const Call& call);

} // namespace llama_server

#endif
