// SPDX-License-Identifier: MIT
// explain: why a prompt hit or missed, in one line, and the same reasons counted.

#include <promptkv/format.hpp>
#include <promptkv/lru_prompt_cache.hpp>

#include "catch.hpp"
#include "letters.hpp"

#include <fmt/format.h>

#include <cstdint>
#include <span>
#include <string>

namespace {

using namespace promptkv_test;
using promptkv::Match;
using promptkv::MissReason;
using promptkv::Tier;

constexpr std::size_t whole_only = 0; // the step of a tape that cannot be cut

/// What explain says, after the lookup itself was seen to agree with it.
std::string why(LRUPromptCache<Tape>& cache, std::span<const std::int32_t> prompt,
                promptkv::FetchOptions options = {}) {
    const auto explanation = cache.explain("m", prompt, options);
    const auto before = cache.stats();
    const auto lease = cache.lease_nearest("m", prompt, options);
    CHECK(explanation.match == lease.match);
    CHECK(explanation.reused == lease.reused);
    CHECK((explanation.reason == MissReason::none) == static_cast<bool>(lease));
    const auto after = cache.stats();
    const auto counted = [&](MissReason reason, std::uint64_t promptkv::Stats::*count) {
        CHECK(after.*count - before.*count == (explanation.reason == reason ? 1U : 0U));
    };
    counted(MissReason::nothing_shared, &promptkv::Stats::missed_nothing_shared);
    counted(MissReason::other_model, &promptkv::Stats::missed_other_model);
    counted(MissReason::only_anchor, &promptkv::Stats::missed_only_anchor);
    counted(MissReason::not_cuttable, &promptkv::Stats::missed_not_cuttable);
    counted(MissReason::leased, &promptkv::Stats::missed_leased);
    counted(MissReason::below_min_reuse, &promptkv::Stats::missed_below_min_reuse);
    return fmt::format("{}", explanation);
}

TEST_CASE("explain says what a prompt hits") {
    LRUPromptCache<Tape> cache;
    store(cache, "abcdef"_key, Tier::user);
    CHECK(why(cache, "abcdef"_key, {.min_remaining = 0}) ==
          "hit (exact): 6 tokens reused, 6 of 6 tokens match; nearest key: 6 tokens, user");
    CHECK(why(cache, "abcdefgh"_key) ==
          "hit (shorter): 6 tokens reused, 6 of 8 tokens match; nearest key: 6 tokens, user");
    CHECK(why(cache, "abcxy"_key) == "hit (longer): 3 tokens reused, 3 of 5 tokens match, then 120 "
                                     "where 100 is stored; nearest key: 6 tokens, user");
}

TEST_CASE("explain says that nothing begins as the prompt does") {
    LRUPromptCache<Tape> cache;
    CHECK(why(cache, "xyz"_key) == "miss (nothing_shared): 0 of 3 tokens match");
    store(cache, "abc"_key, Tier::user);
    CHECK(why(cache, "xyz"_key) == "miss (nothing_shared): 0 of 3 tokens match");
    CHECK(why(cache, ""_key) == "miss (nothing_shared): 0 of 0 tokens match");
}

TEST_CASE("explain says that the prompt is stored under another model") {
    LRUPromptCache<Tape> cache;
    cache.insert("other", "abc"_key, tape("abc"_key), Tier::user);
    CHECK(why(cache, "abc"_key) == "miss (other_model): 0 of 3 tokens match");
    CHECK(why(cache, "abc"_key, {.min_reuse = 3}) == "miss (nothing_shared): 0 of 3 tokens match");
}

TEST_CASE("explain says that an entry cannot be cut to what is shared") {
    LRUPromptCache<Tape> cache;
    store(cache, "abcdef"_key, Tier::system, {.step = whole_only});
    CHECK(why(cache, "abcdxy"_key) ==
          "miss (not_cuttable): 4 of 6 tokens match, then 120 where 101 "
          "is stored; nearest key: 6 tokens, system");
    CHECK(why(cache, "abcdef"_key) ==
          "miss (not_cuttable): 6 of 6 tokens match; nearest key: 6 tokens, system");
}

TEST_CASE("explain says that too little could be reused") {
    LRUPromptCache<Tape> cache;
    store(cache, "abcdef"_key, Tier::assistant);
    CHECK(
        why(cache, "abxyz"_key, {.min_reuse = 3}) ==
        "miss (below_min_reuse): 2 of 5 tokens match, then 120 where 99 is stored; nearest key: 6 "
        "tokens, assistant");
}

TEST_CASE("explain says that only an anchor is left") {
    LRUPromptCache<Tape> cache;
    store(cache, "abcdef"_key, Tier::user);
    REQUIRE(cache.mark("m", "abc"_key, Tier::system));
    REQUIRE(cache.erase("m", "abcdef"_key));
    CHECK(why(cache, "abcdef"_key) == "miss (only_anchor): 3 of 6 tokens match; nearest key: 3 "
                                      "tokens, system, an anchor");
}

TEST_CASE("A take that misses because the entry is leased is counted as that") {
    LRUPromptCache<Tape> cache;
    store(cache, "abc"_key, Tier::user);
    const auto lease = cache.lease_nearest("m", "abcd"_key);
    REQUIRE(lease);
    CHECK_FALSE(cache.take_nearest("m", "abcd"_key));
    CHECK(cache.stats().missed_leased == 1);
}

TEST_CASE("Every lookup is counted as a hit or a miss, once") {
    LRUPromptCache<Tape> cache({.max_entries = 3});
    for (const auto key : {"abc"_key, "abd"_key, "x"_key, "abcde"_key}) {
        (void)cache.fetch_nearest("m", key);
        store(cache, key, Tier::user);
        (void)cache.lease_nearest("m", key, {.min_reuse = 2});
    }
    const auto s = cache.stats();
    CHECK(s.lookups == 8);
    CHECK(s.lookups == s.hits_exact + s.hits_shorter + s.hits_longer + s.missed_nothing_shared +
                           s.missed_other_model + s.missed_only_anchor + s.missed_not_cuttable +
                           s.missed_leased + s.missed_below_min_reuse);
}

} // namespace
