// SPDX-License-Identifier: MIT
// Scenarios 47 to 57: readers, their leases, and what happens to entries meanwhile.
#include "state.hpp"

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <thread>
#include <type_traits>

using namespace scenario;
using promptkv::Match;
using promptkv::Outcome;
using promptkv::RemovalReason;
using promptkv::Tier;

namespace {

using Cache = promptkv::LRUPromptCache<State>;
using RecurrentCache = promptkv::LRUPromptCache<Recurrent>;
using Lease = decltype(std::declval<Cache&>().lease_nearest("m", std::declval<Tokens&>()));

} // namespace

TEST_CASE("47. a leased entry stays, whatever happens to what it grew from", "[scenario]") {
    const Tokens prefix = run(1, 10);
    const Tokens leaf = run(1, 20);
    const Tokens prompt = run(1, 21);

    SECTION("under pressure, with its prefix gone") {
        RecurrentCache cache;
        store(cache, Recurrent{"m", prefix}, Tier::assistant);
        store(cache, Recurrent{"m", leaf}, Tier::assistant);
        const auto lease = cache.lease_nearest("m", prompt);
        REQUIRE(lease.reused() == 20);
        CHECK(evict_all(cache) == 1);
        CHECK_FALSE(cache.erase("m", prefix));
        CHECK(lease.kv().tokens == leaf);
        CHECK(holds(cache, "m", leaf));
        require_balanced(cache, models);
    }
    SECTION("it is neither cut nor taken") {
        Cache cache({.max_bytes = 40});
        store(cache, State{"m", leaf}, Tier::assistant);
        const auto lease = cache.lease_nearest("m", prompt);
        store(cache, State{"m", run(101, 20)}, Tier::assistant);
        CHECK(store(cache, State{"m", run(201, 15)}, Tier::assistant).outcome == Outcome::stored);
        CHECK(holds(cache, "m", leaf));
        require_miss(cache.take_nearest("m", prompt), prompt);
        CHECK(lease.kv().tokens == leaf);
        CHECK(lease.kv().length() == 20);
    }
    SECTION("an exception ends the lease like any other way out") {
        Cache cache;
        store(cache, State{"m", leaf}, Tier::assistant);
        const auto restore = [&] {
            const auto lease = cache.lease_nearest("m", prompt);
            REQUIRE(evict_all(cache) == 0);
            throw std::runtime_error("the engine refused the state");
        };
        CHECK_THROWS_AS(restore(), std::runtime_error);
        CHECK(cache.stats().bytes_leased == 0);
        CHECK(evict_all(cache) == 1);
    }
    SECTION("it cannot be ended twice") {
        STATIC_REQUIRE_FALSE(std::is_copy_constructible_v<Lease>);
        STATIC_REQUIRE_FALSE(std::is_copy_assignable_v<Lease>);
        STATIC_REQUIRE(std::is_nothrow_move_constructible_v<Lease>);
        STATIC_REQUIRE(std::is_nothrow_move_assignable_v<Lease>);

        Cache cache;
        store(cache, State{"m", leaf}, Tier::assistant);
        auto first = cache.lease_nearest("m", prompt);
        {
            const auto second = std::move(first);
            CHECK(static_cast<bool>(second));
            CHECK(second.kv().tokens == leaf);
            CHECK(cache.stats().bytes_leased == 20);
        }
        CHECK(cache.stats().bytes_leased == 0);
        auto third = cache.lease_nearest("m", prompt);
        auto fourth = cache.lease_nearest("m", prompt);
        third = std::move(fourth); // one of two readers of one entry is left
        CHECK(evict_all(cache) == 0);
        const Tokens stranger = run(500, 1);
        third = cache.lease_nearest("m", stranger);
        CHECK_FALSE(static_cast<bool>(third));
        CHECK(evict_all(cache) == 1);
    }
}

TEST_CASE("48. a match that nobody reads leaves nothing pinned", "[scenario]") {
    Cache cache;
    const Tokens prompt = run(1, 21);
    const Tokens stranger = run(500, 5);
    store(cache, State{"m", run(1, 20)}, Tier::system);
    for (int request = 0; request < 100; ++request) {
        CHECK(static_cast<bool>(cache.lease_nearest("m", prompt)));
        CHECK_FALSE(static_cast<bool>(cache.lease_nearest("m", stranger)));
    }
    CHECK(cache.stats().bytes_leased == 0);
    CHECK(evict_all(cache) == 1);
    CHECK(cache.nbytes() == 0);
}

