// SPDX-License-Identifier: MIT
// What a second level needs of the cache: pin, InsertOptions::spare_upper_tiers, and that a call holds nothing
// while its listener runs.

#include <promptkv/block_kv.hpp>
#include <promptkv/lru_prompt_cache.hpp>

#include "catch.hpp"

#include <cstddef>
#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

namespace of_seams {

using promptkv::Outcome;
using promptkv::Tier;

struct Block {
    std::size_t bytes = 100;
    [[nodiscard]] std::size_t nbytes() const noexcept { return bytes; }
};
using KV = promptkv::BlockKV<Block>;
using Cache = promptkv::LRUPromptCache<KV>;
using Tokens = std::vector<std::int32_t>;

/// A payload of `blocks` blocks of one token each.
KV payload(std::size_t blocks) {
    KV kv(1);
    while (kv.length() < blocks)
        kv.append(Block{}, 1);
    return kv;
}

/// Stores `blocks` blocks of one token each: first, first + 1, ...
Tokens store(Cache& cache, std::int32_t first, std::size_t blocks, Tier tier) {
    Tokens key(blocks);
    std::iota(key.begin(), key.end(), first);
    cache.insert("m", key, payload(blocks), tier);
    return key;
}

TEST_CASE("pin keeps an entry, and neither counts nor refreshes") {
    Cache cache;
    const Tokens old = store(cache, 1, 2, Tier::user);
    store(cache, 100, 2, Tier::user);
    {
        const auto pin = cache.pin("m", old);
        REQUIRE(pin);
        CHECK(pin.kv().length() == 2);
        CHECK(cache.pin("m", Tokens{1}));             // an entry that serves it
        CHECK_FALSE(cache.pin("m", Tokens{1, 2, 3})); // none serves all of it
        CHECK_FALSE(cache.pin("other", old));
        cache.trim_to({.max_bytes = 0});
        CHECK(cache.size() == 1);
    }
    CHECK(cache.stats().lookups == 0);
    store(cache, 200, 2, Tier::user);
    cache.trim_to({.max_bytes = 200});
    CHECK_FALSE(cache.pin("m", old)); // it was the coldest all the time
    CHECK(cache.check_invariants());
}

TEST_CASE("an insert's own leases have ended when its listener runs") {
    Cache cache({.max_bytes = 1'000});
    const Tokens first{1, 2, 3, 4, 5, 6}, second{1, 2, 3, 4, 5, 9};
    cache.insert("m", first, payload(6), Tier::user);
    cache.insert("m", second, payload(6), Tier::user); // 700 bytes together
    store(cache, 50, 3, Tier::user);
    auto one = cache.lease_nearest("m", first, {.min_remaining = 0});
    auto other = cache.lease_nearest("m", second, {.min_remaining = 0});
    std::size_t calls = 0;
    cache.set_removal_listener([&](const Cache::Removal&) {
        if (calls++ > 0)
            return;
        one.end();
        other.end();
        CHECK(cache.stats().bytes_leased == 0);
        CHECK(
            cache.insert("m", Tokens{70, 71, 72, 73, 74, 75, 76}, payload(7), Tier::user).tokens ==
            7);
    });
    // Beside leases of 1,200 bytes, which share blocks: these are walked.
    CHECK(cache.insert("m", Tokens{60, 61, 62}, payload(3), Tier::user).tokens == 3);
    CHECK(calls > 1);
    cache.set_removal_listener({});
    CHECK(cache.check_invariants());
}

TEST_CASE("what a reservation shared is not in use any more when its listener runs") {
    Cache cache({.max_bytes = 1'000, .max_entries = 2});
    const Tokens system = store(cache, 1, 6, Tier::system);
    store(cache, 50, 2, Tier::assistant);
    auto room = cache.reserve("m", Tokens{1, 2, 3, 4, 5, 6, 7}, 700, Tier::assistant);
    KV kv = room.prefix().value();
    kv.append(Block{}, 1);
    std::size_t calls = 0;
    cache.set_removal_listener([&](const Cache::Removal&) {
        ++calls;
        CHECK(cache.evictable_nbytes() == 700);
    });
    CHECK(room.commit(std::move(kv)).evicted == 1);
    CHECK(calls == 1);
    cache.set_removal_listener({});
    CHECK(cache.probe("m", system, {.min_remaining = 0}).reused() == 6);
}

TEST_CASE("a reservation that spares upper tiers evicts none of theirs") {
    const promptkv::InsertOptions sparing{.spare_upper_tiers = true};
    Cache cache({.max_bytes = 800});
    SECTION("it takes from its own tier and below, though the rule would take from above") {
        store(cache, 1, 2, Tier::system);
        store(cache, 100, 2, Tier::system);
        store(cache, 200, 2, Tier::system);
        store(cache, 300, 2, Tier::assistant);
        const auto room = cache.reserve("m", Tokens{7, 8}, 200, Tier::user, sparing);
        CHECK(room.tokens() == 2);
        CHECK(cache.stats(Tier::system).entries == 3);
        CHECK(cache.stats(Tier::assistant).entries == 0);
    }
    SECTION("it is refused where that does not suffice, and neither holds nor evicts anything") {
        store(cache, 1, 6, Tier::system);
        store(cache, 300, 2, Tier::user);
        auto room = cache.reserve("m", Tokens{7, 8, 9}, 300, Tier::user, sparing);
        CHECK_FALSE(room);
        CHECK(room.outcome() == Outcome::no_room);
        CHECK(room.tokens() == 0);
        CHECK_FALSE(room.prefix());
        CHECK(cache.nbytes() == 800);
        CHECK(cache.stats().no_room == 1);
        CHECK(cache.stats(Tier::system).entries == 1);
    }
    SECTION("blocks that entries above share are not counted as room") {
        Cache shared({.max_bytes = 1'000});
        const Tokens system = store(shared, 1, 6, Tier::system);
        auto room = shared.reserve("m", Tokens{1, 2, 3, 4, 5, 6, 7}, 700, Tier::assistant);
        KV kv = room.prefix().value();
        kv.append(Block{}, 1);
        REQUIRE(room.commit(std::move(kv)).tokens == 7); // one block of its own
        store(shared, 300, 3, Tier::assistant);
        REQUIRE(shared.nbytes() == 1'000);
        const Tokens next{60, 61, 62, 63, 64};
        CHECK(shared.reserve("m", next, 500, Tier::assistant, sparing).outcome() ==
              Outcome::no_room);
        CHECK(shared.size() == 3);
        CHECK(shared.reserve("m", Tokens{60, 61, 62, 63}, 400, Tier::assistant, sparing));
        CHECK(shared.size() == 1);
        CHECK(shared.probe("m", system, {.min_remaining = 0}).reused() == 6);
    }
    SECTION("nor are leased entries") {
        store(cache, 1, 4, Tier::system);
        const Tokens leased = store(cache, 100, 2, Tier::user);
        store(cache, 300, 2, Tier::user);
        const auto lease = cache.lease_nearest("m", leased, {.min_remaining = 0});
        CHECK(cache.reserve("m", Tokens{7, 8, 9}, 300, Tier::user, sparing).outcome() ==
              Outcome::no_room);
        CHECK(cache.size() == 3);
    }
    SECTION("the commit keeps to that where the payload is larger than was reserved") {
        store(cache, 1, 6, Tier::system);
        auto room = cache.reserve("m", Tokens{7, 8, 9}, 100, Tier::user, sparing);
        REQUIRE(room);
        KV kv = payload(3);
        CHECK(room.commit(std::move(kv)).outcome == Outcome::no_room);
        CHECK(kv.length() == 3);
        CHECK(cache.stats(Tier::system).nbytes == 600);
        CHECK(cache.nbytes() == 600);
    }
    SECTION("and where entries are limited") {
        cache.set_limits({.max_bytes = 800, .max_entries = 2});
        store(cache, 1, 2, Tier::system);
        store(cache, 100, 2, Tier::user);
        auto room = cache.reserve("m", Tokens{7, 8}, 200, Tier::user, sparing);
        CHECK(cache.reserve("m", Tokens{17, 18}, 200, Tier::assistant, sparing).outcome() ==
              Outcome::no_room);                     // no entry of that tier could leave
        CHECK(room.commit(payload(2)).evicted == 1); // of the user tier
        CHECK(cache.stats(Tier::system).entries == 1);
        CHECK(cache.stats(Tier::user).entries == 1);
    }
    SECTION("an insert keeps to it as well, and to the budget, where it shares blocks with what "
            "leaves") {
        store(cache, 1, 5, Tier::system);
        const Tokens user = store(cache, 100, 3, Tier::user); // 800 bytes together
        Tokens longer = user;
        longer.insert(longer.end(), {7, 8, 9, 10});
        KV kv = cache.fetch_nearest("m", user, {.min_remaining = 0}).kv.value();
        for (int i = 0; i < 4; ++i)
            kv.append(Block{}, 1);
        CHECK(cache.insert("m", longer, std::move(kv), Tier::user, sparing).outcome ==
              Outcome::no_room);
        CHECK(cache.nbytes() == 800);
        CHECK(cache.size() == 2);
        // The entry that is replaced frees none of the blocks that come again.
        KV again = cache.fetch_nearest("m", user, {.min_remaining = 0}).kv.value();
        again.append(Block{}, 1);
        Tokens next = user;
        next.push_back(7);
        CHECK(cache.insert("m", next, std::move(again), Tier::user, sparing).outcome ==
              Outcome::no_room);
        CHECK(cache.nbytes() == 800);
    }
    SECTION("without the option the rule of the tiers decides") {
        store(cache, 1, 8, Tier::system);
        CHECK(cache.reserve("m", Tokens{7, 8, 9}, 300, Tier::user));
        CHECK(cache.stats(Tier::system).cut == 1);
    }
    CHECK(cache.check_invariants());
}

} // namespace of_seams
