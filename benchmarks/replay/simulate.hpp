// SPDX-License-Identifier: MIT
// simulate: replays a trace through promptkv::LRUPromptCache and counts what it saved.
#ifndef PROMPTKV_REPLAY_SIMULATE_HPP
#define PROMPTKV_REPLAY_SIMULATE_HPP

#include "capacity.hpp"
#include "trace.hpp"

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>

namespace replay {

/// What the KV state of the replayed engine can do.
enum class PayloadKind : std::uint8_t {
    cuttable, ///< full attention: serves every prefix, can be cut to any length
    whole,    ///< recurrent state: serves its whole key only
};

/// How the trace is replayed and with which options of the cache.
struct Settings {
    PayloadKind payload = PayloadKind::cuttable;
    bool tiers = false; ///< store system prompts as `system` and prompts as `user`
    std::uint64_t bytes_per_token = 131'072; ///< 8 KV heads of 128 in 32 layers, 16 bits a number
    std::size_t max_entries = std::numeric_limits<std::size_t>::max();
    std::size_t cut_granularity = 1; ///< blocks
    bool keep_anchors = true;
    bool supersede = true;
    bool refresh_on_fetch = true;

    /// The cache that promptkv started from: everything off that it adds.
    void follow_reference() noexcept {
        cut_granularity = 0;
        keep_anchors = supersede = refresh_on_fetch = false;
    }
};

/// Time of the faster half of the operations, and of all but a hundredth of them.
struct Latency {
    std::chrono::nanoseconds p50{0};
    std::chrono::nanoseconds p99{0};
};

/// Outcome of one replay.
struct Result {
    static constexpr std::size_t tier_count = 3; ///< assistant, user, system

    Capacity capacity;
    std::uint64_t requests = 0;
    std::uint64_t requests_hit = 0; ///< those of which at least one block was reused
    std::uint64_t tokens = 0;
    std::uint64_t tokens_saved = 0;
    std::array<std::uint64_t, tier_count> evicted{}; ///< entries dropped, by tier
    std::array<std::uint64_t, tier_count> cut{};     ///< entries shortened instead, by tier
    std::uint64_t entries = 0;                       ///< at the end, as are the following
    std::uint64_t anchors = 0;
    std::uint64_t bytes = 0;
    std::uint64_t index_bytes = 0;
    std::uint64_t operations = 0;
    std::chrono::nanoseconds time{0}; ///< in the cache alone
    Latency fetch;
    Latency insert;

    [[nodiscard]] double token_hit_ratio() const noexcept;
    [[nodiscard]] double operations_per_second() const noexcept;
};

/// Told now and then how many requests are done.
using Progress = std::function<void(std::size_t)>;

/// Replays `trace` in order through a cache of `capacity`. A block id is a token of the key, and an
/// entry takes `bytes_per_token` for each token of its whole blocks. For each request:
/// 1. fetch with all its ids (a lease: nothing is copied); the blocks reused count for
///    `block_size` tokens each, the request for no more than its input;
/// 2. with tiers, where the system prompt is known: insert its whole blocks as `system`;
/// 3. insert the whole blocks of the input as `user` with tiers, as `assistant` without.
[[nodiscard]] Result simulate(const Trace& trace, const Settings& settings,
                              const Capacity& capacity, const Progress& progress = nullptr);

} // namespace replay

#endif
