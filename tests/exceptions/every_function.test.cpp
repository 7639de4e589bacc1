// SPDX-License-Identifier: MIT
// Every public function of LRUPromptCache, where each allocation, each hash, comparison and copy of a
// model, each copy and cut of a payload, and each making of one fails in turn.

#include <promptkv/lru_prompt_cache.hpp>

#include "catch.hpp"
#include "fail_each_allocation.hpp"
#include "letters.hpp"
#include "state.hpp"

#include <array>
#include <cstddef>
#include <functional>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

namespace {

using namespace promptkv_test;
using promptkv::Outcome;
using promptkv::Tier;

// the caller's types, and how they fail ///////////////////////////////////////

/// What the types of this file are asked for; combined with |.
enum Call : unsigned {
    hash = 1,
    comparison = 2,
    model_copy = 4,
    payload_copy = 8,
    making = 16,
    cut = 32
};

/// What has been told to fail.
struct Refusal : std::runtime_error {
    Refusal() : std::runtime_error("told to fail") {}
};

/// How calls fail: of those that `which` names, the one that comes after `skip` others, and, where
/// it is lasting, all after it.
struct Refusing {
    unsigned which = 0;
    std::size_t skip = 0;
    bool lasting = false;
    bool struck = false;
};
Refusing refusing;

void called(Call call) {
    if ((refusing.which & call) == 0 || (refusing.struck && !refusing.lasting)) {
        return;
    }
    if (refusing.skip > 0) {
        --refusing.skip;
        return;
    }
    refusing.struck = true;
    throw Refusal();
}

/// Calls that fail, for fail_each_allocation.
template <unsigned which>
class FailingCalls {
public:
    using Thrown = Refusal;

    FailingCalls(std::size_t skip, bool lasting) noexcept {
        refusing = {which, skip, lasting, false};
    }
    ~FailingCalls() { refusing = {}; }
    FailingCalls(const FailingCalls&) = delete;
    FailingCalls& operator=(const FailingCalls&) = delete;

    bool stop() noexcept { return std::exchange(refusing, {}).struck; }
};

struct Name {
    std::string name;

    explicit Name(std::string given) : name(std::move(given)) {}
    Name(const Name& other) : name((called(model_copy), other.name)) {}
    Name& operator=(const Name&) = delete;
    ~Name() = default;

    friend bool operator==(const Name& a, const Name& b) {
        called(comparison);
        return a.name == b.name;
    }
};

} // namespace

template <>
struct std::hash<Name> {
    std::size_t operator()(const Name& name) const {
        called(::hash);
        return name.name.size(); // some collide
    }
};

namespace {

struct Reluctant {
    std::size_t n = 0;

