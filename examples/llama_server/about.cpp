// SPDX-License-Identifier: MIT
// What the server tells about itself and its cache.
#include "api.hpp"

#include <promptkv/cache_types.hpp>

#include <prometheus/text_serializer.h>

#include <algorithm>
#include <iterator>

namespace llama_server {
namespace {

/// The prompt that a question about the cache is about: the field `prompt` or `messages`.
Tokens prompt_of(const Call& call, bool answer_next) {
    const Text& text = call.app.engine.text();
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

void check_model(const Call& call, const std::string& name) {
    if (name != call.app.options.name) {
        throw ApiError(404, "there is no such model", "model", "model_not_found");
    }
}

} // namespace

json models(const Call& call) {
    const llama_model* model = call.app.engine.model();
    const std::string& name = call.app.options.name;
    const json one = {{"id", name},
                      {"object", "model"},
                      {"type", "model"},
                      {"display_name", name},
                      {"created", call.app.started},
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

json props(const Call& call) {
    Engine& engine = call.app.engine;
    return {{"model_alias", call.app.options.name},
            {"total_slots", call.app.options.engine.slots},
            {"chat_template", engine.text().chat_template()},
            {"default_generation_settings",
             {{"n_ctx", engine.context_tokens()}, {"n_predict", call.app.options.max_answer}}},
            {"cache_cuttable", engine.store().cuttable()}};
}

json slots(const Call& call) {
    return call.app.engine.slots();
}

json tokenize(const Call& call) {
    const Text& text = call.app.engine.text();
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

json show_metrics(const Call& call) {
    Metrics& metrics = call.app.metrics;
    metrics.deferred.Set(static_cast<double>(call.app.engine.waiting()));
    std::vector<prometheus::MetricFamily> families = metrics.registry.Collect();
    std::ranges::move(call.app.engine.store().metrics(), std::back_inserter(families));
    call.response.set_content(prometheus::TextSerializer().Serialize(families),
                              "text/plain; version=0.0.4");
    return nullptr;
}

json show_cache(const Call& call) {
    json shown = call.app.engine.store().show(call.model, call.app.engine.text(),
                                              field<std::size_t>(call.fields, "limit", 1000),
                                              field<std::uint64_t>(call.fields, "since", 0));
    shown["model"] = call.app.options.name;
    for (json& entry : shown["entries"]) {
        entry["model"] = call.app.options.name;
    }
    shown["most_bytes"] = call.app.options.engine.store.max_bytes;
    return shown;
}

json explain_cache(const Call& call) {
    Explanation why = call.app.engine.store().explain(call.model, prompt_of(call, true));
    if (why.reason == promptkv::MissReason::other_model && !call.app.options.api_keys.empty()) {
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
        const Text& text = call.app.engine.text();
        answer["differs"] = {{"asked", text.piece(why.differs->first, true)},
                             {"stored", text.piece(why.differs->second, true)}};
    }
    return answer;
}

json erase_cache(const Call& call) {
    Store& store = call.app.engine.store();
    if (call.fields.contains("session")) {
        const auto session = session_number(field<std::string>(call.fields, "session", ""));
        return {{"erased", store.erase_session(call.model, session)}};
    }
    if (call.fields.contains("model")) {
        check_model(call, field<std::string>(call.fields, "model", ""));
        return {{"erased", store.erase_model(call.model)}};
    }
    return {{"erased", store.erase_below(call.model, prompt_of(call, false))}};
}

json set_budget(const Call& call) {
    if (!call.operates) {
        throw ApiError(403, "only the first API key may change the budget");
    }
    const std::size_t most = call.app.options.engine.store.max_bytes;
    const auto max_bytes = field<std::size_t>(call.fields, "max_bytes", most, 0, most);
    const std::size_t bytes = call.app.engine.store().set_max_bytes(max_bytes);
    return {{"max_bytes", max_bytes}, {"bytes", bytes}};
}

} // namespace llama_server
