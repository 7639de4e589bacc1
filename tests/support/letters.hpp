// SPDX-License-Identifier: MIT
// Keys written as words, tapes of them, and what a cache holds written as one line.
#ifndef PROMPTKV_TESTS_LETTERS_HPP
#define PROMPTKV_TESTS_LETTERS_HPP

#include <promptkv/lru_prompt_cache.hpp>

#include "payloads.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace promptkv_test {

using promptkv::LRUPromptCache;

/// The tokens of a word: one a letter. They live as long as the program.
template <std::size_t N>
struct Letters {
    std::int32_t tokens[N];

    consteval Letters(const char (&word)[N]) : tokens{} {
        for (std::size_t i = 0; i < N; ++i)
            tokens[i] = static_cast<unsigned char>(word[i]);
    }
};

inline namespace literals {

/// "abc"_key is a key of three tokens.
template <Letters L>
constexpr std::span<const std::int32_t> operator""_key() noexcept {
    return std::span<const std::int32_t>(L.tokens).first(std::size(L.tokens) - 1);
}

} // namespace literals

/// The word that the tokens stand for.
inline std::string text(std::span<const std::int32_t> tokens) {
    std::string word;
    for (const std::int32_t token : tokens)
        word.push_back(static_cast<char>(token));
    return word;
}

/// A payload of the tokens of `key`.
template <class KV = Tape>
KV tape(std::span<const std::int32_t> key, Shape shape = {}) {
    return KV(Recording{0, "m", Tokens(key.begin(), key.end()), shape});
}

/// What a payload was computed from, as a word; "-" where there is none.
template <class Kept>
std::string text_of(const Kept& kv) {
    return kv ? text(kv->recording().tokens) : "-";
}

/// Stores a tape of `key` for the model "m".
template <class KV, class TierEnum, class Policy>
auto store(promptkv::BasicPromptCache<KV, std::string, std::int32_t, TierEnum, Policy>& cache,
           std::span<const std::int32_t> key, TierEnum tier, Shape shape = {}) {
    return cache.insert("m", key, tape<KV>(key, shape), tier);
}

/// The keys that `cache` holds, in alphabetical order, each followed by the number of its tier.
template <class Cache>
std::string contents(const Cache& cache) {
    std::vector<std::string> entries;
    cache.for_each([&entries](const auto& entry) {
        entries.push_back(text(entry.tokens) + std::to_string(static_cast<int>(entry.tier)));
    });
    std::sort(entries.begin(), entries.end());
    std::string line;
    for (const std::string& entry : entries)
        line += line.empty() ? entry : " " + entry;
    return line;
}

/// Evicts entry by entry: the keys in the order in which they leave.
template <class Cache>
std::string eviction_order(Cache& cache) {
    std::string order;
    cache.set_removal_listener([&order](const auto& removal) {
        order += (order.empty() ? "" : " ") + text(removal.tokens);
    });
    while (!cache.empty() && cache.trim_to({.max_entries = cache.size() - 1}) > 0) {
    }
    cache.set_removal_listener(nullptr);
    return order;
}

} // namespace promptkv_test

#endif