TEST_CASE("49. a lease of half an edge pins the entry, not the half, when the edge is split",
          "[scenario]") {
    Cache cache;
    const Tokens leased = run(1, 10);
    const Tokens prompt = join(first_of(leased, 5), Tokens{77, 78});
    store(cache, State{"m", leased}, Tier::assistant);
    const auto lease = cache.lease_nearest("m", prompt);
    REQUIRE(lease.match() == Match::longer);
    REQUIRE(lease.reused() == 5);

    store(cache, State{"m", prompt}, Tier::assistant);
    store(cache, State{"m", join(first_of(leased, 2), Tokens{66})}, Tier::assistant);
    store(cache, State{"m", join(first_of(leased, 8), Tokens{55})}, Tier::assistant);
    REQUIRE(cache.size() == 4);
    CHECK(evict_all(cache) == 3);
    CHECK(cache.size() == 1);
    CHECK(holds(cache, "m", leased));
    CHECK_FALSE(holds(cache, "m", prompt));
    CHECK(lease.kv().tokens == leased);
    CHECK(lease.remaining(prompt).data() == prompt.data() + 5);
    require_balanced(cache, models);
}

TEST_CASE("50. leases end well after their entry, their model, and their cache are gone",
          "[scenario]") {
    auto cache = std::make_optional<Cache>();
    const Tokens key = run(1, 20);
    const Tokens prompt = run(1, 21);
    store(*cache, State{"m", key}, Tier::user);
    store(*cache, State{"other", key}, Tier::user);
    auto lease = std::make_optional(cache->lease_nearest("m", prompt));

    SECTION("after clear") {
        CHECK(cache->clear() == 2);
        CHECK(cache->empty());
        CHECK(cache->nbytes() == 20);
        CHECK(lease->kv().tokens == key);
        lease.reset();
        CHECK(cache->nbytes() == 0);
        CHECK_FALSE(holds(*cache, "m", key));
        CHECK(cache->check_invariants());
    }
    SECTION("after the model was erased") {
        CHECK(cache->erase_model("m") == 1);
        CHECK(cache->nbytes() == 40);
        CHECK(lease->kv().tokens == key);
        store(*cache, State{"m", run(101, 5)}, Tier::user); // the model comes back meanwhile
        lease.reset();
        CHECK(cache->nbytes() == 25);
        CHECK(cache->nbytes("m") == 5);
        require_balanced(*cache, std::vector<std::string>{"m", "other"});
    }
    SECTION("after the cache was destroyed") {
        cache.reset();
        CHECK(lease->kv().tokens == key);
        CHECK(lease->kv().model == "m");
        lease.reset();
        CHECK_FALSE(lease.has_value());
    }
    SECTION("on another thread, after the cache was destroyed") {
        cache.reset();
        bool whole = false;
        std::thread reader([&key, &whole, lease = std::move(*lease)]() mutable {
            whole = lease.kv().tokens == key;
            const auto ended = std::move(lease);
        });
        reader.join();
        CHECK(whole);
    }
    SECTION("on another thread, while the cache lives on") {
        std::thread([lease = std::move(*lease)]() mutable {
            const auto ended = std::move(lease);
        }).join();
        CHECK(evict_all(*cache) == 2);
        CHECK(cache->nbytes() == 0);
    }
}

TEST_CASE("51. a lease lasts for as long as its reader wants, whatever the cache goes through",
          "[scenario]") {
    Cache cache({.max_bytes = 100});
    const Tokens key = run(1, 40);
    const Tokens prompt = run(1, 41);
    store(cache, State{"m", key}, Tier::assistant);
    const auto lease = cache.lease_nearest("m", prompt);
    const State* const address = &lease.kv();
    for (std::int32_t step = 1; step <= 2'000; ++step) {
        store(cache, State{"m", run(1000 * step, 1 + static_cast<std::size_t>(step % 60))},
              static_cast<Tier>(step % 3));
        REQUIRE(cache.nbytes() <= 100);
    }
    CHECK(holds(cache, "m", key));
    cache.set_limits({.max_bytes = 10}); // less than is leased: nothing else can be stored
    CHECK(cache.size() == 1);
    CHECK(cache.nbytes() == 40);
    CHECK(store(cache, State{"m", run(500, 5)}, Tier::user).outcome == Outcome::no_room);
    CHECK(&lease.kv() == address);
    CHECK(lease.kv().tokens == key);
    CHECK(cache.check_invariants());
}

