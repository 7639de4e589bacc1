// SPDX-License-Identifier: MIT
// Scenarios 101 to 111 and 114: what attackers, listeners and odd types did to the first edition.
#include "state.hpp"

#include "../hostile/slowdown.hpp"
#include "counting_new.hpp"

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <thread>

using namespace scenario;
using promptkv::Match;
using promptkv::MissReason;
using promptkv::Outcome;
using promptkv::Tier;
using promptkv_test::live_bytes;
using promptkv_test::slowdown;

namespace {

using Cache = promptkv::LRUPromptCache<State>;
using BlockCache = promptkv::LRUPromptCache<Blocks>;
using PlainCache = promptkv::LRUPromptCache<Plain>;
using WholeCache = promptkv::LRUPromptCache<Whole>;

Tokens random_tokens(std::mt19937& random, std::size_t count) {
    Tokens tokens(count);
    for (std::int32_t& token : tokens)
        token = static_cast<std::int32_t>(random() >> 1U);
    return tokens;
}

} // namespace

TEST_CASE("101. combs of many tenants slow no other tenant down", "[scenario]") {
    // A comb: the prefixes of one long key, each with another last token.
    constexpr std::size_t teeth = 400;
    const auto with_tenants = [](bool combs) {
        auto cache = std::make_shared<WholeCache>();
        std::mt19937 random(101);
        const Tokens spine = join(Tokens{1}, random_tokens(random, teeth));
        for (int tenant = 0; tenant < 16; ++tenant) {
            const std::string model = "tenant " + std::to_string(tenant);
            for (std::size_t tooth = 1; tooth <= teeth; ++tooth) {
                const Tokens key = combs ? join(first_of(spine, tooth), Tokens{-2})
                                         : join(Tokens{1}, random_tokens(random, 20));
                cache->insert(model, key, Whole{key.size()}, Tier::user);
            }
        }
        cache->insert("victim", join(Tokens{1}, run(50, 20)), Whole{21}, Tier::user);
        REQUIRE(cache->size() == 16 * teeth + 1);
        return std::pair(cache, spine);
    };
    const auto attacked = with_tenants(true);
    const auto harmless = with_tenants(false);
    const auto look_up = [](const auto& cache_and_spine, const std::string& model,
                            std::size_t n_tokens) {
        return [&cache_and_spine, model, n_tokens] {
            return [&cache_and_spine, model, n_tokens] {
                const Tokens prompt = first_of(cache_and_spine.second, n_tokens);
                for (int i = 0; i < 1'500; ++i) {
                    if (cache_and_spine.first->probe(model, prompt) ||
                        cache_and_spine.first->lease_nearest(model, prompt)) {
                        FAIL("a hit");
                    }
                }
            };
        };
    };
    SECTION("another tenant's miss") {
        CHECK(slowdown(look_up(attacked, "victim", 300), look_up(harmless, "victim", 300)) < 6);
        CHECK(slowdown(look_up(attacked, "nobody", 300), look_up(harmless, "nobody", 300)) < 6);
    }
    SECTION("four tokens") {
        CHECK(slowdown(look_up(attacked, "victim", 4), look_up(harmless, "victim", 4)) < 6);
        // In the comb itself it passes three teeth.
        CHECK(slowdown(look_up(attacked, "tenant 3", 4), look_up(harmless, "tenant 3", 4)) < 12);
    }
}

TEST_CASE("102. evicting siblings along a long key copies no edge once per level", "[scenario]") {
    // One insert evicts 300 siblings along a key of many tokens: their edges join again.
    constexpr std::size_t siblings = 300;
    const auto evict_along = [](std::size_t n_tokens) {
        return [n_tokens] {
            auto cache =
                std::make_shared<WholeCache>(WholeCache::Options{.max_bytes = siblings + 2});
            Tokens key = run(0, n_tokens);
            cache->insert("m", key, Whole{key.size()}, Tier::system);
            for (std::size_t i = siblings; i > 0; --i) {
                key.resize(n_tokens * i / (siblings + 1));
                key.push_back(-1);
                cache->insert("m", key, Whole{key.size()}, Tier::assistant);
                key.pop_back();
            }
            return [cache] {
                promptkv::Inserted inserted;
                const Tokens one{-5};
                inserted =
                    cache->insert("m", one, siblings + 1, Tier::assistant, [] { return Whole{1}; });
                if (inserted.evicted != siblings)
                    FAIL("evicted " << inserted.evicted);
            };
        };
    };
    // A copy per level would be 300 times 250,000 tokens: a factor in the hundreds.
    CHECK(slowdown(evict_along(500'000), evict_along(1'000), 3) < 20);
}

