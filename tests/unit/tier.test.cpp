// SPDX-License-Identifier: MIT
// Tier and tier_traits: the order of the tiers, how many there are, and their names.

#include <promptkv/tier.hpp>

#include "catch.hpp"

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace {

enum class Lonely : std::uint8_t { only };
enum class Silent : std::uint8_t { one, two }; // has no tier_traits

} // namespace

template <>
struct promptkv::tier_traits<Lonely> {
    static constexpr std::size_t count = 1;
};

namespace {

using promptkv::Tier;
using promptkv::tier_traits;

TEST_CASE("Tier is ordered from the least to the most persistent") {
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

    SECTION("also of an enum of the caller's own") {
        STATIC_REQUIRE(tier_traits<Lonely>::count == 1);
        STATIC_REQUIRE(promptkv::TierEnumeration<Lonely>);
    }
    SECTION("and only of an enum that says how many it has") {
        STATIC_REQUIRE_FALSE(promptkv::TierEnumeration<Silent>);
        STATIC_REQUIRE_FALSE(promptkv::TierEnumeration<int>);
    }
}

TEST_CASE("Tier has a name for each of its values") {
    STATIC_REQUIRE(promptkv::name(Tier::assistant) == "assistant");
    STATIC_REQUIRE(promptkv::name(Tier::user) == "user");
    STATIC_REQUIRE(promptkv::name(Tier::system) == "system");
    STATIC_REQUIRE(promptkv::name(static_cast<Tier>(7)) == "?");
}

} // namespace
