// SPDX-License-Identifier: MIT
// LRUPromptCache: the outcomes of an insert, in the order in which they are decided.

#include <promptkv/lru_prompt_cache.hpp>

#include "catch.hpp"
#include "unit_payloads.hpp"

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
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
using promptkv::LRUPromptCache;
using promptkv::Outcome;
using promptkv::Tier;
using promptkv::unlimited;

using Cache = LRUPromptCache<Tape>;

// the cache itself ///////////////////////////////////////////////////////////

TEST_CASE("A cache is moved, not copied") {
    STATIC_REQUIRE(std::is_nothrow_move_constructible_v<Cache>);
    STATIC_REQUIRE(std::is_move_assignable_v<Cache>);
    STATIC_REQUIRE_FALSE(std::is_copy_constructible_v<Cache>);
    STATIC_REQUIRE_FALSE(std::is_copy_assignable_v<Cache>);

    Cache cache({.max_bytes = 100});
    store(cache, "abc", Tier::user);
    Cache moved = std::move(cache);
    CHECK(contents(moved) == "abc1");
    CHECK(moved.limits().max_bytes == 100);
    CHECK(moved.fetch_nearest("m", key("abcd")).reused() == 3);
    Cache assigned;
    store(assigned, "q", Tier::user);
    assigned = std::move(moved);
    CHECK(contents(assigned) == "abc1");
    CHECK(assigned.check_invariants());
}

TEST_CASE("A cache that was moved from is empty") {
    Cache cache;
    store(cache, "abc", Tier::user);
    Cache other = std::move(cache);
    CHECK(other.size() == 1);
    // NOLINTBEGIN(bugprone-use-after-move)
    CHECK(cache.empty());
    CHECK(cache.nbytes() == 0);
    cache = Cache();
    // NOLINTEND(bugprone-use-after-move)
    store(cache, "abc", Tier::user);
    CHECK(cache.size() == 1);
}

TEST_CASE("A cache without limits has the greatest there are") {
    const Cache cache;
    CHECK(cache.limits().max_bytes == std::numeric_limits<std::size_t>::max());
    CHECK(cache.limits().max_entries == std::numeric_limits<std::size_t>::max());
}

TEST_CASE("A cache can be a member of an aggregate") {
    struct Engine {
        Cache cache;
    };
    const Engine engine{};
    CHECK(engine.cache.empty());
}

// stored and replaced ////////////////////////////////////////////////////////

TEST_CASE("insert stores a payload under its key") {
    Cache cache;
    const auto inserted = store(cache, "abc", Tier::user, {.bytes_per_token = 10});
    CHECK(inserted.outcome == Outcome::stored);
    CHECK(inserted.tokens == 3);
    CHECK(inserted.absorbed == 0);
    CHECK(inserted.evicted == 0);
    CHECK(inserted.cut == 0);
    CHECK(cache.size() == 1);
    CHECK_FALSE(cache.empty());
    CHECK(cache.nbytes() == 30);
    CHECK(cache.nbytes("m") == 30);
    CHECK(cache.nbytes("other") == 0);
    CHECK(cache.stats(Tier::user).entries == 1);
    CHECK(cache.stats(Tier::user).nbytes == 30);
    CHECK(cache.stats(Tier::assistant).entries == 0);
    CHECK(cache.check_invariants());
}

TEST_CASE("insert stores a payload under the empty key") {
    Cache cache;
    CHECK(store(cache, "", Tier::user, {.overhead = 5}).outcome == Outcome::stored);
    CHECK(cache.size() == 1);
    CHECK(cache.nbytes() == 5);
    CHECK_FALSE(cache.fetch_nearest("m", key("abc"))); // it has no token to reuse
    CHECK(cache.erase("m", key("")));
    CHECK(cache.empty());
    CHECK(cache.check_invariants());
}

TEST_CASE("insert of the same key replaces its payload") {
    Cache cache({.max_bytes = 100});
    store(cache, "abc", Tier::user, {.step = 0, .bytes_per_token = 2});
    const auto inserted = store(cache, "abc", Tier::user, {.step = 0, .bytes_per_token = 5});
    CHECK(inserted.outcome == Outcome::replaced);
    CHECK(inserted.tokens == 3);
    CHECK(cache.size() == 1);
    CHECK(cache.nbytes() == 15);
    CHECK(cache.stats().replaced == 1);
    CHECK(cache.stats().stored == 1);

    SECTION("by a smaller one, too") {
        CHECK(store(cache, "abc", Tier::user).outcome == Outcome::replaced);
        CHECK(cache.nbytes() == 3);
    }
    SECTION("and the room of the old payload is room for the new one") {
        cache.set_limits({.max_bytes = 15});
        const auto again = store(cache, "abc", Tier::user, {.overhead = 12});
        CHECK(again.outcome == Outcome::replaced);
        CHECK(again.evicted == 0);
        CHECK(cache.nbytes() == 15);
    }
    CHECK(cache.check_invariants());
}

