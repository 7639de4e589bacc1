// SPDX-License-Identifier: MIT
// Tier: how persistent an entry is, and what the library asks of a tier enum.
#ifndef PROMPTKV_TIER_HPP
#define PROMPTKV_TIER_HPP

#include <promptkv/config.hpp>
#include <promptkv/version.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string_view>
#include <type_traits>

namespace promptkv::inline PROMPTKV_ABI {

/// How persistent an entry is, least first: state after an assistant's turn, after a user's turn,
/// and of a system prompt.
enum class Tier : std::uint8_t { assistant, user, system };

/// How many tiers an enum has. Its enumerators are 0 .. count - 1, the least persistent first.
///
/// For an enum of your own:
///
///     template <>
///     struct promptkv::tier_traits<MyTier> {
///         static constexpr std::size_t count = 4;
///     };
template <class Enum>
struct tier_traits;

template <>
struct tier_traits<Tier> {
    static constexpr std::size_t count = 3;
};

/// An enum with a `tier_traits` that says how many tiers it has.
template <class T>
concept TierEnumeration = std::is_enum_v<T> && requires {
    { tier_traits<T>::count } -> std::convertible_to<std::size_t>;
} && (tier_traits<T>::count > 0);

namespace detail {

/// The name at an enumerator's place; "?" for a value outside the enum.
template <class Enum>
[[nodiscard]] constexpr std::string_view
name_of(Enum value, std::initializer_list<std::string_view> names) noexcept {
    const auto i = static_cast<std::size_t>(value);
    return i < names.size() ? names.begin()[i] : "?";
}

/// The number of a tier. A value outside the enum is a broken precondition; without assertions it
/// counts as the most persistent tier, so that no index is out of range.
template <class TierEnum>
[[nodiscard]] constexpr std::size_t tier_index(TierEnum tier) noexcept {
    const auto i = static_cast<std::size_t>(tier);
    PROMPTKV_ASSERT(i < tier_traits<TierEnum>::count);
    return i < tier_traits<TierEnum>::count ? i : tier_traits<TierEnum>::count - 1;
}

} // namespace detail

[[nodiscard]] constexpr std::string_view name(Tier tier) noexcept {
    return detail::name_of(tier, {"assistant", "user", "system"});
}

} // namespace promptkv::inline PROMPTKV_ABI

#endif
