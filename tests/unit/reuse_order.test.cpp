// SPDX-License-Identifier: MIT
// ReuseOrder in a cache: which entries can be victims, what is declined, and what an insert keeps.

#include <promptkv/reuse_order.hpp>

#include "../model/random.hpp"
#include "catch.hpp"
#include "leaving.hpp"
#include "unit_payloads.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace of_reuse_order {

using namespace promptkv_test;
using promptkv::InsertOptions;
using promptkv::Outcome;
using promptkv::PromptCache;
using promptkv::Tier;

using Cache = PromptCache<Blocks>;

/// `n` requests go by that use nothing.
template <class Cache>
void pass_time(Cache& cache, int n) {
    for (int i = 0; i < n; ++i)
        CHECK_FALSE(cache.fetch_nearest("m", key("?")));
}

/// Looks a prompt up, as far as it is stored. Returns the number of the lookup.
template <class Cache>
std::uint64_t look_up(Cache& cache, std::string_view prompt) {
    return cache.fetch_nearest("m", key(prompt), {.min_remaining = 0}).request();
}

TEST_CASE("An entry is a victim only while nothing continues its state") {
    Cache cache;
    store(cache, "abcd", Tier::system);
    store(cache, "abcdefgh", Tier::user);
    store(cache, "abcdxy", Tier::user);
    CHECK(cache.check_invariants());
    CHECK(eviction_order(cache) == "abcdefgh abcdxy abcd");
}

TEST_CASE("An entry is a victim again where what continues it serves no part any more") {
    PromptCache<Tape> cache;
    store(cache, "ab", Tier::system, Shape{.step = 1});
    store(cache, "abcd", Tier::user, Shape{.step = 1});
    CHECK(cache.check_invariants());
    CHECK(store(cache, "abcd", Tier::user, Shape{.step = 0}).outcome == Outcome::replaced);
    CHECK(cache.check_invariants());
}

TEST_CASE("Entries that serve their whole keys only are all victims") {
    PromptCache<WholeTape> cache;
    store(cache, "abcd", Tier::user);
    pass_time(cache, 10);
    store(cache, "abcdef", Tier::user);
    CHECK(cache.check_invariants());
    CHECK(eviction_order(cache) == "abcd abcdef");
}

TEST_CASE("A leased entry is no victim until its lease ends") {
    Cache cache;
    store(cache, "aaaa", Tier::user);
    {
        const auto lease = cache.lease_nearest("m", key("aaaa"), {.min_remaining = 0});
        REQUIRE(lease);
        pass_time(cache, 30);
        store(cache, "bbbb", Tier::user);
        CHECK(cache.trim_to({.max_entries = 1}) == 1);
        CHECK(contents(cache) == "aaaa1");
        CHECK(cache.trim_to({.max_entries = 0}) == 0);
        CHECK(cache.check_invariants());
    }
    store(cache, "cccc", Tier::user);
    CHECK(cache.check_invariants());
    CHECK(cache.trim_to({.max_entries = 1}) == 1);
    CHECK(contents(cache) == "cccc1");
    CHECK(cache.check_invariants());
}

TEST_CASE("What was just stored can be the victim: it is declined, and nothing is lost", "") {
    Cache cache({.max_bytes = 8});
    store(cache, "abcdefgh", Tier::system);
    int removals = 0;
    cache.set_removal_listener([&removals](const auto&) { ++removals; });
    const std::size_t length = GENERATE(2U, 6U, 8U);
    CAPTURE(length);
    const std::string text = std::string("ijklmnop").substr(0, length);
    Blocks kv = blocks(text);
    const auto inserted = cache.insert("m", key(text), std::move(kv), Tier::assistant);
    CHECK(inserted.outcome == Outcome::declined);
    CHECK(inserted.tokens == 0);
    CHECK(inserted.evicted == 0);
    CHECK(inserted.cut == 0);
    CHECK(removals == 0);
    CHECK(contents(cache) == "abcdefgh2");
    CHECK(cache.nbytes() == 8);
    CHECK(cache.stats().declined == 1);
    CHECK(cache.check_invariants());
    // The payload is the caller's as before, and may be stored elsewhere.
    REQUIRE(text_of(kv) == text); // NOLINT(bugprone-use-after-move): that is the promise
    Cache other;
    CHECK(other.insert("m", key(text), std::move(kv), Tier::user).outcome == Outcome::stored);
}

