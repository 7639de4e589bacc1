// SPDX-License-Identifier: MIT
// LRUPromptCache: payloads that are lent, and what happens to their entries meanwhile.

#include <promptkv/lru_prompt_cache.hpp>

#include "catch.hpp"
#include "letters.hpp"

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace {

using namespace promptkv_test;
using promptkv::Match;
using promptkv::Outcome;
using promptkv::RemovalReason;
using promptkv::Tier;

using Cache = LRUPromptCache<Tape>;
using Lease = Cache::Lease;

constexpr Shape whole_only = {.step = 0};

std::string leased(const Lease& lease) {
    return text(lease.kv().recording().tokens);
}

TEST_CASE("A lease lends the whole payload, which may hold more than is reused") {
    Cache cache;
    store(cache, "abcdef"_key, Tier::user);
    const auto prompt = "abcx"_key;
    const Lease lease = cache.lease_nearest("m", prompt);
    REQUIRE(lease);
    REQUIRE(leased(lease) == "abcdef");
    REQUIRE(lease.reused == 3);
    REQUIRE(lease.match == Match::longer);
    REQUIRE(lease.tier == Tier::user);
    REQUIRE(text(lease.remaining) == "x");
    REQUIRE(cache.stats().bytes_leased == 6);
    REQUIRE(cache.check_invariants());
}

TEST_CASE("A lease is moved, not copied") {
    STATIC_REQUIRE(std::is_nothrow_move_constructible_v<Lease>);
    STATIC_REQUIRE(std::is_nothrow_move_assignable_v<Lease>);
    STATIC_REQUIRE_FALSE(std::is_copy_constructible_v<Lease>);
    STATIC_REQUIRE_FALSE(std::is_copy_assignable_v<Lease>);

    Cache cache({.max_entries = 2});
    store(cache, "abc"_key, Tier::user);
    store(cache, "xyz"_key, Tier::user);
    Lease first = cache.lease_nearest("m", "abcd"_key);
    Lease second = std::move(first);
    REQUIRE(second);
    REQUIRE(leased(second) == "abc");
    REQUIRE(cache.stats().bytes_leased == 3);

    SECTION("assigned to, it ends what it was") {
        Lease other = cache.lease_nearest("m", "xyzw"_key);
        REQUIRE(cache.stats().bytes_leased == 6);
        other = std::move(second);
        REQUIRE(leased(other) == "abc");
        REQUIRE(cache.stats().bytes_leased == 3);
        other = Lease();
        REQUIRE(cache.stats().bytes_leased == 0);
    }
}

TEST_CASE("Leases of one entry end one by one") {
    Cache cache;
    store(cache, "abc"_key, Tier::user);
    std::optional<Lease> first = cache.lease_nearest("m", "abcd"_key);
    std::optional<Lease> second = cache.lease_nearest("m", "abcx"_key);
    REQUIRE(&first->kv() == &second->kv());
    REQUIRE(cache.stats().bytes_leased == 3);
    first.reset();
    REQUIRE(cache.stats().bytes_leased == 3);
    REQUIRE(cache.trim_to({.max_entries = 0}) == 0);
    second.reset();
    REQUIRE(cache.stats().bytes_leased == 0);
    REQUIRE(cache.trim_to({.max_entries = 0}) == 1);
}

TEST_CASE("A leased entry is no victim") {
    Cache cache({.max_entries = 2});
    store(cache, "abc"_key, Tier::user);
    store(cache, "mno"_key, Tier::user);
    {
        const Lease lease = cache.lease_nearest("m", "abcd"_key);
        cache.fetch_nearest("m", "mnop"_key); // the leased one is the colder
        REQUIRE(store(cache, "xyz"_key, Tier::user).evicted == 1);
        REQUIRE(contents(cache) == "abc1 xyz1");
        REQUIRE(cache.check_invariants());
    }
    store(cache, "pqr"_key, Tier::user);
    REQUIRE(contents(cache) == "pqr1 xyz1");
}

TEST_CASE("insert is refused where payload plus what is leased exceeds a limit") {
    SECTION("bytes") {
        Cache cache({.max_bytes = 10});
        store(cache, "abcdef"_key, Tier::user);
        store(cache, "xyz"_key, Tier::user);
        std::optional<Lease> lease = cache.lease_nearest("m", "abcdefg"_key);
        Tape refused = tape("pqrst"_key);
        REQUIRE(cache.insert("m", "pqrst"_key, std::move(refused), Tier::user).outcome ==
                Outcome::no_room);
        REQUIRE(refused.recording().tokens.size() == 5); // not moved from
        REQUIRE(contents(cache) == "abcdef1 xyz1");      // nothing was touched
        REQUIRE(cache.stats().no_room == 1);
        REQUIRE(store(cache, "pqrs"_key, Tier::user).outcome == Outcome::stored);
        REQUIRE(contents(cache) == "abcdef1 pqrs1");
        lease.reset();
        REQUIRE(store(cache, "uvwxy"_key, Tier::user).outcome == Outcome::stored);
    }
    SECTION("entries") {
        Cache cache({.max_entries = 1});
        store(cache, "abc"_key, Tier::user);
        std::optional<Lease> lease = cache.lease_nearest("m", "abcd"_key);
        REQUIRE(store(cache, "xyz"_key, Tier::user).outcome == Outcome::no_room);
        lease.reset();
        REQUIRE(store(cache, "xyz"_key, Tier::user).outcome == Outcome::stored);
        REQUIRE(contents(cache) == "xyz1");
    }
}

TEST_CASE("A payload that left its entry lives as long as it is leased, and its bytes count") {
    Cache cache;
    store(cache, "abc"_key, Tier::user);
    store(cache, "xy"_key, Tier::user);
    std::optional<Lease> lease = cache.lease_nearest("m", "abcd"_key);
    bool had_payload = true;
    std::size_t removals = 0;
    cache.on_removal([&](const auto& removal) {
        had_payload = removal.payload != nullptr;
        ++removals;
    });
    std::size_t held = 2 + 3; // by xy, and by the lease
    std::string left = "xy1";

    SECTION("erased") {
        REQUIRE(cache.erase("m", "abc"_key));
    }
    SECTION("of an erased model") {
        REQUIRE(cache.erase_model("m") == 2);
        removals = 1;
        held = 3;
        left = "";
        had_payload = false;
    }
    SECTION("replaced") {
        REQUIRE(store(cache, "abc"_key, Tier::user, {.overhead = 7}).outcome == Outcome::replaced);
        held += 10;
        left = "abc1 xy1";
    }
    SECTION("absorbed") {
        REQUIRE(store(cache, "abcdef"_key, Tier::user).absorbed == 1);
        held += 6;
        left = "abcdef1 xy1";
    }
    SECTION("popped") {
        REQUIRE(cache.pop_prefixes("m", "abcd"_key) == 1);
    }
    REQUIRE(removals == 1);
    REQUIRE_FALSE(had_payload);
    REQUIRE(contents(cache) == left);
    REQUIRE(leased(*lease) == "abc");
    REQUIRE(cache.nbytes() == held);
    REQUIRE(cache.stats().bytes_leased == 3);
    REQUIRE(cache.check_invariants());
    lease.reset();
    REQUIRE(cache.nbytes() == held - 3);
    REQUIRE(cache.stats().bytes_leased == 0);
    REQUIRE(cache.check_invariants());
}

TEST_CASE("clear leaves what is leased to its leases") {
    Cache cache;
    store(cache, "abc"_key, Tier::user);
    store(cache, "xyz"_key, Tier::user);
    std::optional<Lease> lease = cache.lease_nearest("m", "abcd"_key);
    REQUIRE(cache.clear() == 2);
    REQUIRE(cache.empty());
    REQUIRE(cache.nbytes() == 3);
    REQUIRE(leased(*lease) == "abc");
    // A later end of the lease brings nothing back.
    store(cache, "abc"_key, Tier::user);
    lease.reset();
    REQUIRE(cache.nbytes() == 3);
    REQUIRE(contents(cache) == "abc1");
    REQUIRE(cache.check_invariants());
}

TEST_CASE("take_nearest does not take what is leased") {
    Cache cache;
    store(cache, "abc"_key, Tier::user);
    std::optional<Lease> lease = cache.lease_nearest("m", "abcd"_key);
    REQUIRE_FALSE(cache.take_nearest("m", "abcd"_key));
    REQUIRE(contents(cache) == "abc1");
    lease.reset();
    REQUIRE(cache.take_nearest("m", "abcd"_key));
    REQUIRE(cache.empty());
}

TEST_CASE("A limit lowered below what is leased lets everything else go") {
    Cache cache({.cut_granularity = 0});
    store(cache, "abcdef"_key, Tier::user);
    store(cache, "xyz"_key, Tier::user);
    std::optional<Lease> lease = cache.lease_nearest("m", "abcdefg"_key);
    cache.set_limits({.max_bytes = 4});
    REQUIRE(cache.nbytes() == 6); // what is leased is all that is left
    REQUIRE(leased(*lease) == "abcdef");
    REQUIRE(store(cache, "q"_key, Tier::user).outcome == Outcome::no_room);
    REQUIRE(cache.check_invariants());
    lease.reset();
    REQUIRE(cache.nbytes() <= 4);
    REQUIRE(store(cache, "q"_key, Tier::user).outcome == Outcome::stored);
    REQUIRE(cache.check_invariants());
}

TEST_CASE("A lease may outlive the cache") {
    std::optional<Lease> lease;
    {
        Cache cache;
        store(cache, "abc"_key, Tier::user);
        lease = cache.lease_nearest("m", "abcd"_key);
    }
    REQUIRE(leased(*lease) == "abc");
    lease.reset();
    REQUIRE_FALSE(lease.has_value());
}

TEST_CASE("A lease survives a move of the cache") {
    Cache cache;
    store(cache, "abc"_key, Tier::user);
    std::optional<Lease> lease = cache.lease_nearest("m", "abcd"_key);
    Cache moved = std::move(cache);
    REQUIRE(leased(*lease) == "abc");
    REQUIRE(moved.trim_to({.max_entries = 0}) == 0);
    REQUIRE(moved.stats().bytes_leased == 3);
    lease.reset();
    REQUIRE(moved.stats().bytes_leased == 0);
    REQUIRE(moved.trim_to({.max_entries = 0}) == 1);
    REQUIRE(moved.check_invariants());
}

TEST_CASE("A lease of nothing is empty") {
    Cache cache;
    REQUIRE_FALSE(Lease());
    const Lease miss = cache.lease_nearest("m", "abc"_key);
    REQUIRE_FALSE(miss);
    REQUIRE(miss.reused == 0);
    REQUIRE(miss.match == Match::none);
    REQUIRE(text(miss.remaining) == "abc");
}

TEST_CASE("A leased payload's key may be split, merged and extended meanwhile") {
    Cache cache({.keep_anchors = false});
    store(cache, "abcdef"_key, Tier::user, whole_only);
    const Lease lease = cache.lease_nearest("m", "abcdefg"_key);
    store(cache, "abcxyz"_key, Tier::user, whole_only);
    store(cache, "abc"_key, Tier::user, whole_only);
    store(cache, "abcdefgh"_key, Tier::user, whole_only);
    REQUIRE(cache.erase("m", "abc"_key));
    REQUIRE(cache.erase("m", "abcxyz"_key));
    REQUIRE(cache.trim_to({.max_entries = 0}) == 1);
    REQUIRE(contents(cache) == "abcdef1");
    REQUIRE(leased(lease) == "abcdef");
    REQUIRE(cache.check_invariants());
}

} // namespace
