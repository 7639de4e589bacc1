// SPDX-License-Identifier: MIT
// What the cache counts.
#ifndef PROMPTKV_STATS_HPP
#define PROMPTKV_STATS_HPP

#include <promptkv/version.hpp>

#include <cstddef>
#include <cstdint>

namespace promptkv::inline PROMPTKV_ABI {

/// Counts since the cache was made; they only grow, except `bytes_leased`. A probe counts nothing.
struct Stats {
    std::uint64_t lookups = 0;    ///< fetches, leases and takes
    std::uint64_t hits_exact = 0; ///< of these, by the relation of the entry's key to the prompt
    std::uint64_t hits_shorter = 0;
    std::uint64_t hits_longer = 0;
    std::uint64_t missed_nothing_shared = 0; ///< the others, by their MissReason
    std::uint64_t missed_other_model = 0;
    std::uint64_t missed_only_anchor = 0;
    std::uint64_t missed_not_cuttable = 0;
    std::uint64_t missed_leased = 0;
    std::uint64_t missed_below_min_reuse = 0;
    std::uint64_t tokens_requested = 0; ///< tokens of all prompts looked up
    std::uint64_t tokens_reused = 0;    ///< of these, tokens whose KV was handed back
    std::uint64_t inserted = 0;         ///< payloads stored at a new key, or at an anchor's
    std::uint64_t replaced = 0;         ///< payloads stored in place of another
    std::uint64_t anchored = 0;         ///< inserts that needed no payload
    std::uint64_t absorbed = 0;         ///< payloads that went because a new one serves their keys
    std::uint64_t evicted = 0;          ///< entries dropped whole for want of room
    std::uint64_t cut = 0;              ///< cuts of entries for want of room
    std::uint64_t superseded = 0;       ///< entries that a longer one sent to the cold end
    std::uint64_t too_large = 0;        ///< inserts refused
    std::uint64_t no_room = 0;          ///< inserts refused
    std::uint64_t tokens_evicted = 0;   ///< tokens of dropped entries, and what cuts took
    std::uint64_t bytes_evicted = 0;
    std::uint64_t evicted_unused = 0; ///< entries dropped whole that never served a lookup
    std::size_t bytes_leased = 0;     ///< bytes of payloads leased now
    std::size_t peak_nbytes = 0;      ///< the largest that `nbytes()` has been
};

/// The same for one tier: what it holds now, and what it lost.
struct TierStats {
    std::size_t entries = 0;
    std::size_t anchors = 0;
    std::size_t nbytes = 0;
    std::uint64_t evicted = 0;
    std::uint64_t cut = 0;
};

} // namespace promptkv::inline PROMPTKV_ABI

#endif
