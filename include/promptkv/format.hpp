// SPDX-License-Identifier: MIT
// fmt formatters of the enums, the statistics and explanations. Needs fmt 9.1 or newer; not in the umbrella header.
#ifndef PROMPTKV_FORMAT_HPP
#define PROMPTKV_FORMAT_HPP

#include <promptkv/cache_types.hpp>
#include <promptkv/stats.hpp>
#include <promptkv/tier.hpp>

#include <fmt/format.h>

#include <cstddef>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// Formats an enumerator as the name at its place.
template <class Enum>
struct EnumFormatter : fmt::formatter<fmt::string_view> {
    template <std::size_t N>
    auto write(Enum value, const fmt::string_view (&names)[N], fmt::format_context& context) const {
        const auto i = static_cast<std::size_t>(value);
        return fmt::formatter<fmt::string_view>::format(i < N ? names[i] : "?", context);
    }
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

template <>
struct fmt::formatter<promptkv::Tier> : promptkv::detail::EnumFormatter<promptkv::Tier> {
    auto format(promptkv::Tier tier, fmt::format_context& context) const {
        return write(tier, {"assistant", "user", "system"}, context);
    }
};

template <>
struct fmt::formatter<promptkv::Match> : promptkv::detail::EnumFormatter<promptkv::Match> {
    auto format(promptkv::Match match, fmt::format_context& context) const {
        return write(match, {"none", "exact", "shorter", "longer"}, context);
    }
};

template <>
struct fmt::formatter<promptkv::Outcome> : promptkv::detail::EnumFormatter<promptkv::Outcome> {
    auto format(promptkv::Outcome outcome, fmt::format_context& context) const {
        return write(outcome, {"stored", "replaced", "anchored", "too_large", "no_room"}, context);
    }
};

template <>
struct fmt::formatter<promptkv::RemovalReason>
    : promptkv::detail::EnumFormatter<promptkv::RemovalReason> {
    auto format(promptkv::RemovalReason reason, fmt::format_context& context) const {
        return write(reason,
                     {"evicted", "cut", "absorbed", "replaced", "erased", "taken", "cleared"},
                     context);
    }
};

template <>
struct fmt::formatter<promptkv::MissReason>
    : promptkv::detail::EnumFormatter<promptkv::MissReason> {
    auto format(promptkv::MissReason reason, fmt::format_context& context) const {
        return write(reason,
                     {"none", "nothing_shared", "other_model", "only_anchor", "not_cuttable",
                      "leased", "below_min_reuse"},
                     context);
    }
};

/// One line for a person, as
///     miss (not_cuttable): 2 of 5 tokens match, then 7 where 9 is stored; nearest key: 4 tokens, user
/// Tiers of the caller's own are written as numbers, unless they have a formatter.
template <class Token, class TierEnum>
struct fmt::formatter<promptkv::Explanation<Token, TierEnum>> {
    constexpr auto parse(fmt::format_parse_context& context) { return context.begin(); }
    auto format(const promptkv::Explanation<Token, TierEnum>& why,
                fmt::format_context& context) const {
        auto out = why.reason == promptkv::MissReason::none
                       ? fmt::format_to(context.out(), "hit ({}): {} tokens reused, ", why.match,
                                        why.reused)
                       : fmt::format_to(context.out(), "miss ({}): ", why.reason);
        out = fmt::format_to(out, "{} of {} tokens match", why.common_prefix, why.requested);
        if (why.differs)
            out = fmt::format_to(out, ", then {} where {} is stored", why.differs->first,
                                 why.differs->second);
        if (why.nearest_length == 0)
            return out;
        out = fmt::format_to(out, "; nearest key: {} tokens, ", why.nearest_length);
        if constexpr (fmt::is_formattable<TierEnum>::value)
            out = fmt::format_to(out, "{}", why.nearest_tier);
        else
            out = fmt::format_to(out, "tier {}", static_cast<std::size_t>(why.nearest_tier));
        return why.nearest_is_anchor ? fmt::format_to(out, ", an anchor") : out;
    }
};

/// One line of `name=value` pairs.
template <>
struct fmt::formatter<promptkv::Stats> {
    constexpr auto parse(fmt::format_parse_context& context) { return context.begin(); }
    auto format(const promptkv::Stats& s, fmt::format_context& context) const {
        return fmt::format_to(
            context.out(),
            "lookups={} hits_exact={} hits_shorter={} hits_longer={} missed_nothing_shared={} "
            "missed_other_model={} missed_only_anchor={} missed_not_cuttable={} missed_leased={} "
            "missed_below_min_reuse={} tokens_requested={} tokens_reused={} inserted={} "
            "replaced={} anchored={} absorbed={} evicted={} cut={} superseded={} too_large={} "
            "no_room={} tokens_evicted={} bytes_evicted={} evicted_unused={} bytes_leased={} "
            "peak_nbytes={}",
            s.lookups, s.hits_exact, s.hits_shorter, s.hits_longer, s.missed_nothing_shared,
            s.missed_other_model, s.missed_only_anchor, s.missed_not_cuttable, s.missed_leased,
            s.missed_below_min_reuse, s.tokens_requested, s.tokens_reused, s.inserted, s.replaced,
            s.anchored, s.absorbed, s.evicted, s.cut, s.superseded, s.too_large, s.no_room,
            s.tokens_evicted, s.bytes_evicted, s.evicted_unused, s.bytes_leased, s.peak_nbytes);
    }
};

template <>
struct fmt::formatter<promptkv::TierStats> {
    constexpr auto parse(fmt::format_parse_context& context) { return context.begin(); }
    auto format(const promptkv::TierStats& s, fmt::format_context& context) const {
        return fmt::format_to(context.out(), "entries={} anchors={} nbytes={} evicted={} cut={}",
                              s.entries, s.anchors, s.nbytes, s.evicted, s.cut);
    }
};

#endif
