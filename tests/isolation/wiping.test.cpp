// SPDX-License-Identifier: MIT
// Payload memory that is cleared by the payload's destructor and `truncate`, or by a listener: nothing
// of it is left when a payload has left the cache, whichever way. (examples/wiping.cpp shows the first.)

#include <promptkv/promptkv.hpp>

#include "../model/random.hpp"
#include "catch.hpp"
#include "letters.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace {

using namespace promptkv_test;
using promptkv::LRUPromptCache;
using promptkv::Outcome;
using promptkv::RemovalReason;
using promptkv::Tier;

using Key = std::span<const std::int32_t>;

/// Memory that outlives the payloads in it: a cell a token, which is 0 where nothing was written.
struct Arena {
    std::vector<char> cells = std::vector<char>(10'000);

    [[nodiscard]] std::size_t written() const {
        return cells.size() - static_cast<std::size_t>(std::ranges::count(cells, char{0}));
    }
};

/// Writes a cell for each token of a key, and clears it when the token goes.
class Wiped {
public:
    Wiped(Arena& arena, std::size_t n_tokens) : arena_(&arena) {
        while (cells_.size() < n_tokens) {
            char& cell = *std::ranges::find(arena.cells, char{0});
            cell = 'x';
            cells_.push_back(&cell);
        }
    }
    Wiped(Wiped&& other) noexcept : arena_(other.arena_), cells_(std::exchange(other.cells_, {})) {}
    Wiped& operator=(Wiped&&) = delete;
    ~Wiped() { truncate(0); }

    [[nodiscard]] std::size_t nbytes() const noexcept { return cells_.size(); }
    [[nodiscard]] std::size_t reusable_prefix(std::size_t n) const noexcept { return n; }
    [[nodiscard]] Wiped clone_prefix(std::size_t n) const { return {*arena_, n}; }
    void truncate(std::size_t n) noexcept {
        for (; cells_.size() > n; cells_.pop_back()) {
            *cells_.back() = 0;
        }
    }

private:
    Arena* arena_;
    std::vector<char*> cells_;
};

TEST_CASE("A payload that clears itself leaves nothing behind, whichever way it leaves") {
    Arena arena;
    std::optional<LRUPromptCache<Wiped>> cache(
        std::in_place, promptkv::CacheOptions{.max_bytes = 20, .cut_granularity = 1});
    const auto insert = [&](Key key, Tier tier) {
        return cache->insert("m", key, Wiped(arena, key.size()), tier).outcome;
    };
    insert("abcd"_key, Tier::user);
    insert("xyz"_key, Tier::user);
    REQUIRE(arena.written() == 7);

    SECTION("evicted") {
        CHECK(cache->trim_to({.max_entries = 1}) == 1);
    }
    SECTION("cut") {
        cache->trim_to({.max_bytes = 5});
        CHECK(cache->stats().cut == 1);
    }
    SECTION("cut down to an anchor") {
        cache->mark("m", "ab"_key, Tier::system);
        cache->trim_to({.max_bytes = 5});
        CHECK(cache->nbytes("m") == 5);
    }
    SECTION("absorbed") {
        CHECK(insert("abcdefgh"_key, Tier::user) == Outcome::stored);
    }
    SECTION("replaced") {
        CHECK(insert("abcd"_key, Tier::user) == Outcome::replaced);
    }
    SECTION("erased") {
        CHECK(cache->erase("m", "abcd"_key));
    }
    SECTION("popped") {
        CHECK(cache->pop_prefixes("m", "abcdefgh"_key) == 1);
    }
    SECTION("with its model") {
        CHECK(cache->erase_model("m") == 2);
    }
    SECTION("cleared") {
        CHECK(cache->clear() == 2);
    }
    SECTION("taken, and dropped by the caller") {
        CHECK(cache->take_nearest("m", "abcde"_key).reused == 4);
    }
    SECTION("copied, and dropped by the caller") {
        const auto hit = cache->fetch_nearest("m", "abcx"_key);
        CHECK(arena.written() == 7 + 3);
    }
    SECTION("refused") {
        CHECK(insert("abc"_key, Tier::user) == Outcome::anchored);
        CHECK(insert("abcdefghijklmnopqrstuvwxyz"_key, Tier::user) == Outcome::too_large);
    }
    SECTION("never made whole") {
        CHECK_THROWS_AS(cache->insert("m", "uvw"_key, 3, Tier::user,
                                      [&]() -> Wiped {
                                          const Wiped begun(arena, 2);
                                          throw std::runtime_error("the device is gone");
                                      }),
                        std::runtime_error);
    }
    SECTION("after its last reader") {
        auto lease = std::make_optional(cache->lease_nearest("m", "abcde"_key));
        cache->erase("m", "abcd"_key);
        CHECK(arena.written() == 7);
    }
    SECTION("after its last reader, who outlives the cache") {
        auto lease = std::make_optional(cache->lease_nearest("m", "abcde"_key));
        cache.reset();
        CHECK(arena.written() == 4);
    }
    CHECK(arena.written() == (cache ? cache->nbytes() : 0));
    cache.reset();
    CHECK(arena.written() == 0);
}

TEST_CASE("A payload that clears itself leaves nothing behind after any calls") {
    for (std::uint64_t seed = 1; seed <= 30; ++seed) {
        CAPTURE(seed);
        Random random(seed);
        Arena arena;
        LRUPromptCache<Wiped> cache({.max_bytes = 60, .cut_granularity = 1 + seed % 3});
        std::vector<LRUPromptCache<Wiped>::Lease> leases;
        for (int i = 0; i < 200; ++i) {
            Tokens key(random.below(12));
            std::ranges::generate(key, [&] { return static_cast<std::int32_t>(random.below(2)); });
            const Tier tier = random.pick({Tier::assistant, Tier::user, Tier::system});
            switch (random.below(8)) {
            case 0:
                leases.push_back(cache.lease_nearest("m", key));
                break;
            case 1:
                leases.clear();
                break;
            case 2:
                (void)cache.take_nearest("m", key);
                break;
            case 3:
                cache.mark("m", key, tier);
                break;
            case 4:
                cache.erase("m", key);
                break;
            default:
                cache.insert("m", key, Wiped(arena, key.size()), tier);
            }
            if (arena.written() != cache.nbytes()) {
                FAIL("after call " << i << ": " << arena.written() << " of " << cache.nbytes());
            }
        }
        leases.clear();
        cache.clear();
        REQUIRE(arena.written() == 0);
    }
}

/// Points to its cells and does not clear them.
struct Handle {
    std::span<char> cells;

