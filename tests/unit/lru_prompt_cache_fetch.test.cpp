// SPDX-License-Identifier: MIT
// LRUPromptCache: what a prompt is handed back, and what that does to the order of the entries.

#include <promptkv/lru_prompt_cache.hpp>

#include "catch.hpp"
#include "letters.hpp"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace {

using namespace promptkv_test;
using promptkv::Match;
using promptkv::Outcome;
using promptkv::Tier;

using Cache = LRUPromptCache<Tape>;

constexpr Shape whole_only = {.step = 0};

TEST_CASE("A cache that is empty has nothing for any prompt") {
    Cache cache;
    const auto prompt = GENERATE(""_key, "a"_key, "abc"_key);
    const std::size_t min_remaining = GENERATE(0U, 1U, 9U);
    const auto hit = cache.fetch_nearest("m", prompt, {.min_remaining = min_remaining});
    REQUIRE_FALSE(hit);
    REQUIRE_FALSE(hit.kv.has_value());
    REQUIRE(hit.reused == 0);
    REQUIRE(hit.match == Match::none);
    REQUIRE(hit.remaining.size() == prompt.size());
    REQUIRE_FALSE(cache.lease_nearest("m", prompt));
    REQUIRE_FALSE(cache.take_nearest("m", prompt));
    REQUIRE(cache.probe("m", prompt).match == Match::none);
    REQUIRE(cache.probe("m", prompt).reused == 0);
}

TEST_CASE("fetch_nearest hands back the nearest entry that can serve") {
    struct Row {
        std::string_view what;
        std::span<const std::int32_t> stored, asked;
        std::size_t min_remaining, reused;
        Match match;
    };
    const Row row = GENERATE(values<Row>({
        {"the same key", "abcd"_key, "abcd"_key, 0, 4, Match::exact},
        {"the same key, cut for the last token", "abcd"_key, "abcd"_key, 1, 3, Match::exact},
        {"the same key, cut for more tokens", "abcd"_key, "abcd"_key, 3, 1, Match::exact},
        {"a prefix", "abc"_key, "abcd"_key, 1, 3, Match::shorter},
        {"a prefix, cut", "abc"_key, "abcd"_key, 2, 2, Match::shorter},
        {"one token", "a"_key, "abc"_key, 1, 1, Match::shorter},
        {"a key that goes on", "abcdef"_key, "abcd"_key, 0, 4, Match::longer},
        {"a key that goes on, cut for the last token", "abcdef"_key, "abcd"_key, 1, 3,
         Match::longer},
        {"a key that branches off", "abxyz"_key, "abcd"_key, 1, 2, Match::longer},
        {"nothing in common", "xyz"_key, "abcd"_key, 1, 0, Match::none},
        {"nothing left to reuse", "abcd"_key, "abcd"_key, 4, 0, Match::none},
        {"more asked to remain than there is", "abcd"_key, "abcd"_key, 5, 0, Match::none},
        {"a prompt of no tokens", "abcd"_key, ""_key, 0, 0, Match::none},
        {"a prompt of one token, which must remain", "a"_key, "a"_key, 1, 0, Match::none},
    }));
    INFO(row.what);
    Cache cache;
    store(cache, row.stored, Tier::user);
    const auto hit = cache.fetch_nearest("m", row.asked, {.min_remaining = row.min_remaining});
    CHECK(hit.reused == row.reused);
    CHECK(hit.match == row.match);
    CHECK(static_cast<bool>(hit) == (row.reused > 0));
    CHECK(hit.kv.has_value() == (row.reused > 0));
    // What was not reused remains, in the caller's own tokens.
    CHECK(hit.remaining.data() == row.asked.data() + row.reused);
    CHECK(hit.remaining.size() == row.asked.size() - row.reused);
    if (hit) {
        CHECK(text_of(hit.kv) == text(row.asked.first(row.reused)));
        CHECK(hit.tier == Tier::user);
    }
    const auto probe = cache.probe("m", row.asked, {.min_remaining = row.min_remaining});
    CHECK(probe.reused == row.reused);
    CHECK(probe.match == row.match);
    const auto lease = cache.lease_nearest("m", row.asked, {.min_remaining = row.min_remaining});
    CHECK(static_cast<bool>(lease) == (row.reused > 0));
    CHECK(lease.reused == row.reused);
    CHECK(lease.match == row.match);
    CHECK(lease.remaining.data() == row.asked.data() + row.reused);
    CHECK(contents(cache) == text(row.stored) + "1");
}

