// SPDX-License-Identifier: MIT
// What the server tells about itself and its cache.
#ifndef PROMPTKV_EXAMPLES_LLAMA_SERVER_ABOUT_HPP
#define PROMPTKV_EXAMPLES_LLAMA_SERVER_ABOUT_HPP

#include "read.hpp"

#include <promptkv/cache_types.hpp>

#include <prometheus/text_serializer.h>

#include <cstddef>
#include <cstdint>
#include <ctime>
#include <string>
#include <vector>

namespace llama_server {

/// The prompt that a question about the cache is about: the field `prompt` or `messages`.
inline Tokens prompt_of(const Call& call, bool answer_next) {
    const Text& text = call.engine.text();
    if (const auto prompt = field<std::string>(call.fields, "prompt", ""); !prompt.empty()) {
        return text.tokenize(prompt, true);
    }
    const std::vector<Message> chat = read_chat(call.fields).messages;
    Tokens tokens = text.prompt(chat);
    if (!answer_next) {
        tokens.resize(text.tokens_until(chat, chat.size() - 1, chat.back().content.size(), tokens));
    }
    return tokens;
}

inline void check_model(const Call& call, const std::string& name) {
    if (name != call.options.name) {
        throw ApiError(404, "there is no such model", "model", "model_not_found");
    }
}

/// The budget that the server was started with.
inline std::size_t most_bytes(const Call& call) {
    return call.options.engine.store.max_mib << 20U;
}

inline json models(const Call& call) {
    static const std::time_t started = std::time(nullptr);
    const llama_model* model = call.engine.model();
    const std::string& name = call.options.name;
    const json one = {{"id", name},
                      {"object", "model"},
                      {"type", "model"},
                      {"display_name", name},
                      {"created", started},
                      {"owned_by", "promptkv"},
                      {"meta",
                       {{"n_ctx_train", llama_model_n_ctx_train(model)},
                        {"n_params", llama_model_n_params(model)},
                        {"size", llama_model_size(model)}}}};
    if (call.http.matches.length(1) > 0) {
        check_model(call, call.http.matches.str(1).substr(1));
        return one;
    }
    return {{"object", "list"},
            {"data", json::array({one})},
            {"has_more", false},
            {"first_id", name},
            {"last_id", name}};
}

inline json props(const Call& call) {
    Engine& engine = call.engine;
    return {{"model_alias", call.options.name},
            {"total_slots", call.options.engine.slots},
            {"chat_template", engine.text().chat_template()},
            {"default_generation_settings",
             {{"n_ctx", engine.context_tokens()}, {"n_predict", call.options.max_answer}}},
            {"cache_cuttable", engine.store().cuttable()}};
}

inline json slots(const Call& call) {
    return call.engine.slots();
}

inline json tokenize(const Call& call) {
    const Text& text = call.engine.text();
    const json& fields = call.fields;
    const bool with_pieces = field(fields, "with_pieces", false);
    json list = json::array();
    for (const llama_token token :
         text.tokenize(field<std::string>(fields, "content", ""),
                       field(fields, "add_special", false), field(fields, "parse_special", true))) {
        list.push_back(with_pieces ? json{{"id", token}, {"piece", text.piece(token, true)}}
                                   : json(token));
    }
    return {{"tokens", list}};
}

inline json show_metrics(const Call& call) {
    std::vector<prometheus::MetricFamily> families = call.engine.metrics();
    call.response.set_content(prometheus::TextSerializer().Serialize(families),
                              "text/plain; version=0.0.4");
    return nullptr;
}

inline json show_cache(const Call& call) {
    json shown = call.engine.store().show(call.model, call.engine.text(),
                                          field<std::size_t>(call.fields, "limit", 1000),
                                          field<std::uint64_t>(call.fields, "since", 0));
    shown["model"] = call.options.name;
    for (json& entry : shown["entries"]) {
        entry["model"] = call.options.name;
    }
    shown["most_bytes"] = most_bytes(call);
    return shown;
}

inline json explain_cache(const Call& call) {
    Explanation why = call.engine.store().explain(call.model, prompt_of(call, true));
    if (why.reason == promptkv::MissReason::other_model && !call.options.api_keys.empty()) {
        why.reason = promptkv::MissReason::nothing_shared; // nothing of other tenants
    }
    json answer = {{"reason", name(why.reason)},
                   {"match", name(why.match)},
                   {"prompt_tokens", why.requested},
                   {"reused_tokens", why.reused},
                   {"matched_tokens", why.matched},
                   {"nearest_tokens", why.nearest_tokens},
                   {"nearest_tier", name(why.nearest_tier)},
                   {"differs", nullptr},
                   {"text", promptkv::to_string(why)}};
    if (why.differs) {
        const Text& text = call.engine.text();
        answer["differs"] = {{"asked", text.piece(why.differs->first, true)},
                             {"stored", text.piece(why.differs->second, true)}};
    }
    return answer;
}

inline json erase_cache(const Call& call) {
    Store& store = call.engine.store();
    const json& fields = call.fields;
    // The body of a chat names its model, too, and not all of that is meant.
    const bool chat = fields.contains("prompt") || fields.contains("messages");
    if (!chat && fields.contains("session")) {
        const auto session = session_number(field<std::string>(fields, "session", ""));
        return {{"erased", store.erase_session(call.model, session)}};
    }
    if (!chat && fields.contains("model")) {
        check_model(call, field<std::string>(fields, "model", ""));
        return {{"erased", store.erase_below(call.model, {})}};
    }
    return {{"erased", store.erase_below(call.model, prompt_of(call, false))}};
}

inline json set_budget(const Call& call) {
    if (!call.operates) {
        throw ApiError(403, "only the first API key may change the budget");
    }
    const std::size_t most = most_bytes(call);
    const auto max_bytes = field<std::size_t>(call.fields, "max_bytes", most, 0, most);
    const std::size_t bytes = call.engine.store().set_max_bytes(max_bytes);
    return {{"max_bytes", max_bytes}, {"bytes", bytes}};
}

} // namespace llama_server

#endif
