// SPDX-License-Identifier: MIT
// Whether the stores give the right answers: against each other, through the plainest one.
#ifndef PROMPTKV_BENCHMARKS_CROSS_CHECK_HPP
#define PROMPTKV_BENCHMARKS_CROSS_CHECK_HPP

#include "prefix_store.hpp"

#include <algorithm>
#include <cstdio>
#include <random>
#include <vector>

namespace baselines {

/// Inserts random prompts over an alphabet of two and asks for others after each, then evicts half.
///
/// The answer is at most the longest common prefix with what was inserted. While nothing was evicted it
/// is at least that, rounded down to a multiple of `granularity`.
/// Returns: whether all answers were right; what was wrong is printed.
inline bool answers_are_right(PrefixStore& store, const char* name, std::size_t granularity) {
    std::mt19937_64 random(2);
    std::vector<std::vector<Token>> inserted;
    const auto random_prompt = [&random, &inserted] {
        std::vector<Token> prompt;
        if (!inserted.empty() && random() % 4 != 0) { // mostly one that branches off, or goes on
            prompt = inserted[random() % inserted.size()];
            prompt.resize(random() % (prompt.size() + 1));
        }
        for (std::size_t n = random() % 40; n > 0; --n)
            prompt.push_back(static_cast<Token>(random() % 2));
        return prompt;
    };
    const auto longest = [&inserted](Tokens prompt) {
        std::size_t best = 0;
        for (const auto& key : inserted)
            best = std::max(best, common_prefix(key, prompt));
        return best;
    };
    const auto differs = [name](const char* what, std::size_t answer, std::size_t expected) {
        std::fprintf(stderr, "%s: %s: %zu instead of %zu\n", name, what, answer, expected);
        return false;
    };
    for (int step = 0; step < 300; ++step) {
        inserted.push_back(random_prompt());
        store.insert(inserted.back());
        for (int i = 0; i < 10; ++i) {
            const std::vector<Token> prompt = random_prompt();
            const std::size_t answer = store.match(prompt);
            const std::size_t expected = longest(prompt);
            if (answer > expected || answer < expected - expected % granularity)
                return differs("match", answer, expected);
        }
    }
    const std::size_t before = store.tokens_held();
    const std::size_t freed = store.evict(before / 2);
    if (freed < before / 2 || store.tokens_held() != before - freed)
        return differs("held after eviction", store.tokens_held(), before - freed);
    for (int i = 0; i < 1'000; ++i) {
        const std::vector<Token> prompt = random_prompt();
        const std::size_t announced = store.match(prompt);
        const std::size_t answer = store.lookup(prompt);
        if (answer != announced)
            return differs("lookup", answer, announced);
        if (answer > longest(prompt))
            return differs("after eviction", answer, longest(prompt));
    }
    store.evict(store.tokens_held());
    if (store.tokens_held() != 0 || store.match(inserted.back()) != 0)
        return differs("held when empty", store.tokens_held(), 0);
    return true;
}

} // namespace baselines

#endif
