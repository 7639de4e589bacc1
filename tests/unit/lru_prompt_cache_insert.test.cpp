// SPDX-License-Identifier: MIT
// LRUPromptCache: what becomes of a payload that is stored, and of the entries that it meets.

#include <promptkv/lru_prompt_cache.hpp>

#include "catch.hpp"
#include "letters.hpp"

#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

namespace {

enum class Only : std::uint8_t { one };
enum class Halves : std::uint8_t { low, high };
enum class Five : std::uint8_t { a, b, c, d, e };

} // namespace

template <>
struct promptkv::tier_traits<Only> {
    static constexpr std::size_t count = 1;
};
template <>
struct promptkv::tier_traits<Halves> {
    static constexpr std::size_t count = 2;
};
template <>
struct promptkv::tier_traits<Five> {
    static constexpr std::size_t count = 5;
};

namespace {

using namespace promptkv_test;
using promptkv::Match;
using promptkv::Outcome;
using promptkv::Tier;

using Cache = LRUPromptCache<Tape>;

constexpr Shape whole_only = {.step = 0};

TEST_CASE("A cache is moved, not copied") {
    STATIC_REQUIRE(std::is_nothrow_move_constructible_v<Cache> ||
                   std::is_move_constructible_v<Cache>);
    STATIC_REQUIRE(std::is_move_assignable_v<Cache>);
    STATIC_REQUIRE_FALSE(std::is_copy_constructible_v<Cache>);
    STATIC_REQUIRE_FALSE(std::is_copy_assignable_v<Cache>);

    Cache cache({.max_bytes = 100});
    store(cache, "abc"_key, Tier::user);
    Cache moved = std::move(cache);
    REQUIRE(contents(moved) == "abc1");
    REQUIRE(moved.limits().max_bytes == 100);
    REQUIRE(moved.fetch_nearest("m", "abcd"_key).reused == 3);
    Cache assigned;
    store(assigned, "q"_key, Tier::user);
    assigned = std::move(moved);
    REQUIRE(contents(assigned) == "abc1");
    REQUIRE(assigned.check_invariants());
}

TEST_CASE("A cache without limits has the greatest there are") {
    const Cache cache;
    REQUIRE(cache.limits().max_bytes == std::numeric_limits<std::size_t>::max());
    REQUIRE(cache.limits().max_entries == std::numeric_limits<std::size_t>::max());
}

TEST_CASE("insert stores a payload under its key") {
    Cache cache;
    const auto inserted = store(cache, "abc"_key, Tier::user, {.bytes_per_token = 10});
    REQUIRE(inserted.outcome == Outcome::stored);
    REQUIRE(inserted.absorbed == 0);
    REQUIRE(inserted.evicted == 0);
    REQUIRE(inserted.cut == 0);
    REQUIRE(cache.size() == 1);
    REQUIRE_FALSE(cache.empty());
    REQUIRE(cache.nbytes() == 30);
    REQUIRE(cache.nbytes("m") == 30);
    REQUIRE(cache.nbytes("other") == 0);
    REQUIRE(cache.stats(Tier::user).entries == 1);
    REQUIRE(cache.stats(Tier::user).nbytes == 30);
    REQUIRE(cache.stats(Tier::assistant).entries == 0);
    REQUIRE(cache.check_invariants());
}

TEST_CASE("insert stores a payload under the empty key") {
    Cache cache;
    REQUIRE(store(cache, ""_key, Tier::user, {.overhead = 5}).outcome == Outcome::stored);
    REQUIRE(cache.size() == 1);
    REQUIRE(cache.nbytes() == 5);
    // It has no token to reuse.
    REQUIRE_FALSE(cache.fetch_nearest("m", "abc"_key));
    REQUIRE(cache.erase("m", ""_key));
    REQUIRE(cache.empty());
    REQUIRE_FALSE(cache.fetch_nearest("m", "abc"_key));
    REQUIRE(cache.check_invariants());
}

TEST_CASE("insert refuses what is larger than the whole budget, and touches nothing") {
    Cache cache({.max_bytes = 10});
    store(cache, "abc"_key, Tier::user);
    Tape large = tape("xyz"_key, {.bytes_per_token = 4});
    const auto inserted = cache.insert("m", "xyz"_key, std::move(large), Tier::system);
    REQUIRE(inserted.outcome == Outcome::too_large);
    REQUIRE(inserted.evicted == 0);
    REQUIRE(large.recording().tokens.size() == 3); // not moved from
    REQUIRE(contents(cache) == "abc1");
    REQUIRE(cache.stats().too_large == 1);

    SECTION("one that is as large as the budget takes all of it") {
        const auto fits =
            store(cache, "uvwxyz"_key, Tier::assistant, {.bytes_per_token = 1, .overhead = 4});
        REQUIRE(fits.outcome == Outcome::stored);
        REQUIRE(contents(cache) == "uvwxyz0");
        REQUIRE(cache.nbytes() == 10);
    }
    SECTION("also where the key is stored: the old payload stays") {
        const auto again = store(cache, "abc"_key, Tier::system, {.bytes_per_token = 4});
        REQUIRE(again.outcome == Outcome::too_large);
        REQUIRE(contents(cache) == "abc1");
    }
    REQUIRE(cache.check_invariants());
}

TEST_CASE("A limit of zero is valid and stores nothing") {
    SECTION("bytes") {
        Cache cache({.max_bytes = 0});
        REQUIRE(store(cache, "abc"_key, Tier::user).outcome == Outcome::too_large);
        REQUIRE(cache.empty());
    }
    SECTION("entries") {
        Cache cache({.max_entries = 0});
        REQUIRE(store(cache, "abc"_key, Tier::user).outcome == Outcome::no_room);
        REQUIRE(cache.empty());
        REQUIRE(cache.stats().no_room == 1);
    }
}

TEST_CASE("insert of the same key replaces its payload") {
    Cache cache({.max_bytes = 100});
    store(cache, "abc"_key, Tier::user, {.step = 0, .bytes_per_token = 2});
    const auto inserted = store(cache, "abc"_key, Tier::user, {.step = 0, .bytes_per_token = 5});
    REQUIRE(inserted.outcome == Outcome::replaced);
    REQUIRE(cache.size() == 1);
    REQUIRE(cache.nbytes() == 15);
    REQUIRE(cache.stats().replaced == 1);
    REQUIRE(cache.stats().inserted == 1);

    SECTION("by a smaller one too") {
        REQUIRE(store(cache, "abc"_key, Tier::user).outcome == Outcome::replaced);
        REQUIRE(cache.nbytes() == 3);
    }
    SECTION("and takes what it gives back for room") {
        cache.set_limits({.max_bytes = 15});
        const auto again = store(cache, "abc"_key, Tier::user, {.overhead = 12});
        REQUIRE(again.outcome == Outcome::replaced);
        REQUIRE(cache.nbytes() == 15);
    }
    REQUIRE(cache.check_invariants());
}

TEST_CASE("A key's tier never falls and rises when it is stored higher") {
    Cache cache;
    store(cache, "abc"_key, Tier::user);
    store(cache, "abc"_key, Tier::assistant);
    REQUIRE(contents(cache) == "abc1");
    store(cache, "abc"_key, Tier::system);
    REQUIRE(contents(cache) == "abc2");
    REQUIRE(cache.stats(Tier::system).entries == 1);
    REQUIRE(cache.stats(Tier::user).entries == 0);
    REQUIRE(cache.stats(Tier::user).nbytes == 0);
    REQUIRE(cache.check_invariants());
}

TEST_CASE("A replaced key is the most recently used one") {
    Cache cache;
    store(cache, "abc"_key, Tier::user);
    store(cache, "xyz"_key, Tier::user);
    REQUIRE(store(cache, "abc"_key, Tier::user).outcome == Outcome::replaced);
    REQUIRE(eviction_order(cache) == "xyz abc");
}

// Absorbing //////////////////////////////////////////////////////////////////

TEST_CASE("A longer payload absorbs the entries on its prefixes that it serves") {
    Cache cache;
    store(cache, "ab"_key, Tier::user, whole_only);
    store(cache, "abcd"_key, Tier::user, whole_only);
    store(cache, "aqx"_key, Tier::user);
    store(cache, "abcdefgh"_key, Tier::user, whole_only);
    REQUIRE(cache.size() == 4);

    const auto inserted = store(cache, "abcdef"_key, Tier::user);
    REQUIRE(inserted.outcome == Outcome::stored);
    REQUIRE(inserted.absorbed == 2);
    REQUIRE(inserted.evicted == 0);
    REQUIRE(contents(cache) == "abcdef1 abcdefgh1 aqx1");
    REQUIRE(cache.nbytes() == 6 + 8 + 3);
    REQUIRE(cache.stats().absorbed == 2);
    REQUIRE(cache.fetch_nearest("m", "abcdx"_key).reused == 4);
    REQUIRE(cache.check_invariants());
}

TEST_CASE("A payload absorbs only what it serves") {
    Cache cache;
    store(cache, "abc"_key, Tier::user, whole_only);
    store(cache, "abcd"_key, Tier::user, whole_only);

    SECTION("checkpoints: the prefixes at a checkpoint") {
        const auto inserted = store(cache, "abcdef"_key, Tier::user, {.step = 4});
        REQUIRE(inserted.absorbed == 1);
        REQUIRE(contents(cache) == "abc1 abcdef1");
    }
    SECTION("state that cannot be cut: nothing") {
        const auto inserted = store(cache, "abcdef"_key, Tier::user, whole_only);
        REQUIRE(inserted.absorbed == 0);
        REQUIRE(contents(cache) == "abc1 abcd1 abcdef1");
    }
    SECTION("another model's: never") {
        const auto inserted = cache.insert("other", "abcdef"_key, tape("abcdef"_key), Tier::user);
        REQUIRE(inserted.absorbed == 0);
        REQUIRE(cache.size() == 3);
    }
}

TEST_CASE("A type without reusable_prefix absorbs nothing") {
    LRUPromptCache<WholeTape> cache;
    store(cache, "abc"_key, Tier::user);
    REQUIRE(store(cache, "abcdef"_key, Tier::user).absorbed == 0);
    REQUIRE(cache.size() == 2);
    REQUIRE(cache.fetch_nearest("m", "abcd"_key).reused == 3);
}

TEST_CASE("What is absorbed counts as room") {
    Cache cache({.max_bytes = 10, .max_entries = 2});
    store(cache, "abcd"_key, Tier::user);
    store(cache, "xyz"_key, Tier::user);
    const auto inserted = store(cache, "abcdefg"_key, Tier::user);
    REQUIRE(inserted.outcome == Outcome::stored);
    REQUIRE(inserted.evicted == 0);
    REQUIRE(contents(cache) == "abcdefg1 xyz1");
    REQUIRE(cache.nbytes() == 10);
}

TEST_CASE("An absorbed key of a more persistent tier stays as an anchor") {
    Cache cache;
    store(cache, "abc"_key, Tier::system);
    const auto inserted = store(cache, "abcdef"_key, Tier::assistant);
    REQUIRE(inserted.absorbed == 1);
    REQUIRE(contents(cache) == "abcdef0");
    REQUIRE(cache.stats(Tier::system).anchors == 1);
    REQUIRE(cache.stats(Tier::system).entries == 0);

    SECTION("but one of the same or a lower tier leaves nothing") {
        Cache other;
        store(other, "abc"_key, Tier::user);
        store(other, "abcdef"_key, Tier::user);
        REQUIRE(other.stats(Tier::user).anchors == 0);
    }
    SECTION("without truncate it would be lost with the longer one, so it is not absorbed") {
        LRUPromptCache<ClonedTape> other;
        store(other, "abc"_key, Tier::system);
        store(other, "abcd"_key, Tier::assistant);
        REQUIRE(store(other, "abcdef"_key, Tier::assistant).absorbed == 1);
        REQUIRE(contents(other) == "abc2 abcdef0");
    }
    SECTION("nor where the cache does not cut") {
        Cache other({.cut_granularity = 0});
        store(other, "abc"_key, Tier::system);
        store(other, "abcd"_key, Tier::assistant);
        REQUIRE(store(other, "abcdef"_key, Tier::assistant).absorbed == 1);
        REQUIRE(contents(other) == "abc2 abcdef0");
        REQUIRE(other.stats(Tier::system).anchors == 0);
    }
    SECTION("without anchors it is absorbed all the same") {
        Cache other({.keep_anchors = false});
        store(other, "abc"_key, Tier::system);
        REQUIRE(store(other, "abcdef"_key, Tier::assistant).absorbed == 1);
        REQUIRE(contents(other) == "abcdef0");
        REQUIRE(other.stats(Tier::system).anchors == 0);
    }
}

// Making the payload late ////////////////////////////////////////////////////

TEST_CASE("insert with make calls it once it was decided that the payload is kept") {
    Cache cache({.max_bytes = 10, .cut_granularity = 0});
    store(cache, "abcdefgh"_key, Tier::user);
    std::size_t nbytes_when_made = 99;
    const auto make = [&] {
        nbytes_when_made = cache.nbytes();
        return tape("uvwxyz"_key);
    };
    const auto inserted = cache.insert("m", "uvwxyz"_key, 6, Tier::user, make);
    REQUIRE(inserted.outcome == Outcome::stored);
    REQUIRE(inserted.evicted == 1);
    REQUIRE(nbytes_when_made + 6 <= 10); // room had been made
    REQUIRE(contents(cache) == "uvwxyz1");
    REQUIRE(cache.nbytes() == 6);
}

TEST_CASE("insert with make does not call it for what is not kept") {
    Cache cache({.max_bytes = 10});
    store(cache, "abcdef"_key, Tier::user);
    bool called = false;
    const auto make = [&called] {
        called = true;
        return tape("abc"_key);
    };
    REQUIRE(cache.insert("m", "abc"_key, 11, Tier::user, make).outcome == Outcome::too_large);
    REQUIRE(cache.insert("m", "abc"_key, 3, Tier::user, make).outcome == Outcome::anchored);
    const auto lease = cache.lease_nearest("m", "abcdefg"_key);
    REQUIRE(cache.insert("m", "xyz"_key, 5, Tier::user, make).outcome == Outcome::no_room);
    REQUIRE_FALSE(called);
    REQUIRE(contents(cache) == "abcdef1");
}

TEST_CASE("insert with make replaces, absorbs and leaves anchors as the other does") {
    Cache cache;
    store(cache, "abc"_key, Tier::system);
    const auto stored =
        cache.insert("m", "abcd"_key, 4, Tier::user, [] { return tape("abcd"_key); });
    REQUIRE(stored.outcome == Outcome::stored);
    REQUIRE(stored.absorbed == 1);
    REQUIRE(cache.stats(Tier::system).anchors == 1);
    const auto replaced =
        cache.insert("m", "abcd"_key, 4, Tier::assistant, [] { return tape("abcd"_key); });
    REQUIRE(replaced.outcome == Outcome::replaced);
    REQUIRE(contents(cache) == "abcd1");
    REQUIRE(cache.check_invariants());
}

// Spellings //////////////////////////////////////////////////////////////////

/// A caller's type with a cache in it, made of nothing.
struct Engine {
    LRUPromptCache<Tape> cache;
};

TEST_CASE("A key is any range of tokens, an address and a length, or nothing") {
    Engine engine{};
    LRUPromptCache<Tape>& cache = engine.cache;
    Tokens key = {'a', 'b', 'c'};
    LRUPromptCache<Tape>::Inserted inserted = cache.insert("m", key, tape("abc"_key), Tier::user);
    REQUIRE(inserted.outcome == Outcome::stored);
    REQUIRE(cache.probe("m", {key.data(), 2}, {.min_remaining = 0}).reused == 2);
    REQUIRE(cache.probe("m", std::span<std::int32_t>(key)).reused == 2);
    const std::int32_t array[] = {'a', 'b', 'x'};
    REQUIRE(cache.probe("m", array).reused == 2);
    REQUIRE(cache.insert("m", {}, tape({}), Tier::user).outcome == Outcome::anchored);
    LRUPromptCache<Tape>::Stats stats = cache.stats();
    REQUIRE(stats.anchored == 1);
}

TEST_CASE("A cache that was moved from is empty") {
    LRUPromptCache<Tape> cache;
    store(cache, "abc"_key, Tier::user);
    LRUPromptCache<Tape> other = std::move(cache);
    REQUIRE(other.size() == 1);
    // NOLINTBEGIN(bugprone-use-after-move)
    REQUIRE(cache.empty());
    REQUIRE(cache.nbytes() == 0);
    cache = LRUPromptCache<Tape>();
    // NOLINTEND(bugprone-use-after-move)
    store(cache, "abc"_key, Tier::user);
    REQUIRE(cache.size() == 1);
}

// Tiers of the caller's own //////////////////////////////////////////////////

TEST_CASE("A cache may have one tier") {
    LRUPromptCache<Tape, std::string, std::int32_t, Only> cache({.max_entries = 2});
    store(cache, "abc"_key, Only::one);
    store(cache, "pqr"_key, Only::one);
    REQUIRE(cache.fetch_nearest("m", "abcd"_key).tier == Only::one);
    REQUIRE(store(cache, "xyz"_key, Only::one).evicted == 1);
    REQUIRE(contents(cache) == "abc0 xyz0");
    REQUIRE(cache.stats(Only::one).entries == 2);
    REQUIRE(cache.check_invariants());
}

TEST_CASE("A cache may have two tiers") {
    LRUPromptCache<Tape, std::string, std::int32_t, Halves> cache;
    store(cache, "abc"_key, Halves::high);
    store(cache, "pqr"_key, Halves::low);
    store(cache, "xyz"_key, Halves::high);
    // low is shorter than high: the last tier gives until they are as many.
    REQUIRE(eviction_order(cache) == "abc pqr xyz");
}

TEST_CASE("A cache may have five tiers") {
    LRUPromptCache<Tape, std::string, std::int32_t, Five> cache;
    store(cache, "e"_key, Five::e);
    store(cache, "d"_key, Five::d);
    store(cache, "c"_key, Five::c);
    store(cache, "b"_key, Five::b);
    store(cache, "a"_key, Five::a);
    store(cache, "abc"_key, Five::b);
    REQUIRE(cache.stats(Five::a).anchors == 0);
    REQUIRE(contents(cache) == "abc1 b1 c2 d3 e4");
    REQUIRE(eviction_order(cache) == "b abc c d e");
}

} // namespace
