// SPDX-License-Identifier: MIT
// trim_to and evict_while counted what a listener's own insert evicted.
#include <promptkv/lru_prompt_cache.hpp>

#include "catch.hpp"
#include "letters.hpp"

using namespace promptkv_test;
using promptkv::Tier;

TEST_CASE("LRUPromptCache counts of a trim what it evicted itself") {
    LRUPromptCache<Tape> cache({.max_entries = 3, .cut_granularity = 0});
    for (const auto key : {"a"_key, "b"_key, "c"_key}) {
        store(cache, key, Tier::user);
    }
    bool first = true;
    cache.on_removal([&](auto&) {
        if (first) {
            first = false;
            cache.set_limits({.max_entries = 1}); // which evicts one more
        }
    });
    SECTION("trim_to") {
        CHECK(cache.trim_to({.max_entries = 2}) == 1);
    }
    SECTION("evict_while") {
        CHECK(cache.evict_while([&] { return cache.size() > 2; }) == 1);
    }
    CHECK(cache.size() == 1);
    CHECK(cache.check_invariants());
}
