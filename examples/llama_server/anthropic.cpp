// SPDX-License-Identifier: MIT
// POST /v1/messages, as Anthropic has it. A part with `cache_control` ends a prefix that gets an entry.
#include "api.hpp"

#include <algorithm>

namespace llama_server {
namespace {

class AnthropicFormat final : public Format {
public:
    AnthropicFormat(std::string model, std::size_t marked)
        : model_(std::move(model)), marked_(marked), id_(new_id("msg_")) {}

    [[nodiscard]] json whole(const std::string& text, const Result& result) const override {
        json body = message(result);
        body["content"] = json::array({{{"type", "text"}, {"text", text}}});
        body.update(finish(result));
        body["usage"]["output_tokens"] = result.predicted;
        body["diagnostics"] = diagnostics(result);
        return body;
    }

    [[nodiscard]] std::string begin(const Result& result) const override {
        return event({{"type", "message_start"}, {"message", message(result)}}) +
               event({{"type", "content_block_start"},
                      {"index", 0},
                      {"content_block", {{"type", "text"}, {"text", ""}}}});
    }
    [[nodiscard]] std::string piece(const std::string& text) const override {
        return event({{"type", "content_block_delta"},
                      {"index", 0},
                      {"delta", {{"type", "text_delta"}, {"text", text}}}});
    }
    [[nodiscard]] std::string end(const Result& result) const override {
        json usage = usage_of(result);
        usage["output_tokens"] = result.predicted;
        return event({{"type", "content_block_stop"}, {"index", 0}}) +
               event({{"type", "message_delta"}, {"delta", finish(result)}, {"usage", usage}}) +
               event({{"type", "message_stop"}});
    }
    [[nodiscard]] std::string failed() const override {
        return event({{"type", "error"},
                      {"error", {{"type", "api_error"}, {"message", "the engine failed"}}}});
    }

private:
    static std::string event(const json& data) {
        return "event: " + data["type"].get<std::string>() + "\ndata: " + dump(data) + "\n\n";
    }

    static json finish(const Result& result) {
        const bool stopped = result.finish == Finish::stop_text;
        return {{"stop_reason", stopped                           ? "stop_sequence"
                                : result.finish == Finish::length ? "max_tokens"
                                                                  : "end_turn"},
                {"stop_sequence", stopped ? json(result.stopped_by) : json()}};
    }

    /// The prompt's tokens in three parts: read from the cache; up to the last mark, and written to the
    /// cache; the rest.
    [[nodiscard]] json usage_of(const Result& result) const {
        const std::size_t marked =
            result.lookup.request() != 0 ? std::max(marked_, result.lookup.reused()) : 0;
        return {{"cache_read_input_tokens", result.lookup.reused()},
                {"cache_creation_input_tokens", marked - std::min(marked, result.lookup.reused())},
                {"input_tokens", result.prompt_tokens - std::max(marked, result.lookup.reused())},
                {"output_tokens", 0}};
    }

    [[nodiscard]] json message(const Result& result) const {
        return {{"id", id_},
                {"type", "message"},
                {"role", "assistant"},
                {"model", model_},
                {"content", json::array()},
                {"stop_reason", nullptr},
                {"stop_sequence", nullptr},
                {"usage", usage_of(result)}};
    }

    std::string model_;
    std::size_t marked_; // tokens up to the last mark
    std::string id_;
};

struct Breakpoint {
    std::size_t message;
    std::size_t bytes; // of its content
};

/// The chat of a body, and where its breakpoints are.
std::vector<Message> read_chat(const json& body, std::vector<Breakpoint>& breakpoints) {
    for (const char* name : {"tools", "mcp_servers"}) {
        if (body.contains(name) && !body[name].empty()) {
            throw ApiError(400, std::string("'") + name + "' is not supported");
        }
    }
    const auto on_part = [&](std::size_t message, const json& part, std::size_t bytes) {
        if (part.contains("cache_control") && !part["cache_control"].is_null()) {
            breakpoints.push_back({message, bytes});
        }
    };
    std::vector<Message> chat;
    if (const json system = body.value("system", json()); !system.is_null() && !system.empty()) {
        chat.push_back({"system", content_of(system, [&](const json& part, std::size_t bytes) {
                            on_part(0, part, bytes);
                        })});
    }
    read_messages(body, chat, on_part);
    if (breakpoints.size() > 4) {
        throw ApiError(400, "at most 4 parts may have 'cache_control'");
    }
    return chat;
}

} // namespace

void messages(App& app, const Caller& caller, const httplib::Request& http,
              httplib::Response& response) {
    const json body = body_of(http);
    std::vector<Breakpoint> breakpoints;
    const std::vector<Message> chat = read_chat(body, breakpoints);
    if (!body.contains("max_tokens")) {
        throw ApiError(400, "max_tokens: Field required");
    }
    Request request = chat_request(app, caller, body, chat, "stop_sequences");
    std::size_t marked = 0;
    for (const Breakpoint& at : breakpoints) {
        const std::size_t tokens =
            app.engine.text().tokens_until(chat, at.message, at.bytes, request.prompt);
        marked = std::max(marked, tokens);
        request.marks.push_back({tokens, chat[at.message].role == "system" ? promptkv::Tier::system
                                                                           : promptkv::Tier::user});
    }
    if (const json metadata = body.value("metadata", json());
        request.session == 0 && metadata.is_object()) {
        request.session = session_number(text_field(metadata, "user_id"));
    }
    answer(app, response, std::move(request), std::make_unique<AnthropicFormat>(app.name, marked),
           field(body, "stream", false));
}

void count_tokens(App& app, const Caller&, const httplib::Request& http,
                  httplib::Response& response) {
    std::vector<Breakpoint> breakpoints;
    const std::vector<Message> chat = read_chat(body_of(http), breakpoints);
    send_json(response, {{"input_tokens", app.engine.text().prompt(chat).size()}});
}

} // namespace llama_server
