// SPDX-License-Identifier: MIT
// The ways to serve a request that the example compares: without a cache, promptkv, llama-server.
#ifndef PROMPTKV_EXAMPLES_LLAMA_WAYS_HPP
#define PROMPTKV_EXAMPLES_LLAMA_WAYS_HPP

#include "embed.hpp"
#include "llama_kv.hpp"
#include "server_policy.hpp"

#include <promptkv/promptkv.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>

using TokenSpan = std::span<const llama_token>;

/// What was restored for a request: `reused` tokens are in the sequence.
struct Restored {
    std::size_t reused = 0;
    std::string_view match = "none";
    std::size_t from_store = 0; // of `reused`; the others came from memory
};

/// A user is a session, so that the dead branch of an edited turn is evicted first. The system prompt belongs
/// to no session.
inline promptkv::InsertOptions options_of_turn(promptkv::Tier tier, std::uint64_t user,
                                               std::uint64_t request) {
    return {.session = tier == promptkv::Tier::system ? 0 : user, .request = request};
}

class NoCache {
public:
    static constexpr bool keeps = false;

    template <class Sequence>
    Restored restore(Sequence& sequence, TokenSpan /*prompt*/) {
        sequence.clear();
        return {};
    }
    template <class Sequence>
    void keep(Sequence& /*sequence*/, TokenSpan /*tokens*/, promptkv::Tier /*tier*/,
              std::uint64_t /*user*/) {}
    [[nodiscard]] std::size_t evictions() const { return 0; }
};

template <class KV>
class WithPromptkv {
public:
    static constexpr bool keeps = true;

    WithPromptkv(std::string model_key, std::size_t max_bytes)
        : model_key_(std::move(model_key)), cache_({.max_bytes = max_bytes}) {}

    Restored restore(llama_kv::Sequence<KV>& sequence, TokenSpan prompt) {
        const auto found = ::restore(cache_, model_key_, prompt, sequence);
        request_ = found.request();
        return {found.reused(), promptkv::name(found.match()), 0};
    }

    void keep(llama_kv::Sequence<KV>& sequence, TokenSpan tokens, promptkv::Tier tier,
              std::uint64_t user) {
        ::keep(cache_, model_key_, tokens, sequence, tier, options_of_turn(tier, user, request_));
    }

    [[nodiscard]] std::size_t evictions() const {
        return static_cast<std::size_t>(cache_.stats().evicted + cache_.stats().cut);
    }

private:
    std::string model_key_;
    Cache<KV> cache_;
    std::uint64_t request_ = 0;
};

/// llama-server saves a prompt with its answer when the request is done, and nothing before.
class WithServerPolicy {
public:
    static constexpr bool keeps = true;

    explicit WithServerPolicy(std::size_t max_bytes) : policy_(max_bytes) {}

    Restored restore(llama_kv::Sequence<llama_kv::AttentionKV>& sequence, TokenSpan prompt) {
        const auto taken = policy_.take(prompt);
        if (!taken) {
            sequence.clear();
            return {};
        }
        const std::size_t shared = std::min(taken->reused, prompt.size() - 1);
        const std::size_t reused = shared - shared % sequence.block_tokens();
        sequence.restore(taken->kv, reused);
        return {reused, "taken", 0};
    }

    void keep(llama_kv::Sequence<llama_kv::AttentionKV>& sequence, TokenSpan tokens,
              promptkv::Tier tier, std::uint64_t /*user*/) {
        if (tier == promptkv::Tier::assistant) {
            policy_.save(tokens, sequence.nbytes(tokens.size()), [&] {
                llama_kv::AttentionKV kv(sequence.block_tokens());
                sequence.save(kv, tokens.size());
                return kv;
            });
        }
    }

    [[nodiscard]] std::size_t evictions() const { return policy_.evicted(); }

private:
    ServerPolicy<llama_kv::AttentionKV, llama_token> policy_;
};

#endif
