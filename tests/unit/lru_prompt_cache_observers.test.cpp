// SPDX-License-Identifier: MIT
// LRUPromptCache: what it shows of its entries, and how they are carried over to another cache.

#include <promptkv/lru_prompt_cache.hpp>

#include "catch.hpp"
#include "unit_payloads.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace {

using namespace promptkv_test;
using promptkv::LRUPromptCache;
using promptkv::Tier;

using Cache = LRUPromptCache<Tape>;
using WholeCache = LRUPromptCache<WholeTape>;

/// The words of all entries in the order of for_each, each with its tier.
template <class C>
std::string visited(const C& cache) {
    std::string line;
    cache.for_each([&line](const auto& entry) {
        line += (line.empty() ? "" : " ") + word(entry.tokens) +
                std::to_string(static_cast<int>(entry.tier));
    });
    return line;
}

TEST_CASE("for_each shows every entry with what is known of it") {
    Cache cache;
    cache.insert("a", key("abc"), Tape("abc"), Tier::user);
    cache.insert("b", key("xy"), Tape("xy", {.bytes_per_token = 5}), Tier::system, {.session = 7});
    std::vector<std::string> seen;
    std::as_const(cache).for_each([&seen](const Cache::EntryView& entry) {
        seen.push_back(entry.model + "/" + word(entry.tokens) + "@" +
                       std::string(name(entry.tier)) + "=" + std::to_string(entry.nbytes) + ":" +
                       text_of(entry.kv) + " of session " + std::to_string(entry.session));
    });
    CHECK(seen == std::vector<std::string>{"a/abc@user=3:abc of session 0",
                                           "b/xy@system=10:xy of session 7"});
}

TEST_CASE("for_each_model shows each model once") {
    Cache cache;
    const auto models = [&cache] {
        std::vector<std::string> names;
        std::as_const(cache).for_each_model(
            [&](const std::string& name) { names.push_back(name); });
        std::sort(names.begin(), names.end());
        return names;
    };
    CHECK(models().empty());
    for (const char* model : {"b", "a", "b"})
        cache.insert(model, key("abc"), Tape("abc"), Tier::user);
    CHECK(models() == std::vector<std::string>{"a", "b"});
    cache.erase_model("a");
    CHECK(models() == std::vector<std::string>{"b"});
}

TEST_CASE("for_each visits tier by tier, within a tier from the coldest to the hottest") {
    Cache cache;
    store(cache, "s1", Tier::system);
    store(cache, "a1", Tier::assistant);
    store(cache, "u1", Tier::user);
    store(cache, "a2", Tier::assistant);
    store(cache, "s2", Tier::system);
    store(cache, "a3", Tier::assistant);
    CHECK(cache.touch("m", key("a1")));
    CHECK(visited(cache) == "a20 a30 a10 u11 s12 s22");

    SECTION("the leased ones, too") {
        const auto lease = cache.lease_nearest("m", key("s1?"));
        CHECK(visited(cache) == "a20 a30 a10 u11 s22 s12");
        // Set aside, it will return to the cold end.
        CHECK(cache.trim_to({.max_entries = 1}) == 5);
        CHECK(visited(cache) == "s12");
    }
}

TEST_CASE("Entries inserted in the order of for_each are evicted in the same order") {
    WholeCache cache;
    for (const std::string_view each : {"s1", "s2", "s3"})
        store(cache, each, Tier::system);
    for (const std::string_view each : {"p", "pq", "pqr", "x", "pz", "y"})
        store(cache, each, Tier::assistant);
    for (const std::string_view each : {"u", "uv", "v"})
        store(cache, each, Tier::user);
    for (const std::string_view each : {"s1", "x", "uv", "pq"})
        CHECK(cache.touch("m", key(each)));

    // As side requests, since "uv" would supersede "u" again.
    WholeCache copy;
    cache.for_each([&copy](const WholeCache::EntryView& entry) {
        copy.insert(entry.model, entry.tokens, WholeTape(entry.kv), entry.tier,
                    {.side_request = true});
    });
    CHECK(visited(copy) == visited(cache));
    CHECK(eviction_order(copy) == eviction_order(cache));
}

