// SPDX-License-Identifier: MIT
// Every public function of every cache, where each allocation, each hash, comparison and copy of a
// model, each copy of a payload, and each making of one fails in turn.

#include <promptkv/concurrent_prompt_cache.hpp>
#include <promptkv/lru_prompt_cache.hpp>
#include <promptkv/reuse_order.hpp>

#include "catch.hpp"
#include "fail_each_allocation.hpp"
#include "fire_payloads.hpp"
#include "state.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <new>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace of_every_function {

using namespace promptkv_test;
using promptkv::Tier;

using Plain = promptkv::LRUPromptCache<Reluctant, Name>;
using Locked = promptkv::ConcurrentPromptCache<Reluctant, Name>;
using Learning = promptkv::PromptCache<Reluctant, Name>;

// Names that are too long to be kept within a string; `twin` collides with `known`.
const Name known("a model that has entries of several tiers, and a system prompt");
const Name twin("another one, whose hash is the same, with fewer of the entries");
const Name unknown("a model that has nothing");

/// The removals of the subject at hand, where a listener counts them.
std::string told;

/// Entries of two models whose hashes collide, and hardly any room left.
template <class Cache>
void fill(Cache& cache) {
    cache.insert(known, key("mnopqr"), Reluctant{6}, Tier::user);
    cache.insert(known, key("abcdefgh"), Reluctant{8}, Tier::assistant, {.session = 7});
    cache.insert(known, key("abcxyz"), Reluctant{6}, Tier::user, {.session = 8});
    cache.mark(known, key("abcd"), Tier::system);
    cache.insert(twin, key("abcdefghij"), Reluctant{10}, Tier::system);
}

template <class Cache>
auto fixture(bool listening) {
    return Fixture{[] { return Cache({.max_bytes = 42, .max_entries = 6}); },
                   [listening](Cache& cache) {
                       fill(cache);
                       told.clear();
                       if (listening) {
                           cache.set_removal_listener([](const typename Cache::Removal& removal) {
                               const SparedNew spared;
                               told += " " + std::to_string(removal.bytes);
                               told.append(promptkv::name(removal.reason));
                           });
                       }
                   },
                   [](const Cache& cache) {
                       return state_of(cache, {&known, &twin, &unknown}) + " told" + told;
                   },
                   [](Cache& cache) { return eviction_order(cache); }};
}

template <class Cache>
void insert(Cache& cache, const Name& model, const Tokens& tokens, Tier tier,
            typename Cache::InsertOptions options = {}) {
    cache.insert(model, tokens, Reluctant{tokens.size()}, tier, options);
}

template <class Cache>
void insert_made(Cache& cache, const Name& model, const Tokens& tokens, Tier tier) {
    cache.insert(model, tokens, tokens.size(), tier, [&tokens] {
        called(making_call);
        return Reluctant{tokens.size()};
    });
}

template <class Cache>
void reserve_and_commit(Cache& cache, const Name& model, const Tokens& tokens, Tier tier) {
    if (auto room = cache.reserve(model, tokens, tokens.size(), tier))
        room.commit(Reluctant{room.tokens()});
}

/// One use of a public function.
template <class Cache>
struct Use {
    const char* what;
    void (*act)(Cache&);
    Demand demand{};
};

