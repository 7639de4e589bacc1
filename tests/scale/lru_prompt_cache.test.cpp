// SPDX-License-Identifier: MIT
// LRUPromptCache at its largest: entries, depth of a conversation, length of a prompt.

#include <promptkv/lru_prompt_cache.hpp>

#include "catch.hpp"
#include "small_stack.hpp"

#include <cstddef>
#include <cstdint>
#include <optional>
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

/// Counts its tokens and serves its whole key alone.
struct Whole {
    std::size_t n = 0;

    std::size_t nbytes() const noexcept { return n; }
    std::size_t length() const noexcept { return n; }
};

/// Counts its tokens and can be cut anywhere.
struct Cuttable {
    std::size_t n = 0;

    std::size_t nbytes() const noexcept { return n; }
    std::size_t reusable_prefix(std::size_t wanted) const noexcept { return wanted; }
    Cuttable clone_prefix(std::size_t wanted) const noexcept { return {wanted}; }
    void truncate(std::size_t wanted) noexcept { n = wanted; }
    std::size_t length() const noexcept { return n; }
};

template <class KV, class Token>
using Cache = LRUPromptCache<KV, std::string, Token>;

TEST_CASE("A conversation of 100,000 one-token turns is borne by a stack of 256 KiB") {
    REQUIRE(on_small_stack([] {
        constexpr std::size_t turns = deep / 2;
        const std::vector<std::int8_t> key(turns, 7);
        const std::span<const std::int8_t> tokens = key;
        std::optional<Cache<Whole, std::int8_t>> cache(std::in_place);
        // The longest first: each insert then finds its place on one edge.
        for (std::size_t n = turns; n > 0; --n) {
            cache->insert("m", tokens.first(n), Whole{n}, Tier::user);
        }
        REQUIRE(cache->size() == turns);

        REQUIRE(cache->probe("m", tokens, {.min_remaining = 0}).reused == turns);
        REQUIRE(cache->fetch_nearest("m", tokens).reused == turns - 1);
        {
            const auto lease = cache->lease_nearest("m", tokens);
            REQUIRE(lease.reused == turns - 1);
            REQUIRE(cache->trim_to({.max_entries = turns - 100}) == 100);
            REQUIRE(cache->size() == turns - 100);
        }
        std::size_t visited = 0;
        cache->on_removal([&visited](const auto&) { ++visited; });
        REQUIRE(cache->trim_to({.max_entries = turns - 1'000}) == 900);
        REQUIRE(visited == 900);
        cache->on_removal(nullptr);
        REQUIRE(cache->check_invariants());
        REQUIRE(cache->pop_prefixes("m", tokens.first(1'000)) == 999);
        const std::size_t left = cache->size();
        REQUIRE(cache->clear() == left);
        REQUIRE(cache->empty());
        for (std::size_t n = turns / 2; n > 0; --n) {
            cache->insert("m", tokens.first(n), Whole{n}, Tier::user);
        }
        cache.reset(); // the destructor does not recurse either
    }));
}

TEST_CASE("Turns that pile up are superseded and leave in order, however many") {
    REQUIRE(on_small_stack([] {
        constexpr std::size_t depth = 3'000;
        const std::vector<std::int8_t> key(depth, 7);
        const std::span<const std::int8_t> tokens = key;
        Cache<Whole, std::int8_t> cache({.max_entries = 500});
        for (std::size_t n = 1; n <= depth; ++n) {
            cache.insert("m", tokens.first(n), Whole{n}, Tier::user);
        }
        REQUIRE(cache.size() == 500);
        REQUIRE(cache.check_invariants());
        // The shortest went: what is left are the latest turns.
        REQUIRE(cache.probe("m", tokens, {.min_remaining = 0}).reused == depth);
        REQUIRE(cache.probe("m", tokens.first(depth - 500)).match == Match::none);
        REQUIRE(cache.probe("m", tokens.first(depth - 499), {.min_remaining = 0}).match ==
                Match::exact);
    }));
}

TEST_CASE("An entry with an anchor at each of its tokens is cut from one to the next") {
    REQUIRE(on_small_stack([] {
        constexpr std::size_t length = 2'000;
        const std::vector<std::int8_t> key(length, 7);
        const std::span<const std::int8_t> tokens = key;
        Cache<Cuttable, std::int8_t> cache({.cut_granularity = 1});
        cache.insert("m", tokens, Cuttable{length}, Tier::assistant);
        const std::vector<std::int8_t> other(200, 9);
        cache.insert("m", other, Cuttable{other.size()}, Tier::user);
        for (std::size_t n = 1; n < length; n += 20) {
            REQUIRE(cache.mark("m", tokens.first(n), Tier::user));
        }
        for (std::size_t bytes = cache.nbytes(); bytes > 0; bytes = bytes * 9 / 10) {
            cache.trim_to({.max_bytes = bytes});
            REQUIRE(cache.nbytes() <= bytes);
        }
        REQUIRE(cache.check_invariants());
    }));
}

TEST_CASE("A million entries come, are found and go") {
    // Fewer where a sanitizer makes each of them cost ten times as much.
    constexpr std::int32_t million = PROMPTKV_TEST_SANITIZED ? 100'000 : 1'000'000;
    constexpr std::int32_t few = million / 10 * 3;
    const auto key_of = [](std::int32_t i) {
        return std::vector<std::int32_t>{i % 1'000, i / 1'000, i, 5};
    };
    Cache<Cuttable, std::int32_t> cache;
    for (std::int32_t i = 0; i < million; ++i) {
        const auto key = key_of(i);
        cache.insert("m", key, Cuttable{key.size()}, static_cast<Tier>(i % 3));
    }
    REQUIRE(cache.size() == million);
    REQUIRE(cache.nbytes() == std::size_t{4} * million);
    std::size_t wrong = 0;
    for (std::int32_t i = 0; i < million; i += 7) {
        const auto key = key_of(i);
        const auto probe = cache.probe("m", key, {.min_remaining = 0});
        wrong += probe.reused == key.size() && probe.match == Match::exact ? 0 : 1;
    }
    REQUIRE(wrong == 0);
    REQUIRE(cache.check_invariants());

    // Each that comes now makes one go.
    cache.set_limits({.max_entries = few});
    REQUIRE(cache.size() == few);
    for (std::int32_t i = million; i < million + few; ++i) {
        const auto key = key_of(i);
        wrong += cache.insert("m", key, Cuttable{key.size()}, Tier::user).evicted == 1 ? 0 : 1;
    }
    REQUIRE(wrong == 0);
    REQUIRE(cache.size() == few);
    REQUIRE(cache.trim_to({.max_bytes = 1'000}) > few - 1'000);
    REQUIRE(cache.check_invariants());
}

TEST_CASE("An entry with 100,000 neighbours is found, and the nearest of them") {
    constexpr std::int32_t neighbours = 100'000;
    Cache<Cuttable, std::int32_t> cache;
    std::vector<std::int32_t> key;
    for (std::int32_t i = 0; i < neighbours; ++i) {
        key.assign(static_cast<std::size_t>(3 + i % 10), i);
        key.front() = -1;
        cache.insert("m", key, Cuttable{key.size()}, Tier::user);
    }
    const std::vector<std::int32_t> prompt = {-1, -2, -3};
    for (int i = 0; i < 1'000; ++i) {
        cache.trim_to({.max_entries = cache.size() - 50});
        const auto hit = cache.fetch_nearest("m", prompt);
        if (hit.reused != 1 || hit.match != Match::longer) {
            FAIL("the neighbours that are left serve the token that they share");
        }
    }
    REQUIRE(cache.size() == 50'000);
    REQUIRE(cache.check_invariants());
}

TEST_CASE("A prompt of a million tokens is stored, served, cut and dropped") {
    constexpr std::size_t million = 1'000'000;
    std::vector<std::int32_t> key(million);
    for (std::size_t i = 0; i < million; ++i) {
        key[i] = static_cast<std::int32_t>(i * 2'654'435'761U % 150'000);
    }
    const std::span<const std::int32_t> tokens = key;
    Cache<Cuttable, std::int32_t> cache;
    REQUIRE(cache.insert("m", tokens, Cuttable{million}, Tier::user).outcome == Outcome::stored);
    REQUIRE(cache.mark("m", tokens.first(million / 4), Tier::system));
    REQUIRE(cache.fetch_nearest("m", tokens).reused == million - 1);
    std::vector<std::int32_t> branch = key;
    branch[million / 2] = -1;
    REQUIRE(cache.fetch_nearest("m", branch).reused == million / 2);
    REQUIRE(cache.insert("m", branch, Cuttable{million}, Tier::user).outcome == Outcome::stored);
    cache.trim_to({.max_bytes = million * 3 / 2});
    REQUIRE(cache.nbytes() <= million * 3 / 2);
    REQUIRE(cache.fetch_nearest("m", branch).reused >= million / 4);
    REQUIRE(cache.check_invariants());
    cache.trim_to({.max_bytes = million / 4});
    REQUIRE(cache.nbytes() <= million / 4);
    cache.clear();
    REQUIRE(cache.nbytes() == 0);
    REQUIRE(cache.check_invariants());
}

} // namespace
