// SPDX-License-Identifier: MIT
// LRUPromptCache where the caller's types throw: payloads, models, functions that it was given.

#include <promptkv/lru_prompt_cache.hpp>

#include "catch.hpp"
#include "letters.hpp"

#include <cstddef>
#include <functional>
#include <stdexcept>
#include <string>
#include <utility>

namespace {

/// What has been told to fail.
struct Refusal : std::runtime_error {
    Refusal() : std::runtime_error("told to fail") {}
};

/// A switch that makes the types of this file throw.
inline bool refusing = false;

void may_refuse() {
    if (refusing) {
        throw Refusal();
    }
}

/// While it lives, the types of this file throw.
struct Refusing {
    Refusing() { refusing = true; }
    ~Refusing() { refusing = false; }
    Refusing(const Refusing&) = delete;
    Refusing& operator=(const Refusing&) = delete;
};

/// A model that throws when it is copied.
struct Name {
    std::string name;

    explicit Name(std::string given) : name(std::move(given)) {}
    Name(const Name& other) : name((may_refuse(), other.name)) {}
    Name(Name&&) noexcept = default;
    Name& operator=(const Name&) = delete;
    Name& operator=(Name&&) noexcept = default;
    ~Name() = default;

    friend bool operator==(const Name& a, const Name& b) { return a.name == b.name; }
};

} // namespace

template <>
struct std::hash<Name> {
    std::size_t operator()(const Name& name) const noexcept {
        return std::hash<std::string>()(name.name);
    }
};

namespace {

using namespace promptkv_test;
using promptkv::Outcome;
using promptkv::RemovalReason;
using promptkv::Tier;

/// Cuts and clones, or throws.
struct Reluctant {
    std::size_t n = 0;

    std::size_t nbytes() const noexcept { return n; }
    std::size_t reusable_prefix(std::size_t wanted) const noexcept { return wanted; }
    Reluctant clone_prefix(std::size_t wanted) const {
        may_refuse();
        return {wanted};
    }
    void truncate(std::size_t wanted) {
        may_refuse();
        n = wanted;
    }
};

/// Is copied whole, or throws.
struct Unwilling {
    std::size_t n = 0;

    explicit Unwilling(std::size_t tokens) : n(tokens) {}
    Unwilling(const Unwilling& other) : n((may_refuse(), other.n)) {}
    Unwilling(Unwilling&&) noexcept = default;
    Unwilling& operator=(const Unwilling&) = delete;
    Unwilling& operator=(Unwilling&&) noexcept = default;
    ~Unwilling() = default;

