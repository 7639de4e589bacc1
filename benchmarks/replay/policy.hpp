// SPDX-License-Identifier: MIT
// Policy: what decides which state is given up when the budget is full.
#ifndef PROMPTKV_REPLAY_POLICY_HPP
#define PROMPTKV_REPLAY_POLICY_HPP

#include <cstdint>
#include <span>
#include <string_view>

namespace replay {

enum class Policy : std::uint8_t {
    tiered_lru, ///< promptkv::TieredLRU
    reuse,      ///< promptkv::ReuseOrder
    reference,  ///< promptkv::TieredLRU by the rules of the cache that promptkv started from
    lru,        ///< the least recently used block, without promptkv
    optimum, ///< the block whose next use lies furthest ahead: the most that any policy can reach
};

[[nodiscard]] std::string_view name(Policy policy) noexcept;

/// The policies that can be replayed, in the order of the enum.
/// `reuse` is missing where promptkv has no ReuseOrder.
[[nodiscard]] std::span<const Policy> policies() noexcept;

/// Whether `policy` is a bound: it is replayed on the blocks of the trace, not through a cache.
[[nodiscard]] constexpr bool is_bound(Policy policy) noexcept {
    return policy == Policy::lru || policy == Policy::optimum;
}

} // namespace replay

#endif
