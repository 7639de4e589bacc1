// SPDX-License-Identifier: MIT
// explain: why a prompt hits or misses, in one line, and the reasons that lookups count.

#include <promptkv/lru_prompt_cache.hpp>

#include "catch.hpp"
#include "unit_payloads.hpp"

#include <cstdint>
#include <string>
#include <string_view>

namespace {

using namespace promptkv_test;
using promptkv::FetchOptions;
using promptkv::LRUPromptCache;
using promptkv::Match;
using promptkv::MissReason;
using promptkv::Stats;
using promptkv::Tier;

using Cache = LRUPromptCache<Tape>;

/// What explain says of a prompt, once a lookup was seen to agree with it.
std::string why(Cache& cache, std::string_view prompt, FetchOptions options = {}) {
    const auto explanation = cache.explain("m", key(prompt), options);
    const auto before = cache.stats();
    const auto lease = cache.lease_nearest("m", key(prompt), options);
    const auto after = cache.stats();
    CHECK(explanation.match == lease.match());
    CHECK(explanation.reused == lease.reused());
    CHECK(explanation.matched == lease.matched());
    CHECK(explanation.requested == prompt.size());
    // A lookup never looks into other models.
    const MissReason counted = explanation.reason == MissReason::other_model
                                   ? MissReason::nothing_shared
                                   : explanation.reason;
    CHECK(lease.miss() == counted);
    const auto check = [&](MissReason reason, std::uint64_t Stats::*counter) {
        CAPTURE(name(reason));
        CHECK(after.*counter - before.*counter == (counted == reason ? 1U : 0U));
    };
    check(MissReason::nothing_shared, &Stats::missed_nothing_shared);
    check(MissReason::evicted, &Stats::missed_evicted);
    check(MissReason::not_cuttable, &Stats::missed_not_cuttable);
    check(MissReason::needs_last_token, &Stats::missed_needs_last_token);
    check(MissReason::leased, &Stats::missed_leased);
    check(MissReason::below_min_reuse, &Stats::missed_below_min_reuse);
    return to_string(explanation);
}

TEST_CASE("explain says what a prompt hits") {
    Cache cache;
    store(cache, "abcdef", Tier::user);
    CHECK(why(cache, "abcdef", {.min_remaining = 0}) ==
          "hit (exact): 6 tokens reused, 6 of 6 tokens match; served by: 6 tokens, user");
    CHECK(why(cache, "abcdefgh") ==
          "hit (shorter): 6 tokens reused, 6 of 8 tokens match; served by: 6 tokens, user");
    CHECK(why(cache, "abcxy") ==
          "hit (longer): 3 tokens reused, 3 of 5 tokens match, then 120 where "
          "100 is stored; served by: 6 tokens, user");
}

TEST_CASE("explain says that nothing begins as the prompt does") {
    Cache cache;
    CHECK(why(cache, "xyz") == "miss (nothing_shared): 0 of 3 tokens match");
    store(cache, "abc", Tier::user);
    CHECK(why(cache, "xyz") == "miss (nothing_shared): 0 of 3 tokens match");
    CHECK(why(cache, "") == "miss (nothing_shared): 0 of 0 tokens match");
}

TEST_CASE("explain says that another model would have hit") {
    Cache cache;
    cache.insert("other", key("abc"), Tape("abc"), Tier::user);
    CHECK(why(cache, "abcd") == "miss (other_model): 0 of 4 tokens match");
    CHECK(why(cache, "xyz") == "miss (nothing_shared): 0 of 3 tokens match");
}

TEST_CASE("explain says that an entry cannot be cut to the tokens that it shares") {
    Cache cache;
    store(cache, "abcdef", Tier::system, whole_only);
    CHECK(why(cache, "abcdxy") == "miss (not_cuttable): 4 of 6 tokens match, then 120 where 101 is "
                                  "stored; nearest key: 6 tokens, system");
}

TEST_CASE("explain says that only the last token stands in the way") {
    Cache cache;
    store(cache, "abcdef", Tier::system, whole_only);
    CHECK(why(cache, "abcdef") ==
          "miss (needs_last_token): 6 of 6 tokens match; nearest key: 6 tokens, system");
}

TEST_CASE("explain says that too little could be reused") {
    Cache cache;
    store(cache, "abcdef", Tier::assistant);
    CHECK(
        why(cache, "abxyz", {.min_reuse = 3}) ==
        "miss (below_min_reuse): 2 of 5 tokens match, then 120 where 99 is stored; nearest key: 6 "
        "tokens, assistant");
}

TEST_CASE("Every lookup is counted as a hit or as a miss, once") {
    Cache cache({.max_entries = 3});
    for (const std::string_view each : {"abc", "abd", "x", "abcde", "pq", "ab", "abcdx"}) {
        (void)cache.fetch_nearest("m", key(each));
        store(cache, each, Tier::user, {.step = each.size() % 2});
        (void)cache.lease_nearest("m", key(each), {.min_reuse = 2});
    }
    const auto s = cache.stats();
    CHECK(s.lookups == 14);
    CHECK(s.lookups == s.hits_exact + s.hits_shorter + s.hits_longer + s.missed_nothing_shared +
                           s.missed_evicted + s.missed_not_cuttable + s.missed_needs_last_token +
                           s.missed_leased + s.missed_below_min_reuse);
}

} // namespace
