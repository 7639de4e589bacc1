// SPDX-License-Identifier: MIT
// What LRUPromptCache costs: allocations, questions to the payloads, copies and memory.

#include <promptkv/lru_prompt_cache.hpp>

#include "catch.hpp"
#include "counting_new.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace {

using namespace promptkv_test;
using promptkv::LRUPromptCache;
using promptkv::Match;
using promptkv::Tier;

using Tokens = std::vector<std::int32_t>;

/// What the payloads of a test were asked.
struct Asked {
    std::size_t nbytes = 0;
    std::size_t reusable_prefix = 0;
    std::size_t clones = 0;
    std::size_t cloned_tokens = 0;
    std::size_t truncates = 0;
    std::size_t moves = 0;
};

/// Full attention that counts what it is asked. Owns no memory.
struct Counted {
    Asked* asked = nullptr;
    std::size_t n = 0;
    bool whole_only = false;

    Counted(Asked& counters, std::size_t tokens, bool whole = false)
        : asked(&counters), n(tokens), whole_only(whole) {}
    Counted(Counted&& other) noexcept
        : asked(other.asked), n(other.n), whole_only(other.whole_only) {
        ++asked->moves;
    }
    Counted& operator=(Counted&& other) noexcept {
        asked = other.asked;
        n = other.n;
        whole_only = other.whole_only;
        ++asked->moves;
        return *this;
    }
    ~Counted() = default;

    std::size_t nbytes() const noexcept {
        ++asked->nbytes;
        return n;
    }
    std::size_t reusable_prefix(std::size_t wanted) const noexcept {
        ++asked->reusable_prefix;
        return wanted == n || !whole_only ? wanted : 0;
    }
    Counted clone_prefix(std::size_t wanted) const {
        ++asked->clones;
        asked->cloned_tokens += wanted;
        return Counted(*asked, wanted, whole_only);
    }
    void truncate(std::size_t wanted) noexcept {
        ++asked->truncates;
        n = wanted;
    }
    std::size_t length() const noexcept { return n; }
};

using Cache = LRUPromptCache<Counted>;

/// `n` tokens that count up from `first`.
Tokens counting(std::size_t n, std::int32_t first = 0) {
    Tokens tokens(n);
    std::iota(tokens.begin(), tokens.end(), first);
    return tokens;
}

/// The number of allocations that `act` makes.
template <class Act>
std::size_t allocations_of(Act act) {
    const std::size_t before = allocations;
    act();
    return allocations - before;
}

constexpr const char* model = "a model whose name is too long to be kept within a string";