TEST_CASE("52. questions may be asked from many threads at once", "[scenario]") {
    Cache filled({.max_bytes = 100'000});
    constexpr std::int32_t conversations = 50;
    for (std::int32_t i = 0; i < conversations; ++i)
        store(filled, State{"m", join(run(1, 20), run(1000 * (i + 1), 30))}, Tier::user);
    const Cache& cache = filled;

    std::atomic<int> mistakes = 0;
    std::vector<std::thread> readers;
    for (int reader = 0; reader < 4; ++reader) {
        readers.emplace_back([&] {
            const auto expect = [&](bool condition) { mistakes += condition ? 0 : 1; };
            for (std::int32_t round = 0; round < 200; ++round) {
                const Tokens prompt = join(run(1, 20), run(1000 * (round % conversations + 1), 31));
                expect(cache.probe("m", prompt).reused() == 50);
                const Tokens stranger = run(700, 5);
                expect(cache.probe("m", stranger).match() == Match::none);
                expect(cache.size() == conversations);
                expect(cache.nbytes() == 50 * conversations);
                expect(cache.nbytes("m") == 50 * conversations);
                expect(cache.stats().stored == conversations);
                expect(cache.stats(Tier::user).entries == conversations);
                expect(cache.limits().max_bytes == 100'000);
                expect(cache.index_nbytes() > 0);
                std::size_t entries = 0;
                cache.for_each([&](const auto&) { ++entries; });
                expect(entries == conversations);
                if (round % 50 == 0)
                    expect(cache.check_invariants());
            }
        });
    }
    for (auto& reader : readers)
        reader.join();
    CHECK(mistakes == 0);
}

TEST_CASE("53. two workers that take and store one key lose no state and invent none",
          "[scenario]") {
    const Tokens key = run(1, 20);
    const Tokens prompt = run(1, 21);

    SECTION("the second to take finds nothing, not a ghost") {
        Cache cache;
        store(cache, State{"m", key}, Tier::user);
        require_served(cache.take_nearest("m", prompt), "m", prompt, 20, Match::shorter);
        require_miss(cache.take_nearest("m", prompt), prompt);
        CHECK_FALSE(cache.erase("m", key));
        CHECK(store(cache, State{"m", key}, Tier::user).outcome == Outcome::stored);
        require_served(cache.take_nearest("m", prompt), "m", prompt, 20, Match::shorter);
        CHECK(cache.nbytes() == 0);
    }

    SECTION("from threads that share a lock") {
        Cache cache;
        std::mutex lock;
        store(cache, State{"m", key}, Tier::user);
        std::atomic<int> mistakes = 0;
        std::vector<std::thread> workers;
        for (int worker = 0; worker < 3; ++worker) {
            workers.emplace_back([&] {
                for (int taken = 0; taken < 200;) {
                    std::unique_lock guard(lock);
                    auto hit = cache.take_nearest("m", prompt);
                    guard.unlock();
                    if (!hit) { // another worker has it
                        std::this_thread::yield();
                        continue;
                    }
                    ++taken;
                    mistakes += hit.kv->tokens == key ? 0 : 1;
                    guard.lock();
                    const auto outcome =
                        cache.insert("m", key, std::move(*hit.kv), Tier::user).outcome;
                    mistakes += outcome == Outcome::stored ? 0 : 1;
                }
            });
        }
        for (auto& worker : workers)
            worker.join();
        CHECK(mistakes == 0);
        CHECK(cache.stats().stored == 1 + 3 * 200);
        CHECK(cache.size() == 1);
        CHECK(holds(cache, "m", key));
        require_balanced(cache, models);
    }
}

TEST_CASE("54. interleaved conversations never receive each other's state", "[scenario]") {
    // All begin alike; from the turn on in which they part, each has tokens of its own.
    Cache cache({.max_bytes = 900});
    constexpr std::size_t conversations = 6;
    const Tokens beginning = run(1, 30);
    std::vector<Tokens> turns(conversations, beginning);
    std::vector<Tokens> prompts(conversations);
    std::vector<Lease> readers(conversations);
    store(cache, State{"m", beginning}, Tier::system);
    for (std::int32_t turn = 1; turn <= 60; ++turn) {
        for (std::size_t i = 0; i < conversations; ++i) {
            CAPTURE(turn, i);
            auto& tokens = turns[i];
            if (turn % 12 == 0) {
                tokens = beginning; // starts anew
            } else {
                const auto first = static_cast<std::int32_t>(10'000 * (i + 1)) + 100 * turn;
                tokens = join(tokens, run(first, 10));
            }
            const auto hit = cache.fetch_nearest("m", tokens);
            require_split(hit, tokens);
            REQUIRE(hit.reused() >= beginning.size() - 1); // what all share is never lost
            REQUIRE(hit.kv->tokens == first_of(tokens, hit.reused()));

            prompts[i] = tokens;
            readers[i] = cache.lease_nearest("m", prompts[i]);
            store(cache, State{"m", tokens}, Tier::assistant);
            for (std::size_t reader = 0; reader < conversations; ++reader) {
                const auto& lease = readers[reader];
                if (lease) { // held since that conversation's turn
                    REQUIRE(first_of(lease.kv().tokens, lease.reused()) ==
                            first_of(prompts[reader], lease.reused()));
                }
            }
        }
    }
    CHECK(cache.stats().evicted + cache.stats().cut > 0);
    readers.clear();
    require_balanced(cache, models);
}

TEST_CASE("55. a store that is called off leaves its room behind and its neighbours alone",
          "[scenario]") {
    Cache cache({.max_bytes = 100});
    store(cache, State{"m", run(101, 40)}, Tier::system);
    store(cache, State{"m", run(201, 40)}, Tier::assistant);
    const Tokens key = run(1, 50);
    struct Cancelled {};
    const auto cancel = []() -> State { throw Cancelled{}; };

    SECTION("a reservation that is dropped while there is room: nothing has happened") {
        {
            const auto room = cache.reserve("m", run(1, 20), 20, Tier::user);
            REQUIRE(static_cast<bool>(room));
            CHECK(cache.nbytes() == 100); // its room is held
            CHECK(cache.stats().bytes_reserved == 20);
            CHECK(cache.probe("m", run(1, 20)).reused() == 0); // and nothing is to be seen of it
        }
        CHECK(cache.stats().bytes_reserved == 0);
        CHECK(cache.size() == 2);
        CHECK(cache.nbytes() == 80);
        CHECK(cache.stats().evicted == 0);
    }
    SECTION("a reservation that made room: it is there for the next one") {
        {
            const auto room = cache.reserve("m", key, key.size(), Tier::user);
            REQUIRE(static_cast<bool>(room));
            CHECK(cache.stats().cut == 1); // the other conversation gave what was needed
            CHECK(cache.nbytes() == 100);
        }
        CHECK(cache.nbytes() == 50);
        auto again = cache.reserve("m", key, key.size(), Tier::user);
        CHECK(again.tokens() == 50);
        const auto stored = again.commit(State{"m", key});
        CHECK(stored.outcome == Outcome::stored);
        CHECK(stored.tokens == 50);
        CHECK(cache.stats().cut == 1);
        CHECK(cache.stats().evicted == 0);
        CHECK(cache.nbytes() == 100);
        CHECK(holds(cache, "m", key));
    }
    SECTION("a function that throws") {
        CHECK_THROWS_AS(cache.insert("m", key, key.size(), Tier::user, cancel), Cancelled);
        CHECK(cache.nbytes() == 50);
        CHECK(cache.stats().bytes_reserved == 0);
        require_miss(cache.fetch_nearest("m", key), key);
    }
    SECTION("a function that makes nothing") {
        const auto nothing = [] { return std::optional<State>(); };
        CHECK(cache.insert("m", key, key.size(), Tier::user, nothing).outcome ==
              Outcome::cancelled);
        CHECK(cache.stats().cancelled == 1);
        CHECK(cache.nbytes() == 50);
        require_miss(cache.fetch_nearest("m", key), key);
    }
    SECTION("for a stored key: it is present, and nothing is made") {
        const Tokens stored = run(101, 40);
        CHECK(cache.insert("m", stored, 40, Tier::system, cancel).outcome == Outcome::present);
        CHECK(holds(cache, "m", stored));
        CHECK(cache.nbytes() == 80);
        CHECK(cache.fetch_nearest("m", stored).tier() == Tier::system);
    }
    SECTION("halfway through a prompt: what was computed is stored, and no more") {
        auto room = cache.reserve("m", key, key.size(), Tier::user);
        const Tokens achieved = first_of(key, 20);
        const auto stored = room.commit(State{"m", achieved});
        CHECK(stored.outcome == Outcome::stored);
        CHECK(stored.tokens == 20);
        CHECK(cache.nbytes() == 40 + 10 + 20); // the rest of its room is free again
        require_served(cache.fetch_nearest("m", key), "m", key, 20, Match::shorter);
        CHECK_FALSE(holds(cache, "m", key));
    }
    CHECK(holds(cache, "m", run(101, 40)));
    require_balanced(cache, models);
}

TEST_CASE("56. a late commit never brings back what was erased or stored anew", "[scenario]") {
    Cache cache({.max_bytes = 100});
    const Tokens key = run(1, 20);
    auto slow = cache.reserve("m", key, 20, Tier::user);
    REQUIRE(static_cast<bool>(slow));

    SECTION("another request stored the key meanwhile: the late state is dropped") {
        REQUIRE(store(cache, State{"m", key}, Tier::user).outcome == Outcome::stored);
        CHECK(cache.nbytes() == 40);
        CHECK(slow.commit(State{"late", key}).outcome == Outcome::present);
        CHECK(cache.nbytes() == 20);
        CHECK(cache.fetch_nearest("m", key, {.min_remaining = 0}).kv->model == "m");
    }
    SECTION(
        "the key, its prefix, its model or everything was erased: the state stays the caller's") {
        switch (GENERATE(0, 1, 2, 3)) {
        case 0:
            cache.erase("m", key);
            break;
        case 1:
            cache.erase_below("m", first_of(key, 5));
            break;
        case 2:
            cache.erase_model("m");
            break;
        default:
            cache.clear();
            break;
        }
        State state{"late", key};
        CHECK(slow.commit(std::move(state)).outcome == Outcome::cancelled);
        CHECK(state.tokens == key);
        CHECK(cache.probe("m", key).reused() == 0);
        CHECK(cache.nbytes() == 0);
        CHECK(cache.stats().bytes_reserved == 0);
    }
    SECTION("other keys were erased: it is stored") {
        cache.erase("m", run(500, 5));
        cache.erase_below("m", run(2, 5));
        cache.erase_model("other");
        CHECK(slow.commit(State{"m", key}).outcome == Outcome::stored);
        CHECK(holds(cache, "m", key));
    }
    require_balanced(cache, models);
}

TEST_CASE("57. state that was taken and not stored again is seen to be gone", "[scenario]") {
    RecurrentCache cache({.max_bytes = 25});
    const Tokens key = run(1, 20);
    const Tokens prompt = run(1, 21);
    std::vector<RemovalReason> reasons;
    cache.set_removal_listener([&](const auto& removal) { reasons.push_back(removal.reason); });
    store(cache, Recurrent{"m", key, 20}, Tier::user);

    auto taken = cache.take_nearest("m", prompt);
    require_served(taken, "m", prompt, 20, Match::shorter);
    CHECK(reasons == std::vector<RemovalReason>{RemovalReason::taken});
    CHECK(cache.empty());
    CHECK(cache.nbytes() == 0);
    CHECK(cache.probe("m", prompt).match() == Match::none);

    // Grown by a turn it does not fit any more: the answer says so, and the state is kept.
    const Tokens grown = run(1, 30);
    Recurrent state{"m", grown, 30};
    CHECK(cache.insert("m", grown, std::move(state), Tier::user).outcome == Outcome::too_large);
    CHECK(state.tokens == grown);
    CHECK(cache.stats().too_large == 1);
    CHECK(cache.insert("m", key, std::move(*taken.kv), Tier::user).outcome == Outcome::stored);
    CHECK(holds(cache, "m", key));
    CHECK(reasons.size() == 1);
}
