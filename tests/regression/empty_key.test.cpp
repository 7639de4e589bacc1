// SPDX-License-Identifier: MIT
// An entry of one token counted as one that cannot be cut, so that it did not serve the empty key.

#include <promptkv/lru_prompt_cache.hpp>

#include "catch.hpp"
#include "letters.hpp"

using namespace promptkv_test;
using promptkv::Outcome;
using promptkv::Tier;

TEST_CASE("An entry of one token serves the empty key") {
    LRUPromptCache<Tape> cache;
    const Tokens none;

    SECTION("it absorbs that") {
        cache.insert("m", none, tape(none), Tier::user);
        CHECK(cache.insert("m", "a"_key, tape("a"_key), Tier::user).absorbed == 1);
    }
    SECTION("it makes that an anchor") {
        cache.insert("m", "a"_key, tape("a"_key), Tier::user);
        CHECK(cache.insert("m", none, tape(none), Tier::user).outcome == Outcome::anchored);
    }
    CHECK(cache.size() == 1);
    CHECK(cache.check_invariants());
}