    [[nodiscard]] std::size_t nbytes() const noexcept { return cells.size(); }
};

TEST_CASE("A listener can clear each payload that leaves but those that are leased or taken") {
    Arena arena;
    std::size_t next = 0;
    LRUPromptCache<Handle> cache({.max_bytes = 20, .max_entries = 4});
    std::vector<RemovalReason> reasons;
    cache.on_removal([&reasons](const auto& removal) {
        reasons.push_back(removal.reason);
        if (removal.payload != nullptr) {
            std::ranges::fill(removal.payload->cells, char{0});
        }
    });
    const auto insert = [&](Key key) {
        const std::span<char> cells = std::span(arena.cells).subspan(next, key.size());
        next += key.size();
        std::ranges::fill(cells, 'x');
        return cache.insert("m", key, Handle{cells}, Tier::user).outcome;
    };
    insert("abcd"_key);
    insert("xyz"_key);

    SECTION("evicted") {
        CHECK(cache.trim_to({.max_entries = 1}) == 1);
    }
    SECTION("replaced") {
        CHECK(insert("abcd"_key) == Outcome::replaced);
    }
    SECTION("erased") {
        CHECK(cache.erase("m", "abcd"_key));
    }
    SECTION("cleared") {
        CHECK(cache.clear() == 2);
    }
    CHECK_FALSE(reasons.empty());
    CHECK(arena.written() == cache.nbytes());

    // The caller has what is taken, and a reader what is leased: it is theirs to clear.
    insert("uvw"_key);
    cache.take_nearest("m", "uvw"_key, {.min_remaining = 0});
    CHECK(reasons.back() == RemovalReason::taken);
    CHECK(arena.written() == cache.nbytes() + 3);
    insert("rst"_key);
    {
        const auto lease = cache.lease_nearest("m", "rst"_key, {.min_remaining = 0});
        cache.erase("m", "rst"_key);
        CHECK(lease.kv().cells[0] == 'x');
    }
    CHECK(arena.written() == cache.nbytes() + 3 + 3);
}

} // namespace
