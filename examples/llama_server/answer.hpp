// SPDX-License-Identifier: MIT
// The answers of a model: in the forms of OpenAI and of Anthropic, at once or as they come.
#ifndef PROMPTKV_EXAMPLES_LLAMA_SERVER_ANSWER_HPP
#define PROMPTKV_EXAMPLES_LLAMA_SERVER_ANSWER_HPP

#include "api.hpp"

#include <ctime>
#include <random>

namespace llama_server {

/// A server-sent event. It has a name where the data have a type.
inline std::string event(const json& data) {
    const std::string type = data.value("type", "");
    return (type.empty() ? "" : "event: " + type + "\n") + "data: " + dump(data) + "\n\n";
}

inline std::string new_id(const char* prefix) {
    static std::atomic<std::uint64_t> last{std::uint64_t{std::random_device{}()} << 32U};
    return prefix + std::to_string(++last);
}

/// Why the prompt was reused or not, in the terms of OpenAI's prompt_cache_diagnostics, and in ours.
inline json diagnostics(const Result& result) {
    const Lookup& found = result.lookup;
    if (found.request() == 0)
        return {{"type", "unavailable"}};
    json told = {{"type", found ? "cache_hit" : "cache_miss"},
                 {"cache_missed_tokens", result.prompt_tokens - found.reused()},
                 {"comparison_reusable_tokens", found.matched()},
                 {"match", name(found.match())},
                 {"tier", found ? json(name(found.tier())) : json()}};
    if (!found) {
        const bool changed = found.miss() == promptkv::MissReason::nothing_shared ||
                             found.miss() == promptkv::MissReason::below_min_reuse;
        told["reason"] = changed ? "input_changed" : "unavailable";
        told["miss"] = name(found.miss());
    }
    return told;
}

/// Submits the request, and sends its answer: as it comes where the field `stream` says so. A client that
/// goes away cancels the request. `Format`: how an API writes an answer, whole or as events.
template <class Format>
json answer(const Call& call, Request request, const Format& format) {
    const bool streaming = field(call.fields, "stream", false);
    const std::string failure = event(error_body(ApiError(500, "the engine failed"), call.http));
    const std::shared_ptr<Job> job = call.engine.submit(std::move(request));
    if (job == nullptr)
        throw ApiError(503, "too many requests are waiting", "", "overloaded");
    const auto next = [=, text = std::string(), first = true](std::size_t,
                                                              httplib::DataSink& sink) mutable {
        if (!sink.is_writable())
            return false; // the client is gone: that cancels the request
        const std::optional<Job::News> news = job->wait(std::chrono::milliseconds(100));
        if (!news)
            return true;
        const Result& result = news->result;
        std::string data;
        if (result.finish == Finish::failed) {
            if (!streaming)
                return false; // the connection breaks: the status has been sent
            data = failure;
        } else if (streaming) {
            data = (std::exchange(first, false) ? format.first(result) : "") +
                   (news->text.empty() ? "" : format.more(news->text)) +
                   (news->done() ? format.last(result) : "");
        } else if (text += news->text; news->done()) {
            data = dump(format.whole(text, result));
        }
        if (!data.empty() && !sink.write(data.data(), data.size()))
            return false;
        if (news->done())
            sink.done();
        return true;
    };
    call.response.set_header("Cache-Control", "no-store");
    const char* const type = streaming ? "text/event-stream" : "application/json";
    const auto release = [job](bool) { job->cancelled = true; };
    if (call.http.version == "HTTP/1.0") { // it has no chunks: the connection's end is the answer's
        call.response.set_header("Connection", "close");
        call.response.set_content_provider(type, next, release);
    } else {
        call.response.set_chunked_content_provider(type, next, release);
    }
    return nullptr;
}

// OpenAI and llama-server ////////////////////////////////////////////////////////////////////////

/// Of chats and of completions: they differ in the name of the object and in where the text is.
class OpenAi {
public:
    OpenAi(const Call& call, bool chat) : chat_(chat) {
        const json options = call.fields.value("stream_options", json::object());
        include_usage_ = options.is_object() && field(options, "include_usage", false);
        base_ = {{"id", new_id(chat ? "chatcmpl-" : "cmpl-")},
                 {"created", std::time(nullptr)},
                 {"model", call.options.name}};
    }
    [[nodiscard]] json whole(const std::string& text, const Result& result) const {
        const json message = {{"role", "assistant"}, {"content", text}, {"refusal", nullptr}};
        json body = finished(object("chat.completion", "message", message), result);
        body["usage"] = usage(result);
        return body;
    }
    [[nodiscard]] std::string first(const Result&) const {
        return chat_ ? event(chunk({{"role", "assistant"}, {"content", ""}})) : "";
    }
    [[nodiscard]] std::string more(const std::string& text) const {
        return event(chunk({{"content", text}}));
    }
    [[nodiscard]] std::string last(const Result& result) const {
        std::string events = event(finished(chunk(json::object()), result));
        if (include_usage_) {
            json told = chunk(json::object());
            told["choices"] = json::array();
            told["usage"] = usage(result);
            events += event(told);
        }
        return events + "data: [DONE]\n\n";
    }

private:
    /// Of a completion there is the content alone.
    [[nodiscard]] json object(const char* kind, const char* place, const json& message) const {
        json object = base_;
        const json content = message.value("content", json(""));
        object["object"] = chat_ ? kind : "text_completion";
        object["choices"] = json::array({{{"index", 0},
                                          {chat_ ? place : "text", chat_ ? message : content},
                                          {"logprobs", nullptr},
                                          {"finish_reason", nullptr}}});
        return object;
    }
    [[nodiscard]] json chunk(const json& delta) const {
        return object("chat.completion.chunk", "delta", delta);
    }
    static json usage(const Result& result) {
        return {{"prompt_tokens", result.prompt_tokens},
                {"completion_tokens", result.predicted},
                {"total_tokens", result.prompt_tokens + result.predicted},
                {"prompt_tokens_details", {{"cached_tokens", result.lookup.reused()}}}};
    }
    static json finished(json object, const Result& result) {
        json timings = {{"cache_n", result.lookup.reused()}};
        const auto add = [&](const std::string& part, std::size_t tokens, double ms) {
            const auto n = static_cast<double>(tokens);
            timings[part + "_n"] = tokens;
            timings[part + "_ms"] = ms;
            timings[part + "_per_token_ms"] = tokens > 0 ? ms / n : 0;
            timings[part + "_per_second"] = ms > 0 ? 1000 * n / ms : 0;
        };
        add("prompt", result.prompt_tokens - result.lookup.reused(), result.prompt_time.count());
        add("predicted", result.predicted, result.predicted_time.count());
        object["choices"][0]["finish_reason"] = result.finish == Finish::length ? "length" : "stop";
        object["timings"] = timings;
        object["prompt_cache_diagnostics"] = diagnostics(result);
        return object;
    }

