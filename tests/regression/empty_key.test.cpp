// SPDX-License-Identifier: MIT
// An entry of one token counted as one that cannot be cut, so that it did not serve the empty key.

#include <promptkv/lru_prompt_cache.hpp>

#include "catch.hpp"
#include "unit_payloads.hpp"

using namespace promptkv_test;
using promptkv::LRUPromptCache;
using promptkv::Outcome;
using promptkv::Tier;

TEST_CASE("An entry of one token serves the empty key") {
    LRUPromptCache<Tape> cache;

    SECTION("and absorbs it") {
        store(cache, "", Tier::user);
        CHECK(store(cache, "a", Tier::user).absorbed == 1);
    }
    SECTION("and makes it present") {
        store(cache, "a", Tier::user);
        CHECK(store(cache, "", Tier::user).outcome == Outcome::present);
    }
    CHECK(cache.size() == 1);
    CHECK(cache.check_invariants());
}
