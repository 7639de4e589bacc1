// SPDX-License-Identifier: MIT
// The version macros and the ABI tag.

#include <promptkv/promptkv.hpp>

#include "catch.hpp"

#include <string>
#include <type_traits>

#define PROMPTKV_TEST_TEXT_OF(x) #x
#define PROMPTKV_TEST_TEXT(x) PROMPTKV_TEST_TEXT_OF(x)

namespace {

TEST_CASE("The version is 0.2.0") {
    STATIC_REQUIRE(PROMPTKV_VERSION_MAJOR == 0);
    STATIC_REQUIRE(PROMPTKV_VERSION_MINOR == 2);
    STATIC_REQUIRE(PROMPTKV_VERSION_PATCH == 0);
}

TEST_CASE("The ABI tag names the version up to which the layout holds") {
    REQUIRE(std::string(PROMPTKV_TEST_TEXT(PROMPTKV_ABI)) == "v0_2");
}

TEST_CASE("The ABI tag is an inline namespace of promptkv") {
    STATIC_REQUIRE(std::is_same_v<promptkv::Tier, promptkv::PROMPTKV_ABI::Tier>);
}

} // namespace
