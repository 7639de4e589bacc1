// SPDX-License-Identifier: MIT
// LRUPromptCache: which entry a prompt uses, how much of it, and what that does to the order.

#include <promptkv/concurrent_prompt_cache.hpp>
#include <promptkv/lru_prompt_cache.hpp>

#include "catch.hpp"
#include "unit_payloads.hpp"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace {

using namespace promptkv_test;
using promptkv::LRUPromptCache;
using promptkv::Match;
using promptkv::MissReason;
using promptkv::Outcome;
using promptkv::Tier;

using Cache = LRUPromptCache<Tape>;

// the answer /////////////////////////////////////////////////////////////////

TEST_CASE("A cache that is empty has nothing for any prompt") {
    Cache cache;
    const std::string_view asked = GENERATE(as<std::string_view>(), "", "a", "abc");
    const std::size_t min_remaining = GENERATE(0U, 1U, 9U);
    const auto hit = cache.fetch_nearest("m", key(asked), {.min_remaining = min_remaining});
    CHECK_FALSE(hit);
    CHECK_FALSE(hit.kv.has_value());
    CHECK(hit.reused() == 0);
    CHECK(hit.matched() == 0);
    CHECK(hit.match() == Match::none);
    CHECK(hit.miss() == MissReason::nothing_shared);
    CHECK(hit.remaining(key(asked)).size() == asked.size());
    CHECK_FALSE(cache.lease_nearest("m", key(asked)));
    CHECK_FALSE(cache.take_nearest("m", key(asked)));
    CHECK_FALSE(cache.probe("m", key(asked)));
    CHECK_FALSE(cache.touch("m", key(asked)));
}

TEST_CASE("A lookup finds the nearest entry that can serve") {
    struct Row {
        std::string_view what, stored, asked;
        std::size_t min_remaining, reused;
        Match match;
    };
    const Row row = GENERATE(values<Row>({
        {"the same key", "abcd", "abcd", 0, 4, Match::exact},
        {"the same key, cut for the last token", "abcd", "abcd", 1, 3, Match::exact},
        {"the same key, cut for more tokens", "abcd", "abcd", 3, 1, Match::exact},
        {"a prefix", "abc", "abcd", 1, 3, Match::shorter},
        {"a prefix, cut", "abc", "abcd", 2, 2, Match::shorter},
        {"one token", "a", "abc", 1, 1, Match::shorter},
        {"a key that continues", "abcdef", "abcd", 0, 4, Match::longer},
        {"a key that continues, cut for the last token", "abcdef", "abcd", 1, 3, Match::longer},
        {"a key that branches off", "abxyz", "abcd", 1, 2, Match::longer},
        {"nothing in common", "xyz", "abcd", 1, 0, Match::none},
        {"nothing left to reuse", "abcd", "abcd", 4, 0, Match::none},
        {"more asked to remain than there is", "abcd", "abcd", 5, 0, Match::none},
        {"a prompt without tokens", "abcd", "", 0, 0, Match::none},
        {"a prompt of one token, which must remain", "a", "a", 1, 0, Match::none},
    }));
    INFO(row.what);
    Cache cache;
    store(cache, row.stored, Tier::user);
    const Key prompt = key(row.asked);
    const auto check = [&](const Cache::Lookup& answer) {
        CHECK(answer.reused() == row.reused);
        CHECK(answer.match() == row.match);
        CHECK(static_cast<bool>(answer) == (row.reused > 0));
        CHECK((answer.miss() == MissReason::none) == (row.reused > 0));
        CHECK(answer.remaining(prompt).data() == prompt.data() + row.reused);
        CHECK(answer.remaining(prompt).size() == prompt.size() - row.reused);
        if (answer) {
            CHECK(answer.tier() == Tier::user);
            CHECK(answer.entry_tokens() == row.stored.size());
        }
    };
    const promptkv::FetchOptions options{.min_remaining = row.min_remaining};
    check(cache.probe("m", prompt, options));
    {
        const auto lease = cache.lease_nearest("m", prompt, options);
        check(lease);
        if (lease)
            CHECK(text_of(lease.kv()) == row.stored);
    }
    const auto hit = cache.fetch_nearest("m", prompt, options);
    check(hit);
    CHECK(text_of(hit.kv) == (row.reused > 0 ? std::string(row.asked.substr(0, row.reused)) : "-"));
    CHECK(contents(cache) == std::string(row.stored) + "1");
}

