// SPDX-License-Identifier: MIT
// Payloads of shared blocks where memory or a copy fails: nothing is lost, and each block is still
// counted once.

#include <promptkv/concurrent_prompt_cache.hpp>
#include <promptkv/lru_prompt_cache.hpp>
#include <promptkv/reuse_order.hpp>

#include "catch.hpp"
#include "fail_each_allocation.hpp"
#include "fire_payloads.hpp"
#include "leaving.hpp"
#include "state.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <new>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace {

using namespace promptkv_test;
using promptkv::Outcome;
using promptkv::Tier;

using Dense = ReluctantBlocks<Pages>;
using Stateful = ReluctantBlocks<Hybrid>;

const std::string m = "m";

template <class KV>
KV computed(const Tokens& tokens) {
    return KV(pages<std::conditional_t<std::is_same_v<KV, Dense>, Pages, Hybrid>>(m, tokens));
}

/// A conversation, its system prompt, and a branch of it; hardly any room left.
template <class Cache, class KV>
void fill(Cache& cache) {
    cache.insert(m, key("abcdefgh"), computed<KV>(key("abcdefgh")), Tier::system);
    cache.insert(m, key("abcdefghijkl"), computed<KV>(key("abcdefghijkl")), Tier::assistant);
    cache.insert(m, key("abcdefghmnopq"), computed<KV>(key("abcdefghmnopq")), Tier::user,
                 {.session = 3});
    cache.insert(m, key("stuvwxyz"), computed<KV>(key("stuvwxyz")), Tier::user);
}

template <class Cache, class KV>
auto fixture(bool listening) {
    return Fixture{[] { return Cache({.max_bytes = 34, .max_entries = 7}); },
                   [listening](Cache& cache) {
                       fill<Cache, KV>(cache);
                       if (listening)
                           cache.set_removal_listener([](typename Cache::Removal&) {});
                   },
                   [](const Cache& cache) {
                       CHECK(cache.nbytes() == recount(cache));
                       return state_of(cache, {&m});
                   },
                   [](Cache& cache) { return eviction_order(cache); }};
}

template <class KV, class Cache>
void insert(Cache& cache, const Tokens& tokens, Tier tier) {
    cache.insert(m, tokens, computed<KV>(tokens), tier);
}

template <class KV, class Cache>
void reserve_and_commit(Cache& cache, const Tokens& tokens, Tier tier) {
    auto room = cache.reserve(m, tokens, tokens.size(), tier);
    if (!room)
        return;
    KV kv = room.prefix().value_or(computed<KV>({}));
    compute(kv, m, Key(tokens).first(room.tokens()));
    room.commit(std::move(kv));
}

template <class Cache>
struct Use {
    const char* what;
    void (*act)(Cache&);
    Demand demand{};
};

template <class Cache, class KV>
std::vector<Use<Cache>> uses() {
    constexpr Demand lookup = {Thrown::counted, Survived::same};
    constexpr Demand needs_room = {Thrown::sound, Survived::other};
    return {
        {"insert: adopts all blocks",
         [](Cache& c) { insert<KV>(c, key("abcdefgh"), Tier::system); }},
        {"insert: adopts some blocks",
         [](Cache& c) { insert<KV>(c, key("abcdefghijklm"), Tier::assistant); }},
        {"insert: evicts", [](Cache& c) { insert<KV>(c, key("ABCDEFGHIJKLM"), Tier::user); },
         needs_room},
        {"insert: a part", [](Cache& c) { insert<KV>(c, Tokens(60, 'q'), Tier::user); },
         needs_room},
        {"reserve, prefix and drop",
         [](Cache& c) {
             auto room = c.reserve(m, key("abcdefghi"), 9, Tier::user);
             static_cast<void>(room.prefix());
             static_cast<void>(room.prefix());
         }},
        {"reserve and commit: shares blocks",
         [](Cache& c) { reserve_and_commit<KV>(c, key("abcdefghi"), Tier::user); }},
        {"reserve and commit: evicts",
         [](Cache& c) { reserve_and_commit<KV>(c, key("abcdefghABCDEFGHIJ"), Tier::user); },
         needs_room},
        {"mark", [](Cache& c) { c.mark(m, key("abcdefghmn"), Tier::system); }, needs_room},
        {"fetch_nearest: exact",
         [](Cache& c) { c.fetch_nearest(m, key("stuvwxyz"), {.min_remaining = 0}); }, lookup},
        {"fetch_nearest: shorter", [](Cache& c) { c.fetch_nearest(m, key("abcdefghijklz")); },
         lookup},
        {"fetch_nearest: longer", [](Cache& c) { c.fetch_nearest(m, key("stuvwx")); }, lookup},
        {"take_nearest", [](Cache& c) { c.take_nearest(m, key("stuvwxyza")); }},
        {"snapshot", [](Cache& c) { static_cast<void>(c.snapshot()); }},
        {"erase_below", [](Cache& c) { c.erase_below(m, key("abcdefgh")); }},
        {"erase_session", [](Cache& c) { c.erase_session(m, 3); }},
        {"trim_to", [](Cache& c) { c.trim_to({.max_bytes = 13}); }, needs_room},
        {"evict", [](Cache& c) { c.evict(6); }, needs_room},
    };
}

