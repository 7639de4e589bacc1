// SPDX-License-Identifier: MIT
// PromptkvStore: promptkv behind the interface of the baselines.
#ifndef PROMPTKV_BENCHMARKS_PROMPTKV_STORE_HPP
#define PROMPTKV_BENCHMARKS_PROMPTKV_STORE_HPP

#include <promptkv/promptkv.hpp>

#include "prefix_store.hpp"

#include <string_view>

namespace baselines {

/// Attention state that knows its length alone: one byte a token, can be cut anywhere.
struct TokenCount {
    std::size_t tokens = 0;

    std::size_t nbytes() const noexcept { return tokens; }
    std::size_t length() const noexcept { return tokens; }
    std::size_t reusable_prefix(std::size_t n) const noexcept { return n; }
    TokenCount clone_prefix(std::size_t n) const { return {n}; }
    void truncate(std::size_t n) noexcept { tokens = n; }
};

class PromptkvStore final : public PrefixStore {
public:
    std::size_t match(Tokens prompt) const override {
        return cache_.probe(model, prompt, {.min_remaining = 0}).reused;
    }

    std::size_t lookup(Tokens prompt) override {
        return cache_.lease_nearest(model, prompt, {.min_remaining = 0}).reused;
    }

    void insert(Tokens prompt) override {
        cache_.insert(model, prompt, TokenCount{prompt.size()}, promptkv::Tier::assistant);
    }

    std::size_t evict(std::size_t n_tokens) override {
        const std::size_t before = cache_.nbytes();
        cache_.trim_to({.max_bytes = before > n_tokens ? before - n_tokens : 0});
        return before - cache_.nbytes();
    }

    std::size_t tokens_held() const override { return cache_.nbytes(); }

private:
    static constexpr std::string_view model = "model";

    promptkv::LRUPromptCache<TokenCount> cache_;
};

} // namespace baselines

#endif