TEST_CASE("A lookup uses whole what cannot be used in part") {
    struct Row {
        std::string_view stored, asked;
        std::size_t min_remaining, reused;
        Match match;
    };
    const Row row = GENERATE(values<Row>({
        {"abcd", "abcd", 0, 4, Match::exact},
        {"abcd", "abcd", 1, 0, Match::none},
        {"7", "789", 1, 1, Match::shorter},
        {"abc", "abcd", 1, 3, Match::shorter},
        {"abc", "abcd", 2, 0, Match::none},
        {"abcd", "abc", 0, 0, Match::none},
        {"abxy", "abc", 0, 0, Match::none},
    }));
    CAPTURE(row.stored, row.asked, row.min_remaining);
    const promptkv::FetchOptions options{.min_remaining = row.min_remaining};

    SECTION("because its state says so") {
        Cache cache;
        store(cache, row.stored, Tier::user, whole_only);
        const auto hit = cache.fetch_nearest("m", key(row.asked), options);
        CHECK(hit.reused() == row.reused);
        CHECK(hit.match() == row.match);
    }
    SECTION("because its type has no reusable_prefix") {
        LRUPromptCache<WholeTape> cache;
        store(cache, row.stored, Tier::user);
        CHECK(cache.probe("m", key(row.asked), options).reused() == row.reused);
        const auto hit = cache.fetch_nearest("m", key(row.asked), options);
        CHECK(hit.reused() == row.reused);
        CHECK(hit.match() == row.match);
    }
    SECTION("because a copy can only be of the whole, while a lease reuses a part") {
        LRUPromptCache<CopiedTape> cache;
        store(cache, row.stored, Tier::user);
        CHECK(cache.fetch_nearest("m", key(row.asked), options).reused() == row.reused);
        CHECK(cache.lease_nearest("m", key(row.asked), options).reused() >= row.reused);
    }
    SECTION("because it has a state at its end") {
        LRUPromptCache<Hybrid> cache;
        store(cache, row.stored, Tier::user);
        const auto hit = cache.fetch_nearest("m", key(row.asked), options);
        CHECK(hit.reused() == row.reused);
        if (hit)
            CHECK(hit.kv->state().text == row.stored);
    }
}

TEST_CASE("A payload that can be neither cloned nor copied is leased") {
    LRUPromptCache<MoveOnlyTape> cache;
    store(cache, "abcdef", Tier::user);
    CHECK(cache.probe("m", key("abcxyz")).reused() == 3);
    const auto lease = cache.lease_nearest("m", key("abcxyz"));
    REQUIRE(lease);
    CHECK(lease.reused() == 3);
    CHECK(text_of(lease.kv()) == "abcdef");
}

TEST_CASE("State with checkpoints serves the nearest one at or below the tokens that match") {
    struct Row {
        std::string_view asked;
        std::size_t reused;
    };
    const Row row = GENERATE(values<Row>({{"abcdefghijk", 10},
                                          {"abcdefghij", 8},
                                          {"abcdefgx", 4},
                                          {"abcdx", 4},
                                          {"abcd", 0},
                                          {"abx", 0}}));
    CAPTURE(row.asked);
    Cache cache;
    store(cache, "abcdefghij", Tier::user, {.step = 4}); // at 4, at 8, and at the end
    const auto hit = cache.fetch_nearest("m", key(row.asked));
    CHECK(hit.reused() == row.reused);
    CHECK(text_of(hit.kv) == (row.reused > 0 ? std::string(row.asked.substr(0, row.reused)) : "-"));
}

