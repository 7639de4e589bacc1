// SPDX-License-Identifier: MIT
// The fmt formatters: enumerators by their names, figures on one line.

#include <promptkv/format.hpp>
#include <promptkv/lru_prompt_cache.hpp>

#include "catch.hpp"
#include "letters.hpp"

#include <fmt/format.h>

#include <string>

namespace {

using namespace promptkv_test;
using promptkv::Match;
using promptkv::Outcome;
using promptkv::RemovalReason;
using promptkv::Tier;

TEST_CASE("Enumerators are formatted by their names") {
    CHECK(fmt::format("{}", Tier::assistant) == "assistant");
    CHECK(fmt::format("{}", Tier::user) == "user");
    CHECK(fmt::format("{}", Tier::system) == "system");

    CHECK(fmt::format("{}", Match::none) == "none");
    CHECK(fmt::format("{}", Match::exact) == "exact");
    CHECK(fmt::format("{}", Match::shorter) == "shorter");
    CHECK(fmt::format("{}", Match::longer) == "longer");

    CHECK(fmt::format("{}", Outcome::stored) == "stored");
    CHECK(fmt::format("{}", Outcome::replaced) == "replaced");
    CHECK(fmt::format("{}", Outcome::anchored) == "anchored");
    CHECK(fmt::format("{}", Outcome::too_large) == "too_large");
    CHECK(fmt::format("{}", Outcome::no_room) == "no_room");

    CHECK(fmt::format("{}", RemovalReason::evicted) == "evicted");
    CHECK(fmt::format("{}", RemovalReason::cut) == "cut");
    CHECK(fmt::format("{}", RemovalReason::absorbed) == "absorbed");
    CHECK(fmt::format("{}", RemovalReason::replaced) == "replaced");
    CHECK(fmt::format("{}", RemovalReason::erased) == "erased");
    CHECK(fmt::format("{}", RemovalReason::taken) == "taken");
    CHECK(fmt::format("{}", RemovalReason::cleared) == "cleared");
}

TEST_CASE("Enumerators take the format of a string") {
    CHECK(fmt::format("[{:>8}]", Tier::user) == "[    user]");
    CHECK(fmt::format("[{:-<8}]", Match::exact) == "[exact---]");
}

TEST_CASE("A value that is no enumerator is formatted all the same") {
    CHECK_FALSE(fmt::format("{}", static_cast<Match>(200)).empty());
}

TEST_CASE("stats are formatted on one line") {
    LRUPromptCache<Tape> cache;
    for (const auto key : {"a"_key, "b"_key, "c"_key}) {
        store(cache, key, Tier::user);
    }
    cache.fetch_nearest("m", "ax"_key);
    const std::string line = fmt::format("{}", cache.stats());
    CAPTURE(line);
    CHECK(line.find('\n') == std::string::npos);
    CHECK(line.find('3') != std::string::npos); // inserted
    CHECK(line.find("lookups") != std::string::npos);

    const std::string tier = fmt::format("{}", cache.stats(Tier::user));
    CAPTURE(tier);
    CHECK(tier.find('\n') == std::string::npos);
    CHECK(tier.find('3') != std::string::npos); // entries
}

} // namespace