TEST_CASE("103. evicting above many entries of higher tiers costs no walk of their path",
          "[scenario]") {
    constexpr std::size_t depth = 800;
    // As many entries of the highest tier, nested on one path or not; twice as many of the lowest,
    // below the path's end. One insert evicts half of these.
    const auto evict_below = [](bool nested) {
        return [nested] {
            auto cache = std::make_shared<WholeCache>(WholeCache::Options{.max_bytes = 3 * depth});
            Tokens path(depth, 7);
            for (std::size_t n = depth; n > 0; --n) {
                const Tokens key =
                    nested ? first_of(path, n) : Tokens{8, static_cast<std::int32_t>(n)};
                cache->insert("m", key, Whole{key.size()}, Tier::system);
            }
            path.resize(depth + 2);
            for (std::size_t i = 0; i < 2 * depth; ++i) {
                path[depth] = 9;
                path[depth + 1] = static_cast<std::int32_t>(i);
                cache->insert("m", path, Whole{path.size()}, Tier::assistant);
            }
            return [cache] {
                const auto inserted =
                    cache->insert("m", Tokens{-1}, depth, Tier::assistant, [] { return Whole{1}; });
                if (inserted.evicted != depth)
                    FAIL("evicted " << inserted.evicted);
            };
        };
    };
    // A walk of the path for each would be a factor of more than 30.
    CHECK(slowdown(evict_below(true), evict_below(false), 3) < 8);
}

