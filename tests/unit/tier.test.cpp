// SPDX-License-Identifier: MIT
// Tier and tier_traits: the order of the tiers and how many there are.

#include <promptkv/tier.hpp>

#include "catch.hpp"

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace {

enum class Lonely : std::uint8_t { only };

} // namespace

template <>
struct promptkv::tier_traits<Lonely> {
    static constexpr std::size_t count = 1;
};

namespace {

using promptkv::Tier;
using promptkv::tier_traits;

TEST_CASE("Tier goes from the least to the most persistent") {
    STATIC_REQUIRE(Tier::assistant < Tier::user);
    STATIC_REQUIRE(Tier::user < Tier::system);
}

TEST_CASE("Tier takes one byte and numbers its values from zero") {
    STATIC_REQUIRE(std::is_same_v<std::underlying_type_t<Tier>, std::uint8_t>);
    STATIC_REQUIRE(static_cast<int>(Tier::assistant) == 0);
    STATIC_REQUIRE(static_cast<int>(Tier::user) == 1);
    STATIC_REQUIRE(static_cast<int>(Tier::system) == 2);
}

TEST_CASE("tier_traits tells the number of tiers") {
    STATIC_REQUIRE(tier_traits<Tier>::count == 3);

    SECTION("of an enum of the caller's too") {
        STATIC_REQUIRE(tier_traits<Lonely>::count == 1);
    }
}

} // namespace