TEST_CASE("The tier of a key never falls, and rises when the key is stored higher") {
    Cache cache;
    store(cache, "abc", Tier::user);
    store(cache, "abc", Tier::assistant);
    CHECK(contents(cache) == "abc1");
    store(cache, "abc", Tier::system);
    CHECK(contents(cache) == "abc2");
    CHECK(cache.stats(Tier::system).entries == 1);
    CHECK(cache.stats(Tier::user).entries == 0);
    CHECK(cache.stats(Tier::user).nbytes == 0);
    CHECK(cache.check_invariants());
}

TEST_CASE("A replaced key is the most recent of its tier") {
    Cache cache;
    store(cache, "abc", Tier::user);
    store(cache, "xyz", Tier::user);
    CHECK(store(cache, "abc", Tier::user).outcome == Outcome::replaced);
    CHECK(eviction_order(cache) == "xyz abc");
}

// present ////////////////////////////////////////////////////////////////////

TEST_CASE("insert of a key that a longer entry serves stores nothing") {
    Cache cache;
    store(cache, "abcdef", Tier::user);
    Tape kv("abc");
    const auto inserted = cache.insert("m", key("abc"), std::move(kv), Tier::user);
    CHECK(inserted.outcome == Outcome::present);
    CHECK(inserted.tokens == 3);
    CHECK(kv.text() == "abc"); // NOLINT(bugprone-use-after-move): it was not moved from
    CHECK(contents(cache) == "abcdef1");
    CHECK(cache.stats().present == 1);
    CHECK(cache.stats().lookups == 0); // it counts as no hit

    SECTION("of a less persistent tier as well") {
        CHECK(store(cache, "abcd", Tier::assistant).outcome == Outcome::present);
    }
    SECTION("but a more persistent tier gets its own entry") {
        CHECK(store(cache, "abc", Tier::system).outcome == Outcome::stored);
        CHECK(contents(cache) == "abc2 abcdef1");
    }
    SECTION("and so does what the longer entry does not serve") {
        store(cache, "pqrstu", Tier::user, {.step = 4});
        CHECK(store(cache, "pqrst", Tier::user).outcome == Outcome::stored);
        CHECK(store(cache, "pqrs", Tier::user).outcome == Outcome::present);
        CHECK(cache.stats().absorbed == 0);
    }
}

TEST_CASE("present is decided before the payload's size matters") {
    Cache cache({.max_bytes = 6});
    store(cache, "abcdef", Tier::user);
    CHECK(store(cache, "abc", Tier::user, {.step = 0, .overhead = 100}).outcome ==
          Outcome::present);
    const auto lease = cache.lease_nearest("m", key("abcdefg"));
    CHECK(store(cache, "abc", Tier::user).outcome == Outcome::present);
}

TEST_CASE("present counts for the longer entry like a longer match") {
    Cache cache;
    store(cache, "abcdefgh", Tier::user);
    store(cache, "pqrstuvw", Tier::user);
    CHECK(store(cache, "abc", Tier::user).outcome == Outcome::present);
    // Second chance: the tail down to the three tokens leaves, then the entry moves to the hot end.
    CHECK(cache.trim_to({.max_bytes = 11}) == 0);
    CHECK(contents(cache) == "abc1 pqrstuvw1");
    CHECK(cache.trim_to({.max_bytes = 7}) == 0);
    CHECK(contents(cache) == "abc1 pqrs1");
}

TEST_CASE("present refreshes the entries on the path of the key") {
    Cache cache;
    store(cache, "ab", Tier::system);
    store(cache, "pq", Tier::system);
    store(cache, "abcdef", Tier::user);
    CHECK(store(cache, "abcd", Tier::user).outcome == Outcome::present);
    CHECK(eviction_order(cache) == "pq abcdef ab");
}

// absorbing //////////////////////////////////////////////////////////////////