TEST_CASE("A payload that serves less than its key is used as far as it serves") {
    LRUPromptCache<Lagging> cache;
    cache.insert("m", key("abcdef"), Lagging{6}, Tier::user);
    CHECK(cache.probe("m", key("abcdef"), {.min_remaining = 0}).reused() == 4);
    CHECK(cache.probe("m", key("abcdefgh")).reused() == 4);
    CHECK(cache.probe("m", key("abx")).reused() == 2);
}

// candidates /////////////////////////////////////////////////////////////////

TEST_CASE("The candidate that serves most wins, and not the one that matches most") {
    Cache cache;
    SECTION("a longer entry that cannot be cut does not hide the prefix that serves") {
        store(cache, "ab", Tier::user, whole_only);
        store(cache, "abcdefgh", Tier::user, whole_only);
        const auto hit = cache.fetch_nearest("m", key("abcdef"));
        CHECK(hit.reused() == 2);
        CHECK(hit.match() == Match::shorter);
    }
    SECTION("an exact entry that cannot be cut does not hide the one that can") {
        store(cache, "abc", Tier::system, whole_only);
        store(cache, "abcdef", Tier::user);
        const auto hit = cache.fetch_nearest("m", key("abc"));
        CHECK(hit.reused() == 2);
        CHECK(hit.match() == Match::longer);
    }
    SECTION("an entry that branches off earlier is found, too") {
        store(cache, "abxyz", Tier::user);
        store(cache, "abcd", Tier::user, whole_only);
        const auto hit = cache.fetch_nearest("m", key("abcd"));
        CHECK(hit.reused() == 2);
        CHECK(text_of(hit.kv) == "ab");
    }
    SECTION("checkpoints of a longer entry compete with a prefix") {
        store(cache, "abcde", Tier::user, whole_only);
        store(cache, "abcdefghijkl", Tier::assistant, {.step = 4});
        CHECK(cache.fetch_nearest("m", key("abcdefgx")).reused() == 5);
        CHECK(cache.fetch_nearest("m", key("abcdefghx")).reused() == 8);
    }
    SECTION("a longer entry that serves little hides no other longer entry") {
        store(cache, "abcdefgh1", Tier::user, {.step = 2}); // nearer, and serves two of three
        store(cache, "abcxyzxyzxyz", Tier::user);
        CHECK(cache.fetch_nearest("m", key("abc?")).reused() == 3);
    }
}

TEST_CASE("At equal reuse the entry that needs no cut wins") {
    Cache cache;
    store(cache, "abc", Tier::system, whole_only);
    store(cache, "abcde", Tier::assistant, {.step = 3});
    const auto hit = cache.fetch_nearest("m", key("abcx"));
    CHECK(hit.reused() == 3);
    CHECK(hit.match() == Match::shorter);
    CHECK(hit.tier() == Tier::system);
}

TEST_CASE("A lookup looks at sixteen longer entries at most, and at every entry on the path") {
    Cache cache;
    SECTION("of many that branch off here, the sixteenth is found and the last is not") {
        // Nearer entries come first, and serve nothing here.
        const std::size_t nearer = GENERATE(15U, 16U);
        for (std::size_t i = 0; i < nearer; ++i) {
            const std::string branch = "ab" + std::string(1, static_cast<char>('A' + i)) + "123";
            store(cache, branch, Tier::user, {.step = 4});
        }
        store(cache, "abcdefgh", Tier::user);
        CHECK(cache.probe("m", key("ab?")).reused() == (nearer < 16 ? 2 : 0));
    }
    SECTION("of many on the path, the shortest is found") {
        const std::string path = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJ";
        store(cache, "a", Tier::user, whole_only);
        for (std::size_t n = 2; n <= path.size(); ++n)
            store(cache, path.substr(0, n), Tier::user, whole_only);
        CHECK(cache.probe("m", key(path), {.min_remaining = path.size() - 1}).reused() == 1);
    }
}

// options ////////////////////////////////////////////////////////////////////

