// expect: tier_traits|TierEnumeration
// SPDX-License-Identifier: MIT
// An enum of tiers that does not say how many it has.
#include <promptkv/promptkv.hpp>

#include <cstddef>
#include <cstdint>
#include <string>

enum class Priority : std::uint8_t { low, high };

#if REJECT == 0
template <>
struct promptkv::tier_traits<Priority> {
    static constexpr std::size_t count = 2;
};
#endif

struct KV {
    std::size_t nbytes() const noexcept { return 1; }
};

promptkv::LRUPromptCache<KV, std::string, std::int32_t, Priority> cache;
