// SPDX-License-Identifier: MIT
// What the server tells about itself and its cache.
#ifndef PROMPTKV_EXAMPLES_LLAMA_SERVER_ABOUT_HPP
#define PROMPTKV_EXAMPLES_LLAMA_SERVER_ABOUT_HPP

#include "api.hpp"
#include "promptkv_metrics.hpp"

#include <prometheus/text_serializer.h>

#include <ctime>

namespace llama_server {

/// The prompt that a question about the cache is about: the field `prompt` or `messages`.
inline Tokens prompt_of(const Call& call, bool answer_next) {
    const LlamaText& text = call.engine.text();
    if (const auto prompt = field<std::string>(call.fields, "prompt", ""); !prompt.empty())
        return read_tokens(call, prompt);
    const Chat chat = read_chat(call.fields);
    Tokens tokens = read_tokens(call, text.render(chat, true));
    tokens.resize(answer_next ? tokens.size() : text.tokens_of(chat, tokens));
    return tokens;
}

inline json models(const Call& call) {
    static const std::time_t started = std::time(nullptr);
    const json one = {{"id", call.options.name},
                      {"object", "model"},
                      {"created", started},
                      {"owned_by", "promptkv"}};
    return {{"object", "list"}, {"data", json::array({one})}};
}

inline json props(const Call& call) {
    const Options& options = call.options;
    return {{"model_alias", options.name},
            {"total_slots", options.engine.store.slots},
            {"chat_template", call.engine.text().chat_template()},
            {"default_generation_settings",
             {{"n_ctx", options.engine.context_tokens}, {"n_predict", options.max_answer}}},
            {"cache_cuttable", call.engine.store().cuttable()}};
}

inline json tokenize(const Call& call) {
    return {{"tokens", read_tokens(call, field<std::string>(call.fields, "content", ""),
                                   field(call.fields, "add_special", false),
                                   field(call.fields, "parse_special", true))}};
}

/// What the cache counts, and the engine, under the names that llama-server and vLLM use.
inline json show_metrics(const Call& call) {
    auto families = call.engine.store().metrics();
    const auto add = [&](const std::string& name, const char* help, const auto& value) {
        promptkv_metrics::add(families, name, help, value);
    };
    const Engine::Counts& n = call.engine.counts();
    add("llamacpp:prompt_tokens_total", "Prompt tokens computed.", n.prompt_tokens);
    add("llamacpp:prompt_seconds_total", "Time from the start of requests to their first token.",
        n.prompt_seconds);
    add("llamacpp:prompt_tokens_cached_total", "Prompt tokens whose state came from the cache.",
        n.cached_tokens);
    add("llamacpp:tokens_predicted_total", "Tokens generated.", n.predicted_tokens);
    add("llamacpp:tokens_predicted_seconds_total", "Time spent on answers after their first token.",
        n.predicted_seconds);
    add("llamacpp:n_decode_total", "Batches computed.", n.decodes);
    add("llamacpp:requests_processing", "Requests in a slot.", n.processing);
    add("llamacpp:requests_deferred", "Requests that wait for a slot.", n.deferred);
    add("vllm:prefix_cache_queries_total", "Prompt tokens that the cache was asked for.",
        n.queried_tokens);
    add("vllm:prefix_cache_hits_total", "Prompt tokens that the cache had.", n.cached_tokens);
    add("promptkv_server_cancelled_total", "Requests whose client went away.", n.cancelled);
    add("promptkv_server_refused_total", "Requests refused since too many waited.", n.refused);
    call.response.set_content(prometheus::TextSerializer().Serialize(families),
                              "text/plain; version=0.0.4");
    return nullptr;
}

inline json show_cache(const Call& call) {
    const auto limit = field<std::size_t>(call.fields, "limit", 1000);
    json shown = call.engine.store().show(call.model, limit);
    for (json& entry : shown["entries"]) {
        entry["model"] = call.options.name;
        entry["ends"] = call.engine.text().text(entry["ends"].get<Tokens>());
    }
    shown["model"] = call.options.name;
    shown["most_bytes"] = call.options.cache_bytes();
    return shown;
}

inline json explain_cache(const Call& call) {
    Explanation why = call.engine.store().explain(call.model, prompt_of(call, true));
    if (why.reason == promptkv::MissReason::other_model && !call.options.api_keys.empty())
        why.reason = promptkv::MissReason::nothing_shared; // nothing of other tenants
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
        const LlamaText& text = call.engine.text();
        answer["differs"] = {{"asked", text.piece(why.differs->first, true)},
                             {"stored", text.piece(why.differs->second, true)}};
    }
    return answer;
}

inline json erase_cache(const Call& call) {
    const json& fields = call.fields;
    Store& store = call.engine.store();
    Tokens prefix; // of what is erased; empty: all of the model
    // The body of a chat names its model and session, too, and not all of these is meant.
    if (fields.contains("prompt") || fields.contains("messages")) {
        prefix = prompt_of(call, false);
        require(prefix.size() > 1, // what each prompt begins with
                "the prefix is empty; all of a model is erased by its name");
    } else if (fields.contains("session")) {
        const auto session = session_number(field<std::string>(fields, "session", ""));
        call.engine.forget(call.model);
        return {{"erased", store.erase_session(call.model, session)}};
    } else if (const auto name = field<std::string>(fields, "model", "");
               name != call.options.name) {
        throw ApiError(name.empty() ? 400 : 404,
                       "name a session, a prompt, messages, or the model of this server", "model");
    }
    call.engine.forget(call.model);
    return {{"erased", store.erase_below(call.model, prefix)}};
}

inline json set_budget(const Call& call) {
    if (!call.operates)
        throw ApiError(403, "only the first API key may change the budget");
    const std::size_t most = call.options.cache_bytes();
    const auto max_bytes = field<std::size_t>(call.fields, "max_bytes", most, 0, most);
    call.engine.store().set_max_bytes(max_bytes);
    return {{"max_bytes", max_bytes}};
}

} // namespace llama_server

#endif
