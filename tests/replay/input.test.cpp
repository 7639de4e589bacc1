// SPDX-License-Identifier: MIT
// read_input: xz told by its first bytes, unpacked, and refused where it is damaged.

#include "replay/input.hpp"

#include "catch.hpp"

#include <array>
#include <stdexcept>
#include <string>

namespace {

/// "two words\n" as xz writes it.
std::string packed() {
    constexpr std::array<unsigned char, 64> bytes{
        0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00, 0x00, 0x01, 0x69, 0x22, 0xde, 0x36, 0x02,
        0x00, 0x21, 0x01, 0x1c, 0x00, 0x00, 0x00, 0x10, 0xcf, 0x58, 0xcc, 0x01, 0x00,
        0x09, 0x74, 0x77, 0x6f, 0x20, 0x77, 0x6f, 0x72, 0x64, 0x73, 0x0a, 0x00, 0x00,
        0x00, 0x26, 0x7d, 0xf6, 0x29, 0x00, 0x01, 0x1e, 0x0a, 0xea, 0x63, 0x12, 0x14,
        0x90, 0x42, 0x99, 0x0d, 0x01, 0x00, 0x00, 0x00, 0x00, 0x01, 0x59, 0x5a};
    return {bytes.begin(), bytes.end()};
}

std::string problem_of(const std::string& bytes) {
    try {
        (void)replay::unpack_xz(bytes);
    } catch (const std::runtime_error& error) {
        return error.what();
    }
    return "nothing";
}

TEST_CASE("is_xz looks at the first six bytes") {
    REQUIRE(replay::is_xz(packed()));
    REQUIRE_FALSE(replay::is_xz(packed().substr(0, 5)));
    REQUIRE_FALSE(replay::is_xz("#ptrace1 {}"));
    REQUIRE_FALSE(replay::is_xz(""));
}

TEST_CASE("unpack_xz unpacks one stream and several in a row") {
    REQUIRE(replay::unpack_xz(packed()) == "two words\n");
    REQUIRE(replay::unpack_xz(packed() + packed()) == "two words\ntwo words\n");
}

TEST_CASE("unpack_xz refuses what is damaged") {
    std::string flipped = packed();
    flipped[30] ^= 1;
    REQUIRE(problem_of(flipped) == "the xz file is damaged");
    REQUIRE(problem_of(packed() + "what is this doing here?") == "the xz file is damaged");
    REQUIRE(problem_of(packed().substr(0, 40)) == "the xz file ends early");
}

TEST_CASE("read_input names the file that it cannot read") {
    try {
        (void)replay::read_input("no/such/file");
        FAIL("a file that is not there was read");
    } catch (const std::runtime_error& error) {
        REQUIRE(std::string(error.what()).starts_with("no/such/file: "));
    }
    REQUIRE_THROWS_AS(replay::read_input("."), std::runtime_error);
}

} // namespace
