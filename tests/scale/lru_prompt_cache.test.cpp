// SPDX-License-Identifier: MIT
// The caches at their largest: entries, depth of a conversation, length of a prompt.

#include <promptkv/lru_prompt_cache.hpp>
#include <promptkv/reuse_order.hpp>

#include "catch.hpp"
#include "fire_payloads.hpp"
#include "small_stack.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace {

using namespace promptkv_test;
using promptkv::LRUPromptCache;
using promptkv::Match;
using promptkv::Outcome;
using promptkv::Tier;

// In the second one evicted turns are remembered.
TEMPLATE_TEST_CASE("A conversation of 200,000 one-token turns fits a stack of 256 KiB", "",
                   (LRUPromptCache<Whole, std::string, std::int8_t>),
                   (promptkv::PromptCache<Whole, std::string, std::int8_t>)) {
    REQUIRE(on_small_stack([] {
        constexpr std::size_t turns = deep;
        const std::vector<std::int8_t> key(turns, 7);
        const std::span<const std::int8_t> tokens = key;
        auto cache = std::make_unique<TestType>();
        // The longest first: each insert then finds its place on one edge.
        for (std::size_t n = turns; n > 0; --n)
            cache->insert("m", tokens.first(n), Whole{n}, Tier::user);
        REQUIRE(cache->size() == turns);

        REQUIRE(cache->probe("m", tokens, {.min_remaining = 0}).reused() == turns);
        REQUIRE(cache->fetch_nearest("m", tokens).reused() == turns - 1);
        REQUIRE(cache->explain("m", tokens).reused == turns - 1);
        {
            const auto lease = cache->lease_nearest("m", tokens);
            REQUIRE(lease.reused() == turns - 1);
            REQUIRE(cache->trim_to({.max_entries = turns - 100}) == 100);
            REQUIRE(cache->size() == turns - 100);
        }
        std::size_t visited = 0;
        cache->set_removal_listener([&visited](const auto&) { ++visited; });
        REQUIRE(cache->trim_to({.max_entries = turns - 200}) == 100);
        REQUIRE(visited == 100);
        cache->set_removal_listener(nullptr);
        REQUIRE(cache->check_invariants());
        const std::size_t before = cache->size();
        const std::size_t popped = cache->pop_prefixes("m", tokens.first(1'000));
        REQUIRE(popped <= 999);
        REQUIRE(cache->erase_below("m", tokens.first(turns / 2)) > turns / 2 - 300);
        const std::size_t left = cache->size();
        REQUIRE(left < before);
        REQUIRE(cache->clear() == left);
        REQUIRE(cache->empty());
        for (std::size_t n = turns / 4; n > 0; --n)
            cache->insert("m", tokens.first(n), Whole{n}, Tier::user);
        cache.reset(); // the destructor does not recurse either
    }));
}

TEST_CASE("Turns that pile up are thinned evenly, and the latest one stays") {
    REQUIRE(on_small_stack([] {
        constexpr std::size_t depth = 3'000;
        const std::vector<std::int8_t> key(depth, 7);
        const std::span<const std::int8_t> tokens = key;
        LRUPromptCache<Whole, std::string, std::int8_t> cache({.max_entries = 500});
        for (std::size_t n = 1; n <= depth; ++n)
            cache.insert("m", tokens.first(n), Whole{n}, Tier::user);
        REQUIRE(cache.size() == 500);
        REQUIRE(cache.check_invariants());
        REQUIRE(cache.probe("m", tokens, {.min_remaining = 0}).reused() == depth);
        // A prompt that ends anywhere finds a state that is not far above.
        for (std::size_t n = 100; n <= depth; n += 100)
            REQUIRE(cache.probe("m", tokens.first(n)).reused() > n / 2);
    }));
}

TEST_CASE("One client takes one entry a tier of a path, however many prefixes it stores") {
    constexpr std::size_t length = 20'000;
    const std::vector<std::int8_t> key(length, 7);
    const std::span<const std::int8_t> tokens = key;
    LRUPromptCache<Cuttable, std::string, std::int8_t> cache;
    for (std::size_t n = 1; n < 1'000; ++n)
        cache.insert("m", tokens.first(n * 20), Cuttable{n * 20}, static_cast<Tier>(n % 3));
    for (std::size_t n = 1; n < 1'000; n += 7)
        cache.mark("m", tokens.first(n * 20), Tier::user);
    REQUIRE(cache.size() <= 3);
    REQUIRE(cache.check_invariants());
}

TEST_CASE("A million entries come, are found and leave") {
    using TestType = LRUPromptCache<Cuttable>;
    // Fewer where a sanitizer makes each of them cost ten times as much.
    constexpr std::int32_t million = PROMPTKV_TEST_SANITIZED ? 100'000 : 1'000'000;
    constexpr std::int32_t few = million / 10 * 3;
    const auto key_of = [](std::int32_t i) {
        return std::vector<std::int32_t>{i % 1'000, i / 1'000, i, 5};
    };
    TestType cache;
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
        wrong += probe.reused() == key.size() && probe.match() == Match::exact ? 0 : 1;
    }
    REQUIRE(wrong == 0);
    REQUIRE(cache.check_invariants());

    // From here on each that comes makes another one leave.
    cache.set_limits({.max_entries = few});
    REQUIRE(cache.size() == few);
    for (std::int32_t i = million; i < million + few / 10; ++i) {
        const auto key = key_of(i);
        const auto inserted = cache.insert("m", key, Cuttable{key.size()}, Tier::user);
        wrong += inserted.evicted == 1 || inserted.outcome == Outcome::declined ? 0 : 1;
    }
    REQUIRE(wrong == 0);
    REQUIRE(cache.size() == few);
    REQUIRE(cache.trim_to({.max_bytes = 1'000}) > few - 1'000);
    REQUIRE(cache.nbytes() <= 1'000);
    REQUIRE(cache.check_invariants());
}

TEST_CASE("An entry with 100,000 neighbours is found, and one of the nearest serves") {
    constexpr std::int32_t neighbours = 100'000;
    LRUPromptCache<Cuttable, std::string, std::int32_t> cache;
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
        if (hit.reused() != 1 || hit.match() != Match::longer)
            FAIL("the neighbours that are left serve the token that they share");
    }
    REQUIRE(cache.size() == 50'000);
    REQUIRE(cache.check_invariants());
}

TEST_CASE("A prompt of a million tokens is stored, served, cut and dropped") {
    using TestType = LRUPromptCache<Pages>;
    constexpr std::size_t million = 1'000'000;
    const std::size_t block = 1'024;
    Tokens tokens(million);
    for (std::size_t i = 0; i < million; ++i)
        tokens[i] = static_cast<std::int32_t>(i * 2'654'435'761U % 150'000);
    // The blocks know nothing, so that they are made in no time.
    const auto state_of = [&block](std::size_t n, Pages kv) {
        while (kv.length() < n) {
            const std::size_t more = std::min(block, n - kv.length());
            kv.append(Page{0, Tokens(more)}, more);
        }
        return kv;
    };
    TestType cache;
    REQUIRE(cache.insert("m", tokens, state_of(million, Pages(block)), Tier::user).outcome ==
            Outcome::stored);
    REQUIRE(cache.mark("m", Key(tokens).first(million / 4), Tier::system));
    REQUIRE(cache.size() == 2);
    REQUIRE(cache.nbytes() == million);
    REQUIRE(cache.fetch_nearest("m", tokens).reused() == million - 1);
    Tokens branch = tokens;
    branch[million / 2] = -1;
    auto room = cache.reserve("m", branch, million, Tier::user);
    REQUIRE(room.tokens() == million);
    REQUIRE(room.prefix()->length() == million / 2 / block * block);
    REQUIRE(room.commit(state_of(million, *room.prefix())).outcome == Outcome::stored);
    REQUIRE(cache.nbytes() < million * 3 / 2 + 2 * block);
    cache.trim_to({.max_bytes = million});
    REQUIRE(cache.nbytes() <= million);
    REQUIRE(cache.fetch_nearest("m", branch).reused() >= million / 4);
    REQUIRE(cache.check_invariants());
    cache.trim_to({.max_bytes = million / 8});
    REQUIRE(cache.nbytes() <= million / 8);
    cache.clear();
    REQUIRE(cache.nbytes() == 0);
    REQUIRE(cache.check_invariants());
}

} // namespace
