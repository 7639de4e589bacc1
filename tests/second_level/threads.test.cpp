// SPDX-License-Identifier: MIT
// SecondLevel among threads: loads, evictions, erasures, flushes and handles at once. (ThreadSanitizer)

#include "catch.hpp"
#include "counting_new.hpp"
#include "fixture.hpp"

#include <promptkv/zstd_codec.hpp>

#include <atomic>
#include <memory>
#include <random>
#include <stdexcept>
#include <thread>

namespace {

using namespace promptkv_test;

template <class Store>
void run_threads(Store& store) {
    SharedCache cache({.max_bytes = 3'000});
    Second<SharedCache, Store> second(cache, store, {.queue_bytes = 2'000});
    std::atomic<int> wrong{0};
    std::atomic<int> served{0};
    const auto work = [&](unsigned seed) {
        std::mt19937 random(seed);
        for (int i = 0; i < 150; ++i) {
            Tokens key = sequence(1, 8);
            for (std::int32_t token = 0; token < 8; ++token)
                key.push_back(static_cast<std::int32_t>(random() % 3) * 100 + token);
            key.resize(8 + random() % 9);
            switch (random() % 8) {
            case 0:
                second.erase_below("m", key);
                break;
            case 1:
                cache.erase("m", key);
                break;
            case 2:
                second.evict(random() % 500);
                break;
            case 3:
            case 4: {
                auto load = second.prefetch(
                    "m", key,
                    {.deadline = Clock::now() + std::chrono::milliseconds(random() % 20)});
                if (random() % 4 == 0)
                    load.cancel();
                else
                    load.wait();
                if (const auto hit = load.lease()) {
                    ++served;
                    wrong += is_state_of(hit.kv(), Key(key).first(hit.reused())) ? 0 : 1;
                }
                break;
            }
            case 5:
                static_cast<void>(second.locate("m", key));
                break;
            default:
                cache.insert("m", key, payload_of(key), static_cast<Tier>(random() % 3));
            }
        }
    };
    std::vector<std::thread> threads;
    for (unsigned seed = 1; seed <= 4; ++seed)
        threads.emplace_back(work, seed);
    static_cast<void>(second.flush(Clock::now() + std::chrono::milliseconds(20)));
    for (std::thread& thread : threads)
        thread.join();
    CHECK(wrong == 0);
    CHECK(served > 0);
    CHECK(cache.nbytes() <= 3'000);
    CHECK(cache.check_invariants());
}

TEST_CASE("threads load, evict, erase and flush at once, in memory") {
    MemoryStore store;
    run_threads(store);
}

TEST_CASE("threads load, evict, erase and flush at once, in files") {
    const Folder folder;
    promptkv::FileStoreOptions options = folder.options();
    options.max_bytes = 60'000;
    promptkv::FileStore store(options);
    run_threads(store);
    CHECK(folder.bytes_on_disk() <= 60'000);
    CHECK(store.stats().nbytes == folder.bytes_on_disk());
}

TEST_CASE("loads that are under way end when the second level does") {
    MemoryStore store;
    SharedCache cache;
    auto second = std::make_unique<Second<SharedCache, MemoryStore>>(cache, store);
    promptkv_test::store(cache, sequence(1, 40));
    REQUIRE(second->flush(soon()));
    evict_all(cache);
    store.hold(true, false);
    std::vector<decltype(second->prefetch("m", Tokens()))> loads;
    for (int i = 0; i < 5; ++i)
        loads.push_back(second->prefetch("m", sequence(1, 40)));
    store.wait_for_gets(1);
    std::thread ends([&] { second.reset(); });
    store.hold(false, false);
    ends.join();
    for (auto& load : loads) {
        CHECK(load.wait());
        CHECK(load.ready());
    }
    loads.clear();
    CHECK(cache.check_invariants());
}

TEST_CASE("what a load pinned can be evicted as soon as its handle has ended") {
    MemoryStore store;
    SharedCache cache;
    Second<SharedCache, MemoryStore> second(cache, store, {.readers = 4});
    promptkv_test::store(cache, sequence(1, 16));
    second.write_all(cache);
    int pinned = 0;
    for (int i = 0; i < 300; ++i) {
        {
            auto one = second.prefetch("m", sequence(1, 16));
            auto other = second.prefetch("m", sequence(1, 12));
            REQUIRE(one.wait());
            REQUIRE(other.wait());
        }
        evict_all(cache);
        pinned += cache.nbytes() == 0 ? 0 : 1;
    }
    CHECK(pinned == 0);
}

TEST_CASE("a second level that cannot be made ends the threads that it started") {
    bool struck = true;
    for (std::size_t skip = 0; struck; ++skip) {
        MemoryStore store;
        SharedCache cache;
        FailingNew failing(skip);
        try {
            const Second<SharedCache, MemoryStore> second(cache, store, {.readers = 3});
        } catch (const std::bad_alloc&) {
        }
        struck = failing.stop();
        promptkv_test::store(cache, sequence(1, 4));
        CHECK(cache.evict(1) == 100);
    }
}

/// A block that cannot be assigned to, and whose functions throw, if it is told to.
struct Fragile {
    enum class Throws : std::uint8_t { never, when_written, when_made };
    const Throws throws;

    static std::size_t nbytes() noexcept { return 1; }
    void write_block(promptkv::BlockSink& sink) const {
        if (throws == Throws::when_written)
            throw std::runtime_error("write_block");
        sink(std::as_bytes(std::span(&throws, 1)));
    }
    static std::optional<Fragile> make_block(std::span<const std::byte> bytes) {
        const Fragile block{static_cast<Throws>(bytes[0])};
        if (block.throws == Throws::when_made)
            throw std::runtime_error("make_block");
        return block;
    }
};

TEST_CASE("the threads go on where the caller's code throws") {
    using FragileCache = promptkv::ConcurrentPromptCache<promptkv::BlockKV<Fragile>>;
    MemoryStore store;
    FragileCache cache;
    Second<FragileCache, MemoryStore> second(cache, store, {.readers = 1});
    const auto put = [&](std::int32_t first, Fragile::Throws throws) {
        promptkv::BlockKV<Fragile> kv(block_tokens);
        kv.append(Fragile{throws}, block_tokens);
        cache.insert("m", sequence(first, block_tokens), std::move(kv), Tier::user);
        evict_all(cache);
        REQUIRE(second.wait_written(soon()));
    };
    put(1, Fragile::Throws::when_written);
    put(100, Fragile::Throws::when_made);
    put(200, Fragile::Throws::never);
    CHECK(second.stats().dropped_no_memory == 1);
    CHECK(store.size() == 2);
    const auto load = [&](std::int32_t first) {
        auto under_way = second.prefetch("m", sequence(first, block_tokens), {.min_remaining = 0});
        CHECK(under_way.wait());
        return under_way.end();
    };
    CHECK(load(100) == LoadEnd::no_memory);
    CHECK(cache.nbytes() == 0);
    CHECK(load(200) == LoadEnd::loaded);
    CHECK(load(100) == LoadEnd::no_memory);
    CHECK(cache.check_invariants());
}

TEST_CASE("a codec writes what it makes smaller, and others cannot read it") {
    MemoryStore store;
    Cache cache;
    using Packed = promptkv::SecondLevel<Cache, MemoryStore, promptkv::ZstdCodec>;
    const Tokens key = sequence(1, 8);
    {
        Packed second(cache, store, {.fingerprint = fingerprint, .block_tokens = block_tokens});
        KV kv(block_tokens);
        kv.append(Bytes{std::vector<std::byte>(5000, std::byte{7})}, 4);
        kv.append(state_of(key, 5000), 4); // noise
        cache.insert("m", key, std::move(kv), Tier::user);
        REQUIRE(second.flush(soon()));
        CHECK(second.stats().bytes_raw == 10'000);
        CHECK(second.stats().bytes_written < 6'000);
        CHECK(second.stats().bytes_written > 5'000);
        evict_all(cache);
        auto load = second.prefetch("m", key, {.min_remaining = 0});
        CHECK(load.tokens() == 8);
        CHECK(load.lease({.min_remaining = 0}).kv().blocks()[1]->data == state_of(key, 5000).data);
    }
    evict_all(cache);
    Second<Cache, MemoryStore> plain(cache, store);
    CHECK(plain.prefetch("m", key).end() == LoadEnd::bad_record);
    CHECK(plain.stats().faults[static_cast<std::size_t>(RecordFault::codec)] == 1);
    CHECK(store.size() == 1); // of a store of this process it is set aside, to be written anew
}

} // namespace
