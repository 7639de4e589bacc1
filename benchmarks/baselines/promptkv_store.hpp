// SPDX-License-Identifier: MIT
// PromptkvStore: promptkv behind the interface of the baselines, with shared blocks and without.
#ifndef PROMPTKV_BENCHMARKS_PROMPTKV_STORE_HPP
#define PROMPTKV_BENCHMARKS_PROMPTKV_STORE_HPP

#include <promptkv/promptkv.hpp>

#include "prefix_store.hpp"

#include <string_view>
#include <utility>

namespace baselines {

/// Attention state in blocks of 64 tokens that prompts share. It knows its size alone: a byte a token.
struct SharedState {
    static constexpr std::size_t granularity =
        64; // tokens; whole blocks are stored, each prefix is served

    struct Block {
        std::size_t nbytes() const noexcept { return granularity; }
    };
    using KV = promptkv::BlockKV<Block>;
    using Cache = promptkv::LRUPromptCache<KV>;

    /// As an engine does: only the blocks that are not stored yet are made.
    static void insert(Cache& cache, std::string_view model, Tokens prompt) {
        auto room = cache.reserve(model, prompt, prompt.size(), promptkv::Tier::assistant);
        if (!room) {
            return;
        }
        KV kv = room.prefix().value_or(KV(granularity));
        while (kv.length() < room.tokens()) {
            kv.append(Block{}, granularity);
        }
        room.commit(std::move(kv));
    }
};

/// Attention state of its own in each entry, which can be cut anywhere. It knows its length alone.
struct OwnState {
    static constexpr std::size_t granularity = 1;

    struct KV {
        std::size_t tokens = 0;

        std::size_t nbytes() const noexcept { return tokens; }
        std::size_t length() const noexcept { return tokens; }
        std::size_t reusable_prefix(std::size_t n) const noexcept { return n; }
        KV clone_prefix(std::size_t n) const { return {n}; } // a probe answers as a fetch does
        void truncate(std::size_t n) noexcept { tokens = n; }
    };
    using Cache = promptkv::LRUPromptCache<KV>;

    static void insert(Cache& cache, std::string_view model, Tokens prompt) {
        cache.insert(model, prompt, KV{prompt.size()}, promptkv::Tier::assistant);
    }
};

/// `State`: SharedState or OwnState.
template <class State>
class PromptkvStore final : public PrefixStore {
public:
    static constexpr std::size_t granularity = State::granularity;

    std::size_t match(Tokens prompt) const override {
        return cache_.probe(model, prompt, {.min_remaining = 0}).reused();
    }

    std::size_t lookup(Tokens prompt) override {
        return cache_.lease_nearest(model, prompt, {.min_remaining = 0}).reused();
    }

    void insert(Tokens prompt) override {
        const std::size_t whole = prompt.size() / granularity * granularity;
        if (whole > 0) {
            State::insert(cache_, model, prompt.first(whole));
        }
    }

    std::size_t evict(std::size_t n_tokens) override { return cache_.evict(n_tokens); }

    std::size_t tokens_held() const override { return cache_.nbytes(); }

private:
    static constexpr std::string_view model = "model";

    typename State::Cache cache_;
};

} // namespace baselines

#endif