    std::size_t nbytes() const noexcept { return n; }
    std::size_t length() const noexcept { return n; }
    std::size_t reusable_prefix(std::size_t wanted) const noexcept { return wanted; }
    Reluctant clone_prefix(std::size_t wanted) const {
        called(payload_copy);
        return {wanted};
    }
    void truncate(std::size_t wanted) {
        called(cut);
        n = wanted;
    }
};

using Cache = LRUPromptCache<Reluctant, Name>;
using Key = std::span<const std::int32_t>;

// Names that are too long to be kept within a string; `twin` collides with `known`.
const Name known("a model that has entries of several tiers, and an anchor");
const Name twin("another one, whose hash is the same, with some entries.");
const Name unknown("a model that has nothing");

/// Entries of two models whose hashes collide, anchors, and hardly any room left.
Cache filled() {
    Cache cache({.max_bytes = 40, .max_entries = 6, .cut_granularity = 2});
    cache.insert(known, "mnopqr"_key, Reluctant{6}, Tier::user);
    cache.insert(known, "abcdefgh"_key, Reluctant{8}, Tier::assistant);
    cache.insert(known, "abcxyz"_key, Reluctant{6}, Tier::user);
    cache.mark(known, "abcd"_key, Tier::user);
    cache.insert(twin, "abcdefghij"_key, Reluctant{10}, Tier::system);
    cache.mark(twin, "ab"_key, Tier::system);
    return cache;
}

void insert(Cache& cache, const Name& model, Key key, Tier tier) {
    cache.insert(model, key, Reluctant{key.size()}, tier);
}

void insert_made(Cache& cache, const Name& model, Key key, Tier tier) {
    cache.insert(model, key, key.size(), tier, [key] {
        called(making);
        return Reluctant{key.size()};
    });
}

/// One use of a public function.
struct Use {
    const char* what;
    void (*act)(Cache&);
    Makeshift without_memory = Makeshift::none;
};

/// Uses in which nothing is evicted: what throws has not happened.
const Use uses[] = {
    {"insert: a new key", [](Cache& cache) { insert(cache, known, "stu"_key, Tier::user); }},
    {"insert: a new model", [](Cache& cache) { insert(cache, unknown, "stu"_key, Tier::user); }},
    {"insert: the same key",
     [](Cache& cache) { insert(cache, known, "abcxyz"_key, Tier::system); }},
    {"insert: an anchor", [](Cache& cache) { insert(cache, twin, "abc"_key, Tier::user); }},
    {"insert: an anchor again", [](Cache& cache) { insert(cache, known, "abcd"_key, Tier::user); }},
    {"insert: absorbs", [](Cache& cache) { insert(cache, known, "abcxyzuv"_key, Tier::user); }},
    {"insert: absorbs, and an anchor stays",
     [](Cache& cache) { insert(cache, known, "mnopqrs"_key, Tier::assistant); }, Makeshift::other},
    {"insert: too large",
     [](Cache& cache) {
         cache.insert(known, "s"_key, 41, Tier::user, [] { return Reluctant{1}; });
     }},
    {"insert with make: a new key",
     [](Cache& cache) { insert_made(cache, known, "stu"_key, Tier::user); }},
    {"insert with make: a new model",
     [](Cache& cache) { insert_made(cache, unknown, "stu"_key, Tier::user); }},
    {"insert with make: the same key",
     [](Cache& cache) { insert_made(cache, known, "abcxyz"_key, Tier::system); }},
    {"insert with make: an anchor",
     [](Cache& cache) { insert_made(cache, twin, "abc"_key, Tier::user); }},
    {"insert with make: absorbs",
     [](Cache& cache) { insert_made(cache, known, "abcxyzuv"_key, Tier::user); }},
    {"mark: a new anchor", [](Cache& cache) { cache.mark(known, "abcdef"_key, Tier::system); }},
    {"mark: an anchor", [](Cache& cache) { cache.mark(known, "abcd"_key, Tier::system); }},
    {"mark: an entry", [](Cache& cache) { cache.mark(known, "abcxyz"_key, Tier::system); }},
    {"mark: nothing", [](Cache& cache) { cache.mark(unknown, "abcxyz"_key, Tier::system); }},
    {"fetch_nearest: exact",
     [](Cache& cache) { cache.fetch_nearest(known, "abcxyz"_key, {.min_remaining = 0}); }},
    {"fetch_nearest: shorter", [](Cache& cache) { cache.fetch_nearest(twin, "abcdefghijk"_key); }},
    {"fetch_nearest: longer", [](Cache& cache) { cache.fetch_nearest(known, "mnoz"_key); }},
    {"fetch_nearest: none", [](Cache& cache) { cache.fetch_nearest(unknown, "mnoz"_key); }},
    {"lease_nearest",
     [](Cache& cache) {
         auto lease = cache.lease_nearest(known, "abcdefghi"_key);
         const auto moved = std::move(lease);
     },
     Makeshift::other},
    {"take_nearest", [](Cache& cache) { cache.take_nearest(known, "abcxyzw"_key); }},
    {"take_nearest: cut", [](Cache& cache) { cache.take_nearest(known, "abcxyz"_key); }},
    {"probe", [](Cache& cache) { (void)cache.probe(known, "abcdq"_key); }},
    {"erase: an entry", [](Cache& cache) { cache.erase(known, "abcxyz"_key); }},
    {"erase: an anchor", [](Cache& cache) { cache.erase(known, "abcd"_key); }},
    {"erase: the last of a model",
     [](Cache& cache) { cache.pop_prefixes(twin, "abcdefghijk"_key); }},
    {"pop_prefixes", [](Cache& cache) { cache.pop_prefixes(known, "abcdefghi"_key); }},
    {"erase_model", [](Cache& cache) { cache.erase_model(known); }},
    {"nbytes", [](Cache& cache) { (void)cache.nbytes(twin); }},
    {"for_each",
     [](Cache& cache) {
         cache.for_each([](const auto& entry) { called(entry.nbytes > 0 ? making : hash); });
     }},
    {"move",
     [](Cache& cache) {
         Cache other = std::move(cache);
         cache = std::move(other);
     }},
};

/// A use in which something leaves for want of room, and the limits that hold afterwards.
struct Eviction {
    const char* what;
    void (*act)(Cache&);
    std::size_t comes; // bytes that are stored
    std::size_t max_bytes;
    std::size_t max_entries;
};

const Eviction evictions[] = {
    {"insert", [](Cache& cache) { insert(cache, known, "stuvwxyzstuvwx"_key, Tier::system); }, 14,
     40, 6},
    {"insert: hardly anything else stays",
     [](Cache& cache) {
         insert(cache, unknown, "stuvwxyzstuvwxyzstuvwxyzstuvwxyz"_key, Tier::user);
     },
     32, 40, 6},
    {"insert with make",
     [](Cache& cache) {
         cache.insert(known, "stuvwxyzstuvwx"_key, 14, Tier::system, [] { return Reluctant{14}; });
     },
     14, 40, 6},
    {"trim_to: bytes", [](Cache& cache) { cache.trim_to({.max_bytes = 13}); }, 0, 13, 6},
    {"trim_to: entries", [](Cache& cache) { cache.trim_to({.max_entries = 1}); }, 0, 40, 1},
    {"set_limits", [](Cache& cache) { cache.set_limits({.max_bytes = 17, .max_entries = 3}); }, 0,
     17, 3},
    {"evict_while", [](Cache& cache) { cache.evict_while([&] { return cache.nbytes() > 9; }); }, 0,
     9, 6},
    {"clear", [](Cache& cache) { cache.clear(); }, 0, 0, 0},
};

std::string state(const Cache& cache) {
    return state_of(cache, {&known, &twin, &unknown});
}

std::string order(Cache& cache) {
    return eviction_order(cache);
}

TEST_CASE("Each allocation of each function fails: as before where it throws, and no leak") {
    for (const Use& use : uses) {
        INFO(use.what);
        fail_each_allocation(filled, use.act, state, order, use.without_memory);
    }
    for (const Eviction& use : evictions) {
        INFO(use.what);
        fail_each_allocation(filled, use.act, state, order, Makeshift::other);
    }
}

TEST_CASE("Each hash, comparison, copy and making of each function fails: as before, and no leak") {
    constexpr unsigned which = hash | comparison | model_copy | payload_copy | making;
    std::size_t failures = 0;
    for (const Use& use : uses) {
        INFO(use.what);
        failures += fail_each_allocation<FailingCalls<which>>(filled, use.act, state, order,
                                                              use.without_memory);
    }
    CHECK(failures > 4 * std::size(uses));
    for (const Eviction& use : evictions) {
        INFO(use.what);
        fail_each_allocation<FailingCalls<which>>(filled, use.act, state, order);
    }
}

TEST_CASE("Each cut of each function fails: what it is for is done, the account is exact") {
    std::size_t failures = 0;
    for (const bool told : {false, true}) {
        for (const Eviction& use : evictions) {
            INFO(use.what << (told ? ", told to a listener" : ""));
            std::size_t bytes = 0;
            const auto listened = [told, &bytes] {
                Cache cache = filled();
                bytes = 0;
                if (told) {
                    cache.on_removal([&bytes](const auto& removal) { bytes += removal.bytes; });
                }
                return cache;
            };
            const auto act = [&](Cache& cache) {
                const std::size_t held = cache.nbytes();
                use.act(cache);
                CHECK(cache.nbytes() <= use.max_bytes);
                CHECK(cache.size() <= use.max_entries);
                if (told) {
                    CHECK(cache.nbytes() == held + use.comes - bytes);
                }
            };
            failures += fail_each_allocation<FailingCalls<cut>>(listened, act, state, order,
                                                                Makeshift::other);
        }
    }
    CHECK(failures > 0);
}

TEST_CASE("A cache that cannot be made leaves nothing behind") {
    for (std::size_t skip = 0;; ++skip) {
        CAPTURE(skip);
        const std::size_t blocks = live_blocks;
        bool threw = false;
        {
            FailingNew failing(skip);
            try {
                const Cache cache({.max_bytes = 1});
            } catch (const std::bad_alloc&) {
                threw = true;
            }
        }
        const bool kept = live_blocks != blocks;
        CHECK_FALSE(kept);
        if (!threw) {
            CHECK(skip > 0);
            break;
        }
    }
}

TEST_CASE("What only tells, moves or ends needs no memory and asks nothing of the caller's types") {
    Cache cache = filled();
    std::optional<Cache::Lease> lease(cache.lease_nearest(known, "abcdefghi"_key));
    bool sound = false;
    std::size_t sum = 0;
    bool struck = true;
    {
        FailingNew failing(0, true);
        const FailingCalls<~0U> calls(0, true);
        sum = cache.size() + cache.nbytes() + cache.index_nbytes() + cache.limits().max_bytes +
              cache.stats().inserted + cache.stats(Tier::user).entries + (cache.empty() ? 1 : 0);
        sound = cache.check_invariants();
        Cache moved = std::move(cache);
        lease.reset();
        cache = std::move(moved);
        cache.on_removal(nullptr);
        struck = failing.stop();
    }
    CHECK(sound);
    CHECK(sum > 0);
    CHECK_FALSE(struck);
    CHECK(cache.stats().bytes_leased == 0);
    CHECK(cache.check_invariants());
    STATIC_REQUIRE(std::is_nothrow_move_constructible_v<Cache>);
    STATIC_REQUIRE(std::is_nothrow_move_assignable_v<Cache>);
    STATIC_REQUIRE(std::is_nothrow_move_constructible_v<Cache::Lease>);
    STATIC_REQUIRE(noexcept(cache.clear()));
    STATIC_REQUIRE(noexcept(cache.trim_to({})));
    STATIC_REQUIRE(noexcept(cache.set_limits({})));
}

} // namespace
