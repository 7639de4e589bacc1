// SPDX-License-Identifier: MIT
// Payload memory that is cleared by the payload's destructor and `truncate`, by a block's destructor, or
// by a listener: nothing of it is left when a payload has left the cache. (examples/wiping.cpp shows the
// first.)

#include <promptkv/promptkv.hpp>

#include "../model/random.hpp"
#include "catch.hpp"
#include "fire_payloads.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <stdexcept>
#include <type_traits>
#include <utility>
#include <vector>

namespace {

using namespace promptkv_test;
using promptkv::LRUPromptCache;
using promptkv::Outcome;
using promptkv::RemovalReason;
using promptkv::Tier;

TEST_CASE("A payload that clears itself leaves nothing behind, whichever way it leaves") {
    using Cache = LRUPromptCache<Wiped>;
    Arena arena;
    std::optional<Cache> cache(std::in_place, Cache::Options{.max_bytes = 20, .max_partial = 0});
    const auto insert = [&](const Tokens& tokens, Tier tier) {
        return cache->insert("m", tokens, Wiped(arena, tokens.size()), tier).outcome;
    };
    insert(key("abcd"), Tier::user);
    insert(key("xyz"), Tier::user);
    REQUIRE(arena.written() == 7);

    SECTION("evicted") {
        CHECK(cache->trim_to({.max_entries = 1}) == 1);
    }
    SECTION("cut") {
        cache->trim_to({.max_bytes = 5});
        CHECK(cache->stats().cut == 1);
    }
    SECTION("evicted by bytes") {
        CHECK(cache->evict(6) >= 6);
    }
    SECTION("absorbed") {
        CHECK(insert(key("abcdefgh"), Tier::user) == Outcome::stored);
    }
    SECTION("replaced") {
        CHECK(insert(key("abcd"), Tier::user) == Outcome::replaced);
    }
    SECTION("erased") {
        CHECK(cache->erase("m", key("abcd")));
    }
    SECTION("erased below") {
        CHECK(cache->erase_below("m", key("ab")) == 1);
    }
    SECTION("popped") {
        CHECK(cache->pop_prefixes("m", key("abcdefgh")) == 1);
    }
    SECTION("with its model") {
        CHECK(cache->erase_model("m") == 2);
    }
    SECTION("with its session") {
        cache->insert("m", key("st"), Wiped(arena, 2), Tier::user, {.session = 4});
        CHECK(cache->erase_session("m", 4) == 1);
    }
    SECTION("cleared") {
        CHECK(cache->clear() == 2);
    }
    SECTION("taken, and dropped by the caller") {
        CHECK(cache->take_nearest("m", key("abcde")).reused() == 4);
    }
    SECTION("copied, and dropped by the caller") {
        const auto hit = cache->fetch_nearest("m", key("abcx"));
        CHECK(arena.written() == 7 + 3);
    }
    SECTION("refused") {
        CHECK(insert(key("abc"), Tier::user) == Outcome::present);
        CHECK(insert(key("abcdefghijklmnopqrstuvwxyz"), Tier::user) == Outcome::too_large);
    }
    SECTION("committed") {
        auto room = cache->reserve("m", key("uvw"), 3, Tier::user);
        CHECK(room.commit(Wiped(arena, 3)).outcome == Outcome::stored);
    }
    SECTION("cancelled") {
        auto room = cache->reserve("m", key("uvw"), 3, Tier::user);
        cache->clear();
        CHECK(room.commit(Wiped(arena, 3)).outcome == Outcome::cancelled);
    }
    SECTION("never made whole") {
        CHECK_THROWS_AS(cache->insert("m", key("uvw"), 3, Tier::user,
                                      [&]() -> Wiped {
                                          const Wiped begun(arena, 2);
                                          throw std::runtime_error("the device is gone");
                                      }),
                        std::runtime_error);
    }
    SECTION("after its last reader") {
        auto lease = std::make_optional(cache->lease_nearest("m", key("abcde")));
        cache->erase("m", key("abcd"));
        CHECK(arena.written() == 7);
        CHECK(cache->nbytes() == 7);
    }
    SECTION("after its last reader, who outlives the cache") {
        auto lease = std::make_optional(cache->lease_nearest("m", key("abcde")));
        cache.reset();
        CHECK(arena.written() == 4);
    }
    CHECK(arena.written() == (cache ? cache->nbytes() : 0));
    cache.reset();
    CHECK(arena.written() == 0);
}

template <class KV>
KV written(Arena& arena, std::size_t n) {
    if constexpr (std::is_same_v<KV, Wiped>)
        return Wiped(arena, n);
    else
        return wiped_pages(arena, n);
}

TEMPLATE_TEST_CASE("What clears itself takes exactly the bytes that the cache counts", "",
                   (std::pair<LRUPromptCache<Wiped>, Wiped>),
                   (std::pair<LRUPromptCache<WipedPages>, WipedPages>)) {
    using Cache = typename TestType::first_type;
    using KV = typename TestType::second_type;
    for (std::uint64_t seed = 1; seed <= 40; ++seed) {
        CAPTURE(seed);
        Random random(seed);
        Arena arena;
        std::vector<typename Cache::Reservation> rooms;
        std::vector<typename Cache::Lease> leases;
        std::optional<Cache> cache(std::in_place, typename Cache::Options{.max_bytes = 60});
        for (int i = 0; i < 200; ++i) {
            Tokens tokens(random.below(14));
            std::ranges::generate(tokens,
                                  [&] { return static_cast<std::int32_t>(random.below(2)); });
            const Tier tier = random.pick({Tier::assistant, Tier::user, Tier::system});
            switch (random.below(14)) {
            case 0:
                leases.push_back(cache->lease_nearest("m", tokens));
                break;
            case 1:
                leases.clear();
                break;
            case 2:
                static_cast<void>(cache->take_nearest("m", tokens));
                break;
            case 3:
                cache->mark("m", tokens, tier);
                break;
            case 4:
                cache->erase("m", tokens);
                break;
            case 5:
                rooms.push_back(cache->reserve("m", tokens, tokens.size(), tier));
                break;
            case 6:
                rooms.clear();
                break;
            case 7:
                if (auto room = cache->reserve("m", tokens, tokens.size(), tier)) {
                    if constexpr (std::is_same_v<KV, WipedPages>) {
                        KV kv = room.prefix().value_or(KV(4));
                        room.commit(wiped_pages(arena, room.tokens(), std::move(kv)));
                    } else {
                        room.commit(written<KV>(arena, room.tokens()));
                    }
                }
                break;
            case 8:
                cache->evict(random.below(10));
                break;
            default:
                cache->insert("m", tokens, written<KV>(arena, tokens.size()), tier);
            }
            const std::size_t reserved = cache->stats().bytes_reserved;
            if (arena.written() + reserved != cache->nbytes())
                FAIL("after call " << i << ": " << arena.written() << " + " << reserved << " of "
                                   << cache->nbytes());
            if (cache->nbytes() > 60)
                FAIL("the budget is exceeded after call " << i);
        }
        if (seed % 2 == 0) {
            cache.reset(); // leases and reservations outlive it
            leases.clear();
            rooms.clear();
        } else {
            leases.clear();
            rooms.clear();
            cache->clear();
            CHECK(cache->nbytes() == 0);
        }
        CHECK(arena.written() == 0);
    }
}

TEST_CASE("A block is cleared with the last of those that share it") {
    using Cache = LRUPromptCache<WipedPages>;
    Arena arena;
    Cache cache;
    const Tokens prompt = key("abcdefgh");
    const Tokens longer = key("abcdefghijkl");
    cache.insert("m", prompt, wiped_pages(arena, 8), Tier::system);
    {
        auto room = cache.reserve("m", longer, 12, Tier::user);
        room.commit(wiped_pages(arena, 12, *room.prefix()));
    }
    CHECK(arena.written() == 12);
    cache.erase("m", prompt);
    CHECK(arena.written() == 12);
    auto copy = cache.fetch_nearest("m", key("abcdefz")); // two blocks, shared
    CHECK(arena.written() == 12);
    cache.erase("m", longer);
    CHECK(cache.nbytes() == 0);
    CHECK(arena.written() == 8); // the caller's
    copy.kv.reset();
    CHECK(arena.written() == 0);
}

TEST_CASE("A listener can clear each payload that leaves, unless it is leased or taken") {
    Arena arena;
    std::size_t next = 0;
    LRUPromptCache<Handle> cache({.max_bytes = 20, .max_entries = 4});
    std::vector<RemovalReason> reasons;
    cache.set_removal_listener([&reasons](const auto& removal) {
        reasons.push_back(removal.reason);
        if (removal.payload != nullptr)
            std::ranges::fill(removal.payload->cells, char{0});
    });
    const auto insert = [&](const Tokens& tokens) {
        const std::span<char> cells = std::span(arena.cells).subspan(next, tokens.size());
        next += tokens.size();
        std::ranges::fill(cells, 'x');
        return cache.insert("m", tokens, Handle{cells}, Tier::user).outcome;
    };
    insert(key("abcd"));
    insert(key("xyz"));

    SECTION("evicted") {
        CHECK(cache.trim_to({.max_entries = 1}) == 1);
    }
    SECTION("replaced") {
        CHECK(insert(key("abcd")) == Outcome::replaced);
    }
    SECTION("erased") {
        CHECK(cache.erase("m", key("abcd")));
    }
    SECTION("cleared") {
        CHECK(cache.clear() == 2);
    }
    CHECK_FALSE(reasons.empty());
    CHECK(arena.written() == cache.nbytes());

    // The caller has what was taken, and a reader what is leased: they clear it.
    insert(key("uvw"));
    static_cast<void>(cache.take_nearest("m", key("uvw"), {.min_remaining = 0}));
    CHECK(reasons.back() == RemovalReason::taken);
    CHECK(arena.written() == cache.nbytes() + 3);
    insert(key("rst"));
    {
        const auto lease = cache.lease_nearest("m", key("rst"), {.min_remaining = 0});
        cache.erase("m", key("rst"));
        CHECK(lease.kv().cells[0] == 'x');
    }
    CHECK(arena.written() == cache.nbytes() + 3 + 3);
}

} // namespace
