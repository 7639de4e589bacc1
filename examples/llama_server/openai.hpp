// SPDX-License-Identifier: MIT
// POST /v1/chat/completions and /v1/completions, as OpenAI and llama-server have them.
#ifndef PROMPTKV_EXAMPLES_LLAMA_SERVER_OPENAI_HPP
#define PROMPTKV_EXAMPLES_LLAMA_SERVER_OPENAI_HPP

#include "answer.hpp"
#include "read.hpp"

#include <cstddef>
#include <cstdint>
#include <ctime>
#include <memory>
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

/// An answer of either endpoint: they differ in the name of the object and in where the text is.
class OpenAIFormat final : public Format {
public:
    OpenAIFormat(const Call& call, bool chat)
        : chat_(chat), base_({{"id", new_id(chat ? "chatcmpl-" : "cmpl-")},
                              {"created", std::time(nullptr)},
                              {"model", call.options.name}}) {
        const json options = call.fields.value("stream_options", json::object());
        include_usage_ = options.is_object() && field(options, "include_usage", false);
    }

    [[nodiscard]] json whole(const std::string& text, const Result& result) const override {
        const json message = {{"role", "assistant"}, {"content", text}, {"refusal", nullptr}};
        json body = chat_ ? object("chat.completion", "message", message, finish(result))
                          : object("text_completion", "text", text, finish(result));
        body["usage"] = usage_of(result);
        add_figures(body, result);
        return body;
    }

    [[nodiscard]] std::string events(const Job::News& news, bool first) const override {
        std::string events;
        if (first && chat_) {
            events += event(piece({{"role", "assistant"}, {"content", ""}}));
        }
        if (!news.text.empty()) {
            events += event(piece(chat_ ? json{{"content", news.text}} : json(news.text)));
        }
        if (!news.done) {
            return events;
        }
        json last = piece(chat_ ? json::object() : json(""), finish(news.result));
        add_figures(last, news.result);
        events += event(last);
        if (include_usage_) {
            last["choices"] = json::array();
            last["usage"] = usage_of(news.result);
            events += event(last);
        }
        return events + "data: [DONE]\n\n";
    }

private:
    static const char* finish(const Result& result) {
        return result.finish == Finish::length ? "length" : "stop";
    }
    static void add_figures(json& object, const Result& result) {
        object["timings"] = timings_of(result);
        object["prompt_cache_diagnostics"] = diagnostics(result);
    }
    [[nodiscard]] json object(const char* kind, const char* place, const json& text,
                              const json& finish_reason) const {
        json object = base_;
        object["object"] = kind;
        object["choices"] = json::array({{{"index", 0},
                                          {place, text},
                                          {"logprobs", nullptr},
                                          {"finish_reason", finish_reason}}});
        return object;
    }
    [[nodiscard]] json piece(const json& text, const json& finish_reason = nullptr) const {
        return chat_ ? object("chat.completion.chunk", "delta", text, finish_reason)
                     : object("text_completion", "text", text, finish_reason);
    }

    bool chat_;
    bool include_usage_ = false;
    json base_;
};

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
    return answer(call, std::move(request), std::make_unique<OpenAIFormat>(call, chat));
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
