// SPDX-License-Identifier: MIT
// ConcurrentPromptCache among threads: all functions at once, and nobody waits for what takes long.

#include <promptkv/concurrent_prompt_cache.hpp>

#include "catch.hpp"
#include "letters.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <numeric>
#include <random>
#include <span>
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

using Cache = ConcurrentPromptCache<Tape>;

void join(std::vector<std::jthread>& threads) {
    for (std::jthread& thread : threads) {
        thread.join();
    }
}

// all functions at once //////////////////////////////////////////////////////

constexpr std::size_t max_bytes = 4'000;
constexpr std::size_t max_entries = 60;

/// Keys of few models that share their beginnings.
Tokens numbered(std::int32_t number, std::size_t n) {
    Tokens tokens(n, number);
    std::iota(tokens.begin(), tokens.begin() + std::min<std::ptrdiff_t>(16, std::ssize(tokens)), 0);
    return tokens;
}

bool begins_with(std::span<const std::int32_t> tokens, std::span<const std::int32_t> beginning) {
    return beginning.size() <= tokens.size() &&
           std::equal(beginning.begin(), beginning.end(), tokens.begin());
}

/// What several threads do to one cache, and what was wrong with its answers.
struct Stress {
    Cache cache{{.max_bytes = max_bytes, .max_entries = max_entries, .cut_granularity = 8}};
    std::atomic<int> wrong = 0;
    std::atomic<int> reused = 0;
    std::atomic<std::uint64_t> removed = 0;

    void expect(bool right) { wrong += right ? 0 : 1; }

    /// Listens, and sometimes calls the cache.
    void removal(Cache::Removal& removal) {
        if (removal.reason == RemovalReason::cut) {
            return;
        }
        const std::uint64_t number = removed++;
        if (removal.payload != nullptr) {
            const Recording& held = removal.payload->recording();
            expect(held.model == removal.model && std::ranges::equal(held.tokens, removal.tokens));
            if (number % 64 == 0 && removal.reason == RemovalReason::evicted) {
                cache.insert(removal.model, removal.tokens, std::move(*removal.payload),
                             Tier::user);
            }
        }
        if (number % 16 == 0) {
            cache.erase(removal.model, removal.tokens);
        }
    }

    void listen() {
        cache.on_removal([this](Cache::Removal& each) { removal(each); });
    }

    void check(const std::string& model, const Tokens& prompt, const Cache::Fetched& fetched) {
        expect(fetched.remaining.size() == prompt.size() - fetched.reused);
        if (!fetched) {
            return;
        }
        const Recording& held = fetched.kv->recording();
        expect(held.model == model && held.tokens.size() == fetched.reused &&
               begins_with(prompt, held.tokens));
        ++reused;
    }

    void check(const std::string& model, const Tokens& prompt, const Cache::Lease& lease) {
        if (!lease) {
            return;
        }
        const Recording& held = lease.kv().recording();
        expect(held.model == model &&
               begins_with(held.tokens, std::span(prompt).first(lease.reused)));
        ++reused;
    }

