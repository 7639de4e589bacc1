// SPDX-License-Identifier: MIT
// LRUPromptCache: entries that a later turn made obsolete, by superseding and by sessions.

#include <promptkv/lru_prompt_cache.hpp>

#include "catch.hpp"
#include "unit_payloads.hpp"

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace {

using namespace promptkv_test;
using promptkv::InsertOptions;
using promptkv::LRUPromptCache;
using promptkv::Tier;

using Cache = LRUPromptCache<Tape>;
using WholeCache = LRUPromptCache<WholeTape>;

/// A state of a recurrent model at so many tokens of one conversation.
constexpr std::string_view conversation = "abcdefghijklmnopqrst";

template <class C>
void store_at(C& cache, std::size_t tokens) {
    store(cache, conversation.substr(0, tokens), Tier::assistant);
}

// superseding ////////////////////////////////////////////////////////////////

TEST_CASE("Earlier turns that nothing else continues are evicted first") {
    WholeCache cache;
    store(cache, "xyz", Tier::assistant);
    store_at(cache, 1);
    store_at(cache, 3);
    store_at(cache, 5);
    CHECK(cache.size() == 4);
    CHECK(cache.stats().superseded >= 2);
    CHECK(eviction_order(cache) == "a abc xyz abcde");
}

TEST_CASE(
    "Turns are superseded where the payload says that it cannot be cut, whatever its type can") {
    Cache cache;
    const auto store_turn = [&](std::size_t tokens, Shape shape) {
        store(cache, conversation.substr(0, tokens), Tier::assistant, shape);
    };
    SECTION("a recurrent model") {
        store(cache, "xyz", Tier::assistant);
        for (const std::size_t tokens : {2U, 3U, 5U})
            store_turn(tokens, whole_only);
        CHECK(cache.stats().superseded == 2);
        CHECK(eviction_order(cache) == "ab abc xyz abcde");
    }
    SECTION("not what can be cut") {
        store_turn(3, {});
        store_turn(5, whole_only);
        CHECK(cache.stats().superseded == 0);
        CHECK(eviction_order(cache) == "abc abcde");
    }
    CHECK(cache.check_invariants());
}

TEST_CASE("Superseded turns are thinned: the smallest gap closes first") {
    WholeCache cache;
    for (const std::size_t tokens : {2U, 3U, 4U, 8U, 10U})
        store_at(cache, tokens);
    // The gaps without 2, 3, 4 and 8: 3, 2, 5 and 6. Then without 2, 4 and 8: 4, 6 and 6, and so on.
    std::string lengths;
    cache.set_removal_listener(
        [&](const auto& removal) { lengths += std::to_string(removal.tokens.size()) + " "; });
    while (cache.size() > 1)
        cache.trim_to({.max_entries = cache.size() - 1});
    CHECK(lengths == "3 2 8 4 ");
}

TEST_CASE("At equal gaps the shortest turn is evicted first") {
    WholeCache cache;
    for (const std::size_t tokens : {4U, 8U, 12U, 16U})
        store_at(cache, tokens);
    CHECK(cache.trim_to({.max_entries = 3}) == 1);
    CHECK(contents(cache).find("abcd0") == std::string::npos);
}

TEST_CASE("The entry that comes in bounds no gap") {
    WholeCache cache({.max_entries = 4});
    for (const std::size_t tokens : {2U, 6U, 7U})
        store_at(cache, tokens);
    store(cache, "ax", Tier::assistant);
    store_at(cache, 1); // the gap without 2 is 6, not 5, and that without 6 is 5
    CHECK(contents(cache).find("abcdef0") == std::string::npos);
    CHECK(contents(cache).find("ab0") != std::string::npos);
}

TEST_CASE("A leased turn is not thinned") {
    WholeCache cache;
    for (const std::size_t tokens : {4U, 8U, 12U, 16U})
        store_at(cache, tokens);
    const auto lease = cache.lease_nearest("m", key(conversation.substr(0, 5)));
    REQUIRE(lease.entry_tokens() == 4);
    store_at(cache, 20); // supersedes all of them
    CHECK(cache.trim_to({.max_entries = 4}) == 1);
    CHECK(contents(cache).find("abcd0") != std::string::npos);
    CHECK(contents(cache).find("abcdefgh0") == std::string::npos); // the next of equal gaps
}

TEST_CASE("Superseding spares what other conversations continue, and higher tiers") {
    WholeCache cache;

    SECTION("a prefix that another entry continues") {
        store(cache, "ab", Tier::assistant);
        store(cache, "xyz", Tier::assistant);
        store(cache, "abx", Tier::assistant);
        CHECK(cache.touch("m", key("ab"))); // is hot again
        store(cache, "abcd", Tier::assistant);
        CHECK(eviction_order(cache) == "xyz abx ab abcd");
    }
    SECTION("what lies above a branch, but not what lies below it") {
        store(cache, "xyz", Tier::assistant);
        store(cache, "a", Tier::assistant);
        store(cache, "ax", Tier::assistant);
        store(cache, "abc", Tier::assistant);
        CHECK(cache.touch("m", key("a")));
        store(cache, "abcd", Tier::assistant);
        CHECK(eviction_order(cache) == "abc xyz ax a abcd");
    }
    SECTION("a higher tier") {
        store(cache, "xyz", Tier::user);
        store(cache, "ab", Tier::user);
        store(cache, "abcd", Tier::assistant);
        store(cache, "q", Tier::assistant);
        CHECK(eviction_order(cache) == "abcd xyz q ab");
    }
}

TEST_CASE("A lower tier is superseded by a higher one") {
    WholeCache cache;
    store(cache, "xyz", Tier::assistant);
    store(cache, "ab", Tier::assistant);
    store(cache, "abcd", Tier::user);
    CHECK(eviction_order(cache) == "ab xyz abcd");
}

TEST_CASE("Superseding happens before room is made") {
    WholeCache cache({.max_entries = 2});
    store(cache, "xyz", Tier::assistant);
    store(cache, "ab", Tier::assistant);
    store(cache, "abcd", Tier::assistant);
    CHECK(contents(cache) == "abcd0 xyz0");
    CHECK(cache.stats().superseded == 1);
}

TEST_CASE("A superseded turn that is used again is no longer superseded") {
    WholeCache cache;
    store(cache, "xyz", Tier::assistant);
    store(cache, "ab", Tier::assistant);
    store(cache, "abcd", Tier::assistant);
    CHECK(cache.fetch_nearest("m", key("ab?")).reused() == 2); // an edit of the first turn
    CHECK(eviction_order(cache) == "xyz abcd ab");
}

TEST_CASE("A side request supersedes nothing") {
    WholeCache cache;
    store(cache, "xyz", Tier::assistant);
    store(cache, "ab", Tier::assistant);
    store(cache, "abtitle", Tier::assistant, {}, {.side_request = true});
    CHECK(cache.stats().superseded == 0);
    CHECK(eviction_order(cache) == "xyz ab abtitle");
}

// sessions ///////////////////////////////////////////////////////////////////

TEST_CASE("A session's next key demotes the branch that it left") {
    Cache cache;
    store(cache, "xyz", Tier::user);
    store(cache, "abold", Tier::user, {}, {.session = 7});
    store(cache, "abnew", Tier::user, {}, {.session = 7}); // an edit, or a regenerated answer
    CHECK(cache.stats().demoted == 1);
    CHECK(eviction_order(cache) == "abold xyz abnew");
}

TEST_CASE("A session demotes only what it stored last, alone, and left") {
    Cache cache;
    store(cache, "xyz", Tier::user);

    SECTION("not what another session stored last") {
        store(cache, "abold", Tier::user, {}, {.session = 7});
        store(cache, "abnew", Tier::user, {}, {.session = 8});
        CHECK(eviction_order(cache) == "xyz abold abnew");
    }
    SECTION("not what the same number stored for another model") {
        store(cache, "abold", Tier::user, {}, {.session = 7});
        cache.insert("n", key("abnew"), Tape("abnew"), Tier::user, {.session = 7});
        CHECK(eviction_order(cache) == "xyz abold abnew");
    }
    SECTION("not without a session") {
        store(cache, "abold", Tier::user);
        store(cache, "abnew", Tier::user);
        CHECK(eviction_order(cache) == "xyz abold abnew");
    }
    SECTION("not what lies on the path of the new key") {
        store(cache, "ab", Tier::system, {}, {.session = 7});
        store(cache, "pq", Tier::system);
        store(cache, "abcd", Tier::user, {}, {.session = 7});
        CHECK(cache.stats().demoted == 0);
    }
    SECTION("not what another entry continues") {
        store(cache, "abold", Tier::system, {}, {.session = 7});
        store(cache, "abolder", Tier::user);
        store(cache, "abnew", Tier::user, {}, {.session = 7});
        CHECK(cache.stats().demoted == 0);
    }
    SECTION("not what two sessions stored") {
        store(cache, "abold", Tier::user, {}, {.session = 8});
        store(cache, "abold", Tier::user, {}, {.session = 7});
        store(cache, "abnew", Tier::user, {}, {.session = 7});
        CHECK(cache.stats().demoted == 0);
    }
    SECTION("what it stored before the last one was demoted then") {
        store(cache, "ab1", Tier::user, {}, {.session = 7});
        store(cache, "ab2", Tier::user, {}, {.session = 7});
        store(cache, "ab3", Tier::user, {}, {.session = 7});
        CHECK(cache.stats().demoted == 2);
        CHECK(eviction_order(cache) == "ab2 ab1 xyz ab3");
    }
    CHECK(cache.check_invariants());
}

TEST_CASE("Samples of one lookup do not demote each other") {
    Cache cache;
    store(cache, "ab", Tier::system);
    store(cache, "xyz", Tier::user);
    const std::uint64_t lookup = cache.fetch_nearest("m", key("abc")).request();
    store(cache, "abc1", Tier::user, {}, {.session = 7, .request = lookup});
    store(cache, "abc2", Tier::user, {}, {.session = 7, .request = lookup});
    CHECK(cache.stats().demoted == 0);

    SECTION("but a later lookup of the session demotes the last of them") {
        const std::uint64_t later = cache.fetch_nearest("m", key("abc")).request();
        store(cache, "abc3", Tier::user, {}, {.session = 7, .request = later});
        CHECK(cache.stats().demoted == 1);
        CHECK(cache.erase("m", key("ab")));
        CHECK(eviction_order(cache) == "abc2 xyz abc1 abc3");
    }
    SECTION("and so does an insert that names no lookup") {
        store(cache, "abc3", Tier::user, {}, {.session = 7});
        CHECK(cache.stats().demoted == 1);
    }
}

TEST_CASE("A side request demotes nothing and is not the last of its session") {
    Cache cache;
    store(cache, "xyz", Tier::user);
    store(cache, "abold", Tier::user, {}, {.session = 7});
    store(cache, "abtitle", Tier::user, {}, {.session = 7, .side_request = true});
    CHECK(cache.stats().demoted == 0);
    store(cache, "abnew", Tier::user, {}, {.session = 7});
    CHECK(cache.stats().demoted == 1);
    CHECK(eviction_order(cache) == "abold xyz abtitle abnew");
}

TEST_CASE("A commit stores for its session as an insert does") {
    LRUPromptCache<Blocks> cache;
    store(cache, "xyz", Tier::user);
    store(cache, "abold1", Tier::user, {}, {.session = 7});
    auto room = cache.reserve("m", key("abnew1"), 6, Tier::user, {.session = 7});
    CHECK(cache.stats().demoted == 0);
    room.commit(blocks("abnew1"));
    CHECK(cache.stats().demoted == 1);
    CHECK(eviction_order(cache) == "abold1 xyz abnew1");
}

} // namespace
