// SPDX-License-Identifier: MIT
// simulate_bound: replays a trace on shared blocks, without a cache.
#ifndef PROMPTKV_REPLAY_BOUNDS_HPP
#define PROMPTKV_REPLAY_BOUNDS_HPP

#include "simulate.hpp"

namespace replay {

/// Replays `trace` on a store that holds each block once, whatever prompts share it, and no block
/// without those before it. After each request all its blocks are in the store, partial ones too, with
/// InsertWay::server those of its output as well. Then blocks are given up, one by one, until they fit.
///
/// - Policy::lru gives up the block whose last use is the oldest.
/// - Policy::optimum gives up the block that is read again last, or never (Belady). All blocks
///   have the same size, and a new block need not be kept, so no policy can reach more. Where the
///   same output is generated again, its blocks count as read for the first time after that.
///
/// Of several blocks the deepest goes first.
/// Requires: is_bound(settings.policy).
[[nodiscard]] Result simulate_bound(const Trace& trace, const Settings& settings,
                                    const Capacity& capacity, const Progress& progress = nullptr);

} // namespace replay

#endif