TEST_CASE("What is larger than the budget comes back whole if no part of it is wanted") {
    Cache cache({.max_bytes = 16});
    store(cache, "abcdefghabcdefgh", Tier::system);
    const std::string text = "ijklmnopqrstuvwxyz";
    Blocks kv = blocks(text);
    const auto inserted = cache.insert("m", key(text), std::move(kv), Tier::assistant);
    CHECK(inserted.outcome == Outcome::declined);
    REQUIRE(text_of(kv) == text); // NOLINT(bugprone-use-after-move): that is the promise
    CHECK(contents(cache) == "abcdefghabcdefgh2");
    CHECK(cache.check_invariants());
}

TEST_CASE("A reservation is declined before anything is made") {
    Cache cache({.max_bytes = 8});
    store(cache, "abcdefgh", Tier::system);
    const auto room = cache.reserve("m", key("ijklmn"), 6, Tier::assistant);
    CHECK_FALSE(room);
    CHECK(room.outcome() == Outcome::declined);
    CHECK(room.tokens() == 0);
    CHECK(contents(cache) == "abcdefgh2");
    CHECK(cache.check_invariants());
    bool made = false;
    const auto inserted = cache.insert("m", key("qrstuv"), 6, Tier::assistant, [&made] {
        made = true;
        return blocks("qrstuv");
    });
    CHECK(inserted.outcome == Outcome::declined);
    CHECK_FALSE(made);
    CHECK(cache.nbytes() == 8);
}

TEST_CASE("A reservation that spares upper tiers is declined as any other one") {
    const bool spares = GENERATE(false, true);
    PromptCache<WholeTape> cache({.max_bytes = 9});
    store(cache, "abc", Tier::assistant);
    store(cache, "xyz", Tier::user);
    for (int i = 0; i < 2; ++i)
        REQUIRE(look_up(cache, "xyz") > 0);
    const auto room =
        cache.reserve("m", key("ijklmnop"), 8, Tier::user, {.spare_upper_tiers = spares});
    CHECK(room.outcome() == Outcome::declined); // "abc" makes some room, "xyz" is worth more
    CHECK(contents(cache) == "xyz1");
    CHECK(cache.stats().declined == 1);
    CHECK(cache.stats().no_room == 0);
}

TEST_CASE(
    "An erase of what a reservation was asked for voids it, also beyond the part that it is for") {
    Cache cache({.max_bytes = 12});
    store(cache, "abcdefgh", Tier::system);
    auto room = cache.reserve("m", key("ijklmnop"), 8, Tier::assistant);
    REQUIRE(room.tokens() == 4);
    const bool erases = GENERATE(true, false);
    CHECK(cache.erase_below("m", key(erases ? "ijklmn" : "ijklmx")) == 0);
    const auto inserted = room.commit(blocks("ijkl"));
    CHECK(inserted.outcome == (erases ? Outcome::cancelled : Outcome::stored));
    // What was declined is remembered, unless it was erased.
    CHECK(cache.probe("m", key("ijklmnopq")).matched() == (erases ? 0 : 8));
    CHECK(cache.check_invariants());
}

TEST_CASE("What a marked prefix shares with a longer entry can be evicted") {
    Cache cache({.max_bytes = 40});
    for (int i = 0; i < 100; ++i) {
        const std::string text = {static_cast<char>('a' + i % 26),
                                  static_cast<char>('a' + i / 26),
                                  'c',
                                  'd',
                                  'e',
                                  'f',
                                  'g',
                                  'h',
                                  'i',
                                  'j'};
        const std::uint64_t request = look_up(cache, text);
        store(cache, text, Tier::assistant, {}, {.request = request});
        cache.mark("m", key(std::string_view(text).substr(0, 3)), Tier::system);
        REQUIRE(cache.nbytes() <= 40);
        REQUIRE(cache.check_invariants());
    }
    CHECK(cache.stats().declined == 0);
    const std::size_t evictable = cache.evictable_nbytes();
    CHECK(evictable == cache.nbytes());
    CHECK(cache.evict(evictable) == evictable);
    CHECK(cache.nbytes() == 0);
}

