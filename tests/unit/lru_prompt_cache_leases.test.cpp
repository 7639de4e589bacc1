// SPDX-License-Identifier: MIT
// LRUPromptCache: payloads that are lent, and what happens to their entries meanwhile.

#include <promptkv/lru_prompt_cache.hpp>

#include "catch.hpp"
#include "unit_payloads.hpp"

#include <array>
#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace {

using namespace promptkv_test;
using promptkv::LRUPromptCache;
using promptkv::Match;
using promptkv::MissReason;
using promptkv::Outcome;
using promptkv::RemovalReason;
using promptkv::Tier;

using Cache = LRUPromptCache<Tape>;
using Lease = Cache::Lease;

TEST_CASE("A lease lends the whole payload, which may hold more than is reused") {
    Cache cache;
    store(cache, "abcdef", Tier::user);
    const Lease lease = cache.lease_nearest("m", key("abcx"));
    REQUIRE(lease);
    CHECK(text_of(lease.kv()) == "abcdef");
    CHECK(lease.reused() == 3);
    CHECK(lease.match() == Match::longer);
    CHECK(lease.tier() == Tier::user);
    CHECK(word(lease.remaining(key("abcx"))) == "x");
    CHECK(cache.stats().bytes_leased == 6);
    CHECK(cache.check_invariants());
}

TEST_CASE("A lease copies nothing") {
    LRUPromptCache<ThrowsWhenCopied> cache;
    cache.insert("m", key("a"), ThrowsWhenCopied(), Tier::user);
    CHECK(cache.lease_nearest("m", key("ab")).reused() == 1);
}

TEST_CASE("A lease is moved, not copied") {
    STATIC_REQUIRE(std::is_nothrow_move_constructible_v<Lease>);
    STATIC_REQUIRE(std::is_nothrow_move_assignable_v<Lease>);
    STATIC_REQUIRE_FALSE(std::is_copy_constructible_v<Lease>);
    STATIC_REQUIRE_FALSE(std::is_copy_assignable_v<Lease>);

    Cache cache({.max_entries = 2});
    store(cache, "abc", Tier::user);
    store(cache, "xyz", Tier::user);
    Lease first = cache.lease_nearest("m", key("abcd"));
    Lease second = std::move(first);
    REQUIRE(second);
    CHECK(second.reused() == 3);
    CHECK(text_of(second.kv()) == "abc");
    CHECK(cache.stats().bytes_leased == 3);

    SECTION("and ends when it is assigned to") {
        Lease other = cache.lease_nearest("m", key("xyzw"));
        CHECK(cache.stats().bytes_leased == 6);
        other = std::move(second);
        CHECK(text_of(other.kv()) == "abc");
        CHECK(cache.stats().bytes_leased == 3);
        other = Lease();
        CHECK(cache.stats().bytes_leased == 0);
    }
}

TEST_CASE("A lease can be ended early, and again") {
    Cache cache;
    store(cache, "abc", Tier::user);
    Lease lease = cache.lease_nearest("m", key("abcd"));
    lease.end();
    CHECK(cache.stats().bytes_leased == 0);
    lease.end();
    CHECK(cache.stats().bytes_leased == 0);
    CHECK(cache.take_nearest("m", key("abcd")));
}

TEST_CASE("A lease of nothing is empty") {
    Cache cache;
    CHECK_FALSE(Lease());
    const Lease miss = cache.lease_nearest("m", key("abc"));
    CHECK_FALSE(miss);
    CHECK(miss.reused() == 0);
    CHECK(miss.match() == Match::none);
    CHECK(miss.miss() == MissReason::nothing_shared);
}

TEST_CASE("Leases of one entry end one by one") {
    Cache cache;
    store(cache, "abc", Tier::user);
    Lease first = cache.lease_nearest("m", key("abcd"));
    Lease second = cache.lease_nearest("m", key("abcx"));
    CHECK(&first.kv() == &second.kv());
    CHECK(cache.stats().bytes_leased == 3);
    first.end();
    CHECK(cache.stats().bytes_leased == 3);
    CHECK(cache.trim_to({.max_entries = 0}) == 0);
    second.end();
    CHECK(cache.stats().bytes_leased == 0);
    CHECK(cache.trim_to({.max_entries = 0}) == 1);
}

TEST_CASE("A leased entry stays where room is made") {
    Cache cache({.max_entries = 2});
    store(cache, "abc", Tier::user);
    store(cache, "mno", Tier::user);
    {
        const Lease lease = cache.lease_nearest("m", key("abcd"));
        CHECK(cache.touch("m", key("mno"))); // the leased one is the colder
        CHECK(store(cache, "xyz", Tier::user).evicted == 1);
        CHECK(contents(cache) == "abc1 xyz1");
        CHECK(cache.check_invariants());
    }
    store(cache, "pqr", Tier::user);
    CHECK(contents(cache) == "pqr1 xyz1");
}

