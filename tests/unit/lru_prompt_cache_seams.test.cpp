// SPDX-License-Identifier: MIT
// pin and InsertOptions::spare_upper_tiers: what a second level needs of the cache.

#include <promptkv/block_kv.hpp>
#include <promptkv/lru_prompt_cache.hpp>

#include "catch.hpp"

#include <cstddef>
#include <cstdint>
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

/// Stores `blocks` blocks of one token each: first, first + 1, ...
Tokens store(Cache& cache, std::int32_t first, std::size_t blocks, Tier tier) {
    Tokens key;
    KV kv(1);
    for (std::size_t i = 0; i < blocks; ++i) {
        key.push_back(first + static_cast<std::int32_t>(i));
        kv.append(Block{}, 1);
    }
    cache.insert("m", key, std::move(kv), tier);
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
    SECTION("without the option the rule of the tiers decides") {
        store(cache, 1, 8, Tier::system);
        CHECK(cache.reserve("m", Tokens{7, 8, 9}, 300, Tier::user));
        CHECK(cache.stats(Tier::system).cut == 1);
    }
    CHECK(cache.check_invariants());
}

} // namespace of_seams
