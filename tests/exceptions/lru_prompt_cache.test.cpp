// SPDX-License-Identifier: MIT
// LRUPromptCache where memory fails: as before whenever it throws, sound whenever it goes on.

#include <promptkv/lru_prompt_cache.hpp>

#include "catch.hpp"
#include "fail_each_allocation.hpp"
#include "letters.hpp"
#include "state.hpp"

#include <array>
#include <cstddef>
#include <functional>
#include <new>
#include <string>
#include <utility>

namespace {

using namespace promptkv_test;
using promptkv::Outcome;
using promptkv::Tier;

using Cache = LRUPromptCache<Tape>;

constexpr Shape whole_only = {.step = 0};
constexpr const char* long_model = "a model whose name is too long to be kept within a string";

/// Entries of all kinds, of two models, an anchor, and no room left.
Cache filled() {
    Cache cache({.max_bytes = 40, .max_entries = 6, .cut_granularity = 2});
    store(cache, "mno"_key, Tier::user, whole_only);
    store(cache, "abcdefgh"_key, Tier::assistant);
    store(cache, "abcxyz"_key, Tier::user);
    store(cache, "mnopqr"_key, Tier::user, whole_only);
    cache.mark("m", "abcd"_key, Tier::user);
    cache.insert(long_model, "abcdefghij"_key, tape("abcdefghij"_key), Tier::system);
    cache.mark(long_model, "ab"_key, Tier::system);
    return cache;
}

std::string order_of(Cache& cache) {
    return eviction_order(cache);
}

/// Lets each allocation of `act` on a filled cache fail. Returns how many there were.
template <class Act>
std::size_t fail_each(Act act, Makeshift makeshift = Makeshift::none) {
    const auto state = [](const Cache& cache) {
        static const std::string models[] = {"m", long_model};
        return state_of(cache, {&models[0], &models[1]});
    };
    return fail_each_allocation(filled, act, state, order_of, makeshift);
}

TEST_CASE("An insert that finds no memory has not happened") {
    struct Row {
        std::string_view what;
        std::span<const std::int32_t> key;
        Tier tier;
        Shape shape;
        Makeshift makeshift = Makeshift::none;
    };
    const Row row = GENERATE(values<Row>({
        {"a new key", "xyz"_key, Tier::user, {}},
        {"one that splits an edge", "abq"_key, Tier::user, {}},
        {"one that goes on", "abcxyzw"_key, Tier::user, whole_only},
        {"one that absorbs", "abcxyzwv"_key, Tier::user, {}},
        // Where there is no memory for the anchor the entry keeps its payload.
        {"one that absorbs and leaves an anchor",
         "abcxyzwv"_key,
         Tier::assistant,
         {},
         Makeshift::other},
        {"one that supersedes", "mnopqrst"_key, Tier::user, whole_only},
        {"the same key", "abcxyz"_key, Tier::user, {}},
        {"the same key in a higher tier", "abcxyz"_key, Tier::system, {}},
        {"a new anchor", "abc"_key, Tier::user, {}},
        {"an anchor again", "abcd"_key, Tier::system, {}},
        {"too large", "q"_key, Tier::user, {.overhead = 100}},
        {"an empty key", ""_key, Tier::user, {}},
    }));
    INFO(row.what);
    REQUIRE(fail_each([&row](Cache& cache) { store(cache, row.key, row.tier, row.shape); },
                      row.makeshift) > 0);
}

TEST_CASE("An insert that evicts throws only before anything was evicted") {
    const auto key = GENERATE("uvwxyz"_key, "abcdevwxyz"_key, "abcdefghijklmnopqrstuvwxyz"_key);
    CAPTURE(text(key));
    REQUIRE(fail_each([&key](Cache& cache) { store(cache, key, Tier::system); }, Makeshift::other) >
            0);
}

TEST_CASE("An insert for a new model that finds no memory leaves no model behind") {
    REQUIRE(fail_each([](Cache& cache) {
                cache.insert("another model whose name is too long for a string", "xyz"_key,
                             tape("xyz"_key), Tier::user);
            }) > 0);
}

TEST_CASE("An insert with make that finds no memory has not happened") {
    REQUIRE(fail_each([](Cache& cache) {
                cache.insert("m", "xyz"_key, 3, Tier::user, [] { return tape("xyz"_key); });
            }) > 0);
}

TEST_CASE("A payload is not moved from by an insert that throws") {
    std::size_t failures = 0;
    for (std::size_t skip = 0;; ++skip) {
        Cache cache = filled();
        Tape kv = tape("abcdevwxyz"_key);
        bool threw = false;
        {
            FailingNew failing(skip);
            try {
                cache.insert("m", "abcdevwxyz"_key, std::move(kv), Tier::user);
            } catch (const std::bad_alloc&) {
                threw = true;
            }
        }
        CHECK(kv.recording().tokens.size() == (threw ? 10U : 0U));
        if (!threw) {
            break;
        }
        ++failures;
    }
    REQUIRE(failures > 0);
}

TEST_CASE("A lookup that finds no memory changes nothing") {
    const auto prompt = GENERATE("abcdefgh"_key, "abcdefghijk"_key, "abcdq"_key, "mnop"_key);
    CAPTURE(text(prompt));
    SECTION("fetch") {
        REQUIRE(fail_each([&prompt](Cache& cache) { cache.fetch_nearest("m", prompt); }) > 0);
    }
    SECTION("lease needs none") {
        REQUIRE(fail_each([&prompt](Cache& cache) {
                    const auto lease = cache.lease_nearest("m", prompt);
                }) == 0);
    }
    SECTION("take") {
        fail_each([&prompt](Cache& cache) { cache.take_nearest("m", prompt); });
        SUCCEED("it may need none");
    }
    SECTION("probe needs none") {
        REQUIRE(fail_each([&prompt](Cache& cache) { (void)cache.probe("m", prompt); }) == 0);
    }
}

TEST_CASE("A mark that finds no memory has not happened") {
    const auto key = GENERATE("abcdef"_key, "abcd"_key, "abc"_key, "xyz"_key);
    CAPTURE(text(key));
    fail_each([&key](Cache& cache) { cache.mark("m", key, Tier::system); });
    SUCCEED("it may need none");
}

TEST_CASE("What removes entries does all or nothing, whatever memory there is") {
    SECTION("erase") {
        const auto key = GENERATE("abcdefgh"_key, "abcxyz"_key, "mno"_key, "mnopqr"_key);
        CAPTURE(text(key));
        fail_each([&key](Cache& cache) { cache.erase("m", key); });
        SUCCEED("it may need none");
    }
    SECTION("pop_prefixes") {
        fail_each([](Cache& cache) { cache.pop_prefixes("m", "mnopqrs"_key); });
        SUCCEED("it may need none");
    }
    SECTION("erase_model") {
        fail_each([](Cache& cache) { cache.erase_model("m"); });
        SUCCEED("it may need none");
    }
    SECTION("clear") {
        fail_each([](Cache& cache) { cache.clear(); });
        SUCCEED("it may need none");
    }
    SECTION("trim_to") {
        fail_each([](Cache& cache) { cache.trim_to({.max_entries = 2}); });
        fail_each([](Cache& cache) { cache.trim_to({.max_bytes = 15}); }, Makeshift::other);
        SUCCEED("it may need none");
    }
    SECTION("set_limits") {
        fail_each([](Cache& cache) { cache.set_limits({.max_bytes = 15}); }, Makeshift::other);
        SUCCEED("it may need none");
    }
    SECTION("evict_while") {
        fail_each([](Cache& cache) { cache.evict_while([&cache] { return cache.nbytes() > 20; }); },
                  Makeshift::other);
        SUCCEED("it may need none");
    }
}

TEST_CASE("Limits are held to whatever memory there is") {
    for (std::size_t skip = 0;; ++skip) {
        CAPTURE(skip);
        Cache cache = filled();
        bool struck = false;
        {
            FailingNew failing(skip, true);
            cache.set_limits({.max_bytes = 9, .max_entries = 3});
            struck = failing.stop();
        }
        CHECK(cache.nbytes() <= 9);
        CHECK(cache.size() <= 3);
        CHECK(cache.check_invariants());
        if (!struck) {
            break;
        }
    }
}

TEST_CASE("Each removal is told, with empty tokens where memory is wanting") {
    for (std::size_t skip = 0;; ++skip) {
        CAPTURE(skip);
        Cache cache = filled();
        std::size_t told = 0;
        std::size_t bytes = 0;
        cache.on_removal([&](const auto& removal) {
            ++told;
            bytes += removal.bytes;
        });
        const std::size_t entries = cache.size();
        const std::size_t held = cache.nbytes();
        bool struck = false;
        bool threw = false;
        {
            FailingNew failing(skip, true);
            try {
                cache.trim_to({.max_entries = 0});
            } catch (const std::bad_alloc&) {
                threw = true;
            }
            struck = failing.stop();
        }
        if (threw) {
            CHECK(told == 0);
            CHECK(cache.size() == entries);
        } else {
            CHECK(told == entries);
            CHECK(bytes == held);
            CHECK(cache.empty());
        }
        CHECK(cache.check_invariants());
        if (!struck) {
            break;
        }
    }
}

TEST_CASE("A listener that cannot be kept leaves the old one") {
    const auto large = [] {
        struct {
            std::array<char, 200> bytes{};
            std::string* log = nullptr;
        } state;
        return state;
    };
    std::string log;
    Cache cache = filled();
    cache.on_removal([&log](const auto& removal) { log += text(removal.tokens); });
    bool threw = false;
    {
        FailingNew failing(0);
        try {
            cache.on_removal([state = large()](const auto&) { (void)state; });
        } catch (const std::bad_alloc&) {
            threw = true;
        }
    }
    REQUIRE(threw);
    cache.erase("m", "mno"_key);
    REQUIRE(log == "mno");
}

TEST_CASE("for_each that finds no memory passes the failure on") {
    fail_each([](Cache& cache) {
        std::size_t tokens = 0;
        cache.for_each([&tokens](const auto& entry) { tokens += entry.tokens.size(); });
    });
    SUCCEED("it may need none");
}

} // namespace
