// SPDX-License-Identifier: MIT
// How chats and the wishes for an answer are read.
#ifndef PROMPTKV_EXAMPLES_LLAMA_SERVER_READ_HPP
#define PROMPTKV_EXAMPLES_LLAMA_SERVER_READ_HPP

#include "api.hpp"

namespace llama_server {

/// The session of a conversation that a client names; 0 for an empty name. A session belongs to its model,
/// and so to its tenant.
inline std::uint64_t session_number(const std::string& name) {
    constexpr std::uint64_t exact = std::uint64_t{1} << 53; // numbers that every reader of JSON has
    return name.empty() ? 0 : 1 + std::hash<std::string>()(name) % (exact - 1);
}

/// The field `messages`. `breakpoints`: its parts with `cache_control`, each as the chat up to its end.
inline Chat read_chat(const json& fields, std::vector<Chat>* breakpoints = nullptr) {
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
            if (breakpoints != nullptr && !part.value("cache_control", json()).is_null()) {
                breakpoints->push_back(chat);
                check(breakpoints->size() <= 4, "at most 4 parts may have 'cache_control'");
            }
        }
    }
    return chat;
}

/// A request with the sampling, limits and session that the fields have under OpenAI's names.
/// Throws:     ApiError, also where the prompt does not fit.
inline Request read_request(const Call& call, const json& fields, Tokens prompt) {
    const std::size_t room = call.engine.context_tokens();
    if (prompt.empty() || prompt.size() >= room) {
        throw ApiError(400,
                       "the prompt has " + std::to_string(prompt.size()) +
                           " tokens; it must have one or more, and the context has room for " +
                           std::to_string(room),
                       "", prompt.empty() ? "" : "context_length_exceeded");
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

/// Reads the request of a chat. The ends of the system prompt and of each breakpoint are marks.
inline Request read_chat_request(const Call& call, const json& fields) {
    const LlamaText& text = call.engine.text();
    std::vector<Chat> breakpoints;
    const Chat chat = read_chat(fields, &breakpoints);
    Request request = read_request(call, fields, text.prompt(chat));
    const auto mark = [&](const Chat& part) {
        const bool system = part.back().role == "system";
        const std::size_t tokens = text.tokens_of(part, request.prompt);
        request.marks.push_back({tokens, system ? promptkv::Tier::system : promptkv::Tier::user});
        return tokens;
    };
    if (chat.front().role == "system") {
        mark({chat.front()});
    }
    for (const Chat& part : breakpoints) {
        request.marked = std::max(request.marked, mark(part));
    }
    return request;
}

} // namespace llama_server

#endif
