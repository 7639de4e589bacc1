// SPDX-License-Identifier: MIT
// The ways to serve a request that the example compares: what is restored, and what is kept.
#ifndef PROMPTKV_EXAMPLES_WAYS_HPP
#define PROMPTKV_EXAMPLES_WAYS_HPP

#include "llama_kv.hpp"
#include "server_policy.hpp"

#include <promptkv/promptkv.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <utility>

/// What was restored for a request: `reused` tokens are in the sequence.
struct Restored {
    std::size_t reused = 0;
    const char* match = "none";
};

class NoCache {
public:
    static constexpr bool keeps = false;

    template <class Port>
    Restored restore(Port& port, std::span<const llama_token> /*prompt*/, std::size_t /*align*/) {
        port.clear();
        return {};
    }
    template <class Port>
    void keep(Port& /*port*/, std::span<const llama_token> /*tokens*/, promptkv::Tier /*tier*/) {}
    [[nodiscard]] std::size_t evictions() const { return 0; }
};

template <class KV>
class WithPromptkv {
public:
    static constexpr bool keeps = true;

    WithPromptkv(std::string model_key, std::size_t max_bytes, std::size_t segment_tokens)
        : model_key_(std::move(model_key)),
          cache_({.max_bytes = max_bytes, .cut_granularity = segment_tokens}) {}

    template <class Port>
    Restored restore(Port& port, std::span<const llama_token> prompt, std::size_t align) {
        const auto lease =
            cache_.lease_nearest(model_key_, prompt, {.min_reuse = align, .align = align});
        if (!lease) {
            port.clear();
            return {};
        }
        port.restore(lease.kv(), lease.reused); // from the cache's own bytes into the context
        static constexpr std::array names = {"none", "exact", "shorter", "longer"};
        return {lease.reused, names[static_cast<std::size_t>(lease.match)]};
    }

    template <class Port>
    void keep(Port& port, std::span<const llama_token> tokens, promptkv::Tier tier) {
        cache_.insert(model_key_, tokens, port.nbytes(tokens.size()), tier,
                      [&] { return port.save(tokens.size()); });
    }

    [[nodiscard]] std::size_t evictions() const {
        return static_cast<std::size_t>(cache_.stats().evicted + cache_.stats().cut);
    }

private:
    std::string model_key_;
    promptkv::LRUPromptCache<KV, std::string, llama_token> cache_;
};

/// llama-server saves a prompt with its answer when the request is done, and nothing before.
template <class KV>
class WithServerPolicy {
public:
    static constexpr bool keeps = true;

    explicit WithServerPolicy(std::size_t max_bytes) : policy_(max_bytes) {}

    template <class Port>
    Restored restore(Port& port, std::span<const llama_token> prompt, std::size_t align) {
        auto taken = policy_.take(prompt);
        if (!taken) {
            port.clear();
            return {};
        }
        const std::size_t shared = std::min(taken->reused, prompt.size() - 1);
        port.restore(taken->kv, shared - shared % align);
        return {shared - shared % align, "taken"};
    }

    template <class Port>
    void keep(Port& port, std::span<const llama_token> tokens, promptkv::Tier tier) {
        if (tier == promptkv::Tier::assistant) {
            policy_.save(tokens, port.nbytes(tokens.size()),
                         [&] { return port.save(tokens.size()); });
        }
    }

    [[nodiscard]] std::size_t evictions() const { return policy_.evicted(); }

private:
    ServerPolicy<KV, llama_token> policy_;
};

#endif
