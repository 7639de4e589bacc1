// SPDX-License-Identifier: MIT
// fmt formatters of the enums, the counters and explanations. Needs fmt 9.1 or newer; not in the umbrella.
#ifndef PROMPTKV_FORMAT_HPP
#define PROMPTKV_FORMAT_HPP

#include <promptkv/cache_types.hpp>
#include <promptkv/stats.hpp>
#include <promptkv/tier.hpp>

#include <fmt/format.h>

#include <concepts>
#include <string_view>

namespace promptkv::inline PROMPTKV_ABI::detail {

template <class T, class... Ts>
concept OneOf = (std::same_as<T, Ts> || ...);

} // namespace promptkv::inline PROMPTKV_ABI::detail

/// An enumerator as its name.
template <promptkv::detail::OneOf<promptkv::Tier, promptkv::Match, promptkv::Outcome,
                                  promptkv::MissReason, promptkv::RemovalReason, promptkv::Rules>
              Enum>
struct fmt::formatter<Enum> : fmt::formatter<fmt::string_view> {
    auto format(Enum value, fmt::format_context& context) const {
        const std::string_view text = name(value);
        return fmt::formatter<fmt::string_view>::format({text.data(), text.size()}, context);
    }
};

/// Counters as one line of `name=value` pairs.
template <promptkv::detail::OneOf<promptkv::Stats, promptkv::TierStats> Counters>
struct fmt::formatter<Counters> {
    constexpr auto parse(fmt::format_parse_context& context) { return context.begin(); }
    auto format(const Counters& counters, fmt::format_context& context) const {
        auto out = context.out();
        const char* separator = "";
        for_each_counter(counters, [&](const char* counter, auto value) {
            out = fmt::format_to(out, "{}{}={}", separator, counter, value);
            separator = " ";
        });
        return out;
    }
};

/// One line for a person: see to_string.
template <class Token, class TierEnum>
struct fmt::formatter<promptkv::Explanation<Token, TierEnum>> {
    constexpr auto parse(fmt::format_parse_context& context) { return context.begin(); }
    auto format(const promptkv::Explanation<Token, TierEnum>& why,
                fmt::format_context& context) const {
        return fmt::format_to(context.out(), "{}", to_string(why));
    }
};

#endif
