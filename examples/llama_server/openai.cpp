// SPDX-License-Identifier: MIT
// POST /v1/chat/completions and /v1/completions, as OpenAI and llama-server have them.
#include "api.hpp"

namespace llama_server {
namespace {

json usage_of(const Result& result) {
    return {{"prompt_tokens", result.prompt_tokens},
            {"completion_tokens", result.predicted},
            {"total_tokens", result.prompt_tokens + result.predicted},
            {"prompt_tokens_details", {{"cached_tokens", result.lookup.reused()}}}};
}

/// As llama-server reports them.
json timings_of(const Result& result) {
    const auto rate = [](std::size_t tokens, double ms) {
        return ms > 0 ? 1000 * static_cast<double>(tokens) / ms : 0;
    };
    const auto each = [](std::size_t tokens, double ms) {
        return tokens > 0 ? ms / static_cast<double>(tokens) : 0;
    };
    const std::size_t computed = result.prompt_tokens - result.lookup.reused();
    return {{"cache_n", result.lookup.reused()},
            {"prompt_n", computed},
            {"prompt_ms", result.prompt_ms},
            {"prompt_per_token_ms", each(computed, result.prompt_ms)},
            {"prompt_per_second", rate(computed, result.prompt_ms)},
            {"predicted_n", result.predicted},
            {"predicted_ms", result.predicted_ms},
            {"predicted_per_token_ms", each(result.predicted, result.predicted_ms)},
            {"predicted_per_second", rate(result.predicted, result.predicted_ms)}};
}

/// An answer of either endpoint: they differ in the name of the object and in where the text is.
class OpenAIFormat final : public Format {
public:
    OpenAIFormat(bool chat, std::string model, bool include_usage)
        : chat_(chat), model_(std::move(model)), include_usage_(include_usage),
          id_(new_id(chat ? "chatcmpl-" : "cmpl-")), created_(std::time(nullptr)) {}

    [[nodiscard]] json whole(const std::string& text, const Result& result) const override {
        json choice = {{"index", 0}, {"finish_reason", finish(result)}, {"logprobs", nullptr}};
        if (chat_) {
            choice["message"] = {{"role", "assistant"}, {"content", text}, {"refusal", nullptr}};
        } else {
            choice["text"] = text;
        }
        json body = object(chat_ ? "chat.completion" : "text_completion", json::array({choice}));
        body["usage"] = usage_of(result);
        body["timings"] = timings_of(result);
        body["prompt_cache_diagnostics"] = diagnostics(result);
        return body;
    }

    [[nodiscard]] std::string begin(const Result&) const override {
        return chat_ ? event(chunk({{"role", "assistant"}, {"content", ""}}, nullptr)) : "";
    }
    [[nodiscard]] std::string piece(const std::string& text) const override {
        return event(chunk(chat_ ? json{{"content", text}} : json(text), nullptr));
    }
    [[nodiscard]] std::string end(const Result& result) const override {
        json last = chunk(chat_ ? json::object() : json(""), finish(result));
        last["timings"] = timings_of(result);
        last["prompt_cache_diagnostics"] = diagnostics(result);
        std::string events = event(last);
        if (include_usage_) {
            json usage = object(chunk_name(), json::array());
            usage["usage"] = usage_of(result);
            events += event(usage);
        }
        return events + "data: [DONE]\n\n";
    }
    [[nodiscard]] std::string failed() const override {
        return event({{"error", {{"type", "server_error"}, {"message", "the engine failed"}}}});
    }

private:
    static std::string event(const json& data) { return "data: " + dump(data) + "\n\n"; }
    static const char* finish(const Result& result) {
        return result.finish == Finish::length ? "length" : "stop";
    }
    [[nodiscard]] const char* chunk_name() const {
        return chat_ ? "chat.completion.chunk" : "text_completion";
    }
    [[nodiscard]] json object(const char* kind, json choices) const {
        return {{"id", id_},
                {"object", kind},
                {"created", created_},
                {"model", model_},
                {"choices", std::move(choices)}};
    }
    [[nodiscard]] json chunk(json text, const json& finish_reason) const {
        return object(chunk_name(), json::array({{{"index", 0},
                                                  {chat_ ? "delta" : "text", std::move(text)},
                                                  {"logprobs", nullptr},
                                                  {"finish_reason", finish_reason}}}));
    }

    bool chat_;
    std::string model_;
    bool include_usage_;
    std::string id_;
    std::time_t created_;
};

/// Refuses what would change the answer and is not supported. Other unknown fields have no effect.
void refuse_unsupported(const json& body) {
    for (const char* name : {"n", "best_of"}) {
        if (field<std::int64_t>(body, name, 1) != 1) {
            throw ApiError(400, std::string("'") + name + "' must be 1", name);
        }
    }
    for (const char* name : {"tools", "functions", "suffix", "audio", "logit_bias"}) {
        if (const auto found = body.find(name);
            found != body.end() && !found->is_null() && !found->empty()) {
            throw ApiError(400, std::string("'") + name + "' is not supported", name,
                           "unsupported");
        }
    }
    for (const char* name : {"logprobs", "echo", "frequency_penalty", "presence_penalty"}) {
        const json value = body.value(name, json());
        if (!value.is_null() && value != false && value != 0) {
            throw ApiError(400, std::string("'") + name + "' is not supported", name,
                           "unsupported");
        }
    }
    const json format = body.value("response_format", json());
    if (!format.is_null() && (!format.is_object() || format.value("type", json()) != "text")) {
        throw ApiError(400, "only text is supported", "response_format", "unsupported");
    }
}

void send(App& app, httplib::Response& response, const json& body, Request request, bool chat) {
    const json options = body.value("stream_options", json::object());
    const bool include_usage = options.is_object() && field(options, "include_usage", false);
    answer(app, response, std::move(request),
           std::make_unique<OpenAIFormat>(chat, app.name, include_usage),
           field(body, "stream", false));
}

} // namespace

void chat_completions(App& app, const Caller& caller, const httplib::Request& http,
                      httplib::Response& response) {
    const json body = body_of(http);
    refuse_unsupported(body);
    std::vector<Message> chat;
    read_messages(body, chat, [](std::size_t, const json&, std::size_t) {});
    send(app, response, body, chat_request(app, caller, body, chat, "stop"), true);
}

void completions(App& app, const Caller& caller, const httplib::Request& http,
                 httplib::Response& response) {
    const json body = body_of(http);
    refuse_unsupported(body);
    const json prompt = body.value("prompt", json());
    const json first = prompt.is_array() && prompt.size() == 1 ? prompt[0] : prompt;
    Tokens tokens;
    if (first.is_string()) {
        tokens = app.engine.text().tokenize(first.get<std::string>(), true);
    } else {
        const json list = first.is_number() ? prompt : first; // [1, 2] or [[1, 2]] or [1]
        if (!list.is_array()) {
            throw ApiError(400, "'prompt' must be one text, or an array of tokens", "prompt");
        }
        for (const json& token : list) {
            if (!token.is_number_integer() || !app.engine.text().valid(token.get<std::int64_t>())) {
                throw ApiError(400, "'prompt' must be one text, or an array of tokens", "prompt");
            }
            tokens.push_back(token.get<llama_token>());
        }
    }
    send(app, response, body,
         request_of(app, caller, body, std::move(tokens),
                    field<std::size_t>(body, "max_tokens", app.max_answer, 1), "stop"),
         false);
}

} // namespace llama_server
