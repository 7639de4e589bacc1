// SPDX-License-Identifier: MIT
// Payloads that lie about their bytes, their length and what they can be reused for, and payloads of
// which the bytes do not fit into a sum.
#include "counted_assert.hpp"

#include <promptkv/promptkv.hpp>

#include "../model/random.hpp"
#include "catch.hpp"
#include "letters.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace {

using namespace promptkv_test;
using promptkv::LRUPromptCache;
using promptkv::Outcome;
using promptkv::Tier;

constexpr std::size_t most = std::numeric_limits<std::size_t>::max();

// a liar, and how it is found out ////////////////////////////////////////////

/// How a payload answers. `call` counts the questions that all payloads were asked.
struct Lie {
    std::string_view what;
    std::size_t (*reusable_prefix)(std::size_t n, std::size_t call);
    std::size_t (*nbytes)(std::size_t honest, std::size_t call);
};

std::size_t honestly(std::size_t answer, std::size_t) {
    return answer;
}

/// A number that has nothing to do with the last one.
std::size_t scattered(std::size_t call) {
    return call * 0x9e3779b97f4a7c15U >> 40U;
}

/// The lie that all liars tell, and how often they were asked.
const Lie* told = nullptr;
std::size_t calls = 0;

struct Liar {
    std::size_t n = 0;

    std::size_t nbytes() const noexcept { return told->nbytes(n, ++calls); }
    std::size_t reusable_prefix(std::size_t wanted) const noexcept {
        return told->reusable_prefix(wanted, ++calls);
    }
    Liar clone_prefix(std::size_t wanted) const noexcept { return {wanted}; }
    void truncate(std::size_t wanted) noexcept { n = wanted; }
};

using Lied = LRUPromptCache<Liar, std::string, char>;

/// What is wrong with what the cache counts, whatever its payloads say now; "" where all is right.
template <class Cache>
std::string wrong_in(const Cache& cache) {
    std::size_t entries = 0;
    std::size_t bytes = 0;
    bool wrapped = false;
    cache.for_each([&](const auto& entry) {
        ++entries;
        wrapped = wrapped || entry.nbytes > most - bytes;
        bytes += entry.nbytes;
    });
    if (wrapped) {
        return "the bytes of the entries do not fit into a sum";
    }
    if (entries != cache.size()) {
        return "size";
    }
    if (bytes > cache.nbytes() || cache.nbytes() - bytes > cache.stats().bytes_leased) {
        return "nbytes";
    }
    if (cache.nbytes() > cache.limits().max_bytes || entries > cache.limits().max_entries) {
        return "a limit is exceeded";
    }
    std::size_t by_tier = 0;
    for (const Tier tier : {Tier::assistant, Tier::user, Tier::system}) {
        by_tier += cache.stats(tier).nbytes;
    }
    return by_tier == bytes ? "" : "the bytes of the tiers";
}

/// Random calls of everything, on keys of the letters a and b, with payloads from `make(length)`.
/// Returns: what went wrong, "" where nothing did. The cache is empty afterwards.
template <class Cache, class Make, class Sound>
std::string use_at_random(Cache& cache, Random& random, std::size_t operations, Make make,
                          Sound sound) {
    std::vector<typename Cache::Lease> leases;
    for (std::size_t i = 0; i < operations; ++i) {
        std::string key;
        while (key.size() < 40 && !random.one_in(key.size() < 8 ? 20 : 6)) {
            key.push_back(random.one_in(4) ? 'b' : 'a');
        }
        const std::string model = random.one_in(4) ? "other" : "m";
        const Tier tier = random.pick({Tier::assistant, Tier::user, Tier::system});
        switch (random.below(16)) {
        case 0:
            leases.push_back(cache.lease_nearest(model, key));
            break;
        case 1:
            (void)cache.take_nearest(model, key);
            break;
        case 2:
            (void)cache.fetch_nearest(model, key, {.min_remaining = 0, .align = 3});
            break;
        case 3:
        case 4:
            cache.mark(model, key, tier);
            break;
        case 5:
            cache.erase(model, key);
            break;
        case 6:
            cache.trim_to({.max_bytes = cache.nbytes() - cache.nbytes() / 8});
            break;
        case 7:
            cache.evict_while([left = 2]() mutable { return left-- > 0; });
            break;
        case 8:
            if (random.one_in(4)) {
                cache.pop_prefixes(model, key);
            }
            break;
        case 9:
            leases.clear();
            break;
        case 10:
        case 11:
            cache.insert(model, key, random.below(60), tier, [&] { return make(key.size()); });
            break;
        default:
            cache.insert(model, key, make(key.size()), tier);
        }
        if (std::string wrong = wrong_in(cache) + (sound(cache) ? "" : "invariants"); wrong != "") {
            return wrong + " after operation " + std::to_string(i);
        }
    }
    leases.clear();
    cache.trim_to({.max_entries = 0});
    cache.clear();
    return cache.nbytes() == 0 && cache.size() == 0 && cache.check_invariants() ? ""
                                                                                : "not emptied";
}

