// SPDX-License-Identifier: MIT
// What the cache counts.
#ifndef PROMPTKV_STATS_HPP
#define PROMPTKV_STATS_HPP

#include <promptkv/version.hpp>

#include <cstddef>
#include <cstdint>

namespace promptkv::inline PROMPTKV_ABI {

/// Counters since the cache was made; they only grow. The gauges at the end say what is held now, and
/// `peak_nbytes` the most that was. A probe counts nothing.
struct Stats {
    /// A hit that reuses fewer tokens than this counts in `hits_tiny`: a BOS token or a template header.
    static constexpr std::size_t tiny_reuse = 16;

    std::uint64_t lookups = 0;    ///< fetches, leases and takes
    std::uint64_t hits_exact = 0; ///< of these, by the relation of the entry's key to the prompt
    std::uint64_t hits_shorter = 0;
    std::uint64_t hits_longer = 0;
    std::uint64_t hits_tiny = 0;             ///< of the hits, those below `tiny_reuse` tokens
    std::uint64_t missed_nothing_shared = 0; ///< the other lookups, by their MissReason
    std::uint64_t missed_evicted = 0;
    std::uint64_t missed_not_cuttable = 0;
    std::uint64_t missed_needs_last_token = 0;
    std::uint64_t missed_leased = 0;
    std::uint64_t missed_below_min_reuse = 0;
    std::uint64_t tokens_requested = 0; ///< tokens of all prompts looked up
    std::uint64_t tokens_reused = 0;    ///< of these, tokens whose KV was handed back
    std::uint64_t stored = 0;           ///< inserts, by their Outcome
    std::uint64_t replaced = 0;
    std::uint64_t present = 0;
    std::uint64_t declined = 0;
    std::uint64_t cancelled = 0;
    std::uint64_t too_large = 0;
    std::uint64_t no_room = 0;
    std::uint64_t stored_in_part = 0; ///< of those that were stored or replaced: a part alone
    std::uint64_t evicted = 0;        ///< entries evicted whole
    std::uint64_t evicted_unused = 0; ///< of these, entries that nothing ever used
    std::uint64_t cut = 0;            ///< evictions of an entry's tail
    std::uint64_t absorbed = 0;       ///< entries that left because a longer one serves their keys
    std::uint64_t erased = 0;         ///< entries that the caller erased
    std::uint64_t taken = 0;
    std::uint64_t cleared = 0;
    std::uint64_t superseded = 0; ///< entries that a longer one made the next victims of their tier
    std::uint64_t demoted = 0;    ///< entries that their session's next entry made the next victims
    std::uint64_t tokens_evicted = 0; ///< tokens of evicted entries and of cut tails
    std::uint64_t bytes_evicted = 0;  ///< bytes that evictions freed
    std::size_t bytes_referenced = 0; ///< of all entries; a shared block counts once for each
    std::size_t bytes_leased = 0;     ///< of leased payloads; a shared block counts once for each
    std::size_t bytes_reserved = 0;   ///< bytes held for reservations
    std::size_t peak_nbytes = 0;      ///< the most that `nbytes()` has been
};

/// Counters and gauges of one tier.
struct TierStats {
    std::size_t entries = 0;
    std::size_t nbytes = 0;          ///< sum of what its entries refer to
    std::uint64_t hits = 0;          ///< lookups that an entry of the tier served
    std::uint64_t tokens_reused = 0; ///< tokens handed back by these
    std::uint64_t evicted = 0;
    std::uint64_t cut = 0;
};

/// Calls `f(name, value)` for each counter and gauge, in the order of declaration.
template <class F>
void for_each_counter(const Stats& s, F f) {
    f("lookups", s.lookups);
    f("hits_exact", s.hits_exact);
    f("hits_shorter", s.hits_shorter);
    f("hits_longer", s.hits_longer);
    f("hits_tiny", s.hits_tiny);
    f("missed_nothing_shared", s.missed_nothing_shared);
    f("missed_evicted", s.missed_evicted);
    f("missed_not_cuttable", s.missed_not_cuttable);
    f("missed_needs_last_token", s.missed_needs_last_token);
    f("missed_leased", s.missed_leased);
    f("missed_below_min_reuse", s.missed_below_min_reuse);
    f("tokens_requested", s.tokens_requested);
    f("tokens_reused", s.tokens_reused);
    f("stored", s.stored);
    f("replaced", s.replaced);
    f("present", s.present);
    f("declined", s.declined);
    f("cancelled", s.cancelled);
    f("too_large", s.too_large);
    f("no_room", s.no_room);
    f("stored_in_part", s.stored_in_part);
    f("evicted", s.evicted);
    f("evicted_unused", s.evicted_unused);
    f("cut", s.cut);
    f("absorbed", s.absorbed);
    f("erased", s.erased);
    f("taken", s.taken);
    f("cleared", s.cleared);
    f("superseded", s.superseded);
    f("demoted", s.demoted);
    f("tokens_evicted", s.tokens_evicted);
    f("bytes_evicted", s.bytes_evicted);
    f("bytes_referenced", s.bytes_referenced);
    f("bytes_leased", s.bytes_leased);
    f("bytes_reserved", s.bytes_reserved);
    f("peak_nbytes", s.peak_nbytes);
}

template <class F>
void for_each_counter(const TierStats& s, F f) {
    f("entries", s.entries);
    f("nbytes", s.nbytes);
    f("hits", s.hits);
    f("tokens_reused", s.tokens_reused);
    f("evicted", s.evicted);
    f("cut", s.cut);
}

} // namespace promptkv::inline PROMPTKV_ABI

#endif