TEST_CASE("A longer payload absorbs the entries on its prefixes that it serves") {
    Cache cache;
    store(cache, "ab", Tier::user, whole_only);
    store(cache, "abcd", Tier::user, whole_only);
    store(cache, "aqx", Tier::user);
    store(cache, "abcdefgh", Tier::user, whole_only);
    REQUIRE(cache.size() == 4);

    const auto inserted = store(cache, "abcdef", Tier::user);
    CHECK(inserted.outcome == Outcome::stored);
    CHECK(inserted.absorbed == 2);
    CHECK(inserted.evicted == 0);
    CHECK(contents(cache) == "abcdef1 abcdefgh1 aqx1");
    CHECK(cache.nbytes() == 6 + 8 + 3);
    CHECK(cache.stats().absorbed == 2);
    CHECK(cache.fetch_nearest("m", key("abcdx")).reused() == 4);
    CHECK(cache.check_invariants());
}

TEST_CASE("A payload absorbs only the prefixes that it serves") {
    Cache cache;
    store(cache, "abc", Tier::user, whole_only);
    store(cache, "abcd", Tier::user, whole_only);

    SECTION("with checkpoints: those at a checkpoint") {
        CHECK(store(cache, "abcdef", Tier::user, {.step = 4}).absorbed == 1);
        CHECK(contents(cache) == "abc1 abcdef1");
    }
    SECTION("with state that cannot be cut: none") {
        CHECK(store(cache, "abcdef", Tier::user, whole_only).absorbed == 0);
        CHECK(contents(cache) == "abc1 abcd1 abcdef1");
    }
    SECTION("those of another model: never") {
        CHECK(cache.insert("other", key("abcdef"), Tape("abcdef"), Tier::user).absorbed == 0);
        CHECK(cache.size() == 3);
    }
}

TEST_CASE("A type without reusable_prefix absorbs nothing") {
    LRUPromptCache<WholeTape> cache;
    store(cache, "abc", Tier::user);
    CHECK(store(cache, "abcdef", Tier::user).absorbed == 0);
    CHECK(cache.size() == 2);
    CHECK(cache.fetch_nearest("m", key("abcd")).reused() == 3);
}

TEST_CASE("An entry of a more persistent tier is not absorbed") {
    Cache cache;
    store(cache, "ab", Tier::assistant);
    store(cache, "abc", Tier::system);
    store(cache, "abcd", Tier::user);
    const auto inserted = store(cache, "abcdef", Tier::user);
    CHECK(inserted.absorbed == 1);
    CHECK(contents(cache) == "abc2 abcdef1");

    SECTION("so it outlives what is erased above it") {
        CHECK(cache.erase("m", key("abcdef")));
        CHECK(cache.probe("m", key("abcx")).reused() == 3);
    }
    SECTION("until the longer entry is stored as high") {
        CHECK(store(cache, "abcdef", Tier::system).outcome == Outcome::replaced);
        CHECK(contents(cache) == "abcdef2");
    }
}

TEST_CASE("A path without branches has at most one entry a tier") {
    Cache cache;
    const std::string path = "abcdefghijklmnopqrstuvwxyz";
    for (std::size_t n = 1; n <= path.size(); ++n)
        store(cache, path.substr(0, n), static_cast<Tier>(n % 3));
    CHECK(cache.size() <= 3);
    CHECK(cache.check_invariants());
}

TEST_CASE("The room of absorbed entries is room for the new one") {
    Cache cache({.max_bytes = 10, .max_entries = 2});
    store(cache, "abcd", Tier::user);
    store(cache, "xyz", Tier::user);
    const auto inserted = store(cache, "abcdefg", Tier::user);
    CHECK(inserted.outcome == Outcome::stored);
    CHECK(inserted.evicted == 0);
    CHECK(contents(cache) == "abcdefg1 xyz1");
    CHECK(cache.nbytes() == 10);
}

TEST_CASE("The use of an absorbed entry counts for the one that absorbed it") {
    Cache cache;
    store(cache, "abc", Tier::user);
    CHECK(cache.fetch_nearest("m", key("abcd")).reused() == 3);
    CHECK(store(cache, "abcdef", Tier::user).absorbed == 1);
    cache.trim_to({.max_entries = 0});
    CHECK(cache.stats().evicted == 1);
    CHECK(cache.stats().evicted_unused == 0);
}

// too large and no room //////////////////////////////////////////////////////

