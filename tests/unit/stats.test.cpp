// SPDX-License-Identifier: MIT
// The counters: their names, and when the cache counts what.

#include <promptkv/lru_prompt_cache.hpp>
#include <promptkv/stats.hpp>

#include "catch.hpp"
#include "unit_payloads.hpp"

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace {

using namespace promptkv_test;
using promptkv::LRUPromptCache;
using promptkv::Stats;
using promptkv::Tier;
using promptkv::TierStats;

using Cache = LRUPromptCache<Tape>;

// for_each_counter ///////////////////////////////////////////////////////////

/// Checks that for_each_counter shows every member of `S` once, in the order of declaration, each by
/// another name.
template <class S>
void check_names() {
    static_assert(sizeof(std::size_t) == sizeof(std::uint64_t));
    constexpr std::size_t n_members = sizeof(S) / sizeof(std::uint64_t);
    std::array<std::uint64_t, n_members> members{};
    std::iota(members.begin(), members.end(), std::uint64_t{100});
    std::vector<std::uint64_t> shown;
    std::set<std::string_view> names;
    for_each_counter(std::bit_cast<S>(members), [&](std::string_view name, std::uint64_t value) {
        shown.push_back(value);
        CHECK_FALSE(name.empty());
        CHECK(names.insert(name).second);
    });
    CHECK(shown == std::vector<std::uint64_t>(members.begin(), members.end()));
}

TEST_CASE("for_each_counter names every member exactly once") {
    check_names<Stats>();
    check_names<TierStats>();
}

/// The value that for_each_counter shows by a name.
template <class S>
std::uint64_t shown(const S& stats, std::string_view wanted) {
    std::uint64_t found = 0;
    for_each_counter(stats, [&](std::string_view name, std::uint64_t value) {
        found = name == wanted ? value : found;
    });
    return found;
}

TEST_CASE("for_each_counter shows a member by its own name") {
    CHECK(shown(Stats{.lookups = 7}, "lookups") == 7);
    CHECK(shown(Stats{.missed_leased = 7}, "missed_leased") == 7);
    CHECK(shown(Stats{.stored_in_part = 7}, "stored_in_part") == 7);
    CHECK(shown(Stats{.tokens_evicted = 7}, "tokens_evicted") == 7);
    CHECK(shown(Stats{.bytes_reserved = 7}, "bytes_reserved") == 7);
    CHECK(shown(Stats{.peak_nbytes = 7}, "peak_nbytes") == 7);
    CHECK(shown(TierStats{.tokens_reused = 7}, "tokens_reused") == 7);
    CHECK(shown(TierStats{.cut = 7}, "cut") == 7);
}

// what the cache counts //////////////////////////////////////////////////////

TEST_CASE("A new cache has counted nothing") {
    const Cache cache;
    for_each_counter(cache.stats(), [](std::string_view name, std::uint64_t value) {
        CAPTURE(name);
        CHECK(value == 0);
    });
    for_each_counter(cache.stats(Tier::user), [](std::string_view name, std::uint64_t value) {
        CAPTURE(name);
        CHECK(value == 0);
    });
}

TEST_CASE("Lookups are counted by their match, and tokens by what was reused") {
    Cache cache;
    store(cache, "abcd", Tier::user);
    cache.fetch_nearest("m", key("abcd"));                       // exact, 3 of 4
    cache.fetch_nearest("m", key("abcd"), {.min_remaining = 0}); // exact, 4 of 4
    cache.fetch_nearest("m", key("abcdef"));                     // shorter, 4 of 6
    CHECK(cache.lease_nearest("m", key("abx")));                 // longer, 2 of 3
    cache.fetch_nearest("m", key("xyz"));                        // none, 0 of 3
    cache.fetch_nearest("other", key("abc"));                    // none, 0 of 3
    cache.take_nearest("m", key("abcde"));                       // shorter, 4 of 5
    const auto stats = cache.stats();
    CHECK(stats.lookups == 7);
    CHECK(stats.hits_exact == 2);
    CHECK(stats.hits_shorter == 2);
    CHECK(stats.hits_longer == 1);
    CHECK(stats.missed_nothing_shared == 2);
    CHECK(stats.tokens_requested == 4 + 4 + 6 + 3 + 3 + 3 + 5);
    CHECK(stats.tokens_reused == 3 + 4 + 4 + 2 + 4);
    CHECK(stats.taken == 1);
}

TEST_CASE("Hits and reused tokens are counted for the tier of the entry, too") {
    Cache cache;
    store(cache, "abcd", Tier::system);
    store(cache, "pqrs", Tier::user);
    cache.fetch_nearest("m", key("abcde"));
    cache.fetch_nearest("m", key("abx"));
    cache.fetch_nearest("m", key("pqrst"));
    cache.fetch_nearest("m", key("xyz"));
    CHECK(cache.stats(Tier::system).hits == 2);
    CHECK(cache.stats(Tier::system).tokens_reused == 6);
    CHECK(cache.stats(Tier::user).hits == 1);
    CHECK(cache.stats(Tier::user).tokens_reused == 4);
    CHECK(cache.stats(Tier::assistant).hits == 0);
}

TEST_CASE("Hits of few tokens are counted apart") {
    Cache cache;
    store(cache, std::string(20, 'a'), Tier::user);
    const std::size_t tiny = Stats::tiny_reuse;
    cache.fetch_nearest("m", key(std::string(tiny - 1, 'a') + "xyz"));
    CHECK(cache.stats().hits_tiny == 1);
    cache.fetch_nearest("m", key(std::string(tiny, 'a') + "xyz"));
    CHECK(cache.stats().hits_tiny == 1);
    cache.fetch_nearest("m", key("xyz"));
    CHECK(cache.stats().hits_tiny == 1);
    CHECK(cache.stats().hits_longer == 2);
}

TEST_CASE("A probe, a touch and an explanation count nothing") {
    Cache cache;
    store(cache, "abcd", Tier::user);
    CHECK(cache.probe("m", key("abcde")).reused() == 4);
    CHECK(cache.touch("m", key("abcde")).reused() == 4);
    CHECK(cache.explain("m", key("abcde")).reused == 4);
    CHECK(cache.stats().lookups == 0);
    CHECK(cache.stats().tokens_requested == 0);
    CHECK(cache.stats(Tier::user).hits == 0);
}

TEST_CASE("Each outcome of insert is counted once") {
    Cache cache({.max_bytes = 10, .max_entries = 1});
    store(cache, "abcd", Tier::user);
    store(cache, "abcd", Tier::user);                     // replaced
    store(cache, "ab", Tier::user);                       // present
    store(cache, "xyzxyzxyzxyz", Tier::user, whole_only); // too large
    {
        const auto lease = cache.lease_nearest("m", key("abcde"));
        store(cache, "xyz", Tier::user); // no room
    }
    store(cache, "abcdef", Tier::user);
    const auto stats = cache.stats();
    CHECK(stats.stored == 2);
    CHECK(stats.replaced == 1);
    CHECK(stats.present == 1);
    CHECK(stats.too_large == 1);
    CHECK(stats.no_room == 1);
    CHECK(stats.declined == 0);
    CHECK(stats.cancelled == 0);
    CHECK(stats.stored_in_part == 0);
    CHECK(stats.absorbed == 1);
    CHECK(stats.evicted == 0);
    CHECK(stats.peak_nbytes == 6);
}

TEST_CASE("What was evicted is counted in entries, tokens and bytes") {
    Cache cache;
    store(cache, "abcd", Tier::user, {.bytes_per_token = 10});
    store(cache, "xyz", Tier::system, {.bytes_per_token = 10});
    cache.fetch_nearest("m", key("xyzw"));
    CHECK(cache.trim_to({.max_entries = 0}) == 2);
    const auto stats = cache.stats();
    CHECK(stats.evicted == 2);
    CHECK(stats.evicted_unused == 1); // "abcd" never served a lookup
    CHECK(stats.tokens_evicted == 7);
    CHECK(stats.bytes_evicted == 70);
    CHECK(stats.peak_nbytes == 70);
    CHECK(cache.stats(Tier::user).evicted == 1);
    CHECK(cache.stats(Tier::system).evicted == 1);
    CHECK(cache.stats(Tier::assistant).evicted == 0);
}

TEST_CASE("What is erased, replaced, taken or cleared was not evicted") {
    Cache cache;
    store(cache, "abcd", Tier::user, whole_only);
    store(cache, "abcd", Tier::user, whole_only);
    cache.erase("m", key("abcd"));
    store(cache, "abcd", Tier::user);
    cache.take_nearest("m", key("abcde"));
    store(cache, "abcd", Tier::user);
    cache.clear();
    const auto stats = cache.stats();
    CHECK(stats.evicted == 0);
    CHECK(stats.cut == 0);
    CHECK(stats.absorbed == 0);
    CHECK(stats.tokens_evicted == 0);
    CHECK(stats.bytes_evicted == 0);
    CHECK(stats.replaced == 1);
    CHECK(stats.erased == 1);
    CHECK(stats.taken == 1);
    CHECK(stats.cleared == 1);
}

TEST_CASE("stats of a tier say what it holds now and what left it") {
    Cache cache;
    store(cache, "abcd", Tier::user);
    store(cache, "xyzw", Tier::assistant);
    CHECK(cache.stats(Tier::user).entries == 1);
    CHECK(cache.stats(Tier::user).nbytes == 4);
    CHECK(cache.stats(Tier::system).entries == 0);
    cache.trim_to({.max_bytes = 7});
    CHECK(cache.stats(Tier::assistant).cut == 1);
    CHECK(cache.stats(Tier::assistant).nbytes == 3);
    CHECK(cache.stats(Tier::user).cut == 0);
    CHECK(cache.stats().bytes_referenced == 7);
}

TEST_CASE("bytes_leased are those of entries and of payloads that left them") {
    Cache cache;
    store(cache, "abcd", Tier::user);
    store(cache, "xyz", Tier::user);
    auto first = cache.lease_nearest("m", key("abcde"));
    const auto second = cache.lease_nearest("m", key("xyzw"));
    CHECK(cache.stats().bytes_leased == 7);
    cache.erase("m", key("abcd"));
    CHECK(cache.stats().bytes_leased == 7);
    first.end();
    CHECK(cache.stats().bytes_leased == 3);
}

} // namespace