template <template <class...> class Of, class Payload>
struct Kind {
    using KV = Payload;
    using Cache = Of<Payload>;
};
template <class KV>
using Plain = promptkv::LRUPromptCache<KV>;
template <class KV>
using Locked = promptkv::ConcurrentPromptCache<KV>;
template <class KV>
using Learning = promptkv::PromptCache<KV>;

TEMPLATE_TEST_CASE("Blocks are neither lost nor counted twice, whichever allocation or copy fails",
                   "", (Kind<Plain, Dense>), (Kind<Plain, Stateful>), (Kind<Locked, Dense>),
                   (Kind<Locked, Stateful>), (Kind<Learning, Dense>), (Kind<Learning, Stateful>)) {
    using KV = typename TestType::KV;
    using Cache = typename TestType::Cache;
    std::size_t failures = 0;
    for (const bool listening : {false, true}) {
        for (const Use<Cache>& use : uses<Cache, KV>()) {
            INFO(use.what << (listening ? ", with a listener" : ""));
            auto demand = use.demand;
            if (std::is_same_v<Cache, Learning<KV>>) // its victims here are cut, which allocates
                demand.survived = Survived::other;
            failures += fail_each_allocation(fixture<Cache, KV>(listening), use.act, demand);
            failures += fail_each_allocation<FailingCalls<payload_copy_call>>(
                fixture<Cache, KV>(listening), use.act, demand);
        }
    }
    CHECK(failures > 50);
}

TEMPLATE_TEST_CASE("A commit that throws can be repeated", "", (Kind<Plain, Dense>),
                   (Kind<Plain, Stateful>), (Kind<Locked, Dense>), (Kind<Locked, Stateful>),
                   (Kind<Learning, Dense>)) {
    using KV = typename TestType::KV;
    using Cache = typename TestType::Cache;
    const Tokens tokens = key("abcdefghABCDEF");
    for (std::size_t skip = 0;; ++skip) {
        CAPTURE(skip);
        Cache cache({.max_bytes = 100});
        fill<Cache, KV>(cache);
        auto room = cache.reserve(m, tokens, tokens.size(), Tier::user);
        REQUIRE(room);
        REQUIRE(room.tokens() == tokens.size());
        const std::size_t reserved = cache.stats().bytes_reserved;
        CHECK(reserved > 0);
        KV kv = room.prefix().value_or(computed<KV>({}));
        CHECK(kv.length() == 8);
        compute(kv, m, tokens);
        bool threw = false;
        {
            FailingNew failing(skip);
            try {
                room.commit(std::move(kv));
            } catch (const std::bad_alloc&) {
                threw = true;
            }
        }
        CHECK(cache.check_invariants());
        if (threw) {
            CHECK(kv.length() == tokens.size());
            CHECK(cache.size() == 4);
            CHECK(cache.stats().bytes_reserved == reserved);
            CHECK(room.commit(std::move(kv)).outcome == Outcome::stored);
        }
        CHECK(cache.probe(m, tokens, {.min_remaining = 0}).reused() == tokens.size());
        CHECK(cache.stats().bytes_reserved == 0);
        CHECK(cache.nbytes() == recount(cache));
        CHECK(cache.check_invariants());
        if (!threw)
            break;
    }
}