/// Uses in which nothing is evicted: a call that throws has not happened.
template <class Cache>
std::vector<Use<Cache>> uses() {
    constexpr Demand lookup = {Thrown::counted, Survived::same};
    return {
        {"insert: a new key", [](Cache& c) { insert(c, known, key("stu"), Tier::user); }},
        {"insert: a new model", [](Cache& c) { insert(c, unknown, key("stu"), Tier::user); }},
        {"insert: splits an edge", [](Cache& c) { insert(c, known, key("mnz"), Tier::user); }},
        {"insert: the key of an entry",
         [](Cache& c) { insert(c, known, key("abcxyz"), Tier::system); }},
        {"insert: present", [](Cache& c) { insert(c, known, key("abc"), Tier::assistant); }},
        {"insert: absorbs", [](Cache& c) { insert(c, known, key("abcxyzuv"), Tier::user); }},
        {"insert: a system prompt stays",
         [](Cache& c) { insert(c, known, key("abcdq"), Tier::assistant); }},
        {"insert: a session goes on",
         [](Cache& c) { insert(c, known, key("st"), Tier::user, {.session = 8}); }},
        {"insert: a side request",
         [](Cache& c) {
             insert(c, known, key("st"), Tier::user, {.session = 8, .side_request = true});
         }},
        {"insert: too large",
         [](Cache& c) { c.insert(known, key("s"), 43, Tier::user, [] { return Reluctant{1}; }); }},
        {"insert: the empty key", [](Cache& c) { insert(c, known, {}, Tier::user); }},
        {"insert with make: a new key",
         [](Cache& c) { insert_made(c, known, key("stu"), Tier::user); }},
        {"insert with make: a new model",
         [](Cache& c) { insert_made(c, unknown, key("stu"), Tier::user); }},
        {"insert with make: the key of an entry",
         [](Cache& c) { insert_made(c, known, key("abcxyz"), Tier::system); }},
        {"insert with make: absorbs",
         [](Cache& c) { insert_made(c, known, key("mnopqrs"), Tier::user); }},
        {"insert with make: nothing made",
         [](Cache& c) {
             c.insert(known, key("stu"), 3, Tier::user,
                      []() -> std::optional<Reluctant> { return std::nullopt; });
         }},
        {"reserve and drop",
         [](Cache& c) { static_cast<void>(c.reserve(known, key("stu"), 3, Tier::user)); }},
        {"reserve and drop: a new model",
         [](Cache& c) { static_cast<void>(c.reserve(unknown, key("stu"), 3, Tier::user)); }},
        {"reserve: the key of an entry",
         [](Cache& c) { static_cast<void>(c.reserve(known, key("abcxyz"), 6, Tier::system)); }},
        {"reserve, prefix and drop",
         [](Cache& c) {
             auto room = c.reserve(known, key("abcxyzu"), 7, Tier::user);
             static_cast<void>(room.prefix());
         }},
        {"reserve and commit",
         [](Cache& c) { reserve_and_commit(c, known, key("stu"), Tier::user); }},
        {"reserve and commit: a new model",
         [](Cache& c) { reserve_and_commit(c, unknown, key("stu"), Tier::user); }},
        {"reserve, erase and commit",
         [](Cache& c) {
             auto room = c.reserve(unknown, key("stu"), 3, Tier::user);
             c.erase_below(unknown, key("st"));
             room.commit(Reluctant{3});
         }},
        {"mark: a new entry", [](Cache& c) { c.mark(known, key("abcxy"), Tier::system); }},
        {"mark: the key of an entry", [](Cache& c) { c.mark(known, key("abcxyz"), Tier::system); }},
        {"mark: nothing", [](Cache& c) { c.mark(unknown, key("abcxyz"), Tier::system); }},
        {"fetch_nearest: exact",
         [](Cache& c) { c.fetch_nearest(known, key("abcxyz"), {.min_remaining = 0}); }, lookup},
        {"fetch_nearest: shorter", [](Cache& c) { c.fetch_nearest(twin, key("abcdefghijk")); },
         lookup},
        {"fetch_nearest: longer", [](Cache& c) { c.fetch_nearest(known, key("mnoz")); }, lookup},
        {"fetch_nearest: none", [](Cache& c) { c.fetch_nearest(unknown, key("mnoz")); }, lookup},
        {"lease_nearest",
         [](Cache& c) {
             auto lease = c.lease_nearest(known, key("abcdefghi"));
             const auto moved = std::move(lease);
         }},
        {"take_nearest", [](Cache& c) { c.take_nearest(known, key("abcxyzw")); }},
        {"take_nearest: cut", [](Cache& c) { c.take_nearest(known, key("abcxyz")); }},
        {"probe", [](Cache& c) { static_cast<void>(c.probe(known, key("abcdq"))); }},
        {"touch", [](Cache& c) { static_cast<void>(c.touch(known, key("mnopqr"))); }},
        {"explain", [](Cache& c) { static_cast<void>(c.explain(unknown, key("abcdq"))); }},
        {"snapshot", [](Cache& c) { static_cast<void>(c.snapshot()); }},
        {"erase", [](Cache& c) { c.erase(known, key("abcxyz")); }},
        {"erase: the last entry of a model", [](Cache& c) { c.erase(twin, key("abcdefghij")); }},
        {"pop_prefixes", [](Cache& c) { c.pop_prefixes(known, key("abcdefghi")); }},
        {"erase_below", [](Cache& c) { c.erase_below(known, key("abc")); }},
        {"erase_session", [](Cache& c) { c.erase_session(known, 7); }},
        {"erase_model", [](Cache& c) { c.erase_model(known); }},
        {"clear", [](Cache& c) { c.clear(); }},
        {"nbytes", [](Cache& c) { static_cast<void>(c.nbytes(twin)); }},
        {"evictable_nbytes", [](Cache& c) { static_cast<void>(c.evictable_nbytes()); }},
        {"for_each",
         [](Cache& c) {
             c.for_each(
                 [](const auto& entry) { called(entry.nbytes > 0 ? visiting_call : hash_call); });
         }},
        {"set_removal_listener",
         [](Cache& c) {
             c.set_removal_listener([known_too = std::string(200, 'x')](
                                        const typename Cache::Removal&) { told += known_too; });
             c.set_removal_listener(nullptr);
         },
         {Thrown::sound, Survived::same}},
    };
}

