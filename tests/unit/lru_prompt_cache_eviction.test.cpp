// SPDX-License-Identifier: MIT
// LRUPromptCache: who is evicted, by how much a victim is cut, and what spares it.

#include <promptkv/lru_prompt_cache.hpp>

#include "catch.hpp"
#include "unit_payloads.hpp"

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace {

using namespace promptkv_test;
using promptkv::LRUPromptCache;
using promptkv::Match;
using promptkv::Outcome;
using promptkv::RemovalReason;
using promptkv::Tier;

using Cache = LRUPromptCache<Tape>;
using BlockCache = LRUPromptCache<Blocks>;

// the rule ///////////////////////////////////////////////////////////////////

TEST_CASE("Room is made by evicting the least recently used entry") {
    Cache cache({.max_entries = 2});
    store(cache, "abc", Tier::user);
    store(cache, "mno", Tier::user);
    const auto inserted = store(cache, "xyz", Tier::user);
    CHECK(inserted.outcome == Outcome::stored);
    CHECK(inserted.evicted == 1);
    CHECK(inserted.cut == 0);
    CHECK(contents(cache) == "mno1 xyz1");
    CHECK(cache.stats().evicted == 1);
    CHECK(cache.stats(Tier::user).evicted == 1);
    CHECK(cache.check_invariants());
}

TEST_CASE("A tier is spared where it is shorter than the next one that is not empty") {
    Cache cache;
    store(cache, "s", Tier::system);
    SECTION("the next tier") {
        store(cache, "u", Tier::user);
        store(cache, "v", Tier::user);
        store(cache, "a", Tier::assistant);
        store(cache, "b", Tier::assistant);
        store(cache, "c", Tier::assistant);
        CHECK(eviction_order(cache) == "a b u c v s");
    }
    SECTION("a tier beyond an empty one") {
        store(cache, "t", Tier::system);
        store(cache, "r", Tier::system);
        store(cache, "a", Tier::assistant);
        store(cache, "b", Tier::assistant);
        CHECK(eviction_order(cache) == "s a t b r");
    }
}

TEST_CASE("What was just stored is never the victim of its own insert") {
    Cache cache({.max_entries = 1});
    store(cache, "s", Tier::system);
    CHECK(store(cache, "a", Tier::assistant).outcome == Outcome::stored);
    CHECK(contents(cache) == "a0");
    CHECK(store(cache, "b", Tier::assistant).evicted == 1);
    CHECK(contents(cache) == "b0");
}

TEST_CASE("The limits hold at every moment") {
    Cache cache({.max_bytes = 20, .max_entries = 3});
    std::size_t told = 0;
    cache.set_removal_listener([&](const auto&) {
        ++told;
        CHECK(cache.nbytes() <= 20);
        CHECK(cache.size() <= 3);
    });
    for (const std::string_view word :
         {"abcdefghij", "mnopqrst", "xyz", "abcdexyz", "mnoxyzxyzxyz", "qrstuvwxyz",
          "abcdefghijklmnopqrst", "abcdefghijklmnopqrstuvwxyz"}) {
        store(cache, word, Tier::user);
        CHECK(cache.nbytes() <= 20);
        CHECK(cache.size() <= 3);
        CHECK(cache.check_invariants());
    }
    CHECK(told > 0);
}

TEST_CASE("Several victims make room together") {
    Cache cache({.max_bytes = 12});
    store(cache, "abc", Tier::user, whole_only);
    store(cache, "mno", Tier::user, whole_only);
    store(cache, "xyz", Tier::user, whole_only);
    CHECK(store(cache, "stuvwxyz", Tier::user).evicted == 2);
    CHECK(contents(cache) == "stuvwxyz1 xyz1");
}

// cuts ///////////////////////////////////////////////////////////////////////

TEST_CASE("A victim is cut from its tail by what is needed, in whole blocks") {
    struct Row {
        std::size_t max_bytes, block_tokens, incoming, kept;
    };
    const Row row = GENERATE(values<Row>({
        {24, 1, 8, 16}, // both fit
        {23, 1, 8, 15},
        {20, 1, 8, 12},
        {16, 1, 15, 1},
        {16, 1, 16, 0},
        {20, 5, 8, 10},
        {20, 8, 8, 8},
        {16, 8, 8, 8},
        {16, 8, 9, 0},
        {23, 32, 8, 0}, // shorter than a block
    }));
    CAPTURE(row.max_bytes, row.block_tokens, row.incoming);
    Cache cache({.max_bytes = row.max_bytes});
    store(cache, "abcdefghijklmnop", Tier::user, {.block_tokens = row.block_tokens});
    const auto inserted =
        store(cache, std::string_view("zyxwvutsrqponmlk").substr(0, row.incoming), Tier::user);
    CHECK(inserted.outcome == Outcome::stored);
    CHECK(inserted.cut == (row.kept > 0 && row.kept < 16 ? 1 : 0));
    CHECK(inserted.evicted == (row.kept == 0 ? 1 : 0));
    CHECK(cache.probe("m", key("abcdefghijklmnop"), {.min_remaining = 0}).reused() == row.kept);
    CHECK(cache.nbytes() == row.kept + row.incoming);
    CHECK(cache.check_invariants());
}

TEST_CASE("A payload of blocks is cut by the blocks that it holds alone") {
    BlockCache cache;
    store(cache, "abcdefgh", Tier::user);
    store(cache, "abcdxyz1", Tier::user); // shares "ab" and "cd"
    CHECK(cache.nbytes() == 12);
    CHECK(cache.trim_to({.max_bytes = 11}) == 0);
    CHECK(contents(cache) == "abcdef1 abcdxyz11");
    CHECK(cache.nbytes() == 10);
    CHECK(cache.stats().cut == 1);
    CHECK(cache.stats().bytes_evicted == 2);
    CHECK(cache.stats().tokens_evicted == 2);
    CHECK(cache.check_invariants());
}

TEST_CASE("What is left of a cut is found by its new key, and keeps its place") {
    Cache cache({.max_bytes = 20});
    store(cache, "abcdefghijklmnop", Tier::user);
    store(cache, "zy", Tier::user);
    CHECK(store(cache, "wvutsr", Tier::user).cut == 1);
    const auto hit = cache.probe("m", key("abcdefghijklmnopq"));
    CHECK(hit.match() == Match::shorter);
    CHECK(hit.reused() == 12);
    CHECK(eviction_order(cache) == "abcdefghijkl zy wvutsr");
}

TEST_CASE("A cut ends where the state can be cut") {
    Cache cache({.max_bytes = 20});
    store(cache, "abcdefghijklmnop", Tier::user, {.step = 5});
    store(cache, "wvutsrqp", Tier::user);
    CHECK(contents(cache) == "abcdefghij1 wvutsrqp1");
}

TEST_CASE("A cut that freed less than estimated is repeated") {
    // 8 bytes whatever is kept, and one a token.
    Cache cache({.max_bytes = 28});
    store(cache, "abcdefghijklmnop", Tier::user, {.overhead = 8});
    const auto inserted = store(cache, "wvutsrqp", Tier::user);
    CHECK(inserted.outcome == Outcome::stored);
    CHECK(inserted.evicted == 0);
    CHECK(cache.size() == 2);
    CHECK(cache.nbytes() <= 28);
    CHECK(cache.nbytes() >= 26); // by no more than needed
    CHECK(cache.check_invariants());
}

TEST_CASE("A victim that cannot be cut is dropped whole") {
    SECTION("because its state says so") {
        Cache cache({.max_bytes = 20});
        store(cache, "abcdefghijklmnop", Tier::user, whole_only);
        const auto inserted = store(cache, "wvutsrqp", Tier::user);
        CHECK(inserted.evicted == 1);
        CHECK(inserted.cut == 0);
        CHECK(contents(cache) == "wvutsrqp1");
    }
    SECTION("because its type has no truncate") {
        LRUPromptCache<UncutTape> cache({.max_bytes = 20});
        store(cache, "abcdefghijklmnop", Tier::user);
        CHECK(store(cache, "wvutsrqp", Tier::user).evicted == 1);
        CHECK(contents(cache) == "wvutsrqp1");
    }
    SECTION("because an entry is wanted and not bytes") {
        Cache cache({.max_entries = 1});
        store(cache, "abcdefghijklmnop", Tier::user);
        const auto inserted = store(cache, "wvutsrqp", Tier::user);
        CHECK(inserted.evicted == 1);
        CHECK(inserted.cut == 0);
        CHECK(contents(cache) == "wvutsrqp1");
    }
    SECTION("because a cut frees nothing") {
        LRUPromptCache<Stubborn> cache({.max_bytes = 20});
        cache.insert("m", key("abcdefghijklmnop"), Stubborn{16}, Tier::user);
        const auto inserted = cache.insert("m", key("wvutsrqp"), Stubborn{8}, Tier::user);
        CHECK(inserted.outcome == Outcome::stored);
        CHECK(inserted.evicted == 1);
        CHECK(cache.size() == 1);
        CHECK(cache.nbytes() == 8);
        CHECK(cache.check_invariants());
    }
}

TEST_CASE("A victim is dropped when other entries serve what would be left") {
    Cache cache({.max_bytes = 20});
    store(cache, "abcdefgh", Tier::user, {.block_tokens = 4});
    store(cache, "abcdwxyz", Tier::user, {.block_tokens = 4});
    // Three bytes are needed; "abcd" would be left, which "abcdwxyz" serves.
    const auto inserted = store(cache, "qrstuvw", Tier::user);
    CHECK(inserted.evicted == 1);
    CHECK(inserted.cut == 0);
    CHECK(contents(cache) == "abcdwxyz1 qrstuvw1");
}

// victims that free nothing //////////////////////////////////////////////////

TEST_CASE("In the place of a victim that frees nothing the nearest longer entry is taken") {
    BlockCache cache;
    store(cache, "abcd", Tier::system);
    store(cache, "zz", Tier::system);
    store(cache, "abcdefgh", Tier::user);
    REQUIRE(cache.nbytes() == 10);

    SECTION("where bytes are wanted") {
        // The system tier is longer than the user tier, and "abcd" is the coldest there.
        CHECK(cache.trim_to({.max_bytes = 9}) == 0);
        CHECK(contents(cache) == "abcd2 abcdef1 zz2");
        CHECK(cache.nbytes() == 8);
    }
    SECTION("but where an entry is wanted the victim is dropped") {
        CHECK(cache.trim_to({.max_entries = 2}) == 1);
        CHECK(contents(cache) == "abcdefgh1 zz2");
        CHECK(cache.nbytes() == 10);
        CHECK(cache.stats().bytes_evicted == 0);
    }
    CHECK(cache.check_invariants());
}

TEST_CASE("The victim that frees nothing stays, and its place with it") {
    BlockCache cache;
    store(cache, "abcd", Tier::system);
    store(cache, "zz", Tier::system);
    store(cache, "abcdef", Tier::assistant);
    CHECK(cache.trim_to({.max_bytes = 7}) == 1);
    CHECK(contents(cache) == "abcd2 zz2");
    CHECK(eviction_order(cache) == "abcd zz");
}

TEST_CASE("A leased entry is not taken in the place of a victim that frees nothing") {
    BlockCache cache;
    store(cache, "abcd", Tier::system);
    store(cache, "zz", Tier::system);
    store(cache, "abcdef", Tier::assistant);
    const auto lease = cache.lease_nearest("m", key("abcdefx"));
    REQUIRE(lease.entry_tokens() == 6);
    CHECK(cache.touch("m", key("zz")));
    CHECK(cache.trim_to({.max_bytes = 7}) == 1);
    CHECK(contents(cache) == "abcd2 abcdef0");
    CHECK(cache.check_invariants());
}

TEST_CASE("An entry that frees nothing stays where its blocks are leased") {
    BlockCache cache;
    store(cache, "abcd", Tier::system);
    store(cache, "abcdef", Tier::assistant);
    const auto lease = cache.lease_nearest("m", key("abcdefx"));
    REQUIRE(lease.entry_tokens() == 6);
    CHECK(cache.trim_to({.max_bytes = 1}) == 0);
    CHECK(contents(cache) == "abcd2 abcdef0");
    CHECK(cache.trim_to({.max_entries = 1}) == 1); // only a limit of entries drops it
    CHECK(contents(cache) == "abcdef0");
}

TEST_CASE("Entries that hold the same blocks can be evicted all the same") {
    BlockCache cache;
    store(cache, "abcd", Tier::user);
    CHECK(cache.mark("m", key("abc"), Tier::system)); // holds both blocks, too
    CHECK(cache.nbytes() == 4);
    SECTION("for a limit") {
        CHECK(cache.trim_to({.max_bytes = 0}) == 2);
        CHECK(cache.empty());
    }
    SECTION("for a pool") {
        CHECK(cache.evictable_nbytes() == 4);
        CHECK(cache.evict(4) == 4);
        CHECK(cache.empty());
    }
    CHECK(cache.check_invariants());
}

// second chance //////////////////////////////////////////////////////////////

TEST_CASE(
    "An entry that longer matches used gives its tail first, then moves to the hot end once") {
    Cache cache;
    store(cache, "abcdefgh", Tier::user);
    store(cache, "vwxyz", Tier::user);
    CHECK(cache.fetch_nearest("m", key("ab?")).reused() == 2);
    CHECK(cache.fetch_nearest("m", key("abc?")).reused() == 3);
    CHECK(cache.fetch_nearest("m", key("ab?")).reused() == 2); // the longest counts

    SECTION("only as much of the tail as is needed") {
        CHECK(cache.trim_to({.max_bytes = 11}) == 0);
        CHECK(contents(cache) == "abcdef1 vwxyz1");
        CHECK(cache.trim_to({.max_bytes = 8}) == 0);
        CHECK(contents(cache) == "abc1 vwxyz1");
        CHECK(cache.trim_to({.max_bytes = 6}) == 0); // now the other one is the victim
        CHECK(contents(cache) == "abc1 vwx1");
    }
    SECTION("and the chance is spent then") {
        CHECK(cache.trim_to({.max_bytes = 7}) == 0);
        CHECK(contents(cache) == "abc1 vwxy1");
        store(cache, "new", Tier::user);
        CHECK(eviction_order(cache) == "vwxy abc new");
    }
    SECTION("where an entry is wanted it moves at once") {
        CHECK(cache.trim_to({.max_entries = 1}) == 1);
        CHECK(contents(cache) == "abcdefgh1");
        CHECK(cache.trim_to({.max_entries = 0}) == 1);
    }
    SECTION("a match of its own takes the chance away") {
        CHECK(cache.fetch_nearest("m", key("abcdefghi")).reused() == 8);
        CHECK(cache.fetch_nearest("m", key("vwxyz1")).reused() == 5);
        CHECK(cache.trim_to({.max_entries = 1}) == 1);
        CHECK(contents(cache) == "vwxyz1");
    }
    CHECK(cache.check_invariants());
}

TEST_CASE("An entry that cannot be cut moves to the hot end for its second chance") {
    LRUPromptCache<UncutTape> cache;
    store(cache, "abcdefgh", Tier::user);
    store(cache, "vwxyz", Tier::user);
    CHECK(cache.fetch_nearest("m", key("abc?")).reused() == 3);
    CHECK(cache.trim_to({.max_bytes = 12}) == 1);
    CHECK(contents(cache) == "abcdefgh1");
}

TEST_CASE("An entry alone in its cache is evicted after its second chance") {
    Cache cache;
    store(cache, "abcdefgh", Tier::user);
    CHECK(cache.fetch_nearest("m", key("abc?")).reused() == 3);
    CHECK(cache.trim_to({.max_bytes = 0}) == 1);
    CHECK(cache.empty());
}

TEST_CASE("One call grants at most 64 second chances") {
    LRUPromptCache<UncutTape> cache;
    const auto prompt_of = [](int i) { return std::to_string(1000 + i) + "abc"; };
    for (int i = 0; i < 100; ++i) {
        store(cache, prompt_of(i), Tier::user);
        CHECK(cache.fetch_nearest("m", key(prompt_of(i).substr(0, 6) + "?")).reused() == 6);
    }
    const std::size_t without_one = cache.nbytes() - 1;
    CHECK(cache.trim_to({.max_bytes = without_one}) == 1);
    // The first one after those.
    CHECK_FALSE(cache.probe("m", key(prompt_of(64)), {.min_remaining = 0, .min_reuse = 7}));
    CHECK(cache.size() == 99);
    CHECK(cache.trim_to({.max_entries = 98}) == 1);
    CHECK(cache.size() == 98);
    CHECK(cache.check_invariants());
}

// leases /////////////////////////////////////////////////////////////////////

TEST_CASE("A leased entry is no victim, and counts in the tier rule") {
    Cache cache;
    store(cache, "a", Tier::assistant);
    store(cache, "b", Tier::assistant);
    store(cache, "u", Tier::user);
    store(cache, "v", Tier::user);
    const auto lease = cache.lease_nearest("m", key("ax"));
    CHECK(cache.touch("m", key("b"))); // "a" is the coldest
    CHECK(cache.trim_to({.max_entries = 3}) == 1);
    CHECK(contents(cache) == "a0 u1 v1"); // two assistants are not fewer than two users
    CHECK(cache.trim_to({.max_entries = 2}) == 1);
    CHECK(contents(cache) == "a0 v1"); // one assistant is
    CHECK(cache.check_invariants());
}

TEST_CASE("A leased entry that came up returns to the cold end when its lease has ended") {
    Cache cache;
    store(cache, "a", Tier::user);
    store(cache, "b", Tier::user);
    auto a = cache.lease_nearest("m", key("ax"));
    auto b = cache.lease_nearest("m", key("bx"));
    CHECK(cache.trim_to({.max_entries = 0}) == 0); // both come up
    store(cache, "e", Tier::user);
    store(cache, "f", Tier::user);

    SECTION("those that came up first are the coldest, whichever lease ended first") {
        b.end();
        a.end();
        CHECK(eviction_order(cache) == "a b e f");
    }
    SECTION("unless it was used since") {
        CHECK(cache.touch("m", key("a")));
        store(cache, "g", Tier::user);
        b.end();
        a.end();
        CHECK(eviction_order(cache) == "b e f a g");
    }
    SECTION("its last lease") {
        auto again = cache.lease_nearest("m", key("ax")); // which uses it, too
        a.end();
        b.end();
        CHECK(cache.trim_to({.max_entries = 1}) == 3);
        CHECK(contents(cache) == "a1");
        again.end();
        CHECK(cache.trim_to({.max_entries = 0}) == 1);
    }
    CHECK(cache.check_invariants());
}

TEST_CASE("A leased entry that did not come up keeps its place") {
    Cache cache;
    store(cache, "a", Tier::user);
    store(cache, "b", Tier::user);
    {
        const auto lease = cache.lease_nearest("m", key("ax"));
        store(cache, "c", Tier::user);
        CHECK(cache.trim_to({.max_entries = 2}) == 1);
        CHECK(contents(cache) == "a1 c1");
    }
    CHECK(eviction_order(cache) == "a c");
}

// limits /////////////////////////////////////////////////////////////////////

TEST_CASE("trim_to holds once, set_limits from then on") {
    Cache cache;
    store(cache, "abc", Tier::user, whole_only);
    store(cache, "mno", Tier::user, whole_only);
    store(cache, "xyz", Tier::user, whole_only);

    SECTION("trim_to entries") {
        CHECK(cache.trim_to({.max_entries = 2}) == 1);
        CHECK(contents(cache) == "mno1 xyz1");
        store(cache, "pqr", Tier::user);
        CHECK(cache.size() == 3);
    }
    SECTION("trim_to bytes") {
        CHECK(cache.trim_to({.max_bytes = 5}) == 2);
        CHECK(contents(cache) == "xyz1");
    }
    SECTION("trim_to limits that hold already") {
        CHECK(cache.trim_to({}) == 0);
        CHECK(cache.trim_to({.max_bytes = 9, .max_entries = 3}) == 0);
        CHECK(cache.size() == 3);
    }
    SECTION("trim_to nothing") {
        CHECK(cache.trim_to({.max_bytes = 0}) == 3);
        CHECK(cache.empty());
        CHECK(cache.nbytes() == 0);
        CHECK(cache.trim_to({.max_entries = 0}) == 0);
    }
    SECTION("set_limits") {
        cache.set_limits({.max_bytes = 6, .max_entries = 10});
        CHECK(contents(cache) == "mno1 xyz1");
        CHECK(cache.limits().max_bytes == 6);
        CHECK(cache.limits().max_entries == 10);
        store(cache, "pqr", Tier::user);
        CHECK(contents(cache) == "pqr1 xyz1");
    }
    SECTION("set_limits higher evicts nothing") {
        cache.set_limits({.max_bytes = 3});
        cache.set_limits({});
        CHECK(contents(cache) == "xyz1");
        store(cache, "abcdef", Tier::user);
        CHECK(cache.size() == 2);
    }
    CHECK(cache.check_invariants());
}

TEST_CASE("trim_to and set_limits cut where they can, and count entries that left whole") {
    Cache cache;
    store(cache, "abcdefghijklmnop", Tier::user);
    CHECK(cache.trim_to({.max_bytes = 10}) == 0);
    CHECK(contents(cache) == "abcdefghij1");
    cache.set_limits({.max_bytes = 4});
    CHECK(contents(cache) == "abcd1");
    CHECK(cache.stats().cut == 2);
    CHECK(cache.check_invariants());
}

TEST_CASE("A limit below what is leased leaves the leased entries alone") {
    Cache cache;
    store(cache, "abcdef", Tier::user);
    store(cache, "xyz", Tier::user);
    auto lease = cache.lease_nearest("m", key("abcdefg"));
    cache.set_limits({.max_bytes = 4});
    CHECK(cache.nbytes() == 6); // what is leased is all that is left
    CHECK(text_of(lease.kv()) == "abcdef");
    CHECK(store(cache, "q", Tier::user, whole_only).outcome == Outcome::no_room);
    CHECK(cache.check_invariants());
    lease.end();
    CHECK(store(cache, "q", Tier::user, whole_only).outcome == Outcome::stored);
    CHECK(cache.nbytes() <= 4);
    CHECK(cache.check_invariants());
}

// evict //////////////////////////////////////////////////////////////////////

TEST_CASE("evict frees at least so many bytes, and says how many") {
    BlockCache cache;
    store(cache, "abcd", Tier::user);
    store(cache, "pqrs", Tier::user);
    CHECK(cache.evictable_nbytes() == 8);
    CHECK(cache.evict(0) == 0);
    CHECK(cache.evict(1) == 2);
    CHECK(contents(cache) == "ab1 pqrs1");
    CHECK(cache.evict(3) == 4);
    CHECK(contents(cache) == "pq1");
    CHECK(cache.evictable_nbytes() == 2);
    CHECK(cache.evict(100) == 2);
    CHECK(cache.empty());
    CHECK(cache.evict(1) == 0);
    CHECK(cache.check_invariants());
}

TEST_CASE("evict counts only blocks that nobody outside of the cache holds") {
    BlockCache cache;
    store(cache, "abcdef", Tier::user);
    store(cache, "pq", Tier::user);
    std::optional<Blocks> held = cache.fetch_nearest("m", key("abcd?")).kv;
    REQUIRE(held);
    CHECK(cache.evictable_nbytes() == 4); // "ef" and "pq"
    CHECK(cache.touch("m", key("pq")));
    CHECK(cache.evict(1) == 2);
    CHECK(contents(cache) == "abcd1 pq1");

    SECTION("and passes over victims that would free none") {
        CHECK(cache.evict(1) == 2);
        CHECK(contents(cache) == "abcd1");
        CHECK(cache.evict(1) == 0);
        CHECK(contents(cache) == "abcd1");
        CHECK(cache.evictable_nbytes() == 0);
    }
    SECTION("until they are given back") {
        held.reset();
        CHECK(cache.evictable_nbytes() == 6);
        CHECK(cache.evict(6) == 6);
        CHECK(cache.empty());
    }
    CHECK(cache.check_invariants());
}

TEST_CASE("evict counts no leased entry") {
    BlockCache cache;
    store(cache, "abcd", Tier::user);
    store(cache, "abxy", Tier::user);
    const auto lease = cache.lease_nearest("m", key("abcde"));
    CHECK(cache.evictable_nbytes() == 2); // "xy": the lease pins "ab"
    CHECK(cache.evict(100) == 2);
    CHECK(contents(cache) == "abcd1");
    CHECK(cache.check_invariants());
}

TEST_CASE("evict does not take what a lowered limit evicts for blocks in use") {
    BlockCache cache;
    store(cache, "ab", Tier::system);
    store(cache, "abcd", Tier::user);
    {
        const auto system = cache.lease_nearest("m", key("ab"), {.min_remaining = 0});
        const auto user = cache.lease_nearest("m", key("abcde"));
        REQUIRE((system && user));
        cache.set_limits({.max_entries = 1});
        CHECK(cache.size() == 2);
    }
    CHECK(cache.evict(2) == 2); // "abcd" leaves first, and both hold the block "ab"
    CHECK(cache.empty());
}

TEST_CASE("evict of payloads without blocks counts all their bytes") {
    Cache cache;
    store(cache, "abcd", Tier::user, whole_only);
    store(cache, "pqrs", Tier::user);
    CHECK(cache.evictable_nbytes() == 8);
    CHECK(cache.evict(1) == 4);
    CHECK(cache.evict(1) == 1);
    CHECK(contents(cache) == "pqr1");
}

TEST_CASE("A pool that the cache cannot see is freed block by block") {
    // The loop of the documentation: two bytes are free, six are needed.
    BlockCache cache;
    store(cache, "abcdef", Tier::user);
    store(cache, "pqrs", Tier::user);
    std::size_t in_cache = 10;
    std::size_t free = 2;
    const std::size_t need = 6;
    while (free < need) {
        const std::size_t freed = cache.evict(need - free);
        if (freed == 0)
            break;
        CHECK(in_cache - freed == cache.nbytes());
        in_cache -= freed;
        free += freed;
    }
    CHECK(free == 6);
    CHECK(contents(cache) == "ab1 pqrs1");
}

TEST_CASE("By default LRUPromptCache remembers no evicted key") {
    Cache cache;
    store(cache, "abc", Tier::user);
    CHECK(cache.trim_to({.max_entries = 0}) == 1);
    CHECK(cache.probe("m", key("abcd")).miss() == promptkv::MissReason::nothing_shared);
    CHECK(cache.index_nbytes() <= Cache().index_nbytes());
}

} // namespace