    bool chat_;
    bool include_usage_ = false;
    json base_;
};

inline json answer_openai(const Call& call, Request request, bool chat) {
    json neutral = json::parse(R"({
        "n": 1, "best_of": 1, "echo": false, "suffix": "", "tools": [], "functions": [],
        "frequency_penalty": 0, "presence_penalty": 0, "repeat_penalty": 1, "logit_bias": {},
        "grammar": "", "json_schema": null, "response_format": {"type": "text"}, "audio": null
    })");
    neutral["logprobs"] = chat ? json(false) : json(0);
    refuse_unsupported(call.fields, neutral);
    return answer(call, std::move(request), OpenAi(call, chat));
}

inline json chat_completions(const Call& call) {
    return answer_openai(call, read_chat_request(call, call.fields), true);
}

inline json completions(const Call& call) {
    json prompt = call.fields.value("prompt", json());
    if (prompt.is_array() && prompt.size() == 1 && !prompt[0].is_number())
        prompt = json(prompt[0]); // of a list of prompts, the only one
    Tokens tokens;
    if (prompt.is_string()) {
        tokens = read_tokens(call, prompt.get<std::string>());
    } else {
        const auto is_token = [&](const json& token) {
            return token.is_number_integer() && token >= 0 &&
                   token < call.engine.text().vocabulary_size();
        };
        require(prompt.is_array() && std::ranges::all_of(prompt, is_token),
                "'prompt' must be one text, or an array of tokens", "prompt");
        tokens = prompt.get<Tokens>();
    }
    return answer_openai(call, read_request(call, call.fields, std::move(tokens)), false);
}