TEST_CASE("The limits hold where only an entry that others continue may leave") {
    SECTION("what comes in has absorbed an entry") {
        PromptCache<UncutTape> cache({.max_bytes = 35});
        for (const std::string_view text : {"ab", "abcd", "abcdef"}) {
            const auto tier = text == "ab" ? Tier::system : Tier::assistant;
            CHECK(store(cache, text, tier, {.bytes_per_token = 5}).outcome == Outcome::stored);
        }
        CHECK(contents(cache) == "abcdef0");
        CHECK(cache.check_invariants());
    }
    SECTION("a payload is replaced by a larger one") {
        PromptCache<Tape> cache({.max_bytes = 30});
        store(cache, "ab", Tier::system, {.bytes_per_token = 5});
        store(cache, "abcd", Tier::assistant, {.bytes_per_token = 5});
        store(cache, "abcd", Tier::assistant, {.bytes_per_token = 5, .overhead = 5});
        CHECK(cache.nbytes() <= 30);
        CHECK(cache.check_invariants());
    }
    SECTION("what continues it is leased") {
        Cache cache;
        store(cache, "abc", Tier::system);
        store(cache, "abcdef", Tier::assistant);
        const auto lease = cache.lease_nearest("m", key("abcdef"), {.min_remaining = 0});
        cache.set_limits({.max_bytes = 6, .max_entries = 1});
        CHECK(contents(cache) == "abcdef0");
        CHECK(cache.nbytes() == 6);
        CHECK(cache.check_invariants());
    }
    SECTION("no candidate is looked at") {
        Cache cache({.max_bytes = 8, .max_entries = 2, .policy = {.sample = 0}});
        for (const std::string_view text : {"abcd", "efgh", "ij", "kl"})
            store(cache, text, Tier::user);
        CHECK(cache.nbytes() <= 8);
        CHECK(cache.size() <= 2);
    }
}

TEST_CASE("Entries some of which serve parts of their keys stay in order") {
    PromptCache<UncutTape> cache;
    SECTION("one that serves none is replaced by one that does") {
        store(cache, "abcd", Tier::assistant, whole_only);
        store(cache, "abcdefgh", Tier::assistant, whole_only);
        const auto inserted = store(cache, "abcdefgh", Tier::assistant, {.step = 4});
        CHECK(inserted.outcome == Outcome::replaced);
        CHECK(inserted.absorbed == 1);
    }
    SECTION("one that serves none stands between others") {
        store(cache, "abcd", Tier::system, {.step = 2});
        store(cache, "abcdefgh", Tier::user, whole_only);
        store(cache, "abcdefghijkl", Tier::assistant, {.step = 10});
        CHECK(cache.check_invariants());
        CHECK(cache.erase("m", key("abcdefghijkl")));
    }
    CHECK(cache.check_invariants());
    cache.trim_to({.max_entries = 0});
    CHECK(cache.empty());
}

TEST_CASE("A part that is cut to a checkpoint may be a victim again") {
    PromptCache<Tape> cache({.max_bytes = 100});
    store(cache, "abcd", Tier::system, {.step = 2});
    store(cache, "abcdefghijklmnopqrst", Tier::assistant, {.step = 8});
    CHECK(cache.evict(5) > 0);
    CHECK(cache.check_invariants());
}