TEST_CASE("Entries come back in their order, whichever lease ends first") {
    const auto ends = GENERATE(values<std::array<std::size_t, 3>>(
        {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}}));
    Cache cache;
    std::vector<Lease> leases;
    for (const char* word : {"abc", "mno", "pqr"}) {
        store(cache, word, Tier::user);
        leases.push_back(cache.lease_nearest("m", key(word)));
    }
    store(cache, "xyz", Tier::user);
    CHECK(cache.trim_to({.max_entries = 3}) == 1);
    for (const std::size_t i : ends)
        leases[i].end();
    CHECK(eviction_order(cache) == "abc mno pqr");
}

TEST_CASE("A payload that left its entry lives as long as it is leased, and its bytes count") {
    Cache cache;
    store(cache, "abc", Tier::user, whole_only);
    store(cache, "xy", Tier::user);
    Lease lease = cache.lease_nearest("m", key("abcd"));
    std::size_t of_abc = 0;
    bool had_payload = false;
    cache.set_removal_listener([&](const auto& removal) {
        if (word(removal.tokens) == "abc") {
            ++of_abc;
            had_payload = removal.payload != nullptr;
        }
    });
    std::size_t held = 2 + 3; // by xy, and by the lease
    std::string left = "xy1";

    SECTION("erased") {
        CHECK(cache.erase("m", key("abc")));
    }
    SECTION("erased with all that continues a prefix") {
        CHECK(cache.erase_below("m", key("ab")) == 1);
    }
    SECTION("erased with its model") {
        CHECK(cache.erase_model("m") == 2);
        held = 3;
        left = "";
    }
    SECTION("replaced") {
        CHECK(store(cache, "abc", Tier::user, {.overhead = 7}).outcome == Outcome::replaced);
        held += 10;
        left = "abc1 xy1";
    }
    SECTION("absorbed") {
        CHECK(store(cache, "abcdef", Tier::user).absorbed == 1);
        held += 6;
        left = "abcdef1 xy1";
    }
    SECTION("popped") {
        CHECK(cache.pop_prefixes("m", key("abcd")) == 1);
    }
    SECTION("cleared") {
        CHECK(cache.clear() == 2);
        held = 3;
        left = "";
    }
    CHECK(of_abc == 1);
    CHECK_FALSE(had_payload);
    CHECK(contents(cache) == left);
    CHECK(text_of(lease.kv()) == "abc");
    CHECK(cache.nbytes() == held);
    CHECK(cache.stats().bytes_leased == 3);
    CHECK(cache.check_invariants());
    lease.end();
    CHECK(cache.nbytes() == held - 3);
    CHECK(cache.stats().bytes_leased == 0);
    CHECK(contents(cache) == left);
    CHECK(cache.check_invariants());
}

TEST_CASE("take_nearest does not take what is leased, and says so") {
    Cache cache;
    store(cache, "abc", Tier::user);
    Lease lease = cache.lease_nearest("m", key("abcd"));
    const auto refused = cache.take_nearest("m", key("abcd"));
    CHECK_FALSE(refused);
    CHECK(refused.miss() == MissReason::leased);
    CHECK(cache.stats().missed_leased == 1);
    CHECK(contents(cache) == "abc1");
    lease.end();
    CHECK(cache.take_nearest("m", key("abcd")));
    CHECK(cache.empty());
}

TEST_CASE("A lease may outlive the cache") {
    Lease lease;
    {
        Cache cache;
        store(cache, "abc", Tier::user);
        lease = cache.lease_nearest("m", key("abcd"));
    }
    CHECK(text_of(lease.kv()) == "abc");
    lease.end();

    SECTION("also a lease of shared blocks") {
        LRUPromptCache<Blocks>::Lease of_blocks;
        {
            LRUPromptCache<Blocks> cache;
            store(cache, "abcd", Tier::user);
            store(cache, "abxy", Tier::user);
            of_blocks = cache.lease_nearest("m", key("abcde"));
        }
        CHECK(text_of(of_blocks.kv()) == "abcd");
    }
}

TEST_CASE("A lease survives a move of the cache") {
    Cache cache;
    store(cache, "abc", Tier::user);
    Lease lease = cache.lease_nearest("m", key("abcd"));
    Cache moved = std::move(cache);
    CHECK(text_of(lease.kv()) == "abc");
    CHECK(moved.trim_to({.max_entries = 0}) == 0);
    CHECK(moved.stats().bytes_leased == 3);
    lease.end();
    CHECK(moved.stats().bytes_leased == 0);
    CHECK(moved.trim_to({.max_entries = 0}) == 1);
    CHECK(moved.check_invariants());
}