TEST_CASE("Questions, misses and leases allocate nothing") {
    Asked asked;
    Cache cache;
    const Tokens key = counting(4'096);
    cache.insert(model, key, Counted(asked, key.size()), Tier::user);
    for (std::size_t n = 64; n < key.size(); n += 64) {
        cache.mark(model, std::span(key).first(n), Tier::user);
    }
    Tokens branch = key;
    branch[2'000] = -1;
    const Tokens unknown = counting(4'096, 1'000'000);

    SECTION("probe") {
        std::size_t reused = 0;
        REQUIRE(allocations_of([&] {
                    reused += cache.probe(model, key, {.min_remaining = 0}).reused;
                    reused += cache.probe(model, key).reused;
                    reused += cache.probe(model, branch).reused;
                    reused += cache.probe(model, unknown).reused;
                    reused += cache.probe("no model", key).reused;
                }) == 0);
        REQUIRE(reused == 4'096 + 4'095 + 2'000);
    }
    SECTION("lease") {
        std::size_t reused = 0;
        REQUIRE(allocations_of([&] {
                    const auto exact = cache.lease_nearest(model, key);
                    const auto longer = cache.lease_nearest(model, branch);
                    reused = exact.reused + longer.reused;
                }) == 0);
        REQUIRE(reused == 4'095 + 2'000);
    }
    SECTION("miss") {
        bool missed = false;
        REQUIRE(allocations_of([&] {
                    cache.fetch_nearest(model, unknown);
                    cache.fetch_nearest("no model", key);
                    cache.fetch_nearest(model, branch, {.min_reuse = 3'000});
                    missed = !cache.lease_nearest(model, unknown);
                    cache.take_nearest(model, branch);
                }) == 0);
        REQUIRE(missed);
        REQUIRE(cache.stats().lookups == 5);
        REQUIRE(cache.stats().tokens_reused == 0);
    }
    SECTION("refusals") {
        cache.set_limits({.max_bytes = 5'000});
        const Tokens large = counting(8'192, 2'000'000);
        REQUIRE(allocations_of([&] {
                    cache.insert(model, large, Counted(asked, large.size()), Tier::user);
                    const auto lease = cache.lease_nearest(model, key);
                    cache.insert(model, unknown, Counted(asked, unknown.size()), Tier::user);
                }) == 0);
        REQUIRE(cache.stats().too_large == 1);
        REQUIRE(cache.stats().no_room == 1);
    }
    SECTION("figures") {
        std::size_t sum = 0;
        REQUIRE(allocations_of([&] {
                    sum += cache.size() + cache.nbytes() + cache.nbytes(model);
                    sum += cache.stats().lookups + cache.stats(Tier::user).entries;
                    sum += cache.index_nbytes() > 0 ? 1 : 0;
                }) == 0);
        REQUIRE(sum == 1 + 4'096 + 4'096 + 0 + 1 + 1);
    }
}

TEST_CASE("The allocations of an insert do not depend on the length of the key") {
    Asked asked;
    const auto of_length = [&asked](std::size_t n) {
        Cache cache;
        const Tokens other = counting(1, -5);
        cache.insert(model, other, Counted(asked, 1), Tier::user);
        const Tokens key = counting(n);
        const Tokens branch = [&] {
            Tokens tokens = key;
            tokens[n / 2] = -1;
            return tokens;
        }();
        std::size_t inserted =
            allocations_of([&] { cache.insert(model, key, Counted(asked, n), Tier::user); });
        inserted += 100 * allocations_of(
                              [&] { cache.insert(model, branch, Counted(asked, n), Tier::user); });
        return inserted;
    };
    const std::size_t shortest = of_length(16);
    for (const std::size_t n : {256U, 4'096U, 65'536U, 1'048'576U}) {
        CAPTURE(n);
        REQUIRE(of_length(n) == shortest);
    }
}

TEST_CASE("A hit copies the tokens that it reuses, and no others") {
    Asked asked;
    Cache cache;
    const Tokens key = counting(10'000);
    cache.insert("m", key, Counted(asked, key.size()), Tier::user);
    struct Row {
        std::size_t matched, asked_for;
    };
    const Row row = GENERATE(
        values<Row>({{10'000, 10'001}, {10'000, 10'000}, {700, 900}, {700, 700}, {5, 100'000}}));
    Tokens prompt = counting(row.asked_for);
    std::fill(prompt.begin() + static_cast<std::ptrdiff_t>(std::min(row.matched, row.asked_for)),
              prompt.end(), -1);
    asked = {};
    const auto hit = cache.fetch_nearest("m", prompt);
    REQUIRE(hit.reused == std::min(row.matched, row.asked_for - 1));
    REQUIRE(asked.clones == 1);
    REQUIRE(asked.cloned_tokens == hit.reused);
}

TEST_CASE("Payloads are moved in and out, never copied") {
    Asked asked;
    Cache cache;
    const Tokens key = counting(100);
    cache.insert("m", key, Counted(asked, 100), Tier::user);
    REQUIRE(cache.take_nearest("m", key));
    const auto lease = cache.lease_nearest("m", key);
    REQUIRE(asked.clones == 0);
    REQUIRE(asked.moves <= 8);
}

TEST_CASE("A lookup asks sixteen payloads at most") {
    Asked asked;
    Cache cache({.supersede = false});
    const Tokens key = counting(300);
    // A chain of entries that cannot be cut, and beside each one that branches off.
    for (std::size_t n = 1; n <= key.size(); ++n) {
        cache.insert("m", std::span(key).first(n), Counted(asked, n, true), Tier::user);
        Tokens branch(key.begin(), key.begin() + static_cast<std::ptrdiff_t>(n));
        branch.back() = -1;
        branch.push_back(-1);
        cache.insert("m", branch, Counted(asked, n + 1, true), Tier::user);
    }
    REQUIRE(cache.size() == 600);

    SECTION("which serves when one of them does") {
        asked = {};
        REQUIRE(cache.probe("m", key).reused == 299);
        REQUIRE(asked.reusable_prefix <= 16 + 2);
    }
    SECTION("and gives up when none of them does") {
        asked = {};
        cache.fetch_nearest("m", key, {.min_remaining = 200});
        REQUIRE(asked.reusable_prefix <= 16 + 2);
        REQUIRE(asked.clones <= 1);
    }
}

TEST_CASE("A miss asks sixteen other models at most, and a hit none") {
    constexpr std::size_t models = 100;
    Asked asked;
    Cache cache;
    const Tokens key = counting(40);
    const Tokens prompt = counting(30);
    for (std::size_t i = 0; i < models; ++i) {
        cache.insert("m" + std::to_string(i), key, Counted(asked, key.size()), Tier::user);
    }
    asked = {};
    REQUIRE(!cache.lease_nearest("another", prompt, {.min_reuse = 30}));
    CHECK(asked.reusable_prefix == 16);
    CHECK(cache.stats().missed_nothing_shared == 1);

    asked = {};
    REQUIRE(!cache.probe("another", prompt));
    CHECK(asked.reusable_prefix == 0); // nobody asked why
    REQUIRE(cache.lease_nearest("m7", prompt));
    CHECK(asked.reusable_prefix == 1);

    REQUIRE(!cache.lease_nearest("another", prompt));
    CHECK(cache.stats().missed_other_model == 1);
}

TEST_CASE("The bytes of a payload are asked for when it is stored and after a cut") {
    Asked asked;
    Cache cache({.max_bytes = 150, .cut_granularity = 1});
    const Tokens key = counting(100);
    cache.insert("m", key, Counted(asked, 100), Tier::user);
    REQUIRE(asked.nbytes == 1);
    asked = {};
    const Tokens longer = counting(101);
    cache.fetch_nearest("m", longer);
    REQUIRE(cache.probe("m", key).reused == 99);
    REQUIRE(cache.nbytes() == 100);
    cache.mark("m", std::span(key).first(50), Tier::user);
    REQUIRE(asked.nbytes == 0);
    const Tokens other = counting(90, 500);
    const auto inserted = cache.insert("m", other, Counted(asked, 90), Tier::user);
    REQUIRE(inserted.cut == 1);
    REQUIRE(asked.truncates == 1);
    REQUIRE(asked.nbytes == 2);
    asked = {};
    cache.clear();
    REQUIRE(asked.nbytes == 0);
}

TEST_CASE("Entries that come and go leave no memory behind") {
    Asked asked;
    Cache cache({.max_entries = 500});
    std::mt19937 random(11);
    const auto round = [&] {
        for (int i = 0; i < 3'000; ++i) {
            const Tokens key =
                counting(1 + random() % 50, static_cast<std::int32_t>(random() % 900));
            cache.insert("m", key, Counted(asked, key.size(), random() % 2 == 0),
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
    REQUIRE(more_blocks <= blocks + blocks / 4);
    REQUIRE(more_bytes <= bytes + bytes / 4);
    REQUIRE(cache.check_invariants());
}

TEST_CASE("index_nbytes is what the index has allocated") {
    Asked asked;
    const std::size_t outside = live_bytes;
    Cache cache;
    const std::size_t empty = cache.index_nbytes();
    std::size_t tokens = 0;
    std::mt19937 random(5);
    for (std::int32_t i = 0; i < 4'000; ++i) {
        const Tokens key = counting(50 + random() % 400, i * 1'000);
        tokens += key.size();
        cache.insert("m", key, Counted(asked, key.size()), static_cast<Tier>(random() % 3));
        if (i % 4 == 0) {
            cache.mark("m", std::span(key).first(20), Tier::system);
        }
    }
    const std::size_t allocated = live_bytes - outside;
    const std::size_t said = cache.index_nbytes();
    const std::size_t entries = cache.size();
    cache.clear();
    const std::size_t cleared = live_bytes - outside;
    const std::size_t cleared_said = cache.index_nbytes();
    CAPTURE(allocated, said, entries, tokens, cleared, cleared_said, empty);
    CHECK(said * 100 >= allocated * 97);
    CHECK(said * 100 <= allocated * 103);
    CHECK(cleared_said == empty);
    CHECK(cleared <= 4'096);
}

TEST_CASE("The index takes at most 4.2 bytes a token and 300 bytes an entry") {
    Asked asked;
    struct Row {
        std::size_t entries, length;
    };
    const Row row = GENERATE(values<Row>({{10'000, 4}, {4'000, 100}, {500, 5'000}}));
    CAPTURE(row.entries, row.length);
    Cache cache;
    for (std::size_t i = 0; i < row.entries; ++i) {
        const Tokens key = counting(row.length, static_cast<std::int32_t>(i * 10'000));
        cache.insert("m", key, Counted(asked, row.length), Tier::user);
    }
    REQUIRE(cache.size() == row.entries);
    const double tokens = static_cast<double>(row.entries * row.length);
    const double budget = 4.2 * tokens + 300.0 * static_cast<double>(row.entries);
    REQUIRE(static_cast<double>(cache.index_nbytes()) <= budget);
}

} // namespace