/// Uses that need room. A call that throws leaves what it had evicted evicted, and adds no key.
template <class Cache>
std::vector<Use<Cache>> evictions() {
    return {
        {"insert", [](Cache& c) { insert(c, known, key("stuvwxyzstuvwx"), Tier::system); }},
        {"insert: hardly anything else stays",
         [](Cache& c) { insert(c, unknown, Tokens(32, 's'), Tier::user); }},
        {"insert: a part", [](Cache& c) { insert(c, unknown, Tokens(100, 's'), Tier::system); }},
        {"insert with make",
         [](Cache& c) { insert_made(c, known, key("stuvwxyzstuvwx"), Tier::system); }},
        {"reserve and commit",
         [](Cache& c) { reserve_and_commit(c, unknown, Tokens(20, 's'), Tier::user); }},
        {"reserve and commit: larger than reserved",
         [](Cache& c) {
             auto room = c.reserve(known, Tokens(12, 's'), 6, Tier::user);
             if (room)
                 room.commit(Reluctant{room.tokens()});
         }},
        {"mark", [](Cache& c) { c.mark(twin, key("abcdefghi"), Tier::system); }},
        {"trim_to: bytes", [](Cache& c) { c.trim_to({.max_bytes = 13}); }},
        {"trim_to: entries", [](Cache& c) { c.trim_to({.max_entries = 1}); }},
        {"set_limits", [](Cache& c) { c.set_limits({.max_bytes = 17, .max_entries = 3}); }},
        {"evict", [](Cache& c) { c.evict(20); }},
    };
}

/// `act`, which must not leave a key behind that was not there, if it throws, nor exceed a limit.
template <class Cache>
auto checked(const Use<Cache>& use) {
    return [use](Cache& cache) {
        std::vector<Tokens> before;
        const auto holds = [&before](const auto& entry) {
            return std::ranges::find_if(before, [&entry](const Tokens& tokens) {
                       return std::ranges::equal(
                           Key(tokens).first(std::min(tokens.size(), entry.tokens.size())),
                           entry.tokens);
                   }) != before.end();
        };
        {
            const SparedNew spared;
            cache.for_each([&before](const auto& entry) {
                before.emplace_back(entry.tokens.begin(), entry.tokens.end());
            });
        }
        const auto check = [&](bool threw) {
            const SparedNew spared;
            std::size_t added = 0;
            cache.for_each([&](const auto& entry) { added += holds(entry) ? 0U : 1U; });
            CHECK((!threw || added == 0));
            CHECK(cache.nbytes() <= cache.limits().max_bytes);
            CHECK(cache.size() <= cache.limits().max_entries);
        };
        try {
            use.act(cache);
        } catch (...) {
            check(true);
            throw;
        }
        check(false);
    };
}

constexpr unsigned all_calls =
    hash_call | comparison_call | model_copy_call | payload_copy_call | making_call | visiting_call;

TEMPLATE_TEST_CASE("Each allocation of each function fails: as before if it throws, and no leak",
                   "", Plain, Locked, Learning) {
    std::size_t failures = 0;
    for (const bool listening : {false, true}) {
        for (const Use<TestType>& use : uses<TestType>()) {
            INFO(use.what << (listening ? ", with a listener" : ""));
            failures += fail_each_allocation(fixture<TestType>(listening), use.act, use.demand);
        }
        for (const Use<TestType>& use : evictions<TestType>()) {
            INFO(use.what << (listening ? ", with a listener" : ""));
            failures += fail_each_allocation(fixture<TestType>(listening), checked(use),
                                             {Thrown::sound, Survived::other});
        }
    }
    CHECK(failures > 100);
}

TEMPLATE_TEST_CASE("Each hash, comparison, copy and making fails: as before, and no leak", "",
                   Plain, Locked) {
    std::size_t failures = 0;
    for (const Use<TestType>& use : uses<TestType>()) {
        INFO(use.what);
        failures += fail_each_allocation<FailingCalls<all_calls>>(fixture<TestType>(false), use.act,
                                                                  use.demand);
    }
    CHECK(failures > 2 * uses<TestType>().size());
    for (const Use<TestType>& use : evictions<TestType>()) {
        INFO(use.what);
        fail_each_allocation<FailingCalls<all_calls>>(fixture<TestType>(true), checked(use),
                                                      {Thrown::sound, Survived::other});
    }
}

