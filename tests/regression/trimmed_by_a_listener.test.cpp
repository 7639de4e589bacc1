// SPDX-License-Identifier: MIT
// trim_to and evict counted what a listener's own call evicted.
#include <promptkv/lru_prompt_cache.hpp>

#include "catch.hpp"
#include "unit_payloads.hpp"

#include <string_view>
#include <utility>

using namespace promptkv_test;
using promptkv::LRUPromptCache;
using promptkv::Tier;

TEST_CASE("LRUPromptCache counts of an eviction only what that call evicted") {
    LRUPromptCache<Tape> cache({.max_entries = 3});
    for (const std::string_view each : {"a", "b", "c"})
        store(cache, each, Tier::user);
    bool first = true;
    cache.set_removal_listener([&](auto&) {
        if (std::exchange(first, false))
            cache.set_limits({.max_entries = 1}); // which evicts one more
    });
    SECTION("trim_to") {
        CHECK(cache.trim_to({.max_entries = 2}) == 1);
    }
    SECTION("evict") {
        CHECK(cache.evict(1) == 1);
    }
    CHECK(cache.size() == 1);
    CHECK(cache.check_invariants());
}