TEST_CASE("fetch_nearest hands back whole what cannot be cut") {
    struct Row {
        std::span<const std::int32_t> stored, asked;
        std::size_t min_remaining, reused;
        Match match;
    };
    const Row row = GENERATE(values<Row>({
        {"abcd"_key, "abcd"_key, 0, 4, Match::exact},
        {"abcd"_key, "abcd"_key, 1, 0, Match::none},
        {"7"_key, "789"_key, 1, 1, Match::shorter},
        {"abc"_key, "abcd"_key, 1, 3, Match::shorter},
        {"abc"_key, "abcd"_key, 2, 0, Match::none},
        {"abcd"_key, "abc"_key, 0, 0, Match::none},
        {"abxy"_key, "abc"_key, 0, 0, Match::none},
    }));
    CAPTURE(text(row.stored), text(row.asked), row.min_remaining);

    SECTION("because its state says so") {
        Cache cache;
        store(cache, row.stored, Tier::user, whole_only);
        const auto hit = cache.fetch_nearest("m", row.asked, {.min_remaining = row.min_remaining});
        CHECK(hit.reused == row.reused);
        CHECK(hit.match == row.match);
    }
    SECTION("because its type has no reusable_prefix") {
        LRUPromptCache<WholeTape> cache;
        store(cache, row.stored, Tier::user);
        const auto hit = cache.fetch_nearest("m", row.asked, {.min_remaining = row.min_remaining});
        CHECK(hit.reused == row.reused);
        CHECK(hit.match == row.match);
        CHECK(cache.probe("m", row.asked, {.min_remaining = row.min_remaining}).reused ==
              row.reused);
    }
    SECTION("because a copy can only be of the whole, while a lease reuses a part") {
        LRUPromptCache<CopiedTape> cache;
        store(cache, row.stored, Tier::user);
        const auto hit = cache.fetch_nearest("m", row.asked, {.min_remaining = row.min_remaining});
        CHECK(hit.reused == row.reused);
        CHECK(hit.match == row.match);
        const auto lease =
            cache.lease_nearest("m", row.asked, {.min_remaining = row.min_remaining});
        CHECK(lease.reused >= row.reused);
    }
}

TEST_CASE("A payload that can be neither cloned nor copied is leased") {
    LRUPromptCache<MoveOnlyTape> cache;
    store(cache, "abcdef"_key, Tier::user);
    const auto prompt = "abcxyz"_key;
    REQUIRE(cache.probe("m", prompt).reused == 3);
    const auto lease = cache.lease_nearest("m", prompt);
    REQUIRE(lease);
    REQUIRE(lease.reused == 3);
    REQUIRE(lease.match == Match::longer);
    REQUIRE(text(lease.kv().recording().tokens) == "abcdef");
}

TEST_CASE("A copy that needs no cut is served where one that does cannot be") {
    LRUPromptCache<CopiedTape> cache;
    store(cache, "abcdef"_key, Tier::user);
    const auto prompt = "abcdefg"_key;
    REQUIRE(cache.fetch_nearest("m", prompt).reused == 6);
    const auto shorter = "abc"_key;
    REQUIRE_FALSE(cache.fetch_nearest("m", shorter));
    REQUIRE(cache.lease_nearest("m", shorter).reused == 2);
}

TEST_CASE("State with checkpoints serves the nearest one at or below what is asked") {
    Cache cache;
    store(cache, "abcdefghij"_key, Tier::user, {.step = 4}); // at 4, at 8 and the whole
    struct Row {
        std::span<const std::int32_t> asked;
        std::size_t reused;
    };
    const Row row = GENERATE(values<Row>({{"abcdefghijk"_key, 10},
                                          {"abcdefghij"_key, 8},
                                          {"abcdefgx"_key, 4},
                                          {"abcdx"_key, 4},
                                          {"abcd"_key, 0},
                                          {"abx"_key, 0}}));
    CAPTURE(text(row.asked));
    const auto hit = cache.fetch_nearest("m", row.asked);
    REQUIRE(hit.reused == row.reused);
    REQUIRE(hit.remaining.size() == row.asked.size() - row.reused);
    REQUIRE(text_of(hit.kv) == (row.reused > 0 ? text(row.asked.first(row.reused)) : "-"));
}

