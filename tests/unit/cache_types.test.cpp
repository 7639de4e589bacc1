// SPDX-License-Identifier: MIT
// The names of outcomes and reasons, the options' defaults, and an explanation as one line.

#include <promptkv/cache_types.hpp>

#include "catch.hpp"

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

namespace {

enum class Floor : std::uint8_t { ground, first };

} // namespace

template <>
struct promptkv::tier_traits<Floor> {
    [[maybe_unused]] static constexpr std::size_t count = 2;
};

namespace {

using promptkv::Match;
using promptkv::MissReason;
using promptkv::Outcome;
using promptkv::RemovalReason;
using promptkv::Rules;
using promptkv::Tier;

using Explanation = promptkv::Explanation<std::int32_t, Tier>;

TEST_CASE("Each enumerator has the name that it has in the code") {
    CHECK(name(Match::none) == "none");
    CHECK(name(Match::exact) == "exact");
    CHECK(name(Match::shorter) == "shorter");
    CHECK(name(Match::longer) == "longer");

    CHECK(name(Outcome::stored) == "stored");
    CHECK(name(Outcome::replaced) == "replaced");
    CHECK(name(Outcome::present) == "present");
    CHECK(name(Outcome::declined) == "declined");
    CHECK(name(Outcome::cancelled) == "cancelled");
    CHECK(name(Outcome::too_large) == "too_large");
    CHECK(name(Outcome::no_room) == "no_room");

    CHECK(name(MissReason::none) == "none");
    CHECK(name(MissReason::nothing_shared) == "nothing_shared");
    CHECK(name(MissReason::other_model) == "other_model");
    CHECK(name(MissReason::evicted) == "evicted");
    CHECK(name(MissReason::not_cuttable) == "not_cuttable");
    CHECK(name(MissReason::needs_last_token) == "needs_last_token");
    CHECK(name(MissReason::leased) == "leased");
    CHECK(name(MissReason::below_min_reuse) == "below_min_reuse");

    CHECK(name(RemovalReason::evicted) == "evicted");
    CHECK(name(RemovalReason::cut) == "cut");
    CHECK(name(RemovalReason::absorbed) == "absorbed");
    CHECK(name(RemovalReason::replaced) == "replaced");
    CHECK(name(RemovalReason::erased) == "erased");
    CHECK(name(RemovalReason::taken) == "taken");
    CHECK(name(RemovalReason::cleared) == "cleared");

    CHECK(name(Rules::promptkv) == "promptkv");
    CHECK(name(Rules::mlx_lm) == "mlx_lm");
}

TEST_CASE("A value outside its enum is named by a question mark") {
    CHECK(name(static_cast<Match>(200)) == "?");
    CHECK(name(static_cast<Outcome>(7)) == "?");
    CHECK(name(static_cast<MissReason>(8)) == "?");
    CHECK(name(static_cast<RemovalReason>(7)) == "?");
    CHECK(name(static_cast<Rules>(2)) == "?");
}

TEST_CASE("Options have defaults that need no thought but for max_bytes") {
    struct PolicyOptions {};
    const promptkv::CacheOptions<PolicyOptions> options;
    CHECK(options.max_bytes == promptkv::unlimited);
    CHECK(options.max_entries == promptkv::unlimited);
    CHECK(options.max_partial == 0.5);
    CHECK_FALSE(options.remembered_tokens.has_value());
    CHECK(options.rules == Rules::promptkv);

    const promptkv::FetchOptions fetch;
    CHECK(fetch.min_remaining == 1);
    CHECK(fetch.min_reuse == 1);
    CHECK(fetch.align == 1);

    const promptkv::InsertOptions insert;
    CHECK(insert.session == 0);
    CHECK(insert.request == 0);
    CHECK_FALSE(insert.side_request);
    CHECK(insert.hint == -1);
}

TEST_CASE("A Lookup of nothing is a miss") {
    const promptkv::Lookup<std::int32_t, Tier> lookup;
    CHECK_FALSE(lookup);
    CHECK(lookup.reused() == 0);
    CHECK(lookup.matched() == 0);
    CHECK(lookup.match() == Match::none);
    CHECK(lookup.tier() == Tier::assistant);
    CHECK(lookup.entry_tokens() == 0);
    CHECK(lookup.miss() == MissReason::nothing_shared);
    CHECK(lookup.request() == 0);
}

// to_string //////////////////////////////////////////////////////////////////

TEST_CASE("An explanation of a hit says what is reused") {
    const Explanation why{.reason = MissReason::none,
                          .match = Match::shorter,
                          .reused = 6,
                          .requested = 8,
                          .matched = 6,
                          .nearest_tokens = 6,
                          .nearest_tier = Tier::user};
    CHECK(to_string(why) ==
          "hit (shorter): 6 tokens reused, 6 of 8 tokens match; served by: 6 tokens, user");
}

TEST_CASE("An explanation of a miss says why, and where the keys part") {
    Explanation why{.reason = MissReason::not_cuttable,
                    .requested = 5,
                    .matched = 2,
                    .differs = std::pair(7, 9),
                    .nearest_tokens = 4,
                    .nearest_tier = Tier::user};
    CHECK(to_string(why) == "miss (not_cuttable): 2 of 5 tokens match, then 7 where 9 is stored; "
                            "nearest key: 4 tokens, user");

    SECTION("an evicted key is named with the bytes that were evicted since") {
        why.reason = MissReason::evicted;
        why.evicted_bytes_ago = 1'288'490'189;
        CHECK(to_string(why) ==
              "miss (evicted): 2 of 5 tokens match, then 7 where 9 is stored; nearest key: 4 "
              "tokens, user, evicted 1.2 GiB of evictions ago");
    }
    SECTION("without a nearest key nothing is said of one") {
        const Explanation nothing{.reason = MissReason::nothing_shared, .requested = 3};
        CHECK(to_string(nothing) == "miss (nothing_shared): 0 of 3 tokens match");
    }
}

TEST_CASE("An explanation writes the bytes in the unit that fits") {
    struct Row {
        std::uint64_t bytes;
        std::string_view text;
    };
    const Row row = GENERATE(values<Row>({{0, "0 B"},
                                          {17, "17 B"},
                                          {1023, "1023 B"},
                                          {1024, "1.0 KiB"},
                                          {1536, "1.5 KiB"},
                                          {std::uint64_t{1} << 20U, "1.0 MiB"},
                                          {std::uint64_t{3} << 40U, "3.0 TiB"},
                                          {std::uint64_t{3} << 50U, "3072.0 TiB"}}));
    Explanation why{.reason = MissReason::evicted, .nearest_tokens = 1};
    why.evicted_bytes_ago = row.bytes;
    const std::string line = to_string(why);
    CAPTURE(line);
    CHECK(line.find("evicted " + std::string(row.text) + " of evictions ago") != std::string::npos);
}

TEST_CASE("An explanation writes a tier without a name as a number") {
    const promptkv::Explanation<std::uint16_t, Floor> why{
        .reason = MissReason::not_cuttable, .nearest_tokens = 4, .nearest_tier = Floor::first};
    CHECK(to_string(why) ==
          "miss (not_cuttable): 0 of 0 tokens match; nearest key: 4 tokens, tier 1");
}

} // namespace
