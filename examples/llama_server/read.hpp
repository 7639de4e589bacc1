// SPDX-License-Identifier: MIT
// How a request is read.
#ifndef PROMPTKV_EXAMPLES_LLAMA_SERVER_READ_HPP
#define PROMPTKV_EXAMPLES_LLAMA_SERVER_READ_HPP

#include "api.hpp"

#include <promptkv/tier.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace llama_server {

/// Refuses fields that would change the answer and are not supported. `neutral`: each with the value that
/// asks for nothing.
inline void refuse_unsupported(const json& fields, const json& neutral) {
    for (const auto& [name, value] : neutral.items()) {
        const json asked = fields.value(name, json());
        if (!asked.empty() && asked != value) { // null is empty, too
            throw ApiError(400,
                           "'" + name + "' must be " + value.dump() + ", the rest is not supported",
                           name, "unsupported");
        }
    }
}

/// The session of a conversation that a client names; 0 for an empty name. A session belongs to its model,
/// and so to its tenant.
inline std::uint64_t session_number(const std::string& name) {
    constexpr std::uint64_t exact = std::uint64_t{1} << 53; // numbers that every reader of JSON has
    return name.empty() ? 0 : 1 + std::hash<std::string>()(name) % (exact - 1);
}

struct Chat {
    /// The end of a part with `cache_control`.
    struct Breakpoint {
        std::size_t message, bytes; // of its content
    };

    std::vector<Message> messages;
    std::vector<Breakpoint> breakpoints;
};

/// The chat in the field `messages`.
inline Chat read_chat(const json& fields) {
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

/// A request with the sampling, limits and session that the fields have under OpenAI's names.
/// Throws:     ApiError, also where the prompt does not fit.
inline Request read_request(const Call& call, const json& fields, Tokens prompt) {
    const std::size_t room = call.engine.context_tokens();
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
    r.max_tokens = field(fields, "max_tokens", call.options.max_answer, std::size_t{1});
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

/// Reads the request of a chat. The end of the system prompt is a mark. Each breakpoint is a mark, too.
inline Request read_chat_request(const Call& call, const json& fields) {
    const Text& text = call.engine.text();
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

} // namespace llama_server

#endif
