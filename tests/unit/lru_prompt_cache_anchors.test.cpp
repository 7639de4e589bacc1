// SPDX-License-Identifier: MIT
// LRUPromptCache: keys that are remembered with tier and place while a longer entry serves them.

#include <promptkv/lru_prompt_cache.hpp>

#include "catch.hpp"
#include "letters.hpp"

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace {

using namespace promptkv_test;
using promptkv::Match;
using promptkv::Outcome;
using promptkv::RemovalReason;
using promptkv::Tier;

using Cache = LRUPromptCache<Tape>;

constexpr Shape whole_only = {.step = 0};

/// The anchors of `cache`, of all tiers.
template <class C>
std::size_t anchors(const C& cache) {
    return cache.stats(Tier::assistant).anchors + cache.stats(Tier::user).anchors +
           cache.stats(Tier::system).anchors;
}

TEST_CASE("A key that another entry serves becomes an anchor and keeps its payload outside") {
    Cache cache;
    store(cache, "abcdef"_key, Tier::assistant);
    Tape system = tape("abc"_key);
    const auto inserted = cache.insert("m", "abc"_key, std::move(system), Tier::system);
    REQUIRE(inserted.outcome == Outcome::anchored);
    REQUIRE(system.recording().tokens.size() == 3); // not moved from
    REQUIRE(contents(cache) == "abcdef0");
    REQUIRE(cache.size() == 1);
    REQUIRE(cache.nbytes() == 6);
    REQUIRE(cache.stats().anchored == 1);
    REQUIRE(cache.stats(Tier::system).anchors == 1);
    REQUIRE(cache.stats(Tier::system).entries == 0);
    REQUIRE(cache.stats(Tier::system).nbytes == 0);
    REQUIRE(cache.check_invariants());

    SECTION("again it stays one") {
        REQUIRE(store(cache, "abc"_key, Tier::system).outcome == Outcome::anchored);
        REQUIRE(anchors(cache) == 1);
    }
    SECTION("its tier never falls") {
        REQUIRE(store(cache, "abc"_key, Tier::user).outcome == Outcome::anchored);
        REQUIRE(cache.stats(Tier::system).anchors == 1);
        REQUIRE(cache.stats(Tier::user).anchors == 0);
    }
    SECTION("it is handed back by no search: the entry that serves it is") {
        const auto hit = cache.fetch_nearest("m", "abc"_key, {.min_remaining = 0});
        REQUIRE(hit.match == Match::longer);
        REQUIRE(hit.reused == 3);
        REQUIRE(hit.tier == Tier::assistant);
    }
}

TEST_CASE("A key is anchored only where its entry could be cut to it") {
    SECTION("not without truncate") {
        LRUPromptCache<ClonedTape> cache;
        store(cache, "abcdef"_key, Tier::user);
        REQUIRE(store(cache, "abc"_key, Tier::user).outcome == Outcome::stored);
        REQUIRE_FALSE(cache.mark("m", "abcd"_key, Tier::user));
    }
    SECTION("not where the cache does not cut") {
        Cache cache({.cut_granularity = 0});
        store(cache, "abcdef"_key, Tier::user);
        REQUIRE(store(cache, "abc"_key, Tier::user).outcome == Outcome::stored);
        REQUIRE_FALSE(cache.mark("m", "abcd"_key, Tier::user));
    }
    SECTION("not where its state does not serve it") {
        Cache cache;
        store(cache, "abcdef"_key, Tier::user, {.step = 4});
        REQUIRE(store(cache, "abc"_key, Tier::user).outcome == Outcome::stored);
        REQUIRE(store(cache, "abcd"_key, Tier::user).outcome == Outcome::anchored);
    }
    SECTION("not without anchors") {
        Cache cache({.keep_anchors = false});
        store(cache, "abcdef"_key, Tier::user);
        REQUIRE(store(cache, "abc"_key, Tier::user).outcome == Outcome::stored);
        REQUIRE_FALSE(cache.mark("m", "abcd"_key, Tier::user));
        REQUIRE(anchors(cache) == 0);
    }
}

TEST_CASE("mark makes an anchor of a prefix that an entry serves") {
    Cache cache;
    store(cache, "abcdef"_key, Tier::assistant);
    REQUIRE(cache.mark("m", "abc"_key, Tier::system));
    REQUIRE(cache.stats(Tier::system).anchors == 1);
    REQUIRE(cache.mark("m", "abc"_key, Tier::user));
    REQUIRE(cache.stats(Tier::system).anchors == 1); // the tier never falls
    REQUIRE(contents(cache) == "abcdef0");

    SECTION("not of one that nothing serves") {
        REQUIRE_FALSE(cache.mark("m", "abx"_key, Tier::system));
        REQUIRE_FALSE(cache.mark("m", "abcdefg"_key, Tier::system));
        REQUIRE_FALSE(cache.mark("other", "abc"_key, Tier::system));
        REQUIRE(anchors(cache) == 1);
    }
    REQUIRE(cache.check_invariants());
}

TEST_CASE("Anchors count in the lengths of the queues, not among the entries") {
    Cache cache({.max_entries = 2});
    store(cache, "sxyz"_key, Tier::assistant);
    store(cache, "u"_key, Tier::user);
    REQUIRE(cache.mark("m", "s"_key, Tier::user));
    REQUIRE(cache.mark("m", "sx"_key, Tier::user));
    REQUIRE(cache.size() == 2);
    // One assistant and three users, of which two are anchors: users give, u is the coldest.
    store(cache, "q"_key, Tier::assistant);
    REQUIRE(contents(cache) == "q0 sxyz0");
}

TEST_CASE("An anchor raises no removal") {
    Cache cache;
    store(cache, "abcdef"_key, Tier::assistant);
    cache.mark("m", "abc"_key, Tier::system);
    std::size_t removals = 0;
    cache.on_removal([&removals](const auto&) { ++removals; });
    REQUIRE(cache.clear() == 1);
    REQUIRE(removals == 1);
    REQUIRE(anchors(cache) == 0);
}

// Under pressure /////////////////////////////////////////////////////////////

TEST_CASE("A conversation loses its turns first, and its system prompt last") {
    Cache cache({.cut_granularity = 1});
    store(cache, "ssss"_key, Tier::system);
    store(cache, "ssssuuuu"_key, Tier::user);
    store(cache, "ssssuuuuaaaa"_key, Tier::assistant);
    REQUIRE(contents(cache) == "ssssuuuuaaaa0");
    REQUIRE(cache.stats(Tier::user).anchors == 1);
    REQUIRE(cache.stats(Tier::system).anchors == 1);

    cache.trim_to({.max_bytes = 11});
    REQUIRE(contents(cache) == "ssssuuuuaa0");
    cache.trim_to({.max_bytes = 9});
    REQUIRE(contents(cache) == "ssssuuuu1");
    REQUIRE(cache.stats(Tier::user).anchors == 0);
    cache.trim_to({.max_bytes = 7});
    REQUIRE(contents(cache) == "ssssuuu1");
    cache.trim_to({.max_bytes = 5});
    REQUIRE(cache.check_invariants());
    cache.trim_to({.max_bytes = 4});
    REQUIRE(contents(cache) == "ssss2");
    REQUIRE(anchors(cache) == 0);
    REQUIRE(cache.check_invariants());
}

TEST_CASE("A cut that reaches an anchor stops there") {
    Cache cache({.max_bytes = 16, .cut_granularity = 1});
    store(cache, "abcdefghijkl"_key, Tier::assistant);
    REQUIRE(cache.mark("m", "abcdefgh"_key, Tier::system));
    std::vector<RemovalReason> reasons;
    cache.on_removal([&reasons](const auto& removal) { reasons.push_back(removal.reason); });
    store(cache, "uvwxyz"_key, Tier::assistant); // two bytes are wanted
    REQUIRE(contents(cache) == "abcdefghij0 uvwxyz0");
    store(cache, "ponm"_key, Tier::assistant); // four more: two from each
    REQUIRE(contents(cache) == "abcdefgh2 ponm0 uvwx0");
    REQUIRE(cache.stats(Tier::system).entries == 1);
    REQUIRE(cache.stats(Tier::system).anchors == 0);
    REQUIRE(cache.check_invariants());
    REQUIRE((reasons == std::vector<RemovalReason>(3, RemovalReason::cut)));
}

TEST_CASE("A cut passes an anchor that another entry serves") {
    Cache cache({.cut_granularity = 1});
    store(cache, "abcdefgh"_key, Tier::assistant);
    store(cache, "abcdwxyz"_key, Tier::assistant);
    REQUIRE(cache.mark("m", "abcd"_key, Tier::system));
    cache.trim_to({.max_bytes = 11});
    // abc would be left, and abcdwxyz serves that as well as the anchor: dropped whole.
    REQUIRE(contents(cache) == "abcdwxyz0");
    REQUIRE(cache.stats(Tier::system).anchors == 1);
    REQUIRE(cache.check_invariants());
}

TEST_CASE("An anchor that comes up as victim is forgotten") {
    Cache cache({.cut_granularity = 1});
    store(cache, "abcdef"_key, Tier::user);
    cache.mark("m", "abc"_key, Tier::assistant);
    cache.mark("m", "abcd"_key, Tier::assistant);
    REQUIRE(anchors(cache) == 2);
    REQUIRE(cache.trim_to({.max_entries = 0}) == 1);
    REQUIRE(anchors(cache) == 0);
    REQUIRE(cache.empty());
    REQUIRE(cache.check_invariants());
}

// Without what served it /////////////////////////////////////////////////////

TEST_CASE("An anchor may outlive what served it") {
    Cache cache;
    store(cache, "abcdef"_key, Tier::assistant);
    cache.mark("m", "abc"_key, Tier::system);

    SECTION("erased") {
        REQUIRE(cache.erase("m", "abcdef"_key));
    }
    SECTION("taken") {
        REQUIRE(cache.take_nearest("m", "abcdefg"_key));
    }
    SECTION("replaced by what does not serve it") {
        REQUIRE(store(cache, "abcdef"_key, Tier::assistant, whole_only).outcome ==
                Outcome::replaced);
        REQUIRE(cache.erase("m", "abcdef"_key));
    }
    REQUIRE(cache.empty());
    REQUIRE(cache.stats(Tier::system).anchors == 1);
    REQUIRE(cache.check_invariants());

    // It is handed back by no search.
    REQUIRE_FALSE(cache.fetch_nearest("m", "abcd"_key));
    REQUIRE_FALSE(cache.fetch_nearest("m", "abc"_key, {.min_remaining = 0}));
    REQUIRE_FALSE(cache.lease_nearest("m", "abcd"_key));
    REQUIRE_FALSE(cache.take_nearest("m", "abcd"_key));
    REQUIRE(cache.probe("m", "ab"_key, {.min_remaining = 0}).reused == 0);

    // Storing its key stores the payload, in the higher tier.
    REQUIRE(store(cache, "abc"_key, Tier::assistant).outcome == Outcome::stored);
    REQUIRE(contents(cache) == "abc2");
    REQUIRE(anchors(cache) == 0);
    REQUIRE(cache.check_invariants());
}

TEST_CASE("Anchors are served again by an entry that comes later") {
    Cache cache({.cut_granularity = 1});
    store(cache, "abcdef"_key, Tier::assistant);
    cache.mark("m", "abcd"_key, Tier::system);
    cache.erase("m", "abcdef"_key);
    store(cache, "abcdxyz"_key, Tier::assistant);
    REQUIRE(cache.stats(Tier::system).anchors == 1);
    cache.trim_to({.max_bytes = 5});
    cache.trim_to({.max_bytes = 4});
    REQUIRE(contents(cache) == "abcd2");
}

TEST_CASE("The least recent anchor is forgotten beyond 64 for each entry and one more") {
    Cache cache;
    Tokens key(300);
    for (std::size_t i = 0; i < key.size(); ++i) {
        key[i] = static_cast<std::int32_t>(i);
    }
    store(cache, key, Tier::assistant);
    for (std::size_t n = 1; n < 300; ++n) {
        REQUIRE(cache.mark("m", std::span(key).first(n), Tier::user));
        REQUIRE(anchors(cache) <= 64 * (cache.size() + 1));
    }
    REQUIRE(anchors(cache) == 128);
    cache.clear();
    REQUIRE(anchors(cache) == 0);
    REQUIRE(cache.check_invariants());
}

TEST_CASE("A match refreshes the anchors that it ran over") {
    Cache cache;
    store(cache, "abcdef"_key, Tier::system);
    store(cache, "uvwxyz"_key, Tier::system);
    cache.mark("m", "ab"_key, Tier::user);
    cache.mark("m", "uv"_key, Tier::user);
    std::string remembered = "ab1 uv0";

    SECTION("a longer match, which leaves its entry's recency alone") {
        REQUIRE(cache.fetch_nearest("m", "abq"_key).match == Match::longer);
    }
    SECTION("a shorter match") {
        REQUIRE(cache.fetch_nearest("m", "abcdefg"_key).match == Match::shorter);
    }
    SECTION("a lease") {
        REQUIRE(cache.lease_nearest("m", "abcdefg"_key).match == Match::shorter);
    }
    SECTION("but not one that was cut before it") {
        REQUIRE(cache.fetch_nearest("m", "ab"_key).reused == 1);
        remembered = "ab0 uv1";
    }
    SECTION("nor a probe") {
        REQUIRE(cache.probe("m", "abcdefg"_key).reused == 6);
        remembered = "ab0 uv1";
    }
    // The users are as many as the systems: the colder anchor goes, and then one entry.
    REQUIRE(cache.trim_to({.max_entries = 1}) == 1);
    REQUIRE(cache.stats(Tier::user).anchors == 1);
    cache.erase("m", "abcdef"_key);
    cache.erase("m", "uvwxyz"_key);
    // A key that is remembered is stored in its anchor's tier.
    store(cache, "ab"_key, Tier::assistant);
    store(cache, "uv"_key, Tier::assistant);
    REQUIRE(contents(cache) == remembered);
}

} // namespace
