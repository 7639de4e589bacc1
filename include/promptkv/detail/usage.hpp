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
#include <cstdint>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// Tells the counters and the policy of a lookup's choice.
template <class R>
class Usage {
public:
    using Tokens = typename R::Tokens;

    explicit Usage(Parts<R>& parts) noexcept : parts_(parts) {}

    /// Counts a lookup and does what it does to recency. Returns its number.
    std::uint64_t count(const Choice<R>& choice, Tokens tokens) noexcept {
        Stats& stats = parts_.stats;
        ++stats.lookups;
        stats.tokens_requested += tokens.size();
        stats.tokens_reused += choice.reused;
        Edges<R>(parts_).looked_up(choice, tokens);
        switch (choice.match) {
        case Match::none:
            ++missed(choice.miss);
            return stats.lookups;
        case Match::exact:
            ++stats.hits_exact;
            break;
        case Match::shorter:
            ++stats.hits_shorter;
            break;
        case Match::longer:
            ++stats.hits_longer;
            break;
        }
        if (choice.reused < Stats::tiny_reuse)
            ++stats.hits_tiny;
        TierStats& tier = parts_.tiers[tier_index(choice.record->tier)];
        ++tier.hits;
        tier.tokens_reused += choice.reused;
        refresh(choice, tokens);
        return stats.lookups;
    }

    /// What a use of a match does to recency.
    void refresh(const Choice<R>& choice, Tokens tokens) noexcept {
        R& match = *choice.record;
        match.used = true;
        if (parts_.is_mlx_lm())
            return;
        const R* above = Index<R>::entry_at_or_above(choice.spot.place.node);
        if (above != nullptr && (above != &match || Index<R>::prefix_of(match) != nullptr)) {
            Index<R>::for_each_on_path(choice.spot, tokens, choice.reused, [&](R& entry) {
                if (&entry != &match)
                    parts_.use(entry);
            });
        }
        if (choice.match == Match::longer)
            match.chance = (std::max)(match.chance, static_cast<std::uint32_t>(choice.reused));
        else
            parts_.use(match);
    }

private:
    [[nodiscard]] std::uint64_t& missed(MissReason reason) noexcept {
        Stats& stats = parts_.stats;
        switch (reason) {
        case MissReason::evicted:
            return stats.missed_evicted;
        case MissReason::not_cuttable:
            return stats.missed_not_cuttable;
        case MissReason::needs_last_token:
            return stats.missed_needs_last_token;
        case MissReason::leased:
            return stats.missed_leased;
        case MissReason::below_min_reuse:
            return stats.missed_below_min_reuse;
        default:
            return stats.missed_nothing_shared;
        }
    }

    Parts<R>& parts_;
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
