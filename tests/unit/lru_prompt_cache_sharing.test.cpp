// SPDX-License-Identifier: MIT
// LRUPromptCache: state that several entries hold exists once and is counted once.

#include <promptkv/lru_prompt_cache.hpp>

#include "catch.hpp"
#include "unit_payloads.hpp"

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace of_sharing {

using namespace promptkv_test;
using promptkv::LRUPromptCache;
using promptkv::Outcome;
using promptkv::RemovalReason;
using promptkv::Tier;

using Cache = LRUPromptCache<Blocks>;

/// What the stored payloads refer to.
template <class C>
std::size_t referenced(const C& cache) {
    return cache.stats().bytes_referenced;
}

TEST_CASE("A block that several entries hold is counted once") {
    Cache cache;
    const Blocks first = blocks("abcdef");
    cache.insert("m", key("abcdef"), Blocks(first), Tier::user);
    Blocks second = first.clone_prefix(4);
    append_rest(second, "abcdxy");
    cache.insert("m", key("abcdxy"), std::move(second), Tier::user);
    CHECK(cache.size() == 2);
    CHECK(cache.nbytes() == 8);
    CHECK(referenced(cache) == 12);
    CHECK(cache.nbytes("m") == 12); // what its entries refer to
    CHECK(cache.stats(Tier::user).nbytes == 12);
    CHECK(cache.check_invariants());

    SECTION("and leaves with the last of them") {
        CHECK(cache.erase("m", key("abcdef")));
        CHECK(cache.nbytes() == 6);
        CHECK(referenced(cache) == 6);
        CHECK(cache.erase("m", key("abcdxy")));
        CHECK(cache.nbytes() == 0);
    }
    CHECK(cache.check_invariants());
}

TEST_CASE("State that was computed twice is held once") {
    Cache cache;
    store(cache, "abcdef", Tier::user);
    struct Row {
        std::string_view word;
        std::size_t nbytes;
    };
    const Row row = GENERATE(values<Row>({
        {"abcdxy", 8},   // four tokens in whole blocks
        {"abcxyz", 10},  // two
        {"axyz", 10},    // none
        {"abcdefgh", 8}, // it absorbs the other as well
    }));
    CAPTURE(row.word);
    store(cache, row.word, Tier::user);
    CHECK(cache.nbytes() == row.nbytes);
    CHECK(cache.check_invariants());
}

TEST_CASE("A payload adopts from the entry that shares most of its tokens") {
    Cache cache;
    store(cache, "abxxxxxx", Tier::user);
    store(cache, "abcdxxxx", Tier::user);
    store(cache, "abcdefxx", Tier::system);
    const std::size_t before = cache.nbytes();
    CHECK(before == 8 + 6 + 4);
    store(cache, "abcdefgh", Tier::user);
    CHECK(cache.nbytes() == before + 2);
}

TEST_CASE("Only the new blocks of a payload need room") {
    Cache cache({.max_bytes = 8});
    store(cache, "abcdef", Tier::user);
    const auto inserted = store(cache, "abcdxy", Tier::user);
    CHECK(inserted.outcome == Outcome::stored);
    CHECK(inserted.evicted == 0);
    CHECK(inserted.cut == 0);
    CHECK(contents(cache) == "abcdef1 abcdxy1");
    CHECK(cache.nbytes() == 8);
}

TEST_CASE("A payload with a state shares its blocks, too") {
    LRUPromptCache<Hybrid> cache;
    store(cache, "abcd", Tier::user);
    store(cache, "abcdef", Tier::user);
    CHECK(cache.size() == 2); // entries with a state are not absorbed
    CHECK(cache.nbytes() == 6 + 4 + 6);
    CHECK(referenced(cache) == 8 + 12);
    CHECK(cache.check_invariants());
}

TEST_CASE("A refused payload holds its state, and may share blocks with the cache") {
    LRUPromptCache<Hybrid> cache({.max_bytes = 13});
    store(cache, "abcd", Tier::user);
    const auto lease = cache.lease_nearest("m", key("abcdx"));
    Hybrid kv = blocks<Hybrid>("abcdef");
    CHECK(cache.insert("m", key("abcdef"), std::move(kv), Tier::user).outcome == Outcome::no_room);
    CHECK(text_of(kv) == "abcdef"); // NOLINT(bugprone-use-after-move): it was not moved from
    CHECK(kv.state().text == "abcdef");
    CHECK(cache.nbytes() == 8);
    CHECK(cache.check_invariants());
}

TEST_CASE("A system prompt below a conversation costs its last block at most") {
    Cache cache;
    store(cache, "abcde", Tier::system);
    store(cache, "abcdefgh", Tier::assistant);
    CHECK(contents(cache) == "abcde2 abcdefgh0");
    CHECK(cache.nbytes() == 5 + 4); // "ab", "cd", "e"; and "ef", "gh"

    SECTION("and outlives what is erased above it") {
        CHECK(cache.erase("m", key("abcdefgh")));
        CHECK(cache.probe("m", key("abcdex")).reused() == 5);
    }
    SECTION("and what is taken") {
        CHECK(cache.take_nearest("m", key("abcdefghi")));
        CHECK(cache.probe("m", key("abcdex")).reused() == 5);
    }
    SECTION("and what is evicted") {
        CHECK(cache.trim_to({.max_entries = 1}) == 1);
        CHECK(contents(cache) == "abcde2");
        CHECK(cache.nbytes() == 5);
    }
}

TEST_CASE("Blocks that only a clone of the caller holds are the caller's") {
    Cache cache;
    store(cache, "abcdef", Tier::user);
    const auto hit = cache.fetch_nearest("m", key("abcdx"));
    REQUIRE(hit);
    CHECK(cache.nbytes() == 6);
    CHECK(cache.stats().bytes_leased == 0);
    CHECK(cache.trim_to({.max_entries = 0}) == 1); // nothing is pinned
    CHECK(cache.nbytes() == 0);
    CHECK(text_of(hit.kv) == "abcd");
}

TEST_CASE("A fetch shares the blocks that it hands out") {
    Cache cache;
    const Blocks kv = blocks("abcdef");
    cache.insert("m", key("abcdef"), Blocks(kv), Tier::user);
    const auto hit = cache.fetch_nearest("m", key("abcdx"));
    REQUIRE(hit.kv);
    REQUIRE(hit.kv->blocks().size() == 2);
    CHECK(hit.kv->blocks()[0] == kv.blocks()[0]);
    CHECK(hit.kv->blocks()[1] == kv.blocks()[1]);
}

TEST_CASE("Leased payloads whose blocks are shared do not refuse more than they hold") {
    // Two entries of eight bytes that share six hold ten; eight more fit into twenty beside them.
    Cache cache({.max_bytes = 20});
    store(cache, "abcdefgh", Tier::user);
    store(cache, "abcdefxy", Tier::user);
    const auto first = cache.lease_nearest("m", key("abcdefghi"));
    const auto second = cache.lease_nearest("m", key("abcdefxyz"));
    CHECK(cache.stats().bytes_leased == 16);
    CHECK(cache.nbytes() == 10);
    const auto inserted = store(cache, "pqrstuvw", Tier::user);
    CHECK(inserted.outcome == Outcome::stored);
    CHECK(inserted.tokens == 8);
    CHECK(cache.nbytes() == 18);
    CHECK(cache.check_invariants());
}

TEST_CASE("A leased payload that left its entry stays in the account, block by block") {
    Cache cache;
    store(cache, "abcdef", Tier::user);
    store(cache, "abcdxy", Tier::user);
    auto lease = cache.lease_nearest("m", key("abcdefg"));
    CHECK(cache.erase("m", key("abcdef")));
    CHECK(cache.nbytes() == 8);
    CHECK(referenced(cache) == 6);
    CHECK(cache.stats().bytes_leased == 6);
    lease.end();
    CHECK(cache.nbytes() == 6);
    CHECK(cache.check_invariants());
}

TEST_CASE("Blocks that were given up are not counted, and are destroyed with their payload") {
    Cache cache;
    store(cache, "abcdef", Tier::user);
    std::optional<Blocks> kept = blocks("abcdxy");
    const promptkv::SharedBlock<TextBlock> own = kept->blocks()[0];
    cache.insert("m", key("abcdxy"), std::move(*kept), Tier::user);
    CHECK(own.use().count() == 0); // the cache holds the other's block
    CHECK(cache.nbytes() == 8);
}

TEST_CASE("A tail that is cut off counts what it held alone") {
    Cache cache;
    store(cache, "abcdef", Tier::user);
    store(cache, "abcdxyz", Tier::user);
    CHECK(cache.nbytes() == 9);
    std::string log;
    cache.set_removal_listener([&log](const auto& removal) {
        log += word(removal.tokens) + ":" + std::string(name(removal.reason)) + " kept " +
               std::to_string(removal.kept_tokens) + ", " + std::to_string(removal.bytes) +
               " bytes";
    });
    CHECK(cache.trim_to({.max_bytes = 8}) == 1);
    // "abcdef" would be left with "abcd", which the other entry serves: it is dropped.
    CHECK(log == "abcdef:evicted kept 0, 6 bytes");
    CHECK(cache.nbytes() == 7);
    CHECK(cache.stats().bytes_evicted == 2);
    CHECK(cache.check_invariants());
}

} // namespace of_sharing
