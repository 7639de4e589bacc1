// SPDX-License-Identifier: MIT
// fmt formatters of the enums and the statistics. Needs fmt 9.1 or newer; not in the umbrella header.
#ifndef PROMPTKV_FORMAT_HPP
#define PROMPTKV_FORMAT_HPP

#include <promptkv/cache_types.hpp>
#include <promptkv/stats.hpp>
#include <promptkv/tier.hpp>

#include <fmt/format.h>

#include <cstddef>
#include <string_view>

namespace promptkv::inline PROMPTKV_ABI::detail {

template <std::size_t N>
[[nodiscard]] constexpr std::string_view enumerator(const std::string_view (&names)[N],
                                                    std::size_t i) noexcept {
    return i < N ? names[i] : std::string_view("?");
}

} // namespace promptkv::inline PROMPTKV_ABI::detail

template <>
struct fmt::formatter<promptkv::Tier> : fmt::formatter<fmt::string_view> {
    auto format(promptkv::Tier tier, fmt::format_context& context) const {
        constexpr std::string_view names[] = {"assistant", "user", "system"};
        const auto name = promptkv::detail::enumerator(names, static_cast<std::size_t>(tier));
        return fmt::formatter<fmt::string_view>::format({name.data(), name.size()}, context);
    }
};

template <>
struct fmt::formatter<promptkv::Match> : fmt::formatter<fmt::string_view> {
    auto format(promptkv::Match match, fmt::format_context& context) const {
        constexpr std::string_view names[] = {"none", "exact", "shorter", "longer"};
        const auto name = promptkv::detail::enumerator(names, static_cast<std::size_t>(match));
        return fmt::formatter<fmt::string_view>::format({name.data(), name.size()}, context);
    }
};

template <>
struct fmt::formatter<promptkv::Outcome> : fmt::formatter<fmt::string_view> {
    auto format(promptkv::Outcome outcome, fmt::format_context& context) const {
        constexpr std::string_view names[] = {"stored", "replaced", "anchored", "too_large",
                                              "no_room"};
        const auto name = promptkv::detail::enumerator(names, static_cast<std::size_t>(outcome));
        return fmt::formatter<fmt::string_view>::format({name.data(), name.size()}, context);
    }
};

template <>
struct fmt::formatter<promptkv::RemovalReason> : fmt::formatter<fmt::string_view> {
    auto format(promptkv::RemovalReason reason, fmt::format_context& context) const {
        constexpr std::string_view names[] = {"evicted", "cut",   "absorbed", "replaced",
                                              "erased",  "taken", "cleared"};
        const auto name = promptkv::detail::enumerator(names, static_cast<std::size_t>(reason));
        return fmt::formatter<fmt::string_view>::format({name.data(), name.size()}, context);
    }
};

/// One line of `name=value` pairs.
template <>
struct fmt::formatter<promptkv::Stats> {
    constexpr auto parse(fmt::format_parse_context& context) { return context.begin(); }
    auto format(const promptkv::Stats& s, fmt::format_context& context) const {
        return fmt::format_to(
            context.out(),
            "lookups={} hits_exact={} hits_shorter={} hits_longer={} tokens_requested={} "
            "tokens_reused={} inserted={} "
            "replaced={} anchored={} absorbed={} evicted={} cut={} superseded={} too_large={} "
            "no_room={} "
            "tokens_evicted={} bytes_evicted={} evicted_unused={} bytes_leased={} peak_nbytes={}",
            s.lookups, s.hits_exact, s.hits_shorter, s.hits_longer, s.tokens_requested,
            s.tokens_reused, s.inserted, s.replaced, s.anchored, s.absorbed, s.evicted, s.cut,
            s.superseded, s.too_large, s.no_room, s.tokens_evicted, s.bytes_evicted,
            s.evicted_unused, s.bytes_leased, s.peak_nbytes);
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
