// SPDX-License-Identifier: MIT
// Models, prompts and a cached server for the tests with a real engine.
#ifndef PROMPTKV_TESTS_ENGINE_FIXTURE_HPP
#define PROMPTKV_TESTS_ENGINE_FIXTURE_HPP

#include "engine.hpp"
#include "llama_kv.hpp"
#include "random_model.hpp"

#include <promptkv/promptkv.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <random>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <unistd.h>

namespace engine_tests {

/// A model of random weights in a file that lives as long as the object.
class RandomModel {
public:
    template <class Shape>
    explicit RandomModel(const Shape& shape, std::uint32_t seed = 1)
        : path_(std::filesystem::temp_directory_path() /
                ("promptkv_test_" + std::to_string(getpid()) + "_" + std::to_string(++count()) +
                 ".gguf")) {
        random_model::write(path_.string(), shape, seed);
    }
    RandomModel(const RandomModel&) = delete;
    RandomModel& operator=(const RandomModel&) = delete;
    ~RandomModel() {
        std::error_code ignored;
        std::filesystem::remove(path_, ignored);
    }

    [[nodiscard]] std::string path() const { return path_.string(); }

private:
    static int& count() {
        static int value = 0;
        return value;
    }

    std::filesystem::path path_;
};

/// A quantised Llama.
inline const RandomModel& small_llama() {
    static const RandomModel model(random_model::Llama{
        .layers = 3, .width = 128, .feed_forward = 256, .heads = 4, .kv_heads = 2});
    return model;
}

inline const RandomModel& small_mamba() {
    static const RandomModel model(random_model::Mamba{});
    return model;
}

/// A way to run an engine: what decides how its results are rounded.
struct Setting {
    std::string name;
    std::string model_file;
    Engine::Options options;
};

/// Every setting that the tests of full attention go through. The trained model joins where its
/// file lies beside the project.
inline std::vector<Setting> attention_settings() {
    const std::string random = small_llama().path();
    std::vector<Setting> settings = {
        {"random q8, f16 KV", random, {.flash_attention = LLAMA_FLASH_ATTN_TYPE_DISABLED}},
        {"random q8, flash attention", random, {.flash_attention = LLAMA_FLASH_ATTN_TYPE_ENABLED}},
        {"random q8, q8 KV",
         random,
         {.kv_type = GGML_TYPE_Q8_0, .flash_attention = LLAMA_FLASH_ATTN_TYPE_ENABLED}},
        {"random q8, batches of 7", random, {.batch_tokens = 7}},
    };
    const std::string stories = PROMPTKV_SHARED_DIR "/models/stories260K.gguf";
    if (std::filesystem::exists(stories)) {
        settings.push_back({"stories260K", stories, {}});
    }
    return settings;
}

/// `count` tokens, the same for the same seed.
inline Tokens prompt_of(std::size_t count, std::uint32_t seed) {
    std::mt19937 random(seed);
    Tokens tokens(count);
    for (llama_token& token : tokens) {
        token = static_cast<llama_token>(6 + random() % 250); // no control tokens
    }
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

inline constexpr std::size_t answer_tokens = 12;

/// Computes tokens [from, end) of the prompt in the engine's batches, and the answer.
inline Answer finish(Engine& engine, const Tokens& prompt, std::size_t from) {
    engine.prefill(prompt, from);
    Answer answer{{engine.logits().begin(), engine.logits().end()}, {}};
    answer.tokens = engine.generate(prompt.size(), answer_tokens);
    return answer;
}

/// The answer of an engine that has seen nothing before.
inline Answer answer_from_nothing(const Setting& setting, const Tokens& prompt) {
    Engine engine(setting.model_file, setting.options);
    return finish(engine, prompt, 0);
}

/// An engine with a cache of full-attention state.
struct CachedEngine {
    using Cache = promptkv::LRUPromptCache<llama_kv::SegmentedKV, std::string, llama_token>;

    struct Result {
        Answer answer;
        std::size_t reused;
        promptkv::Match match;
        promptkv::Outcome outcome;
    };

    CachedEngine(const Setting& setting, Cache::Options cache_options)
        : engine(setting.model_file, setting.options),
          port(engine.context(), 0, 1, engine.batch_tokens()), cache(cache_options) {}

    /// Answers with what the cache has, in whole batches, and keeps the whole batches of the
    /// prompt.
    Result answer(const Tokens& prompt, promptkv::Tier tier = promptkv::Tier::user) {
        Result result{};
        {
            const std::size_t batch = engine.batch_tokens();
            const auto lease = cache.lease_nearest(engine.model_key(), prompt,
                                                   {.min_reuse = batch, .align = batch});
            if (lease) {
                port.restore(lease.kv(), lease.reused);
            } else {
                port.clear();
            }
            result.reused = lease.reused;
            result.match = lease.match;
        }
        result.answer = finish(engine, prompt, result.reused);
        result.outcome = keep(prompt, tier);
        return result;
    }

    promptkv::Outcome keep(const Tokens& prompt, promptkv::Tier tier) {
        const std::size_t kept = prompt.size() - prompt.size() % engine.batch_tokens();
        const auto key = std::span<const llama_token>(prompt).first(kept);
        return cache
            .insert(engine.model_key(), key, port.nbytes(kept), tier,
                    [&] { return port.save(kept); })
            .outcome;
    }

    Engine engine;
    llama_kv::SegmentedPort port;
    Cache cache;
};

} // namespace engine_tests

#endif