TEST_CASE("insert refuses what is larger than the budget and cannot be cut") {
    Cache cache({.max_bytes = 10});
    store(cache, "abc", Tier::user);
    Tape large("xyz", {.step = 0, .bytes_per_token = 4});
    const auto inserted = cache.insert("m", key("xyz"), std::move(large), Tier::system);
    CHECK(inserted.outcome == Outcome::too_large);
    CHECK(inserted.tokens == 0);
    CHECK(inserted.evicted == 0);
    CHECK(large.text() == "xyz"); // NOLINT(bugprone-use-after-move): it was not moved from
    CHECK(contents(cache) == "abc1");
    CHECK(cache.stats().too_large == 1);

    SECTION("one that is as large as the budget takes all of it") {
        const auto fits = store(cache, "uvwxyz", Tier::assistant, {.step = 0, .overhead = 4});
        CHECK(fits.outcome == Outcome::stored);
        CHECK(contents(cache) == "uvwxyz0");
        CHECK(cache.nbytes() == 10);
    }
    SECTION("the payload that the key has stays") {
        const Shape too_large{.step = 0, .bytes_per_token = 4};
        CHECK(store(cache, "abc", Tier::system, too_large).outcome == Outcome::too_large);
        CHECK(contents(cache) == "abc1");
    }
    CHECK(cache.check_invariants());
}

TEST_CASE("A limit of zero is valid and stores nothing") {
    SECTION("bytes") {
        Cache cache({.max_bytes = 0});
        CHECK(store(cache, "abc", Tier::user).outcome == Outcome::too_large);
        CHECK(store(cache, "abc", Tier::user, whole_only).outcome == Outcome::too_large);
        CHECK(store(cache, "", Tier::user).outcome == Outcome::too_large);
        CHECK(cache.empty());
    }
    SECTION("entries") {
        Cache cache({.max_entries = 0});
        CHECK(store(cache, "abc", Tier::user).outcome == Outcome::no_room);
        CHECK(cache.empty());
        CHECK(cache.stats().no_room == 1);
    }
}

TEST_CASE("A payload beside leased ones that does not fit is refused") {
    SECTION("by its bytes") {
        Cache cache({.max_bytes = 10});
        store(cache, "abcdef", Tier::user);
        store(cache, "xyz", Tier::user);
        auto lease = cache.lease_nearest("m", key("abcdefg"));
        Tape refused("pqrst", whole_only);
        const auto inserted = cache.insert("m", key("pqrst"), std::move(refused), Tier::user);
        CHECK(inserted.outcome == Outcome::no_room);
        CHECK(inserted.tokens == 0);
        CHECK(refused.text() == "pqrst");         // NOLINT(bugprone-use-after-move)
        CHECK(contents(cache) == "abcdef1 xyz1"); // nothing was touched
        CHECK(cache.stats().no_room == 1);
        CHECK(store(cache, "pqrs", Tier::user, whole_only).outcome == Outcome::stored);
        CHECK(contents(cache) == "abcdef1 pqrs1");
        lease.end();
        CHECK(store(cache, "uvwxy", Tier::user, whole_only).outcome == Outcome::stored);
    }
    SECTION("by the number of entries") {
        Cache cache({.max_entries = 1});
        store(cache, "abc", Tier::user);
        auto lease = cache.lease_nearest("m", key("abcd"));
        CHECK(store(cache, "xyz", Tier::user).outcome == Outcome::no_room);
        lease.end();
        CHECK(store(cache, "xyz", Tier::user).outcome == Outcome::stored);
        CHECK(contents(cache) == "xyz1");
    }
}

// partial storing ////////////////////////////////////////////////////////////

TEST_CASE("A payload that is larger than the budget is stored up to half of the budget") {
    struct Row {
        double max_partial;
        std::size_t block_tokens, tokens;
    };
    const Row row = GENERATE(values<Row>({
        {0.5, 1, 5},
        {0.5, 2, 4},
        {0.5, 5, 5},
        {0.3, 1, 3},
        {1.0, 1, 10},
        {1.0, 4, 8},
    }));
    CAPTURE(row.max_partial, row.block_tokens);
    Cache cache({.max_bytes = 10, .max_partial = row.max_partial});
    const auto inserted =
        store(cache, "abcdefghijkl", Tier::user, {.block_tokens = row.block_tokens});
    CHECK(inserted.outcome == Outcome::stored);
    CHECK(inserted.tokens == row.tokens);
    CHECK(contents(cache) == std::string("abcdefghijkl").substr(0, row.tokens) + "1");
    CHECK(cache.nbytes() == row.tokens);
    CHECK(cache.stats().stored_in_part == 1);
    CHECK(cache.stats().stored == 1);
    CHECK(cache.check_invariants());
}

