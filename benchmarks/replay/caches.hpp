// SPDX-License-Identifier: MIT
// The caches that a trace is replayed through, each compiled on its own.
#ifndef PROMPTKV_REPLAY_CACHES_HPP
#define PROMPTKV_REPLAY_CACHES_HPP

#include "simulate.hpp"

namespace replay {

/// Whether promptkv has ReuseOrder.
[[nodiscard]] bool has_reuse_order() noexcept;

/// Whether a cache with ReuseOrder has a curve of hit ratios.
[[nodiscard]] bool has_hit_ratio_curve() noexcept;

/// Requires: has_reuse_order().
[[nodiscard]] Result replay_through_reuse_order(const Trace& trace, const Settings& settings,
                                                const Capacity& capacity, const Progress& progress);

[[nodiscard]] Result replay_through_tiered_lru(const Trace& trace, const Settings& settings,
                                               const Capacity& capacity, const Progress& progress);

} // namespace replay

#endif