TEST_CASE("The candidate that serves most wins, not the one that matches most") {
    Cache cache;
    SECTION("a longer entry that cannot be cut does not hide the prefix that serves") {
        store(cache, "ab"_key, Tier::user, whole_only);
        store(cache, "abcdefgh"_key, Tier::user, whole_only);
        const auto hit = cache.fetch_nearest("m", "abcdef"_key);
        REQUIRE(hit.reused == 2);
        REQUIRE(hit.match == Match::shorter);
    }
    SECTION("an exact entry that cannot be cut does not hide the one that can") {
        Cache both({.keep_anchors = false});
        store(both, "abcdef"_key, Tier::user);
        store(both, "abc"_key, Tier::user, whole_only);
        const auto hit = both.fetch_nearest("m", "abc"_key);
        REQUIRE(hit.reused == 2);
        REQUIRE(hit.match == Match::longer);
    }
    SECTION("an entry off the path below a shallower node is found too") {
        // At the deepest node nothing serves; one node up an entry branches off and does.
        store(cache, "abxyz"_key, Tier::user);
        store(cache, "abcd"_key, Tier::user, whole_only);
        const auto hit = cache.fetch_nearest("m", "abcd"_key);
        REQUIRE(hit.reused == 2);
        REQUIRE(hit.match == Match::longer);
        REQUIRE(text_of(hit.kv) == "ab");
    }
    SECTION("checkpoints of a longer entry against a prefix: the longer reuse") {
        store(cache, "abcde"_key, Tier::assistant, whole_only);
        store(cache, "abcdefghijkl"_key, Tier::user, {.step = 4});
        REQUIRE(cache.fetch_nearest("m", "abcdefgx"_key).reused == 5);
        REQUIRE(cache.fetch_nearest("m", "abcdefghx"_key).reused == 8);
    }
}

TEST_CASE("At equal reuse the entry that needs no cut wins") {
    Cache cache({.keep_anchors = false});
    store(cache, "abcde"_key, Tier::assistant, {.step = 3});
    store(cache, "abc"_key, Tier::system, whole_only);
    const auto hit = cache.fetch_nearest("m", "abcx"_key);
    REQUIRE(hit.reused == 3);
    REQUIRE(hit.match == Match::shorter);
    REQUIRE(hit.tier == Tier::system);
}

TEST_CASE("Reuse is rounded down to a multiple of align") {
    struct Row {
        std::size_t align, reused;
    };
    const Row row = GENERATE(values<Row>({{1, 9}, {2, 8}, {3, 9}, {4, 8}, {5, 5}, {9, 9}}));
    CAPTURE(row.align);
    Cache cache;
    store(cache, "abcdefghi"_key, Tier::user);
    const auto prompt = "abcdefghijk"_key;
    const auto hit = cache.fetch_nearest("m", prompt, {.align = row.align});
    REQUIRE(hit.reused == row.reused);
    REQUIRE(hit.remaining.size() == prompt.size() - row.reused);
    REQUIRE(text_of(hit.kv) == text(prompt.first(row.reused)));
    REQUIRE(cache.probe("m", prompt, {.align = row.align}).reused == row.reused);
    REQUIRE(cache.lease_nearest("m", prompt, {.align = row.align}).reused == row.reused);
}

TEST_CASE("Reuse below min_reuse is a miss") {
    Cache cache;
    store(cache, "abcdef"_key, Tier::user);
    const auto prompt = "abcx"_key;
    REQUIRE(cache.fetch_nearest("m", prompt, {.min_reuse = 3}).reused == 3);
    const auto miss = cache.fetch_nearest("m", prompt, {.min_reuse = 4});
    REQUIRE_FALSE(miss);
    REQUIRE(miss.match == Match::none);
    REQUIRE(miss.reused == 0);
    REQUIRE(miss.remaining.size() == prompt.size());
    REQUIRE(cache.probe("m", prompt, {.min_reuse = 4}).match == Match::none);
    REQUIRE_FALSE(cache.lease_nearest("m", prompt, {.min_reuse = 4}));
    REQUIRE_FALSE(cache.take_nearest("m", prompt, {.min_reuse = 4}));

    SECTION("counted after it was rounded down") {
        REQUIRE_FALSE(cache.fetch_nearest("m", prompt, {.min_reuse = 3, .align = 2}));
        REQUIRE(cache.fetch_nearest("m", prompt, {.min_reuse = 2, .align = 2}).reused == 2);
    }
}

