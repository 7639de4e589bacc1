// SPDX-License-Identifier: MIT
// ConcurrentPromptCache among threads: all functions at once, what ends anywhere, and nobody waits for
// a clone, a listener or a destructor.

#include <promptkv/concurrent_prompt_cache.hpp>
#include <promptkv/reuse_order.hpp>

#include "catch.hpp"
#include "fire_payloads.hpp"

#include <algorithm>
#include <atomic>
#include <barrier>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <latch>
#include <memory>
#include <mutex>
#include <numeric>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace {

using namespace promptkv_test;
using promptkv::ConcurrentPromptCache;
using promptkv::Outcome;
using promptkv::RemovalReason;
using promptkv::Tier;

void join(std::vector<std::thread>& threads) {
    for (std::thread& thread : threads)
        thread.join();
}

/// Things that one thread leaves for another to end.
template <class Letter>
class Mailbox {
public:
    void put(Letter letter) {
        const std::lock_guard lock(mutex_);
        letters_.push_back(std::move(letter));
    }
    std::optional<Letter> take() {
        const std::lock_guard lock(mutex_);
        if (letters_.empty())
            return std::nullopt;
        std::optional<Letter> letter(std::move(letters_.front()));
        letters_.erase(letters_.begin());
        return letter;
    }
    /// Requires: no other thread uses it.
    std::vector<Letter>& all() { return letters_; }

private:
    std::mutex mutex_;
    std::vector<Letter> letters_;
};

// all functions at once //////////////////////////////////////////////////////

constexpr std::size_t max_bytes = 2'500;
constexpr std::size_t max_entries = 40;
constexpr std::size_t block_tokens = 8;

/// Keys that share their first 16 tokens, and some of them the next 16.
Tokens numbered(std::int32_t number, std::size_t n) {
    Tokens tokens(n, 100 + number);
    for (std::size_t i = 0; i < std::min(n, std::size_t{32}); ++i)
        tokens[i] = i < 16 ? static_cast<std::int32_t>(i) : 50 + number % 4;
    return tokens;
}

/// What several threads do to one cache, and what was wrong with its answers.
template <class Cache>
struct Stress {
    struct Room {
        typename Cache::Reservation reservation;
        std::string model;
        Tokens tokens;
    };

    std::optional<Cache> cache{
        std::in_place, typename Cache::Options{.max_bytes = max_bytes, .max_entries = max_entries}};
    Mailbox<typename Cache::Lease> leases;
    Mailbox<Room> rooms;
    std::atomic<int> wrong = 0;
    std::atomic<int> reused = 0;
    std::atomic<std::uint64_t> removed = 0;

    void expect(bool right) { wrong += right ? 0 : 1; }

    /// Listens, and sometimes calls the cache.
    void removal(typename Cache::Removal& removal) {
        if (removal.kept_tokens > 0)
            return;
        const std::uint64_t number = removed++;
        if (removal.payload != nullptr && !removal.tokens.empty()) {
            expect(computed_from(*removal.payload, removal.model, removal.tokens,
                                 removal.payload->length()));
            if (number % 64 == 0 && removal.reason == RemovalReason::evicted)
                cache->insert(removal.model, removal.tokens, std::move(*removal.payload),
                              Tier::user);
        }
        if (number % 16 == 0)
            cache->erase(removal.model, removal.tokens);
    }

    void listen() {
        cache->set_removal_listener([this](typename Cache::Removal& each) { removal(each); });
    }

    /// The state of `tokens`, on the blocks of what is stored of it.
    Pages continued(const std::string& model, const Tokens& tokens) {
        const auto hit = cache->fetch_nearest(model, tokens);
        Pages kv(block_tokens);
        if (hit) {
            expect(computed_from(*hit.kv, model, tokens, hit.reused()));
            kv = hit.kv->clone_prefix(hit.reused() / block_tokens * block_tokens);
            ++reused;
        }
        compute(kv, model, tokens);
        return kv;
    }

    void end(Room room, bool commit) {
        if (!commit)
            return;
        Pages kv = room.reservation.prefix().value_or(Pages(block_tokens));
        expect(computed_from(kv, room.model, room.tokens, kv.length()));
        expect(room.reservation.tokens() <= room.tokens.size());
        compute(kv, room.model, Key(room.tokens).first(room.reservation.tokens()));
        room.reservation.commit(std::move(kv));
    }

