// SPDX-License-Identifier: MIT
// LRUPromptCache with Rules::mlx_lm: one switch for the behaviour of the reference implementation.
// Recorded answers of the reference are in tests/reference.

#include <promptkv/lru_prompt_cache.hpp>

#include "catch.hpp"
#include "unit_payloads.hpp"

#include <cstddef>
#include <string>
#include <string_view>

namespace {

using namespace promptkv_test;
using promptkv::LRUPromptCache;
using promptkv::Match;
using promptkv::Outcome;
using promptkv::Rules;
using promptkv::Tier;

using Cache = LRUPromptCache<Tape>;
using WholeCache = LRUPromptCache<WholeTape>;

TEST_CASE("By the reference's rules a fetch refreshes nothing") {
    Cache cache({.rules = Rules::mlx_lm});
    store(cache, "abcd", Tier::user);
    store(cache, "xyz", Tier::user);
    CHECK(cache.fetch_nearest("m", key("abcde")).match() == Match::shorter);
    CHECK(cache.lease_nearest("m", key("abcd")).match() == Match::exact);
    CHECK(cache.fetch_nearest("m", key("ab?")).match() == Match::longer);
    CHECK(eviction_order(cache) == "abcd xyz");
}

TEST_CASE("By the reference's rules entries of any tier are absorbed") {
    Cache cache({.rules = Rules::mlx_lm});
    store(cache, "abc", Tier::system);
    CHECK(store(cache, "abcdef", Tier::assistant).absorbed == 1);
    CHECK(contents(cache) == "abcdef0");
}

TEST_CASE("By the reference's rules nothing is present") {
    Cache cache({.rules = Rules::mlx_lm});
    store(cache, "abcdef", Tier::user);
    CHECK(store(cache, "abc", Tier::user).outcome == Outcome::stored);
    CHECK(contents(cache) == "abc1 abcdef1");
    CHECK(cache.stats().present == 0);
}

TEST_CASE("By the reference's rules victims are dropped whole, without a second chance") {
    Cache cache({.max_bytes = 10, .rules = Rules::mlx_lm});
    store(cache, "abcdefgh", Tier::user);
    CHECK(cache.fetch_nearest("m", key("abc?")).reused() == 3);
    const auto inserted = store(cache, "xyz", Tier::user);
    CHECK(inserted.evicted == 1);
    CHECK(inserted.cut == 0);
    CHECK(contents(cache) == "xyz1");
}

TEST_CASE("By the reference's rules nothing is superseded, demoted or stored in part") {
    SECTION("superseded") {
        WholeCache cache({.rules = Rules::mlx_lm});
        store(cache, "xyz", Tier::assistant);
        store(cache, "ab", Tier::assistant);
        store(cache, "abcd", Tier::assistant);
        CHECK(cache.stats().superseded == 0);
        CHECK(eviction_order(cache) == "xyz ab abcd");
    }
    SECTION("demoted by a session") {
        Cache cache({.rules = Rules::mlx_lm});
        store(cache, "xyz", Tier::user);
        store(cache, "abold", Tier::user, {}, {.session = 7});
        store(cache, "abnew", Tier::user, {}, {.session = 7});
        CHECK(cache.stats().demoted == 0);
        CHECK(eviction_order(cache) == "xyz abold abnew");
    }
    SECTION("stored in part") {
        Cache cache({.max_bytes = 10, .rules = Rules::mlx_lm});
        CHECK(store(cache, "abcdefghijkl", Tier::user).outcome == Outcome::too_large);
    }
}

TEST_CASE("By the reference's rules a tier is compared with the next one though that is empty") {
    Cache cache({.rules = Rules::mlx_lm});
    for (const std::string_view each : {"s", "t", "r"})
        store(cache, each, Tier::system);
    store(cache, "a", Tier::assistant);
    // One assistant is not fewer than no users.
    CHECK(eviction_order(cache).substr(0, 1) == "a");
}

TEST_CASE("Some corrections hold by the reference's rules, too") {
    SECTION("a payload that is too large evicts nothing") {
        Cache cache({.max_bytes = 10, .rules = Rules::mlx_lm});
        store(cache, "abc", Tier::user);
        CHECK(store(cache, "abcdefghijkl", Tier::user).outcome == Outcome::too_large);
        CHECK(contents(cache) == "abc1");
    }
    SECTION("the tier of a key never falls") {
        Cache cache({.rules = Rules::mlx_lm});
        store(cache, "abc", Tier::system);
        store(cache, "abc", Tier::assistant);
        CHECK(contents(cache) == "abc2");
    }
    SECTION("what was just stored is never the victim") {
        Cache cache({.max_entries = 1, .rules = Rules::mlx_lm});
        store(cache, "s", Tier::system);
        store(cache, "a", Tier::assistant);
        CHECK(contents(cache) == "a0");
    }
    SECTION("blocks are shared and counted once") {
        LRUPromptCache<Blocks> cache({.rules = Rules::mlx_lm});
        store(cache, "abcd", Tier::user);
        store(cache, "abxy", Tier::user);
        CHECK(cache.nbytes() == 6);
        CHECK(cache.check_invariants());
    }
}

} // namespace