TEST_CASE("A model's keys never match another's") {
    Cache cache;
    cache.insert("a", "abc"_key, tape("abc"_key), Tier::user);
    REQUIRE_FALSE(cache.fetch_nearest("b", "abcd"_key));
    REQUIRE_FALSE(cache.fetch_nearest("", "abcd"_key));
    cache.insert("b", "abcdef"_key, tape("abcdef"_key), Tier::user);
    REQUIRE(cache.fetch_nearest("a", "abcdefg"_key).reused == 3);
    REQUIRE(cache.fetch_nearest("b", "abcdefg"_key).reused == 6);
    REQUIRE(cache.size() == 2);
}

TEST_CASE("A string model is looked up by string_view") {
    Cache cache;
    const std::string model = "llama";
    cache.insert(model, "abc"_key, tape("abc"_key), Tier::user);
    REQUIRE(cache.fetch_nearest(std::string_view("llama"), "abcd"_key).reused == 3);
    REQUIRE(cache.probe("llama", "abcd"_key).reused == 3);
    REQUIRE(cache.nbytes(std::string_view("llama")) == 3);
}

/// Whatever must never share: the weights, and who asks.
struct Origin {
    int weights = 0;
    int tenant = 0;

    friend bool operator==(const Origin&, const Origin&) = default;
};

} // namespace

template <>
struct std::hash<Origin> {
    std::size_t operator()(const Origin&) const noexcept { return 1; } // all collide
};

namespace {

TEST_CASE("A model may be any type that can be hashed and compared") {
    LRUPromptCache<Tape, Origin> cache;
    cache.insert(Origin{1, 1}, "abc"_key, tape("abc"_key), Tier::user);
    cache.insert(Origin{1, 2}, "abcd"_key, tape("abcd"_key), Tier::user);
    REQUIRE(cache.fetch_nearest(Origin{1, 1}, "abcde"_key).reused == 3);
    REQUIRE(cache.fetch_nearest(Origin{1, 2}, "abcde"_key).reused == 4);
    REQUIRE_FALSE(cache.fetch_nearest(Origin{2, 1}, "abcde"_key));
    REQUIRE(cache.erase_model(Origin{1, 1}) == 1);
    REQUIRE(cache.size() == 1);
    REQUIRE(cache.check_invariants());
}

/// A payload for tokens of any type.
struct Count {
    std::size_t n = 0;