TEST_CASE(
    "Entries inserted in the order of for_each, with their sessions, do not demote each other") {
    Cache cache;
    store(cache, "abc", Tier::user, {}, {.session = 1});
    store(cache, "xyz", Tier::user, {}, {.session = 2});
    store(cache, "abd", Tier::user, {}, {.session = 1}); // demotes "abc"
    CHECK(cache.touch("m", key("abc")));                 // which is used again
    REQUIRE(visited(cache) == "xyz1 abd1 abc1");

    Cache copy;
    cache.for_each([&copy](const Cache::EntryView& entry) {
        copy.insert(entry.model, entry.tokens, Tape(entry.kv), entry.tier,
                    {.session = entry.session, .side_request = true});
    });
    CHECK(visited(copy) == "xyz1 abd1 abc1");
    CHECK(copy.stats().demoted == 0);
    CHECK(copy.erase_session("m", 1) == 2); // the sessions are known
}

TEST_CASE("Entries of blocks inserted in the order of for_each share their blocks again") {
    LRUPromptCache<Blocks> cache;
    store(cache, "abcd", Tier::system);
    store(cache, "abcdef", Tier::assistant);
    store(cache, "abxy", Tier::user);
    CHECK(cache.touch("m", key("abcd")));

    LRUPromptCache<Blocks> copy;
    cache.for_each([&copy](const auto& entry) {
        copy.insert(entry.model, entry.tokens, blocks(text_of(entry.kv)), entry.tier);
    });
    CHECK(contents(copy) == contents(cache));
    CHECK(copy.nbytes() == cache.nbytes());
    CHECK(copy.check_invariants());
    CHECK(eviction_order(copy) == eviction_order(cache));
}

TEST_CASE("snapshot leases every entry in the order of for_each, without a trace") {
    Cache cache;
    store(cache, "abc", Tier::user);
    store(cache, "xyz", Tier::user, {}, {.session = 7});
    store(cache, "s", Tier::system);
    const auto before = cache.stats();
    {
        const std::vector<Cache::SnapshotEntry> snapshot = cache.snapshot();
        REQUIRE(snapshot.size() == 3);
        std::string line;
        for (const Cache::SnapshotEntry& entry : snapshot) {
            line += entry.model + "/" + word(entry.tokens) + "@" + std::string(name(entry.tier)) +
                    ":" + text_of(entry.lease.kv()) + " ";
        }
        CHECK(line == "m/abc@user:abc m/xyz@user:xyz m/s@system:s ");
        CHECK(snapshot[0].session == 0);
        CHECK(snapshot[1].session == 7);
        CHECK(cache.stats().bytes_leased == 7);
        CHECK(cache.trim_to({.max_bytes = 0}) == 0);
        CHECK(cache.erase("m", key("abc")));
        CHECK(text_of(snapshot[0].lease.kv()) == "abc");
    }
    const auto after = cache.stats();
    CHECK(after.lookups == before.lookups);
    CHECK(after.tokens_reused == before.tokens_reused);
    CHECK(after.bytes_leased == 0);
    CHECK(cache.nbytes() == 4);
    CHECK(cache.check_invariants());
}

TEST_CASE("snapshot changes no recency") {
    Cache cache;
    for (const std::string_view each : {"a", "b", "c"})
        store(cache, each, Tier::user);
    CHECK(cache.touch("m", key("a")));
    CHECK(cache.snapshot().size() == 3);
    CHECK(eviction_order(cache) == "b c a");
}

TEST_CASE("nbytes of a model is what its entries refer to") {
    LRUPromptCache<Blocks> cache;
    cache.insert("a", key("abcd"), blocks("abcd"), Tier::user);
    cache.insert("a", key("abxy"), blocks("abxy"), Tier::user);
    cache.insert("b", key("abcd"), blocks("abcd"), Tier::user);
    CHECK(cache.nbytes("a") == 8);
    CHECK(cache.nbytes("b") == 4);
    CHECK(cache.nbytes("c") == 0);
    CHECK(cache.nbytes() == 6 + 4); // models share nothing
    CHECK(cache.stats().bytes_referenced == 12);
}

TEST_CASE("index_nbytes follows what is stored") {
    Cache cache;
    const std::size_t empty = cache.index_nbytes();
    const Key long_key = counting(1'000);
    cache.insert("m", long_key, Tape(std::string(1'000, 'x')), Tier::user);
    CHECK(cache.index_nbytes() >= empty + 1'000 * sizeof(std::int32_t));
    cache.clear();
    CHECK(cache.index_nbytes() <= empty + 200);
}

} // namespace
