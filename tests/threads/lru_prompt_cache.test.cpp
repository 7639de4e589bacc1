// SPDX-License-Identifier: MIT
// LRUPromptCache among threads: const calls together, everything else under the caller's lock, and
// leases, reservations and clones that end on any thread.

#include <promptkv/lru_prompt_cache.hpp>

#include "catch.hpp"
#include "fire_payloads.hpp"

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace of_lru_prompt_cache {

using namespace promptkv_test;
using promptkv::LRUPromptCache;
using promptkv::Outcome;
using promptkv::Tier;

using Cache = LRUPromptCache<Pages>;
using Lease = Cache::Lease;

/// `n` tokens; the first `shared` are those of every other key.
Tokens numbered(std::int32_t number, std::size_t n, std::size_t shared) {
    Tokens tokens(n, number);
    for (std::size_t i = 0; i < shared; ++i)
        tokens[i] = 1'000 + static_cast<std::int32_t>(i);
    return tokens;
}

void join(std::vector<std::thread>& threads) {
    for (std::thread& thread : threads)
        thread.join();
}

TEST_CASE("Leases, clones and reservations end on other threads while their cache goes on") {
    struct Letter {
        Lease lease;
        std::optional<Pages> clone;
        Cache::Reservation room;
        Tokens prompt;
    };
    std::mutex mutex;
    std::vector<Letter> letters;
    std::atomic<bool> done = false;
    std::atomic<int> wrong = 0;
    std::atomic<int> ended = 0;
    Cache cache({.max_bytes = 3'000, .max_entries = 60});
    std::vector<std::thread> readers;
    for (int i = 0; i < 3; ++i) {
        readers.emplace_back([&] {
            while (true) {
                const bool last_round = done;
                std::vector<Letter> ending;
                {
                    const std::lock_guard lock(mutex);
                    ending.swap(letters);
                }
                for (const Letter& letter : ending) {
                    const std::size_t reused = letter.lease.reused();
                    wrong += computed_from(letter.lease.kv(), "m", letter.prompt, reused) ? 0 : 1;
                    wrong += !letter.clone || computed_from(*letter.clone, "m", letter.prompt,
                                                            letter.clone->length())
                                 ? 0
                                 : 1;
                    ++ended;
                }
                ending.clear();
                if (last_round)
                    return;
                std::this_thread::yield();
            }
        });
    }
    std::mt19937 random(9);
    int lent = 0;
    int broken = 0;
    for (int i = 0; i < 1'500; ++i) {
        const auto number = static_cast<std::int32_t>(random() % 60);
        const Tokens key = numbered(number, 40 + random() % 60, 16);
        cache.insert("m", key, pages("m", key, 8), static_cast<Tier>(i % 3));
        const Tokens prompt = numbered(static_cast<std::int32_t>(random() % 60), 110, 16);
        if (Lease lease = cache.lease_nearest("m", prompt)) {
            auto fetched = cache.fetch_nearest("m", prompt);
            const Tokens more = numbered(static_cast<std::int32_t>(random() % 60), 60, 16);
            Letter letter{std::move(lease), std::move(fetched.kv),
                          cache.reserve("m", more, more.size(), Tier::user), prompt};
            const std::lock_guard lock(mutex);
            letters.push_back(std::move(letter));
            ++lent;
        }
        if (i % 50 == 0) {
            cache.erase("m", key);
            cache.pop_prefixes("m", prompt);
        }
        broken += cache.nbytes() <= 3'000 && cache.size() <= 60 ? 0 : 1;
    }
    done = true;
    join(readers);
    REQUIRE(broken == 0);
    REQUIRE(wrong == 0);
    REQUIRE(lent > 100);
    REQUIRE(ended == lent);
    REQUIRE(cache.check_invariants());
    REQUIRE(cache.stats().bytes_leased == 0);
    REQUIRE(cache.stats().bytes_reserved == 0);
}

TEST_CASE("Leases may be taken, used and ended by many threads under the caller's lock") {
    Cache cache({.max_bytes = 2'000});
    std::mutex lock_of_cache;
    std::atomic<int> wrong = 0;
    std::vector<std::thread> threads;
    for (unsigned seed = 0; seed < 4; ++seed) {
        threads.emplace_back([&, seed] {
            std::mt19937 random(seed);
            for (int i = 0; i < 400; ++i) {
                const Tokens prompt =
                    numbered(static_cast<std::int32_t>(random() % 40), 30 + random() % 40, 12);
                const Lease lease = [&] {
                    const std::lock_guard lock(lock_of_cache);
                    return cache.lease_nearest("m", prompt);
                }();
                wrong += !lease || computed_from(lease.kv(), "m", prompt, lease.reused()) ? 0 : 1;
                Pages computed = pages("m", prompt); // outside of the lock
                const std::lock_guard lock(lock_of_cache);
                cache.insert("m", prompt, std::move(computed), static_cast<Tier>(random() % 3));
            } // the lease ends outside of the lock
        });
    }
    join(threads);
    REQUIRE(wrong == 0);
    REQUIRE(cache.stats().bytes_leased == 0);
    REQUIRE(cache.stats().lookups == 4 * 400);
    REQUIRE(cache.nbytes() <= 2'000);
    REQUIRE(cache.check_invariants());
}

TEST_CASE("Const calls run together, beside a lease that ends") {
    Cache cache;
    for (std::int32_t number = 0; number < 100; ++number) {
        const Tokens key = numbered(number, 50, 20);
        cache.insert("m", key, pages("m", key), static_cast<Tier>(number % 3));
    }
    const std::size_t held = cache.nbytes();
    auto lease = std::make_optional(cache.lease_nearest("m", numbered(3, 60, 20)));
    const Cache& shared = cache;
    std::atomic<int> wrong = 0;
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
        threads.emplace_back([&] {
            for (std::int32_t number = 0; number < 100; ++number) {
                const Tokens prompt = numbered(number, 60, 20);
                wrong += shared.probe("m", prompt).reused() == 50 ? 0 : 1;
                wrong += shared.explain("m", prompt).reused == 50 ? 0 : 1;
                wrong += shared.size() == 100 && !shared.empty() ? 0 : 1;
                wrong += shared.nbytes() == held && shared.nbytes("m") == 5'000 ? 0 : 1;
                wrong += shared.index_nbytes() > 0 ? 0 : 1;
                wrong += shared.stats().stored == 100 ? 0 : 1;
                wrong += shared.stats(Tier::user).entries > 0 ? 0 : 1;
                wrong += shared.evictable_nbytes() <= held ? 0 : 1;
                wrong += shared.limits().max_bytes > 0 ? 0 : 1;
            }
            std::size_t visited = 0;
            shared.for_each([&visited](const auto&) { ++visited; });
            wrong += visited == 100 && shared.check_invariants() ? 0 : 1;
        });
    }
    lease.reset();
    join(threads);
    REQUIRE(wrong == 0);
}

TEST_CASE("Leases and reservations outlive their cache and end on several threads") {
    std::vector<Lease> leases;
    std::vector<Cache::Reservation> rooms;
    {
        Cache cache;
        for (std::int32_t number = 0; number < 40; ++number) {
            const Tokens key = numbered(number, 30, 10);
            cache.insert("m", key, pages("m", key), Tier::user);
        }
        for (std::int32_t number = 0; number < 40; ++number) {
            const Tokens prompt = numbered(number, 31, 10);
            leases.push_back(cache.lease_nearest("m", prompt));
            leases.push_back(cache.lease_nearest("m", prompt));
            rooms.push_back(cache.reserve("m", prompt, 31, Tier::user));
        }
        cache.erase_model("m");
        const Tokens key = numbered(50, 30, 10);
        cache.insert("m", key, pages("m", key), Tier::user);
        leases.push_back(cache.lease_nearest("m", key));
    }
    REQUIRE(leases.size() == 81);
    std::atomic<int> wrong = 0;
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < 3; ++i) {
        threads.emplace_back([&, i] {
            for (std::size_t j = i; j < leases.size(); j += 3) {
                const Lease ending = std::move(leases[j]);
                wrong += ending && ending.kv().length() == 30 ? 0 : 1;
            }
            for (std::size_t j = i; j < rooms.size(); j += 3) {
                const Tokens prompt = numbered(static_cast<std::int32_t>(j), 31, 10);
                const auto answer = rooms[j].commit(pages("m", prompt));
                wrong += answer.outcome == Outcome::cancelled ? 0 : 1;
            }
        });
    }
    join(threads);
    REQUIRE(wrong == 0);
}

TEST_CASE("Leases end on another thread while their cache is moved") {
    Cache cache;
    std::vector<Lease> leases;
    for (std::int32_t number = 0; number < 100; ++number) {
        const Tokens key = numbered(number, 32, 0);
        cache.insert("m", key, pages("m", key), Tier::user);
        leases.push_back(cache.lease_nearest("m", key));
    }
    std::thread ending([&leases] { leases.clear(); });
    Cache moved = std::move(cache);
    Cache assigned;
    assigned = std::move(moved);
    const std::size_t held = assigned.nbytes();
    ending.join();
    REQUIRE(held == 3'200);
    REQUIRE(assigned.stats().bytes_leased == 0);
    REQUIRE(assigned.trim_to({.max_entries = 0}) == 100);
    REQUIRE(assigned.nbytes() == 0);
    REQUIRE(assigned.check_invariants());
}

TEST_CASE("The holders of a block are counted right while a pin ends on another thread") {
    constexpr int rounds = 500;
    const int cache = 0;
    const std::vector<promptkv::BlockUse> blocks(400);
    std::atomic<int> arrived{0};
    const auto meet = [&](int times) { // without sleep: both go on at once
        ++arrived;
        while (arrived < 2 * times)
            std::this_thread::yield();
    };
    std::thread ending([&] { // from the last block on, so that the threads meet at some block
        for (int round = 0; round < rounds; ++round) {
            meet(2 * round + 1);
            for (auto use = blocks.rbegin(); use != blocks.rend(); ++use)
                use->unpin();
            meet(2 * round + 2);
        }
    });
    for (int round = 0; round < rounds; ++round) {
        const bool is_stored = round % 2 == 0;
        for (const promptkv::BlockUse& use : blocks) {
            if (is_stored)
                use.store(&cache);
            use.pin(&cache);
        }
        meet(2 * round + 1);
        for (const promptkv::BlockUse& use : blocks) {
            if (is_stored) {
                use.pin(&cache);
                use.unpin_locked();
            } else {
                use.store(&cache);
            }
        }
        meet(2 * round + 2);
        for (const promptkv::BlockUse& use : blocks) {
            CHECK(use.count() == 1);
            CHECK(use.unstore());
        }
    }
    ending.join();
}

TEST_CASE("A leased payload that left the cache is destroyed once, by the last who holds it") {
    /// Counts the payloads that live.
    struct Alive {
        std::shared_ptr<int> counted;
        std::size_t nbytes() const noexcept { return 1; }
    };
    const auto counted = std::make_shared<int>(0);
    for (int round = 0; round < 200; ++round) {
        LRUPromptCache<Alive> cache;
        const Tokens tokens = {1, 2, 3};
        const Tokens prompt = {1, 2, 3, 4};
        cache.insert("m", tokens, Alive{counted}, Tier::user);
        std::optional<LRUPromptCache<Alive>::Lease> lease = cache.lease_nearest("m", prompt);
        std::thread ending([&lease] { lease.reset(); });
        cache.erase("m", tokens);
        cache.insert("m", tokens, Alive{counted}, Tier::user);
        ending.join();
        REQUIRE(cache.nbytes() == 1);
        REQUIRE(counted.use_count() == 2);
    }
    REQUIRE(counted.use_count() == 1);
}

} // namespace of_lru_prompt_cache
