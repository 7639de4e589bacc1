// SPDX-License-Identifier: MIT
// SecondLevel: what a prompt gets back, and why not.

#include "catch.hpp"
#include "counting_new.hpp"
#include "fixture.hpp"

#include <cstring>
#include <new>
#include <optional>
#include <stdexcept>
#include <thread>

namespace of_loading {

using namespace promptkv_test;
using MemorySecond = Second<Cache, MemoryStore>;

std::size_t count(const promptkv::SecondLevelStats& stats, RecordFault fault) {
    return static_cast<std::size_t>(stats.faults[static_cast<std::size_t>(fault)]);
}

/// Changes a record's block to one that `make_block` refuses.
void make_refused(std::vector<std::byte>& record) {
    promptkv::detail::RecordView view;
    REQUIRE(read_record(record, view) == RecordFault::none);
    record[view.header.payload_at()] = std::byte{0xee};
    view.header.body_check =
        promptkv::detail::checksum(std::span(record).subspan(sizeof view.header));
    view.header.header_check = promptkv::detail::header_check(view.header);
    std::memcpy(record.data(), &view.header, sizeof view.header);
}

struct Levels {
    MemoryStore store;
    Cache cache;
    MemorySecond second{cache, store};

    /// Puts a key into the store alone.
    void put(const Tokens& key, Tier tier = Tier::assistant, const std::string& model = "m") {
        promptkv_test::store(cache, key, tier, model);
        evict_all(cache);
        REQUIRE(second.flush(soon()));
    }
    auto load(const Tokens& prompt, MemorySecond::LoadOptions options = {.min_remaining = 0}) {
        auto load = second.prefetch("m", prompt, options);
        REQUIRE(load.wait());
        return load;
    }
};

TEST_CASE("a prompt gets back what was evicted") {
    Levels levels;
    const Tokens key = sequence(1, 10);
    levels.put(key);
    REQUIRE(levels.cache.empty());

    SECTION("all of it") {
        const auto located = levels.second.locate("m", key, 0);
        CHECK(located.tokens == 10);
        CHECK(located.nbytes > 250);
        auto load = levels.load(key);
        CHECK(load.end() == LoadEnd::loaded);
        CHECK(load.tokens() == 10);
        const auto hit = load.lease({.min_remaining = 0});
        CHECK(hit.reused() == 10);
        CHECK(is_state_of(hit.kv(), key));
        CHECK(hit.kv().blocks()[2]->data == state_of(key, 50).data);
        CHECK(levels.second.stats().tokens_loaded == 10);
        CHECK(levels.second.stats().bytes_loaded > 250);
    }
    SECTION("what it shares, in whole blocks") {
        Tokens prompt = sequence(1, 9);
        prompt.back() = 77;
        auto load = levels.load(prompt);
        CHECK(load.tokens() == 8);
        CHECK(load.lease().reused() == 8);
    }
    SECTION("the end also where the prompt goes on") {
        CHECK(levels.load(sequence(1, 30)).tokens() == 10);
    }
    SECTION("once: afterwards it is in memory") {
        CHECK(levels.load(key).end() == LoadEnd::loaded);
        const std::size_t gets = levels.store.gets;
        auto again = levels.load(key);
        CHECK(again.end() == LoadEnd::in_memory);
        CHECK(again.tokens() == 10);
        CHECK(levels.store.gets == gets);
    }
    SECTION("nothing, for other tokens or another model") {
        CHECK(levels.load(sequence(2, 10)).end() == LoadEnd::absent);
        auto other = levels.second.prefetch("other", key);
        CHECK(other.end() == LoadEnd::absent);
        CHECK(other.tokens() == 0);
    }
}

TEST_CASE("two prompts that differ in a token beyond a block get the block alone") {
    Levels levels;
    levels.put({1, 2, 3, 4, 5, 6, 7});
    CHECK(levels.load({1, 2, 3, 4, 5, 6, 8}).tokens() == 4);
    evict_to_store(levels);
    CHECK(levels.load({1, 2, 3, 4, 5, 6, 7}).tokens() == 7);
}

TEST_CASE("an entry has the tier in which it was stored, unless another is asked for") {
    Levels levels;
    levels.put(sequence(1, 8), Tier::system);
    CHECK(levels.load(sequence(1, 8)).lease({.min_remaining = 0}).tier() == Tier::system);
    evict_to_store(levels);
    auto load = levels.load(sequence(1, 8), {.tier = Tier::user, .min_remaining = 0});
    CHECK(load.lease({.min_remaining = 0}).tier() == Tier::user);
}

TEST_CASE("a block that keys of several tiers share comes back in the most persistent one") {
    Levels levels;
    const Tokens system = sequence(1, 8);
    const bool waits = GENERATE(false, true); // or is written
    levels.store.hold(false, waits);
    promptkv_test::store(levels.cache, sequence(1, 16),
                         Tier::user); // the conversation leaves first
    evict_all(levels.cache);
    if (!waits)
        REQUIRE(levels.second.wait_written(soon()));
    else
        levels.store.wait_for_puts(1); // the first block is in the writer's hands
    promptkv_test::store(levels.cache, system, Tier::system);
    evict_all(levels.cache);
    levels.store.hold(false, false);
    REQUIRE(levels.second.wait_written(soon()));
    const auto load = levels.load(system);
    REQUIRE(load.tokens() == 8);
    CHECK(levels.cache.probe("m", system, {.min_remaining = 0}).tier() == Tier::system);
    CHECK(levels.store.size() == 4);
}

TEST_CASE("a tier that rises while the record is written is written too") {
    Levels levels;
    const Tokens key = sequence(1, 4);
    levels.store.hold(false, true);
    promptkv_test::store(levels.cache, key, Tier::user);
    evict_all(levels.cache);
    levels.store.wait_for_puts(1);
    for (const Tier tier : {Tier::assistant, Tier::user, Tier::system, Tier::system}) {
        promptkv_test::store(levels.cache, key, tier);
        evict_all(levels.cache);
    }
    CHECK(levels.second.stats().stored_already == 3);
    const bool is_dropped = GENERATE(false, true);
    if (is_dropped)
        levels.second.evict(100);
    levels.store.hold(false, false);
    REQUIRE(levels.second.wait_written(soon()));
    CHECK(levels.second.stats().dropped_for_pool == (is_dropped ? 1 : 0));
    CHECK(levels.second.stats().written == (is_dropped ? 1 : 2));
    CHECK(levels.second.stats().bytes_waiting == 0);
    CHECK(levels.load(key).lease({.min_remaining = 0}).tier() ==
          (is_dropped ? Tier::user : Tier::system));
}

TEST_CASE("a hybrid key comes back in its own tier") {
    MemoryStore store;
    HybridCache cache;
    Second<HybridCache, MemoryStore> second(cache, store);
    promptkv_test::store(cache, sequence(1, 8), Tier::system);
    second.write_all(cache);
    promptkv_test::store(cache, sequence(1, 10), Tier::user);
    second.write_all(cache);
    auto load = second.prefetch("m", sequence(1, 11));
    REQUIRE(load.tokens() == 10);
    CHECK(cache.probe("m", sequence(1, 11)).tier() == Tier::user);
}

TEST_CASE("what is evicted before it could be pinned is not said to be in memory") {
    Levels levels;
    levels.put(sequence(1, 8));
    promptkv_test::store(levels.cache, sequence(1, 4)); // what is loaded absorbs it
    bool first = true;
    levels.second.set_removal_listener([&](auto&) {
        if (std::exchange(first, false))
            levels.cache.trim_to({.max_bytes = 0}); // with what was loaded
    });
    const auto load = levels.load(sequence(1, 8));
    CHECK(load.end() == LoadEnd::no_room);
    CHECK(load.tokens() == 0);
    CHECK(load.loaded() == 0);
    CHECK(levels.cache.empty());
}

TEST_CASE("what a handle loaded stays until the handle ends") {
    Levels levels;
    levels.put(sequence(1, 8));
    {
        const auto load = levels.load(sequence(1, 8));
        evict_all(levels.cache);
        CHECK(levels.cache.size() == 1);
    }
    evict_all(levels.cache);
    CHECK(levels.cache.empty());
    CHECK(levels.cache.nbytes() == 0);
    CHECK(levels.cache.check_invariants());
}

TEST_CASE("a load counts as no lookup") {
    Levels levels;
    levels.put(sequence(1, 8));
    const auto load = levels.load(sequence(1, 8));
    CHECK(levels.cache.stats().lookups == 0);
}

TEST_CASE("room is made before anything is read") {
    Levels levels;
    levels.put(sequence(1, 8));
    promptkv_test::store(levels.cache, sequence(100, 8), Tier::assistant);
    levels.cache.set_limits({.max_bytes = 300});
    levels.store.on_get = [&] { CHECK(levels.cache.nbytes() == 300); };
    CHECK(levels.load(sequence(1, 8)).end() == LoadEnd::loaded);
    CHECK(levels.cache.stats().peak_nbytes <= 300);
}

TEST_CASE("entries of more persistent tiers are not evicted for a load") {
    Levels levels;
    levels.put(sequence(1, 8), Tier::user);
    SECTION("where nothing else is there, the load is refused") {
        promptkv_test::store(levels.cache, sequence(100, 8), Tier::system);
        levels.cache.set_limits({.max_bytes = 200});
        const auto load = levels.load(sequence(1, 8));
        CHECK(load.end() == LoadEnd::no_room);
        CHECK(load.tokens() == 0);
        CHECK(levels.cache.stats().evicted == 1); // by `put`
        CHECK(levels.store.gets == 0);
        CHECK(levels.cache.check_invariants());
    }
    SECTION("entries of less persistent tiers are, whatever the rule of the tiers says") {
        promptkv_test::store(levels.cache, sequence(100, 8), Tier::system);
        promptkv_test::store(levels.cache, sequence(200, 8), Tier::system);
        promptkv_test::store(levels.cache, sequence(300, 8), Tier::assistant);
        levels.cache.set_limits({.max_bytes = 600});
        CHECK(levels.load(sequence(1, 8)).end() == LoadEnd::loaded);
        CHECK(levels.cache.stats(Tier::system).entries == 2);
        CHECK(levels.cache.check_invariants());
    }
}

TEST_CASE("a load that would take longer than computing is not made") {
    Levels levels;
    levels.put(sequence(1, 40));
    CHECK(levels.load(sequence(1, 40), {.seconds_per_token = 1e-12}).end() == LoadEnd::loaded);
    const double speed = levels.second.stats().bytes_per_second;
    REQUIRE(speed > 0);
    levels.put(sequence(100, 40));
    evict_to_store(levels);
    const auto nbytes = static_cast<double>(levels.second.locate("m", sequence(100, 40)).nbytes);
    const double break_even = nbytes / speed / 40;
    CHECK(levels.load(sequence(100, 40), {.seconds_per_token = break_even / 2}).end() ==
          LoadEnd::slower);
    CHECK(levels.load(sequence(100, 40), {.seconds_per_token = break_even * 2}).end() ==
          LoadEnd::loaded);
}

bool is_near(double value, double expected) {
    return value > 0.95 * expected && value < 1.05 * expected;
}

TEST_CASE("what a read takes is told from what its bytes take") {
    promptkv::detail::ReadTimes times;
    CHECK(times.seconds(1000) == 0);
    for (int i = 0; i < 20; ++i)
        times.add(100,
                  0.01); // small reads: 10,000 bytes a second, or a hundredth whatever the size
    CHECK(is_near(times.seconds(100), 0.01));
    CHECK(is_near(times.seconds(50), 0.005));
    CHECK(is_near(times.seconds(1'000'000), 0.01));
    times.add(1'000'000, 1.01); // it is a hundredth, and a microsecond a byte
    CHECK(is_near(times.seconds(1'000'000), 1.01));
    CHECK(is_near(times.seconds(500'000), 0.51));
    CHECK(is_near(times.seconds(100), 0.01));
    for (int i = 0; i < 60; ++i) // the store became slower
        times.add(i % 2 == 0 ? 1000 : 2000, i % 2 == 0 ? 1.1 : 1.2);
    CHECK(is_near(times.seconds(1000), 1.1));
}

TEST_CASE("one load after many refusals is made to measure again") {
    Levels levels;
    levels.put(sequence(1, 4));
    CHECK(levels.load(sequence(1, 4)).end() == LoadEnd::loaded);
    evict_to_store(levels);
    int refused = 0;
    while (levels.load(sequence(1, 4), {.seconds_per_token = 1e-15}).end() == LoadEnd::slower &&
           refused < 1000)
        ++refused;
    CHECK(refused == 63);
}

TEST_CASE("a part that loads well is kept") {
    Levels levels;
    levels.put(sequence(1, 16));
    SECTION("when a record is damaged") {
        levels.store.change([](const RecordInfo& info, std::vector<std::byte>& record) {
            if (info.depth == 8)
                record.back() ^= std::byte{1};
        });
        const auto load = levels.load(sequence(1, 16));
        CHECK(load.end() == LoadEnd::bad_record);
        CHECK(load.tokens() == 8);
        CHECK(count(levels.second.stats(), RecordFault::damaged) == 1);
        CHECK(levels.store.size() == 3); // the damaged one is set aside
    }
    SECTION("when make_block refuses") {
        levels.store.change([](const RecordInfo& info, std::vector<std::byte>& record) {
            if (info.depth == 12)
                make_refused(record);
        });
        const auto load = levels.load(sequence(1, 16));
        CHECK(load.tokens() == 12);
        CHECK(count(levels.second.stats(), RecordFault::refused) == 1);
    }
    SECTION("when the record vanishes") {
        int gets = 0;
        levels.store.on_get = [&] {
            if (++gets == 2)
                levels.second.erase_other_than({});
        };
        const auto load = levels.load(sequence(1, 16));
        CHECK(load.end() == LoadEnd::vanished);
        CHECK(load.tokens() == 8);
    }
    SECTION("when it is cancelled") {
        SharedCache cache;
        Second<SharedCache, MemoryStore> second(cache, levels.store);
        levels.store.hold(true, false);
        auto load = second.prefetch("m", sequence(1, 16));
        levels.store.wait_for_gets(1);
        load.cancel();
        levels.store.hold(false, false);
        CHECK(load.wait());
        CHECK(load.end() == LoadEnd::cancelled);
        CHECK(cache.nbytes() == 0);
    }
    SECTION("when the deadline comes") {
        const auto deadline = Clock::now() + std::chrono::milliseconds(40);
        levels.store.on_get = [deadline] { std::this_thread::sleep_until(deadline); };
        auto load = levels.second.prefetch("m", sequence(1, 16), {.deadline = deadline});
        CHECK(load.end() == LoadEnd::deadline);
        CHECK(load.tokens() == 0);
    }
}

struct RemoteStore : MemoryStore {
    static constexpr bool is_local = false;
};

TEST_CASE("what make_block refuses stays in a store that machines share") {
    RemoteStore store;
    Cache cache;
    Second<Cache, RemoteStore> second(cache, store);
    promptkv_test::store(cache, sequence(1, 8));
    second.write_all(cache);
    REQUIRE(second.wait_written(soon())); // it asks whether the store has what it evicts
    store.change([](const RecordInfo&, std::vector<std::byte>& record) { make_refused(record); });
    CHECK(second.prefetch("m", sequence(1, 8)).end() == LoadEnd::bad_record);
    CHECK(count(second.stats(), RecordFault::refused) == 1);
    CHECK(store.size() == 2); // another machine may have room for it
}

TEST_CASE("what a load says that memory serves is pinned, whichever allocation fails") {
    const Tokens key = sequence(1, 16);
    bool struck = true;
    for (std::size_t skip = 0; struck; ++skip) {
        CAPTURE(skip);
        Levels levels;
        levels.put(key);
        promptkv_test::store(levels.cache, sequence(1, 8));
        std::optional<MemorySecond::Prefetch> load;
        {
            FailingNew failing(skip);
            try {
                load = levels.second.prefetch("m", key, {.min_remaining = 0});
            } catch (const std::bad_alloc&) {
            }
            struck = failing.stop();
        }
        evict_all(levels.cache);
        const std::size_t reused = levels.cache.probe("m", key, {.min_remaining = 0}).reused();
        CHECK(reused == (load ? load->tokens() : 0));
        CHECK(levels.cache.check_invariants());
        load.reset();
        evict_to_store(levels);
        CHECK(levels.load(key).tokens() == 16);
    }
}

TEST_CASE("a load says where the caller's fingerprint_of_model throws") {
    MemoryStore store;
    SharedCache cache;
    Second<SharedCache, MemoryStore> second(
        cache, store, {.fingerprint_of_model = [](const std::string&) -> promptkv::Fingerprint {
            throw std::runtime_error("fingerprint_of_model");
        }});
    auto load = second.prefetch("m", sequence(1, 8));
    CHECK(load.wait());
    CHECK(load.end() == LoadEnd::no_memory);
}

TEST_CASE("a prompt that is in memory already is a load that has ended") {
    MemoryStore store;
    store.hold(true, true);
    SharedCache cache;
    Second<SharedCache, MemoryStore> second(cache, store);
    promptkv_test::store(cache, sequence(1, 12));
    auto load = second.prefetch("m", sequence(1, 12));
    CHECK(load.ready());
    CHECK(load.end() == LoadEnd::in_memory);
    CHECK(load.tokens() == 11);
    CHECK(cache.stats().lookups == 0);
    store.hold(false, false);
}

TEST_CASE("ends, faults and counters have names") {
    CHECK(name(LoadEnd::slower) == "slower");
    CHECK(name(LoadEnd::no_memory) == "no_memory");
    CHECK(name(RecordFault::other_name) == "other_name");
    CHECK(name(WriteWhen::second_use) == "second_use");
    promptkv::SecondLevelStats stats;
    stats.ends[static_cast<std::size_t>(LoadEnd::slower)] = 7;
    stats.faults[static_cast<std::size_t>(RecordFault::codec)] = 8;
    stats.dropped_no_payload = 9;
    std::map<std::string, double> counters;
    for_each_counter(stats, [&](auto counter, auto value) {
        CHECK(counters.emplace(counter, static_cast<double>(value)).second);
    });
    CHECK(counters.at("slower") == 7);
    CHECK(counters.at("codec") == 8);
    CHECK(counters.at("dropped_no_payload") == 9);
    CHECK(counters.size() == 21 + 12 + 7 + 2);
}

TEST_CASE("a store that is down costs a miss") {
    Levels levels;
    levels.put(sequence(1, 8));
    levels.store.is_down = true;
    CHECK(levels.load(sequence(1, 8)).end() == LoadEnd::store_failed);
    CHECK(levels.cache.empty());
    CHECK(levels.cache.nbytes() == 0);
}

TEST_CASE("blocks that take more memory than their records are loaded, if there is room") {
    Cache cache({.max_bytes = 300});
    MemoryStore below;
    Second<Cache, MemoryStore> second(cache, below);
    store(cache, sequence(1, 8));
    second.write_all(cache);
    below.change([](RecordInfo& info, auto&) { info.payload_bytes /= 2; });
    const auto load = second.prefetch("m", sequence(1, 9));
    CHECK(load.end() == LoadEnd::loaded);
    CHECK(load.tokens() == 8);
    CHECK(cache.nbytes() == 200);
    CHECK(cache.check_invariants());
}

TEST_CASE("a record of another name is set aside") {
    Cache cache;
    MemoryStore below;
    Second<Cache, MemoryStore> second(cache, below);
    store(cache, sequence(1, 4));
    store(cache, sequence(100, 4));
    second.write_all(cache);
    std::vector<std::byte> other;
    below.change([&](RecordInfo&, std::vector<std::byte>& record) {
        if (other.empty())
            other = record;
        record = other; // one of the two is in the wrong place now
    });
    static_cast<void>(second.prefetch("m", sequence(1, 5)));
    static_cast<void>(second.prefetch("m", sequence(100, 5)));
    CHECK(below.size() == 1);
    CHECK(count(second.stats(), RecordFault::other_name) == 1);
}

TEST_CASE("a prompt in memory is a load that has ended, also after the deadline") {
    SharedCache cache;
    MemoryStore below;
    Second<SharedCache, MemoryStore> second(cache, below);
    store(cache, sequence(1, 8));
    const auto load = second.prefetch("m", sequence(1, 9), {.deadline = Clock::now()});
    CHECK(load.end() == LoadEnd::in_memory);
    CHECK(load.tokens() == 8);
    CHECK(load.loaded() == 0);
}

TEST_CASE("options that no record could have are refused") {
    Cache cache;
    MemoryStore below;
    CHECK_THROWS_AS((promptkv::SecondLevel<Cache, MemoryStore>(cache, below, {})),
                    std::invalid_argument);
    CHECK_THROWS_AS((promptkv::SecondLevel<Cache, MemoryStore>(
                        cache, below, {.block_tokens = (std::size_t{1} << 20U) + 1})),
                    std::invalid_argument);
}

TEST_CASE("a fingerprint that changed makes a miss, and its records can be removed") {
    Levels levels;
    levels.put(sequence(1, 8));
    MemorySecond changed(levels.cache, levels.store,
                         {.fingerprint = promptkv::fingerprint_of("weights 2")});
    CHECK(changed.prefetch("m", sequence(1, 8)).end() == LoadEnd::absent);
    const std::vector<promptkv::Fingerprint> kept{fingerprint};
    CHECK(changed.erase_other_than(kept) == 0);
    const std::vector<promptkv::Fingerprint> other{promptkv::fingerprint_of("weights 2")};
    CHECK(changed.erase_other_than(other) == 2);
    CHECK(levels.store.size() == 0);
}

TEST_CASE("models share records only where they are told to") {
    MemoryStore store;
    Cache cache;
    MemorySecond second(cache, store, {.share_between_models = true});
    promptkv_test::store(cache, sequence(1, 8), Tier::user, "one");
    evict_all(cache);
    REQUIRE(second.flush(soon()));
    CHECK(second.prefetch("two", sequence(1, 8), {.min_remaining = 0}).tokens() == 8);
}

TEST_CASE("where names collide the tokens decide") {
    MemoryStore store;
    store.name_mask = 0xff; // 8 bits
    Cache cache;
    MemorySecond second(cache, store);
    std::size_t loaded = 0;
    for (std::int32_t i = 0; i < 400; ++i) {
        promptkv_test::store(cache, sequence(1000 * i, 10));
        evict_all(cache);
    }
    REQUIRE(second.flush(soon()));
    CHECK(store.size() <= 256);
    for (std::int32_t i = 0; i < 400; ++i) {
        const Tokens key = sequence(1000 * i, 10);
        auto load = second.prefetch("m", key, {.min_remaining = 0});
        loaded += load.tokens();
        if (load.tokens() > 0) {
            const auto hit = load.lease({.min_remaining = 0});
            REQUIRE(hit);
            CHECK(is_state_of(hit.kv(), Key(key).first(hit.reused())));
        }
    }
    CHECK(loaded > 0);
    CHECK(count(second.stats(), RecordFault::other_name) > 100);
}

// while it is written ////////////////////////////////////////////////////////

TEST_CASE("a block that waits to be written is found") {
    MemoryStore store;
    store.hold(false, true);
    Cache cache;
    MemorySecond second(cache, store);
    const Tokens key = sequence(1, 10);
    evict_to_writer(cache, store, key); // one record is being written, two wait
    CHECK(second.locate("m", key, 0).tokens == 10);
    auto load = second.prefetch("m", key, {.min_remaining = 0});
    CHECK(load.end() == LoadEnd::loaded);
    CHECK(load.tokens() == 10);
    CHECK(second.stats().blocks_from_queue == 3);
    CHECK(is_state_of(load.lease({.min_remaining = 0}).kv(), key));
    CHECK(cache.check_invariants());
    evict_all(cache); // again, while the first writes are pending
    store.hold(false, false);
    REQUIRE(second.flush(soon()));
    CHECK(store.size() == 3);
}

TEST_CASE("a record is found that is written while it is looked for") {
    MemoryStore store;
    store.hold(false, true);
    Cache cache;
    MemorySecond second(cache, store);
    evict_to_writer(cache, store, sequence(1, 4));
    store.on_found = [&, reader = std::this_thread::get_id()] {
        if (std::this_thread::get_id() == reader) { // the store did not have it
            store.hold(false, false);
            CHECK(second.wait_written(soon()));
        }
    };
    CHECK(second.locate("m", sequence(1, 4), 0).tokens == 4);
    store.on_found = nullptr;
    CHECK(second.prefetch("m", sequence(1, 4), {.min_remaining = 0}).tokens() == 4);
}

TEST_CASE("a record is loaded that is written while the one before it is read") {
    MemoryStore store;
    Cache cache;
    MemorySecond second(cache, store);
    promptkv_test::store(cache, sequence(1, 4));
    second.write_all(cache);
    REQUIRE(second.wait_written(soon()));
    store.hold(false, true);
    promptkv_test::store(cache, sequence(1, 8));
    evict_all(cache);
    store.wait_for_puts(2); // the second block is being written
    store.on_get = [&, gets = 0]() mutable {
        if (++gets == 2) { // the store did not have it
            store.hold(false, false);
            CHECK(second.wait_written(soon()));
        }
    };
    auto load = second.prefetch("m", sequence(1, 8), {.min_remaining = 0});
    CHECK(load.end() == LoadEnd::loaded);
    CHECK(load.tokens() == 8);
}

TEST_CASE("a record is found while it is written, though it waited once more and was dropped") {
    MemoryStore store;
    store.hold(false, true);
    Cache cache;
    MemorySecond second(cache, store);
    const Tokens key = sequence(1, 4);
    evict_to_writer(cache, store, key, Tier::assistant);
    promptkv_test::store(cache, key, Tier::system);
    evict_all(cache);
    CHECK(second.evict(1) == 100);
    CHECK(second.locate("m", key, 0).tokens == 4);
    store.hold(false, false);
    REQUIRE(second.wait_written(soon()));
    CHECK(store.size() == 1);
    CHECK(second.stats().bytes_waiting == 0);
    CHECK_FALSE(second.erase("m", key)); // it was in the store alone
    CHECK(second.locate("m", key, 0).tokens == 0);
}

TEST_CASE("reads go before writes") {
    MemoryStore store;
    SharedCache cache;
    Second<SharedCache, MemoryStore> second(cache, store);
    promptkv_test::store(cache, sequence(1, 8));
    evict_all(cache);
    REQUIRE(second.flush(soon()));
    const std::size_t puts = store.puts;
    store.hold(true, false);
    auto load = second.prefetch("m", sequence(1, 8));
    store.wait_for_gets(1);
    promptkv_test::store(cache, sequence(100, 8));
    evict_all(cache);
    CHECK(second.stats().bytes_waiting > 0);
    CHECK(store.puts == puts);
    store.hold(false, false);
    CHECK(load.wait());
    REQUIRE(second.flush(soon()));
    CHECK(store.size() == 4);
}

// hybrid models //////////////////////////////////////////////////////////////

struct HybridLevels {
    MemoryStore store;
    HybridCache cache;
    Second<HybridCache, MemoryStore> second{cache, store};
};

TEST_CASE("a hybrid key is served with its end record only") {
    HybridLevels levels;
    const Tokens key = sequence(1, 10);
    promptkv_test::store(levels.cache, key);
    evict_all(levels.cache);
    REQUIRE(levels.second.flush(soon()));
    CHECK(levels.store.size() == 3);

    SECTION("the key and what continues it") {
        auto load = levels.second.prefetch("m", sequence(1, 15));
        CHECK(load.end() == LoadEnd::loaded);
        CHECK(load.tokens() == 10);
        const auto hit = load.lease();
        CHECK(hit.reused() == 10);
        CHECK(hit.kv().state() == state_of(key, 40, 7));
        CHECK(is_state_of(hit.kv(), key));
    }
    SECTION("not a part of the key") {
        CHECK(levels.second.prefetch("m", sequence(1, 8)).end() == LoadEnd::absent);
    }
    SECTION("not the prompt itself, of which an engine computes a token") {
        CHECK(levels.second.prefetch("m", key).end() == LoadEnd::absent);
        CHECK(levels.second.prefetch("m", key, {.min_remaining = 0}).tokens() == 10);
    }
    SECTION("not without its blocks") {
        levels.store.change([](const RecordInfo& info, std::vector<std::byte>& record) {
            if (info.depth == 4)
                record.resize(100);
        });
        auto load = levels.second.prefetch("m", sequence(1, 15));
        CHECK(load.end() == LoadEnd::bad_record);
        CHECK(load.tokens() == 0);
        CHECK(levels.cache.empty());
    }
}

TEST_CASE("the longest of several ends is loaded, and blocks in memory are not read") {
    HybridLevels levels;
    promptkv_test::store(levels.cache, sequence(1, 8));
    promptkv_test::store(levels.cache, sequence(1, 17));
    promptkv_test::store(levels.cache, sequence(1, 22));
    evict_all(levels.cache);
    REQUIRE(levels.second.flush(soon()));
    CHECK(levels.second.locate("m", sequence(1, 20)).tokens == 17);
    promptkv_test::store(levels.cache, sequence(1, 8));
    const std::size_t gets = levels.store.gets;
    auto load = levels.second.prefetch("m", sequence(1, 20));
    CHECK(load.tokens() == 17);
    CHECK(levels.store.gets - gets == 3); // blocks 2 and 3, and the end
    CHECK(levels.cache.check_invariants());
}

TEST_CASE(
    "the end of a hybrid key is found in few steps, however far it is from the prompt's end") {
    HybridLevels levels;
    Tokens other = sequence(1, 400);
    other.push_back(-1);
    promptkv_test::store(levels.cache, sequence(1, 9));
    promptkv_test::store(levels.cache, other); // its end is of no use
    evict_all(levels.cache);
    REQUIRE(levels.second.flush(soon()));
    levels.store.finds = 0;
    const auto load = levels.second.prefetch("m", sequence(1, 410));
    CHECK(load.tokens() == 9);
    CHECK(levels.store.finds == 3); // of 100 blocks, and of 403 tokens by 256
}

TEST_CASE("what the cache only remembers is loaded like what it forgot") {
    MemoryStore store;
    HybridCache cache({.remembered_tokens = 1000});
    Second<HybridCache, MemoryStore> second(cache, store);
    const Tokens key = sequence(1, 10);
    promptkv_test::store(cache, key);
    promptkv_test::store(cache, sequence(1, 6)); // stays, and shares a block
    cache.evict(1);
    REQUIRE(second.wait_written(soon()));
    REQUIRE(cache.probe("m", key).matched() == 10);
    REQUIRE(cache.held_tokens("m", key) == 6);
    auto load = second.prefetch("m", key, {.min_remaining = 0});
    CHECK(load.end() == LoadEnd::loaded);
    CHECK(load.tokens() == 10);
    CHECK(is_state_of(load.lease({.min_remaining = 0}).kv(), key));
}

TEST_CASE("a hybrid key without its state does not come back with one") {
    HybridLevels levels;
    const Tokens key = sequence(1, 6);
    HybridKV kv(block_tokens);
    kv.append(state_of(Key(key).first(4), 100), 4);
    kv.append(state_of(key, 50), 2);
    levels.cache.insert("m", key, std::move(kv), Tier::user);
    evict_to_store(levels);
    CHECK(levels.store.size() == 1); // the whole block
    CHECK(levels.second.prefetch("m", key, {.min_remaining = 0}).end() == LoadEnd::absent);
    promptkv_test::store(levels.cache, key); // with its state
    evict_to_store(levels);
    auto load = levels.second.prefetch("m", key, {.min_remaining = 0});
    CHECK(load.tokens() == 6);
    CHECK(load.lease({.min_remaining = 0}).kv().state() == state_of(key, 40, 7));
}

TEST_CASE("a load makes room for what it reads, not for what memory holds already") {
    HybridLevels levels;
    const auto with_large_state = [](const Tokens& key) {
        auto kv = payload_of<HybridKV>(key);
        kv.set_state(state_of(key, 4000));
        return kv;
    };
    Tokens one = sequence(1, 40); // ten blocks that both share, 1000 bytes
    Tokens other = one;
    one.insert(one.end(), {-1, -1, -1, -1});
    other.insert(other.end(), {-2, -2, -2, -2});
    levels.cache.insert("m", other, with_large_state(other), Tier::user);
    evict_to_store(levels);
    for (std::int32_t i = 1; i <= 10; ++i)
        promptkv_test::store(levels.cache, sequence(1000 * i, 20), Tier::user);
    levels.cache.insert("m", one, with_large_state(one), Tier::user);
    const std::size_t before = levels.cache.nbytes();
    levels.cache.set_limits({.max_bytes = before + 4100});
    auto load = levels.second.prefetch("m", other, {.min_remaining = 0});
    CHECK(load.end() == LoadEnd::loaded);
    CHECK(load.tokens() == 44);
    CHECK(levels.cache.size() == 12);
    CHECK(levels.cache.nbytes() == before + 4100); // a block and a state
}

} // namespace of_loading