TEST_CASE("The key of a leased payload may be split, merged and extended meanwhile") {
    Cache cache;
    store(cache, "abcdef", Tier::user, whole_only);
    const Lease lease = cache.lease_nearest("m", key("abcdefg"));
    store(cache, "abcxyz", Tier::user, whole_only);
    store(cache, "abc", Tier::user, whole_only);
    store(cache, "abcdefgh", Tier::user, whole_only);
    CHECK(cache.erase("m", key("abc")));
    CHECK(cache.erase("m", key("abcxyz")));
    CHECK(cache.trim_to({.max_entries = 0}) == 1);
    CHECK(contents(cache) == "abcdef1");
    CHECK(text_of(lease.kv()) == "abcdef");
    CHECK(cache.check_invariants());
}

TEST_CASE("An absorbed payload that is leased counts until its lease ends") {
    Cache cache({.max_bytes = 10});
    store(cache, "abcd", Tier::user);
    const Lease lease = cache.lease_nearest("m", key("abcde"));
    CHECK(store(cache, "abcdefg", Tier::user, whole_only).outcome == Outcome::no_room);
    CHECK(store(cache, "abcdef", Tier::user).outcome == Outcome::stored);
    CHECK(contents(cache) == "abcdef1");
    CHECK(cache.nbytes() == 10);
    CHECK(cache.check_invariants());
}

/// Blocks, with something to do after the cache has walked them once.
struct Walked {
    Blocks blocks;
    std::function<void()>* then = nullptr;

    [[nodiscard]] std::size_t nbytes() const noexcept { return blocks.nbytes(); }
    template <class F>
    void for_each_block(std::size_t from, F&& f) const {
        blocks.for_each_block(from, f);
        if (then != nullptr && *then)
            std::exchange(*then, nullptr)();
    }
};

TEST_CASE("Blocks stay counted while one lease ends and another's entry leaves") {
    std::function<void()> then;
    LRUPromptCache<Walked> cache;
    const Blocks shared = blocks("abcdef");
    cache.insert("m", key("abc"), Walked{shared, &then}, Tier::user);
    cache.insert("m", key("xyz"), Walked{shared, &then}, Tier::user);
    auto first = cache.lease_nearest("m", key("abc"), {.min_remaining = 0});
    auto second = cache.lease_nearest("m", key("xyz"), {.min_remaining = 0});
    cache.erase("m", key("abc"));
    CHECK(cache.nbytes() == 6);
    then = [&first] { first.end(); };
    cache.erase("m", key("xyz"));
    CHECK_FALSE(first);
    CHECK(cache.nbytes() == 6);
    CHECK(cache.check_invariants());
    second.end();
    CHECK(cache.nbytes() == 0);
}

/// A payload that is asked for its size ends a lease, as another thread may at that moment.
struct EndsLease {
    std::size_t bytes = 0;
    std::function<void()> when_asked{};

    [[nodiscard]] std::size_t nbytes() const noexcept {
        if (when_asked)
            when_asked();
        return bytes;
    }
};

TEST_CASE("An entry that was set aside is no room for an insert during which its lease ends") {
    using Ending = promptkv::LRUPromptCache<EndsLease>;
    const bool by_entries = GENERATE(true, false);
    Ending cache(by_entries ? Ending::Options{.max_entries = 2}
                            : Ending::Options{.max_bytes = 100});
    cache.insert("m", key("aa"), {50}, Tier::user);
    cache.insert("m", key("bb"), {50}, Tier::user);
    auto lease = cache.lease_nearest("m", key("aa"), {.min_remaining = 0});
    cache.touch("m", key("bb"));
    cache.insert("m", key("cc"), {50}, Tier::user); // "aa" is set aside, and "bb" leaves
    REQUIRE(cache.probe("m", key("bb"), {.min_remaining = 0}).reused() == 0);
    const auto other = cache.lease_nearest("m", key("cc"), {.min_remaining = 0});
    const auto inserted = cache.insert("m", key("dd"), {50, [&] { lease.end(); }}, Tier::user);
    CHECK(inserted.outcome == Outcome::no_room);
    CHECK(cache.size() == 2);
    CHECK(cache.nbytes() == 100);
    CHECK(cache.insert("m", key("dd"), {50}, Tier::user).outcome ==
          Outcome::stored); // a call later
    CHECK(cache.size() == 2);
    CHECK(cache.check_invariants());
}

} // namespace