TEST_CASE("Whatever reusable_prefix answers, the cache stays whole") {
    const Lie lie = GENERATE(values<Lie>({
        {"the truth", honestly, honestly},
        {"one token more", [](std::size_t n, std::size_t) { return n + 1; }, honestly},
        {"more than there is", [](std::size_t, std::size_t) { return most; }, honestly},
        {"one token less", [](std::size_t n, std::size_t) { return n - 1; }, honestly},
        {"one less, every other time", [](std::size_t n, std::size_t call) { return n - call % 2; },
         honestly},
        {"all or nothing", [](std::size_t n, std::size_t call) { return call % 2 * n; }, honestly},
        {"always the same", [](std::size_t, std::size_t) { return std::size_t{3}; }, honestly},
        {"anything", [](std::size_t, std::size_t call) { return scattered(call) % 44; }, honestly},
    }));
    INFO(lie.what);
    told = &lie;
    failed_assertions = 0;
    for (std::uint64_t seed = 1; seed <= 40; ++seed) {
        CAPTURE(seed);
        Random random(seed);
        calls = 0;
        Lied cache({.max_bytes = 200, .max_entries = 12, .cut_granularity = 1 + seed % 4});
        REQUIRE(use_at_random(
                    cache, random, 250, [](std::size_t n) { return Liar{n}; },
                    [](const Lied& used) { return used.check_invariants(); }) == "");
    }
    CHECK(failed_assertions == 0);
}

TEST_CASE("Whatever nbytes answers, what was recorded counts and the cache stays whole") {
    const Lie lie = GENERATE(values<Lie>({
        {"more each time", honestly, [](std::size_t n, std::size_t call) { return n + call; }},
        {"less each time", honestly,
         [](std::size_t n, std::size_t call) { return 100 * n - call % 100; }},
        {"nothing", honestly, [](std::size_t, std::size_t) { return std::size_t{0}; }},
        {"the most, now and then", honestly,
         [](std::size_t n, std::size_t call) { return call % 5 == 0 ? most : n; }},
        {"anything", honestly, [](std::size_t, std::size_t call) { return scattered(call) % 60; }},
        {"anything large", honestly,
         [](std::size_t, std::size_t call) { return most / 3 + scattered(call); }},
    }));
    INFO(lie.what);
    told = &lie;
    const std::size_t max_bytes = GENERATE(std::size_t{200}, most / 2, most);
    CAPTURE(max_bytes);
    for (std::uint64_t seed = 1; seed <= 20; ++seed) {
        CAPTURE(seed);
        Random random(seed);
        calls = 0;
        Lied cache({.max_bytes = max_bytes, .cut_granularity = 1 + seed % 4});
        REQUIRE(use_at_random(
                    cache, random, 250, [](std::size_t n) { return Liar{n}; },
                    [](const Lied&) { return true; }) == "");
    }
}

