// SPDX-License-Identifier: MIT
// LRUPromptCache among threads: const calls together, everything else under the caller's lock,
// and leases that end wherever they like.

#include <promptkv/lru_prompt_cache.hpp>

#include "catch.hpp"
#include "letters.hpp"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <numeric>
#include <optional>
#include <random>
#include <thread>
#include <utility>
#include <vector>

namespace {

using namespace promptkv_test;
using promptkv::Match;
using promptkv::Outcome;
using promptkv::Tier;

using Cache = LRUPromptCache<Tape>;
using Lease = Cache::Lease;

/// `n` tokens of which the first `shared` are those of every other key.
Tokens numbered(std::int32_t number, std::size_t n, std::size_t shared) {
    Tokens tokens(n, number);
    std::iota(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(shared), 1'000);
    return tokens;
}

/// Whether what a lease lends was computed from the beginning of `prompt`.
bool serves(const Lease& lease, const Tokens& prompt) {
    const Tokens& held = lease.kv().recording().tokens;
    return lease.reused <= held.size() && lease.reused <= prompt.size() &&
           std::equal(prompt.begin(), prompt.begin() + static_cast<std::ptrdiff_t>(lease.reused),
                      held.begin());
}

/// Leases handed from one thread to others.
class Mailbox {
public:
    void put(Lease lease, Tokens prompt) {
        const std::lock_guard lock(mutex_);
        letters_.emplace_back(std::move(lease), std::move(prompt));
    }

    std::optional<std::pair<Lease, Tokens>> take() {
        const std::lock_guard lock(mutex_);
        if (letters_.empty()) {
            return std::nullopt;
        }
        std::optional<std::pair<Lease, Tokens>> letter(std::move(letters_.back()));
        letters_.pop_back();
        return letter;
    }

private:
    std::mutex mutex_;
    std::vector<std::pair<Lease, Tokens>> letters_;
};

TEST_CASE("Leases end on other threads while their cache goes on") {
    Mailbox mailbox;
    std::atomic<bool> done = false;
    std::atomic<int> wrong = 0;
    std::atomic<int> ended = 0;
    {
        Cache cache({.max_bytes = 4'000, .max_entries = 60, .cut_granularity = 8});
        std::vector<std::thread> readers;
        for (int i = 0; i < 3; ++i) {
            readers.emplace_back([&] {
                while (true) {
                    const bool last_round = done;
                    while (auto letter = mailbox.take()) {
                        wrong += serves(letter->first, letter->second) ? 0 : 1;
                        ++ended;
                    }
                    if (last_round) {
                        return;
                    }
                    std::this_thread::yield();
                }
            });
        }
        std::mt19937 random(9);
        int lent = 0;
        int broken = 0;
        for (int i = 0; i < 3'000; ++i) {
            const auto number = static_cast<std::int32_t>(random() % 90);
            const Tokens key = numbered(number, 40 + random() % 60, 16);
            cache.insert("m", key, tape(key, {.step = random() % 3}), static_cast<Tier>(i % 3));
            const Tokens prompt = numbered(static_cast<std::int32_t>(random() % 90), 110, 16);
            if (Lease lease = cache.lease_nearest("m", prompt)) {
                mailbox.put(std::move(lease), prompt);
                ++lent;
            }
            if (i % 50 == 0) {
                cache.erase("m", key);
                cache.pop_prefixes("m", prompt);
                broken += cache.check_invariants() ? 0 : 1;
            }
            broken += cache.nbytes() <= 4'000 && cache.size() <= 60 ? 0 : 1;
        }
        done = true;
        for (std::thread& reader : readers) {
            reader.join();
        }
        REQUIRE(broken == 0);
        REQUIRE(wrong == 0);
        REQUIRE(lent > 100);
        REQUIRE(ended == lent);
        REQUIRE(cache.stats().bytes_leased == 0);
        REQUIRE(cache.check_invariants());
    }
}

TEST_CASE("Leases may be taken, used and ended by many threads under the caller's lock") {
    Cache cache({.max_bytes = 3'000, .cut_granularity = 4});
    std::mutex lock_of_cache;
    std::atomic<int> wrong = 0;
    std::vector<std::thread> threads;
    for (unsigned seed = 0; seed < 4; ++seed) {
        threads.emplace_back([&, seed] {
            std::mt19937 random(seed);
            for (int i = 0; i < 800; ++i) {
                const Tokens prompt =
                    numbered(static_cast<std::int32_t>(random() % 40), 30 + random() % 40, 12);
                const Lease lease = [&] {
                    const std::lock_guard lock(lock_of_cache);
                    return cache.lease_nearest("m", prompt);
                }();
                wrong += !lease || serves(lease, prompt) ? 0 : 1; // outside of the lock
                Tape computed = tape(prompt, {.step = random() % 2});
                const std::lock_guard lock(lock_of_cache);
                cache.insert("m", prompt, std::move(computed), static_cast<Tier>(random() % 3));
            } // the lease ends outside of the lock
        });
    }
    for (std::thread& thread : threads) {
        thread.join();
    }
    REQUIRE(wrong == 0);
    REQUIRE(cache.stats().bytes_leased == 0);
    REQUIRE(cache.stats().lookups == 4 * 800);
    REQUIRE(cache.nbytes() <= 3'000);
    REQUIRE(cache.check_invariants());
}

TEST_CASE("Const calls go together") {
    Cache cache;
    for (std::int32_t number = 0; number < 200; ++number) {
        const Tokens key = numbered(number, 50, 20);
        cache.insert("m", key, tape(key), static_cast<Tier>(number % 3));
    }
    const Tokens lent = numbered(3, 60, 20);
    auto lease = std::make_optional(cache.lease_nearest("m", lent));
    const Cache& shared = cache;
    std::atomic<int> wrong = 0;
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
        threads.emplace_back([&] {
            for (std::int32_t number = 0; number < 200; ++number) {
                const Tokens prompt = numbered(number, 60, 20);
                wrong += shared.probe("m", prompt).reused == 50 ? 0 : 1;
                wrong += shared.size() == 200 && !shared.empty() ? 0 : 1;
                wrong += shared.nbytes() == 10'000 && shared.nbytes("m") == 10'000 ? 0 : 1;
                wrong += shared.index_nbytes() > 0 ? 0 : 1;
                wrong += shared.stats().inserted == 200 ? 0 : 1;
                wrong += shared.stats(Tier::user).entries > 0 ? 0 : 1;
                wrong += shared.limits().max_bytes > 0 ? 0 : 1;
            }
            std::size_t visited = 0;
            shared.for_each([&visited](const auto&) { ++visited; });
            wrong += visited == 200 && shared.check_invariants() ? 0 : 1;
        });
    }
    lease.reset(); // a lease may end meanwhile
    for (std::thread& thread : threads) {
        thread.join();
    }
    REQUIRE(wrong == 0);
}

TEST_CASE("Leases outlive their cache and end on several threads") {
    std::vector<Lease> leases;
    {
        Cache cache;
        for (std::int32_t number = 0; number < 40; ++number) {
            const Tokens key = numbered(number, 30, 10);
            cache.insert("m", key, tape(key), Tier::user);
        }
        for (std::int32_t number = 0; number < 40; ++number) {
            const Tokens prompt = numbered(number, 31, 10);
            leases.push_back(cache.lease_nearest("m", prompt));
            leases.push_back(cache.lease_nearest("m", prompt));
        }
        cache.erase_model("m");
        const Tokens key = numbered(50, 30, 10);
        cache.insert("m", key, tape(key), Tier::user);
        leases.push_back(cache.lease_nearest("m", key));
    }
    REQUIRE(leases.size() == 81);
    std::atomic<int> wrong = 0;
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < 3; ++i) {
        threads.emplace_back([&, i] {
            for (std::size_t j = i; j < leases.size(); j += 3) {
                const Lease ending = std::move(leases[j]);
                wrong += ending && ending.kv().recording().tokens.size() == 30 ? 0 : 1;
            }
        });
    }
    for (std::thread& thread : threads) {
        thread.join();
    }
    REQUIRE(wrong == 0);
}

TEST_CASE("Leases end on another thread while their cache is moved") {
    Cache cache;
    std::vector<Lease> leases;
    for (std::int32_t number = 0; number < 100; ++number) {
        const Tokens key = numbered(number, 30, 10);
        cache.insert("m", key, tape(key), Tier::user);
        leases.push_back(cache.lease_nearest("m", key));
    }
    std::thread ending([&leases] { leases.clear(); });
    Cache moved = std::move(cache);
    Cache assigned;
    assigned = std::move(moved);
    const std::size_t held = assigned.nbytes();
    ending.join();
    REQUIRE(held == 3'000);
    REQUIRE(assigned.stats().bytes_leased == 0);
    REQUIRE(assigned.trim_to({.max_entries = 0}) == 100);
    REQUIRE(assigned.check_invariants());
}

TEST_CASE("A leased payload that left the cache is destroyed once, by whoever is last") {
    /// Counts the payloads that live.
    struct Alive {
        std::shared_ptr<int> counted;
        std::size_t nbytes() const noexcept { return 1; }
    };
    const auto counted = std::make_shared<int>(0);
    for (int round = 0; round < 200; ++round) {
        LRUPromptCache<Alive> cache;
        const Tokens key = {1, 2, 3};
        const Tokens prompt = {1, 2, 3, 4};
        cache.insert("m", key, Alive{counted}, Tier::user);
        std::optional<LRUPromptCache<Alive>::Lease> lease = cache.lease_nearest("m", prompt);
        std::thread ending([&lease] { lease.reset(); });
        cache.erase("m", key);
        cache.insert("m", key, Alive{counted}, Tier::user);
        ending.join();
        REQUIRE(cache.nbytes() == 1);
        REQUIRE(counted.use_count() == 2);
    }
    REQUIRE(counted.use_count() == 1);
}

} // namespace