    /// Calls everything, at random.
    void call(unsigned seed, int calls) {
        std::mt19937 random(seed);
        const auto below = [&random](unsigned n) { return static_cast<unsigned>(random() % n); };
        std::vector<std::pair<Cache::Lease, Tokens>> leases;
        for (int i = 0; i < calls; ++i) {
            const Tokens prompt = numbered(static_cast<std::int32_t>(below(60)), 2 + below(100));
            const std::string model(1, static_cast<char>('a' + below(3)));
            const auto tier = static_cast<Tier>(below(3));
            const Shape shape{.step = below(3)};
            const auto make = [&] { return Tape({0, model, prompt, shape}); };
            const unsigned which = below(100);
            if (which < 30) {
                cache.insert(model, prompt, make(), tier);
            } else if (which < 40) {
                cache.insert(model, prompt, prompt.size(), tier, make);
            } else if (which < 42) {
                try {
                    cache.insert(model, prompt, prompt.size(), tier,
                                 []() -> Tape { throw std::runtime_error("no state"); });
                } catch (const std::runtime_error&) {
                }
            } else if (which < 60) {
                check(model, prompt, cache.fetch_nearest(model, prompt));
            } else if (which < 70) {
                const Cache::Lease lease = cache.lease_nearest(model, prompt);
                std::this_thread::yield();
                check(model, prompt, lease);
            } else if (which < 76) {
                check(model, prompt, cache.take_nearest(model, prompt));
            } else if (which < 84) {
                expect(cache.probe(model, prompt).reused <= prompt.size());
                expect(cache.explain(model, prompt).common_prefix <= prompt.size());
            } else if (which < 88) {
                cache.mark(model, prompt, tier);
            } else if (which < 90) {
                cache.pop_prefixes(model, prompt);
            } else if (which < 92) {
                cache.erase(model, prompt);
            } else if (which == 92) {
                cache.trim_to({.max_bytes = max_bytes / 2});
            } else if (which == 93) {
                cache.set_limits({max_bytes - below(1'000), max_entries - below(10)});
                expect(cache.limits().max_bytes <= max_bytes);
            } else if (which == 94) {
                cache.evict_while([this] { return cache.nbytes() > max_bytes / 2; });
            } else if (which == 95) {
                cache.for_each([this](const Cache::EntryView& entry) {
                    expect(entry.kv.recording().model == entry.model &&
                           std::ranges::equal(entry.kv.recording().tokens, entry.tokens));
                });
            } else if (which == 96) {
                expect(cache.check_invariants());
            } else if (which == 97) {
                listen();
            } else if (which == 98) {
                expect(cache.nbytes(model) <= max_bytes && cache.index_nbytes() < 10'000'000);
            } else if (i % 8 == 0) {
                cache.clear();
            } else {
                cache.erase_model(model);
            }
            if (below(20) == 0) { // some stay for a while
                leases.emplace_back(cache.lease_nearest(model, prompt), prompt);
                check(model, leases.back().second, leases.back().first);
            }
            if (leases.size() > 3) {
                leases.clear();
            }
        }
    }

    /// The budget is kept at any time, and the statistics fit together.
    void watch() {
        const promptkv::Stats stats = cache.stats();
        expect(cache.nbytes() <= max_bytes && cache.size() <= max_entries);
        expect(stats.peak_nbytes <= max_bytes && stats.tokens_reused <= stats.tokens_requested);
        expect(stats.hits_exact + stats.hits_shorter + stats.hits_longer <= stats.lookups);
        expect(cache.stats(Tier::user).entries <= max_entries);
    }
};

TEST_CASE("Eight threads call everything, and no prompt is served another's state") {
    Stress stress;
    stress.listen();
    std::atomic<bool> done = false;
    std::jthread watcher([&] {
        while (!done) {
            stress.watch();
            std::this_thread::yield();
        }
    });
    std::vector<std::jthread> threads;
    for (unsigned seed = 0; seed < 8; ++seed) {
        threads.emplace_back([&stress, seed] { stress.call(seed, 4'000); });
    }
    join(threads);
    done = true;
    watcher.join();
    REQUIRE(stress.wrong == 0);
    REQUIRE(stress.reused > 500);
    const promptkv::Stats stats = stress.cache.stats();
    REQUIRE(stats.bytes_leased == 0);
    REQUIRE(stats.evicted > 100);
    REQUIRE(stats.cut > 100);
    REQUIRE(stats.inserted + stats.replaced == stress.removed + stress.cache.size());
    REQUIRE(stress.cache.check_invariants());
    stress.cache.clear();
    REQUIRE(stats.inserted + stats.replaced <= stress.removed);
    REQUIRE(stress.cache.nbytes() <= max_bytes);
}

// nobody waits ///////////////////////////////////////////////////////////////

/// Returns: whether `condition()` became true; false after a time in which it should have.
template <class Condition>
[[nodiscard]] bool wait_until(Condition condition) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(5);
    while (!condition() && std::chrono::steady_clock::now() < deadline) {
        std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
    return condition();
}

/// Stops a thread in the middle of something until it is let go.
class Stop {
public:
    void operator()() {
        reached_ = true;
        let_go_in_time_ = wait_until([this] { return leave_.load(); });
    }

    [[nodiscard]] bool reached() const {
        return wait_until([this] { return reached_.load(); });
    }
    void let_go() { leave_ = true; }
    [[nodiscard]] bool let_go_in_time() const { return let_go_in_time_; } ///< after a join

private:
    std::atomic<bool> reached_ = false;
    std::atomic<bool> leave_ = false;
    bool let_go_in_time_ = false;
};

/// A payload of `n` bytes and tokens that calls what was hung on it.
class Hooked {
public:
    struct Hooks {
        std::function<void()> clone{};
        std::function<void()> truncate{};
        std::function<void()> destroy{};
    };

    explicit Hooked(std::size_t n, const Hooks* hooks = nullptr) noexcept : n_(n), hooks_(hooks) {}
    Hooked(Hooked&& other) noexcept : n_(other.n_), hooks_(std::exchange(other.hooks_, nullptr)) {}
    Hooked& operator=(Hooked&&) = delete;
    ~Hooked() {
        if (hooks_ != nullptr && hooks_->destroy) {
            hooks_->destroy();
        }
    }

    [[nodiscard]] std::size_t nbytes() const noexcept { return n_; }
    [[nodiscard]] std::size_t reusable_prefix(std::size_t n) const noexcept { return n; }
    [[nodiscard]] Hooked clone_prefix(std::size_t n) const {
        if (hooks_ != nullptr && hooks_->clone) {
            hooks_->clone();
        }
        return Hooked(n);
    }
    void truncate(std::size_t n) {
        n_ = n;
        if (hooks_ != nullptr && hooks_->truncate) {
            hooks_->truncate();
        }
    }

private:
    std::size_t n_;
    const Hooks* hooks_;
};

using HookedCache = ConcurrentPromptCache<Hooked>;

/// Every function, on keys of its own: comes to an end only if nobody holds the lock. Leaves nothing.
void call_everything(HookedCache& cache) {
    const auto key = "key"_key;
    const auto prompt = "key and more"_key;
    REQUIRE(cache.insert("other", key, Hooked(key.size()), Tier::user).outcome == Outcome::stored);
    REQUIRE(cache.fetch_nearest("other", prompt).reused == key.size());
    REQUIRE(cache.lease_nearest("other", prompt).reused == key.size());
    REQUIRE(cache.probe("other", prompt).reused == key.size());
    REQUIRE(cache.explain("other", prompt).common_prefix == key.size());
    REQUIRE(cache.mark("other", "ke"_key, Tier::system));
    REQUIRE(cache.nbytes("other") == key.size());
    REQUIRE(cache.index_nbytes() > 0);
    REQUIRE(cache.take_nearest("other", prompt).reused == key.size());
    REQUIRE(cache
                .insert("other", prompt, prompt.size(), Tier::user,
                        [&prompt] { return Hooked(prompt.size()); })
                .outcome == Outcome::stored);
    REQUIRE(cache.pop_prefixes("other", prompt) == 0);
    REQUIRE(cache.erase("other", prompt));
    REQUIRE(cache.erase_model("other") == 0);
    REQUIRE(cache.trim_to(cache.limits()) == 0);
    REQUIRE(cache.evict_while([] { return false; }) == 0);
    cache.set_limits(cache.limits());
    cache.for_each([](const HookedCache::EntryView&) {});
    REQUIRE(cache.check_invariants());
}

TEST_CASE("A clone that takes long holds nobody up") {
    Stop stop;
    const Hooked::Hooks hooks{.clone = [&stop] { stop(); }};
    HookedCache cache({.max_bytes = 30});
    cache.insert("m", "abcd"_key, Hooked(4, &hooks), Tier::user);
    std::size_t reused = 0;
    std::size_t held = 0;
    std::jthread cloning([&] {
        const auto fetched = cache.fetch_nearest("m", "abcx"_key);
        reused = fetched.reused;
        held = fetched.kv ? fetched.kv->nbytes() : 0;
    });
    REQUIRE(stop.reached());
    call_everything(cache);
    // What is being copied is no victim and cannot be taken; once erased it lives on in the account.
    REQUIRE(cache.trim_to({.max_bytes = 0}) == 0);
    REQUIRE_FALSE(cache.take_nearest("m", "abcd"_key));
    REQUIRE(cache.stats().bytes_leased == 4);
    REQUIRE(cache.clear() == 1);
    REQUIRE(cache.size() == 0);
    REQUIRE(cache.nbytes() == 4);
    stop.let_go();
    cloning.join();
    REQUIRE(stop.let_go_in_time());
    REQUIRE(reused == 3);
    REQUIRE(held == 3);
    REQUIRE(cache.nbytes() == 0);
    REQUIRE(cache.check_invariants());
}

TEST_CASE("A payload that takes long to make holds nobody up, and its room is kept") {
    Stop stop;
    HookedCache cache({.max_bytes = 30});
    cache.insert("m", "abcdefghijkl"_key, Hooked(12), Tier::user);
    cache.insert("m", "0123456789"_key, Hooked(10), Tier::user);
    promptkv::Inserted inserted;
    std::jthread making([&] {
        inserted = cache.insert("n", "ABCDEFGHIJKLMNOP"_key, 16, Tier::user, [&stop] {
            stop();
            return Hooked(16);
        });
    });
    REQUIRE(stop.reached());
    REQUIRE(cache.nbytes() > 16);
    REQUIRE(cache.nbytes() <= 30);
    REQUIRE(cache.clear() == 1); // its place among the keys goes with the others
    REQUIRE(cache.nbytes() == 16);
    call_everything(cache);
    REQUIRE(cache.insert("m", "abc"_key, Hooked(15), Tier::user).outcome == Outcome::no_room);
    REQUIRE(cache.insert("m", "abc"_key, Hooked(14), Tier::user).outcome == Outcome::stored);
    stop.let_go();
    making.join();
    REQUIRE(stop.let_go_in_time());
    REQUIRE(inserted.outcome == Outcome::stored);
    REQUIRE(cache.size() == 2);
    REQUIRE(cache.nbytes() == 30);
    REQUIRE(cache.stats().peak_nbytes == 30);
    REQUIRE(cache.check_invariants());
}

TEST_CASE("A listener that takes long holds nobody up") {
    Stop stop;
    HookedCache cache({.max_bytes = 30});
    std::atomic<int> heard = 0;
    std::string models;
    std::size_t left = 0;
    cache.on_removal([&](const HookedCache::Removal& removal) {
        ++heard;
        if (removal.model == "m") {
            stop();
            models += removal.model; // which is there, though the cache knows no such model now
            left += removal.payload != nullptr ? removal.payload->nbytes() : 0;
        }
    });
    cache.insert("m", "abcd"_key, Hooked(4), Tier::user);
    std::jthread erasing([&] { cache.erase("m", "abcd"_key); });
    REQUIRE(stop.reached());
    call_everything(cache);
    REQUIRE(heard > 1); // the others' removals are not queued behind it
    REQUIRE(cache.nbytes() == 0);
    stop.let_go();
    erasing.join();
    REQUIRE(stop.let_go_in_time());
    REQUIRE(models == "m");
    REQUIRE(left == 4);
}

TEST_CASE("A destructor that takes long holds nobody up, wherever a payload ends") {
    Stop stop;
    const Hooked::Hooks hooks{.destroy = [&stop] { stop(); }};
    HookedCache cache({.max_bytes = 30, .max_entries = 2});
    const auto key = "abcd"_key;
    const auto prompt = "abcdefgh"_key;
    const auto store = [&] { cache.insert("m", key, Hooked(4, &hooks), Tier::user); };
    const auto check = [&](const std::function<void()>& end) {
        std::jthread ending(end);
        REQUIRE(stop.reached());
        REQUIRE(cache.check_invariants());
        cache.clear();
        cache.set_limits({.max_bytes = 30, .max_entries = 2});
        call_everything(cache);
        stop.let_go();
        ending.join();
        REQUIRE(stop.let_go_in_time());
        REQUIRE(cache.check_invariants());
    };
    SECTION("erased") {
        store();
        check([&] { cache.erase("m", key); });
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
    SECTION("evicted") {
        store();
        check([&] { cache.trim_to({.max_entries = 0}); });
    }
    SECTION("evicted while there is pressure") {
        store();
        check([&] { cache.evict_while([] { return true; }); });
    }
    SECTION("evicted by an insert") {
        store();
        check([&] { cache.insert("m", "0123"_key, Hooked(30), Tier::user); });
    }
    SECTION("evicted by new limits") {
        store();
        check([&] {
            cache.trim_to({.max_bytes = 3}); // a cut destroys nothing
            cache.set_limits({.max_bytes = 30, .max_entries = 0});
        });
    }
    SECTION("replaced") {
        store();
        check([&] { cache.insert("m", key, Hooked(4), Tier::user); });
    }
    SECTION("absorbed") {
        store();
        check([&] { cache.insert("m", prompt, Hooked(8), Tier::user); });
    }
    SECTION("refused") {
        check([&] { cache.insert("m", key, Hooked(31, &hooks), Tier::user); });
    }
    SECTION("made, and then refused") {
        check([&] { cache.insert("m", key, 4, Tier::user, [&] { return Hooked(31, &hooks); }); });
    }
    SECTION("leased until after it was erased") {
        store();
        check([&] {
            const HookedCache::Lease lease = cache.lease_nearest("m", prompt);
            cache.clear();
        });
    }
}

TEST_CASE("The counters can be read while a call holds the lock") {
    Stop stop;
    const Hooked::Hooks hooks{.truncate = [&stop] { stop(); }};
    HookedCache cache({.max_bytes = 8, .cut_granularity = 1});
    cache.insert("m", "abcdefgh"_key, Hooked(8, &hooks), Tier::user);
    REQUIRE(cache.probe("m", "abcdefgh"_key).reused == 7);
    std::jthread cutting([&] { cache.insert("m", "0123"_key, Hooked(4), Tier::user); });
    REQUIRE(stop.reached());
    REQUIRE(cache.nbytes() == 8); // as the latest call left it
    REQUIRE(cache.size() == 1);
    REQUIRE_FALSE(cache.empty());
    REQUIRE(cache.stats().inserted == 1);
    REQUIRE(cache.stats(Tier::user).nbytes == 8);
    stop.let_go();
    cutting.join();
    REQUIRE(stop.let_go_in_time());
    REQUIRE(cache.nbytes() == 8);
    REQUIRE(cache.size() == 2);
    REQUIRE(cache.stats().cut == 1);
}

TEST_CASE("Listeners of several threads call the cache at once") {
    Cache cache({.max_entries = 4});
    std::atomic<int> at_once = 0;
    std::atomic<bool> together = false;
    std::atomic<int> late = 0;
    std::atomic<int> heard = 0;
    cache.on_removal([&](Cache::Removal& removal) {
        ++heard;
        ++at_once;
        const bool in_time = wait_until([&] { // for another one, the first time
            if (at_once > 1) {
                together = true;
            }
            return together.load();
        });
        late += in_time ? 0 : 1;
        const Tokens half(removal.tokens.begin(),
                          removal.tokens.begin() + std::ssize(removal.tokens) / 2);
        if (!half.empty()) {
            cache.insert("halves", half, tape(half, {.step = 0}), removal.tier);
        }
        --at_once;
    });
    std::vector<std::jthread> threads;
    for (std::int32_t thread = 0; thread < 4; ++thread) {
        threads.emplace_back([&cache, thread] {
            for (std::int32_t i = 0; i < 200; ++i) {
                const Tokens key(8, thread * 1'000 + i);
                cache.insert("m", key, tape(key, {.step = 0}), Tier::user);
            }
        });
    }
    join(threads);
    REQUIRE(late == 0);
    const promptkv::Stats stats = cache.stats();
    REQUIRE(stats.inserted + stats.replaced == static_cast<std::uint64_t>(heard) + cache.size());
    REQUIRE(stats.inserted > 4 * 200);
    REQUIRE(cache.check_invariants());
}

TEST_CASE("A listener may be exchanged while others run") {
    Cache cache({.max_entries = 2});
    std::atomic<int> heard = 0;
    std::atomic<bool> done = false;
    std::jthread exchanging([&] {
        while (!done) {
            cache.on_removal([&heard](const Cache::Removal&) { ++heard; });
            cache.on_removal(nullptr);
        }
        cache.on_removal([&heard](const Cache::Removal&) { ++heard; });
    });
    std::vector<std::jthread> threads;
    for (std::int32_t thread = 0; thread < 2; ++thread) {
        threads.emplace_back([&cache, thread] {
            for (std::int32_t i = 0; i < 1'000; ++i) {
                const Tokens key(4, thread * 10'000 + i);
                cache.insert("m", key, tape(key), Tier::user);
            }
        });
    }
    join(threads);
    done = true;
    exchanging.join();
    const int before = heard;
    REQUIRE(cache.clear() == 2);
    REQUIRE(heard == before + 2);
    REQUIRE(cache.stats().evicted == 2 * 1'000 - 2);
}

TEST_CASE("Leases outlive the cache that was shared") {
    std::vector<Cache::Lease> leases(8);
    {
        Cache cache;
        std::vector<std::jthread> threads;
        for (std::int32_t thread = 0; thread < 8; ++thread) {
            threads.emplace_back([&cache, &leases, thread] {
                const Tokens key(8, thread);
                cache.insert("m", key, tape(key), Tier::user);
                Cache::Lease& lease = leases[static_cast<std::size_t>(thread)];
                lease = cache.lease_nearest("m", key);
                lease.remaining = {};
            });
        }
        join(threads);
        REQUIRE(cache.size() == 8);
    }
    for (std::int32_t thread = 0; thread < 8; ++thread) {
        const Cache::Lease& lease = leases[static_cast<std::size_t>(thread)];
        REQUIRE(lease.reused == 7);
        REQUIRE(lease.kv().recording().tokens == Tokens(8, thread));
    }
    std::vector<std::jthread> threads;
    for (Cache::Lease& lease : leases) {
        threads.emplace_back([&lease] { lease = {}; });
    }
    join(threads);
    REQUIRE_FALSE(leases.front());
}

} // namespace
