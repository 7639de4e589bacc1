// SPDX-License-Identifier: MIT
// Tier: how persistent an entry is, and what the library asks of a tier enum.
#ifndef PROMPTKV_TIER_HPP
#define PROMPTKV_TIER_HPP

#include <promptkv/version.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace promptkv::inline PROMPTKV_ABI {

/// How persistent an entry is, least first: state after an assistant's turn, after a user's turn,
/// and of a system prompt.
enum class Tier : std::uint8_t { assistant, user, system };

/// Number of tiers of an enum. Its enumerators are 0 .. count - 1, the least persistent first.
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
} &&(tier_traits<T>::count > 0);

} // namespace promptkv::inline PROMPTKV_ABI

#endif
