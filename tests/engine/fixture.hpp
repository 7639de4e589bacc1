// SPDX-License-Identifier: MIT
// Models, prompts and a cached server for the tests with a real engine.
#ifndef PROMPTKV_TESTS_ENGINE_FIXTURE_HPP
#define PROMPTKV_TESTS_ENGINE_FIXTURE_HPP

#include "catch.hpp"

#include "embed.hpp"
#include "engine.hpp"
#include "llama_kv.hpp"
#include "random_model.hpp"

#include <promptkv/promptkv.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace engine_tests {

using llama_kv::AttentionKV;
using llama_kv::RecurrentKV;
using random_model::TemporaryModel;

/// A model and a way to run it: what decides how its results are rounded.
struct Setting {
    std::string name;
    std::string model_file;
    Engine::Options options;
};

inline const random_model::Shape small_llama = random_model::small("aaa");

/// The file of a model with small layers of these kinds; see random_model::Shape.
inline std::string small_model(const char* layers) {
    static std::vector<std::pair<std::string, std::unique_ptr<TemporaryModel>>> models;
    for (const auto& [made, model] : models) {
        if (made == layers)
            return model->path();
    }
    models.emplace_back(layers, std::make_unique<TemporaryModel>(random_model::small(layers)));
    return models.back().second->path();
}

/// Every setting of models with attention alone.
inline std::vector<Setting> attention_settings() {
    const std::string random = small_model("aaa");
    std::vector<Setting> settings = {
        {"random q8, f16 KV", random, {.flash_attention = LLAMA_FLASH_ATTN_TYPE_DISABLED}},
        {"random q8, flash attention", random, {}},
        {"random q8, q8 KV", random, {.kv_type = GGML_TYPE_Q8_0}},
        {"random q8, batches of 7", random, {.batch_tokens = 7}},
        {"sliding windows", small_model("wwwa"), {}},
    };
    const std::string stories = PROMPTKV_SHARED_DIR "/models/stories260K.gguf";
    if (std::filesystem::exists(stories))
        settings.push_back({"stories260K", stories, {}});
    else
        WARN("skipped the trained model: there is no " << stories);
    return settings;
}

/// Models with a recurrent state.
inline std::vector<Setting> recurrent_settings() {
    return {{"recurrent", small_model("mm"), {}}, {"hybrid", small_model("mamm"), {}}};
}

template <class KV>
std::vector<Setting> settings_of() {
    if constexpr (llama_kv::Sequence<KV>::has_state)
        return recurrent_settings();
    else
        return attention_settings();
}

/// `count` tokens, equal for equal seeds.
inline Tokens prompt_of(std::size_t count, std::uint32_t seed) {
    std::mt19937 random(seed);
    Tokens tokens(count);
    for (llama_token& token : tokens)
        token = static_cast<llama_token>(6 + random() % 250); // no control tokens
    return tokens;
}

/// The first `count` tokens of `prefix`, and then `more` others.
inline Tokens branch(const Tokens& prefix, std::size_t count, std::size_t more,
                     std::uint32_t seed) {
    Tokens tokens(prefix.begin(), prefix.begin() + static_cast<std::ptrdiff_t>(count));
    const Tokens tail = prompt_of(more, seed);
    tokens.insert(tokens.end(), tail.begin(), tail.end());
    return tokens;
}

/// What an engine answers a prompt.
struct Answer {
    std::vector<float> logits; // after the prompt
    Tokens tokens;

    friend bool operator==(const Answer& a, const Answer& b) {
        return a.tokens == b.tokens && a.logits.size() == b.logits.size() &&
               std::memcmp(a.logits.data(), b.logits.data(), a.logits.size() * sizeof(float)) == 0;
    }
};

/// Computes tokens [from, end) of the prompt in the engine's batches, and the answer.
inline Answer finish(Engine& engine, const Tokens& prompt, std::size_t from) {
    engine.prefill(prompt, from);
    Answer answer{{engine.logits().begin(), engine.logits().end()}, {}};
    answer.tokens = engine.generate(prompt.size(), 8);
    return answer;
}

/// The answer of an engine that has seen nothing before.
inline Answer answer_from_nothing(const Setting& setting, const Tokens& prompt) {
    Engine engine(setting.model_file, setting.options);
    return finish(engine, prompt, 0);
}

/// An engine with a cache.
template <class KV>
struct CachedEngine {
    struct Result {
        Answer answer;
        std::size_t reused;
        promptkv::Match match;
        promptkv::Outcome outcome;
    };

    explicit CachedEngine(const Setting& setting, typename Cache<KV>::Options options = {})
        : engine(setting.model_file, setting.options),
          sequence(engine.context(), 0, 1, engine.batch_tokens()), cache(options) {}

    /// How many tokens of a prompt are kept: whole batches. A recurrent state at the prompt's very end
    /// would leave no token to compute.
    [[nodiscard]] std::size_t kept(const Tokens& prompt) const {
        const std::size_t most = prompt.size() - (sequence.has_state ? 1 : 0);
        return most - most % engine.batch_tokens();
    }

    /// Answers with what the cache has, and keeps the state of the prompt.
    Result answer(const Tokens& prompt, promptkv::Tier tier = promptkv::Tier::user) {
        const auto found = restore(cache, engine.model_key(), prompt, sequence);
        const auto key = std::span<const llama_token>(prompt).first(kept(prompt));
        engine.prefill(key, found.reused());
        const auto inserted = keep(cache, engine.model_key(), key, sequence, tier);
        return {finish(engine, prompt, key.size()), found.reused(), found.match(),
                inserted.outcome};
    }

    [[nodiscard]] std::size_t reusable(const Tokens& prompt) const {
        return cache.probe(engine.model_key(), prompt).reused();
    }

    Engine engine;
    llama_kv::Sequence<KV> sequence;
    Cache<KV> cache;
};

/// The bytes that the state of a prompt of `tokens` tokens takes.
template <class KV>
std::size_t bytes_of(const Setting& setting, std::size_t tokens) {
    CachedEngine<KV> served(setting);
    served.answer(prompt_of(tokens, 99));
    return served.cache.nbytes();
}

} // namespace engine_tests

#endif
