// SPDX-License-Identifier: MIT
// Arithmetic that stops at 0 and at the largest number: what a payload says of its bytes need not add up.
#ifndef PROMPTKV_DETAIL_SATURATING_HPP
#define PROMPTKV_DETAIL_SATURATING_HPP

#include <promptkv/version.hpp>

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <limits>
#include <type_traits>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// a - b, or 0.
template <std::unsigned_integral T>
[[nodiscard]] constexpr T less(T a, std::type_identity_t<T> b) noexcept {
    return a > b ? static_cast<T>(a - b) : T{0};
}
/// a + b, or the largest number.
template <std::unsigned_integral T>
[[nodiscard]] constexpr T more(T a, std::type_identity_t<T> b) noexcept {
    constexpr T most = (std::numeric_limits<T>::max)();
    return a <= most - b ? static_cast<T>(a + b) : most;
}
/// What `n` of `all` parts have of `total`, rounded up. Requires: n <= all, 0 < all.
[[nodiscard]] constexpr std::size_t share_of(std::size_t total, std::size_t n,
                                             std::size_t all) noexcept {
    if (n == 0 || total <= ((std::numeric_limits<std::size_t>::max)() - all) / n)
        return (total * n + all - 1) / all;
    const double part = static_cast<double>(n) / static_cast<double>(all);
    return (std::min)(total, static_cast<std::size_t>(part * static_cast<double>(total)) + 1);
}

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