TEST_CASE("check_invariants finds a payload that does not hold the bytes that were recorded") {
    const std::size_t recorded = GENERATE(0U, 1U, 2U, 1'000U);
    const std::size_t held = GENERATE(0U, 1U, 2U, 999U);
    static std::size_t answer;
    const Lie lie = {"another number", honestly, [](std::size_t, std::size_t) { return answer; }};
    CAPTURE(recorded, held);
    told = &lie;
    Lied cache;
    const std::string key = "ab";
    answer = recorded;
    cache.insert("m", key, Liar{2}, Tier::user);
    CHECK(cache.check_invariants());
    answer = held;
    CHECK(cache.check_invariants() == (held == recorded));

    // Also where the errors of two payloads make up for each other.
    const std::string other = "xy";
    answer = 2;
    cache.insert("m", other, Liar{2}, Tier::user);
    answer = 1;
    CHECK_FALSE(cache.check_invariants());
}

TEST_CASE("A payload of another length than its key is found by an assertion, and harms nothing") {
    const std::size_t length = GENERATE(0U, 3U, 5U, 1'000U);
    CAPTURE(length);
    LRUPromptCache<Tape> cache({.max_bytes = 12, .cut_granularity = 1});
    const Recording wrong{0, "m", Tokens(length, 'x'), {.bytes_per_token = 0, .overhead = 4}};
    failed_assertions = 0;
    cache.insert("m", "abcd"_key, Tape(wrong), Tier::user);
    CHECK(failed_assertions == 1);
    cache.insert("m", "wxyz"_key, 4, Tier::user, [&wrong] { return Tape(wrong); });
    CHECK(failed_assertions == 2);
    CHECK(cache.fetch_nearest("m", "abcdef"_key).reused <= 4);
    CHECK(cache.take_nearest("m", "wxyzab"_key).reused <= 4);
    store(cache, "abcdefghijkl"_key, Tier::user);
    CHECK(cache.nbytes() == 12);
    CHECK(cache.check_invariants());
}

TEST_CASE("A payload made larger than was said counts with what it holds, or is refused") {
    LRUPromptCache<Tape> cache({.max_bytes = 10, .cut_granularity = 0});
    store(cache, "mno"_key, Tier::user);
    const auto insert = [&cache](std::size_t said, std::size_t overhead) {
        return cache.insert("m", "abcd"_key, said, Tier::user,
                            [overhead] { return tape("abcd"_key, {.overhead = overhead}); });
    };
    SECTION("larger than the budget") {
        CHECK(insert(1, 7).outcome == Outcome::too_large);
        CHECK(contents(cache) == "mno1");
        CHECK(cache.nbytes() == 3);
    }
    SECTION("larger than the room that was made") {
        CHECK(insert(1, 5).outcome == Outcome::stored);
        CHECK(contents(cache) == "abcd1");
        CHECK(cache.nbytes() == 9);
    }
    SECTION("smaller") {
        CHECK(insert(7, 0).outcome == Outcome::stored);
        CHECK(contents(cache) == "abcd1 mno1");
        CHECK(cache.nbytes() == 7);
    }
    CHECK(cache.check_invariants());
}

// bytes that do not fit into a sum ///////////////////////////////////////////

/// Holds as many bytes as it says, and can be cut.
struct Weight {
    std::size_t n = 0;
    std::size_t bytes = 0;

    std::size_t nbytes() const noexcept { return bytes; }
    std::size_t reusable_prefix(std::size_t wanted) const noexcept { return wanted; }
    Weight clone_prefix(std::size_t wanted) const noexcept { return {wanted, bytes / n * wanted}; }
    void truncate(std::size_t wanted) noexcept { *this = clone_prefix(wanted); }
};

using Weighed = LRUPromptCache<Weight, std::string, char>;

TEST_CASE("Payloads of up to SIZE_MAX bytes are evicted or refused, and no sum wraps") {
    const std::size_t max_bytes = GENERATE(most, most - 1, most / 2, std::size_t{1});
    const std::size_t granularity = GENERATE(0U, 1U, 3U);
    CAPTURE(max_bytes, granularity);
    for (std::uint64_t seed = 1; seed <= 20; ++seed) {
        CAPTURE(seed);
        Random random(seed);
        Weighed cache({.max_bytes = max_bytes, .cut_granularity = granularity});
        const auto make = [&random](std::size_t n) {
            return Weight{n, random.pick({std::size_t{0}, std::size_t{1}, most / 5, most / 2,
                                          most / 2 + 1, most - 1, most})};
        };
        std::uint64_t last = 0;
        REQUIRE(use_at_random(cache, random, 250, make, [&last](const Weighed& used) {
                    const std::uint64_t before = std::exchange(last, used.stats().bytes_evicted);
                    return used.check_invariants() && before <= last &&
                           used.stats().peak_nbytes >= used.nbytes();
                }) == "");
    }
}

TEST_CASE("What leased bytes leave room for is told without a sum that wraps") {
    Weighed cache;
    const std::string a = "aaaa";
    const std::string b = "bbbb";
    CHECK(cache.insert("m", a, Weight{4, most - 10}, Tier::user).outcome == Outcome::stored);
    {
        const auto lease = cache.lease_nearest("m", a, {.min_remaining = 0});
        CHECK(cache.stats().bytes_leased == most - 10);
        CHECK(cache.insert("m", b, Weight{4, 11}, Tier::user).outcome == Outcome::no_room);
        CHECK(cache.insert("m", b, Weight{4, most}, Tier::user).outcome == Outcome::no_room);
        CHECK(cache.insert("m", b, Weight{4, 10}, Tier::user).outcome == Outcome::stored);
        CHECK(cache.nbytes() == most);
        CHECK(cache.erase("m", a));
        CHECK(cache.insert("m", a, Weight{4, 11}, Tier::user).outcome == Outcome::no_room);
        CHECK(cache.nbytes() == most);
    }
    CHECK(cache.nbytes() == 10);
    CHECK(cache.insert("m", a, Weight{4, most}, Tier::user).outcome == Outcome::stored);
    CHECK(cache.size() == 1);
    CHECK(cache.stats().peak_nbytes == most);
    CHECK(cache.check_invariants());
}

TEST_CASE("Payloads of no bytes are stored without end, and leave when entries are limited") {
    Weighed cache({.max_bytes = 1});
    for (char token = 'a'; token <= 'z'; ++token) {
        const std::string key(5, token);
        CHECK(cache.insert("m", key, Weight{5, 0}, Tier::user).outcome == Outcome::stored);
    }
    CHECK(cache.size() == 26);
    CHECK(cache.nbytes() == 0);
    CHECK(cache.trim_to({.max_bytes = 0}) == 0);
    CHECK(cache.trim_to({.max_entries = 3}) == 23);
    CHECK(cache.evict_while([&cache] { return !cache.empty(); }) == 3);
    CHECK(cache.check_invariants());
}

} // namespace
