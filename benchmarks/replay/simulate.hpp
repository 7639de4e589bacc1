// SPDX-License-Identifier: MIT
// simulate: replays a trace by one policy and counts what it saved.
#ifndef PROMPTKV_REPLAY_SIMULATE_HPP
#define PROMPTKV_REPLAY_SIMULATE_HPP

#include <promptkv/cache_types.hpp>

#include "capacity.hpp"
#include "policy.hpp"
#include "trace.hpp"

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

namespace replay {

/// What the KV state of the replayed engine is.
enum class PayloadKind : std::uint8_t {
    blocks, ///< full attention in blocks that entries share (promptkv::BlockKV)
    prefix, ///< full attention of its own: serves every prefix, can be cut, shares nothing
    whole,  ///< recurrent state: serves its whole key only
};

/// What is stored of a request.
enum class InsertWay : std::uint8_t {
    prompt, ///< the prompt, as `assistant`
    tiers,  ///< the system prompt as `system`, the prompt as `user`
    server, ///< the same, and the prompt with its output as `assistant`, each in its session
};

/// How the trace is replayed and with which options of the cache.
struct Settings {
    Policy policy = Policy::tiered_lru;
    PayloadKind payload = PayloadKind::blocks; ///< but see `payload_of`
    InsertWay insert = InsertWay::prompt;
    std::uint64_t block_tokens = 1; ///< block ids of the trace that a shared block holds
    bool sessions = true;           ///< whether InsertWay::server names the sessions of the trace
    std::uint64_t bytes_per_token = 131'072; ///< 8 KV heads of 128 in 32 layers, 16 bits a number
    std::size_t max_entries = promptkv::unlimited;
    bool curve = false; ///< whether a cache with ReuseOrder keeps its curve of hit ratios
    bool guard = false; ///< whether it orders by recency while it is behind LRU
};

/// The payload that is replayed: that of the settings, except that a bound always shares blocks and that
/// the reference never does.
[[nodiscard]] PayloadKind payload_of(const Settings& settings) noexcept;

/// Time of the faster half of the operations, and of all but a hundredth of them.
struct Latency {
    std::chrono::nanoseconds p50{0};
    std::chrono::nanoseconds p99{0};
};

/// A point of a curve of hit ratios.
struct CurvePoint {
    std::uint64_t bytes = 0; ///< budget
    double hit_ratio = 0;

    friend bool operator==(const CurvePoint&, const CurvePoint&) = default;
};

/// Outcome of one replay. A bound leaves everything after `tokens_saved` at 0, except for `bytes`.
struct Result {
    static constexpr std::size_t tier_count = 3; ///< assistant, user, system

    Policy policy = Policy::tiered_lru;
    PayloadKind payload = PayloadKind::blocks;
    Capacity capacity;
    std::uint64_t requests = 0;
    std::uint64_t requests_hit = 0; ///< those of which at least one block was reused
    std::uint64_t tokens = 0;
    std::uint64_t tokens_saved = 0;
    std::array<std::uint64_t, tier_count> evicted{}; ///< entries evicted whole, by tier
    std::array<std::uint64_t, tier_count> cut{};     ///< entries cut instead, by tier
    std::uint64_t refused = 0;                       ///< inserts: too_large, no_room, declined
    std::uint64_t entries = 0;                       ///< at the end, as are the following
    std::uint64_t bytes = 0;
    std::uint64_t bytes_referenced = 0; ///< a shared block counts once for each entry
    std::uint64_t index_bytes = 0;
    std::uint64_t operations = 0;
    std::chrono::nanoseconds time{0}; ///< of the operations
    Latency fetch;
    Latency insert;
    std::vector<CurvePoint> curve; ///< the cache's `hit_ratio_curve()`; empty: it has none

    /// Counts a request that could reuse `reusable_tokens`.
    void count(std::uint64_t input_tokens, std::uint64_t reusable_tokens) noexcept;

    [[nodiscard]] double token_hit_ratio() const noexcept;
    [[nodiscard]] double operations_per_second() const noexcept;
};

/// Told now and then how many requests are done.
using Progress = std::function<void(std::size_t)>;

/// Tells `progress`, if there is one, that `done` requests are done, after each 64th request.
void report_progress(const Progress& progress, std::size_t done);

/// Replays `trace` in order at `capacity`: a bound as `simulate_bound` says, any other policy through
/// a cache. A block id is a token of the key, and an
/// entry takes `bytes_per_token` for each token of its whole blocks. For each request:
/// 1. lease with all its ids; the blocks reused count for `block_size` tokens each, the request for
///    no more than its input;
/// 2. insert what `InsertWay` says, as far as the trace knows it: whole blocks alone. A payload of
///    blocks is built as an engine builds it: reserve, extend what is stored already, commit.
/// Requires: `policies()` has the policy.
/// Throws: std::invalid_argument when the bytes of all prompts together are more than can be counted.
[[nodiscard]] Result simulate(const Trace& trace, const Settings& settings,
                              const Capacity& capacity, const Progress& progress = nullptr);

} // namespace replay

#endif
