// SPDX-License-Identifier: MIT
// PromptkvStore: promptkv behind the interface of the baselines, with shared blocks and without.
#ifndef PROMPTKV_BENCHMARKS_PROMPTKV_STORE_HPP
#define PROMPTKV_BENCHMARKS_PROMPTKV_STORE_HPP

#include <promptkv/promptkv.hpp>

#include "prefix_store.hpp"

#include <cstddef>
#include <optional>
#include <string_view>
#include <utility>

namespace baselines {

/// As an engine does that copies state at the start of a request, and holds nothing while it runs.
struct Leases {
    template <class Cache>
    static std::size_t lookup(Cache& cache, std::string_view model, Tokens prompt) {
        return cache.lease_nearest(model, prompt, {.min_remaining = 0}).reused();
    }

    static void end() {}
};

/// Attention state in blocks of 64 tokens that prompts share. It knows its size alone: a byte a token.
struct SharedState {
    static constexpr std::size_t granularity =
        64; // tokens; whole blocks are stored, each prefix is served

    struct Block {
        std::size_t nbytes() const noexcept { return granularity; }
    };
    using KV = promptkv::BlockKV<Block>;
    using Cache = promptkv::LRUPromptCache<KV>;
};

/// As an engine does that reads the blocks where they are: a request holds what it reuses while it runs,
/// adds blocks, and stores them all at its end.
struct HeldBlocks : SharedState {
    std::size_t lookup(Cache& cache, std::string_view model, Tokens prompt) {
        auto found = cache.fetch_nearest(model, prompt, {.min_remaining = 0});
        held_ = std::move(found.kv);
        return found.reused();
    }

    void insert(Cache& cache, std::string_view model, Tokens prompt) {
        KV kv = std::exchange(held_, {}).value_or(KV(granularity));
        kv.truncate(kv.length() / granularity * granularity); // the last block is made anew
        while (kv.length() < prompt.size())
            kv.append(Block{}, granularity);
        cache.insert(model, prompt, std::move(kv), promptkv::Tier::assistant);
    }

    void end() { held_.reset(); }

private:
    std::optional<KV> held_; // by the request that runs
};

/// As an engine does that copies the blocks: from a lease at the start, into a reservation at the end.
struct CopiedBlocks : SharedState, Leases {
    static void insert(Cache& cache, std::string_view model, Tokens prompt) {
        auto room = cache.reserve(model, prompt, prompt.size(), promptkv::Tier::assistant);
        if (!room)
            return;
        KV kv = room.prefix().value_or(KV(granularity));
        while (kv.length() < room.tokens()) // only the blocks that are not stored yet are made
            kv.append(Block{}, granularity);
        room.commit(std::move(kv));
    }
};

/// Attention state of its own in each entry, which can be cut anywhere. It knows its length alone.
struct OwnState : Leases {
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

/// `State`: HeldBlocks, CopiedBlocks or OwnState.
template <class State>
class PromptkvStore final : public PrefixStore {
public:
    static constexpr std::size_t granularity = State::granularity;

    std::size_t match(Tokens prompt) const override {
        return cache_.probe(model, prompt, {.min_remaining = 0}).reused();
    }

    std::size_t lookup(Tokens prompt) override { return state_.lookup(cache_, model, prompt); }

    void insert(Tokens prompt) override {
        const std::size_t whole = prompt.size() / granularity * granularity;
        if (whole > 0)
            state_.insert(cache_, model, prompt.first(whole));
    }

    std::size_t evict(std::size_t n_tokens) override {
        state_.end(); // what a request holds is not freed
        return cache_.evict(n_tokens);
    }

    std::size_t tokens_held() const override { return cache_.nbytes(); }

private:
    static constexpr std::string_view model = "model";

    typename State::Cache cache_;
    State state_;
};

} // namespace baselines

#endif
