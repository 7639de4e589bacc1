// SPDX-License-Identifier: MIT
// What the cache counts.

#include <promptkv/lru_prompt_cache.hpp>
#include <promptkv/stats.hpp>

#include "catch.hpp"
#include "letters.hpp"

#include <cstddef>
#include <optional>

namespace {

using namespace promptkv_test;
using promptkv::Tier;

using Cache = LRUPromptCache<Tape>;

constexpr Shape whole_only = {.step = 0};

TEST_CASE("A new cache has counted nothing") {
    const Cache cache;
    const auto stats = cache.stats();
    CHECK(stats.lookups == 0);
    CHECK(stats.hits_exact == 0);
    CHECK(stats.hits_shorter == 0);
    CHECK(stats.hits_longer == 0);
    CHECK(stats.tokens_requested == 0);
    CHECK(stats.tokens_reused == 0);
    CHECK(stats.inserted == 0);
    CHECK(stats.replaced == 0);
    CHECK(stats.anchored == 0);
    CHECK(stats.absorbed == 0);
    CHECK(stats.evicted == 0);
    CHECK(stats.cut == 0);
    CHECK(stats.superseded == 0);
    CHECK(stats.too_large == 0);
    CHECK(stats.no_room == 0);
    CHECK(stats.tokens_evicted == 0);
    CHECK(stats.bytes_evicted == 0);
    CHECK(stats.evicted_unused == 0);
    CHECK(stats.bytes_leased == 0);
    CHECK(stats.peak_nbytes == 0);
}

TEST_CASE("Lookups are counted by their match, and tokens by what was reused") {
    Cache cache;
    store(cache, "abcd"_key, Tier::user);
    cache.fetch_nearest("m", "abcd"_key);                       // exact, 3 of 4
    cache.fetch_nearest("m", "abcd"_key, {.min_remaining = 0}); // exact, 4 of 4
    cache.fetch_nearest("m", "abcdef"_key);                     // shorter, 4 of 6
    REQUIRE(cache.lease_nearest("m", "abx"_key));               // longer, 2 of 3
    cache.fetch_nearest("m", "xyz"_key);                        // none, 0 of 3
    cache.fetch_nearest("other", "abc"_key);                    // none, 0 of 3
    cache.take_nearest("m", "abcde"_key);                       // shorter, 4 of 5
    const auto stats = cache.stats();
    CHECK(stats.lookups == 7);
    CHECK(stats.hits_exact == 2);
    CHECK(stats.hits_shorter == 2);
    CHECK(stats.hits_longer == 1);
    CHECK(stats.tokens_requested == 4 + 4 + 6 + 3 + 3 + 3 + 5);
    CHECK(stats.tokens_reused == 3 + 4 + 4 + 2 + 4);
}

TEST_CASE("A probe counts nothing") {
    Cache cache;
    store(cache, "abcd"_key, Tier::user);
    REQUIRE(cache.probe("m", "abcde"_key).reused == 4);
    REQUIRE(cache.stats().lookups == 0);
    REQUIRE(cache.stats().tokens_requested == 0);
}

TEST_CASE("Each outcome of insert is counted once") {
    Cache cache({.max_bytes = 10, .max_entries = 1});
    store(cache, "abcd"_key, Tier::user);
    store(cache, "abcd"_key, Tier::user);
    store(cache, "ab"_key, Tier::user);
    store(cache, "abcdefghijk"_key, Tier::user);
    {
        const auto lease = cache.lease_nearest("m", "abcde"_key);
        store(cache, "xyz"_key, Tier::user);
    }
    store(cache, "abcdef"_key, Tier::user);
    const auto stats = cache.stats();
    CHECK(stats.inserted == 2);
    CHECK(stats.replaced == 1);
    CHECK(stats.anchored == 1);
    CHECK(stats.too_large == 1);
    CHECK(stats.no_room == 1);
    CHECK(stats.absorbed == 1);
    CHECK(stats.evicted == 0);
    CHECK(stats.peak_nbytes == 6);
}

TEST_CASE("What was evicted is counted in entries, tokens and bytes") {
    Cache cache({.cut_granularity = 0});
    store(cache, "abcd"_key, Tier::user, {.bytes_per_token = 10});
    store(cache, "xyz"_key, Tier::system, {.bytes_per_token = 10});
    cache.fetch_nearest("m", "xyzw"_key);
    cache.trim_to({.max_entries = 0});
    const auto stats = cache.stats();
    CHECK(stats.evicted == 2);
    CHECK(stats.evicted_unused == 1); // abcd was never asked for
    CHECK(stats.tokens_evicted == 7);
    CHECK(stats.bytes_evicted == 70);
    CHECK(stats.peak_nbytes == 70);
    CHECK(cache.stats(Tier::user).evicted == 1);
    CHECK(cache.stats(Tier::system).evicted == 1);
    CHECK(cache.stats(Tier::assistant).evicted == 0);
}

TEST_CASE("What is erased, replaced or taken was not evicted") {
    Cache cache;
    store(cache, "abcd"_key, Tier::user, whole_only);
    store(cache, "abcd"_key, Tier::user, whole_only);
    cache.erase("m", "abcd"_key);
    store(cache, "abcd"_key, Tier::user);
    cache.take_nearest("m", "abcde"_key);
    store(cache, "abcd"_key, Tier::user);
    cache.clear();
    const auto stats = cache.stats();
    CHECK(stats.evicted == 0);
    CHECK(stats.cut == 0);
    CHECK(stats.absorbed == 0);
    CHECK(stats.tokens_evicted == 0);
    CHECK(stats.bytes_evicted == 0);
}

TEST_CASE("stats of a tier tell what it holds now and what left it") {
    Cache cache({.cut_granularity = 1});
    store(cache, "abcd"_key, Tier::user);
    store(cache, "xyzw"_key, Tier::assistant);
    cache.mark("m", "ab"_key, Tier::system);
    CHECK(cache.stats(Tier::user).entries == 1);
    CHECK(cache.stats(Tier::user).nbytes == 4);
    CHECK(cache.stats(Tier::user).anchors == 0);
    CHECK(cache.stats(Tier::system).entries == 0);
    CHECK(cache.stats(Tier::system).anchors == 1);
    cache.trim_to({.max_bytes = 7});
    CHECK(cache.stats(Tier::assistant).cut == 1);
    CHECK(cache.stats(Tier::assistant).nbytes == 3);
    CHECK(cache.stats(Tier::user).cut == 0);
}

TEST_CASE("bytes_leased are those of entries and of what left them") {
    Cache cache;
    store(cache, "abcd"_key, Tier::user);
    store(cache, "xyz"_key, Tier::user);
    auto first = std::make_optional(cache.lease_nearest("m", "abcde"_key));
    const auto second = cache.lease_nearest("m", "xyzw"_key);
    CHECK(cache.stats().bytes_leased == 7);
    cache.erase("m", "abcd"_key);
    CHECK(cache.stats().bytes_leased == 7);
    first.reset();
    CHECK(cache.stats().bytes_leased == 3);
}

} // namespace