TEST_CASE("A part may be up to a budget that is nearly the largest number") {
    constexpr std::size_t quarter = unlimited / 4 + 1;
    Cache cache({.max_bytes = unlimited - 1, .max_partial = 1});
    const Shape shape{.bytes_per_token = quarter, .overhead = quarter - 1};
    const auto inserted = store(cache, "abc", Tier::user, shape);
    CHECK(inserted.outcome == Outcome::stored);
    CHECK(inserted.tokens == 2);
    CHECK(cache.nbytes() == 3 * quarter - 1);
}

TEST_CASE("No part is stored where that is not wanted or not possible") {
    SECTION("max_partial is 0") {
        Cache cache({.max_bytes = 10, .max_partial = 0});
        CHECK(store(cache, "abcdefghijkl", Tier::user).outcome == Outcome::too_large);
    }
    SECTION("not one block fits") {
        Cache cache({.max_bytes = 10});
        CHECK(store(cache, "abcdefghijkl", Tier::user, {.block_tokens = 6}).outcome ==
              Outcome::too_large);
    }
    SECTION("the payload cannot be cut") {
        LRUPromptCache<WholeTape> cache({.max_bytes = 10});
        CHECK(store(cache, "abcdefghijkl", Tier::user).outcome == Outcome::too_large);
    }
}

TEST_CASE("A part for which leases leave no room may fit later") {
    Cache cache({.max_bytes = 10});
    store(cache, "abcdefghij", Tier::user);
    auto lease = cache.lease_nearest("m", key("abcdefghijk"));
    CHECK(store(cache, "pqrstuvwxyz!", Tier::user).outcome == Outcome::no_room);
    lease.end();
    CHECK(store(cache, "pqrstuvwxyz!", Tier::user).tokens == 5);
}

TEST_CASE("A payload is cut to what leased payloads leave") {
    Cache cache({.max_bytes = 10});
    store(cache, "abcdef", Tier::user);
    const auto lease = cache.lease_nearest("m", key("abcdefg"));
    const auto inserted = store(cache, "pqrstuvw", Tier::user);
    CHECK(inserted.outcome == Outcome::stored);
    CHECK(inserted.tokens == 4);
    CHECK(contents(cache) == "abcdef1 pqrs1");
    CHECK(cache.nbytes() == 10);
}

TEST_CASE("Leases that have ended leave room for a part") {
    Cache cache({.max_bytes = 10});
    store(cache, "abcdef", Tier::user);
    REQUIRE(cache.lease_nearest("m", key("abcdefg")));
    const auto inserted = store(cache, "pqrstuvwxyz", Tier::user);
    CHECK(inserted.outcome == Outcome::stored);
    CHECK(inserted.tokens == 5);
}

TEST_CASE("A part does not take the place of the leased entry of the whole key") {
    Cache cache({.max_bytes = 10, .max_entries = 1});
    store(cache, "abcdefgh", Tier::user);
    const auto lease = cache.lease_nearest("m", key("abcdefghi"));
    CHECK(store(cache, "abcdefgh", Tier::system, {.bytes_per_token = 2}).outcome ==
          Outcome::no_room);
    CHECK(cache.size() == 1);
}

TEST_CASE("A part is an insert of the shorter key from there on") {
    Cache cache({.max_bytes = 10});
    SECTION("which an entry may have already") {
        store(cache, "abcde", Tier::user);
        const auto inserted = store(cache, "abcdefghijkl", Tier::user);
        CHECK(inserted.outcome == Outcome::replaced);
        CHECK(inserted.tokens == 5);
        CHECK(contents(cache) == "abcde1");
    }
    SECTION("which a longer entry may serve already") {
        store(cache, "abcdefgh", Tier::user);
        const auto inserted = store(cache, "abcdefghijkl", Tier::user);
        CHECK(inserted.outcome == Outcome::present);
        CHECK(inserted.tokens == 5);
        CHECK(contents(cache) == "abcdefgh1");
    }
}

// making the payload late ////////////////////////////////////////////////////