TEMPLATE_TEST_CASE("A fetch answers and counts the same whether its copy throws or not", "", Plain,
                   Locked) {
    struct Row {
        const char* what;
        const Name* model;
        const char* prompt;
        std::size_t min_remaining;
    };
    const Row row = GENERATE(values<Row>({{"exact", &known, "abcxyz", 0},
                                          {"shorter", &twin, "abcdefghijk", 1},
                                          {"longer", &known, "mnoz", 1}}));
    INFO(row.what);
    const auto after_fetch = [&row](bool failing) {
        TestType cache({.max_bytes = 42, .max_entries = 6});
        fill(cache);
        bool threw = false;
        {
            const FailingCalls<payload_copy_call> calls(failing ? 0 : 1'000);
            try {
                cache.fetch_nearest(*row.model, key(row.prompt),
                                    {.min_remaining = row.min_remaining});
            } catch (const Refusal&) {
                threw = true;
            }
        }
        CHECK(threw == failing);
        CHECK(cache.check_invariants());
        CHECK(cache.stats().bytes_leased == 0);
        const std::string state = state_of(cache, {&known, &twin, &unknown});
        return state + " | " + eviction_order(cache);
    };
    CHECK(after_fetch(true) == after_fetch(false));
}

/// Runs one of `uses` with one copy or making failing. Returns whether one failed, and all that can be
/// seen afterwards.
template <class Cache>
std::pair<bool, std::string> left_by(std::size_t which, std::size_t skip) {
    Cache cache({.max_bytes = 42, .max_entries = 6});
    fill(cache);
    bool struck = false;
    {
        FailingCalls<payload_copy_call | making_call> calls(skip);
        try {
            uses<Cache>()[which].act(cache);
        } catch (const Refusal&) {
        }
        struck = calls.stop();
    }
    const std::string state = state_of(cache, {&known, &twin, &unknown});
    return {struck, state + " | " + eviction_order(cache)};
}

TEST_CASE("The same failure leaves both caches alike, counters and order included") {
    std::size_t failures = 0;
    for (std::size_t which = 0; which < uses<Plain>().size(); ++which) {
        INFO(uses<Plain>()[which].what);
        for (std::size_t skip = 0;; ++skip) {
            CAPTURE(skip);
            const auto plain = left_by<Plain>(which, skip);
            CHECK(plain == left_by<Locked>(which, skip));
            if (!plain.first)
                break;
            ++failures;
        }
    }
    CHECK(failures > 5);
}

TEMPLATE_TEST_CASE("A cache that cannot be made leaves nothing behind", "", Plain, Locked,
                   Learning) {
    for (std::size_t skip = 0;; ++skip) {
        CAPTURE(skip);
        const std::size_t blocks = live_blocks;
        bool threw = false;
        {
            FailingNew failing(skip);
            try {
                const TestType cache({.max_bytes = 1});
            } catch (const std::bad_alloc&) {
                threw = true;
            }
        }
        const bool kept = live_blocks != blocks;
        CHECK_FALSE(kept);
        if (!threw)
            break;
    }
}

TEMPLATE_TEST_CASE("A query, a move or an end allocates nothing and calls no type of the caller",
                   "", Plain, Learning) {
    TestType cache({.max_bytes = 50, .max_entries = 7});
    fill(cache);
    std::optional<typename TestType::Lease> lease(cache.lease_nearest(known, key("abcdefghi")));
    std::optional<typename TestType::Reservation> room(
        cache.reserve(known, key("stu"), 3, Tier::user));
    bool sound = false;
    std::size_t sum = 0;
    bool struck = true;
    {
        FailingNew failing(0, true);
        const FailingCalls<~0U> calls(0, true);
        sum = cache.size() + cache.nbytes() + cache.index_nbytes() + cache.limits().max_bytes +
              cache.stats().stored + cache.stats(Tier::user).entries + (cache.empty() ? 1 : 0);
        TestType moved = std::move(cache);
        lease.reset();
        room.reset();
        cache = std::move(moved);
        cache.set_removal_listener(nullptr);
        struck = failing.stop();
    }
    sound = cache.check_invariants();
    CHECK(sound);
    CHECK(sum > 0);
    CHECK_FALSE(struck);
    CHECK(cache.stats().bytes_leased == 0);
    CHECK(cache.stats().bytes_reserved == 0);
    STATIC_REQUIRE(std::is_nothrow_move_constructible_v<TestType>);
    STATIC_REQUIRE(std::is_nothrow_move_assignable_v<TestType>);
    STATIC_REQUIRE(std::is_nothrow_move_constructible_v<typename TestType::Lease>);
    STATIC_REQUIRE(std::is_nothrow_move_constructible_v<typename TestType::Reservation>);
}

} // namespace of_every_function
