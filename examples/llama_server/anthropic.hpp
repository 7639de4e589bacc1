// SPDX-License-Identifier: MIT
// POST /v1/messages, as Anthropic has it. A part with `cache_control` ends a prefix that gets an entry.
#ifndef PROMPTKV_EXAMPLES_LLAMA_SERVER_ANTHROPIC_HPP
#define PROMPTKV_EXAMPLES_LLAMA_SERVER_ANTHROPIC_HPP

#include "answer.hpp"
#include "read.hpp"

#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>

namespace llama_server {

/// `marked`: tokens up to the last mark.
inline Format format_of(const std::string& model, std::size_t marked) {
    // The prompt's tokens in three parts: read from the cache; up to the last mark, and written to the
    // cache; the rest.
    const auto usage = [=](const Result& result, std::size_t predicted) -> json {
        const std::size_t read = result.lookup.reused();
        const std::size_t known = result.lookup.request() != 0 ? std::max(marked, read) : read;
        return {{"cache_read_input_tokens", read},
                {"cache_creation_input_tokens", known - read},
                {"input_tokens", result.prompt_tokens - known},
                {"output_tokens", predicted}};
    };
    const auto finish = [](const Result& result) -> json {
        const bool stopped = result.finish == Finish::stop_text;
        return {{"stop_reason", stopped                           ? "stop_sequence"
                                : result.finish == Finish::length ? "max_tokens"
                                                                  : "end_turn"},
                {"stop_sequence", stopped ? json(result.stopped_by) : json()}};
    };
    const json empty = {{"id", new_id("msg_")},     {"type", "message"},
                        {"role", "assistant"},      {"model", model},
                        {"content", json::array()}, {"stop_reason", nullptr},
                        {"stop_sequence", nullptr}};
    Format format;
    format.whole = [=](const std::string& text, const Result& result) {
        json body = empty;
        body["content"] = json::array({{{"type", "text"}, {"text", text}}});
        body.update(finish(result));
        body["usage"] = usage(result, result.predicted);
        body["diagnostics"] = diagnostics(result);
        return body;
    };
    format.events = [=](const Job::News& news, bool first) {
        std::string events;
        if (first) {
            json message = empty;
            message["usage"] = usage(news.result, 0);
            events += event({{"type", "message_start"}, {"message", message}});
            events += event({{"type", "content_block_start"},
                             {"index", 0},
                             {"content_block", {{"type", "text"}, {"text", ""}}}});
        }
        if (!news.text.empty()) {
            events += event({{"type", "content_block_delta"},
                             {"index", 0},
                             {"delta", {{"type", "text_delta"}, {"text", news.text}}}});
        }
        if (news.done) {
            events += event({{"type", "content_block_stop"}, {"index", 0}});
            events += event({{"type", "message_delta"},
                             {"delta", finish(news.result)},
                             {"usage", usage(news.result, news.result.predicted)}});
            events += event({{"type", "message_stop"}});
        }
        return events;
    };
    return format;
}

/// The fields, with OpenAI's names for what Anthropic calls otherwise.
inline json renamed(json fields) {
    refuse_unsupported(fields, {{"tools", json::array()}, {"mcp_servers", json::array()}});
    json& messages = fields["messages"];
    if (const json system = fields.value("system", json());
        messages.is_array() && !system.empty()) {
        messages.insert(messages.begin(), json{{"role", "system"}, {"content", system}});
    }
    fields["stop"] = fields.value("stop_sequences", json());
    const json metadata = fields.value("metadata", json());
    if (metadata.is_object() && !fields.contains("prompt_cache_key")) {
        fields["prompt_cache_key"] = metadata.value("user_id", json());
    }
    return fields;
}

inline json messages(const Call& call) {
    const json fields = renamed(call.fields);
    if (!fields.contains("max_tokens")) {
        throw ApiError(400, "max_tokens: Field required");
    }
    Request request = read_chat_request(call, fields);
    const Format format = format_of(call.options.name, request.marked);
    return answer(call, std::move(request), format);
}

inline json count_tokens(const Call& call) {
    const Chat chat = read_chat(renamed(call.fields));
    return {{"input_tokens", call.engine.text().prompt(chat.messages).size()}};
}

} // namespace llama_server

#endif