    std::size_t nbytes() const noexcept { return n; }
    std::size_t reusable_prefix(std::size_t wanted) const noexcept { return wanted; }
    Count clone_prefix(std::size_t wanted) const { return {wanted}; }
    void truncate(std::size_t wanted) noexcept { n = wanted; }
    std::size_t length() const noexcept { return n; }
};

TEMPLATE_TEST_CASE("Tokens may be of any integral type", "", std::int8_t, std::uint16_t,
                   std::int32_t, std::int64_t) {
    LRUPromptCache<Count, std::string, TestType> cache;
    const std::vector<TestType> stored = {TestType(-1), 0, 1, 2};
    const std::vector<TestType> asked = {TestType(-1), 0, 1, 3, 4};
    cache.insert("m", stored, Count{4}, Tier::user);
    const auto hit = cache.fetch_nearest("m", asked);
    REQUIRE(hit.reused == 3);
    REQUIRE(hit.kv->n == 3);
    REQUIRE(hit.remaining.data() == asked.data() + 3);
    REQUIRE(cache.erase("m", stored));
    REQUIRE(cache.check_invariants());
}

// What refreshes what ////////////////////////////////////////////////////////

TEST_CASE("A match refreshes its entry unless it is a longer one") {
    Cache cache;
    store(cache, "abcd"_key, Tier::user);
    store(cache, "xyz"_key, Tier::user);

    SECTION("nothing asked: the older goes first") {
        REQUIRE(eviction_order(cache) == "abcd xyz");
    }
    SECTION("exact") {
        REQUIRE(cache.fetch_nearest("m", "abcd"_key, {.min_remaining = 0}).match == Match::exact);
        REQUIRE(eviction_order(cache) == "xyz abcd");
    }
    SECTION("exact, cut") {
        REQUIRE(cache.fetch_nearest("m", "abcd"_key).match == Match::exact);
        REQUIRE(eviction_order(cache) == "xyz abcd");
    }
    SECTION("shorter") {
        REQUIRE(cache.fetch_nearest("m", "abcde"_key).match == Match::shorter);
        REQUIRE(eviction_order(cache) == "xyz abcd");
    }
    SECTION("leased") {
        REQUIRE(cache.lease_nearest("m", "abcde"_key).match == Match::shorter);
        REQUIRE(eviction_order(cache) == "xyz abcd");
    }
    SECTION("longer") {
        REQUIRE(cache.fetch_nearest("m", "abcx"_key).match == Match::longer);
        REQUIRE(eviction_order(cache) == "abcd xyz");
    }
    SECTION("probe") {
        REQUIRE(cache.probe("m", "abcde"_key).match == Match::shorter);
        REQUIRE(eviction_order(cache) == "abcd xyz");
    }
    SECTION("miss") {
        REQUIRE(cache.fetch_nearest("m", "abcde"_key, {.min_reuse = 5}).match == Match::none);
        REQUIRE(eviction_order(cache) == "abcd xyz");
    }
}

TEST_CASE("Without refresh_on_fetch a match refreshes nothing") {
    Cache cache({.refresh_on_fetch = false});
    store(cache, "abcd"_key, Tier::user);
    store(cache, "xyz"_key, Tier::user);
    REQUIRE(cache.fetch_nearest("m", "abcde"_key).match == Match::shorter);
    REQUIRE(cache.lease_nearest("m", "abcde"_key).match == Match::shorter);
    REQUIRE(eviction_order(cache) == "abcd xyz");
}

// take_nearest ///////////////////////////////////////////////////////////////

TEST_CASE("take_nearest moves the payload out and removes the entry") {
    Cache cache;
    store(cache, "abcd"_key, Tier::user);

    SECTION("exact") {
        const auto taken = cache.take_nearest("m", "abcd"_key, {.min_remaining = 0});
        REQUIRE(taken.match == Match::exact);
        REQUIRE(text_of(taken.kv) == "abcd");
        REQUIRE(taken.remaining.empty());
    }
    SECTION("exact, cut") {
        const auto taken = cache.take_nearest("m", "abcd"_key);
        REQUIRE(taken.match == Match::exact);
        REQUIRE(taken.reused == 3);
        REQUIRE(text_of(taken.kv) == "abc");
    }
    SECTION("shorter") {
        const auto taken = cache.take_nearest("m", "abcde"_key);
        REQUIRE(taken.match == Match::shorter);
        REQUIRE(taken.tier == Tier::user);
        REQUIRE(text_of(taken.kv) == "abcd");
        REQUIRE(text(taken.remaining) == "e");
    }
    REQUIRE(cache.empty());
    REQUIRE(cache.nbytes() == 0);
    REQUIRE(cache.check_invariants());
}

TEST_CASE("take_nearest takes no longer match, which would rob another conversation") {
    Cache cache;
    store(cache, "abcd"_key, Tier::user);
    REQUIRE_FALSE(cache.take_nearest("m", "abcx"_key));
    REQUIRE_FALSE(cache.take_nearest("m", "abc"_key));
    REQUIRE(contents(cache) == "abcd1");

    SECTION("and falls back on a shorter one") {
        Cache other({.keep_anchors = false});
        store(other, "abcdef"_key, Tier::user);
        store(other, "ab"_key, Tier::user, whole_only);
        const auto taken = other.take_nearest("m", "abcx"_key);
        REQUIRE(taken.match == Match::shorter);
        REQUIRE(text_of(taken.kv) == "ab");
        REQUIRE(contents(other) == "abcdef1");
    }
}

TEST_CASE("take_nearest works for a payload that can only be moved") {
    LRUPromptCache<MoveOnlyTape> cache;
    store(cache, "abcd"_key, Tier::user);
    const auto taken = cache.take_nearest("m", "abcd"_key);
    REQUIRE(taken.reused == 3);
    REQUIRE(text_of(taken.kv) == "abc");
    REQUIRE(cache.empty());
}

TEST_CASE("take_nearest does not cut what has no truncate") {
    LRUPromptCache<ClonedTape> cache;
    store(cache, "abcd"_key, Tier::user);
    REQUIRE_FALSE(cache.take_nearest("m", "abcd"_key));
    REQUIRE(cache.size() == 1);
    REQUIRE(cache.take_nearest("m", "abcde"_key).reused == 4);
    REQUIRE(cache.empty());
}

} // namespace
