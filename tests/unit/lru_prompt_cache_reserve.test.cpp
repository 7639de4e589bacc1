// SPDX-License-Identifier: MIT
// LRUPromptCache: an insert in two steps, with anything in between.

#include <promptkv/lru_prompt_cache.hpp>

#include "catch.hpp"
#include "unit_payloads.hpp"

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

namespace of_reservations {

using namespace promptkv_test;
using promptkv::LRUPromptCache;
using promptkv::Outcome;
using promptkv::Tier;

using Cache = LRUPromptCache<Blocks>;
using Reservation = Cache::Reservation;

/// Reserves what a payload of the word will say.
Reservation reserve(Cache& cache, std::string_view word, Tier tier = Tier::user,
                    promptkv::InsertOptions options = {}) {
    return cache.reserve("m", key(word), word.size(), tier, options);
}

// the room ///////////////////////////////////////////////////////////////////

TEST_CASE("A reservation holds room, and its key is not visible") {
    Cache cache({.max_bytes = 10});
    Reservation room = reserve(cache, "abcdef");
    CHECK(room);
    CHECK(room.tokens() == 6);
    CHECK(cache.empty());
    CHECK(cache.nbytes() == 6);
    CHECK(cache.stats().bytes_reserved == 6);
    CHECK(cache.stats().peak_nbytes == 6);
    CHECK_FALSE(cache.probe("m", key("abcdefg")));
    CHECK(cache.check_invariants());

    const auto inserted = room.commit(blocks("abcdef"));
    CHECK(inserted.outcome == Outcome::stored);
    CHECK(inserted.tokens == 6);
    CHECK(contents(cache) == "abcdef1");
    CHECK(cache.nbytes() == 6);
    CHECK(cache.stats().bytes_reserved == 0);
    CHECK(cache.stats().stored == 1);
    CHECK(cache.check_invariants());
}

TEST_CASE("A reservation makes room before anything is made") {
    Cache cache({.max_bytes = 10});
    store(cache, "pqrstu", Tier::user);
    const Reservation room = reserve(cache, "abcdef");
    REQUIRE(room);
    CHECK(contents(cache) == "pqrs1");
    CHECK(cache.nbytes() == 10);
}

TEST_CASE("Nobody else gets the room of a reservation") {
    Cache cache({.max_bytes = 10});
    const Reservation room = reserve(cache, "abcdef");
    REQUIRE(room);
    CHECK(store(cache, "pqrstu", Tier::user).tokens == 4);
    CHECK(cache.nbytes() == 10);
    CHECK(cache.trim_to({.max_bytes = 0}) == 1);
    CHECK(cache.nbytes() == 6);
}

TEST_CASE("A commit holds the limit of entries") {
    Cache cache({.max_entries = 1});
    Reservation room = reserve(cache, "abcdef");
    store(cache, "pq", Tier::user);
    CHECK(room.commit(blocks("abcdef")).evicted == 1);
    CHECK(contents(cache) == "abcdef1");
}

TEST_CASE("A reservation that is dropped gives its room back") {
    Cache cache({.max_bytes = 10});
    {
        const Reservation room = reserve(cache, "abcdef");
        CHECK(cache.nbytes() == 6);
    }
    CHECK(cache.nbytes() == 0);
    CHECK(cache.stats().bytes_reserved == 0);
    CHECK(cache.check_invariants());
    CHECK(store(cache, "abcdefghij", Tier::user).tokens == 10);
}

TEST_CASE("A reservation is moved, not copied") {
    STATIC_REQUIRE(std::is_nothrow_move_constructible_v<Reservation>);
    STATIC_REQUIRE(std::is_nothrow_move_assignable_v<Reservation>);
    STATIC_REQUIRE_FALSE(std::is_copy_constructible_v<Reservation>);
    Cache cache({.max_bytes = 10});
    Reservation room;
    CHECK_FALSE(room);
    CHECK(room.tokens() == 0);
    room = reserve(cache, "abcdef");
    CHECK(room);
    Reservation moved = std::move(room);
    CHECK_FALSE(room); // NOLINT(bugprone-use-after-move)
    CHECK(moved);
    CHECK(cache.nbytes() == 6);
    moved = reserve(cache, "xy");
    CHECK(cache.nbytes() == 2); // the room of the first was given back
    CHECK(moved.commit(blocks("xy")).outcome == Outcome::stored);
}

TEST_CASE("A commit of nothing reserved is cancelled") {
    Reservation none;
    Blocks kv = blocks("ab");
    CHECK(none.commit(std::move(kv)).outcome == Outcome::cancelled);
    CHECK(text_of(kv) == "ab"); // NOLINT(bugprone-use-after-move): it was not moved from
}

// refusals ///////////////////////////////////////////////////////////////////

TEST_CASE("A reservation says why it holds nothing") {
    Cache cache({.max_bytes = 10, .max_partial = 0});
    SECTION("too large") {
        const Reservation room = reserve(cache, "abcdefghijkl");
        CHECK_FALSE(room);
        CHECK(room.outcome() == Outcome::too_large);
        CHECK(room.tokens() == 0);
        CHECK(cache.stats().too_large == 1);
    }
    SECTION("no room") {
        LRUPromptCache<Hybrid> whole({.max_bytes = 10});
        const auto first = whole.reserve("m", key("abcdef"), 6, Tier::user);
        const auto second = whole.reserve("m", key("pqrstu"), 6, Tier::user);
        CHECK(first);
        CHECK_FALSE(second);
        CHECK(second.outcome() == Outcome::no_room);
        CHECK(whole.stats().no_room == 1);
    }
    SECTION("present: a longer entry serves the key") {
        store(cache, "abcdef", Tier::user);
        const Reservation room = reserve(cache, "abcd");
        CHECK_FALSE(room);
        CHECK(room.outcome() == Outcome::present);
        CHECK(cache.stats().present == 1);
    }
    CHECK(cache.stats().bytes_reserved == 0);
}

TEST_CASE("A key that has an entry is present, and its tier is raised") {
    Cache cache;
    store(cache, "ab", Tier::user);
    store(cache, "xy", Tier::user);
    CHECK(reserve(cache, "ab", Tier::assistant).outcome() == Outcome::present);
    CHECK(contents(cache) == "ab1 xy1");

    SECTION("it counts like an exact match") {
        CHECK(eviction_order(cache) == "xy ab");
    }
    SECTION("the tier is raised where need be") {
        CHECK(reserve(cache, "ab", Tier::system).outcome() == Outcome::present);
        CHECK(contents(cache) == "ab2 xy1");
        CHECK(cache.stats(Tier::system).nbytes == 2);
        CHECK(cache.check_invariants());
    }
}

// the part that is stored already ////////////////////////////////////////////

TEST_CASE("prefix hands out the whole blocks that are stored of the key") {
    struct Row {
        std::string stored, prefix;
    };
    const Row row = GENERATE(values<Row>({
        {"xyz", "-"},      // nothing is shared
        {"axyz", "-"},     // not one whole block is shared
        {"abcxyz", "ab"},  // an entry that branches off
        {"abcd", "abcd"},  // an entry on a prefix
        {"abcde", "abcd"}, // an entry on a prefix, without its last block
        {"abcdef12", "abcdef"},
    }));
    CAPTURE(row.stored);
    Cache cache;
    store(cache, row.stored, Tier::system);
    Reservation room = reserve(cache, "abcdefg");
    REQUIRE(room);
    CHECK(room.tokens() == 7);
    CHECK(text_of(room.prefix()) == row.prefix);
    CHECK(text_of(room.prefix()) == row.prefix); // callable again
    const std::size_t shared = row.prefix == "-" ? 0 : row.prefix.size();
    CHECK(cache.stats().bytes_reserved == 7 - shared);
    CHECK(cache.nbytes() == row.stored.size() + 7 - shared);
    CHECK(cache.check_invariants());

    Blocks kv = room.prefix().value_or(Blocks(tokens_a_block));
    append_rest(kv, "abcdefg");
    CHECK(room.commit(std::move(kv)).outcome == Outcome::stored);
    CHECK(cache.nbytes() == row.stored.size() + 7 - shared);
    CHECK(text_of(cache.fetch_nearest("m", key("abcdefgh")).kv) == "abcdefg");
    CHECK(cache.check_invariants());
}

TEST_CASE("prefix shares blocks and copies none") {
    Cache cache;
    const Blocks kv = blocks("abcdxy");
    cache.insert("m", key("abcdxy"), Blocks(kv), Tier::user);
    const Reservation room = reserve(cache, "abcdef");
    const std::optional<Blocks> prefix = room.prefix();
    REQUIRE(prefix);
    CHECK(prefix->blocks()[0] == kv.blocks()[0]);
    CHECK(prefix->blocks()[1] == kv.blocks()[1]);
}

TEST_CASE("prefix of a payload with a state has no state") {
    LRUPromptCache<Hybrid> cache;
    store(cache, "abcd", Tier::user);
    auto room = cache.reserve("m", key("abcdef"), 6 + 6, Tier::user);
    REQUIRE(room);
    std::optional<Hybrid> prefix = room.prefix();
    CHECK(text_of(prefix) == "abcd");
    CHECK_FALSE(prefix->has_state());
    append_rest(*prefix, "abcdef");
    prefix->set_state(TextBlock{"abcdef"});
    CHECK(room.commit(std::move(*prefix)).outcome == Outcome::stored);
    CHECK(cache.nbytes() == 4 + 4 + 2 + 6);
    CHECK(cache.check_invariants());
}

TEST_CASE("A payload without shared blocks has no prefix") {
    LRUPromptCache<Tape> cache;
    store(cache, "abcd", Tier::user);
    auto room = cache.reserve("m", key("abcdef"), 6, Tier::user);
    REQUIRE(room);
    CHECK_FALSE(room.prefix().has_value());
    CHECK(cache.stats().bytes_reserved == 6);
    CHECK(room.commit(Tape("abcdef")).absorbed == 1);
    CHECK(cache.nbytes() == 6);
}

TEST_CASE("What a reservation shares cannot be evicted meanwhile") {
    Cache cache;
    store(cache, "abcd", Tier::user);
    store(cache, "xyz", Tier::user);
    Reservation room = reserve(cache, "abcdef");
    CHECK(cache.stats().bytes_leased == 4);
    CHECK(cache.evictable_nbytes() == 3);
    CHECK(cache.evict(100) == 3);
    CHECK(contents(cache) == "abcd1");
    CHECK(cache.trim_to({.max_entries = 0}) == 1); // the entry may leave, its blocks stay
    CHECK(cache.nbytes() == 6);
    CHECK(text_of(room.prefix()) == "abcd");
    room = {};
    CHECK(cache.stats().bytes_leased == 0);
    CHECK(cache.nbytes() == 0);
    CHECK(cache.check_invariants());
}

TEST_CASE("An entry whose blocks a reservation shares is not evicted for bytes") {
    Cache cache;
    store(cache, "abcd", Tier::user);
    const Reservation room = reserve(cache, "abcdef");
    CHECK(cache.trim_to({.max_bytes = 1}) == 0); // it would free nothing
    CHECK(contents(cache) == "abcd1");
}

TEST_CASE("An entry that leaves while a reservation shares it stays in the account") {
    Cache cache;
    store(cache, "abcd", Tier::user);
    Reservation room = reserve(cache, "abcdef");
    CHECK(cache.erase("m", key("abcd")));
    CHECK(cache.empty());
    CHECK(cache.nbytes() == 6);
    Blocks kv = *room.prefix();
    append_rest(kv, "abcdef");
    CHECK(room.commit(std::move(kv)).outcome == Outcome::stored);
    CHECK(cache.nbytes() == 6);
    CHECK(cache.check_invariants());
}

// partial reservations ///////////////////////////////////////////////////////

TEST_CASE("A reservation that is larger than the budget is one for a part of the key") {
    Cache cache({.max_bytes = 10});
    store(cache, "ab", Tier::user); // from which the size of a block is known
    Reservation room = reserve(cache, "abcdefghijkl");
    REQUIRE(room);
    CHECK(room.tokens() == 4); // half of the budget, in whole blocks
    CHECK(cache.nbytes() == 4);
    const auto inserted = room.commit(blocks("abcd"));
    CHECK(inserted.outcome == Outcome::stored);
    CHECK(inserted.tokens == 4);
    CHECK(contents(cache) == "abcd1");
    CHECK(cache.stats().stored_in_part == 1);
}

TEST_CASE("Bytes are taken as proportional to the tokens") {
    Cache cache({.max_bytes = 12});
    Reservation room = cache.reserve("m", key("abcdefgh"), 24, Tier::user); // 3 bytes a token
    REQUIRE(room);
    CHECK(room.tokens() == 2);
    CHECK(cache.nbytes() == 6);
}

// commits ////////////////////////////////////////////////////////////////////

TEST_CASE("Of a leased entry, a reservation shares the blocks of its own key only") {
    Cache cache({.max_bytes = 10});
    store(cache, "abcdefgh", Tier::user);
    const auto lease = cache.lease_nearest("m", key("abcdefghi"));
    const Reservation room = cache.reserve("m", key("abcd"), 10, Tier::system);
    CHECK(room.outcome() == Outcome::no_room);
    CHECK(cache.nbytes() == 8);
}

TEST_CASE("A payload of fewer tokens is stored under as many") {
    Cache cache({.max_bytes = 10});
    Reservation room = reserve(cache, "abcdef");
    const auto inserted = room.commit(blocks("abc")); // the request was cancelled
    CHECK(inserted.outcome == Outcome::stored);
    CHECK(inserted.tokens == 3);
    CHECK(contents(cache) == "abc1");
    CHECK(cache.nbytes() == 3); // the rest was given back
    CHECK(cache.stats().bytes_reserved == 0);
    CHECK(cache.check_invariants());
}

TEST_CASE("A payload that is smaller than reserved gives the rest back") {
    LRUPromptCache<Tape> cache({.max_bytes = 10});
    auto room = cache.reserve("m", key("ab"), 8, Tier::user);
    CHECK(cache.nbytes() == 8);
    CHECK(room.commit(Tape("ab")).outcome == Outcome::stored);
    CHECK(cache.nbytes() == 2);
}

TEST_CASE("A payload that is larger than reserved makes more room") {
    SECTION("by evicting") {
        Cache cache({.max_bytes = 10});
        store(cache, "pqrs", Tier::user);
        Reservation room = cache.reserve("m", key("abcdef"), 4, Tier::user);
        REQUIRE(room);
        CHECK(contents(cache) == "pqrs1");
        const auto inserted = room.commit(blocks("abcdef"));
        CHECK(inserted.outcome == Outcome::stored);
        CHECK(inserted.tokens == 6);
        CHECK(cache.nbytes() == 10);
        Reservation second = cache.reserve("m", key("uvwxyz"), 2, Tier::user);
        CHECK(contents(cache) == "abcdef1 pq1");
        const auto again = second.commit(blocks("uvwxyz"));
        CHECK(again.evicted == 1);
        CHECK(again.cut == 1);
        CHECK(contents(cache) == "abcd1 uvwxyz1");
        CHECK(cache.nbytes() == 10);
        CHECK(cache.check_invariants());
    }
    SECTION("else it is cut") {
        Cache cache({.max_bytes = 10});
        store(cache, "pqrstu", Tier::user);
        const auto lease = cache.lease_nearest("m", key("pqrstuv"));
        Reservation room = cache.reserve("m", key("abcdef"), 4, Tier::user);
        REQUIRE(room);
        const auto inserted = room.commit(blocks("abcdef"));
        CHECK(inserted.outcome == Outcome::stored);
        CHECK(inserted.tokens == 4);
        CHECK(contents(cache) == "abcd1 pqrstu1");
        CHECK(cache.check_invariants());
    }
    SECTION("else there is no room") {
        LRUPromptCache<Hybrid> cache({.max_bytes = 10});
        auto first = cache.reserve("m", key("pqrstu"), 6, Tier::user);
        auto room = cache.reserve("m", key("abcd"), 4, Tier::user);
        REQUIRE(room);
        Hybrid kv = blocks<Hybrid>("abcd"); // with its state 8 bytes
        CHECK(room.commit(std::move(kv)).outcome == Outcome::no_room);
        CHECK(text_of(kv) == "abcd"); // NOLINT(bugprone-use-after-move): it was not moved from
        CHECK(cache.nbytes() == 6);
        CHECK(cache.check_invariants());
    }
}

TEST_CASE("A key that was stored meanwhile is present") {
    Cache cache;
    Reservation room = reserve(cache, "abcd", Tier::system);
    store(cache, "abcd", Tier::user);
    Blocks kv = blocks("abcd");
    CHECK(room.commit(std::move(kv)).outcome == Outcome::present);
    CHECK(cache.stats().bytes_reserved == 0);
    CHECK(cache.nbytes() == 4);
    CHECK(contents(cache) == "abcd2");
    CHECK(cache.check_invariants());

    SECTION("by a longer one, too") {
        Reservation other = reserve(cache, "pq");
        store(cache, "pqrs", Tier::user);
        CHECK(other.commit(blocks("pq")).outcome == Outcome::present);
        CHECK(contents(cache) == "abcd2 pqrs1");
    }
}

TEST_CASE("Blocks that were stored meanwhile are adopted at the commit") {
    Cache cache;
    Reservation room = reserve(cache, "abcdef");
    store(cache, "abcdxy", Tier::user);
    CHECK(room.commit(blocks("abcdef")).outcome == Outcome::stored);
    CHECK(cache.nbytes() == 8);
    CHECK(cache.check_invariants());
}

TEST_CASE("A commit absorbs what it serves") {
    Cache cache;
    store(cache, "ab", Tier::user);
    Reservation room = reserve(cache, "abcd");
    Blocks kv = *room.prefix();
    append_rest(kv, "abcd");
    const auto inserted = room.commit(std::move(kv));
    CHECK(inserted.outcome == Outcome::stored);
    CHECK(inserted.absorbed == 1);
    CHECK(contents(cache) == "abcd1");
    CHECK(cache.nbytes() == 4);
    CHECK(cache.check_invariants());
}

// voided /////////////////////////////////////////////////////////////////////

TEST_CASE("What erases the key voids its reservation") {
    Cache cache;
    Reservation room = reserve(cache, "abcd", Tier::user, {.session = 7});
    Reservation other = cache.reserve("n", key("abcd"), 4, Tier::user);
    bool other_too = false;

    SECTION("erase") {
        CHECK_FALSE(cache.erase("m", key("abcd"))); // there is no entry yet
    }
    SECTION("erase_below the key") {
        CHECK(cache.erase_below("m", key("abcd")) == 0);
    }
    SECTION("erase_below a prefix") {
        CHECK(cache.erase_below("m", key("a")) == 0);
    }
    SECTION("erase_session") {
        CHECK(cache.erase_session("m", 7) == 0);
    }
    SECTION("erase_model") {
        CHECK(cache.erase_model("m") == 0);
    }
    SECTION("clear") {
        CHECK(cache.clear() == 0);
        other_too = true;
    }
    Blocks kv = blocks("abcd");
    CHECK(room.commit(std::move(kv)).outcome == Outcome::cancelled);
    CHECK(text_of(kv) == "abcd"); // NOLINT(bugprone-use-after-move): it stays the caller's
    CHECK((other.commit(blocks("abcd")).outcome == Outcome::cancelled) == other_too);
    CHECK(cache.stats().cancelled == (other_too ? 2 : 1));
    CHECK(cache.stats().bytes_reserved == 0);
    CHECK(cache.size() == (other_too ? 0 : 1));
    CHECK(cache.check_invariants());
}

TEST_CASE("What erases something else leaves a reservation alone") {
    Cache cache;
    Reservation room = reserve(cache, "abcd", Tier::user, {.session = 7});
    cache.erase("m", key("abcdef"));
    cache.erase("m", key("ab"));
    cache.erase("n", key("abcd"));
    cache.erase_below("m", key("abcdef"));
    cache.erase_below("m", key("x"));
    cache.erase_session("m", 8);
    cache.erase_session("n", 7);
    cache.erase_model("n");
    CHECK(room.commit(blocks("abcd")).outcome == Outcome::stored);
}

TEST_CASE("A voided reservation may be made again") {
    Cache cache({.max_bytes = 10});
    Reservation room = reserve(cache, "abcdef");
    cache.clear();
    Reservation again = reserve(cache, "abcd");
    CHECK(again);
    CHECK(room.commit(blocks("abcdef")).outcome == Outcome::cancelled);
    CHECK(again.commit(blocks("abcd")).outcome == Outcome::stored);
    CHECK(cache.nbytes() == 4);
    CHECK(cache.check_invariants());
}

TEST_CASE("A reservation may outlive its cache") {
    Reservation room;
    {
        Cache cache;
        store(cache, "ab", Tier::user);
        room = reserve(cache, "abcd");
    }
    CHECK(text_of(room.prefix()) == "ab");
    Blocks kv = blocks("abcd");
    CHECK(room.commit(std::move(kv)).outcome == Outcome::cancelled);
    CHECK(text_of(kv) == "abcd"); // NOLINT(bugprone-use-after-move)
}

TEST_CASE("A reservation survives a move of its cache") {
    Cache cache({.max_bytes = 10});
    Reservation room = reserve(cache, "abcd");
    Cache moved = std::move(cache);
    CHECK(moved.nbytes() == 4);
    CHECK(room.commit(blocks("abcd")).outcome == Outcome::stored);
    CHECK(contents(moved) == "abcd1");
    CHECK(moved.check_invariants());
}

TEST_CASE("Several reservations may be open, and be committed in any order") {
    Cache cache({.max_bytes = 12});
    Reservation first = reserve(cache, "abcd");
    Reservation second = reserve(cache, "pqrs");
    Reservation third = reserve(cache, "abxy");
    CHECK(cache.nbytes() == 12);
    CHECK(third.commit(blocks("abxy")).outcome == Outcome::stored);
    CHECK(first.commit(blocks("abcd")).outcome == Outcome::stored);
    CHECK(second.commit(blocks("pqrs")).outcome == Outcome::stored);
    CHECK(contents(cache) == "abcd1 abxy1 pqrs1");
    CHECK(cache.nbytes() == 10); // "ab" is held once
    CHECK(cache.check_invariants());
}

} // namespace of_reservations
