// SPDX-License-Identifier: MIT
// SecondLevel: what is written, when, and why not.

#include "catch.hpp"
#include "fixture.hpp"

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <thread>

namespace {

using namespace promptkv_test;
using MemorySecond = Second<Cache, MemoryStore>;

TEST_CASE("what is evicted is written block by block, and its last block as an end") {
    MemoryStore store;
    Cache cache;
    MemorySecond second(cache, store);
    promptkv_test::store(cache, sequence(1, 10));
    CHECK(store.size() == 0);
    evict_all(cache);
    REQUIRE(second.flush(soon()));
    CHECK(store.size() == 3); // two blocks and an end
    const auto stats = second.stats();
    CHECK(stats.written == 3);
    CHECK(stats.bytes_raw == 250);
    CHECK(stats.bytes_written > stats.bytes_raw);
    CHECK(stats.bytes_waiting == 0);
}

TEST_CASE("a key that ends at a block needs no end record") {
    MemoryStore store;
    Cache cache;
    MemorySecond second(cache, store);
    promptkv_test::store(cache, sequence(1, 8));
    evict_all(cache);
    REQUIRE(second.flush(soon()));
    CHECK(store.size() == 2);
}

TEST_CASE("a cut tail is written, and found behind what stayed in memory") {
    MemoryStore store;
    Cache cache;
    MemorySecond second(cache, store);
    const Tokens key = sequence(1, 14);
    promptkv_test::store(cache, key);
    cache.trim_to({.max_bytes = 200});
    REQUIRE(cache.stats().cut == 1);
    second.evict(0);
    auto load = second.prefetch("m", key, {.min_remaining = 0});
    CHECK(load.wait());
    CHECK(load.end() == LoadEnd::loaded);
    CHECK(load.tokens() == 14);
    CHECK(load.loaded() == 6);
    const auto hit = load.lease({.min_remaining = 0});
    CHECK(hit.reused() == 14);
    CHECK(is_state_of(hit.kv(), key));
}

TEST_CASE("blocks that two keys share are written once") {
    MemoryStore store;
    Cache cache;
    MemorySecond second(cache, store);
    Tokens other = sequence(1, 12);
    other.back() = 99;
    promptkv_test::store(cache, sequence(1, 12));
    promptkv_test::store(cache, other);
    evict_all(cache);
    REQUIRE(second.flush(soon()));
    CHECK(store.size() == 4);
    CHECK(second.stats().stored_already == 2);
}

TEST_CASE("absorbed, replaced and taken payloads are not written") {
    MemoryStore store;
    Cache cache;
    MemorySecond second(cache, store);
    promptkv_test::store(cache, sequence(1, 8));
    promptkv_test::store(cache, sequence(1, 8));
    promptkv_test::store(cache, sequence(1, 12));
    CHECK(cache.take_nearest("m", sequence(1, 12), {.min_remaining = 0}).kv);
    REQUIRE(second.flush(soon()));
    CHECK(store.size() == 0);
}

TEST_CASE("a full queue drops what comes and never waits") {
    MemoryStore store;
    store.hold(false, true);
    Cache cache;
    MemorySecond second(cache, store, {.queue_bytes = 250});
    promptkv_test::store(cache, sequence(1, 16));
    evict_all(cache); // returns although nothing is written
    CHECK(second.stats().bytes_waiting <= 250);
    CHECK(second.stats().dropped_queue_full == 2);
    store.hold(false, false);
    REQUIRE(second.flush(soon()));
    CHECK(store.size() == 2); // the first two: what follows would not be found without them
}

TEST_CASE("keys below the minimum are not written") {
    MemoryStore store;
    Cache cache;
    MemorySecond second(cache, store, {.min_tokens = 9});
    promptkv_test::store(cache, sequence(1, 8));
    promptkv_test::store(cache, sequence(100, 9));
    evict_all(cache);
    REQUIRE(second.flush(soon()));
    CHECK(store.size() == 3);
    CHECK(second.stats().dropped_too_short == 1);
}

TEST_CASE("a key whose tails were written is written to its beginning, also below the minimum") {
    MemoryStore store;
    Cache cache;
    MemorySecond second(cache, store, {.min_tokens = 9});
    const Tokens key = sequence(1, 16);
    promptkv_test::store(cache, key);
    promptkv_test::store(cache, sequence(100, 8), Tier::user);
    cache.trim_to({.max_bytes = 500});
    SECTION("that is evicted bit by bit") {
        for (const std::size_t left : {400U, 300U, 200U, 0U})
            cache.trim_to({.max_bytes = left});
        REQUIRE(second.wait_written(soon()));
    }
    SECTION("that a flush writes") {
        cache.trim_to({.max_bytes = 300});
        CHECK(second.flush(soon()));
        evict_all(cache);
    }
    SECTION("that a flush cannot write") {
        cache.trim_to({.max_bytes = 300});
        REQUIRE(second.wait_written(soon()));
        store.is_full = true;
        CHECK_FALSE(second.flush(soon()));
        store.is_full = false;
        evict_all(cache);
        REQUIRE(second.wait_written(soon()));
    }
    CHECK(second.locate("m", key, 0).tokens == 16);
    CHECK(store.size() == 4);
    CHECK(second.stats().dropped_too_short >= 1);
}

TEST_CASE("WriteWhen::inserted writes what it is told of, at once") {
    MemoryStore store;
    Cache cache;
    MemorySecond second(cache, store, {.write = WriteWhen::inserted});
    const Tokens key = sequence(1, 8);
    KV kv = payload_of(key);
    SECTION("before the insert") {
        second.inserted("m", key, kv, Tier::user);
        cache.insert("m", key, std::move(kv), Tier::user);
        REQUIRE(second.wait_written(soon()));
        CHECK(second.stats().written == 2);
        promptkv_test::store(cache, sequence(100, 8)); // it was not told of this one
        evict_all(cache);
        REQUIRE(second.wait_written(soon()));
        CHECK(store.size() == 2);
    }
    SECTION("before a commit that holds fewer tokens than were reserved") {
        auto room = cache.reserve("m", key, 200, Tier::user);
        KV part = payload_of(sequence(1, 6));
        second.inserted("m", key, part, Tier::user);
        const auto stored = room.commit(std::move(part));
        CHECK(stored.tokens == 6);
        REQUIRE(second.wait_written(soon()));
        second.write_all(cache);
        auto load = second.prefetch("m", key, {.min_remaining = 0});
        CHECK(load.tokens() == 6);
        CHECK(is_state_of(load.lease({.min_remaining = 0}).kv(), Key(key).first(load.tokens())));
    }
    SECTION("and counts what the insert has moved away") {
        cache.insert("m", key, std::move(kv), Tier::user);
        second.inserted("m", key, kv, Tier::user); // NOLINT(bugprone-use-after-move): too late
        REQUIRE(second.wait_written(soon()));
        CHECK(second.stats().dropped_no_payload == 1);
        CHECK(store.size() == 0);
    }
}

TEST_CASE("WriteWhen::second_use writes what a hit reused") {
    MemoryStore store;
    Cache cache;
    MemorySecond second(cache, store, {.write = WriteWhen::second_use});
    const Tokens key = sequence(1, 12);
    promptkv_test::store(cache, key);
    promptkv_test::store(cache, sequence(100, 12));
    Tokens prompt = sequence(1, 9);
    prompt.back() = 50; // eight tokens are reused
    {
        const auto hit = cache.lease_nearest("m", prompt);
        second.reused("m", prompt, hit);
    }
    evict_all(cache);
    REQUIRE(second.flush(soon()));
    CHECK(store.size() == 2);
}

TEST_CASE("flush writes what memory holds, and says whether it could") {
    MemoryStore store;
    Cache cache;
    MemorySecond second(cache, store);
    promptkv_test::store(cache, sequence(1, 12), Tier::system);
    promptkv_test::store(cache, sequence(100, 12));
    SECTION("all") {
        CHECK(second.flush(soon()));
        CHECK(store.size() == 6);
        CHECK(cache.size() == 2);
    }
    SECTION("beyond the queue's size") {
        MemoryStore small_store;
        Cache other;
        MemorySecond small(other, small_store, {.queue_bytes = 150});
        promptkv_test::store(other, sequence(1, 40));
        CHECK(small.flush(soon()));
        CHECK(small_store.size() == 10);
    }
    SECTION("nothing, after the deadline") {
        CHECK_FALSE(second.flush(Clock::now()));
    }
    SECTION("nothing, where the store is down") {
        store.is_down = true;
        CHECK_FALSE(second.flush(soon()));
        CHECK(second.stats().refused_failed == 6);
    }
}

TEST_CASE("what follows a refused record is refused with it, and no longer than that") {
    MemoryStore store;
    Cache cache;
    MemorySecond second(cache, store);
    store.is_full = true;
    promptkv_test::store(cache, sequence(1, 8));
    CHECK_FALSE(second.flush(soon()));
    CHECK(second.stats().refused_full == 2);
    CHECK(store.puts == 1); // the second block was not tried
    store.is_full = false;
    promptkv_test::store(cache, sequence(1, 12));
    CHECK(second.flush(soon()));
    CHECK(store.size() == 3);
}

TEST_CASE("a flush ends although evictions do not") {
    std::atomic<bool> goes_on{true}; // the writer may read it until `second` is destroyed
    MemoryStore store;
    SharedCache cache;
    Second<SharedCache, MemoryStore> second(cache, store);
    store.on_put = [&, first = 0]() mutable {
        if (goes_on) { // something waits at each time
            promptkv_test::store(cache, sequence(1000 * ++first, 4));
            evict_all(cache);
        }
    };
    promptkv_test::store(cache, sequence(-100, 12));
    CHECK(second.flush(soon()));
    CHECK(second.locate("m", sequence(-100, 12), 0).tokens == 12);
    CHECK(second.wait_written(soon()));
    goes_on = false; // the store's last put may still evict
}

TEST_CASE("a flush does not wait for loads") {
    MemoryStore store;
    SharedCache cache;
    Second<SharedCache, MemoryStore> second(cache, store);
    promptkv_test::store(cache, sequence(1, 4));
    second.write_all(cache);
    store.hold(true, false);
    auto load = second.prefetch("m", sequence(1, 4), {.min_remaining = 0});
    store.wait_for_gets(1);
    promptkv_test::store(cache, sequence(100, 4));
    CHECK(second.flush(soon()));
    CHECK(store.size() == 2);
    store.hold(false, false);
    CHECK(load.wait());
    CHECK(load.end() == LoadEnd::loaded);
}

TEST_CASE("a flush says so where an evict drops what it had queued") {
    MemoryStore store;
    SharedCache cache;
    Second<SharedCache, MemoryStore> second(cache, store);
    for (std::int32_t i = 0; i < 4; ++i)
        promptkv_test::store(cache, sequence(100 * i, 8));
    store.hold(false, true);
    bool all = true;
    std::thread flushes([&] { all = second.flush(soon()); });
    while (second.stats().bytes_waiting < 8 * block_tokens * token_bytes)
        std::this_thread::yield();
    second.evict(100'000);
    store.hold(false, false);
    flushes.join();
    CHECK(second.stats().dropped_for_pool > 0);
    CHECK_FALSE(all);
}

/// A State that says when it is asked for its size.
struct Asked {
    static inline std::function<void()> when_asked;

    [[nodiscard]] std::size_t nbytes() const noexcept {
        if (when_asked)
            when_asked();
        return 1;
    }
    void write_block(promptkv::BlockSink&) const {}
    static std::optional<Asked> make_block(std::span<const std::byte>) { return Asked{}; }
};

TEST_CASE("what an evict drops is counted before a flush can end") {
    using AskedKV = promptkv::BlockKV<Bytes, Asked>;
    using AskedCache = promptkv::ConcurrentPromptCache<AskedKV>;
    MemoryStore store;
    AskedCache cache;
    Second<AskedCache, MemoryStore> second(cache, store);
    const auto insert = [&](const Tokens& key) {
        AskedKV kv(block_tokens);
        kv.append(state_of(key, 100), block_tokens);
        kv.set_state(Asked{});
        cache.insert("m", key, std::move(kv), Tier::user);
    };
    store.hold(false, true);
    insert(sequence(100, 4));
    insert(sequence(200, 4));
    evict_all(cache); // one record is being written, three wait
    store.wait_for_puts(1);
    insert(sequence(300, 4));
    const std::size_t before = second.stats().bytes_waiting;
    std::atomic<bool> has_ended{false};
    bool all = true;
    std::thread flushes([&] {
        all = second.flush(soon());
        has_ended = true;
    });
    while (second.stats().bytes_waiting <= before + 116)
        std::this_thread::yield();
    // The size of what is dropped is asked for twice, the second time when it has left the queue.
    Asked::when_asked = [&, evicts = std::this_thread::get_id(), times = 0]() mutable {
        if (std::this_thread::get_id() != evicts || ++times != 2)
            return;
        store.hold(false, false);
        while (!has_ended)
            std::this_thread::yield();
    };
    CHECK(second.evict(1) == 1);
    CHECK(has_ended);
    flushes.join();
    Asked::when_asked = nullptr;
    CHECK_FALSE(all);
}

TEST_CASE("evict does not count what waits and somebody else holds") {
    MemoryStore store;
    store.hold(false, true);
    Cache cache;
    MemorySecond second(cache, store);
    evict_to_writer(cache, store, sequence(1, 4));
    SECTION("a request") {
        promptkv_test::store(cache, sequence(100, 4));
        const auto fetched = cache.fetch_nearest("m", sequence(100, 4), {.min_remaining = 0});
        REQUIRE(fetched);
        evict_all(cache);
        CHECK(second.evict(1) == 0);
    }
    SECTION("the writer: the same block waits once more") {
        {
            const auto load =
                second.prefetch("m", sequence(1, 4), {.tier = Tier::system, .min_remaining = 0});
            REQUIRE(load.tokens() == 4);
        }
        evict_all(cache);
        CHECK(second.evict(1) == 0);
    }
    store.hold(false, false);
    REQUIRE(second.wait_written(soon()));
}

TEST_CASE("evict drops what waits before it evicts, and what it evicts is not written") {
    MemoryStore store;
    store.hold(false, true);
    Cache cache;
    MemorySecond second(cache, store);
    evict_to_writer(cache, store, sequence(1, 12)); // one is in the writer's hands
    promptkv_test::store(cache, sequence(100, 12));
    CHECK(second.evict(150) >= 200);
    CHECK(cache.size() == 1);
    CHECK(second.stats().dropped_for_pool == 2);
    CHECK(second.evict(300) >= 300);
    CHECK(cache.empty());
    store.hold(false, false);
    REQUIRE(second.flush(soon()));
    CHECK(store.size() == 1);
}

TEST_CASE("evict counts what it frees, and keeps the beginning of what waits") {
    Cache cache;
    MemoryStore below;
    Second<Cache, MemoryStore> second(cache, below, {.write = WriteWhen::inserted});
    below.hold(false, true);
    const auto offer = [&](const Tokens& key, bool stays) {
        KV kv = payload_of(key);
        second.inserted("m", key, kv, Tier::user);
        if (stays)
            cache.insert("m", key, std::move(kv), Tier::user);
    };
    SECTION("blocks that entries hold are not freed") {
        offer(sequence(1, 32), true);
        below.wait_for_puts(1);
        CHECK(second.evict(700) == 700); // of eight blocks; the first one is being written
        CHECK(cache.nbytes() == 100);
    }
    SECTION("the last records of a chain go first") {
        offer(sequence(1, 32), false);
        below.wait_for_puts(1);
        CHECK(second.evict(300) == 300);
        below.hold(false, false);
        CHECK(second.wait_written(soon()));
        CHECK(second.locate("m", sequence(1, 32), 0).tokens == 20);
    }
    below.hold(false, false);
}

TEST_CASE("a clear counts what waited") {
    Cache cache;
    MemoryStore below;
    Second<Cache, MemoryStore> second(cache, below);
    below.hold(false, true);
    store(cache, sequence(1, 40));
    evict_all(cache);
    below.wait_for_puts(1);
    std::thread release([&] { below.hold(false, false); });
    second.clear();
    release.join();
    const auto stats = second.stats();
    CHECK(stats.written + stats.dropped_erased == 10);
}

TEST_CASE("it may be destroyed while writes are pending") {
    MemoryStore store;
    store.hold(false, true);
    Cache cache;
    auto second = std::make_unique<MemorySecond>(cache, store);
    evict_to_writer(cache, store, sequence(1, 40));
    std::thread ends([&] { second.reset(); });
    store.hold(false, false);
    ends.join();
    CHECK(store.size() <= 10);
    promptkv_test::store(cache, sequence(1, 40)); // the cache works on, without a listener
    evict_all(cache);
    CHECK(cache.empty());
}

TEST_CASE("a listener of the caller's is called after the second level") {
    MemoryStore store;
    Cache cache;
    MemorySecond second(cache, store);
    std::size_t blocks = 0;
    second.set_removal_listener([&](auto& removal) { blocks = removal.payload->blocks().size(); });
    promptkv_test::store(cache, sequence(1, 12));
    evict_all(cache);
    REQUIRE(second.flush(soon()));
    CHECK(blocks == 3);
    CHECK(store.size() == 3);
}

TEST_CASE("payloads of other blocks are not written") {
    MemoryStore store;
    Cache cache;
    MemorySecond second(cache, store, {.block_tokens = 8});
    promptkv_test::store(cache, sequence(1, 12));
    evict_all(cache);
    REQUIRE(second.flush(soon()));
    CHECK(store.size() == 0);
    CHECK(second.stats().dropped_no_payload == 1);
}

TEST_CASE("the rate of writing is limited, but not for a flush") {
    MemoryStore store;
    Cache cache;
    const double rate = GENERATE(1.0, 1e-12, 1e-300); // a block takes minutes, or ages
    MemorySecond second(cache, store, {.bytes_per_second = rate});
    evict_to_writer(cache, store, sequence(1, 12));
    promptkv_test::store(cache, sequence(100, 4));
    SECTION("it is destroyed at once, although the writer sleeps") {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        CHECK(store.size() <= 1);
        CHECK(second.stats().bytes_waiting <= 300 + 48);
    }
    SECTION("a flush ends the writer's sleep") {
        CHECK(second.flush(soon()));
        CHECK(store.size() == 4);
    }
}

} // namespace
