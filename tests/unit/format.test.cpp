// SPDX-License-Identifier: MIT
// The fmt formatters: enumerators by their names, counters and explanations on one line.

#include <promptkv/format.hpp>

#include "catch.hpp"

#include <fmt/format.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

namespace {

using promptkv::Match;
using promptkv::MissReason;
using promptkv::Outcome;
using promptkv::RemovalReason;
using promptkv::Rules;
using promptkv::Stats;
using promptkv::Tier;
using promptkv::TierStats;

TEST_CASE("Enumerators are formatted by their names") {
    CHECK(fmt::format("{}", Tier::system) == "system");
    CHECK(fmt::format("{}", Match::longer) == "longer");
    CHECK(fmt::format("{}", Outcome::no_room) == "no_room");
    CHECK(fmt::format("{}", MissReason::needs_last_token) == "needs_last_token");
    CHECK(fmt::format("{}", RemovalReason::cleared) == "cleared");
    CHECK(fmt::format("{}", Rules::mlx_lm) == "mlx_lm");
}

TEST_CASE("Enumerators take the format of a string") {
    CHECK(fmt::format("[{:>8}]", Tier::user) == "[    user]");
    CHECK(fmt::format("[{:-<8}]", Match::exact) == "[exact---]");
}

TEST_CASE("A value that is no enumerator is formatted, too") {
    CHECK(fmt::format("{}", static_cast<Match>(200)) == "?");
}

TEST_CASE("Counters are formatted on one line, each with its name") {
    const std::string line = fmt::format("{}", Stats{.lookups = 3, .peak_nbytes = 17});
    CAPTURE(line);
    CHECK(line.find('\n') == std::string::npos);
    CHECK(line.find("lookups=3") != std::string::npos);
    CHECK(line.find("peak_nbytes=17") != std::string::npos);
    for_each_counter(Stats{}, [&line](std::string_view name, std::uint64_t) {
        CAPTURE(name);
        CHECK(line.find(std::string(name) + "=") != std::string::npos);
    });

    const std::string tier = fmt::format("{}", TierStats{.entries = 3});
    CAPTURE(tier);
    CHECK(tier.find('\n') == std::string::npos);
    CHECK(tier.find("entries=3") != std::string::npos);
    for_each_counter(TierStats{}, [&tier](std::string_view name, std::uint64_t) {
        CAPTURE(name);
        CHECK(tier.find(std::string(name) + "=") != std::string::npos);
    });
}

TEST_CASE("An explanation is formatted as to_string writes it") {
    const promptkv::Explanation<std::int32_t, Tier> why{.reason = MissReason::not_cuttable,
                                                        .requested = 5,
                                                        .matched = 2,
                                                        .differs = std::pair(7, 9),
                                                        .nearest_tokens = 4,
                                                        .nearest_tier = Tier::user};
    CHECK(fmt::format("{}", why) == to_string(why));
}

} // namespace
