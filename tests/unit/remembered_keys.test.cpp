// SPDX-License-Identifier: MIT
// Remembered keys: what the cache says of keys that it evicted, and when it forgets them.

#include <promptkv/lru_prompt_cache.hpp>
#include <promptkv/reuse_order.hpp>

#include "../model/random.hpp"
#include "catch.hpp"
#include "unit_payloads.hpp"

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace {

using namespace promptkv_test;
using promptkv::LRUPromptCache;
using promptkv::MissReason;
using promptkv::PromptCache;
using promptkv::Tier;

using Cache = LRUPromptCache<Tape>;
using Learning = PromptCache<Blocks>;

/// A listener is told of removed keys, which the index keeps until then.
template <class Cache>
void maybe_listen(Cache& cache, bool listens) {
    if (listens)
        cache.set_removal_listener([](const auto& /*removal*/) {});
}

/// Leading tokens of the prompt that are known, stored or not.
template <class Cache>
std::size_t known(const Cache& cache, std::string_view prompt, std::string_view model = "m") {
    return cache.probe(model, key(prompt), {.min_remaining = 0}).matched();
}

template <class Cache>
void evict_all(Cache& cache) {
    (void)cache.trim_to({.max_entries = 0});
    CHECK(cache.empty());
    CHECK(cache.check_invariants());
}

TEMPLATE_TEST_CASE("explain says how many bytes were evicted since a key was", "", Cache,
                   Learning) {
    const bool listens = GENERATE(false, true);
    CAPTURE(listens);
    TestType cache({.remembered_tokens = 100});
    maybe_listen(cache, listens);
    store(cache, "abcdef", Tier::user);
    evict_all(cache);
    const auto first = cache.explain("m", key("abcdx"));
    CHECK(first.reason == MissReason::evicted);
    CHECK(first.matched == 4);
    CHECK(first.reused == 0);
    CHECK(first.nearest_tokens == 6);
    REQUIRE(first.evicted_bytes_ago.has_value());
    const std::uint64_t ago = *first.evicted_bytes_ago;
    CHECK(ago <= 6);
    store(cache, "pqrstuvwxyz1234567890!", Tier::user);
    evict_all(cache);
    CHECK(to_string(cache.explain("m", key("abcdx"))) ==
          "miss (evicted): 4 of 5 tokens match, then 120 where 101 is stored; nearest key: 6 "
          "tokens, user, evicted " +
              std::to_string(22 + ago) + " B of evictions ago");
    // Asking changed nothing.
    CHECK(cache.explain("m", key("abcdx")).evicted_bytes_ago == 22 + ago);
}

TEST_CASE("An entry of the empty key shares nothing with an evicted one") {
    Cache cache({.remembered_tokens = 100});
    store(cache, "abcdef", Tier::user);
    evict_all(cache);
    store(cache, "", Tier::user);
    CHECK(cache.probe("m", key("abcdx")).miss() == MissReason::evicted);
    CHECK(cache.explain("m", key("abcdx")).reason == MissReason::evicted);
}

TEST_CASE("The age of an eviction is the same with a listener and without one", "") {
    std::vector<std::uint64_t> ages;
    for (const bool listens : {false, true}) {
        Cache cache({.remembered_tokens = 100});
        maybe_listen(cache, listens);
        store(cache, "abcdef", Tier::user);
        evict_all(cache);
        ages.push_back(cache.explain("m", key("abcd")).evicted_bytes_ago.value_or(999));
    }
    CHECK(ages[0] == ages[1]);
}

TEMPLATE_TEST_CASE("A lookup of an evicted key is counted as such, and served nothing", "", Cache,
                   Learning) {
    TestType cache({.remembered_tokens = 100});
    store(cache, "abcdef", Tier::user);
    evict_all(cache);
    const auto fetched = cache.fetch_nearest("m", key("abcdxy"));
    CHECK_FALSE(fetched);
    CHECK(fetched.miss() == MissReason::evicted);
    CHECK(fetched.matched() == 4);
    CHECK(fetched.reused() == 0);
    CHECK_FALSE(fetched.kv.has_value());
    CHECK_FALSE(cache.lease_nearest("m", key("abcdef"), {.min_remaining = 0}));
    CHECK_FALSE(cache.take_nearest("m", key("abcdefgh")));
    CHECK_FALSE(cache.touch("m", key("abcdef")));
    CHECK_FALSE(cache.mark("m", key("abc"), Tier::system));
    CHECK(cache.fetch_nearest("m", key("xyz")).miss() == MissReason::nothing_shared);
    const auto stats = cache.stats();
    CHECK(stats.missed_evicted == 3);
    CHECK(stats.missed_nothing_shared == 1);
    CHECK(cache.empty());
    CHECK(contents(cache).empty());
}

TEST_CASE("matched counts remembered keys beside what is served") {
    Cache cache({.max_entries = 2, .remembered_tokens = 100});
    store(cache, "abcdefgh", Tier::user);
    evict_all(cache);
    store(cache, "abx", Tier::user);
    const auto hit = cache.probe("m", key("abcdefgh"));
    CHECK(hit.reused() == 2);
    CHECK(hit.matched() == 8);
    CHECK(hit.miss() == MissReason::none);
    CHECK(cache.check_invariants());
}

TEST_CASE("A key that is stored again is an entry again") {
    Cache cache({.remembered_tokens = 100});
    store(cache, "abcdef", Tier::user);
    evict_all(cache);
    store(cache, "abcdef", Tier::assistant);
    CHECK(contents(cache) == "abcdef0");
    const auto hit = cache.explain("m", key("abcdefgh"));
    CHECK(hit.reused == 6);
    CHECK_FALSE(hit.evicted_bytes_ago.has_value());
    CHECK(cache.check_invariants());
}

TEMPLATE_TEST_CASE("No other model learns of an evicted key", "", Cache, Learning) {
    TestType cache({.remembered_tokens = 100});
    store(cache, "abcdef", Tier::user);
    evict_all(cache);
    CHECK(known(cache, "abcdef", "other") == 0);
    const std::size_t misses = cache.stats().missed_evicted;
    CHECK(cache.fetch_nearest("other", key("abcdef")).miss() == MissReason::nothing_shared);
    CHECK(cache.stats().missed_evicted == misses);
    CHECK(to_string(cache.explain("other", key("abcdef"))) ==
          "miss (nothing_shared): 0 of 6 tokens match");
}

TEMPLATE_TEST_CASE("What is erased is forgotten", "", Cache, Learning) {
    const bool listens = GENERATE(false, true);
    CAPTURE(listens);
    TestType cache({.remembered_tokens = 100});
    const std::size_t empty = cache.index_nbytes();
    maybe_listen(cache, listens);
    store(cache, "abcd", Tier::user, {}, {.session = 3});
    store(cache, "abxy", Tier::user);
    store(cache, "pq", Tier::user);
    evict_all(cache);
    REQUIRE(known(cache, "abcd") == 4);
    REQUIRE(known(cache, "abxy") == 4);
    REQUIRE(known(cache, "pq") == 2);
    const auto check = [&](std::string_view prompt, std::size_t expected) {
        CAPTURE(std::string(prompt));
        CHECK(known(cache, prompt) == expected);
    };

    SECTION("erase: the key alone") {
        CHECK_FALSE(cache.erase("m", key("abcd"))); // there was no entry
        check("abcd", 2);
        check("abxy", 4);
    }
    SECTION("erase: not a part of a key") {
        CHECK_FALSE(cache.erase("m", key("ab")));
        CHECK_FALSE(cache.erase("m", key("abcdef")));
        check("abcd", 4);
    }
    SECTION("erase_below: the key and all that continues it") {
        CHECK(cache.erase_below("m", key("ab")) == 0);
        check("abcd", 0);
        check("abxy", 0);
        check("pq", 2);
    }
    SECTION("pop_prefixes: strict prefixes") {
        CHECK(cache.pop_prefixes("m", key("abcdef")) == 0);
        check("abcd", 2);
        check("abxy", 4);
    }
    SECTION("erase_session: the keys of the session") {
        CHECK(cache.erase_session("m", 3) == 0);
        check("abcd", 2);
        check("abxy", 4);
    }
    SECTION("erase_model") {
        CHECK(cache.erase_model("m") == 0);
        check("abcd", 0);
        check("pq", 0);
        CHECK(cache.index_nbytes() <= empty + 200); // a policy keeps its memory
    }
    SECTION("clear") {
        CHECK(cache.clear() == 0);
        check("abcd", 0);
        check("pq", 0);
        CHECK(cache.index_nbytes() <= empty + 200);
    }
    CHECK(cache.check_invariants());
}

TEST_CASE("A key of several sessions is forgotten with none of them") {
    Cache cache({.remembered_tokens = 100});
    store(cache, "abcd", Tier::user, {}, {.session = 1});
    store(cache, "abcd", Tier::user, {}, {.session = 2});
    evict_all(cache);
    CHECK(cache.erase_session("m", 1) == 0);
    CHECK(cache.erase_session("m", 2) == 0);
    CHECK(known(cache, "abcd") == 4);
}

TEMPLATE_TEST_CASE("Beyond the bound the key that was evicted first is forgotten first", "", Cache,
                   Learning) {
    const bool listens = GENERATE(false, true);
    CAPTURE(listens);
    TestType cache({.remembered_tokens = 10});
    maybe_listen(cache, listens);
    for (const std::string_view each : {"abcd", "efgh", "ijkl", "mnop"}) {
        store(cache, each, Tier::user);
        evict_all(cache);
    }
    CHECK(known(cache, "abcd") == 0);
    CHECK(known(cache, "efgh") == 0);
    CHECK(known(cache, "ijkl") == 4);
    CHECK(known(cache, "mnop") == 4);
    // What is longer than the bound is not remembered at all.
    store(cache, "qrstuvwxyz01", Tier::user);
    evict_all(cache);
    CHECK(known(cache, "qrstuvwxyz01") == 0);
}

TEST_CASE("The tail of an entry that was cut is remembered") {
    Cache cache({.max_bytes = 6, .remembered_tokens = 100});
    store(cache, "abcdef", Tier::user);
    store(cache, "xyz", Tier::user);
    CHECK(contents(cache) == "abc1 xyz1");
    const auto hit = cache.probe("m", key("abcdefgh"));
    CHECK(hit.reused() == 3);
    CHECK(hit.matched() == 6);
    CHECK(cache.check_invariants());
}

TEMPLATE_TEST_CASE("index_nbytes counts what is remembered", "", Cache, Learning) {
    TestType remembering({.remembered_tokens = 1'000});
    TestType forgetting({.remembered_tokens = 0});
    const std::string text(200, 'x');
    for (TestType* cache : {&remembering, &forgetting}) {
        store(*cache, text, Tier::user);
        evict_all(*cache);
    }
    CHECK(remembering.index_nbytes() >=
          forgetting.index_nbytes() + text.size() * sizeof(std::int32_t));
    CHECK(remembering.nbytes() == 0);
    remembering.clear();
    CHECK(remembering.index_nbytes() == forgetting.index_nbytes());
}

/// A random call. Returns what it answers, as far as remembered keys may not change it.
template <class Cache>
std::string step(Cache& cache, Random& random) {
    std::string text(1, static_cast<char>('a' + random.below(3)));
    while (!random.one_in(6))
        text.push_back(static_cast<char>('a' + random.below(random.one_in(5) ? 5 : 2)));
    const std::string model = random.one_in(5) ? "other" : "m";
    const std::size_t action = random.below(100);
    const auto tier = static_cast<Tier>(random.below(3));
    const std::uint64_t session = random.below(4);
    if (action < 45) {
        const auto inserted = cache.insert(model, key(text), payload<PayloadOf<Cache>>(text), tier,
                                           {.session = session});
        return std::string(name(inserted.outcome)) + std::to_string(inserted.tokens);
    }
    if (action < 85) {
        const auto hit = cache.fetch_nearest(model, key(text));
        CHECK(hit.reused() <= hit.matched());
        // What is served is the state of these tokens.
        if (hit)
            CHECK(text_of(hit.kv).substr(0, hit.reused()) == text.substr(0, hit.reused()));
        return std::to_string(hit.reused()) + std::string(name(hit.match()));
    }
    if (action < 90)
        return std::to_string(cache.trim_to({.max_entries = random.below(12)}));
    if (action < 93)
        return std::to_string(cache.erase(model, key(text)) ? 1 : 0);
    if (action < 95)
        return std::to_string(cache.erase_below(model, key(text.substr(0, 3))));
    if (action < 96)
        return std::to_string(cache.erase_session(model, session));
    if (action < 97)
        return std::to_string(cache.evict(random.below(30)));
    if (action < 98)
        return std::to_string(cache.take_nearest(model, key(text)).reused());
    if (action < 99)
        return std::to_string(cache.pop_prefixes(model, key(text)));
    return std::to_string(random.one_in(3) ? cache.clear() : cache.erase_model(model));
}

TEMPLATE_TEST_CASE("What branches of evicted keys share counts towards the bound", "",
                   PromptCache<WholeTape>, PromptCache<Hybrid>, PromptCache<UncutTape>) {
    const bool listens = GENERATE(false, true);
    CAPTURE(listens);
    TestType cache({.max_entries = 4}); // the bound is 4 times what was ever stored at once
    maybe_listen(cache, listens);
    std::size_t early = 0;
    for (int i = 0; i < 1'000; ++i) {
        const std::string shared = std::to_string(1'000'000 + i) + "-shared-by-two";
        store(cache, shared + "ab", Tier::user);
        store(cache, shared + "xy", Tier::user);
        if (i == 200)
            early = cache.index_nbytes();
    }
    CHECK(cache.check_invariants());
    CHECK(cache.index_nbytes() < early + early / 2);
}

TEST_CASE("Remembered branches hide neither what is shared nor what is superseded") {
    const std::size_t remembered = GENERATE(0U, 1000U);
    CAPTURE(remembered);
    const std::string shared = "abcdefgh";

    SECTION("a branch that goes on from a remembered key shares the blocks of another one") {
        LRUPromptCache<Hybrid> cache({.remembered_tokens = remembered});
        store(cache, shared + "ij", Tier::user);
        store(cache, shared + "kl", Tier::user);
        CHECK(cache.trim_to({.max_entries = 1}) == 1);
        const std::size_t before = cache.nbytes();
        store(cache, shared + "ijmn", Tier::user);
        CHECK(cache.nbytes() - before == 4 + 12); // two blocks, and the state of the whole text
    }
    SECTION("a branch beside many remembered ones does") {
        LRUPromptCache<Hybrid> cache({.remembered_tokens = remembered});
        for (int i = 0; i < 100; ++i)
            store(cache, shared + std::to_string(100 + i), Tier::user);
        cache.trim_to({.max_entries = 1});
        const std::size_t before = cache.nbytes();
        store(cache, shared + "xyz", Tier::user);
        CHECK(cache.nbytes() - before == 3 + 11);
    }
    SECTION("a turn is superseded although another one was evicted") {
        LRUPromptCache<WholeTape> cache({.remembered_tokens = remembered});
        store(cache, shared + "ij", Tier::user);
        store(cache, shared, Tier::user);
        CHECK(cache.trim_to({.max_entries = 1}) == 1);
        store(cache, "xyz", Tier::user);
        CHECK(cache.touch("m", key(shared)));
        store(cache, shared + "kl", Tier::user);
        CHECK(cache.stats().superseded == 1);
        CHECK(eviction_order(cache) == "abcdefgh xyz abcdefghkl");
    }
}

TEST_CASE("Whether keys are remembered changes nothing else, and the parts stay sound") {
    const bool listens = GENERATE(false, true);
    const std::uint64_t seed = GENERATE(1U, 2U, 3U);
    CAPTURE(listens, seed);
    Cache remembering({.max_bytes = 90, .remembered_tokens = 60});
    Cache forgetting({.max_bytes = 90});
    maybe_listen(remembering, listens);
    Random random(seed);
    Random same(seed);
    bool saw_evicted = false;
    for (int i = 0; i < 1'200; ++i) {
        CAPTURE(i);
        REQUIRE(step(remembering, random) == step(forgetting, same));
        REQUIRE(remembering.check_invariants());
        saw_evicted = saw_evicted || remembering.stats().missed_evicted > 0;
    }
    CHECK(contents(remembering) == contents(forgetting));
    CHECK(saw_evicted);
}

TEST_CASE("A cache that learns stays sound while it remembers and forgets") {
    const bool listens = GENERATE(false, true);
    const std::size_t bound = GENERATE(20U, 400U);
    CAPTURE(listens, bound);
    Learning cache({.max_bytes = 90, .remembered_tokens = bound});
    maybe_listen(cache, listens);
    Random random(7);
    for (int i = 0; i < 1'200; ++i) {
        CAPTURE(i);
        step(cache, random);
        REQUIRE(cache.check_invariants());
    }
}

} // namespace
