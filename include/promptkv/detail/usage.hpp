// SPDX-License-Identifier: MIT
// Usage: what a lookup changes: counters and recency.
#ifndef PROMPTKV_DETAIL_USAGE_HPP
#define PROMPTKV_DETAIL_USAGE_HPP

#include <promptkv/cache_types.hpp>
#include <promptkv/detail/edges.hpp>
#include <promptkv/detail/index.hpp>
#include <promptkv/detail/lookup.hpp>
#include <promptkv/detail/parts.hpp>
#include <promptkv/stats.hpp>
#include <promptkv/version.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// What a use of a match does to recency.
template <class R>
void refresh(Parts<R>& parts, const Choice<R>& choice, typename R::Tokens tokens) noexcept {
    R& match = *choice.record;
    match.used = true;
    if (parts.is_mlx_lm())
        return;
    const R* above = detail::entry_at_or_above(choice.spot.place.node);
    if (above != nullptr && (above != &match || detail::prefix_of(match) != nullptr)) {
        choice.spot.home->tree.for_each_on_path(choice.spot.place, tokens, [&](auto& node) {
            if (node.has_entry() && node.value != &match && node.depth <= choice.reused)
                parts.use(*node.value);
        });
    }
    if (choice.match == Match::longer)
        match.chance = (std::max)(match.chance, static_cast<std::uint32_t>(choice.reused));
    else
        parts.use(match);
}

/// The same, and the policy is told which edges the prompt uses.
template <class R>
void touch(Parts<R>& parts, const Choice<R>& choice, typename R::Tokens tokens) noexcept {
    Edges<R>(parts).touched(choice.spot, choice.record);
    detail::refresh(parts, choice, tokens);
}

/// Counts a lookup and does what it does to recency. Returns its number.
template <class R>
std::uint64_t count_lookup(Parts<R>& parts, const Choice<R>& choice,
                           typename R::Tokens tokens) noexcept {
    using Counter = std::uint64_t Stats::*;
    static constexpr std::array<Counter, 4> hits{nullptr, &Stats::hits_exact, &Stats::hits_shorter,
                                                 &Stats::hits_longer};
    // Null: no lookup misses for this reason.
    static constexpr std::array<Counter, 8> misses{nullptr,
                                                   &Stats::missed_nothing_shared,
                                                   nullptr,
                                                   &Stats::missed_evicted,
                                                   &Stats::missed_not_cuttable,
                                                   &Stats::missed_needs_last_token,
                                                   &Stats::missed_leased,
                                                   &Stats::missed_below_min_reuse};
    Stats& stats = parts.stats;
    ++stats.lookups;
    const std::uint64_t number = ++parts.requests;
    stats.tokens_requested += tokens.size();
    stats.tokens_reused += choice.reused;
    Edges<R>(parts).looked_up(choice, tokens);
    if (choice.record == nullptr) {
        ++(stats.*misses[static_cast<std::size_t>(choice.miss)]);
        return number;
    }
    ++(stats.*hits[static_cast<std::size_t>(choice.match)]);
    if (choice.reused < Stats::tiny_reuse)
        ++stats.hits_tiny;
    TierStats& tier = parts.tiers[detail::tier_index(choice.record->tier)];
    ++tier.hits;
    tier.tokens_reused += choice.reused;
    detail::refresh(parts, choice, tokens);
    return number;
}

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