    /// Calls everything, at random.
    void call(unsigned seed, int calls) {
        std::mt19937 random(seed);
        const auto below = [&random](unsigned n) { return static_cast<unsigned>(random() % n); };
        std::vector<Pages> clones; // that only this thread holds
        for (int i = 0; i < calls; ++i) {
            const Tokens prompt = numbered(static_cast<std::int32_t>(below(40)), 2 + below(90));
            const std::string model(1, static_cast<char>('a' + below(2)));
            const auto tier = static_cast<Tier>(below(3));
            const unsigned which = below(100);
            if (which < 15) {
                cache->insert(model, prompt, pages(model, prompt, block_tokens), tier,
                              {.session = below(4)});
            } else if (which < 30) {
                cache->insert(model, prompt, continued(model, prompt), tier,
                              {.session = below(4), .side_request = below(4) == 0});
            } else if (which < 38) {
                if (auto room = cache->reserve(model, prompt, prompt.size(), tier))
                    rooms.put({std::move(room), model, prompt});
            } else if (which < 46) {
                if (auto room = rooms.take()) // perhaps of another thread
                    end(std::move(*room), below(4) != 0);
            } else if (which < 48) {
                try {
                    cache->insert(model, prompt, prompt.size(), tier,
                                  []() -> Pages { throw std::runtime_error("no state"); });
                } catch (const std::runtime_error&) {
                }
            } else if (which < 58) {
                if (auto lease = cache->lease_nearest(model, prompt)) {
                    expect(computed_from(lease.kv(), model, prompt, lease.reused()));
                    ++reused;
                    if (below(2) == 0)
                        leases.put(std::move(lease));
                }
            } else if (which < 66) {
                leases.take(); // perhaps of another thread
            } else if (which < 70) {
                if (const auto taken = cache->take_nearest(model, prompt))
                    expect(computed_from(*taken.kv, model, prompt, taken.reused()));
            } else if (which < 74) {
                if (auto hit = cache->fetch_nearest(model, prompt))
                    clones.push_back(std::move(*hit.kv));
                if (clones.size() > 3)
                    clones.clear();
            } else if (which < 78) {
                expect(cache->probe(model, prompt).reused() <= prompt.size());
                expect(cache->explain(model, prompt).matched <= prompt.size());
                expect(cache->touch(model, prompt).request() == 0);
            } else if (which < 81) {
                cache->mark(model, prompt, tier);
            } else if (which < 83) {
                cache->pop_prefixes(model, prompt);
            } else if (which < 85) {
                cache->erase(model, prompt);
            } else if (which == 85) {
                cache->erase_below(model, prompt);
            } else if (which == 86) {
                cache->erase_session(model, 1 + below(3));
            } else if (which == 87) {
                cache->trim_to({.max_bytes = max_bytes / 2});
            } else if (which == 88) {
                cache->set_limits({max_bytes - below(1'000), max_entries - below(10)});
                expect(cache->limits().max_bytes <= max_bytes);
            } else if (which < 91) {
                static_cast<void>(cache->evict(below(100)));
                static_cast<void>(cache->evictable_nbytes());
            } else if (which == 91) {
                cache->for_each([this](const auto& entry) {
                    expect(computed_from(entry.kv, entry.model, entry.tokens, entry.tokens.size()));
                });
            } else if (which == 92) {
                for (const auto& entry : cache->snapshot())
                    expect(computed_from(entry.lease.kv(), entry.model, entry.tokens,
                                         entry.tokens.size()));
            } else if (which == 93) {
                listen();
            } else if (which == 94) {
                static_cast<void>(cache->nbytes(model));
                static_cast<void>(cache->index_nbytes());
            } else if (which == 95 && i % 4 == 0) {
                cache->clear();
            } else if (which == 96 && i % 4 == 0) {
                cache->erase_model(model);
            }
        }
    }

    /// The limits hold at any time, and the statistics fit together.
    void watch() {
        expect(cache->nbytes() <= max_bytes);
        expect(cache->size() <= max_entries);
        const promptkv::Stats stats = cache->stats();
        expect(stats.peak_nbytes <= max_bytes && stats.tokens_reused <= stats.tokens_requested);
        expect(stats.hits_exact + stats.hits_shorter + stats.hits_longer <= stats.lookups);
        expect(cache->stats(Tier::user).entries <= max_entries);
    }
};

using Learning =
    ConcurrentPromptCache<Pages, std::string, std::int32_t, Tier, promptkv::ReuseOrder>;

TEMPLATE_TEST_CASE(
    "Eight threads call everything, and each block is counted once when they are done", "",
    ConcurrentPromptCache<Pages>, Learning) {
    Stress<TestType> stress;
    stress.listen();
    std::atomic<bool> done = false;
    std::thread watcher([&] {
        while (!done) {
            stress.watch();
            std::this_thread::yield();
        }
    });
    std::vector<std::thread> threads;
    for (unsigned seed = 0; seed < 8; ++seed)
        threads.emplace_back([&stress, seed] { stress.call(seed, 1'500); });
    join(threads);
    done = true;
    watcher.join();
    REQUIRE(stress.wrong == 0);
    REQUIRE(stress.reused > 300);

    TestType& cache = *stress.cache;
    // Leases and reservations are left, and the account is exact.
    REQUIRE(cache.check_invariants());
    cache.set_limits({max_bytes, max_entries});
    for (int i = 0; stress.leases.all().size() < 6 && i < 1'000; ++i) { // some may be declined
        const Tokens tokens = numbered(i, 40);
        cache.insert("a", tokens, pages("a", tokens, block_tokens), Tier::user);
        if (auto lease = cache.lease_nearest("a", tokens))
            stress.leases.put(std::move(lease));
    }
    REQUIRE(stress.leases.all().size() >= 6);
    REQUIRE(cache.check_invariants());
    REQUIRE(cache.nbytes() <= max_bytes);
    const promptkv::Stats stats = cache.stats();
    REQUIRE(stats.evicted + stats.cut > 100);

    // They end on other threads, the half of them after the cache.
    std::vector<typename TestType::Lease> late;
    while (stress.leases.all().size() > 3)
        late.push_back(std::move(*stress.leases.take()));
    for (int i = 0; i < 3; ++i)
        threads[static_cast<std::size_t>(i)] = std::thread([&stress] { stress.leases.take(); });
    for (std::size_t i = 0; i < 3; ++i)
        threads[i].join();
    const Tokens tokens = numbered(39, 20);
    auto room = cache.reserve("c", tokens, tokens.size(), Tier::user);
    REQUIRE(cache.check_invariants());
    stress.cache.reset();
    std::atomic<int> cancelled = 0;
    std::thread committing([&] {
        if (room.commit(pages("c", tokens, block_tokens)).outcome == Outcome::cancelled)
            ++cancelled;
    });
    std::thread ending([&] { late.clear(); });
    stress.rooms.all().clear();
    committing.join();
    ending.join();
    REQUIRE(cancelled == 1);
}

// an end, and what happens to the entry at that moment ////////////////////////

TEST_CASE("A lease that ends while its entry leaves is settled exactly once") {
    using Cache = ConcurrentPromptCache<Pages>;
    constexpr int rounds = 600;
    const Tokens shared = numbered(1, 24);
    const Tokens longer = numbered(1, 56);
    const Tokens other = numbered(2, 56);
    std::barrier start(2);
    std::barrier finish(2);
    std::vector<Cache::Lease> ending;
    std::vector<Cache::Reservation> dropped;
    std::thread worker([&] {
        for (int round = 0; round < rounds; ++round) {
            start.arrive_and_wait();
            ending.clear();
            dropped.clear();
            finish.arrive_and_wait();
        }
    });
    for (int round = 0; round < rounds; ++round) {
        auto cache = std::make_unique<Cache>(Cache::Options{.max_bytes = 120});
        cache->insert("m", shared, pages("m", shared, 8), Tier::system);
        cache->insert("m", longer, pages("m", longer, 8), Tier::user);
        ending.push_back(cache->lease_nearest("m", shared, {.min_remaining = 0}));
        ending.push_back(cache->lease_nearest("m", longer, {.min_remaining = 0}));
        dropped.push_back(cache->reserve("m", numbered(1, 72), 72, Tier::user));
        const bool leased = ending[0] && ending[1] && dropped[0];
        start.arrive_and_wait();
        switch (round % 9) {
        case 0:
            cache->erase("m", longer);
            break;
        case 1:
            cache->erase_below("m", shared);
            break;
        case 2: // evicts, or sets aside
            cache->insert("m", other, pages("m", other, 8), Tier::user);
            break;
        case 3:
            cache->trim_to({.max_bytes = 0});
            break;
        case 4: // replaces, or is present
            cache->insert("m", longer, pages("m", longer, 8), Tier::user);
            break;
        case 5:
            static_cast<void>(cache->evict(40));
            break;
        case 6:
            cache->set_limits({.max_bytes = 60});
            break;
        case 7:
            cache->clear();
            break;
        default:
            cache.reset();
        }
        finish.arrive_and_wait();
        CHECK(leased);
        if (!cache)
            continue;
        static_cast<void>(cache->evict(0)); // takes note of the leases that ended
        CHECK(cache->stats().bytes_leased == 0);
        CHECK(cache->stats().bytes_reserved == 0);
        CHECK(cache->nbytes() == recount(*cache));
        CHECK(cache->nbytes() <= cache->limits().max_bytes);
        CHECK(cache->check_invariants());
    }
    worker.join();
}

TEST_CASE("An admission that counts leased blocks meets leases that end") {
    // The leased payloads share most of their blocks, so that their sum refuses what their blocks admit.
    using Cache = ConcurrentPromptCache<Pages>;
    constexpr int rounds = 400;
    std::barrier start(2);
    std::barrier finish(2);
    std::vector<Cache::Lease> ending;
    std::thread worker([&] {
        for (int round = 0; round < rounds; ++round) {
            start.arrive_and_wait();
            ending.clear();
            finish.arrive_and_wait();
        }
    });
    for (int round = 0; round < rounds; ++round) {
        Cache cache({.max_bytes = 100, .max_partial = 0});
        for (std::int32_t i = 0; i < 6; ++i) {
            const Tokens tokens = numbered(4 * i, 40); // the first 32 are shared
            cache.insert("m", tokens, pages("m", tokens, 8), Tier::user);
            ending.push_back(cache.lease_nearest("m", tokens, {.min_remaining = 0}));
        }
        const std::size_t before = cache.nbytes();
        if (round % 2 == 0)
            cache.erase_model("m"); // the leases alone hold the payloads
        const Tokens first(8, 1);
        const Tokens second(8, 2);
        start.arrive_and_wait();
        const Outcome inserted = cache.insert("n", first, pages("n", first, 8), Tier::user).outcome;
        const bool reserved = static_cast<bool>(cache.reserve("n", second, 8, Tier::user));
        finish.arrive_and_wait();
        CHECK(before == 32 + 6 * 8);
        CHECK(inserted == Outcome::stored);
        CHECK(reserved);
        static_cast<void>(cache.evict(0)); // takes note of the leases that ended
        CHECK(cache.nbytes() == recount(cache));
        CHECK(cache.check_invariants());
    }
    worker.join();
}

TEST_CASE("A payload that fills the budget counts until its last lease has ended") {
    using Cache = ConcurrentPromptCache<Pages>;
    constexpr std::size_t size =
        256; // tokens and bytes, a block each: giving up many takes a while
    constexpr int rounds = 3'000;
    Cache cache({.max_bytes = size});
    Cache::Lease ending;
    std::barrier start(2);
    std::barrier finish(2);
    std::thread worker([&] {
        for (int round = 0; round < rounds; ++round) {
            start.arrive_and_wait();
            ending.end();
            finish.arrive_and_wait();
        }
    });
    const Tokens first(size, 1);
    const Tokens second(size, 2);
    std::size_t most = 0;
    std::size_t refused = 0;
    for (int round = 0; round < rounds; ++round) {
        cache.insert("m", first, pages("m", first, 1), Tier::user);
        ending = cache.lease_nearest("m", first, {.min_remaining = 0});
        cache.erase("m", first);
        Pages next = pages("m", second, 1);
        start.arrive_and_wait();
        while (cache.insert("m", second, std::move(next), Tier::user).outcome == Outcome::no_room)
            ++refused;
        most = std::max(most, cache.nbytes());
        finish.arrive_and_wait();
        cache.erase("m", second);
    }
    worker.join();
    CHECK(refused > 0); // some came before the end of the lease
    CHECK(most == size);
    CHECK(cache.stats().peak_nbytes == size);
    CHECK(cache.check_invariants());
}

TEST_CASE("The last of two leases on two threads settles the payload") {
    using Cache = ConcurrentPromptCache<Pages>;
    constexpr int rounds = 300;
    const Tokens tokens = numbered(1, 24);
    std::barrier sync(3);
    Cache::Lease first;
    Cache::Lease second;
    const auto work = [&](Cache::Lease& lease) {
        for (int round = 0; round < rounds; ++round) {
            sync.arrive_and_wait();
            lease.end();
            sync.arrive_and_wait();
        }
    };
    std::thread one([&] { work(first); });
    std::thread two([&] { work(second); });
    Cache cache({.max_bytes = 48});
    for (int round = 0; round < rounds; ++round) {
        cache.insert("m", tokens, pages("m", tokens, 8), Tier::user);
        first = cache.lease_nearest("m", tokens);
        second = cache.lease_nearest("m", tokens);
        const bool erased = round % 2 == 0 && cache.erase("m", tokens);
        CHECK(cache.nbytes() == 24);
        sync.arrive_and_wait();
        const auto found = cache.lease_nearest("m", tokens);
        sync.arrive_and_wait();
        CHECK(static_cast<bool>(found) == !erased);
        CHECK(cache.nbytes() == (erased ? 0U : 24U));
        CHECK(cache.check_invariants());
    }
    one.join();
    two.join();
}

// nobody waits ///////////////////////////////////////////////////////////////

/// Stops a thread in the middle of something until it is let go.
class Stop {
public:
    void operator()() {
        reached_ = true;
        reached_.notify_all();
        leave_.wait(false);
    }
    void wait_until_reached() const { reached_.wait(false); }
    void let_go() {
        leave_ = true;
        leave_.notify_all();
    }

private:
    std::atomic<bool> reached_ = false;
    std::atomic<bool> leave_ = false;
};

using HookedCache = ConcurrentPromptCache<Hooked>;

/// Every function, on keys of its own: comes to an end only if nobody holds the lock. Leaves nothing.
void call_everything(HookedCache& cache) {
    const Tokens tokens = key("key");
    const Tokens prompt = key("key and more");
    CHECK(cache.insert("other", tokens, Hooked(tokens.size()), Tier::user).outcome ==
          Outcome::stored);
    CHECK(cache.fetch_nearest("other", prompt).reused() == tokens.size());
    CHECK(cache.lease_nearest("other", prompt).reused() == tokens.size());
    CHECK(cache.probe("other", prompt).reused() == tokens.size());
    CHECK(cache.touch("other", prompt).reused() == tokens.size());
    CHECK(cache.explain("other", prompt).matched == tokens.size());
    CHECK(cache.mark("other", tokens, Tier::system));
    CHECK(cache.nbytes("other") == tokens.size());
    CHECK(cache.index_nbytes() > 0);
    CHECK(cache.stats().stored > 0);
    CHECK(cache.stats(Tier::system).entries > 0);
    CHECK(cache.take_nearest("other", prompt).reused() == tokens.size());
    CHECK(cache
              .insert("other", prompt, prompt.size(), Tier::user,
                      [&prompt] { return Hooked(prompt.size()); })
              .outcome == Outcome::stored);
    {
        auto room = cache.reserve("other", key("room"), 4, Tier::user);
        CHECK(room.commit(Hooked(4)).outcome == Outcome::stored);
        auto dropped = cache.reserve("other", key("dropped"), 2, Tier::user);
        CHECK(dropped);
    }
    CHECK(cache.erase_below("other", key("ro")) == 1);
    CHECK(cache.pop_prefixes("other", prompt) == 0);
    CHECK(cache.erase("other", prompt));
    CHECK(cache.erase_session("other", 1) == 0);
    CHECK(cache.erase_model("other") == 0);
    CHECK(cache.trim_to(cache.limits()) == 0);
    CHECK(cache.evict(0) == 0);
    static_cast<void>(cache.evictable_nbytes());
    cache.set_limits(cache.limits());
    cache.for_each([](const auto&) {});
    static_cast<void>(cache.snapshot());
    CHECK(cache.check_invariants());
}

TEST_CASE("A clone that takes long holds nobody up") {
    Stop stop;
    const Hooked::Hooks hooks{.clone = [&stop] { stop(); }};
    HookedCache cache({.max_bytes = 40});
    cache.insert("m", key("abcd"), Hooked(4, &hooks), Tier::user);
    std::size_t reused = 0;
    std::size_t held = 0;
    std::thread cloning([&] {
        const auto fetched = cache.fetch_nearest("m", key("abcx"));
        reused = fetched.reused();
        held = fetched.kv ? fetched.kv->nbytes() : 0;
    });
    stop.wait_until_reached();
    call_everything(cache);
    // The entry that is being copied is no victim and cannot be taken; erased, it stays in the account.
    CHECK(cache.trim_to({.max_bytes = 0}) == 0);
    CHECK_FALSE(cache.take_nearest("m", key("abcd")));
    CHECK(cache.stats().bytes_leased == 4);
    CHECK(cache.clear() == 1);
    CHECK(cache.size() == 0);
    CHECK(cache.nbytes() == 4);
    stop.let_go();
    cloning.join();
    CHECK(reused == 3);
    CHECK(held == 3);
    CHECK(cache.nbytes() == 0);
    CHECK(cache.check_invariants());
}

TEST_CASE("A payload that takes long to make holds nobody up, and its room is kept") {
    Stop stop;
    HookedCache cache({.max_bytes = 44, .max_partial = 0});
    cache.insert("m", key("abcdefghijkl"), Hooked(12), Tier::user);
    cache.insert("m", key("0123456789"), Hooked(10), Tier::user);
    promptkv::Inserted inserted;
    std::thread making([&] {
        inserted = cache.insert("n", key("ABCDEFGHIJKLMNOPQRSTUVWX"), 24, Tier::user, [&stop] {
            stop();
            return Hooked(24);
        });
    });
    stop.wait_until_reached();
    CHECK(cache.nbytes() >= 24);
    CHECK(cache.nbytes() <= 44);
    CHECK(cache.stats().bytes_reserved == 24);
    cache.trim_to({.max_bytes = 0});
    CHECK(cache.nbytes() == 24);
    call_everything(cache);
    CHECK(cache.insert("m", key("a"), Hooked(21), Tier::user).outcome == Outcome::no_room);
    CHECK(cache.insert("m", key("a"), Hooked(20), Tier::user).outcome == Outcome::stored);
    stop.let_go();
    making.join();
    CHECK(inserted.outcome == Outcome::stored);
    CHECK(cache.size() == 2);
    CHECK(cache.nbytes() == 44);
    CHECK(cache.stats().peak_nbytes == 44);
    CHECK(cache.check_invariants());
}

TEST_CASE("A listener that takes long holds nobody up") {
    Stop stop;
    HookedCache cache({.max_bytes = 40});
    std::atomic<int> heard = 0;
    std::string models;
    std::size_t left = 0;
    cache.set_removal_listener([&](const HookedCache::Removal& removal) {
        ++heard;
        if (removal.model == "m") {
            stop();
            models += removal.model; // it lives, though the cache has no entry of it any more
            left += removal.payload != nullptr ? removal.payload->nbytes() : 0;
        }
    });
    cache.insert("m", key("abcd"), Hooked(4), Tier::user);
    std::thread erasing([&] { cache.erase("m", key("abcd")); });
    stop.wait_until_reached();
    call_everything(cache);
    CHECK(heard > 1); // the others' removals do not queue behind it
    CHECK(cache.nbytes() == 0);
    stop.let_go();
    erasing.join();
    CHECK(models == "m");
    CHECK(left == 4);
}

TEST_CASE("A destructor that takes long holds nobody up, wherever a payload ends") {
    Stop stop;
    const Hooked::Hooks hooks{.destroy = [&stop] { stop(); }};
    HookedCache cache({.max_bytes = 40, .max_entries = 3, .max_partial = 0});
    const Tokens tokens = key("abcd");
    const Tokens prompt = key("abcdefgh");
    const auto store = [&] { cache.insert("m", tokens, Hooked(4, &hooks), Tier::user); };
    const auto check = [&](const std::function<void()>& end) {
        std::thread ending(end);
        stop.wait_until_reached();
        CHECK(cache.check_invariants());
        cache.clear();
        cache.set_limits({.max_bytes = 40, .max_entries = 3});
        call_everything(cache);
        stop.let_go();
        ending.join();
        CHECK(cache.check_invariants());
    };
    SECTION("erased") {
        store();
        check([&] { cache.erase("m", tokens); });
    }
    SECTION("erased below") {
        store();
        check([&] { cache.erase_below("m", key("ab")); });
    }
    SECTION("all of a model erased") {
        store();
        check([&] { cache.erase_model("m"); });
    }
    SECTION("cleared") {
        store();
        check([&] { cache.clear(); });
    }
    SECTION("a prefix popped") {
        store();
        check([&] { cache.pop_prefixes("m", prompt); });
    }
    SECTION("evicted by a trim") {
        store();
        check([&] { cache.trim_to({.max_entries = 0}); });
    }
    SECTION("evicted for bytes") {
        store();
        check([&] { static_cast<void>(cache.evict(4)); });
    }
    SECTION("evicted by an insert") {
        store();
        check([&] { cache.insert("m", key("0123"), Hooked(40), Tier::user); });
    }
    SECTION("evicted by a reservation") {
        store();
        cache.insert("m", key("filler"), Hooked(30), Tier::user);
        check([&] { static_cast<void>(cache.reserve("m", key("0123"), 10, Tier::user)); });
    }
    SECTION("evicted by new limits") {
        store();
        check([&] { cache.set_limits({.max_bytes = 40, .max_entries = 0}); });
    }
    SECTION("replaced") {
        store();
        check([&] { cache.insert("m", tokens, Hooked(4), Tier::user); });
    }
    SECTION("absorbed") {
        store();
        check([&] { cache.insert("m", prompt, Hooked(8), Tier::user); });
    }
    SECTION("refused") {
        check([&] { cache.insert("m", tokens, Hooked(41, &hooks), Tier::user); });
    }
    SECTION("made, and then refused") {
        check(
            [&] { cache.insert("m", tokens, 4, Tier::user, [&] { return Hooked(41, &hooks); }); });
    }
    SECTION("leased until after it was erased") {
        store();
        check([&] {
            const HookedCache::Lease lease = cache.lease_nearest("m", prompt);
            cache.clear();
        });
    }
}

TEST_CASE("Listeners of two threads run at the same time") {
    HookedCache cache;
    cache.insert("m", key("a"), Hooked(1), Tier::user);
    cache.insert("m", key("b"), Hooked(1), Tier::user);
    std::latch both(2);
    std::atomic<int> heard = 0;
    cache.set_removal_listener([&](const HookedCache::Removal&) {
        both.arrive_and_wait(); // for the other one
        ++heard;
    });
    std::thread one([&] { cache.erase("m", key("a")); });
    std::thread two([&] { cache.erase("m", key("b")); });
    one.join();
    two.join();
    REQUIRE(heard == 2);
}

TEST_CASE("A listener may be exchanged while others run") {
    HookedCache cache({.max_entries = 2});
    std::atomic<int> heard = 0;
    std::atomic<bool> done = false;
    std::thread exchanging([&] {
        while (!done) {
            cache.set_removal_listener([&heard](const HookedCache::Removal&) { ++heard; });
            cache.set_removal_listener(nullptr);
        }
        cache.set_removal_listener([&heard](const HookedCache::Removal&) { ++heard; });
    });
    std::vector<std::thread> threads;
    for (std::int32_t thread = 0; thread < 2; ++thread) {
        threads.emplace_back([&cache, thread] {
            for (std::int32_t i = 0; i < 500; ++i)
                cache.insert("m", Tokens(4, thread * 10'000 + i), Hooked(4), Tier::user);
        });
    }
    join(threads);
    done = true;
    exchanging.join();
    const int before = heard;
    REQUIRE(cache.clear() == 2);
    REQUIRE(heard == before + 2);
    REQUIRE(cache.stats().evicted == 2 * 500 - 2);
}

} // namespace
