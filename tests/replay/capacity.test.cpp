// SPDX-License-Identifier: MIT
// Capacity: as it is written, in blocks and in bytes.

#include "replay/capacity.hpp"

#include "catch.hpp"

#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>

namespace {

using replay::Capacity;
using replay::parse_capacity;
using Unit = replay::Capacity::Unit;

constexpr std::uint64_t greatest = std::numeric_limits<std::uint64_t>::max();

TEST_CASE("parse_capacity reads blocks, bytes and unlimited") {
    const auto [text, amount, unit] = GENERATE(table<std::string, std::uint64_t, Unit>({
        {"24576", 24576, Unit::blocks},
        {"24576blocks", 24576, Unit::blocks},
        {"0", 0, Unit::blocks},
        {"512B", 512, Unit::bytes},
        {"64KiB", 65536, Unit::bytes},
        {"3MiB", 3145728, Unit::bytes},
        {"8GiB", 8589934592, Unit::bytes},
        {"1TiB", 1099511627776, Unit::bytes},
        {"2kB", 2000, Unit::bytes},
        {"2MB", 2000000, Unit::bytes},
        {"8GB", 8000000000, Unit::bytes},
        {"1TB", 1000000000000, Unit::bytes},
        {"unlimited", 0, Unit::unlimited},
    }));
    CAPTURE(text);
    REQUIRE(parse_capacity(text) == Capacity{amount, unit});
}

TEST_CASE("parse_capacity refuses anything else") {
    const std::string text = GENERATE("", "GiB", "-1", "1.5GiB", "8 GiB", "8gib", "8GiBx", "x",
                                      "99999999999999999999", "18014398509481984TiB");
    CAPTURE(text);
    REQUIRE_THROWS_AS(parse_capacity(text), std::invalid_argument);
}

TEST_CASE("to_string writes what parse_capacity reads") {
    REQUIRE(to_string(Capacity{24576, Unit::blocks}) == "24576blocks");
    REQUIRE(to_string(Capacity{std::uint64_t{8} << 30U, Unit::bytes}) == "8GiB");
    REQUIRE(to_string(Capacity{1025, Unit::bytes}) == "1025B");
    REQUIRE(to_string(Capacity{0, Unit::bytes}) == "0B");
    REQUIRE(to_string(Capacity{}) == "unlimited");
    const std::string text = GENERATE("7blocks", "64KiB", "1000B", "0B", "unlimited");
    REQUIRE(to_string(parse_capacity(text)) == text);
}

TEST_CASE("A capacity converts between blocks and bytes") {
    REQUIRE(Capacity{10, Unit::blocks}.bytes(64) == 640);
    REQUIRE(Capacity{10, Unit::blocks}.blocks(64) == 10);
    REQUIRE(Capacity{100, Unit::bytes}.blocks(64) == 1);
    REQUIRE(Capacity{100, Unit::bytes}.bytes(64) == 100);
    REQUIRE(Capacity{}.blocks(64) == greatest);
    REQUIRE(Capacity{}.bytes(64) == greatest);
    REQUIRE(Capacity{greatest, Unit::blocks}.bytes(2) == greatest);
}

} // namespace