TEST_CASE("Reuse is rounded down to a multiple of align") {
    struct Row {
        std::size_t align, reused;
    };
    const Row row = GENERATE(values<Row>({{1, 9}, {2, 8}, {3, 9}, {4, 8}, {5, 5}, {9, 9}}));
    CAPTURE(row.align);
    Cache cache;
    store(cache, "abcdefghi", Tier::user);
    const Key prompt = key("abcdefghijk");
    CHECK(cache.probe("m", prompt, {.align = row.align}).reused() == row.reused);
    CHECK(cache.lease_nearest("m", prompt, {.align = row.align}).reused() == row.reused);
    const auto hit = cache.fetch_nearest("m", prompt, {.align = row.align});
    CHECK(hit.reused() == row.reused);
    CHECK(text_of(hit.kv) == std::string("abcdefghijk").substr(0, row.reused));
}

TEST_CASE("A payload is used unaligned where it cannot be aligned") {
    Cache cache;
    SECTION("because it serves its whole key only") {
        store(cache, "abcde", Tier::user, whole_only);
        const std::size_t align = GENERATE(2U, 4U, 8U);
        CAPTURE(align);
        CHECK(cache.probe("m", key("abcdef"), {.align = align}).reused() == 5);
        CHECK(cache.lease_nearest("m", key("abcdef"), {.align = align}).reused() == 5);
        CHECK(cache.fetch_nearest("m", key("abcdef"), {.align = align}).reused() == 5);
    }
    SECTION("but of two checkpoints the aligned one is taken") {
        // Checkpoints at 6 and at the end, 10; multiples of 3 are asked for.
        store(cache, "abcdefghij", Tier::user, {.step = 6});
        CHECK(cache.probe("m", key("abcdefghijk"), {.align = 3}).reused() == 6);
        CHECK(cache.probe("m", key("abcdefghijk"), {.align = 1}).reused() == 10);
    }
    SECTION("also where a checkpoint lies one token before its end") {
        store(cache, "abcdefg", Tier::user, {.step = 3}); // at 3, at 6, and at the end
        CHECK(cache.probe("m", key("abcdefgh"), {.align = 5}).reused() == 7);
        store(cache, "abcdx", Tier::user, {.step = 3});
        CHECK(cache.probe("m", key("abcdefgh"), {.align = 5}).reused() == 7);
    }
}

TEST_CASE("Reuse below min_reuse is a miss") {
    Cache cache;
    store(cache, "abcdef", Tier::user);
    const Key prompt = key("abcx");
    CHECK(cache.fetch_nearest("m", prompt, {.min_reuse = 3}).reused() == 3);
    const auto miss = cache.fetch_nearest("m", prompt, {.min_reuse = 4});
    CHECK_FALSE(miss);
    CHECK(miss.match() == Match::none);
    CHECK(miss.reused() == 0);
    CHECK(miss.matched() == 3);
    CHECK(miss.miss() == MissReason::below_min_reuse);
    CHECK(miss.remaining(prompt).size() == prompt.size());
    CHECK_FALSE(cache.probe("m", prompt, {.min_reuse = 4}));
    CHECK_FALSE(cache.lease_nearest("m", prompt, {.min_reuse = 4}));
    CHECK_FALSE(cache.take_nearest("m", prompt, {.min_reuse = 4}));

    SECTION("after it was rounded down") {
        CHECK_FALSE(cache.fetch_nearest("m", prompt, {.min_reuse = 3, .align = 2}));
        CHECK(cache.fetch_nearest("m", prompt, {.min_reuse = 2, .align = 2}).reused() == 2);
    }
    SECTION("for a prompt that is shorter than min_reuse") {
        CHECK(cache.probe("m", key("a"), {.min_reuse = 4}).miss() == MissReason::below_min_reuse);
        CHECK(cache.probe("m", key("ab"), {.min_reuse = 4}).miss() == MissReason::below_min_reuse);
    }
}

TEST_CASE("matched says how many tokens are shared, usable or not") {
    Cache cache;
    store(cache, "abcdef", Tier::user, whole_only);
    const auto miss = cache.fetch_nearest("m", key("abcdxy"));
    CHECK_FALSE(miss);
    CHECK(miss.matched() == 4);
    CHECK(miss.miss() == MissReason::not_cuttable);
    CHECK(cache.probe("m", key("abcdxy")).matched() == 4);
    const auto hit = cache.fetch_nearest("m", key("abcdefgh"));
    CHECK(hit.matched() == 6);
}

