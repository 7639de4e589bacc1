// SPDX-License-Identifier: MIT
// promptkv with a second level: state that outlives the process, in a directory or a Redis server.
#ifndef PROMPTKV_EXAMPLES_LLAMA_STORE_HPP
#define PROMPTKV_EXAMPLES_LLAMA_STORE_HPP

#include "embed.hpp"
#include "ways.hpp"

#include <promptkv/second_level.hpp>

#include <llama.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

/// As WithPromptkv. What it evicts goes to the store, and what a prompt lacks comes from there.
template <class KV, class Store>
class WithStore {
public:
    static constexpr bool keeps = true;

    WithStore(std::string model_key, std::size_t max_bytes, std::size_t block_tokens, Store& store)
        : model_key_(std::move(model_key)), cache_({.max_bytes = max_bytes}),
          second_(cache_, store,
                  // The model key names the weights and the context; the build is not in it.
                  {.fingerprint = promptkv::fingerprint_of(model_key_ + llama_print_system_info()),
                   .block_tokens = block_tokens}) {}

    Restored restore(llama_kv::Sequence<KV>& sequence, TokenSpan prompt) {
        const auto load = second_.prefetch(model_key_, prompt);
        const auto found = ::restore(cache_, model_key_, prompt, sequence);
        request_ = found.request();
        const std::size_t in_memory = load.tokens() - load.loaded();
        const std::size_t from_store = found.reused() - std::min(found.reused(), in_memory);
        return {found.reused(), promptkv::name(found.match()), from_store};
    }

    void keep(llama_kv::Sequence<KV>& sequence, TokenSpan tokens, promptkv::Tier tier,
              std::uint64_t user) {
        ::keep(cache_, model_key_, tokens, sequence, tier, options_of_turn(tier, user, request_));
    }

    [[nodiscard]] std::size_t evictions() const {
        return static_cast<std::size_t>(cache_.stats().evicted + cache_.stats().cut);
    }

    /// Writes what memory holds, as a server does before it ends.
    bool flush() {
        return second_.flush(std::chrono::steady_clock::now() + std::chrono::seconds(60));
    }
    [[nodiscard]] promptkv::SecondLevelStats stats() const { return second_.stats(); }

private:
    std::string model_key_;
    Cache<KV> cache_;
    promptkv::SecondLevel<Cache<KV>, Store> second_;
    std::uint64_t request_ = 0;
};

#endif
