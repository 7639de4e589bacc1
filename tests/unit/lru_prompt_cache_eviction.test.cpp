// SPDX-License-Identifier: MIT
// LRUPromptCache: who leaves when room is wanted, by how much a victim is cut, and what is superseded.

#include <promptkv/lru_prompt_cache.hpp>

#include "catch.hpp"
#include "letters.hpp"

#include <cstddef>
#include <string>
#include <vector>

namespace {

using namespace promptkv_test;
using promptkv::Outcome;
using promptkv::RemovalReason;
using promptkv::Tier;

using Cache = LRUPromptCache<Tape>;
using WholeCache = LRUPromptCache<WholeTape>;

constexpr Shape whole_only = {.step = 0};

TEST_CASE("Room is made by evicting the least recently used entry") {
    Cache cache({.max_entries = 2});
    store(cache, "abc"_key, Tier::user);
    store(cache, "mno"_key, Tier::user);
    const auto inserted = store(cache, "xyz"_key, Tier::user);
    REQUIRE(inserted.outcome == Outcome::stored);
    REQUIRE(inserted.evicted == 1);
    REQUIRE(inserted.cut == 0);
    REQUIRE(contents(cache) == "mno1 xyz1");
    REQUIRE(cache.stats().evicted == 1);
    REQUIRE(cache.stats(Tier::user).evicted == 1);
    REQUIRE(cache.check_invariants());
}

TEST_CASE("A tier is spared where it is shorter than the next one") {
    Cache cache;
    store(cache, "s"_key, Tier::system);
    store(cache, "u"_key, Tier::user);
    store(cache, "v"_key, Tier::user);
    store(cache, "a"_key, Tier::assistant);
    store(cache, "b"_key, Tier::assistant);
    store(cache, "c"_key, Tier::assistant);
    REQUIRE(eviction_order(cache) == "a b u c v s");
}

TEST_CASE("What was just stored is never the victim") {
    Cache cache({.max_entries = 1});
    store(cache, "s"_key, Tier::system);
    // The new assistant is in the shortest queue, and the only one left.
    const auto inserted = store(cache, "a"_key, Tier::assistant);
    REQUIRE(inserted.outcome == Outcome::stored);
    REQUIRE(contents(cache) == "a0");
    REQUIRE(store(cache, "b"_key, Tier::assistant).evicted == 1);
    REQUIRE(contents(cache) == "b0");
}

TEST_CASE("The incoming key counts in the length of its queue") {
    Cache cache({.max_entries = 2});
    store(cache, "a"_key, Tier::assistant);
    store(cache, "u"_key, Tier::user);
    // With v the users are two and the assistants one: a user goes.
    store(cache, "v"_key, Tier::user);
    REQUIRE(contents(cache) == "a0 v1");
}

TEST_CASE("The limits hold at every moment") {
    Cache cache({.max_bytes = 20, .max_entries = 3, .cut_granularity = 1});
    std::size_t asked = 0;
    cache.on_removal([&](const auto&) {
        ++asked;
        CHECK(cache.nbytes() <= 20);
        CHECK(cache.size() <= 3);
    });
    for (const auto key : {"abcdefghij"_key, "mnopqrst"_key, "xyz"_key, "abcdexyz"_key,
                           "mnoxyzxyzxyz"_key, "qrstuvwxyz"_key, "abcdefghijklmnopqrst"_key}) {
        store(cache, key, Tier::user);
        REQUIRE(cache.nbytes() <= 20);
        REQUIRE(cache.size() <= 3);
        REQUIRE(cache.check_invariants());
    }
    REQUIRE(asked > 0);
}

// Cutting ////////////////////////////////////////////////////////////////////

TEST_CASE("A victim is cut from its tail by what is needed") {
    struct Row {
        std::size_t max_bytes, granularity, incoming, kept;
    };
    const Row row = GENERATE(values<Row>({
        {24, 1, 8, 16}, // both fit
        {23, 1, 8, 14}, // one token is needed, an eighth is cut
        {22, 1, 8, 14},
        {20, 1, 8, 12},
        {16, 1, 8, 8},
        {16, 1, 15, 1},
        {16, 1, 16, 0},
        {20, 5, 8, 10},
        {20, 8, 8, 8},
        {16, 8, 8, 8},
        {16, 8, 9, 0},
        {23, 256, 8, 0}, // shorter than a step
        {23, 0, 8, 0},   // no cuts
    }));
    CAPTURE(row.max_bytes, row.granularity, row.incoming);
    const auto victim = "abcdefghijklmnop"_key;
    Cache cache({.max_bytes = row.max_bytes, .cut_granularity = row.granularity});
    store(cache, victim, Tier::user);
    const auto inserted = store(cache, "zyxwvutsrqponmlk"_key.first(row.incoming), Tier::user);
    REQUIRE(inserted.outcome == Outcome::stored);
    REQUIRE(inserted.cut == (row.kept > 0 && row.kept < victim.size() ? 1 : 0));
    REQUIRE(inserted.evicted == (row.kept == 0 ? 1 : 0));
    REQUIRE(cache.probe("m", victim, {.min_remaining = 0}).reused == row.kept);
    REQUIRE(cache.nbytes() == row.kept + row.incoming);
    REQUIRE(cache.check_invariants());
}

TEST_CASE("A cut is counted, and frees what it reports") {
    Cache cache({.max_bytes = 20, .cut_granularity = 1});
    store(cache, "abcdefghijklmnop"_key, Tier::user);
    std::string removed;
    cache.on_removal([&removed](const auto& removal) {
        REQUIRE(removal.reason == RemovalReason::cut);
        REQUIRE(removal.payload == nullptr);
        REQUIRE(removal.model == "m");
        REQUIRE(removal.tier == Tier::user);
        removed += text(removal.tokens) + "-" + std::to_string(removal.bytes);
    });
    const auto inserted = store(cache, "wvutsrqp"_key, Tier::user);
    REQUIRE(inserted.cut == 1);
    REQUIRE(inserted.evicted == 0);
    REQUIRE(removed == "abcdefghijklmnop-4");
    REQUIRE(cache.stats().cut == 1);
    REQUIRE(cache.stats().evicted == 0);
    REQUIRE(cache.stats(Tier::user).cut == 1);
    REQUIRE(cache.stats().tokens_evicted == 4);
    REQUIRE(cache.stats().bytes_evicted == 4);
    REQUIRE(cache.nbytes() == 20);

    SECTION("what is left is found by its new key") {
        const auto hit = cache.fetch_nearest("m", "abcdefghijklmnopq"_key);
        REQUIRE(hit.match == promptkv::Match::shorter);
        REQUIRE(text_of(hit.kv) == "abcdefghijkl");
    }
    SECTION("it keeps its place as the next victim") {
        cache.on_removal(nullptr);
        REQUIRE(eviction_order(cache) == "abcdefghijkl wvutsrqp");
    }
}

TEST_CASE("A cut that freed less than estimated is repeated") {
    // 8 bytes whatever is kept, and one a token: 4 of 24 bytes are estimated as 3 tokens.
    Cache cache({.max_bytes = 28, .cut_granularity = 1});
    store(cache, "abcdefghijklmnop"_key, Tier::user, {.overhead = 8});
    const auto inserted = store(cache, "wvutsrqp"_key, Tier::user);
    REQUIRE(inserted.outcome == Outcome::stored);
    REQUIRE(inserted.evicted == 0);
    REQUIRE(contents(cache) == "abcdefghijk1 wvutsrqp1"); // 3 tokens, then the least: 2
    REQUIRE(cache.nbytes() == 19 + 8);
    REQUIRE(cache.check_invariants());
}

TEST_CASE("A cut goes to where the state can be cut") {
    Cache cache({.max_bytes = 20, .cut_granularity = 1});
    store(cache, "abcdefghijklmnop"_key, Tier::user, {.step = 5});
    store(cache, "wvutsrqp"_key, Tier::user);
    REQUIRE(contents(cache) == "abcdefghij1 wvutsrqp1");
}

TEST_CASE("A victim that cannot be cut is dropped whole") {
    SECTION("because its state says so") {
        Cache cache({.max_bytes = 20, .cut_granularity = 1});
        store(cache, "abcdefghijklmnop"_key, Tier::user, whole_only);
        const auto inserted = store(cache, "wvutsrqp"_key, Tier::user);
        REQUIRE(inserted.evicted == 1);
        REQUIRE(inserted.cut == 0);
        REQUIRE(contents(cache) == "wvutsrqp1");
    }
    SECTION("because its type has no truncate") {
        LRUPromptCache<ClonedTape> cache({.max_bytes = 20, .cut_granularity = 1});
        store(cache, "abcdefghijklmnop"_key, Tier::user);
        const auto inserted = store(cache, "wvutsrqp"_key, Tier::user);
        REQUIRE(inserted.evicted == 1);
        REQUIRE(contents(cache) == "wvutsrqp1");
    }
    SECTION("because it is entries that are too many") {
        Cache cache({.max_entries = 1, .cut_granularity = 1});
        store(cache, "abcdefghijklmnop"_key, Tier::user);
        const auto inserted = store(cache, "wvutsrqp"_key, Tier::user);
        REQUIRE(inserted.evicted == 1);
        REQUIRE(inserted.cut == 0);
        REQUIRE(contents(cache) == "wvutsrqp1");
    }
}

/// Pretends that it can be cut: its bytes stay what they are.
struct Stubborn {
    std::size_t bytes = 0;

