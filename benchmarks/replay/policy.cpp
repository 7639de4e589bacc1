// SPDX-License-Identifier: MIT
// Policy: the names, and which of the policies there are.
#include "policy.hpp"

#include "caches.hpp"

namespace replay {

std::string_view name(Policy policy) noexcept {
    switch (policy) {
    case Policy::tiered_lru:
        return "tiered-lru";
    case Policy::reuse:
        return "reuse";
    case Policy::reference:
        return "reference";
    case Policy::lru:
        return "lru";
    case Policy::optimum:
        break;
    }
    return "optimum";
}

std::span<const Policy> policies() noexcept {
    using enum Policy;
    static constexpr Policy all[] = {tiered_lru, reuse, reference, lru, optimum};
    static constexpr Policy without_reuse[] = {tiered_lru, reference, lru, optimum};
    return has_reuse_order() ? std::span<const Policy>(all) : without_reuse;
}

} // namespace replay