TEST_CASE("A turn that supersedes another one is not declined when that has left for it") {
    PromptCache<WholeTape> cache({.max_bytes = 100});
    const auto ask = [&](const std::string& text) {
        const std::uint64_t request = look_up(cache, text);
        return store(cache, text, Tier::assistant, {}, {.request = request}).outcome;
    };
    const auto has = [&](const std::string& text) {
        return bool(cache.probe("m", key(text), {.min_remaining = 0}));
    };
    int lost = 0;
    for (int round = 0; round < 500; ++round) {
        for (const char hot : {'a', 'b', 'c', 'd'}) {
            if (const std::string text(20, hot); !has(text))
                ask(text);
            else
                look_up(cache, text);
        }
        const std::string first = std::to_string(1'000 + round) + "-a-first-turn---";
        ask(first);
        const bool had = has(first);
        if (ask(first + "-and-the-second-turn") == Outcome::declined)
            lost += had && !has(first) ? 1 : 0;
    }
    CHECK(lost == 0);
    CHECK(cache.check_invariants());
}

TEST_CASE("Superseded turns are the next victims, also those that serve a part of their keys") {
    constexpr Shape checkpoints = {.step = 4};
    PromptCache<UncutTape> cache({.max_bytes = 22});
    store(cache, "xyz12", Tier::user, checkpoints);
    store(cache, "abcde", Tier::user, checkpoints);
    for (int i = 0; i < 20; ++i)
        look_up(cache, "xyz12");
    store(cache, "abcdefg", Tier::user, checkpoints);
    CHECK(cache.check_invariants());

    SECTION("the one whose removal leaves the smallest gap") {
        CHECK(store(cache, "abcdefghi", Tier::user, checkpoints).evicted == 1);
        CHECK(contents(cache) == "abcdefg1 abcdefghi1 xyz121");
        CHECK(cache.stats().superseded == 2);
    }
    SECTION("but none that was used again") {
        look_up(cache, "abcde");
        CHECK(cache.check_invariants());
        CHECK(cache.trim_to({.max_bytes = 16}) == 1);
        CHECK(contents(cache) != "abcdefg1 xyz121");
    }
    CHECK(cache.check_invariants());
}

TEST_CASE("Where entries are limited a turn that supersedes another one is not declined either") {
    PromptCache<WholeTape> cache({.max_entries = 5});
    const auto ask = [&](const std::string& text) {
        const std::uint64_t request = look_up(cache, text);
        return store(cache, text, Tier::assistant, {}, {.request = request}).outcome;
    };
    for (int round = 0; round < 500; ++round) {
        for (const char hot : {'a', 'b', 'c', 'd'}) {
            const std::string text(20, hot);
            if (!cache.probe("m", key(text), {.min_remaining = 0}))
                ask(text);
            else
                look_up(cache, text);
        }
        const std::string first = std::to_string(1'000 + round) + "-a-first-turn---";
        ask(first);
        const auto lease = cache.lease_nearest("m", key(first), {.min_remaining = 0});
        const std::uint64_t superseded = cache.stats().superseded;
        if (ask(first + "-and-the-second-turn") == Outcome::declined)
            CHECK(cache.stats().superseded == superseded);
    }
    CHECK(cache.stats().superseded > 400);
    CHECK(cache.check_invariants());
}

TEST_CASE("A key is not obsolete for ever because an entry of it was demoted") {
    const bool goes_on = GENERATE(false, true);
    PromptCache<Tape> cache({.max_bytes = 40});
    const std::string key_of_it = "abcdefghij";
    store(cache, key_of_it, Tier::assistant, {}, {.session = 1});
    look_up(cache, "abcdeX");
    store(cache, "abcdeXYZUV", Tier::assistant, {}, {.session = 1});
    REQUIRE(cache.stats().demoted == 1);
    while (cache.probe("m", key(key_of_it), {.min_remaining = 0, .min_reuse = 6}))
        REQUIRE(cache.evict(1) > 0);
    for (const char letter : {'k', 'l', 'm', 'n', 'o', 'p'}) {
        look_up(cache, std::string(10, letter));
        store(cache, std::string(10, letter), Tier::assistant);
    }
    const std::string asked = key_of_it + (goes_on ? "kl" : "");
    int kept = 0;
    for (int i = 0; i < 20; ++i) {
        const std::uint64_t request = look_up(cache, asked);
        const auto outcome = store(cache, asked, Tier::assistant, {}, {.request = request}).outcome;
        kept += outcome == Outcome::declined ? 0 : 1;
    }
    CHECK(kept > 15);
}

TEST_CASE("A reservation for nothing is declined where leases take all the room") {
    Cache cache;
    store(cache, "abcdefgh", Tier::user);
    const auto lease = cache.lease_nearest("m", key("abcdefgh"), {.min_remaining = 0});
    cache.set_limits({.max_bytes = 4});
    CHECK_FALSE(cache.reserve("n", key(""), 0, Tier::user));
}

using LeavingBlocks = Leaving<Blocks>;

TEST_CASE("No payload is destroyed under the cache's lock where a part of it is kept or declined") {
    promptkv::BasicPromptCache<LeavingBlocks, std::string, std::int32_t, Tier, promptkv::ReuseOrder,
                               Watched>
        cache({.max_bytes = 8});
    const std::string text = "abcdefghijklmnop";
    const bool is_declined = GENERATE(false, true);
    if (is_declined)
        cache.insert("m", key("qrstuvwx"), LeavingBlocks(blocks("qrstuvwx")), Tier::system);
    LeavingBlocks::under_lock = false;
    const auto inserted = cache.insert("m", key(text), LeavingBlocks(blocks(text)), Tier::user);
    CHECK(inserted.tokens == (is_declined ? 0 : 4));
    CHECK_FALSE(LeavingBlocks::under_lock);
}

TEST_CASE("An insert answers what left because its part was larger than it seemed") {
    struct Row {
        std::size_t overhead;
        std::string_view text;
        std::size_t evicted;
        std::size_t cut;
    };
    const Row row = GENERATE(Row{5, "ij", 0, 2}, Row{6, "ijklm", 1, 1});
    CAPTURE(row.overhead);
    PromptCache<Tape> cache({.max_bytes = 12});
    store(cache, "abc", Tier::system, {.overhead = row.overhead});
    std::size_t removals = 0;
    cache.set_removal_listener([&removals](const auto&) { ++removals; });
    const auto inserted = store(cache, row.text, Tier::assistant, {.overhead = row.overhead});
    CHECK(inserted.tokens == 1);
    CHECK(inserted.evicted == row.evicted);
    CHECK(inserted.cut == row.cut);
    CHECK(removals == row.evicted + row.cut);
    CHECK(cache.check_invariants());
}

TEST_CASE("An insert keeps the part for which there is room") {
    const std::size_t room = GENERATE(2U, 3U, 4U, 5U);
    const std::string text = GENERATE(std::string("ijklmnop"), std::string("ijklmnopq"));
    const bool reserves = GENERATE(false, true);
    CAPTURE(room, text, reserves);
    Cache cache({.max_bytes = 8 + room});
    store(cache, "abcdefgh", Tier::system);
    const promptkv::Inserted inserted =
        reserves
            ? cache.insert(
                  "m", key(text), text.size(), Tier::assistant,
                  [&] { return blocks(text.substr(0, room / tokens_a_block * tokens_a_block)); })
            : store(cache, text, Tier::assistant);
    CHECK(inserted.outcome == Outcome::stored);
    CHECK(inserted.tokens == room / tokens_a_block * tokens_a_block);
    CHECK(inserted.evicted == 0);
    CHECK(inserted.cut == 0);
    CHECK(contents(cache) == "abcdefgh2 " + text.substr(0, inserted.tokens) + "0");
    if (!reserves)
        CHECK(cache.stats().stored_in_part == 1);
    CHECK(cache.probe("m", key(text)).reused() == inserted.tokens);
    CHECK(cache.check_invariants());
}

TEST_CASE("Of equal kinds an entry of a more persistent tier leaves later") {
    const bool upwards = GENERATE(false, true);
    Cache cache;
    std::vector<std::pair<std::string_view, Tier>> entries{
        {"ssss", Tier::system}, {"aaaa", Tier::assistant}, {"uuuu", Tier::user}};
    if (upwards)
        std::reverse(entries.begin(), entries.end());
    for (const auto& each : entries)
        store(cache, each.first, each.second);
    CHECK(eviction_order(cache) == "aaaa uuuu ssss");
}

TEST_CASE("A tier is a wish: an entry long unused leaves before a less persistent one") {
    Cache cache;
    store(cache, "ssss", Tier::system);
    pass_time(cache, 60);
    store(cache, "aaaa", Tier::assistant);
    CHECK(eviction_order(cache) == "ssss aaaa");
}

TEST_CASE("A session's dead branch is the next victim") {
    const std::uint64_t session = GENERATE(0U, 5U);
    CAPTURE(session);
    Cache cache;
    store(cache, "xyxy", Tier::assistant);
    pass_time(cache, 10);
    store(cache, "abcd", Tier::user, {}, {.session = session});
    store(cache, "abef", Tier::user, {}, {.session = session});
    CHECK(cache.stats().demoted == (session != 0 ? 1 : 0));
    CHECK(eviction_order(cache).substr(0, 9) == (session != 0 ? "abcd xyxy" : "xyxy abef"));
}

TEST_CASE("A dead branch is the next victim among many entries of one kind") {
    const int dead = GENERATE(1, 150, 300);
    const bool is_pushed =
        GENERATE(true, false);                  // entries that were leased come back as the coldest
    const bool absorbs = GENERATE(true, false); // the new turn makes another entry leave
    CAPTURE(dead, is_pushed, absorbs);
    Cache cache;
    const auto text = [](int number) {
        return std::string{"abcdefghij"[number / 100], "klmnopqrst"[number / 10 % 10],
                           "uvwxyzABCD"[number % 10]} +
               "-----";
    };
    for (int i = 0; i < 400; ++i)
        store(cache, text(i), Tier::user, {}, {.session = static_cast<std::uint64_t>(i + 1)});
    if (absorbs)
        store(cache, "ANOT", Tier::user);
    store(cache, "ANOTHER", Tier::user, {}, {.session = static_cast<std::uint64_t>(dead + 1)});
    REQUIRE(cache.stats().demoted == 1);
    REQUIRE(cache.stats().absorbed == (absorbs ? 1 : 0));
    if (is_pushed) {
        const auto lease = cache.lease_nearest("m", key(text(200)), {.min_remaining = 0});
        cache.evict(1);
    } else {
        cache.evict(1);
    }
    CHECK(cache.probe("m", key(text(dead)), {.min_remaining = 0}).reused() < 8);
    CHECK(cache.check_invariants());
}

TEST_CASE("The curve of LRU counts prompts that are asked again up to a part") {
    constexpr std::size_t most = 1'600; // bytes; a token is one
    PromptCache<Blocks> cache({.max_bytes = most, .policy = {.curve = true}});
    promptkv::LRUPromptCache<Blocks> lru({.max_bytes = most});
    std::vector<std::string> documents;
    for (char letter = 'a'; letter < 'i'; ++letter)
        documents.emplace_back(320, letter);
    std::uint64_t state = 1;
    const auto ask = [&](auto& each, const std::string& prompt) {
        if (each.fetch_nearest("m", key(prompt), {.min_remaining = 0}).reused() < prompt.size())
            store(each, prompt, Tier::user);
    };
    for (int i = 0; i < 3'000; ++i) {
        state = state * 6364136223846793005U + 1442695040888963407U;
        const std::string& document = documents[state >> 61U];
        const std::string prompt = document.substr(0, (state >> 40U) % 3 == 0 ? 320 : 160);
        ask(cache, prompt);
        ask(lru, prompt);
    }
    const auto stats = lru.stats();
    const double measured =
        static_cast<double>(stats.tokens_reused) / static_cast<double>(stats.tokens_requested);
    const auto curve = cache.hit_ratio_curve();
    REQUIRE(curve.size() == 5);
    REQUIRE(curve[2].bytes == most);
    CAPTURE(curve[2].hit_ratio, measured);
    CHECK(curve[2].hit_ratio > measured - 0.05);
    CHECK(curve[2].hit_ratio < measured + 0.05);
}

TEST_CASE("A second chance is no use for the curve of LRU") {
    PromptCache<Blocks> cache({.policy = {.sample = 100, .curve = true, .curve_bytes = {1'500}}});
    const std::string document(1'000, 'z');
    store(cache, document, Tier::user);
    constexpr int rounds = 5;
    for (int i = 0; i < 30 * rounds; ++i) {
        const std::string other(100, static_cast<char>(i - 128));
        look_up(cache, other);
        store(cache, other, Tier::user);
        if (i % 30 == 0) {
            look_up(cache, document.substr(0, 10) + "?");
        } else if (i % 30 == 29) {
            cache.trim_to({.max_entries = 2}); // the document has a second chance
            CHECK(cache.probe("m", key(document), {.min_remaining = 0}).reused() == 1'000);
            look_up(cache, document); // LRU had less of it: 2,900 tokens were used since
        }
    }
    const double hits =
        cache.hit_ratio_curve()[0].hit_ratio * static_cast<double>(cache.stats().tokens_requested);
    CHECK(hits <= 10 * rounds);
}

TEST_CASE("A dead branch that is used again is one no longer") {
    Cache cache;
    store(cache, "xyxy", Tier::assistant);
    pass_time(cache, 10);
    store(cache, "abcd", Tier::user, {}, {.session = 5});
    store(cache, "abef", Tier::user, {}, {.session = 5});
    look_up(cache, "abcd");
    CHECK(eviction_order(cache).substr(0, 4) == "xyxy");
}

TEST_CASE("An insert belongs to the lookup that it names") {
    const bool names_it = GENERATE(false, true);
    CAPTURE(names_it);
    Cache cache;
    const std::uint64_t a = look_up(cache, "aaaa");
    const std::uint64_t b = look_up(cache, "bbbb");
    CHECK(b == a + 1);
    store(cache, "bbbb", Tier::user, {}, {.request = names_it ? b : 0});
    store(cache, "aaaa", Tier::user, {}, {.request = names_it ? a : 0});
    // Without a name both are as old as the last lookup.
    CHECK(eviction_order(cache) == (names_it ? "aaaa bbbb" : "bbbb aaaa"));
}

TEST_CASE("An insert that names its lookup is no second use of what the lookup used") {
    const bool names_it = GENERATE(false, true);
    CAPTURE(names_it);
    Cache cache;
    store(cache, "ss", Tier::system);
    store(cache, "tt", Tier::system);
    const std::uint64_t first = look_up(cache, "ssab");
    look_up(cache, "ttab");
    store(cache, "ssab", Tier::user, {}, {.request = names_it ? first : 0});
    CHECK(cache.erase("m", key("ssab")));
    CHECK(cache.check_invariants());
    CHECK(eviction_order(cache) == (names_it ? "ss tt" : "tt ss"));
}

TEST_CASE("A touch is a use like that of a lease, and lookups are numbered on") {
    Cache cache;
    store(cache, "aaaa", Tier::user);
    store(cache, "bbbb", Tier::user);
    const bool touches = GENERATE(false, true);
    if (touches)
        CHECK(cache.touch("m", key("aaaa")));
    else
        CHECK(cache.lease_nearest("m", key("aaaa?")));
    CHECK(cache.stats().lookups == (touches ? 0 : 1));
    const std::uint64_t first = look_up(cache, "?");
    CHECK(look_up(cache, "?") == first + 1);
    CHECK(eviction_order(cache) == "bbbb aaaa");
}

TEST_CASE("System prompts of live sessions survive one-off prompts, and a dead one makes room") {
    Cache cache({.max_bytes = 400});
    std::int32_t next = 1000;
    std::uint64_t live_requests = 0;
    std::uint64_t live_hits = 0;
    const Key live = counting(40, 100);
    const Key dead = counting(40, 200);
    const auto insert = [&](const Key& tokens, Tier tier, std::uint64_t request) {
        cache.insert("m", tokens, blocks(std::string(tokens.size(), 'x')), tier,
                     {.request = request});
    };
    const auto ask = [&](const Key* system, std::size_t more) {
        Key prompt = system != nullptr ? *system : Key{};
        const Key rest = counting(more, next);
        next += 100;
        prompt.insert(prompt.end(), rest.begin(), rest.end());
        const auto hit = cache.fetch_nearest("m", prompt);
        if (system != nullptr)
            insert(*system, Tier::system, hit.request());
        insert(prompt, Tier::user, hit.request());
        return hit.reused();
    };
    for (int i = 0; i < 100; ++i) {
        ask(&live, 10);
        ask(&dead, 10);
        ask(nullptr, 40);
    }
    CHECK(cache.probe("m", dead).matched() == 40);
    for (int i = 0; i < 600; ++i) {
        if (i % 20 == 0) {
            ++live_requests;
            live_hits += ask(&live, 10) >= 40 ? 1U : 0U;
        } else {
            ask(nullptr, 40);
        }
    }
    CAPTURE(live_requests, live_hits);
    CHECK(live_hits * 10 >= live_requests * 9);
    CHECK(cache.probe("m", live, {.min_remaining = 0}).reused() == 40);
    // From here on there are more live ones than fit.
    std::vector<Key> others;
    for (std::int32_t i = 0; i < 12; ++i)
        others.push_back(counting(40, 300 + 50 * i));
    for (std::size_t i = 0; i < 600; ++i)
        ask(&others[i * 7 % others.size()], 10);
    CHECK(cache.probe("m", dead, {.min_remaining = 0}).reused() == 0);
    CHECK(cache.probe("m", live, {.min_remaining = 0}).reused() == 0);
    CHECK(cache.check_invariants());
}

// determinism ////////////////////////////////////////////////////////////////////////////////////

/// What a cache does in a random run, call by call.
std::vector<std::string> log_of(std::uint64_t seed, int calls) {
    Random random(seed);
    std::vector<std::string> log;
    Cache cache({.max_bytes = 120});
    cache.set_removal_listener([&log](const auto& removal) {
        log.push_back(word(removal.tokens) + " " + std::to_string(removal.kept_tokens) +
                      std::string(name(removal.reason)));
    });
    std::vector<Cache::Lease> leases;
    std::uint64_t request = 0;
    for (int i = 0; i < calls; ++i) {
        std::string text(1, static_cast<char>('a' + random.below(6)));
        while (!random.one_in(8))
            text.push_back(static_cast<char>('a' + random.below(random.one_in(4) ? 8 : 2)));
        const std::size_t action = random.below(100);
        const InsertOptions options{.session = random.below(6), .request = request};
        if (action < 40) {
            const auto hit = cache.fetch_nearest("m", key(text));
            request = random.one_in(4) ? 0 : hit.request();
            log.push_back(std::to_string(hit.reused()));
        } else if (action < 85) {
            const auto tier = static_cast<Tier>(random.below(3));
            const auto inserted = store(cache, text, tier, {}, options);
            log.push_back(std::string(name(inserted.outcome)) + std::to_string(inserted.tokens));
        } else if (action < 90) {
            leases.push_back(cache.lease_nearest("m", key(text)));
        } else if (action < 95) {
            leases.clear();
        } else if (action < 97) {
            log.push_back(std::to_string(cache.erase("m", key(text)) ? 1 : 0));
        } else if (action < 98) {
            log.push_back(std::to_string(cache.evict(random.below(20))));
        } else if (action < 99) {
            log.push_back(std::to_string(cache.trim_to({.max_bytes = 60 + random.below(60)})));
        } else {
            const auto room = cache.reserve("m", key(text), text.size(), Tier::user, options);
            log.push_back(std::string(name(room.outcome())) + std::to_string(room.tokens()));
        }
        if (i % 16 == 0 && !cache.check_invariants())
            log.push_back("broken");
    }
    return log;
}

TEST_CASE("Equal calls have equal victims, whatever the addresses") {
    const std::uint64_t seed = GENERATE(1U, 2U);
    CAPTURE(seed);
    const std::vector<std::string> first = log_of(seed, 4'000);
    // From here on memory is handed out differently.
    std::vector<std::string> litter;
    for (std::size_t i = 0; i < 3'000; ++i)
        litter.emplace_back(8 + i * 7 % 250, 'x');
    for (std::size_t i = 0; i < litter.size(); i += 3)
        litter[i] = std::string();
    const std::vector<std::string> second = log_of(seed, 4'000);
    CHECK(first == second);
    CHECK(std::count(first.begin(), first.end(), "broken") == 0);
    const auto ends_with = [&first](std::string_view end) {
        return std::count_if(first.begin(), first.end(), [end](const std::string& line) {
            return line.size() >= end.size() &&
                   line.compare(line.size() - end.size(), end.size(), end) == 0;
        });
    };
    CHECK(ends_with("evicted") > 100);
    CHECK(ends_with("cut") > 100);
    CHECK(ends_with("declined0") > 0);
}

} // namespace of_reuse_order