TEMPLATE_TEST_CASE("A payload is not moved from by an insert that throws", "", (Kind<Plain, Dense>),
                   (Kind<Locked, Dense>)) {
    using KV = typename TestType::KV;
    using Cache = typename TestType::Cache;
    const Tokens tokens = key("abcdevwxyz");
    std::size_t failures = 0;
    for (std::size_t skip = 0;; ++skip) {
        CAPTURE(skip);
        Cache cache({.max_bytes = 34});
        fill<Cache, KV>(cache);
        KV kv = computed<KV>(tokens);
        bool threw = false;
        bool struck = false;
        promptkv::Inserted inserted;
        {
            FailingNew failing(skip);
            try {
                inserted = cache.insert(m, tokens, std::move(kv), Tier::user);
            } catch (const std::bad_alloc&) {
                threw = true;
            }
            struck = failing.stop();
        }
        const bool kept = threw || inserted.tokens == 0;
        CHECK(kv.length() == (kept ? tokens.size() : 0U));
        CHECK((!kept || computed_from(kv, m, tokens, tokens.size())));
        if (!struck)
            break; // some failures do no harm: the insert then goes on
        failures += threw ? 1U : 0U;
    }
    REQUIRE(failures > 0);
}

/// Fills the cache with prompts that come back, and lets prompts pass that do not, until the latter are
/// declined.
void teach(Learning<Dense>& cache) {
    const auto serve = [&cache](const Tokens& tokens) {
        static_cast<void>(cache.lease_nearest(m, tokens));
        cache.insert(m, tokens, computed<Dense>(tokens), Tier::user);
    };
    for (std::int32_t i = 0; i < 1'000; ++i) {
        serve(Tokens(8, i % 4));
        serve({1'000 + i, 1, 2, 3, 4, 5, 6, 7});
    }
}

TEST_CASE(
    "What is declined stays the caller's, and the cache as it was, whichever allocation fails") {
    const Tokens tokens = key("stuvwxyz");
    Learning<Dense> cache({.max_bytes = 32});
    teach(cache);
    std::size_t failures = 0;
    for (const bool lasting : {false, true}) {
        for (std::size_t skip = 0;; ++skip) {
            CAPTURE(skip, lasting);
            cache.erase(m, tokens);
            Dense kv = computed<Dense>(tokens);
            const std::string before = contents(cache);
            const std::uint64_t declined = cache.stats().declined;
            bool threw = false;
            bool struck = false;
            Outcome outcome = Outcome::stored;
            {
                FailingNew failing(skip, lasting);
                try {
                    outcome = cache.insert(m, tokens, std::move(kv), Tier::user).outcome;
                } catch (const std::bad_alloc&) {
                    threw = true;
                }
                struck = failing.stop();
            }
            CHECK((threw || outcome == Outcome::declined));
            CHECK(cache.stats().declined == declined + (threw ? 0 : 1));
            CHECK(computed_from(kv, m, tokens, tokens.size()));
            CHECK(contents(cache) == before);
            CHECK(cache.nbytes() == recount(cache));
            CHECK(cache.check_invariants());
            if (!struck)
                break;
            ++failures;
        }
    }
    CHECK(failures > 4);
    CHECK(cache.explain(m, tokens).reason == promptkv::MissReason::evicted);
}

TEST_CASE("Without memory a victim is dropped whole, and limits hold") {
    for (std::size_t skip = 0;; ++skip) {
        CAPTURE(skip);
        Plain<Dense> cache;
        fill<Plain<Dense>, Dense>(cache);
        bool struck = false;
        {
            FailingNew failing(skip, true);
            cache.set_limits({.max_bytes = 9, .max_entries = 3});
            struck = failing.stop();
        }
        CHECK(cache.nbytes() <= 9);
        CHECK(cache.size() <= 3);
        CHECK(cache.nbytes() == recount(cache));
        CHECK(cache.check_invariants());
        if (!struck)
            break;
    }
}

TEST_CASE("Each removal is reported, with empty tokens if memory ran out") {
    std::size_t empty = 0;
    for (std::size_t skip = 0;; ++skip) {
        CAPTURE(skip);
        Plain<Dense> cache;
        fill<Plain<Dense>, Dense>(cache);
        std::size_t told = 0;
        std::size_t bytes = 0;
        cache.set_removal_listener([&](const auto& removal) {
            ++told;
            bytes += removal.bytes;
            empty += removal.tokens.empty() ? 1U : 0U;
        });
        const std::size_t entries = cache.size();
        const std::size_t referenced = cache.stats().bytes_referenced;
        bool struck = false;
        std::size_t cleared = 0;
        {
            FailingNew failing(skip, true);
            cleared = cache.clear();
            struck = failing.stop();
        }
        CHECK(cleared == entries);
        CHECK(told == entries);
        CHECK(bytes == referenced);
        CHECK(cache.nbytes() == 0);
        CHECK(cache.check_invariants());
        if (!struck)
            break;
    }
    CHECK(empty > 0);
}

TEST_CASE("A listener that cannot be kept leaves the old one") {
    std::string log;
    Plain<Dense> cache;
    fill<Plain<Dense>, Dense>(cache);
    cache.set_removal_listener([&log](const auto& removal) { log += word(removal.tokens); });
    bool threw = false;
    {
        FailingNew failing(0);
        try {
            cache.set_removal_listener(
                [state = std::array<char, 200>()](const auto&) { static_cast<void>(state); });
        } catch (const std::bad_alloc&) {
            threw = true;
        }
    }
    REQUIRE(threw);
    cache.erase(m, key("stuvwxyz"));
    REQUIRE(log == "stuvwxyz");
}

TEST_CASE("If make throws, the evictions stand and nothing else happened") {
    promptkv::LRUPromptCache<Whole> cache({.max_bytes = 10});
    cache.insert(m, key("abcd"), Whole{4}, Tier::user);
    cache.insert(m, key("xyz"), Whole{3}, Tier::user);
    const auto fail = []() -> Whole { throw Refusal(); };

    SECTION("a new key") {
        REQUIRE_THROWS_AS(cache.insert(m, key("stuvwx"), 6, Tier::user, fail), Refusal);
        REQUIRE(contents(cache) == "xyz1");
        REQUIRE(cache.nbytes() == 3);
        REQUIRE(cache.stats().stored == 2);
        REQUIRE(cache.stats().evicted == 1);
    }
    SECTION("a new model") {
        REQUIRE_THROWS_AS(cache.insert("other", key("st"), 2, Tier::user, fail), Refusal);
        REQUIRE(contents(cache) == "abcd1 xyz1");
        REQUIRE(cache.erase_model("other") == 0);
    }
    REQUIRE(cache.stats().bytes_reserved == 0);
    REQUIRE_FALSE(cache.probe(m, key("stuvwx")));
    REQUIRE(cache.check_invariants());
    REQUIRE(cache.insert(m, key("stuvwx"), Whole{6}, Tier::user).outcome == Outcome::stored);
    REQUIRE(cache.check_invariants());
}

TEST_CASE("A model that cannot be copied is not stored, and its payload stays the caller's") {
    promptkv::LRUPromptCache<Reluctant, Name> cache;
    const Name known("known");
    const Name unknown("unknown");
    cache.insert(known, key("abcd"), Reluctant{4}, Tier::user);
    {
        const FailingCalls<model_copy_call> now(0, true);
        Reluctant kv{3};
        REQUIRE_THROWS_AS(cache.insert(unknown, key("xyz"), std::move(kv), Tier::user), Refusal);
        REQUIRE(kv.n == 3);
        // A model that is known already needs no copy.
        REQUIRE(cache.insert(known, key("xyz"), Reluctant{3}, Tier::user).outcome ==
                Outcome::stored);
        REQUIRE(cache.probe(known, key("abcde")).reused() == 4);
        REQUIRE_FALSE(cache.probe(unknown, key("abcde")));
    }
    REQUIRE(cache.size() == 2);
    REQUIRE(cache.nbytes(unknown) == 0);
    REQUIRE(cache.check_invariants());
    REQUIRE(cache.insert(unknown, key("xyz"), Reluctant{3}, Tier::user).outcome == Outcome::stored);
    REQUIRE(cache.size() == 3);
}

TEST_CASE("A payload that would be stored in part is not cut where the model cannot be copied") {
    struct TwoBytes {
        static std::size_t nbytes() noexcept { return 2; }
    };
    using Blocks = promptkv::BlockKV<TwoBytes>;
    promptkv::LRUPromptCache<Blocks, Name> cache({.max_bytes = 8});
    const Name unknown("unknown");
    Blocks kv(2);
    for (int i = 0; i < 10; ++i)
        kv.append(TwoBytes{}, 2);
    const auto insert = [&] {
        return cache.insert(unknown, key("abababababababababab"), std::move(kv), Tier::user);
    };
    {
        const FailingCalls<model_copy_call> now(0, true);
        REQUIRE_THROWS_AS(insert(), Refusal);
    }
    REQUIRE(kv.length() == 20); // NOLINT(bugprone-use-after-move): that is the promise
    REQUIRE(cache.nbytes() == 0);
    REQUIRE(cache.check_invariants());
    REQUIRE(insert().tokens == 4);
}

struct Byte {
    static std::size_t nbytes() noexcept { return 1; }
};

TEST_CASE("What a reservation shared is not destroyed under the lock where memory runs out") {
    using Blocks = promptkv::BlockKV<Byte>;
    using KV = Leaving<Blocks>;
    using Cache =
        promptkv::BasicPromptCache<KV, std::string, int, Tier, promptkv::ReuseOrder, Watched>;
    bool struck = true;
    for (std::size_t skip = 0; struck; ++skip) {
        Cache cache({.max_bytes = 100});
        Blocks kv(1);
        for (int i = 0; i < 4; ++i)
            kv.append(Byte{}, 1);
        cache.insert(m, std::vector{1, 2, 3, 4}, KV(std::move(kv)), Tier::user);
        KV::under_lock = false;
        bool thrown = false;
        {
            FailingAllocations failing(skip, false);
            try {
                const auto room = cache.reserve(m, std::vector{1, 2, 3, 4, 5, 6}, 6, Tier::user);
                static_cast<void>(room);
            } catch (const std::bad_alloc&) {
                thrown = true;
            }
            struck = failing.stop();
        }
        CAPTURE(skip);
        CHECK(thrown == struck);
        CHECK_FALSE(KV::under_lock);
        CHECK(cache.nbytes() == 4);
        CHECK(cache.stats().bytes_reserved == 0);
        CHECK(cache.check_invariants());
    }
}

TEST_CASE("A copy constructor that throws leaves the entry where it was") {
    promptkv::LRUPromptCache<Unwilling> cache;
    cache.insert(m, key("abcd"), Unwilling(4), Tier::user);
    cache.insert(m, key("xyz"), Unwilling(3), Tier::user);
    {
        const FailingCalls<payload_copy_call> now(0, true);
        REQUIRE_THROWS_AS(cache.fetch_nearest(m, key("abcde")), Refusal);
    }
    REQUIRE(cache.check_invariants());
    REQUIRE(cache.stats().hits_shorter == 1);
    REQUIRE(cache.stats().bytes_leased == 0);
    REQUIRE(eviction_order(cache) == "xyz abcd ");
}

TEST_CASE("A visitor that throws leaves the cache whole") {
    promptkv::LRUPromptCache<Whole> cache;
    cache.insert(m, key("abcd"), Whole{4}, Tier::user);
    cache.insert(m, key("xyz"), Whole{3}, Tier::user);
    REQUIRE_THROWS_AS(cache.for_each([](const auto&) { throw Refusal(); }), Refusal);
    REQUIRE(cache.check_invariants());
    REQUIRE(contents(cache) == "abcd1 xyz1");
}

} // namespace