// Anthropic: a part with `cache_control` ends a prefix that gets an entry ////////////////////////

class Anthropic {
public:
    /// `marked`: tokens up to the last mark.
    Anthropic(const Call& call, std::size_t marked)
        : marked_(marked), base_({{"id", new_id("msg_")},
                                  {"type", "message"},
                                  {"role", "assistant"},
                                  {"model", call.options.name},
                                  {"content", json::array()},
                                  {"stop_reason", nullptr},
                                  {"stop_sequence", nullptr}}) {}
    [[nodiscard]] json whole(const std::string& text, const Result& result) const {
        json body = base_;
        body["content"] = json::array({{{"type", "text"}, {"text", text}}});
        body.update(finish(result));
        body["usage"] = usage(result, result.marked);
        body["diagnostics"] = diagnostics(result);
        return body;
    }
    [[nodiscard]] std::string first(const Result& result) const {
        json message = base_;
        const bool keeps = result.lookup.request() != 0; // the marks, if there is room
        message["usage"] = usage(result, keeps ? marked_ : 0);
        return event({{"type", "message_start"}, {"message", message}}) +
               event({{"type", "content_block_start"},
                      {"index", 0},
                      {"content_block", {{"type", "text"}, {"text", ""}}}});
    }
    [[nodiscard]] std::string more(const std::string& text) const {
        return event({{"type", "content_block_delta"},
                      {"index", 0},
                      {"delta", {{"type", "text_delta"}, {"text", text}}}});
    }
    [[nodiscard]] std::string last(const Result& result) const {
        return event({{"type", "content_block_stop"}, {"index", 0}}) +
               event({{"type", "message_delta"},
                      {"delta", finish(result)},
                      {"usage", usage(result, result.marked)}}) +
               event({{"type", "message_stop"}});
    }

private:
    /// The prompt's tokens in three parts: read from the cache; up to the last mark, and written to the
    /// cache; the rest.
    static json usage(const Result& result, std::size_t marked) {
        const std::size_t read = result.lookup.reused();
        const std::size_t known = std::max(marked, read);
        return {{"cache_read_input_tokens", read},
                {"cache_creation_input_tokens", known - read},
                {"input_tokens", result.prompt_tokens - known},
                {"output_tokens", result.predicted}};
    }
    static json finish(const Result& result) {
        const bool stopped = !result.stopped_by.empty();
        return {{"stop_reason", stopped                           ? "stop_sequence"
                                : result.finish == Finish::length ? "max_tokens"
                                                                  : "end_turn"},
                {"stop_sequence", stopped ? json(result.stopped_by) : json()}};
    }

    std::size_t marked_;
    json base_;
};

/// The fields, with OpenAI's names for what Anthropic calls otherwise.
inline json renamed(json fields) {
    refuse_unsupported(fields, {{"tools", json::array()}, {"mcp_servers", json::array()}});
    json& messages = fields["messages"];
    if (const json system = fields.value("system", json());
        messages.is_array() && !system.empty() && system != "")
        messages.insert(messages.begin(), json{{"role", "system"}, {"content", system}});
    fields["stop"] = fields.value("stop_sequences", json());
    const json metadata = fields.value("metadata", json());
    if (metadata.is_object() && !fields.contains("prompt_cache_key"))
        fields["prompt_cache_key"] = metadata.value("user_id", json());
    return fields;
}

inline json messages(const Call& call) {
    const json fields = renamed(call.fields);
    require(!fields.value("max_tokens", json()).is_null(), "max_tokens: Field required");
    Request request = read_chat_request(call, fields);
    const Anthropic format(call, request.marked);
    return answer(call, std::move(request), format);
}

inline json count_tokens(const Call& call) {
    const Chat chat = read_chat(renamed(call.fields));
    return {{"input_tokens", read_tokens(call, call.engine.text().render(chat, true)).size()}};
}

} // namespace llama_server

#endif