TEST_CASE("A miss that only min_remaining causes says that") {
    Cache cache;
    SECTION("for a payload that serves its whole key only") {
        store(cache, "abcd", Tier::user, whole_only);
        CHECK(cache.probe("m", key("abcd")).miss() == MissReason::needs_last_token);
        CHECK(cache.probe("m", key("abcd"), {.min_remaining = 0}).miss() == MissReason::none);
    }
    SECTION("for a prompt of one token") {
        store(cache, "abcd", Tier::user);
        CHECK(cache.probe("m", key("a")).miss() == MissReason::needs_last_token);
    }
    SECTION("for more tokens than the prompt has") {
        store(cache, "abcd", Tier::user);
        CHECK(cache.probe("m", key("abc"), {.min_remaining = 9}).miss() ==
              MissReason::needs_last_token);
    }
}

TEST_CASE("A lookup that counts has a number, and others have none") {
    Cache cache;
    store(cache, "abcd", Tier::user);
    const auto first = cache.fetch_nearest("m", key("abcde")).request();
    const auto second = cache.lease_nearest("m", key("xyz")).request();
    CHECK(first > 0);
    CHECK(second > first);
    CHECK(cache.probe("m", key("abcde")).request() == 0);
    CHECK(cache.touch("m", key("abcd")).request() == 0);
}

TEST_CASE("A prompt may be a temporary, a span, an array, or an address and a length") {
    Cache cache;
    Key stored = key("abc");
    const Cache::Inserted inserted = cache.insert("m", stored, Tape("abc"), Tier::user);
    CHECK(inserted.outcome == Outcome::stored);
    CHECK(cache.probe("m", {stored.data(), 2}, {.min_remaining = 0}).reused() == 2);
    CHECK(cache.probe("m", std::span<std::int32_t>(stored)).reused() == 2);
    const std::int32_t array[] = {'a', 'b', 'x'};
    CHECK(cache.probe("m", array).reused() == 2);
    CHECK(cache.fetch_nearest("m", Key{'a', 'b', 'x'}).reused() == 2);
    CHECK(cache.insert("m", {}, Tape(""), Tier::user).outcome == Outcome::present);
}

// models and tokens //////////////////////////////////////////////////////////

TEST_CASE("Keys of different models never match") {
    Cache cache;
    cache.insert("a", key("abc"), Tape("abc"), Tier::user);
    CHECK_FALSE(cache.fetch_nearest("b", key("abcd")));
    CHECK_FALSE(cache.fetch_nearest("", key("abcd")));
    cache.insert("b", key("abcdef"), Tape("abcdef"), Tier::user);
    CHECK(cache.fetch_nearest("a", key("abcdefg")).reused() == 3);
    CHECK(cache.fetch_nearest("b", key("abcdefg")).reused() == 6);
    CHECK(cache.size() == 2);
}

TEST_CASE("A string model is looked up by string_view") {
    Cache cache;
    const std::string model = "llama";
    cache.insert(model, key("abc"), Tape("abc"), Tier::user);
    CHECK(cache.fetch_nearest(std::string_view("llama"), key("abcd")).reused() == 3);
    CHECK(cache.probe("llama", key("abcd")).reused() == 3);
    CHECK(cache.nbytes(std::string_view("llama")) == 3);
}

/// The weights, and the tenant.
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
    cache.insert(Origin{1, 1}, key("abc"), Tape("abc"), Tier::user);
    cache.insert(Origin{1, 2}, key("abcd"), Tape("abcd"), Tier::user);
    CHECK(cache.fetch_nearest(Origin{1, 1}, key("abcde")).reused() == 3);
    CHECK(cache.fetch_nearest(Origin{1, 2}, key("abcde")).reused() == 4);
    CHECK_FALSE(cache.fetch_nearest(Origin{2, 1}, key("abcde")));
    CHECK(cache.erase_model(Origin{1, 1}) == 1);
    CHECK(cache.size() == 1);
    CHECK(cache.check_invariants());
}

