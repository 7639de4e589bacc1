// SPDX-License-Identifier: MIT
// As many anchors as are kept: a further one for which memory was wanting made the cache forget the
// least recent.
#include <promptkv/lru_prompt_cache.hpp>

#include "catch.hpp"
#include "counting_new.hpp"
#include "letters.hpp"

#include <cstddef>
#include <new>
#include <span>

using namespace promptkv_test;
using promptkv::Tier;

TEST_CASE("LRUPromptCache forgets no anchor for one that cannot be made") {
    LRUPromptCache<Tape> cache;
    const Tokens key(200, 'a');
    store(cache, key, Tier::user);
    constexpr std::size_t most = 64 * 2;
    for (std::size_t n = 1; n <= most; ++n) {
        REQUIRE(cache.mark("m", std::span(key).first(n), Tier::user));
    }
    REQUIRE(cache.stats(Tier::user).anchors == most);
    std::size_t failures = 0;
    for (bool done = false; !done;) {
        FailingNew failing(failures);
        try {
            cache.mark("m", std::span(key).first(most + 1), Tier::user);
        } catch (const std::bad_alloc&) {
        }
        done = !failing.stop();
        failures += done ? 0 : 1;
        CHECK(cache.stats(Tier::user).anchors == most);
        CHECK(cache.check_invariants());
    }
    CHECK(failures > 2);
}