    std::size_t nbytes() const noexcept { return n; }
};

/// The cache's entries, bytes and the keys in the order in which they leave.
template <class Cache>
std::string used_up(Cache& cache) {
    const std::string state = contents(cache) + " " + std::to_string(cache.nbytes()) + " ";
    return state + eviction_order(cache);
}

TEST_CASE("A clone that throws leaves the cache as it was, its order too") {
    LRUPromptCache<Reluctant> cache;
    cache.insert("m", "abcd"_key, Reluctant{4}, Tier::user);
    cache.insert("m", "xyz"_key, Reluctant{3}, Tier::user);
    {
        const Refusing now;
        REQUIRE_THROWS_AS(cache.fetch_nearest("m", "abcde"_key), Refusal);
        REQUIRE_THROWS_AS(cache.fetch_nearest("m", "abcx"_key), Refusal);
    }
    REQUIRE(cache.check_invariants());
    REQUIRE(cache.stats().tokens_reused == 0);
    REQUIRE(cache.stats().bytes_leased == 0);
    REQUIRE(used_up(cache) == "abcd1 xyz1 7 abcd xyz");
}

TEST_CASE("A copy that throws leaves the cache as it was, its order too") {
    LRUPromptCache<Unwilling> cache;
    cache.insert("m", "abcd"_key, Unwilling(4), Tier::user);
    cache.insert("m", "xyz"_key, Unwilling(3), Tier::user);
    {
        const Refusing now;
        REQUIRE_THROWS_AS(cache.fetch_nearest("m", "abcde"_key), Refusal);
    }
    REQUIRE(cache.check_invariants());
    REQUIRE(used_up(cache) == "abcd1 xyz1 7 abcd xyz");
}

TEST_CASE("A truncate that throws costs its entry alone") {
    LRUPromptCache<Reluctant> cache({.max_bytes = 24, .cut_granularity = 1});
    cache.insert("m", "abcdefghijklmnop"_key, Reluctant{16}, Tier::user);
    cache.insert("m", "xyz"_key, Reluctant{3}, Tier::user);
    std::string told;
    cache.on_removal([&told](const auto& removal) {
        told += text(removal.tokens) + ":" + std::to_string(static_cast<int>(removal.reason));
    });

    SECTION("when room is made for another") {
        const Refusing now;
        const auto inserted = cache.insert("m", "stuvwx"_key, Reluctant{6}, Tier::user);
        REQUIRE(inserted.outcome == Outcome::stored);
        REQUIRE(inserted.evicted == 1);
        REQUIRE(inserted.cut == 0);
        REQUIRE(contents(cache) == "stuvwx1 xyz1");
        REQUIRE(cache.nbytes() == 9);
        REQUIRE(told ==
                "abcdefghijklmnop:" + std::to_string(static_cast<int>(RemovalReason::evicted)));
    }
    SECTION("when it is trimmed") {
        const Refusing now;
        REQUIRE(cache.trim_to({.max_bytes = 10}) == 1);
        REQUIRE(contents(cache) == "xyz1");
        REQUIRE(cache.nbytes() == 3);
    }
    SECTION("when it is taken") {
        const Refusing now;
        REQUIRE_THROWS_AS(cache.take_nearest("m", "abcdefghijklmnop"_key), Refusal);
        REQUIRE(contents(cache) == "xyz1");
        REQUIRE(cache.nbytes() == 3);
        REQUIRE(told ==
                "abcdefghijklmnop:" + std::to_string(static_cast<int>(RemovalReason::evicted)));
    }
    REQUIRE(cache.check_invariants());
    REQUIRE(cache.stats().evicted == 1);
    REQUIRE(cache.stats(Tier::user).evicted == 1);
}

TEST_CASE("When make throws the evictions stand, and nothing else happened") {
    LRUPromptCache<Reluctant> cache({.max_bytes = 10, .cut_granularity = 0});
    cache.insert("m", "abcd"_key, Reluctant{4}, Tier::user);
    cache.insert("m", "xyz"_key, Reluctant{3}, Tier::user);
    const auto fail = []() -> Reluctant { throw Refusal(); };

    SECTION("a new key") {
        REQUIRE_THROWS_AS(cache.insert("m", "stuvwx"_key, 6, Tier::user, fail), Refusal);
        REQUIRE(contents(cache) == "xyz1");
        REQUIRE(cache.nbytes() == 3);
        REQUIRE(cache.stats().inserted == 2);
        REQUIRE(cache.stats().evicted == 1);
    }
    SECTION("a new model") {
        REQUIRE_THROWS_AS(cache.insert("other", "st"_key, 2, Tier::user, fail), Refusal);
        REQUIRE(contents(cache) == "abcd1 xyz1");
        REQUIRE(cache.erase_model("other") == 0);
    }
    SECTION("a stored key keeps its payload") {
        REQUIRE_THROWS_AS(cache.insert("m", "xyz"_key, 3, Tier::system, fail), Refusal);
        REQUIRE(contents(cache) == "abcd1 xyz1");
        REQUIRE(cache.nbytes() == 7);
    }
    REQUIRE_FALSE(cache.probe("m", "stuvwx"_key).reused > 0);
    REQUIRE(cache.check_invariants());
    // And it works when asked again.
    REQUIRE(cache.insert("m", "stuvwx"_key, Reluctant{6}, Tier::user).outcome == Outcome::stored);
    REQUIRE(cache.check_invariants());
}

TEST_CASE("A model that cannot be copied is not stored") {
    LRUPromptCache<Reluctant, Name> cache;
    const Name known("known");
    const Name unknown("unknown");
    cache.insert(known, "abcd"_key, Reluctant{4}, Tier::user);
    {
        const Refusing now;
        Reluctant kv{3};
        REQUIRE_THROWS_AS(cache.insert(unknown, "xyz"_key, std::move(kv), Tier::user), Refusal);
        REQUIRE(kv.n == 3);
        // One that is there needs no copy.
        REQUIRE(cache.insert(known, "xyz"_key, Reluctant{3}, Tier::user).outcome ==
                Outcome::stored);
        REQUIRE(cache.probe(known, "abcde"_key).reused == 4);
        REQUIRE(cache.probe(unknown, "abcde"_key).reused == 0);
    }
    REQUIRE(cache.size() == 2);
    REQUIRE(cache.nbytes(unknown) == 0);
    REQUIRE(cache.check_invariants());
    REQUIRE(cache.insert(unknown, "xyz"_key, Reluctant{3}, Tier::user).outcome == Outcome::stored);
    REQUIRE(cache.size() == 3);
}

TEST_CASE("A predicate or visitor that throws leaves the cache whole") {
    LRUPromptCache<Reluctant> cache({.cut_granularity = 0});
    cache.insert("m", "abcd"_key, Reluctant{4}, Tier::user);
    cache.insert("m", "mno"_key, Reluctant{3}, Tier::user);
    cache.insert("m", "xyz"_key, Reluctant{3}, Tier::user);
    int asked = 0;
    std::string told;
    cache.on_removal([&told](const auto& removal) { told += text(removal.tokens); });
    REQUIRE_THROWS_AS(cache.evict_while([&asked]() -> bool {
        if (++asked == 2) {
            throw Refusal();
        }
        return true;
    }),
                      Refusal);
    REQUIRE(told == "abcd");
    REQUIRE(contents(cache) == "mno1 xyz1");
    REQUIRE_THROWS_AS(cache.for_each([](const auto&) { throw Refusal(); }), Refusal);
    REQUIRE(cache.check_invariants());
    REQUIRE(contents(cache) == "mno1 xyz1");
}

} // namespace