TEMPLATE_TEST_CASE("Tokens may be of any integral type", "", std::int8_t, std::uint16_t,
                   std::int64_t) {
    LRUPromptCache<Sized, std::string, TestType> cache;
    const std::vector<TestType> stored = {TestType(-1), 0, 1, 2};
    const std::vector<TestType> asked = {TestType(-1), 0, 1, 3, 4};
    cache.insert("m", stored, Sized{4}, Tier::user);
    const auto hit = cache.fetch_nearest("m", asked);
    CHECK(hit.reused() == 3);
    CHECK(hit.kv->bytes == 3);
    CHECK(hit.remaining(asked).data() == asked.data() + 3);
    CHECK(cache.erase("m", stored));
    CHECK(cache.check_invariants());
}

// recency ////////////////////////////////////////////////////////////////////

TEST_CASE("An exact or shorter match makes its entry the most recent of its tier") {
    Cache cache;
    store(cache, "abcd", Tier::user);
    store(cache, "xyz", Tier::user);

    SECTION("without a lookup the older one leaves first") {
        CHECK(eviction_order(cache) == "abcd xyz");
    }
    SECTION("exact") {
        CHECK(cache.fetch_nearest("m", key("abcd"), {.min_remaining = 0}).match() == Match::exact);
        CHECK(eviction_order(cache) == "xyz abcd");
    }
    SECTION("exact, cut") {
        CHECK(cache.fetch_nearest("m", key("abcd")).match() == Match::exact);
        CHECK(eviction_order(cache) == "xyz abcd");
    }
    SECTION("shorter") {
        CHECK(cache.fetch_nearest("m", key("abcde")).match() == Match::shorter);
        CHECK(eviction_order(cache) == "xyz abcd");
    }
    SECTION("leased") {
        CHECK(cache.lease_nearest("m", key("abcde")).match() == Match::shorter);
        CHECK(eviction_order(cache) == "xyz abcd");
    }
    SECTION("touched") {
        CHECK(cache.touch("m", key("abcd")).match() == Match::exact);
        CHECK(eviction_order(cache) == "xyz abcd");
    }
    SECTION("but not probed") {
        CHECK(cache.probe("m", key("abcde")).match() == Match::shorter);
        CHECK(eviction_order(cache) == "abcd xyz");
    }
    SECTION("nor explained") {
        CHECK(cache.explain("m", key("abcde")).match == Match::shorter);
        CHECK(eviction_order(cache) == "abcd xyz");
    }
    SECTION("nor missed") {
        CHECK_FALSE(cache.fetch_nearest("m", key("abcde"), {.min_reuse = 5}));
        CHECK(eviction_order(cache) == "abcd xyz");
    }
}

TEST_CASE("A hit refreshes every entry on its path that lies within the reuse") {
    LRUPromptCache<WholeTape> cache;
    store(cache, "ab", Tier::system);
    store(cache, "pq", Tier::system);
    store(cache, "abcd", Tier::user);
    store(cache, "rs", Tier::user);
    store(cache, "abcdef", Tier::assistant);
    store(cache, "tu", Tier::assistant);

    SECTION("those of other tiers, too") {
        CHECK(cache.fetch_nearest("m", key("abcdefg")).reused() == 6);
        CHECK(eviction_order(cache) == "tu rs abcdef pq abcd ab");
    }
    SECTION("and none beyond it") {
        CHECK(cache.fetch_nearest("m", key("abcdx")).reused() == 4);
        CHECK(eviction_order(cache) == "abcdef rs tu pq abcd ab");
    }
}

TEST_CASE("The match itself is the hottest of what a hit refreshes") {
    LRUPromptCache<WholeTape> cache;
    store(cache, "ab", Tier::user);
    store(cache, "abx", Tier::user); // keeps "ab" from being superseded
    store(cache, "abcd", Tier::user);
    store(cache, "pq", Tier::user);
    CHECK(cache.fetch_nearest("m", key("abcde")).reused() == 4);
    CHECK(eviction_order(cache) == "abx pq ab abcd");
}