    std::size_t nbytes() const noexcept { return bytes; }
    std::size_t reusable_prefix(std::size_t n) const noexcept { return n; }
    void truncate(std::size_t) noexcept {}
};

TEST_CASE("A victim is dropped when a cut frees nothing") {
    LRUPromptCache<Stubborn> cache({.max_bytes = 20, .cut_granularity = 1});
    cache.insert("m", "abcdefghijklmnop"_key, Stubborn{16}, Tier::user);
    const auto inserted = cache.insert("m", "wvutsrqp"_key, Stubborn{8}, Tier::user);
    REQUIRE(inserted.outcome == Outcome::stored);
    REQUIRE(inserted.evicted == 1);
    REQUIRE(cache.size() == 1);
    REQUIRE(cache.nbytes() == 8);
    REQUIRE(cache.check_invariants());
}

TEST_CASE("A victim is dropped when others serve what would be left") {
    SECTION("another entry") {
        Cache cache({.max_bytes = 20, .cut_granularity = 4});
        store(cache, "abcdefgh"_key, Tier::user);
        store(cache, "abcdwxyz"_key, Tier::user);
        // Three bytes are needed; abcd would be left, and abcdwxyz serves it.
        const auto inserted = store(cache, "qrstuvw"_key, Tier::user);
        REQUIRE(inserted.evicted == 1);
        REQUIRE(inserted.cut == 0);
        REQUIRE(contents(cache) == "abcdwxyz1 qrstuvw1");
    }
    SECTION("the incoming one") {
        Cache cache({.max_bytes = 12, .cut_granularity = 4});
        store(cache, "abcdefgh"_key, Tier::user);
        const auto inserted = store(cache, "abcdwxyz"_key, Tier::user);
        REQUIRE(inserted.evicted == 1);
        REQUIRE(inserted.cut == 0);
        REQUIRE(contents(cache) == "abcdwxyz1");
    }
}

TEST_CASE("Several victims make room together") {
    Cache cache({.max_bytes = 12, .cut_granularity = 0});
    store(cache, "abc"_key, Tier::user);
    store(cache, "mno"_key, Tier::user);
    store(cache, "xyz"_key, Tier::user);
    REQUIRE(store(cache, "stuvwxyz"_key, Tier::user).evicted == 2);
    REQUIRE(contents(cache) == "stuvwxyz1 xyz1");
}

// Limits and pressure ////////////////////////////////////////////////////////

TEST_CASE("trim_to holds once, set_limits from now on") {
    Cache cache({.cut_granularity = 0});
    store(cache, "abc"_key, Tier::user);
    store(cache, "mno"_key, Tier::user);
    store(cache, "xyz"_key, Tier::user);

    SECTION("trim_to entries") {
        REQUIRE(cache.trim_to({.max_entries = 2}) == 1);
        REQUIRE(contents(cache) == "mno1 xyz1");
        store(cache, "pqr"_key, Tier::user);
        REQUIRE(cache.size() == 3);
    }
    SECTION("trim_to bytes") {
        REQUIRE(cache.trim_to({.max_bytes = 5}) == 2);
        REQUIRE(contents(cache) == "xyz1");
    }
    SECTION("trim_to what is held anyway") {
        REQUIRE(cache.trim_to({}) == 0);
        REQUIRE(cache.trim_to({.max_bytes = 9, .max_entries = 3}) == 0);
        REQUIRE(cache.size() == 3);
    }
    SECTION("trim_to nothing") {
        REQUIRE(cache.trim_to({.max_bytes = 0}) == 3);
        REQUIRE(cache.empty());
        REQUIRE(cache.nbytes() == 0);
        REQUIRE(cache.trim_to({.max_entries = 0}) == 0);
    }
    SECTION("set_limits") {
        cache.set_limits({.max_bytes = 6, .max_entries = 10});
        REQUIRE(contents(cache) == "mno1 xyz1");
        REQUIRE(cache.limits().max_bytes == 6);
        REQUIRE(cache.limits().max_entries == 10);
        store(cache, "pqr"_key, Tier::user);
        REQUIRE(contents(cache) == "pqr1 xyz1");
    }
    SECTION("set_limits higher evicts nothing") {
        cache.set_limits({.max_bytes = 3});
        cache.set_limits({});
        REQUIRE(contents(cache) == "xyz1");
        store(cache, "abcdef"_key, Tier::user);
        REQUIRE(cache.size() == 2);
    }
    REQUIRE(cache.check_invariants());
}

TEST_CASE("trim_to and set_limits cut where they can") {
    Cache cache({.cut_granularity = 1});
    store(cache, "abcdefghijklmnop"_key, Tier::user);
    REQUIRE(cache.trim_to({.max_bytes = 10}) == 0); // no entry was removed
    REQUIRE(contents(cache) == "abcdefghij1");
    cache.set_limits({.max_bytes = 4});
    REQUIRE(contents(cache) == "abcd1");
    REQUIRE(cache.stats().cut >= 2);
    REQUIRE(cache.check_invariants());
}

TEST_CASE("evict_while goes on as long as it is told to, and something is left") {
    Cache cache({.cut_granularity = 0});
    store(cache, "abc"_key, Tier::user);
    store(cache, "mno"_key, Tier::user);
    store(cache, "xyz"_key, Tier::user);

    SECTION("by what the predicate sees") {
        REQUIRE(cache.evict_while([&cache] { return cache.nbytes() > 4; }) == 2);
        REQUIRE(contents(cache) == "xyz1");
    }
    SECTION("not at all") {
        REQUIRE(cache.evict_while([] { return false; }) == 0);
        REQUIRE(cache.size() == 3);
    }
    SECTION("until nothing is left") {
        REQUIRE(cache.evict_while([] { return true; }) == 3);
        REQUIRE(cache.empty());
    }
    SECTION("until only what is leased is left") {
        const auto lease = cache.lease_nearest("m", "mnop"_key);
        REQUIRE(cache.evict_while([] { return true; }) == 2);
        REQUIRE(contents(cache) == "mno1");
    }
}

// Superseding ////////////////////////////////////////////////////////////////

TEST_CASE("Earlier turns that nothing else continues go first") {
    WholeCache cache;
    store(cache, "xyz"_key, Tier::assistant);
    store(cache, "a"_key, Tier::assistant);
    store(cache, "abc"_key, Tier::assistant);
    store(cache, "abcde"_key, Tier::assistant);
    REQUIRE(cache.stats().superseded >= 2);
    REQUIRE(cache.size() == 4);
    REQUIRE(eviction_order(cache) == "a abc xyz abcde"); // the shortest coldest
}

TEST_CASE("Superseding spares what it must") {
    WholeCache cache;

    SECTION("a prefix that another entry continues") {
        store(cache, "ab"_key, Tier::assistant);
        store(cache, "xyz"_key, Tier::assistant);
        store(cache, "abx"_key, Tier::assistant);
        cache.fetch_nearest("m", "abq"_key); // ab is hot again
        store(cache, "abcd"_key, Tier::assistant);
        REQUIRE(eviction_order(cache) == "xyz abx ab abcd");
    }
    SECTION("what lies above a branch, but not what lies below it") {
        store(cache, "xyz"_key, Tier::assistant);
        store(cache, "a"_key, Tier::assistant);
        store(cache, "ax"_key, Tier::assistant);
        store(cache, "abc"_key, Tier::assistant);
        cache.fetch_nearest("m", "aq"_key);
        store(cache, "abcd"_key, Tier::assistant);
        REQUIRE(eviction_order(cache) == "abc xyz ax a abcd");
    }
    SECTION("a higher tier") {
        store(cache, "xyz"_key, Tier::user);
        store(cache, "ab"_key, Tier::user);
        store(cache, "abcd"_key, Tier::assistant);
        store(cache, "q"_key, Tier::assistant);
        REQUIRE(eviction_order(cache) == "abcd xyz q ab");
    }
}

TEST_CASE("A lower tier is superseded by a higher one") {
    WholeCache cache;
    store(cache, "xyz"_key, Tier::assistant);
    store(cache, "ab"_key, Tier::assistant);
    store(cache, "abcd"_key, Tier::user);
    REQUIRE(eviction_order(cache) == "ab xyz abcd");
}

TEST_CASE("Superseding comes before room is made") {
    WholeCache cache({.max_entries = 2});
    store(cache, "xyz"_key, Tier::assistant);
    store(cache, "ab"_key, Tier::assistant);
    store(cache, "abcd"_key, Tier::assistant);
    REQUIRE(contents(cache) == "abcd0 xyz0");
    REQUIRE(cache.stats().superseded == 1);
}

TEST_CASE("Without supersede earlier turns keep their places") {
    WholeCache cache({.supersede = false});
    store(cache, "xyz"_key, Tier::assistant);
    store(cache, "ab"_key, Tier::assistant);
    store(cache, "abcd"_key, Tier::assistant);
    REQUIRE(cache.stats().superseded == 0);
    REQUIRE(eviction_order(cache) == "xyz ab abcd");
}

} // namespace