TEST_CASE("insert with make calls it once there is room") {
    Cache cache({.max_bytes = 10});
    store(cache, "abcdefgh", Tier::user, whole_only);
    std::size_t nbytes_when_made = 0;
    std::size_t size_when_made = 9;
    const auto make = [&] {
        nbytes_when_made = cache.nbytes();
        size_when_made = cache.size();
        return Tape("uvwxyz");
    };
    const auto inserted = cache.insert("m", key("uvwxyz"), 6, Tier::user, make);
    CHECK(inserted.outcome == Outcome::stored);
    CHECK(inserted.tokens == 6);
    CHECK(size_when_made == 0);
    CHECK(nbytes_when_made == 6); // the room is held
    CHECK(contents(cache) == "uvwxyz1");
    CHECK(cache.nbytes() == 6);
}

TEST_CASE("insert with make does not call it for what is not kept") {
    LRUPromptCache<UncutTape> cache({.max_bytes = 10});
    store(cache, "abcdef", Tier::user);
    bool called = false;
    const auto make = [&called] {
        called = true;
        return UncutTape("abc");
    };
    CHECK(cache.insert("m", key("xyz"), 11, Tier::user, make).outcome == Outcome::too_large);
    CHECK(cache.insert("m", key("abc"), 3, Tier::user, make).outcome == Outcome::present);
    CHECK(cache.insert("m", key("abcdef"), 6, Tier::user, make).outcome == Outcome::present);
    const auto lease = cache.lease_nearest("m", key("abcdefg"));
    CHECK(cache.insert("m", key("xyz"), 5, Tier::user, make).outcome == Outcome::no_room);
    CHECK_FALSE(called);
    CHECK(contents(cache) == "abcdef1");
}

TEST_CASE("insert with make may make nothing") {
    Cache cache({.max_bytes = 10});
    store(cache, "abcd", Tier::user);
    const auto nothing = []() -> std::optional<Tape> { return std::nullopt; };
    const auto inserted = cache.insert("m", key("xyz"), 3, Tier::user, nothing);
    CHECK(inserted.outcome == Outcome::cancelled);
    CHECK(inserted.tokens == 0);
    CHECK(cache.nbytes() == 4);
    CHECK(cache.stats().cancelled == 1);
    CHECK(cache.check_invariants());

    SECTION("or throw: the room is given back") {
        const auto fail = []() -> Tape { throw std::runtime_error("no state"); };
        CHECK_THROWS_AS(cache.insert("m", key("xyz"), 3, Tier::user, fail), std::runtime_error);
        CHECK(cache.nbytes() == 4);
        CHECK(cache.stats().bytes_reserved == 0);
        CHECK(contents(cache) == "abcd1");
        CHECK(cache.check_invariants());
    }
}

TEST_CASE("insert with make absorbs and raises tiers as the other does") {
    Cache cache;
    store(cache, "ab", Tier::user);
    store(cache, "abc", Tier::system);
    const auto stored = cache.insert("m", key("abcd"), 4, Tier::user, [] { return Tape("abcd"); });
    CHECK(stored.outcome == Outcome::stored);
    CHECK(stored.absorbed == 0); // "ab" left when "abc" came
    CHECK(contents(cache) == "abc2 abcd1");
    const auto present =
        cache.insert("m", key("abcd"), 4, Tier::system, [] { return Tape("abcd"); });
    CHECK(present.outcome == Outcome::present);
    CHECK(contents(cache) == "abcd2"); // raised, and absorbs what is below it
    CHECK(cache.check_invariants());
}

// mark ///////////////////////////////////////////////////////////////////////

TEST_CASE("A part that is larger than it seemed spares upper tiers all the same") {
    constexpr Shape heavy = {.overhead = 10};
    LRUPromptCache<Tape> cache({.max_bytes = 25});
    store(cache, "xy", Tier::system, heavy);
    const bool spares = GENERATE(true, false); // 8 of 20 tokens seem to be 12 bytes, and are 18
    const auto inserted =
        store(cache, "abcdefghijklmnopqrst", Tier::assistant, heavy, {.spare_upper_tiers = spares});
    CHECK(inserted.outcome == (spares ? Outcome::no_room : Outcome::stored));
    CHECK(contents(cache) == (spares ? "xy2" : "abcdefgh0"));
    CHECK(cache.nbytes() == (spares ? 12 : 18));
    CHECK(cache.check_invariants());
}