TEST_CASE("104. a block of room takes the last turn, not the conversation", "[scenario]") {
    // Blocks of 64 tokens and 64 bytes, also where they are partly filled.
    struct FullBlock {
        static std::size_t nbytes() noexcept { return 64; }
    };
    using FullBlocks = promptkv::BlockKV<FullBlock>;
    const auto full_blocks = [](std::size_t n_tokens) {
        FullBlocks kv(64);
        for (std::size_t n = 0; n < n_tokens; n += 64)
            kv.append(FullBlock{}, std::min<std::size_t>(64, n_tokens - n));
        return kv;
    };
    promptkv::LRUPromptCache<FullBlocks> cache;
    const Tokens conversation = run(1, 2'003);
    cache.insert("m", first_of(conversation, 1'000), full_blocks(1'000), Tier::system);
    cache.insert("m", first_of(conversation, 2'000), full_blocks(2'000), Tier::user);
    cache.insert("m", conversation, full_blocks(2'003), Tier::assistant);
    REQUIRE(cache.nbytes() == (32 + 1 + 1) * 64);
    cache.set_limits({.max_bytes = cache.nbytes()});

    SECTION("wanted by an insert") {
        cache.insert("m", run(5'000, 64), full_blocks(64), Tier::assistant);
        CHECK(cache.nbytes() == (32 + 1 + 1) * 64);
    }
    SECTION("wanted by the engine") {
        CHECK(cache.evict(64) == 64);
        CHECK(cache.nbytes() == (31 + 1 + 1) * 64);
    }
    const Tokens next_turn = join(first_of(conversation, 2'000), Tokens{-1});
    CHECK(cache.probe("m", next_turn).reused() == 2'000);
    CHECK(cache.probe("m", next_turn).tier() == Tier::user);
    const Tokens other = join(first_of(conversation, 1'000), Tokens{-1});
    CHECK(cache.probe("m", other).reused() == 1'000);
    CHECK(cache.probe("m", other).tier() == Tier::system);
    CHECK(cache.check_invariants());
}

TEST_CASE("105. one client's turns and prefixes do not turn the tiers upside down for others",
          "[scenario]") {
    SECTION("an agent of 300 turns") {
        BlockCache cache({.max_bytes = 40'000});
        for (std::int32_t i = 1; i <= 16; ++i)
            store_new_blocks(cache, run(1'000'000 + 10'000 * i, 1'000), Tier::assistant, 50);
        for (std::int32_t i = 1; i <= 8; ++i)
            store_new_blocks(cache, run(10'000 * i, 2'000), Tier::user, 50);
        const Tokens agent = run(2'000'000, 15'000);
        for (std::size_t n = 50; n <= agent.size(); n += 50) {
            store_new_blocks(cache, first_of(agent, n - 25), Tier::user, 50);
            store_new_blocks(cache, first_of(agent, n), Tier::assistant, 50);
            REQUIRE(cache.stats(Tier::user).entries == 9);
        }
        // What it needs comes from others' assistant entries, and from none of the user's.
        CHECK(cache.stats(Tier::user).evicted == 0);
        CHECK(cache.stats(Tier::user).cut == 0);
        CHECK(cache.stats(Tier::assistant).evicted > 0);
        for (std::int32_t i = 1; i <= 8; ++i)
            CHECK(cache.probe("m", run(10'000 * i, 2'001)).reused() == 2'000);
        CHECK(cache.check_invariants());
    }
    SECTION("a client that stores 500 prefixes of one key in higher tiers") {
        PlainCache cache({.max_entries = 24});
        for (std::int32_t tenant = 1; tenant <= 10; ++tenant) {
            const std::string model = "tenant " + std::to_string(tenant);
            cache.insert(model, run(1, 100), Plain{100}, Tier::system);
            cache.insert(model, run(1, 150), Plain{150}, Tier::assistant);
        }
        const Tokens key = run(1, 500);
        const int order = GENERATE(0, 1, 2);
        std::mt19937 random(105);
        for (std::size_t i = 1; i <= key.size(); ++i) {
            const std::size_t n = order == 0 ? i : order == 1 ? 501 - i : 1 + random() % 500;
            const auto tier = order == 2   ? static_cast<Tier>(random() % 3)
                              : i % 2 == 0 ? Tier::user
                                           : Tier::system;
            cache.insert("client", first_of(key, n), Plain{n}, tier);
            std::size_t entries[3] = {};
            cache.for_each([&](const auto& entry) {
                entries[static_cast<std::size_t>(entry.tier)] += entry.model == "client" ? 1U : 0U;
            });
            REQUIRE(entries[0] <= 1);
            REQUIRE(entries[1] <= 1);
            REQUIRE(entries[2] <= 1);
        }
        CHECK(cache.stats().evicted == 0);
        for (std::int32_t tenant = 1; tenant <= 10; ++tenant) {
            const std::string model = "tenant " + std::to_string(tenant);
            CHECK(cache.probe(model, join(run(1, 100), Tokens{-1})).tier() == Tier::system);
        }
        CHECK(cache.check_invariants());
    }
}

namespace {

/// Device memory that knows how much of it there is in all.
class Device {
public:
    explicit Device(std::size_t bytes) : bytes_(bytes) {
        held += bytes_;
        peak = std::max(peak, held);
    }
    Device(Device&& other) noexcept
        : bytes_(std::exchange(other.bytes_, 0)), dies(std::move(other.dies)) {
        other.dies = nullptr;
    }
    Device& operator=(Device&& other) noexcept {
        std::swap(bytes_, other.bytes_);
        std::swap(dies, other.dies);
        return *this;
    }
    ~Device() {
        held -= bytes_;
        if (dies != nullptr)
            dies();
    }

    std::size_t nbytes() const noexcept { return bytes_; }

    static inline std::size_t held = 0;
    static inline std::size_t peak = 0;

private:
    std::size_t bytes_;

public:
    std::function<void()> dies; ///< called at the end, if there is one
};

} // namespace

TEST_CASE("106. what a listener or a destructor evicts is gone before the call returns",
          "[scenario]") {
    REQUIRE(Device::held == 0);
    {
        promptkv::LRUPromptCache<Device> cache({.max_bytes = 1'000});
        // In half of the runs it is the destructor of the first payload that calls the cache.
        const bool from_a_destructor = GENERATE(false, true);
        const int action = GENERATE(0, 1);
        bool called = false;
        std::size_t evicted = 0;
        std::size_t held_when_making = 0;
        const auto call_the_cache = [&] {
            if (std::exchange(called, true))
                return;
            if (action == 0) { // a pool outside of the cache wants 50 bytes
                const std::size_t target = Device::held - 50;
                while (Device::held > target) {
                    const std::size_t freed = cache.evict(Device::held - target);
                    evicted += freed;
                    if (freed == 0)
                        break;
                }
            } else {
                for (std::int32_t i = 0; i < 20; ++i) {
                    cache.insert("m", Tokens{-1, i}, 10, Tier::user, [&] {
                        held_when_making = std::max(held_when_making, Device::held);
                        return Device(10);
                    });
                }
            }
        };
        for (std::int32_t i = 0; i < 100; ++i) {
            Device payload(10);
            if (i == 0 && from_a_destructor)
                payload.dies = call_the_cache;
            cache.insert("m", Tokens{i}, std::move(payload), Tier::user);
        }
        if (!from_a_destructor)
            cache.set_removal_listener([&](auto&) { call_the_cache(); });
        REQUIRE(Device::held == 1'000);
        Device::peak = Device::held;
        cache.trim_to(
            {.max_bytes = 990}); // one goes, and what it calls has 99 others to choose from
        CHECK(called);
        if (action == 0) {
            CHECK(evicted == 50);
            CHECK(cache.size() == 94);
        } else {
            const std::size_t at_the_listener = from_a_destructor ? 0 : 10; // it may still move it
            CHECK(held_when_making <= 990 + at_the_listener);
            CHECK(Device::peak <= 1'000 + at_the_listener);
            CHECK(cache.size() == 100);
        }
        CHECK(cache.check_invariants());
        cache.set_removal_listener({});
    }
    CHECK(Device::held == 0);
}

TEST_CASE("107. the memory of the index is what it says, bounded, and given back", "[scenario]") {
    std::mt19937 random(107);
    constexpr std::size_t count = 1'000;
    std::vector<std::pair<std::string, Tokens>> keys;
    keys.reserve(count);
    const int kind = GENERATE(0, 1, 2, 3, 4);
    const Tokens spine = random_tokens(random, count);
    for (std::size_t i = 0; i < count; ++i) {
        std::string model = "m";
        Tokens key;
        switch (kind) {
        case 0: // ordinary: a shared prompt and a tail of its own
            key = join(first_of(spine, 100), random_tokens(random, 50));
            break;
        case 1: // a comb
            key = join(first_of(spine, i), Tokens{-1});
            break;
        case 2: // random bits
            key = random_tokens(random, 40);
            for (std::int32_t& token : key)
                token %= 2;
            break;
        case 3: // one model an entry
            model += std::to_string(i);
            key = random_tokens(random, 4);
            break;
        default: // all on one path
            key = first_of(spine, i + 1);
            break;
        }
        keys.emplace_back(model, key);
    }
    WholeCache cache;
    std::size_t before = live_bytes;
    for (auto& [model, key] : keys)
        cache.insert(model, key, Whole{key.size()}, Tier::user);
    const std::size_t given_out = live_bytes - before;
    const std::size_t told = cache.index_nbytes();
    CAPTURE(kind, given_out, told);
    REQUIRE(cache.size() == count);
    // Payloads are not the index: a little for each is left to them.
    CHECK(100 * told <= 105 * given_out);
    CHECK(100 * (told + 64 * count) >= 95 * given_out);
    if (kind == 0) // 4.2 bytes a token and 300 an entry
        CHECK(told <= 42 * (100 + 50 * count) / 10 + 300 * count);
    else
        CHECK(told <= 1'000 * count);

    for (std::size_t i = 0; i < count; ++i) { // all but ten
        if (i % (count / 10) != 0)
            CHECK(cache.erase(keys[i].first, keys[i].second));
    }
    CHECK(cache.size() == 10);
    CHECK(cache.index_nbytes() < told / 10 + 4 * count);
    cache.clear();
    CHECK(cache.index_nbytes() < 20'000);
}

TEST_CASE("108. erasing a model tells a listener of one key at a time", "[scenario]") {
    constexpr std::size_t entries = 300;
    constexpr std::size_t shared = 50'000;
    WholeCache cache;
    Tokens key = run(0, shared);
    key.push_back(0);
    for (std::size_t i = 0; i < entries; ++i) {
        key.back() = static_cast<std::int32_t>(i);
        cache.insert("m", key, Whole{key.size()}, Tier::user);
    }
    std::size_t told = 0;
    std::size_t most = 0;
    cache.set_removal_listener([&](const WholeCache::Removal& removal) {
        most = std::max<std::size_t>(most, live_bytes);
        told += removal.tokens.size() == key.size() ? 1U : 0U;
    });
    const std::size_t before = live_bytes;
    SECTION("by model") {
        CHECK(cache.erase_model("m") == entries);
    }
    SECTION("by prefix") {
        CHECK(cache.erase_below("m", first_of(key, 10)) == entries);
    }
    SECTION("all") {
        CHECK(cache.clear() == entries);
    }
    SECTION("evicted") {
        CHECK(evict_all(cache) == entries);
    }
    CHECK(told == entries);
    CHECK(most < before + 3 * shared * sizeof(std::int32_t)); // not 300 keys
}

TEST_CASE("109. leases that end on another thread make no victim go whole", "[scenario]") {
    PlainCache cache({.max_bytes = 20'000});
    const Tokens leased_key = run(1, 500);
    const Tokens victim = run(5'000, 19'000);
    std::atomic<bool> done = false;
    std::mutex mutex;
    std::vector<PlainCache::Lease> handed_over;
    std::thread reader([&] {
        while (!done) {
            std::vector<PlainCache::Lease> ending;
            {
                const std::lock_guard guard(mutex);
                ending.swap(handed_over);
            }
            ending.clear(); // at any moment of what the other thread does
            std::this_thread::yield();
        }
    });
    std::size_t whole = 0;
    std::size_t cut = 0;
    std::size_t refused = 0;
    for (std::int32_t i = 0; i < 1'500; ++i) {
        cache.insert("m", victim, Plain{victim.size()}, Tier::assistant); // grown again
        whole += cache.insert("m", leased_key, Plain{500}, Tier::user).evicted;
        auto lease = cache.lease_nearest("m", join(leased_key, Tokens{-1}));
        {
            const std::lock_guard guard(mutex);
            if (handed_over.size() >= 3) // the reader lags behind
                handed_over.clear();
            handed_over.push_back(std::move(lease));
        }
        cache.erase("m", leased_key); // stays in the account until the reader has ended it
        const Tokens small{-1, i};
        const auto inserted = cache.insert("m", small, 2, Tier::system, [] { return Plain{2}; });
        whole += inserted.evicted;
        cut += inserted.cut;
        refused += inserted.outcome == Outcome::stored ? 0U : 1U;
        cache.erase("m", small);
    }
    done = true;
    reader.join();
    handed_over.clear();
    CHECK(whole == 0);
    CHECK(cut > 0);
    CHECK(refused == 0);
    CHECK(cache.probe("m", victim).reused() > 10'000);
    CHECK(cache.check_invariants());
}

TEST_CASE("110. a handle of the empty key survives moving its trie", "[scenario]") {
    promptkv::PromptTrie<int> trie;
    const auto empty_key = trie.insert_or_assign(Tokens{}, 7).first;
    const auto other = trie.insert_or_assign(Tokens{1, 2}, 8).first;
    promptkv::PromptTrie<int> moved(std::move(trie));
    CHECK(*empty_key == 7);
    CHECK(moved.find(Tokens{}) == empty_key);
    CHECK(moved.key(empty_key).empty());
    CHECK(moved.length(empty_key) == 0);
    CHECK(moved.key(other) == Tokens{1, 2});

    promptkv::PromptTrie<int> assigned;
    assigned.insert_or_assign(Tokens{}, 9);
    assigned = std::move(moved);
    CHECK(*empty_key == 7);
    assigned.erase(empty_key);
    CHECK(assigned.find(Tokens{}) == nullptr);
    CHECK(assigned.size() == 1);
    CHECK(assigned.check_invariants());
}

TEST_CASE("111. fetch, lease and probe agree on alignment, and misses give a true reason",
          "[scenario]") {
    const auto agree = [](auto& cache, const Tokens& prompt, promptkv::FetchOptions options) {
        const std::size_t reused = cache.probe("m", prompt, options).reused();
        CHECK(cache.lease_nearest("m", prompt, options).reused() == reused);
        CHECK(cache.fetch_nearest("m", prompt, options).reused() == reused);
        CHECK(cache.explain("m", prompt, options).reused == reused);
        return reused;
    };
    const Tokens key = run(1, 1'000);
    const Tokens prompt = run(1, 1'001);
    SECTION("a payload that serves its whole key only is used unaligned") {
        promptkv::LRUPromptCache<Recurrent> cache;
        store(cache, Recurrent{"m", key}, Tier::user);
        for (const std::size_t align : {1U, 256U, 1'000U, 4'096U})
            CHECK(agree(cache, prompt, {.align = align}) == 1'000);
    }
    SECTION("a payload that serves every prefix is used down to a multiple") {
        Cache cache;
        store(cache, State{"m", key}, Tier::user);
        CHECK(agree(cache, prompt, {.align = 256}) == 768);
        CHECK(agree(cache, prompt, {.align = 1'000}) == 1'000);
        CHECK(agree(cache, prompt, {.align = 4'096}) == 0);
        CHECK(cache.probe("m", prompt, {.align = 4'096}).miss() != MissReason::none);
    }
    SECTION("checkpoints") {
        promptkv::LRUPromptCache<Checkpointed> cache;
        store(cache, Checkpointed{"m", key, {512}}, Tier::user);
        CHECK(agree(cache, prompt, {.align = 256}) == 512);
        CHECK(agree(cache, prompt, {}) == 1'000);
    }
    SECTION("reasons of short prompts") {
        Cache cache;
        store(cache, State{"m", key}, Tier::user);
        CHECK(cache.probe("m", Tokens{1}).miss() == MissReason::needs_last_token);
        CHECK(cache.probe("m", Tokens{-1}).miss() == MissReason::nothing_shared);
        CHECK(cache.probe("m", Tokens{1, 2}, {.min_remaining = 9}).miss() ==
              MissReason::needs_last_token);
        CHECK(cache.probe("m", Tokens{-1, 2}, {.min_remaining = 9}).miss() ==
              MissReason::nothing_shared);
        CHECK(cache.probe("m", Tokens{}).miss() == MissReason::nothing_shared);
    }
    SECTION("peak_nbytes counts reservations") {
        Cache cache({.max_bytes = 5'000});
        store(cache, State{"m", key}, Tier::user);
        {
            const auto room = cache.reserve("m", run(5'000, 2'000), 2'000, Tier::user);
            CHECK(cache.nbytes() == 3'000);
        }
        CHECK(cache.nbytes() == 1'000);
        CHECK(cache.stats().peak_nbytes == 3'000);
    }
}

namespace {

/// A payload that answers & with nothing of use.
struct Unaddressable {
    std::size_t n_tokens = 0;

    void operator&() const = delete;

    std::size_t nbytes() const noexcept { return n_tokens; }
    std::size_t reusable_prefix(std::size_t n) const noexcept { return std::min(n, n_tokens); }
    Unaddressable clone_prefix(std::size_t n) const noexcept { return Unaddressable{n}; }
    std::optional<Unaddressable> truncate(std::size_t n) noexcept {
        const std::size_t before = std::exchange(n_tokens, n);
        return Unaddressable{before - n};
    }
};

} // namespace

TEST_CASE("114. payloads with an operator& of their own", "[scenario]") {
    promptkv::LRUPromptCache<Unaddressable> cache({.max_bytes = 100});
    std::size_t told = 0;
    cache.set_removal_listener([&](const auto& removal) { told += removal.bytes; });
    cache.insert("m", run(1, 60), Unaddressable{60}, Tier::user);
    cache.insert("m", run(100, 60), Unaddressable{60}, Tier::user);
    CHECK(told == 20);
    CHECK(cache.fetch_nearest("m", run(1, 41)).kv->n_tokens == 40);
    CHECK(cache.lease_nearest("m", run(1, 41)).kv().n_tokens == 40);
    CHECK(cache.take_nearest("m", run(1, 41)).reused() == 40);
    CHECK(cache.mark("m", run(100, 10), Tier::system));
    auto room = cache.reserve("m", run(1, 20), 20, Tier::user);
    CHECK(room.commit(Unaddressable{20}).outcome == Outcome::stored);
    CHECK(cache.clear() == 3);
}

TEST_CASE("114. a payload that calls the cache which is being destroyed leaks nothing",
          "[scenario]") {
    REQUIRE(Device::held == 0);
    const std::size_t before = live_bytes;
    {
        auto cache = std::make_unique<promptkv::LRUPromptCache<Device>>();
        auto* const target = cache.get();
        for (std::int32_t i = 0; i < 10; ++i) {
            Device payload(10);
            payload.dies = [target, i] {
                target->insert("m", Tokens{100 + i}, Device(5), Tier::user);
                (void)target->lease_nearest("m", Tokens{100 + i, 1});
                target->erase("m", Tokens{3});
            };
            cache->insert("m", Tokens{i}, std::move(payload), Tier::user);
        }
    }
    CHECK(Device::held == 0);
    CHECK(live_bytes == before);
}
