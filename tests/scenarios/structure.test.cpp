// SPDX-License-Identifier: MIT
// Scenarios 64 to 69: depth, failure, awkward payloads, moves, and what is counted and told.
#include "replace_new.hpp"
#include "state.hpp"

#include <array>
#include <memory>
#include <new>
#include <optional>
#include <random>
#include <set>
#include <span>
#include <stdexcept>
#include <tuple>
#include <type_traits>

#if __has_include(<pthread.h>)
#include <pthread.h>
#endif

using namespace scenario;
using promptkv::Match;
using promptkv::Outcome;
using promptkv::RemovalReason;
using promptkv::Tier;

namespace {

using Cache = promptkv::LRUPromptCache<State>;
using RecurrentCache = promptkv::LRUPromptCache<Recurrent>;
using Trie = promptkv::PromptTrie<int>;

/// Calls `f` on a thread with a stack of 256 KiB, or here where there is no choosing.
template <class F>
void call_on_a_small_stack(F f) {
#if __has_include(<pthread.h>)
    pthread_attr_t attributes;
    REQUIRE(pthread_attr_init(&attributes) == 0);
    REQUIRE(pthread_attr_setstacksize(&attributes, 256 * 1024) == 0);
    const auto start = [](void* function) -> void* {
        (*static_cast<F*>(function))();
        return nullptr;
    };
    pthread_t thread{};
    REQUIRE(pthread_create(&thread, &attributes, start, &f) == 0);
    REQUIRE(pthread_join(thread, nullptr) == 0);
    pthread_attr_destroy(&attributes);
#else
    f();
#endif
}

/// All that can be asked of a cache, to compare before and after.
template <class Cache>
auto snapshot(const Cache& cache) {
    std::set<std::tuple<std::string, Tokens, Tier, std::size_t, Tokens>> entries;
    cache.for_each([&](const auto& entry) {
        entries.emplace(entry.model, Tokens(entry.tokens.begin(), entry.tokens.end()), entry.tier,
                        entry.nbytes, entry.kv.tokens);
    });
    const auto stats = cache.stats();
    return std::make_tuple(entries, cache.size(), cache.nbytes(), stats.bytes_leased,
                           stats.bytes_reserved);
}

/// Builds a cache anew and lets the k-th allocation of `operation` fail, for k = 0, 1, 2 and so
/// on until it succeeds. `check(before, cache)` is called after each failure.
template <class Build, class Operation, class Check>
void fail_each_allocation(Build build, Operation operation, Check check) {
    for (const bool lasting : {false, true}) {
        bool struck = true;
        for (std::size_t k = 0; struck; ++k) {
            CAPTURE(lasting, k);
            REQUIRE(k < 200);
            auto cache = build();
            const auto before = snapshot(cache);
            bool thrown = false;
            {
                promptkv_test::FailingNew failing(k, lasting);
                try {
                    operation(cache);
                } catch (const std::bad_alloc&) {
                    thrown = true;
                }
                struck = failing.stop();
            }
            REQUIRE(cache.check_invariants());
            if (thrown)
                check(before, cache);
        }
    }
}

/// After each failure the cache must be as it was.
template <class Build, class Operation>
void require_strong_guarantee(Build build, Operation operation) {
    fail_each_allocation(build, operation, [](const auto& before, const auto& cache) {
        REQUIRE(snapshot(cache) == before);
    });
}

/// A small cache in use: branches, three tiers; with the default, no byte is free.
Cache used_cache(std::size_t max_bytes = 150) {
    Cache cache({.max_bytes = max_bytes});
    store(cache, State{"m", run(1, 20)}, Tier::system);
    store(cache, State{"m", join(run(1, 20), run(100, 20))}, Tier::user);
    store(cache, State{"m", join(run(1, 20), run(200, 30))}, Tier::assistant);
    store(cache, State{"other", run(1, 40)}, Tier::assistant);
    return cache;
}

Cache roomy_cache() {
    return used_cache(1'000);
}

struct alignas(128) Aligned {
    std::array<std::byte, 128> payload{};

    std::size_t nbytes() const noexcept { return sizeof *this; }
    bool stands_right() const { return reinterpret_cast<std::uintptr_t>(this) % 128 == 0; }
};

struct MoveOnly {
    std::string model;
    Tokens tokens;
    std::unique_ptr<int> buffer = std::make_unique<int>(7);

    std::size_t nbytes() const noexcept { return tokens.size(); }
    std::size_t reusable_prefix(std::size_t n) const noexcept { return n; }
};

struct ThrowingDestructor {
    ~ThrowingDestructor() noexcept(false) {}
    std::size_t nbytes() const noexcept { return 1; }
};

struct ThrowingMove {
    ThrowingMove() = default;
    ThrowingMove(ThrowingMove&&) noexcept(false) {}
    ThrowingMove& operator=(ThrowingMove&&) noexcept(false) { return *this; }
    std::size_t nbytes() const noexcept { return 1; }
};

struct Weightless {};

} // namespace

TEST_CASE("64. chains of nodes, 100,000 deep, need no deep stack", "[scenario]") {
    constexpr std::size_t deepest = 100'000;
    constexpr std::size_t deep_enough = 20'000; // where each step that recursed would be fatal too
    const Tokens key = run(0, deepest);

    SECTION("in the trie") {
        const auto grow = [&](Trie& trie, std::size_t depth) {
            const auto whole = std::span<const std::int32_t>(key).first(depth);
            for (std::size_t length = depth; length > 0; --length) // each splits off a token
                trie.insert_or_assign(whole.first(length), static_cast<int>(length));
        };
        const auto whole = std::span<const std::int32_t>(key).first(deep_enough);
        std::size_t nodes = 0;
        std::size_t found = 0;
        std::size_t popped = 0;
        bool emptied = false;
        call_on_a_small_stack([&] {
            Trie destroyed;
            grow(destroyed, deepest);
            nodes = destroyed.node_count();
            destroyed.for_each_prefix(key, [&](const auto&) { ++found; });

            Trie trie;
            grow(trie, deep_enough);
            popped = trie.pop_prefixes(whole.first(deep_enough / 2)).size();
            for (std::size_t length = deep_enough; length >= deep_enough / 2; --length)
                trie.erase(trie.find(whole.first(length)));
            emptied = trie.empty() && trie.node_count() == 1;
            grow(trie, deep_enough);
            trie.clear();
            emptied = emptied && trie.empty() && trie.check_invariants();
        });
        CHECK(nodes == deepest + 1);
        CHECK(found == deepest);
        CHECK(popped == deep_enough / 2 - 1);
        CHECK(emptied);
    }

    SECTION("in the cache") {
        constexpr std::size_t deep = 8'000; // each of its five chains costs the square
        const auto whole = std::span<const std::int32_t>(key).first(deep);
        std::size_t stored = 0;
        std::size_t reused = 0;
        std::size_t evicted = 0;
        std::size_t cleared = 0;
        bool sound = false;
        call_on_a_small_stack([&] {
            promptkv::LRUPromptCache<Whole> cache;
            const auto grow = [&] {
                for (std::size_t length = deep; length > 0; --length)
                    cache.insert("m", whole.first(length), Whole{length}, Tier::user);
            };
            grow();
            stored = cache.size();
            reused = cache.fetch_nearest("m", whole).reused();
            evicted = cache.trim_to({.max_entries = deep / 2});
            sound = cache.check_invariants();
            cleared = cache.clear();
            grow();
            cache.insert("m", key, Whole{deepest}, Tier::user); // has them all as ancestors
            cache.pop_prefixes("m", key);
            grow();
            cache.erase_below("m", whole.first(1));
            grow();
            cache.erase_model("m");
            grow(); // to be destroyed
        });
        CHECK(stored == deep);
        CHECK(reused == deep - 1);
        CHECK(evicted == deep / 2);
        CHECK(cleared == deep / 2);
        CHECK(sound);
    }
}

TEST_CASE("65. an allocation that fails, whichever it is, leaves the cache as it was",
          "[scenario]") {
    SECTION("storing beside, below and above what is there") {
        const Tokens key =
            GENERATE(run(500, 10), run(1, 25), join(run(1, 20), run(100, 5)),
                     join(run(1, 20), run(100, 25)), run(1, 20), join(run(1, 20), run(100, 20)));
        const auto tier = GENERATE(Tier::assistant, Tier::system);
        CAPTURE(key, tier);
        require_strong_guarantee(roomy_cache, [&](Cache& cache) {
            store(cache, State{"m", key}, tier);
        });
    }
    SECTION("storing where something has to be evicted: what was evicted stays so, and no more") {
        const Tokens key = run(500, 60);
        const auto full_cache = [] { return used_cache(); };
        fail_each_allocation(
            full_cache,
            [&](Cache& cache) {
                store(cache, State{"m", key}, Tier::user);
            },
            [&](const auto& before, const Cache& cache) {
                REQUIRE(cache.probe("m", key).reused() == 0);
                cache.for_each([&](const auto& entry) { // each is one of before, perhaps cut
                    const Tokens tokens(entry.tokens.begin(), entry.tokens.end());
                    const auto& entries = std::get<0>(before);
                    REQUIRE(std::any_of(entries.begin(), entries.end(), [&](const auto& old) {
                        const Tokens& longer = std::get<1>(old);
                        return std::get<0>(old) == entry.model && longer.size() >= tokens.size() &&
                               std::equal(tokens.begin(), tokens.end(), longer.begin());
                    }));
                });
                REQUIRE(cache.stats().bytes_reserved == 0);
                require_balanced(cache, std::vector<std::string>{"m", "other"});
            });
    }
    SECTION("storing under a model not seen before") {
        const Tokens key = run(1, 20);
        require_strong_guarantee(roomy_cache, [&](Cache& cache) {
            store(cache, State{"a model of a name too long for small strings", key}, Tier::user);
        });
    }
    SECTION("reserving and committing") {
        const Tokens key = run(1, 60);
        require_strong_guarantee(roomy_cache, [&](Cache& cache) {
            auto room = cache.reserve("m", key, key.size(), Tier::user);
            room.commit(State{"m", key});
        });
    }
    SECTION("fetching and leasing") {
        const Tokens prompt = join(run(1, 20), run(100, 10));
        const auto full_cache = [] { return used_cache(); };
        require_strong_guarantee(full_cache,
                                 [&](Cache& cache) { (void)cache.fetch_nearest("m", prompt); });
        require_strong_guarantee(full_cache,
                                 [&](Cache& cache) { (void)cache.lease_nearest("m", prompt); });
    }
    SECTION("marking") {
        const Tokens prefix = run(1, 10);
        require_strong_guarantee(roomy_cache,
                                 [&](Cache& cache) { cache.mark("m", prefix, Tier::system); });
    }
    SECTION("what only removes does not fail at all") {
        const auto without_memory = [](auto operation) {
            auto cache = used_cache();
            int removals = 0;
            cache.set_removal_listener([&](const auto&) { ++removals; });
            {
                promptkv_test::FailingNew failing(0, true);
                operation(cache);
            }
            REQUIRE(cache.check_invariants());
            CHECK(removals > 0);
        };
        const Tokens key = run(1, 40);
        const Tokens prefix = run(1, 10);
        without_memory([](Cache& cache) { cache.trim_to({.max_bytes = 60}); });
        without_memory([](Cache& cache) { cache.set_limits({.max_entries = 1}); });
        without_memory([](Cache& cache) { cache.evict(promptkv::unlimited); });
        without_memory([&](Cache& cache) { cache.erase("other", key); });
        without_memory([&](Cache& cache) { cache.erase_below("m", prefix); });
        without_memory([](Cache& cache) { cache.erase_model("m"); });
        without_memory([](Cache& cache) { cache.clear(); });
    }
}

TEST_CASE("65. a payload copy that throws leaves the cache as it was", "[scenario]") {
    struct Uncopied : Recurrent {
        explicit Uncopied(Recurrent state) : Recurrent(std::move(state)) {}
        Uncopied(const Uncopied& other) : Recurrent(other) {
            throw std::runtime_error("no memory on the device");
        }
        Uncopied& operator=(const Uncopied&) = default;
        Uncopied(Uncopied&&) noexcept = default;
        Uncopied& operator=(Uncopied&&) noexcept = default;
        ~Uncopied() = default;
    };
    promptkv::LRUPromptCache<Uncopied> cache;
    const Tokens key = run(1, 10);
    const Tokens prompt = run(1, 11);
    cache.insert("m", key, Uncopied(Recurrent{"m", key}), Tier::user);
    const auto before = snapshot(cache);
    CHECK_THROWS_AS(cache.fetch_nearest("m", prompt), std::runtime_error);
    CHECK(snapshot(cache) == before);
    CHECK(cache.lease_nearest("m", prompt).kv().tokens == key); // reading needs no copy
    CHECK(cache.take_nearest("m", prompt).kv->tokens == key);   // nor does taking
}

TEST_CASE("66. payloads that only move, that are aligned, and that may not be stored",
          "[scenario]") {
    SECTION("only moved: leased, taken and evicted, never copied") {
        promptkv::LRUPromptCache<MoveOnly> cache;
        const Tokens key = run(1, 10);
        const Tokens prompt = run(1, 11);
        store(cache, MoveOnly{"m", key}, Tier::user);
        store(cache, MoveOnly{"m", run(101, 10)}, Tier::user);
        CHECK(*cache.lease_nearest("m", prompt).kv().buffer == 7);
        CHECK(cache.probe("m", prompt).reused() == 10);
        const auto taken = cache.take_nearest("m", prompt);
        require_served(taken, "m", prompt, 10, Match::shorter);
        CHECK(*taken.kv->buffer == 7);
        CHECK(cache.trim_to({.max_bytes = 0}) == 1);
    }
    SECTION("aligned: also after its neighbours came and went") {
        promptkv::LRUPromptCache<Aligned> cache({.max_entries = 20});
        std::size_t askew = 0;
        for (std::int32_t i = 1; i <= 60; ++i) {
            const Tokens key = join(run(1, static_cast<std::size_t>(i % 7)), run(100 * i, 3));
            CHECK(cache.insert("m", key, Aligned{}, Tier::user).outcome == Outcome::stored);
            cache.for_each([&](const auto& entry) { askew += entry.kv.stands_right() ? 0U : 1U; });
            const auto lease = cache.lease_nearest("m", key, {.min_remaining = 0});
            askew += lease.kv().stands_right() ? 0U : 1U;
        }
        CHECK(askew == 0);
    }
    SECTION("refused by the concept") {
        STATIC_REQUIRE(promptkv::KVPayload<State>);
        STATIC_REQUIRE(promptkv::KVPayload<Recurrent>);
        STATIC_REQUIRE(promptkv::KVPayload<MoveOnly>);
        STATIC_REQUIRE(promptkv::KVPayload<Aligned>);
        STATIC_REQUIRE_FALSE(promptkv::KVPayload<ThrowingDestructor>);
        STATIC_REQUIRE_FALSE(promptkv::KVPayload<ThrowingMove>);
        STATIC_REQUIRE_FALSE(promptkv::KVPayload<Weightless>);
    }
}

TEST_CASE("67. a cache moves with its entries and its leases, and is not copied", "[scenario]") {
    STATIC_REQUIRE_FALSE(std::is_copy_constructible_v<Cache>);
    STATIC_REQUIRE_FALSE(std::is_copy_assignable_v<Cache>);
    STATIC_REQUIRE(std::is_move_constructible_v<Cache>);
    STATIC_REQUIRE(std::is_move_assignable_v<Cache>);

    Cache first({.max_bytes = 100});
    const Tokens key = run(1, 20);
    const Tokens prompt = run(1, 21);
    store(first, State{"m", key}, Tier::user);
    store(first, State{"m", run(101, 30)}, Tier::assistant);
    auto lease = std::make_optional(first.lease_nearest("m", prompt));
    const State* const address = &lease->kv();

    SECTION("into a new cache") {
        Cache second(std::move(first));
        CHECK(second.size() == 2);
        CHECK(second.nbytes() == 50);
        CHECK(second.limits().max_bytes == 100);
        CHECK(&lease->kv() == address);
        CHECK(evict_all(second) == 1); // the lease still holds its own
        CHECK(second.stats().bytes_leased == 20);
        lease.reset();
        CHECK(second.stats().bytes_leased == 0);
        CHECK(evict_all(second) == 1);
        CHECK(second.nbytes() == 0);
        CHECK(second.check_invariants());
    }
    SECTION("over a cache that is leased from itself") {
        Cache second;
        store(second, State{"m", run(201, 10)}, Tier::user);
        const Tokens other = run(201, 11);
        const auto other_lease = second.lease_nearest("m", other);
        second = std::move(first);
        CHECK(other_lease.kv().tokens == run(201, 10));
        CHECK(lease->kv().tokens == key);
        CHECK(second.nbytes() == 50);
        CHECK(second.stats().bytes_leased == 20);
        CHECK(holds(second, "m", key));
        CHECK_FALSE(holds(second, "m", run(201, 10)));
        lease.reset();
        require_balanced(second, models);
    }
    SECTION("and ends before the lease does") {
        {
            const Cache second(std::move(first));
            CHECK(second.size() == 2);
        }
        CHECK(lease->kv().tokens == key);
    }
}

TEST_CASE("68. counters only rise, and each way of leaving is told once under its own name",
          "[scenario]") {
    SECTION("each reason") {
        Cache cache({.max_bytes = 100});
        std::vector<std::pair<RemovalReason, Tokens>> log;
        cache.set_removal_listener([&](const auto& removal) {
            log.emplace_back(removal.reason, Tokens(removal.tokens.begin(), removal.tokens.end()));
        });
        const auto told = [&] { return std::exchange(log, {}); };
        using Log = decltype(log);
        const Tokens key = run(1, 10);
        const Tokens longer = run(1, 20);

        store(cache, State{"m", key}, Tier::user);
        CHECK(told().empty());
        store(cache, State{"m", key}, Tier::user);
        CHECK(told() == Log{{RemovalReason::replaced, key}});
        store(cache, State{"m", longer}, Tier::user);
        CHECK(told() == Log{{RemovalReason::absorbed, key}});
        store(cache, State{"m", run(101, 90)}, Tier::user);
        CHECK(told() == Log{{RemovalReason::cut, longer}});
        CHECK(cache.nbytes() == 100);
        store(cache, State{"m", run(301, 95)}, Tier::user); // all that is older has to go
        CHECK(told() == Log{{RemovalReason::evicted, first_of(longer, 10)},
                            {RemovalReason::cut, run(101, 90)}});
        CHECK(erase(cache, "m", run(301, 95)));
        CHECK(told() == Log{{RemovalReason::erased, run(301, 95)}});
        const Tokens rest = run(101, 6);
        CHECK(cache.take_nearest("m", rest).reused() == 5);
        CHECK(told() == Log{{RemovalReason::taken, run(101, 5)}});
        store(cache, State{"m", key}, Tier::user);
        cache.clear();
        CHECK(told() == Log{{RemovalReason::cleared, key}});

        const auto stats = cache.stats();
        CHECK(stats.replaced == 1);
        CHECK(stats.absorbed == 1);
        CHECK(stats.cut == 2);
        CHECK(stats.evicted == 1);
        CHECK(stats.superseded == 0);
    }

    SECTION("superseded is not evicted") {
        RecurrentCache cache;
        int removals = 0;
        cache.set_removal_listener([&](const auto&) { ++removals; });
        store(cache, Recurrent{"m", run(1, 10)}, Tier::user);
        store(cache, Recurrent{"m", run(1, 20)}, Tier::user);
        CHECK(cache.stats().superseded == 1);
        CHECK(cache.stats().evicted == 0);
        CHECK(cache.stats().replaced == 0);
        CHECK(removals == 0);
        CHECK(cache.size() == 2);
    }

    SECTION("the bytes told balance, whatever happens") {
        Cache cache({.max_bytes = 150});
        std::size_t bytes_in = 0;
        std::size_t bytes_out = 0;
        std::size_t left = 0;
        cache.set_removal_listener([&](const auto& removal) {
            bytes_out += removal.bytes;
            left += removal.reason == RemovalReason::cut ? 0U : 1U;
        });
        const auto counters = [&] {
            std::vector<std::pair<std::string_view, std::uint64_t>> values;
            promptkv::for_each_counter(cache.stats(), [&](std::string_view name, auto value) {
                const bool may_fall = name == "bytes_referenced" || name == "bytes_leased" ||
                                      name == "bytes_reserved";
                if (!may_fall)
                    values.emplace_back(name, value);
            });
            return values;
        };
        auto before = counters();
        std::size_t came = 0;
        std::mt19937 random(68);
        for (int step = 0; step < 3'000; ++step) {
            CAPTURE(step);
            const auto first = static_cast<std::int32_t>(100 * (random() % 3));
            const Tokens key = join(run(first, 1 + random() % 30), run(900, random() % 30));
            if (random() % 8 == 0) {
                (void)cache.take_nearest("m", key);
            } else if (random() % 8 == 0) {
                cache.erase("m", key);
            } else {
                (void)cache.fetch_nearest("m", key);
                const auto outcome =
                    store(cache, State{"m", key}, static_cast<Tier>(random() % 3)).outcome;
                if (outcome == Outcome::stored || outcome == Outcome::replaced) {
                    bytes_in += key.size();
                    ++came;
                }
            }
            REQUIRE(bytes_in - bytes_out == cache.nbytes());
            REQUIRE(came - left == cache.size());
            const auto after = counters();
            for (std::size_t i = 0; i < after.size(); ++i) {
                CAPTURE(after[i].first);
                REQUIRE(after[i].second >= before[i].second);
            }
            before = after;
        }
    }
}

TEST_CASE("69. a key inside a longer entry needs no state of its own unless its tier is higher",
          "[scenario]") {
    const Tokens system = run(1, 20);
    const Tokens conversation = run(1, 60);
    const Tokens prompt = join(system, Tokens{900});

    SECTION("state that can be cut: present under an entry as persistent") {
        Cache cache;
        store(cache, State{"m", conversation}, Tier::user);
        for (const auto tier : {Tier::assistant, Tier::user}) {
            State state{"m", system};
            const auto inserted = cache.insert("m", system, std::move(state), tier);
            CHECK(inserted.outcome == Outcome::present);
            CHECK(inserted.tokens == 20);
            CHECK(inserted.absorbed + inserted.evicted + inserted.cut == 0);
            CHECK(state.tokens == system); // still the caller's
        }
        CHECK(cache.size() == 1);
        CHECK(cache.nbytes() == 60);
        require_balanced(cache, models);
    }
    SECTION("an entry of its own where its tier is higher, which outlives the longer one") {
        Cache cache({.max_bytes = 100});
        store(cache, State{"m", conversation}, Tier::assistant);
        CHECK(store(cache, State{"m", system}, Tier::system).outcome == Outcome::stored);
        CHECK(cache.nbytes() == 80);
        store(cache, State{"m", run(101, 80)}, Tier::assistant);
        CHECK_FALSE(holds(cache, "m", conversation));
        const auto hit = cache.fetch_nearest("m", prompt);
        require_served(hit, "m", prompt, 20, Match::shorter);
        CHECK(hit.tier() == Tier::system);
    }
    SECTION("of blocks it costs what its last block takes") {
        promptkv::LRUPromptCache<Blocks> cache;
        cache.insert("m", conversation, blocks_of(conversation, 16), Tier::assistant);
        cache.insert("m", system, blocks_of(system, 16), Tier::system);
        CHECK(cache.size() == 2);
        CHECK(cache.nbytes() == 60 + 4);
        CHECK(cache.stats().bytes_referenced == 80);
        CHECK(cache.check_invariants());
    }
    SECTION("made with nothing to store: marked") {
        Cache cache({.max_bytes = 100});
        CHECK_FALSE(cache.mark("m", system, Tier::system));
        store(cache, State{"m", conversation}, Tier::assistant);
        CHECK(cache.mark("m", system, Tier::system));
        store(cache, State{"m", run(101, 80)}, Tier::assistant);
        CHECK(cache.fetch_nearest("m", prompt).tier() == Tier::system);
        CHECK(cache.nbytes() == 100);
    }
    SECTION("state that cannot be cut: an entry of its own") {
        RecurrentCache cache;
        store(cache, Recurrent{"m", conversation}, Tier::assistant);
        CHECK(store(cache, Recurrent{"m", system}, Tier::assistant).outcome == Outcome::stored);
        CHECK(store(cache, Recurrent{"m", system}, Tier::system).outcome == Outcome::replaced);
        CHECK(cache.fetch_nearest("m", prompt).tier() == Tier::system);
        CHECK(cache.size() == 2);
    }
}
