// SPDX-License-Identifier: MIT
// SecondLevel: what is erased is in no store, and comes back from nowhere.

#include "catch.hpp"
#include "fixture.hpp"

#include <thread>
#include <utility>

namespace {

using namespace promptkv_test;

struct Levels {
    MemoryStore store;
    Cache cache;
    Second<Cache, MemoryStore> second{cache, store};

    /// Writes all entries; they stay in memory.
    void write() { REQUIRE(second.flush(soon())); }
    std::size_t located(const Tokens& key, const std::string& model = "m") {
        return second.locate(model, key, 0).tokens;
    }
};

Tokens joined(Tokens first, const Tokens& then) {
    first.insert(first.end(), then.begin(), then.end());
    return first;
}

TEST_CASE("an erase removes the records that no resident key uses") {
    Levels levels;
    const Tokens shared = sequence(1, 8);
    const Tokens one = joined(shared, sequence(100, 6));
    const Tokens other = joined(shared, sequence(200, 6));
    promptkv_test::store(levels.cache, one);
    promptkv_test::store(levels.cache, other);
    levels.write();
    REQUIRE(levels.store.size() == 6);
    SECTION("by the cache") {
        CHECK(levels.cache.erase("m", one));
    }
    SECTION("by the second level") {
        CHECK(levels.second.erase("m", one));
    }
    CHECK(levels.store.size() == 4);
    CHECK(levels.second.stats().erased == 2);
    evict_all(levels.cache);
    CHECK(levels.located(one) == 8);
    CHECK(levels.located(other) == 14);
}

TEST_CASE("an erase cancels what waits to be written") {
    MemoryStore store;
    store.hold(false, true);
    Cache cache;
    Second<Cache, MemoryStore> second(cache, store);
    evict_to_writer(cache, store, sequence(100, 4)); // the writer is busy with another key
    promptkv_test::store(cache, sequence(1, 12));
    evict_all(cache);
    CHECK_FALSE(second.erase("m", sequence(1, 12)));
    CHECK(second.stats().dropped_erased == 3);
    store.hold(false, false);
    REQUIRE(second.flush(soon()));
    CHECK(store.size() == 1);
}

TEST_CASE("an erase waits for the record that is being written") {
    MemoryStore store;
    store.hold(false, true);
    Cache cache;
    Second<Cache, MemoryStore> second(cache, store);
    evict_to_writer(cache, store, sequence(1, 4));
    std::thread erases([&] { second.erase("m", sequence(1, 4)); });
    store.hold(false, false);
    erases.join();
    REQUIRE(second.flush(soon()));
    CHECK(store.size() == 0);
}

TEST_CASE("erase_below removes evicted continuations too") {
    Levels levels;
    const Tokens begin = GENERATE(sequence(1, 4), sequence(1, 6), sequence(1, 8));
    promptkv_test::store(levels.cache, joined(sequence(1, 8), sequence(100, 10)));
    promptkv_test::store(levels.cache, sequence(1, 6));
    promptkv_test::store(levels.cache, {1, 2, 3, 9, 9, 9, 9, 9, 9});
    promptkv_test::store(levels.cache, sequence(1, 8), Tier::assistant, "other");
    levels.write();
    const bool from_memory = GENERATE(true, false);
    if (!from_memory)
        evict_all(levels.cache);
    levels.second.erase_below("m", begin);
    if (begin.size() <= 6)
        CHECK(levels.located(sequence(1, 6)) <= begin.size() - begin.size() % 4);
    CHECK(levels.located(joined(sequence(1, 8), sequence(100, 10))) <=
          begin.size() - begin.size() % 4);
    CHECK(levels.located({1, 2, 3, 9, 9, 9, 9, 9, 9}) == 9); // it does not continue the prefix
    CHECK(levels.located(sequence(1, 8), "other") == 8);
}

TEST_CASE("erase_below removes tails whose beginning is in memory alone") {
    Levels levels;
    const Tokens key = sequence(1, 24);
    promptkv_test::store(levels.cache, key);
    levels.cache.trim_to({.max_bytes = 300});
    levels.second.evict(0);
    REQUIRE(levels.second.stats().dropped_queue_full == 0);
    REQUIRE(levels.second.wait_written(soon()));
    REQUIRE(levels.store.size() == 3);
    levels.second.erase_below("m", sequence(1, 4));
    CHECK(levels.store.size() == 0);
    CHECK(levels.cache.empty());
}

TEST_CASE("erase_below leaves the tails of what stays in memory") {
    Levels levels;
    const Tokens key = sequence(1, 24);
    promptkv_test::store(levels.cache, key);
    levels.cache.trim_to({.max_bytes = 300});
    REQUIRE(levels.second.wait_written(soon()));
    REQUIRE(levels.store.size() == 3); // without their beginning
    levels.second.erase_below("m", sequence(500, 4));
    levels.second.erase_below("m", joined(sequence(1, 8), sequence(500, 4)));
    CHECK(levels.store.size() == 3);
    evict_to_store(levels);
    CHECK(levels.located(key) == 24);
}

TEST_CASE("a full cache stores while erase_below looks at what it holds") {
    MemoryStore store;
    SharedCache cache({.max_bytes = 400});
    const Tokens key = sequence(900, 8);
    auto outcome = promptkv::Outcome::cancelled;
    bool inserts = false; // where it is asked for the name of a model in memory
    Second<SharedCache, MemoryStore> second(
        cache, store, {.bytes_of_model = [&](const std::string& model) {
            if (model == "b" && std::exchange(inserts, false))
                outcome = cache.insert("c", key, payload_of(key), Tier::user).outcome;
            return model;
        }});
    promptkv_test::store(cache, sequence(1, 8), Tier::assistant, "b");
    promptkv_test::store(cache, sequence(100, 8), Tier::assistant, "b");
    inserts = true;
    second.erase_below("a", sequence(500, 4));
    CHECK(outcome == promptkv::Outcome::stored);
}

TEST_CASE("erase_model and clear remove what was evicted before") {
    Levels levels;
    promptkv_test::store(levels.cache, sequence(1, 10));
    promptkv_test::store(levels.cache, sequence(1, 10), Tier::user, "other");
    levels.write();
    evict_all(levels.cache);
    SECTION("erase_model") {
        levels.second.erase_model("m");
        CHECK(levels.located(sequence(1, 10)) == 0);
        CHECK(levels.located(sequence(1, 10), "other") == 10);
    }
    SECTION("clear") {
        levels.second.clear();
        CHECK(levels.store.size() == 0);
    }
}

TEST_CASE("erase_session removes the records of the session's entries") {
    Levels levels;
    levels.cache.insert("m", sequence(1, 8), payload_of(sequence(1, 8)), Tier::user,
                        {.session = 5});
    promptkv_test::store(levels.cache, sequence(100, 8));
    levels.write();
    SECTION("those in memory") {
        CHECK(levels.second.erase_session("m", 5) == 1);
        CHECK(levels.store.size() == 2);
        CHECK(levels.located(sequence(1, 8)) == 0);
    }
    SECTION("what was evicted before stays, and leaves by erase_below") {
        evict_all(levels.cache);
        CHECK(levels.second.erase_session("m", 5) == 0);
        CHECK(levels.located(sequence(1, 8)) == 8);
        levels.second.erase_below("m", sequence(1, 4));
        CHECK(levels.located(sequence(1, 8)) == 0);
        CHECK(levels.located(sequence(100, 8)) == 8);
    }
}

TEST_CASE("an erased prompt is not brought back by a load that was under way") {
    MemoryStore store;
    SharedCache cache;
    Second<SharedCache, MemoryStore> second(cache, store);
    promptkv_test::store(cache, sequence(1, 8));
    REQUIRE(second.flush(soon()));
    evict_all(cache);
    store.hold(true, false);
    auto load = second.prefetch("m", sequence(1, 8));
    store.wait_for_gets(1);
    second.erase_below("m", sequence(1, 4));
    store.hold(false, false);
    CHECK(load.wait());
    CHECK(load.end() != LoadEnd::loaded);
    CHECK(cache.empty());
    CHECK(store.size() == 0);
}

TEST_CASE("a prompt that is erased while its last record is read is not brought back") {
    // The blocks take more memory than their records, so that more room is made after they were read.
    struct Wide {
        Bytes bytes;
        [[nodiscard]] std::size_t nbytes() const noexcept { return 2 * bytes.nbytes(); }
        void write_block(promptkv::BlockSink& sink) const { bytes.write_block(sink); }
        static std::optional<Wide> make_block(std::span<const std::byte> record) {
            return Wide{*Bytes::make_block(record)};
        }
    };
    using WideKV = promptkv::BlockKV<Wide>;
    MemoryStore store;
    promptkv::LRUPromptCache<WideKV> cache;
    Second<promptkv::LRUPromptCache<WideKV>, MemoryStore> second(cache, store);
    const Tokens key = sequence(1, 12);
    WideKV kv(block_tokens);
    while (kv.length() < key.size())
        kv.append(Wide{state_of(Key(key).first(kv.length() + block_tokens), 100)}, block_tokens);
    cache.insert("m", key, std::move(kv), Tier::user);
    second.write_all(cache);
    store.on_get = [&] {
        if (store.gets == 3)
            second.erase("m", key);
    };
    const auto load = second.prefetch("m", key, {.min_remaining = 0});
    CHECK(load.end() == LoadEnd::cancelled);
    CHECK(cache.empty());
    CHECK(store.size() == 0);
}

TEST_CASE("where models share records an erase spares what another model's entries use") {
    MemoryStore store;
    Cache cache;
    Second<Cache, MemoryStore> second(cache, store, {.share_between_models = true});
    promptkv_test::store(cache, sequence(1, 12), Tier::user, "a");
    promptkv_test::store(cache, sequence(1, 8), Tier::user, "b");
    REQUIRE(second.flush(soon()));
    REQUIRE(store.size() == 3);
    CHECK(second.erase("a", sequence(1, 12)));
    CHECK(store.size() == 2);
    CHECK(second.erase("b", sequence(1, 8)));
    CHECK(store.size() == 0);
}

TEST_CASE("where models share records no erase takes those of another model's entries") {
    MemoryStore store;
    Cache cache;
    Second<Cache, MemoryStore> second(cache, store, {.share_between_models = true});
    const Tokens key = sequence(1, 10);
    promptkv_test::store(cache, joined(key, sequence(100, 4)), Tier::user, "a");
    promptkv_test::store(cache, key, Tier::system, "a");
    promptkv_test::store(cache, key, Tier::user, "b");
    REQUIRE(second.flush(soon()));
    REQUIRE(store.size() == 5);
    SECTION("erase") {
        CHECK(second.erase("a", key));
        CHECK(store.size() == 5);
    }
    SECTION("erase_below") {
        CHECK(second.erase_below("a", sequence(1, 4)) == 2);
        CHECK(store.size() == 3);
    }
    SECTION("erase_model") {
        CHECK(second.erase_model("a") == 2);
        CHECK(store.size() == 3);
    }
    evict_all(cache);
    CHECK(second.locate("b", key, 0).tokens == 10);
    second.erase_below("b", sequence(1, 4));
    CHECK(store.size() == 0);
}

TEST_CASE("what is erased during a flush is not written") {
    MemoryStore store;
    SharedCache cache;
    Second<SharedCache, MemoryStore> second(cache, store, {.queue_bytes = 250});
    const Tokens erased = sequence(200, 4);
    promptkv_test::store(cache, erased); // the coldest: it comes last, when the queue is full
    promptkv_test::store(cache, sequence(1, 4));
    promptkv_test::store(cache, sequence(100, 4));
    store.hold(false, true);
    std::thread flushes([&] { static_cast<void>(second.flush(soon())); });
    store.wait_for_puts(1);
    CHECK(second.erase("m", erased));
    store.hold(false, false);
    flushes.join();
    CHECK(second.locate("m", erased, 0).tokens == 0);
    CHECK(store.size() == 2);
}

TEST_CASE("what is erased while it is leased is not written for the hit") {
    MemoryStore store;
    Cache cache;
    Second<Cache, MemoryStore> second(cache, store, {.write = WriteWhen::second_use});
    const Tokens key = sequence(1, 10);
    promptkv_test::store(cache, key);
    const auto hit = cache.lease_nearest("m", key, {.min_remaining = 0});
    REQUIRE(hit.reused() == 10);
    if (GENERATE(true, false)) {
        CHECK(second.erase("m", key));
    } else { // while it is told of
        store.on_found = [&, asks = std::this_thread::get_id()] {
            if (std::this_thread::get_id() == asks)
                CHECK(second.erase("m", key));
        };
    }
    second.reused("m", key, hit);
    REQUIRE(second.wait_written(soon()));
    CHECK(store.size() == 0);
}

TEST_CASE("records that name each other as the one before are removed with any prefix") {
    Levels levels;
    promptkv_test::store(levels.cache, sequence(1, 4));
    evict_to_store(levels);
    std::array<RecordInfo, 2> infos;
    levels.store.for_each([&](const RecordInfo& info) { infos.fill(info); });
    for (std::size_t i = 0; i < 2; ++i) {
        infos[i].name = {1, i};
        infos[i].parent = {1, 1 - i};
        infos[i].depth = 40;
        const std::array<std::byte, 1> bytes{};
        const RecordWrite write{infos[i], bytes};
        PutResult result = PutResult::failed;
        levels.store.put(std::span(&write, 1), std::span(&result, 1));
    }
    levels.second.erase_below("m", sequence(500, 8));
    CHECK(levels.store.size() == 1);
    CHECK(levels.second.locate("m", sequence(1, 4), 0).tokens == 4);
}

TEST_CASE("a record of an impossible depth does not stop an erase") {
    Cache cache;
    MemoryStore below;
    Second<Cache, MemoryStore> second(cache, below);
    store(cache, sequence(1, 12));
    store(cache, sequence(100, 4));
    second.write_all(cache);
    below.change([](RecordInfo& info, auto&) {
        if (info.depth == 0)
            info.depth = ~std::uint64_t{0};
    });
    CHECK_NOTHROW(second.erase_below("m", sequence(1, 4)));
    CHECK(second.locate("m", sequence(1, 12)).tokens == 0);
}

TEST_CASE("a hybrid key's blocks stay while another resident key uses them") {
    MemoryStore store;
    HybridCache cache;
    Second<HybridCache, MemoryStore> second(cache, store);
    const Tokens one = joined(sequence(1, 8), sequence(100, 6));
    promptkv_test::store(cache, one);
    promptkv_test::store(cache, joined(sequence(1, 8), sequence(200, 6)));
    REQUIRE(second.flush(soon()));
    CHECK(cache.erase("m", one));
    evict_all(cache);
    CHECK(second.locate("m", one, 0).tokens == 0);
    CHECK(second.locate("m", joined(sequence(1, 8), sequence(200, 6)), 0).tokens == 14);
}

} // namespace