TEST_CASE("touch does what a lease does to recency, and is not counted") {
    Cache cache;
    store(cache, "abcd", Tier::user);
    store(cache, "xyz", Tier::user);
    CHECK(cache.touch("m", key("abcdef")).reused() == 4);
    CHECK(cache.touch("m", key("q")).match() == Match::none);
    CHECK(cache.stats().lookups == 0);
    CHECK(cache.stats().tokens_reused == 0);
    CHECK(eviction_order(cache) == "xyz abcd");
}

// take_nearest ///////////////////////////////////////////////////////////////

TEST_CASE("take_nearest moves the payload out and removes the entry") {
    Cache cache;
    store(cache, "abcd", Tier::user);

    SECTION("exact") {
        const auto taken = cache.take_nearest("m", key("abcd"), {.min_remaining = 0});
        CHECK(taken.match() == Match::exact);
        CHECK(text_of(taken.kv) == "abcd");
    }
    SECTION("exact, cut") {
        const auto taken = cache.take_nearest("m", key("abcd"));
        CHECK(taken.match() == Match::exact);
        CHECK(taken.reused() == 3);
        CHECK(text_of(taken.kv) == "abc");
    }
    SECTION("shorter") {
        const auto taken = cache.take_nearest("m", key("abcde"));
        CHECK(taken.match() == Match::shorter);
        CHECK(taken.tier() == Tier::user);
        CHECK(text_of(taken.kv) == "abcd");
    }
    CHECK(cache.empty());
    CHECK(cache.nbytes() == 0);
    CHECK(cache.stats().taken == 1);
    CHECK(cache.check_invariants());
}

TEST_CASE("take_nearest takes no longer match, which belongs to another conversation") {
    Cache cache;
    store(cache, "abcd", Tier::user);
    CHECK_FALSE(cache.take_nearest("m", key("abcx")));
    CHECK_FALSE(cache.take_nearest("m", key("abc")));
    CHECK(contents(cache) == "abcd1");

    SECTION("and falls back on a shorter one") {
        store(cache, "ab", Tier::system, whole_only);
        const auto taken = cache.take_nearest("m", key("abcx"));
        CHECK(taken.match() == Match::shorter);
        CHECK(text_of(taken.kv) == "ab");
        CHECK(contents(cache) == "abcd1");
    }
}

TEST_CASE("take_nearest works for a payload that can only be moved") {
    LRUPromptCache<MoveOnlyTape> cache;
    store(cache, "abcd", Tier::user);
    const auto taken = cache.take_nearest("m", key("abcd"));
    CHECK(taken.reused() == 3);
    CHECK(text_of(taken.kv) == "abc");
    CHECK(cache.empty());
}

TEST_CASE("take_nearest does not cut what has no truncate") {
    LRUPromptCache<UncutTape> cache;
    store(cache, "abcd", Tier::user);
    CHECK_FALSE(cache.take_nearest("m", key("abcd")));
    CHECK(cache.size() == 1);
    CHECK(cache.take_nearest("m", key("abcde")).reused() == 4);
    CHECK(cache.empty());
}

// copies that throw //////////////////////////////////////////////////////////

TEMPLATE_TEST_CASE("A lookup whose copy throws counts and refreshes as if it had not thrown", "",
                   LRUPromptCache<ThrowsWhenCopied>,
                   promptkv::ConcurrentPromptCache<ThrowsWhenCopied>) {
    TestType cache;
    cache.insert("m", key("a"), ThrowsWhenCopied(), Tier::user);
    cache.insert("m", key("x"), ThrowsWhenCopied(), Tier::user);
    CHECK_THROWS_AS(cache.fetch_nearest("m", key("ab")), std::runtime_error);
    CHECK(cache.stats().lookups == 1);
    CHECK(cache.stats().hits_shorter == 1);
    CHECK(cache.stats().tokens_reused == 1);
    CHECK(cache.stats().bytes_leased == 0);
    CHECK(eviction_order(cache) == "x a");
}

} // namespace
