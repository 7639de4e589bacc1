// SPDX-License-Identifier: MIT
// Room for a payload that was still to be made at the key of an anchor: the victim beyond it was cut
// down to that anchor, although the incoming payload was to serve it.
#include <promptkv/lru_prompt_cache.hpp>

#include "catch.hpp"
#include "letters.hpp"

#include <string>

using namespace promptkv_test;
using promptkv::Outcome;
using promptkv::RemovalReason;
using promptkv::Tier;

TEST_CASE("LRUPromptCache does not cut a victim down to the key that it makes room for") {
    LRUPromptCache<Tape> cache({.max_bytes = 25, .cut_granularity = 1});
    constexpr Shape every_second{2, 2, 0};
    constexpr Shape every_third{3, 2, 1};
    const Shape beyond = GENERATE(Shape{1, 0, 9}, Shape{1, 1, 2}); // a cut frees nothing; something
    store(cache, "aabb"_key, Tier::user, every_second);
    store(cache, "aabbba"_key, Tier::system, every_third);
    store(cache, "aabbaaa"_key, Tier::assistant, beyond);
    REQUIRE(contents(cache) == "aabbaaa0 aabbba2"); // "aabb" is an anchor now
    std::string whole;
    cache.on_removal([&whole](auto& removal) {
        if (removal.reason == RemovalReason::evicted && removal.payload != nullptr) {
            whole += text(removal.payload->recording().tokens);
        }
    });
    const auto inserted = cache.insert("m", "aabb"_key, 16, Tier::user, [] {
        return tape("aabb"_key, {2, 4, 0});
    });
    CHECK(inserted.outcome == Outcome::stored);
    CHECK(whole == "aabbaaa");
    CHECK(contents(cache) == "aab2 aabb1");
    CHECK(cache.check_invariants());
}