TEST_CASE("mark makes an entry of a prefix that another entry serves") {
    LRUPromptCache<Blocks> cache;
    store(cache, "abcdef", Tier::user);
    CHECK(cache.mark("m", key("abcd"), Tier::system));
    CHECK(contents(cache) == "abcd2 abcdef1");
    CHECK(cache.nbytes() == 6); // its blocks are shared
    CHECK(cache.stats().bytes_referenced == 10);
    CHECK(cache.erase("m", key("abcdef")));
    CHECK(text_of(cache.fetch_nearest("m", key("abcdx")).kv) == "abcd");
    CHECK(cache.check_invariants());
}

TEST_CASE("mark of what needs no entry of its own says that it is there") {
    Cache cache;
    store(cache, "abcdef", Tier::user);
    store(cache, "xyz", Tier::user);
    SECTION("an entry as persistent serves it") {
        CHECK(cache.mark("m", key("abc"), Tier::user));
        CHECK(cache.mark("m", key("abc"), Tier::assistant));
        CHECK(contents(cache) == "abcdef1 xyz1");
    }
    SECTION("it has an entry: the tier is raised") {
        CHECK(cache.mark("m", key("abcdef"), Tier::system));
        CHECK(contents(cache) == "abcdef2 xyz1");
        CHECK(cache.mark("m", key("abcdef"), Tier::assistant));
        CHECK(contents(cache) == "abcdef2 xyz1");
    }
    SECTION("it has an entry: it becomes the most recent of its tier") {
        CHECK(cache.mark("m", key("abcdef"), Tier::user));
        CHECK(eviction_order(cache) == "xyz abcdef");
    }
}

TEST_CASE("mark stores no part of the prefix") {
    LRUPromptCache<Tape> cache({.max_bytes = 15});
    store(cache, "abcdefghij", Tier::user);
    const auto lease = cache.lease_nearest("m", key("abcdefghij?"));
    CHECK_FALSE(cache.mark("m", key("abcdefgh"), Tier::system));
    CHECK(contents(cache) == "abcdefghij1");
    CHECK(cache.stats().no_room == 1);
    CHECK(cache.mark("m", key("abcde"), Tier::system));
    CHECK(contents(cache) == "abcde2 abcdefghij1");
}

TEST_CASE("mark does nothing where no entry serves the prefix") {
    Cache cache;
    store(cache, "abcdef", Tier::user, whole_only);
    store(cache, "xy", Tier::user);
    CHECK_FALSE(cache.mark("m", key("abc"), Tier::system)); // it cannot be cut
    CHECK_FALSE(cache.mark("m", key("xyz"), Tier::system)); // nothing is that long
    CHECK_FALSE(cache.mark("m", key("q"), Tier::system));
    CHECK_FALSE(cache.mark("other", key("xy"), Tier::system));
    CHECK(contents(cache) == "abcdef1 xy1");
}

// tiers of the caller's own //////////////////////////////////////////////////

TEST_CASE("A cache may have one tier") {
    LRUPromptCache<Tape, std::string, std::int32_t, Only> cache({.max_entries = 2});
    store(cache, "abc", Only::one);
    store(cache, "pqr", Only::one);
    CHECK(cache.fetch_nearest("m", key("abcd")).tier() == Only::one);
    CHECK(store(cache, "xyz", Only::one).evicted == 1);
    CHECK(contents(cache) == "abc0 xyz0");
    CHECK(cache.stats(Only::one).entries == 2);
    CHECK(cache.check_invariants());
}

TEST_CASE("A cache may have two tiers") {
    LRUPromptCache<Tape, std::string, std::int32_t, Halves> cache;
    store(cache, "abc", Halves::high);
    store(cache, "pqr", Halves::low);
    store(cache, "xyz", Halves::high);
    // low is shorter than high: the last tier gives until both are as long.
    CHECK(eviction_order(cache) == "abc pqr xyz");
}

TEST_CASE("A cache may have five tiers") {
    LRUPromptCache<Tape, std::string, std::int32_t, Five> cache;
    store(cache, "e", Five::e);
    store(cache, "d", Five::d);
    store(cache, "c", Five::c);
    store(cache, "b", Five::b);
    store(cache, "a", Five::a);
    store(cache, "xyz", Five::b);
    CHECK(contents(cache) == "a0 b1 c2 d3 e4 xyz1");
    CHECK(eviction_order(cache) == "b a xyz c d e");
}

} // namespace
