// SPDX-License-Identifier: MIT
// POST /v1/chat/completions and /v1/completions, as OpenAI and llama-server have them.
#ifndef PROMPTKV_EXAMPLES_LLAMA_SERVER_OPENAI_HPP
#define PROMPTKV_EXAMPLES_LLAMA_SERVER_OPENAI_HPP

#include "answer.hpp"
#include "read.hpp"

#include <cstddef>
#include <cstdint>
#include <ctime>
#include <string>
#include <utility>

namespace llama_server {

inline json usage_of(const Result& result) {
    return {{"prompt_tokens", result.prompt_tokens},
            {"completion_tokens", result.predicted},
            {"total_tokens", result.prompt_tokens + result.predicted},
            {"prompt_tokens_details", {{"cached_tokens", result.lookup.reused()}}}};
}

/// As llama-server reports them.
inline json timings_of(const Result& result) {
    json timings = {{"cache_n", result.lookup.reused()}};
    const auto add = [&](const std::string& part, std::size_t tokens, double ms) {
        const auto n = static_cast<double>(tokens);
        timings[part + "_n"] = tokens;
        timings[part + "_ms"] = ms;
        timings[part + "_per_token_ms"] = tokens > 0 ? ms / n : 0;
        timings[part + "_per_second"] = ms > 0 ? 1000 * n / ms : 0;
    };
    add("prompt", result.prompt_tokens - result.lookup.reused(), result.prompt_ms);
    add("predicted", result.predicted, result.predicted_ms);
    return timings;
}

/// Of either endpoint: they differ in the name of the object and in where the text is.
inline Format format_of(const Call& call, bool chat) {
    const json options = call.fields.value("stream_options", json::object());
    const bool include_usage = options.is_object() && field(options, "include_usage", false);
    const json base = {{"id", new_id(chat ? "chatcmpl-" : "cmpl-")},
                       {"created", std::time(nullptr)},
                       {"model", call.options.name}};
    const auto object_of = [=](const char* kind, const char* place, const json& text) {
        json object = base;
        object["object"] = chat ? kind : "text_completion";
        object["choices"] = json::array({{{"index", 0},
                                          {chat ? place : "text", text},
                                          {"logprobs", nullptr},
                                          {"finish_reason", nullptr}}});
        return object;
    };
    const auto piece = [=](const json& text) {
        return object_of("chat.completion.chunk", "delta", text);
    };
    const auto finish = [](json& object, const Result& result) {
        object["choices"][0]["finish_reason"] = result.finish == Finish::length ? "length" : "stop";
        object["timings"] = timings_of(result);
        object["prompt_cache_diagnostics"] = diagnostics(result);
    };
    Format format;
    format.whole = [=](const std::string& text, const Result& result) {
        const json message = {{"role", "assistant"}, {"content", text}, {"refusal", nullptr}};
        json body = object_of("chat.completion", "message", chat ? message : json(text));
        finish(body, result);
        body["usage"] = usage_of(result);
        return body;
    };
    format.events = [=](const Job::News& news, bool first) {
        std::string events;
        if (first && chat) {
            events += event(piece({{"role", "assistant"}, {"content", ""}}));
        }
        if (!news.text.empty()) {
            events += event(piece(chat ? json{{"content", news.text}} : json(news.text)));
        }
        if (!news.done) {
            return events;
        }
        json last = piece(chat ? json::object() : json(""));
        finish(last, news.result);
        events += event(last);
        if (include_usage) {
            json usage = piece("");
            usage["choices"] = json::array();
            usage["usage"] = usage_of(news.result);
            events += event(usage);
        }
        return events + "data: [DONE]\n\n";
    };
    return format;
}

inline json send(const Call& call, Request request, bool chat) {
    refuse_unsupported(call.fields, {{"n", 1},
                                     {"best_of", 1},
                                     {"tools", json::array()},
                                     {"functions", json::array()},
                                     {"suffix", ""},
                                     {"audio", nullptr},
                                     {"logit_bias", json::object()},
                                     {"logprobs", chat ? json(false) : json(0)},
                                     {"echo", false},
                                     {"frequency_penalty", 0},
                                     {"presence_penalty", 0},
                                     {"response_format", {{"type", "text"}}}});
    return answer(call, std::move(request), format_of(call, chat));
}

inline json chat_completions(const Call& call) {
    return send(call, read_chat_request(call, call.fields), true);
}

inline json completions(const Call& call) {
    const ApiError wrong(400, "'prompt' must be one text, or an array of tokens", "prompt");
    json prompt = call.fields.value("prompt", json());
    if (prompt.is_array() && prompt.size() == 1 && !prompt[0].is_number()) {
        prompt = json(prompt[0]); // of a list of prompts, the only one
    }
    const Text& text = call.engine.text();
    Tokens tokens;
    if (prompt.is_string()) {
        tokens = text.tokenize(prompt.get<std::string>(), true);
    } else if (!prompt.is_array()) {
        throw wrong;
    } else {
        for (const json& token : prompt) {
            if (!token.is_number_integer() || !text.valid(token.get<std::int64_t>())) {
                throw wrong;
            }
            tokens.push_back(token.get<llama_token>());
        }
    }
    return send(call, read_request(call, call.fields, std::move(tokens)), false);
}

} // namespace llama_server

#endif
