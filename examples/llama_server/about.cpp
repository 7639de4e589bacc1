// SPDX-License-Identifier: MIT
// What the server tells about itself and its cache.
#include "api.hpp"

#include <promptkv/cache_types.hpp>

#include <prometheus/text_serializer.h>

#include <algorithm>
#include <iterator>

namespace llama_server {
namespace {

/// The prompt that a question about the cache is about: `prompt` or `messages`, in the query or the body.
Tokens prompt_of(const App& app, const httplib::Request& http, bool answer_next) {
    json body = http.body.empty() ? json::object() : body_of(http);
    if (http.has_param("prompt")) {
        body["prompt"] = http.get_param_value("prompt");
    }
    if (http.has_param("messages")) {
        body["messages"] = parse(http.get_param_value("messages"));
    }
    const Text& text = app.engine.text();
    if (const std::string prompt = text_field(body, "prompt"); !prompt.empty()) {
        return text.tokenize(prompt, true);
    }
    std::vector<Message> chat;
    read_messages(body, chat, [](std::size_t, const json&, std::size_t) {});
    Tokens tokens = text.prompt(chat);
    if (!answer_next) {
        tokens.resize(text.tokens_until(chat, chat.size() - 1, chat.back().content.size(), tokens));
    }
    return tokens;
}

std::size_t number_param(const httplib::Request& http, const char* name, std::size_t fallback) {
    return http.has_param(name)
               ? field<std::size_t>({{name, parse(http.get_param_value(name))}}, name, fallback)
               : fallback;
}

} // namespace

void models(App& app, const Caller&, const httplib::Request& http, httplib::Response& response) {
    const llama_model* model = app.engine.model();
    const json one = {{"id", app.name},
                      {"object", "model"},
                      {"type", "model"},
                      {"display_name", app.name},
                      {"created", app.started},
                      {"owned_by", "promptkv"},
                      {"meta",
                       {{"n_ctx_train", llama_model_n_ctx_train(model)},
                        {"n_params", llama_model_n_params(model)},
                        {"size", llama_model_size(model)}}}};
    if (http.path == "/v1/models") {
        send_json(response, {{"object", "list"},
                             {"data", json::array({one})},
                             {"has_more", false},
                             {"first_id", app.name},
                             {"last_id", app.name}});
    } else if (http.path == "/v1/models/" + app.name) {
        send_json(response, one);
    } else {
        throw ApiError(404, "there is no such model", "model", "model_not_found");
    }
}

void props(App& app, const Caller&, const httplib::Request&, httplib::Response& response) {
    send_json(response, {{"model_alias", app.name},
                         {"total_slots", app.engine.slots().size()},
                         {"chat_template", app.engine.text().chat_template()},
                         {"default_generation_settings",
                          {{"n_ctx", app.engine.context_tokens()}, {"n_predict", app.max_answer}}},
                         {"cache_cuttable", app.engine.store().cuttable()}});
}

void slots(App& app, const Caller&, const httplib::Request&, httplib::Response& response) {
    json list = json::array();
    for (const Engine::SlotView& slot : app.engine.slots()) {
        list.push_back({{"id", list.size()},
                        {"is_processing", slot.busy},
                        {"n_ctx", app.engine.context_tokens()},
                        {"n_prompt_tokens", slot.prompt_tokens},
                        {"n_prompt_tokens_cache", slot.reused},
                        {"n_past", slot.computed},
                        {"n_decoded", slot.predicted}});
    }
    send_json(response, list);
}

void tokenize(App& app, const Caller&, const httplib::Request& http, httplib::Response& response) {
    const json body = body_of(http);
    const Text& text = app.engine.text();
    const Tokens tokens =
        text.tokenize(text_field(body, "content"), field(body, "add_special", false),
                      field(body, "parse_special", true));
    json list = json::array();
    for (const llama_token token : tokens) {
        list.push_back(field(body, "with_pieces", false)
                           ? json{{"id", token}, {"piece", text.piece(token, true)}}
                           : json(token));
    }
    send_json(response, {{"tokens", list}});
}

void show_metrics(App& app, const Caller&, const httplib::Request&, httplib::Response& response) {
    app.metrics.deferred.Set(static_cast<double>(app.engine.waiting()));
    std::vector<prometheus::MetricFamily> families = app.metrics.registry.Collect();
    std::ranges::move(app.engine.store().metrics(), std::back_inserter(families));
    response.set_content(prometheus::TextSerializer().Serialize(families),
                         "text/plain; version=0.0.4");
}

void show_cache(App& app, const Caller& caller, const httplib::Request& http,
                httplib::Response& response) {
    const Store& store = app.engine.store();
    const Text& text = app.engine.text();
    const std::size_t limit = number_param(http, "limit", 1000);
    json entries = json::array();
    std::vector<Store::Entry> stored = store.entries(caller.model);
    const std::size_t count = stored.size();
    if (stored.size() > limit) { // the next victims are left out
        stored.erase(stored.begin(), stored.end() - static_cast<std::ptrdiff_t>(limit));
    }
    for (const Store::Entry& entry : stored) {
        entries.push_back({{"model", app.name},
                           {"tokens", entry.tokens},
                           {"tier", name(entry.tier)},
                           {"bytes", entry.nbytes},
                           {"own_bytes", entry.own_bytes},
                           {"shared_bytes", entry.nbytes - entry.own_bytes},
                           {"session", entry.session},
                           {"age_s", entry.age_seconds},
                           {"hits", entry.hits},
                           {"begins", text.text(entry.begin)},
                           {"ends", text.text(entry.end)},
                           {"blocks", entry.blocks}});
    }
    json departures = json::array();
    for (const Store::Departure& left :
         store.departures(caller.model, number_param(http, "since", 0))) {
        departures.push_back({{"number", left.number},
                              {"reason", name(left.reason)},
                              {"tier", name(left.tier)},
                              {"tokens", left.tokens},
                              {"kept_tokens", left.kept_tokens},
                              {"bytes", left.nbytes}});
    }
    json counters = json::object();
    promptkv::for_each_counter(store.stats(),
                               [&](const char* counter, auto value) { counters[counter] = value; });
    send_json(response, {{"model", app.name},
                         {"bytes", store.nbytes()},
                         {"max_bytes", store.max_bytes()},
                         {"most_bytes", app.most_bytes},
                         {"count", count},
                         {"entries", entries},
                         {"departures", departures},
                         {"stats", counters}});
}

void explain_cache(App& app, const Caller& caller, const httplib::Request& http,
                   httplib::Response& response) {
    Explanation why = app.engine.store().explain(caller.model, prompt_of(app, http, true));
    if (why.reason == promptkv::MissReason::other_model && !app.api_keys.empty()) {
        why.reason = promptkv::MissReason::nothing_shared; // nothing of other tenants
    }
    const Text& text = app.engine.text();
    json body = {{"reason", name(why.reason)},
                 {"match", name(why.match)},
                 {"prompt_tokens", why.requested},
                 {"reused_tokens", why.reused},
                 {"matched_tokens", why.matched},
                 {"nearest_tokens", why.nearest_tokens},
                 {"nearest_tier", name(why.nearest_tier)},
                 {"differs", nullptr},
                 {"text", promptkv::to_string(why)}};
    if (why.differs) {
        body["differs"] = {{"asked", text.piece(why.differs->first, true)},
                           {"stored", text.piece(why.differs->second, true)}};
    }
    send_json(response, body);
}

void erase_cache(App& app, const Caller& caller, const httplib::Request& http,
                 httplib::Response& response) {
    Store& store = app.engine.store();
    std::size_t erased = 0;
    if (http.has_param("session")) {
        erased = store.erase_session(caller.model, session_number(http.get_param_value("session")));
    } else if (http.has_param("model")) {
        if (http.get_param_value("model") != app.name) {
            throw ApiError(404, "there is no such model", "model", "model_not_found");
        }
        erased = store.erase_model(caller.model);
    } else {
        erased = store.erase_below(caller.model, prompt_of(app, http, false));
    }
    send_json(response, {{"erased", erased}});
}

void set_budget(App& app, const Caller& caller, const httplib::Request& http,
                httplib::Response& response) {
    if (!caller.operates) {
        throw ApiError(403, "only the first API key may change the budget");
    }
    app.engine.store().set_max_bytes(
        field<std::size_t>(body_of(http), "max_bytes", app.most_bytes, 0, app.most_bytes));
    send_json(response, {{"max_bytes", app.engine.store().max_bytes()},
                         {"bytes", app.engine.store().nbytes()}});
}

} // namespace llama_server
