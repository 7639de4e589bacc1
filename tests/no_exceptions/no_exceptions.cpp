// SPDX-License-Identifier: MIT
// Every kind of call of the caches, in a program without exceptions and without RTTI.
#include <promptkv/concurrent_prompt_cache.hpp>
#include <promptkv/promptkv.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

namespace {

using promptkv::Match;
using promptkv::Outcome;
using promptkv::Tier;
using Tokens = std::vector<std::int32_t>;

struct TokenKV {
    Tokens tokens;

    std::size_t nbytes() const noexcept { return tokens.size(); }
    std::size_t length() const noexcept { return tokens.size(); }
    std::size_t reusable_prefix(std::size_t n) const noexcept { return n; }
    TokenKV clone_prefix(std::size_t n) const {
        return {Tokens(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(n))};
    }
    void truncate(std::size_t n) { tokens.resize(n); }
};

bool all_hold = true;

void check(bool holds, const char* what) {
    if (!holds) {
        std::printf("does not hold: %s\n", what);
        all_hold = false;
    }
}

// Calls everything of an empty cache.
template <class Cache>
void check_cache(Cache& cache) {
    const std::string model = "model";
    const Tokens system{1, 2};
    const Tokens chat{1, 2, 3, 4};
    const Tokens prompt{1, 2, 3, 5};

    std::size_t n_removed = 0;
    cache.on_removal([&n_removed](auto&) { ++n_removed; });

    check(cache.insert(model, chat, TokenKV{chat}, Tier::user).outcome == Outcome::stored,
          "insert");
    check(cache.mark(model, system, Tier::system), "mark");
    check(cache.probe(model, prompt).reused == 3, "probe");
    {
        const auto hit = cache.fetch_nearest(model, prompt);
        check(hit && hit.kv->tokens == Tokens{1, 2, 3}, "the payload of fetch_nearest");
        check(hit.match == Match::longer && hit.remaining.size() == 1, "fetch_nearest");
    }
    {
        const auto lease = cache.lease_nearest(model, prompt);
        check(lease && lease.reused == 3 && lease.kv().tokens == chat, "lease_nearest");
    }
    const Tokens other{9, 8, 7, 6, 5, 4};
    const auto made = [&other] { return TokenKV{other}; };
    const auto inserted = cache.insert(model, other, other.size(), Tier::assistant, made);
    check(inserted.outcome == Outcome::stored && inserted.cut == 1, "insert of what is made late");
    check(n_removed == 1, "on_removal");
    check(cache.nbytes() <= 8 && cache.check_invariants(), "the budget");
    const auto taken = cache.take_nearest(model, other, {.min_remaining = 0});
    check(taken.kv.has_value() && taken.match == Match::exact, "take_nearest");
    check(cache.trim_to({.max_bytes = 0}) == 1 && cache.empty(), "trim_to");
}

} // namespace

int main() {
    const promptkv::CacheOptions options{.max_bytes = 8, .cut_granularity = 1};
    promptkv::LRUPromptCache<TokenKV> cache(options);
    check_cache(cache);
    promptkv::ConcurrentPromptCache<TokenKV> concurrent_cache(options);
    check_cache(concurrent_cache);
    return all_hold ? 0 : 1;
}
