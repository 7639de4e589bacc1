// SPDX-License-Identifier: MIT
// What LRUPromptCache costs: allocations, calls of the payloads' functions, copies and memory.

#include <promptkv/lru_prompt_cache.hpp>

#include "catch.hpp"
#include "counting_new.hpp"
#include "unit_payloads.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace {

using namespace promptkv_test;
using promptkv::LRUPromptCache;
using promptkv::Match;
using promptkv::Outcome;
using promptkv::Tier;

using Cache = LRUPromptCache<Counted>;
using BlockCache = LRUPromptCache<VisitedBlocks>;

/// The number of allocations that `act` makes.
template <class Act>
std::size_t allocations_of(Act act) {
    const std::size_t before = allocations;
    act();
    return allocations - before;
}

constexpr const char* model = "a model whose name is too long to be kept within a string";

// allocations ////////////////////////////////////////////////////////////////

TEST_CASE("Lookups and figures allocate nothing") {
    Calls calls;
    Cache cache;
    const Key long_key = counting(4'096);
    cache.insert(model, long_key, Counted(calls, long_key.size()), Tier::user);
    const Key system(long_key.begin(), long_key.begin() + 64);
    cache.insert(model, system, Counted(calls, system.size()), Tier::system);
    Key branch = long_key;
    branch[2'000] = -1;
    const Key unknown = counting(4'096, 1'000'000);

    SECTION("probe") {
        std::size_t reused = 0;
        CHECK(allocations_of([&] {
                  reused += cache.probe(model, long_key, {.min_remaining = 0}).reused();
                  reused += cache.probe(model, long_key).reused();
                  reused += cache.probe(model, branch).reused();
                  reused += cache.probe(model, unknown).reused();
                  reused += cache.probe("no model", long_key).reused();
              }) == 0);
        CHECK(reused == 4'096 + 4'095 + 2'000);
    }
    SECTION("lease and touch") {
        std::size_t reused = 0;
        CHECK(allocations_of([&] {
                  const auto exact = cache.lease_nearest(model, long_key);
                  const auto longer = cache.lease_nearest(model, branch);
                  reused = exact.reused() + longer.reused() + cache.touch(model, system).reused();
              }) == 0);
        CHECK(reused == 4'095 + 2'000 + 64);
    }
    SECTION("miss") {
        bool missed = false;
        CHECK(allocations_of([&] {
                  cache.fetch_nearest(model, unknown);
                  cache.fetch_nearest("no model", long_key);
                  cache.fetch_nearest(model, branch, {.min_reuse = 3'000});
                  missed = !cache.lease_nearest(model, unknown);
              }) == 0);
        CHECK(missed);
        CHECK(cache.stats().lookups == 4);
        CHECK(cache.stats().tokens_reused == 0);
    }
    SECTION("figures") {
        std::size_t sum = 0;
        CHECK(allocations_of([&] {
                  sum += cache.size() + cache.nbytes() + cache.nbytes(model);
                  sum += cache.stats().lookups + cache.stats(Tier::user).entries;
                  sum += cache.index_nbytes() > 0 ? 1U : 0U;
              }) == 0);
        CHECK(sum == 2 + 2 * 4'160 + 0 + 1 + 1);
    }
}

TEST_CASE("A key that is present already costs no allocation") {
    Calls calls;
    Cache cache;
    const Key long_key = counting(4'096);
    cache.insert(model, long_key, Counted(calls, long_key.size()), Tier::user);
    const std::span<const std::int32_t> prefix = std::span(long_key).first(2'000);
    Outcome outcome{};
    CHECK(allocations_of([&] {
              outcome =
                  cache.insert(model, prefix, Counted(calls, prefix.size()), Tier::user).outcome;
          }) == 0);
    CHECK(outcome == Outcome::present);
}

TEST_CASE("The allocations of an insert are few, and do not depend on the length of the key") {
    Calls calls;
    const auto of_length = [&calls](std::size_t n) {
        Cache cache;
        cache.insert(model, counting(1, -5), Counted(calls, 1), Tier::user);
        const Key first = counting(n);
        Key branch = first;
        branch[n / 2] = -1;
        const std::size_t of_first =
            allocations_of([&] { cache.insert(model, first, Counted(calls, n), Tier::user); });
        const std::size_t of_branch =
            allocations_of([&] { cache.insert(model, branch, Counted(calls, n), Tier::user); });
        return std::pair(of_first, of_branch);
    };
    const auto shortest = of_length(16);
    CHECK(shortest.first <= 5);  // record, payload, node, tokens, a place among the children
    CHECK(shortest.second <= 7); // and the node where they part, with its children
    for (const std::size_t n : {256U, 4'096U, 65'536U, 1'048'576U}) {
        CAPTURE(n);
        CHECK(of_length(n) == shortest);
    }
}

TEST_CASE("The allocations of an insert do not depend on the number of blocks") {
    std::size_t visits = 0;
    const auto of_length = [&visits](std::size_t n) {
        BlockCache cache;
        const Key first = counting(n);
        Key branch = first;
        branch[n / 2] = -1;
        cache.insert(model, first, VisitedBlocks(visits, n), Tier::user);
        VisitedBlocks kv(visits, n);
        return allocations_of([&] { cache.insert(model, branch, std::move(kv), Tier::user); });
    };
    const std::size_t shortest = of_length(256);
    CHECK(shortest <= 8); // and the blocks that it gives up
    CHECK(of_length(65'536) == shortest);
}

TEST_CASE("An eviction allocates nothing where the payload is dropped") {
    Calls calls;
    Cache cache;
    for (std::int32_t i = 0; i < 100; ++i)
        cache.insert(model, counting(100, i * 1'000), Counted(calls, 100, true), Tier::user);
    CHECK(allocations_of([&] { CHECK(cache.trim_to({.max_bytes = 5'000}) == 50); }) <= 2);
}

// calls of the payloads' functions ///////////////////////////////////////////

TEST_CASE("A hit copies the tokens that it reuses, and no others") {
    Calls calls;
    Cache cache;
    const Key stored = counting(10'000);
    cache.insert("m", stored, Counted(calls, stored.size()), Tier::user);
    struct Row {
        std::size_t matched, requested;
    };
    const Row row = GENERATE(
        values<Row>({{10'000, 10'001}, {10'000, 10'000}, {700, 900}, {700, 700}, {5, 100'000}}));
    Key prompt = counting(row.requested);
    std::fill(prompt.begin() + static_cast<std::ptrdiff_t>(std::min(row.matched, row.requested)),
              prompt.end(), -1);
    calls = {};
    const auto hit = cache.fetch_nearest("m", prompt);
    CHECK(hit.reused() == std::min(row.matched, row.requested - 1));
    CHECK(calls.clones == 1);
    CHECK(calls.cloned_tokens == hit.reused());
}

TEST_CASE("Payloads are moved in and out, never copied") {
    Calls calls;
    Cache cache;
    const Key stored = counting(100);
    cache.insert("m", stored, Counted(calls, 100), Tier::user);
    CHECK(cache.take_nearest("m", stored));
    CHECK(calls.clones == 0);
    CHECK(calls.moves <= 4);
}

TEST_CASE("A lookup asks sixteen longer payloads at most") {
    Calls calls;
    Cache cache;
    const Key path = counting(200);
    // At each token of the path an entry that serves its whole key only branches off.
    for (std::size_t n = 1; n <= path.size(); ++n) {
        Key branch(path.begin(), path.begin() + static_cast<std::ptrdiff_t>(n));
        branch.back() = -1;
        branch.push_back(-1);
        cache.insert("m", branch, Counted(calls, n + 1, true), Tier::user);
    }
    REQUIRE(cache.size() == 200);
    calls = {};
    CHECK_FALSE(cache.lease_nearest("m", path));
    CHECK(calls.reusable_prefix <= 3 * 16); // a payload is asked a few times at most
    CHECK(calls.nbytes == 0);
}

TEST_CASE("A miss asks no payload of another model") {
    constexpr std::size_t models = 100;
    Calls calls;
    Cache cache;
    const Key stored = counting(40);
    const Key prompt = counting(30);
    for (std::size_t i = 0; i < models; ++i)
        cache.insert("m" + std::to_string(i), stored, Counted(calls, stored.size()), Tier::user);
    calls = {};
    CHECK_FALSE(cache.lease_nearest("another", prompt));
    CHECK_FALSE(cache.probe("another", prompt));
    CHECK(calls.reusable_prefix == 0);
    CHECK(cache.stats().missed_nothing_shared == 1);
    CHECK(cache.explain("another", prompt).reason == promptkv::MissReason::other_model);
    CHECK(calls.reusable_prefix > 0);
}

TEST_CASE("The bytes of a payload are asked for when it is stored or cut, and not by lookups") {
    Calls calls;
    Cache cache({.max_bytes = 150});
    const Key stored = counting(100);
    cache.insert("m", stored, Counted(calls, 100), Tier::user);
    CHECK(calls.nbytes <= 2);
    calls = {};
    cache.fetch_nearest("m", counting(101));
    CHECK(cache.probe("m", stored).reused() == 99);
    CHECK(cache.nbytes() == 100);
    CHECK(cache.stats().bytes_referenced == 100);
    CHECK(calls.nbytes == 0);
    const auto inserted = cache.insert("m", counting(90, 500), Counted(calls, 90), Tier::user);
    CHECK(inserted.cut == 1);
    CHECK(calls.truncates == 1);
    CHECK(calls.nbytes <= 4);
    calls = {};
    cache.clear();
    CHECK(calls.nbytes == 0);
}

// blocks /////////////////////////////////////////////////////////////////////

TEST_CASE("A lookup, and a lease that begins and ends, touch no block") {
    std::size_t visits = 0;
    BlockCache cache;
    const Key stored = counting(64 * 100);
    cache.insert("m", stored, VisitedBlocks(visits, stored.size()), Tier::user);
    visits = 0;
    const Key prompt = counting(64 * 100 + 1);
    CHECK(cache.probe("m", prompt).reused() == 6'400);
    {
        const auto lease = cache.lease_nearest("m", prompt);
        CHECK(lease.reused() == 6'400);
    }
    CHECK(cache.touch("m", prompt).reused() == 6'400);
    CHECK(cache.fetch_nearest("m", prompt).reused() == 6'400);
    CHECK(visits == 0);
}

TEST_CASE("An insert beside leased payloads visits their blocks only where it would be refused") {
    std::size_t visits = 0;
    std::size_t small_visits = 0;
    BlockCache cache({.max_bytes = 10'000});
    const Key large = counting(64 * 100); // 6,400 bytes
    cache.insert("m", large, VisitedBlocks(visits, large.size()), Tier::user);
    const auto lease = cache.lease_nearest("m", counting(64 * 100 + 1));
    visits = 0;
    const Key small = counting(64, 1'000'000);
    CHECK(cache.insert("m", small, VisitedBlocks(small_visits, 64), Tier::user).outcome ==
          Outcome::stored);
    CHECK(visits == 0);
    const Key too_much = counting(64 * 80, 2'000'000);
    CHECK(cache.insert("m", too_much, VisitedBlocks(small_visits, too_much.size()), Tier::user)
              .tokens < too_much.size());
    CHECK(visits == 100); // each once
}

TEST_CASE("An insert visits each block of its payload a few times at most") {
    std::size_t visits = 0;
    BlockCache cache;
    constexpr std::size_t n_blocks = 1'000;
    const Key stored = counting(64 * n_blocks);
    cache.insert("m", stored, VisitedBlocks(visits, stored.size()), Tier::user);
    CHECK(visits <= 2 * n_blocks);
}

TEST_CASE("A victim's blocks are visited a few times at most where its tail is cut") {
    std::size_t visits = 0;
    BlockCache cache;
    constexpr std::size_t n_blocks = 1'000;
    const Key stored = counting(64 * n_blocks);
    cache.insert("m", stored, VisitedBlocks(visits, stored.size()), Tier::user);
    visits = 0;
    CHECK(cache.trim_to({.max_bytes = 64 * (n_blocks - 1)}) == 0);
    CHECK(cache.nbytes() == 64 * (n_blocks - 1));
    CHECK(visits <= 20); // those of the tail, and not those that stay
}

// memory /////////////////////////////////////////////////////////////////////

TEST_CASE("Entries that come and go leave no memory behind") {
    Calls calls;
    Cache cache({.max_entries = 500});
    std::mt19937 random(11);
    const auto round = [&] {
        for (int i = 0; i < 3'000; ++i) {
            const Key each = counting(1 + random() % 50, static_cast<std::int32_t>(random() % 900));
            cache.insert("m", each, Counted(calls, each.size(), random() % 2 == 0),
                         static_cast<Tier>(random() % 3));
        }
    };
    round();
    const std::size_t blocks = live_blocks;
    const std::size_t bytes = live_bytes;
    round();
    round();
    const std::size_t more_blocks = live_blocks;
    const std::size_t more_bytes = live_bytes;
    CHECK(more_blocks <= blocks + blocks / 4);
    CHECK(more_bytes <= bytes + bytes / 4);
    CHECK(cache.check_invariants());
}

TEST_CASE("Reservations that are dropped leave no memory behind") {
    LRUPromptCache<Blocks> cache({.max_bytes = 1'000});
    const auto round = [&cache] {
        for (std::int32_t i = 0; i < 1'000; ++i)
            (void)cache.reserve("m", counting(10, i), 10, Tier::user);
    };
    round();
    const std::size_t bytes = live_bytes;
    round();
    round();
    const std::size_t more_bytes = live_bytes;
    CHECK(more_bytes <= bytes + 4'096);
    CHECK(cache.nbytes() == 0);
}

TEST_CASE("index_nbytes is what the index has allocated") {
    Calls calls;
    const std::size_t outside = live_bytes;
    Cache cache;
    const std::size_t of_empty = live_bytes - outside;
    const std::size_t empty = cache.index_nbytes();
    std::mt19937 random(5);
    for (std::int32_t i = 0; i < 4'000; ++i) {
        const Key each = counting(50 + random() % 400, i * 1'000);
        cache.insert("m", each, Counted(calls, each.size()), static_cast<Tier>(random() % 3));
    }
    const std::size_t payloads = cache.size() * sizeof(Counted);
    const std::size_t allocated = live_bytes - outside - of_empty - payloads;
    const std::size_t said = cache.index_nbytes();
    cache.clear();
    const std::size_t cleared = live_bytes - outside;
    const std::size_t cleared_said = cache.index_nbytes();
    CAPTURE(allocated, said, cleared, cleared_said, empty);
    CHECK(said * 100 >= allocated * 95);
    CHECK(said * 100 <= allocated * 105);
    CHECK(cleared_said <= empty + 200);
    CHECK(cleared <= of_empty + 4'096);
}

TEST_CASE("The index takes at most 4.2 bytes per token and 300 bytes per entry") {
    Calls calls;
    struct Row {
        std::size_t entries, length;
    };
    const Row row = GENERATE(values<Row>({{10'000, 4}, {4'000, 100}, {500, 5'000}}));
    CAPTURE(row.entries, row.length);
    Cache cache;
    for (std::size_t i = 0; i < row.entries; ++i) {
        const Key each = counting(row.length, static_cast<std::int32_t>(i * 10'000));
        cache.insert("m", each, Counted(calls, row.length), Tier::user);
    }
    REQUIRE(cache.size() == row.entries);
    const double tokens = static_cast<double>(row.entries * row.length);
    const double budget = 4.2 * tokens + 300.0 * static_cast<double>(row.entries);
    CHECK(static_cast<double>(cache.index_nbytes()) <= budget);
}

} // namespace
