// SPDX-License-Identifier: MIT
// Scenarios 76 to 79, 83 and 88 to 100: what is erased, chosen, counted, explained and saved, and
// payloads of unusual kinds.
#include "state.hpp"

#include <promptkv/concurrent_prompt_cache.hpp>

#include <functional>
#include <memory>
#include <optional>
#include <thread>

using namespace scenario;
using promptkv::Match;
using promptkv::MissReason;
using promptkv::Outcome;
using promptkv::RemovalReason;
using promptkv::Tier;

namespace {

using Cache = promptkv::LRUPromptCache<State>;
using BlockCache = promptkv::LRUPromptCache<Blocks>;
using PlainCache = promptkv::LRUPromptCache<Plain>;
using WholeCache = promptkv::LRUPromptCache<Whole>;
using CheckpointedCache = promptkv::LRUPromptCache<Checkpointed>;

template <class Cache>
using PayloadOf = std::decay_t<decltype(std::declval<Cache&>().lease_nearest("m", Tokens()).kv())>;

template <class Cache>
auto put(Cache& cache, const Tokens& key, Tier tier) {
    return cache.insert("m", key, payload_of<PayloadOf<Cache>>(key), tier);
}

/// Calls `test` with a cache of each kind of payload: shared blocks, full attention, whole states.
template <class Options, class Test>
void for_each_kind(const Options& options, Test test) {
    const auto with = [&](auto cache) { test(cache); };
    with(BlockCache(options));
    with(PlainCache(options));
    with(WholeCache(options));
}

} // namespace

TEST_CASE("76. what is erased above a system prompt leaves it", "[scenario]") {
    for_each_kind(PlainCache::Options{}, [](auto& cache) {
        const Tokens system = run(1, 200);
        const Tokens conversation = run(1, 500);
        put(cache, system, Tier::system);
        put(cache, conversation, Tier::assistant);
        CHECK(cache.erase("m", conversation));
        CHECK(cache.probe("m", join(system, Tokens{-1})).reused() == 200);
        CHECK(cache.probe("m", join(system, Tokens{-1})).tier() == Tier::system);

        put(cache, conversation, Tier::assistant);
        const auto taken = cache.take_nearest("m", join(conversation, Tokens{-1}));
        CHECK(taken.reused() == 500);
        CHECK(cache.probe("m", join(system, Tokens{-1})).reused() == 200);
        CHECK(cache.check_invariants());
    });
}

TEST_CASE("77. one-off prompts evict what is above a system prompt, and leave it", "[scenario]") {
    for_each_kind(PlainCache::Options{.max_entries = 4}, [](auto& cache) {
        const Tokens system = run(1, 200);
        put(cache, system, Tier::system);
        put(cache, run(1, 500), Tier::assistant);
        for (std::int32_t i = 1; i <= 4; ++i)
            put(cache, run(10'000 * i, 300), Tier::assistant);
        CHECK(cache.size() == 4);
        CHECK(cache.probe("m", join(system, Tokens{-1})).reused() == 200);
        CHECK(cache.check_invariants());
    });
}

TEST_CASE("78. nothing serves any more what the caller erased", "[scenario]") {
    const Tokens key = run(1, 4'000);
    const Tokens start = first_of(key, 1'000);
    const auto require_gone = [&](const auto& cache) {
        for (const std::size_t n : {1U, 63U, 64U, 999U, 1'000U, 1'001U, 2'816U, 3'999U, 4'000U}) {
            CAPTURE(n);
            const Tokens prompt = first_of(key, n);
            CHECK(cache.probe("m", prompt, {.min_remaining = 0}).reused() == 0);
        }
        CHECK(cache.check_invariants());
    };
    const auto with = [&](auto cache) {
        put(cache, run(-50'000, 500), Tier::assistant);
        put(cache, key, Tier::assistant);
        SECTION("after pressure has cut it") {
            cache.touch("m", run(-50'000, 500));
            cache.trim_to({.max_bytes = 2'500});
            REQUIRE(cache.stats().cut == 1);
            CHECK(cache.erase_below("m", start) == 1);
            require_gone(cache);
        }
        SECTION("of two branches, one of which the caller does not know") {
            put(cache, join(first_of(key, 3'999), run(-100, 50)), Tier::user);
            CHECK(cache.erase_below("m", start) == 2);
            require_gone(cache);
        }
        CHECK(cache.size() == 1);
        CHECK(cache.nbytes() == 500);
    };
    SECTION("full attention") {
        with(PlainCache());
    }
    SECTION("shared blocks") {
        with(BlockCache());
    }
}

TEST_CASE("79. a near branch that serves little hides no farther one that serves more",
          "[scenario]") {
    CheckpointedCache cache;
    const Tokens shared = run(1, 10'000);
    const Tokens near = join(shared, run(-10, 5));
    const Tokens far = join(shared, run(-100, 50));
    store(cache, Checkpointed{"m", near, {64}}, Tier::assistant);
    store(cache, Checkpointed{"m", far, {8'192}}, Tier::assistant);
    const Tokens prompt = join(shared, Tokens{-1'000});
    require_served(cache.fetch_nearest("m", prompt), "m", prompt, 8'192, Match::longer);
    CHECK(cache.probe("m", prompt).entry_tokens() == far.size());
    CHECK(cache.lease_nearest("m", prompt).reused() == 8'192);
}

TEST_CASE("83. adapters and models over one prompt never share", "[scenario]") {
    BlockCache cache;
    const Tokens prompt = run(1, 1'000);
    const std::vector<std::string> names{"base", "base+a", "base+b", "other"};
    std::size_t expected = 0;
    for (const auto& model : names) {
        CHECK(cache.probe(model, prompt).reused() == 0);
        CHECK(cache.explain(model, prompt).reason ==
              (expected == 0 ? MissReason::nothing_shared : MissReason::other_model));
        cache.insert(model, prompt, blocks_of(prompt, 64), Tier::user);
        CHECK(cache.nbytes() == (expected += 1'000)); // no block is shared
        CHECK(cache.nbytes(model) == 1'000);
    }
    CHECK(cache.stats().bytes_referenced == cache.nbytes());
    for (const auto& model : names) {
        CHECK(cache.erase_model(model) == 1);
        CHECK(cache.nbytes() == (expected -= 1'000));
        CHECK(cache.probe(model, prompt).reused() == 0);
    }
}

TEST_CASE("88. the memory of the index follows what is stored", "[scenario]") {
    PlainCache cache({.max_entries = 8});
    Tokens key(20'300, 7);
    std::size_t most = 0;
    for (std::int32_t i = 0; i < 1'000; ++i) {
        for (std::size_t place = 0; place < key.size(); place += 700)
            key[place] = i; // most of it is like all others; no two have a common prefix
        const std::span<const std::int32_t> tokens = key;
        cache.insert("m", tokens.first(20'000), Plain{20'000}, Tier::system);
        cache.insert("m", tokens, Plain{20'300}, Tier::user);
        most = std::max(most, cache.index_nbytes());
    }
    CHECK(cache.size() == 8);
    CHECK(most < 8 * key.size() * sizeof(std::int32_t) + 100'000);
    cache.clear();
    CHECK(cache.index_nbytes() < 100'000);
}

TEST_CASE("89. hits of a BOS token are counted apart, and a threshold makes them misses",
          "[scenario]") {
    const auto serve_100 = [](promptkv::FetchOptions options) {
        PlainCache cache;
        for (std::int32_t i = 1; i <= 100; ++i) {
            const Tokens prompt = join(Tokens{0}, run(1'000 * i, 50));
            (void)cache.lease_nearest("m", prompt, options);
            put(cache, prompt, Tier::user);
        }
        return cache.stats();
    };
    const auto all = serve_100({});
    CHECK(all.hits_longer == 99);
    CHECK(all.hits_tiny == 99);
    CHECK(all.tokens_reused == 99);
    const auto worth_it = serve_100({.min_reuse = 16});
    CHECK(worth_it.hits_longer == 0);
    CHECK(worth_it.hits_tiny == 0);
    CHECK(worth_it.missed_below_min_reuse == 99);
    CHECK(worth_it.missed_nothing_shared == 1);
}

TEST_CASE("90. a request that is probed 50 times before it is scheduled counts once",
          "[scenario]") {
    PlainCache cache;
    put(cache, run(1, 100), Tier::user);
    put(cache, run(1'000, 100), Tier::user);
    const auto values = [&] {
        std::vector<std::uint64_t> counters;
        promptkv::for_each_counter(cache.stats(),
                                   [&](auto, auto value) { counters.push_back(value); });
        promptkv::for_each_counter(cache.stats(Tier::user),
                                   [&](auto, auto value) { counters.push_back(value); });
        return counters;
    };
    const auto before = values();
    const Tokens prompt = run(1, 120);
    for (int i = 0; i < 50; ++i) {
        const auto found = cache.probe("m", prompt);
        CHECK(found.reused() == 100);
        CHECK(found.request() == 0);
        (void)cache.explain("m", prompt);
    }
    CHECK(values() == before);
    CHECK(cache.lease_nearest("m", prompt).request() != 0);
    CHECK(cache.stats().lookups == 1);
    CHECK(cache.stats().hits_shorter == 1);
}

TEST_CASE("91. hits are counted by tier, and a use survives being absorbed", "[scenario]") {
    PlainCache cache;
    put(cache, run(1'000, 60), Tier::system);
    Tokens chat = run(1, 50);
    put(cache, chat, Tier::assistant);
    for (int turn = 0; turn < 4; ++turn) {
        const std::size_t stored = chat.size();
        chat = join(chat, run(100 * (turn + 1), 20));
        CHECK(cache.lease_nearest("m", chat).reused() == stored);
        CHECK(put(cache, chat, Tier::assistant).absorbed == 1);
    }
    (void)cache.lease_nearest("m", run(1'000, 61));
    CHECK(cache.stats(Tier::assistant).hits == 4);
    CHECK(cache.stats(Tier::assistant).tokens_reused == 50 + 70 + 90 + 110);
    CHECK(cache.stats(Tier::system).hits == 1);
    CHECK(cache.stats(Tier::system).tokens_reused == 60);
    CHECK(cache.stats(Tier::user).hits == 0);

    put(cache, run(5'000, 10), Tier::user); // one that nobody asks for
    CHECK(evict_all(cache) == 3);
    CHECK(cache.stats().evicted == 3);
    CHECK(cache.stats().evicted_unused == 1);
}

TEST_CASE("92. a whole key that only min_remaining withholds says so", "[scenario]") {
    WholeCache cache;
    const Tokens key = run(1, 100);
    put(cache, key, Tier::user);
    CHECK(cache.probe("m", key).miss() == MissReason::needs_last_token);
    CHECK(cache.lease_nearest("m", key).miss() == MissReason::needs_last_token);
    CHECK(cache.explain("m", key).reason == MissReason::needs_last_token);
    CHECK(cache.stats().missed_needs_last_token == 1);
    CHECK(cache.probe("m", key, {.min_remaining = 0}).reused() == 100);
    CHECK(cache.probe("m", run(1, 101)).reused() == 100);
    CHECK(cache.probe("m", run(1, 99)).miss() == MissReason::not_cuttable);
    CHECK(cache.probe("m", key).matched() == 100);
}

namespace {

/// The keys in the order in which they are evicted, one by one.
template <class Cache>
std::vector<Tokens> order_of_eviction(Cache& cache) {
    std::vector<Tokens> order;
    cache.set_removal_listener([&](const auto& removal) {
        order.emplace_back(removal.tokens.begin(), removal.tokens.end());
    });
    while (!cache.empty())
        cache.trim_to({.max_entries = cache.size() - 1});
    cache.set_removal_listener({});
    return order;
}

} // namespace

TEST_CASE("93. a cache filled from for_each evicts in the same order and protects as much",
          "[scenario]") {
    // In another process the payloads are others, with blocks of their own.
    const auto saved_and_loaded = [](auto& old) {
        std::decay_t<decltype(old)> loaded;
        old.for_each([&](const auto& entry) {
            const Tokens key(entry.tokens.begin(), entry.tokens.end());
            const auto inserted = loaded.insert(
                entry.model, key, payload_of<std::decay_t<decltype(entry.kv)>>(key), entry.tier);
            CHECK(inserted.outcome == Outcome::stored);
            CHECK(inserted.absorbed == 0);
        });
        CHECK(loaded.size() == old.size());
        CHECK(loaded.nbytes() == old.nbytes());
        CHECK(loaded.stats().bytes_referenced == old.stats().bytes_referenced);
        for (const auto tier : {Tier::assistant, Tier::user, Tier::system})
            CHECK(loaded.stats(tier).entries == old.stats(tier).entries);
        CHECK(loaded.check_invariants());
        return loaded;
    };
    for_each_kind(PlainCache::Options{}, [&](auto& cache) {
        const Tokens system = run(1, 300);
        put(cache, system, Tier::system);
        put(cache, run(50'000, 100), Tier::system);
        for (std::int32_t chat = 1; chat <= 5; ++chat) {
            const Tokens turn = join(system, run(1'000 * chat, 100));
            put(cache, turn, Tier::user);
            put(cache, join(turn, run(1'000 * chat + 500, 80)), Tier::assistant);
        }
        // Some of them are used again, in another order.
        (void)cache.lease_nearest("m", join(system, run(3'000, 101)));
        (void)cache.lease_nearest("m", run(50'000, 101));
        put(cache, run(90'000, 30), Tier::assistant);
        (void)cache.lease_nearest("m", join(join(system, run(1'000, 100)), run(1'500, 81)));

        auto loaded = saved_and_loaded(cache);
        auto loaded_again = saved_and_loaded(loaded);
        const auto expected = order_of_eviction(cache);
        CHECK(expected.size() == 13);
        CHECK(order_of_eviction(loaded) == expected);
        CHECK(order_of_eviction(loaded_again) == expected);
    });
}

namespace {

/// Counts its copies.
struct Counted {
    std::size_t n_tokens = 0;

    static inline std::atomic<int> copies = 0;

    explicit Counted(std::size_t n) : n_tokens(n) {}
    Counted(const Counted& other) : n_tokens(other.n_tokens) { ++copies; }
    Counted& operator=(const Counted&) = delete;
    Counted(Counted&&) noexcept = default;
    Counted& operator=(Counted&&) noexcept = default;
    ~Counted() = default;

    std::size_t nbytes() const noexcept { return n_tokens; }
};

} // namespace

TEST_CASE("94. a snapshot copies pointers, and changes neither counters nor recency",
          "[scenario]") {
    promptkv::ConcurrentPromptCache<Counted> cache;
    for (std::int32_t i = 1; i <= 20; ++i) {
        const Tokens key = run(1'000 * i, 50);
        cache.insert("m", key, Counted(50), static_cast<Tier>(i % 3));
    }
    const auto counters = [&] {
        std::vector<std::uint64_t> values;
        promptkv::for_each_counter(cache.stats(), [&](std::string_view name, auto value) {
            if (name != "bytes_leased")
                values.push_back(value);
        });
        return values;
    };
    const auto order = [&] {
        std::vector<std::int32_t> first_tokens;
        cache.for_each([&](const auto& entry) { first_tokens.push_back(entry.tokens[0]); });
        return first_tokens;
    };
    const auto counters_before = counters();
    const auto order_before = order();
    Counted::copies = 0;
    {
        auto entries = cache.snapshot();
        CHECK(Counted::copies == 0);
        CHECK(counters() == counters_before);
        REQUIRE(entries.size() == 20);
        CHECK(cache.stats().bytes_leased == 20 * 50);
        std::vector<std::int32_t> first_tokens;
        for (const auto& entry : entries) {
            first_tokens.push_back(entry.tokens.at(0));
            CHECK(entry.model == "m");
            CHECK(entry.tokens.size() == 50);
            CHECK(entry.lease.kv().n_tokens == 50);
        }
        CHECK(first_tokens == order_before); // the order in which for_each visits
        CHECK(evict_all(cache) == 0);

        // Others are served while it is written.
        bool served = false;
        std::thread([&] {
            served = cache.lease_nearest("m", run(3'000, 51)).reused() == 50;
        }).join();
        CHECK(served);
        CHECK(cache.stats().lookups == 1);
        CHECK(Counted::copies == 0);
    }
    CHECK(cache.stats().bytes_leased == 0);
    CHECK(evict_all(cache) == 20); // nothing stays pinned
    CHECK(cache.check_invariants());
}

TEST_CASE("94. entries that a snapshot held are evicted in the order that they had", "[scenario]") {
    promptkv::ConcurrentPromptCache<Counted> cache({.max_entries = 5});
    for (std::int32_t i = 1; i <= 5; ++i)
        cache.insert("m", run(1'000 * i, 50), Counted(50), Tier::user);
    (void)cache.snapshot();
    cache.insert("m", run(9'000, 50), Counted(50), Tier::user);
    CHECK_FALSE(holds(cache, "m", run(1'000, 50)));
    CHECK(holds(cache, "m", run(2'000, 50)));
}

namespace {

/// State whose draft model lags 100 tokens behind: the last 100 tokens of its key cannot be used.
struct Lagging {
    std::string model;
    Tokens tokens;

    std::size_t nbytes() const noexcept { return tokens.size(); }
    std::size_t reusable_prefix(std::size_t n) const noexcept {
        return std::min(n, tokens.size() - std::min<std::size_t>(tokens.size(), 100));
    }
    Lagging clone_prefix(std::size_t n) const { return Lagging{model, first_of(tokens, n)}; }
};

} // namespace

TEST_CASE("95. a payload that serves less than its key is reused as far as it serves",
          "[scenario]") {
    promptkv::LRUPromptCache<Lagging> cache;
    const Tokens key = run(1, 500);
    store(cache, Lagging{"m", key}, Tier::user);

    require_served(cache.fetch_nearest("m", key, {.min_remaining = 0}), "m", key, 400,
                   Match::exact);
    require_served(cache.fetch_nearest("m", key), "m", key, 400, Match::exact);
    const Tokens beyond = join(key, run(900, 50));
    require_served(cache.fetch_nearest("m", beyond), "m", beyond, 400, Match::shorter);
    const Tokens branch = join(first_of(key, 450), run(900, 50));
    require_served(cache.fetch_nearest("m", branch), "m", branch, 400, Match::longer);
    const Tokens early = join(first_of(key, 300), run(900, 50));
    require_served(cache.fetch_nearest("m", early), "m", early, 300, Match::longer);
    for (const Tokens& prompt : {key, beyond, branch}) {
        CHECK(cache.probe("m", prompt).reused() == 400);
        CHECK(cache.lease_nearest("m", prompt).reused() == 400);
    }

    // A key that it does not serve is not present, and an entry that it does not serve stays.
    CHECK(store(cache, Lagging{"m", first_of(key, 450)}, Tier::user).outcome == Outcome::stored);
    CHECK(cache.size() == 2);
    CHECK(store(cache, Lagging{"m", run(1, 540)}, Tier::user).absorbed == 0);
}

TEST_CASE("96. equal placeholders of unequal images share nothing beyond the image's start",
          "[scenario]") {
    constexpr std::int32_t placeholder = 151'655;
    const Tokens text = run(1, 40);
    SECTION("with a digest of the image in the place of its first placeholders") {
        Cache cache;
        const auto prompt_with = [&](std::int32_t digest) {
            Tokens image(256, placeholder);
            image[0] = digest;
            image[1] = ~digest;
            return join(join(text, image), run(500, 20));
        };
        const Tokens cat = prompt_with(0x0CA7);
        const Tokens dog = prompt_with(0x0D06);
        store(cache, State{"m", cat}, Tier::user);
        require_served(cache.fetch_nearest("m", dog), "m", dog, text.size(), Match::longer);
        const Tokens again = join(cat, Tokens{-1});
        require_served(cache.fetch_nearest("m", again), "m", again, cat.size(), Match::shorter);
    }
    SECTION("with the digest in the model nothing is shared at all") {
        Cache cache;
        const Tokens prompt = join(text, Tokens(256, placeholder));
        store(cache, State{"vlm/0ca7", prompt}, Tier::user);
        require_miss(cache.fetch_nearest("vlm/0d06", prompt), prompt);
        CHECK(cache.probe("vlm/0ca7", join(prompt, Tokens{1})).reused() == prompt.size());
    }
    SECTION("fewer tokens than reused() may be used: the middle of an image is no place to cut") {
        Cache cache;
        const Tokens prompt = join(text, Tokens(256, placeholder));
        store(cache, State{"m", prompt}, Tier::user);
        const Tokens branch = join(first_of(prompt, 100), run(900, 5));
        const auto lease = cache.lease_nearest("m", branch);
        REQUIRE(lease.reused() == 100);
        CHECK(first_of(lease.kv().tokens, text.size()) == text);
    }
}

namespace {

/// Full attention that hands out the tail which a cut took off, and reports the end of a tail.
struct Tailed {
    std::size_t n_tokens = 0;
    bool is_tail = false;

    static inline std::function<void()> tail_dies;

    explicit Tailed(std::size_t n, bool tail = false) : n_tokens(n), is_tail(tail) {}
    Tailed(Tailed&& other) noexcept
        : n_tokens(std::exchange(other.n_tokens, 0)), is_tail(std::exchange(other.is_tail, false)) {
    }
    Tailed& operator=(Tailed&& other) noexcept {
        std::swap(n_tokens, other.n_tokens);
        std::swap(is_tail, other.is_tail);
        return *this;
    }
    ~Tailed() {
        if (is_tail && n_tokens > 0 && tail_dies)
            tail_dies();
    }

    std::size_t nbytes() const noexcept { return n_tokens; }
    std::size_t reusable_prefix(std::size_t n) const noexcept { return std::min(n, n_tokens); }
    std::optional<Tailed> truncate(std::size_t n) noexcept {
        const std::size_t before = std::exchange(n_tokens, n);
        return Tailed(before - n, true);
    }
};

} // namespace

TEST_CASE("97. what a cut takes off is destroyed outside of the lock", "[scenario]") {
    // Another thread looks up while the tail is being destroyed: were the lock held meanwhile, this
    // would hang.
    promptkv::ConcurrentPromptCache<Tailed> cache({.max_bytes = 1'000});
    int tails = 0;
    std::size_t reused = 0;
    Tailed::tail_dies = [&] {
        ++tails;
        std::thread([&] { reused = cache.lease_nearest("m", run(1, 300)).reused(); }).join();
    };
    cache.insert("m", run(1, 1'000), Tailed(1'000), Tier::assistant);
    SECTION("to make room") {
        CHECK(cache.insert("m", run(5'000, 600), Tailed(600), Tier::assistant).cut == 1);
    }
    SECTION("on demand") {
        CHECK(cache.evict(600) == 600);
    }
    SECTION("by a limit") {
        cache.set_limits({.max_bytes = 400});
        CHECK(cache.nbytes() == 400);
    }
    Tailed::tail_dies = nullptr;
    CHECK(tails == 1);
    CHECK(reused == 299);
    CHECK(cache.stats().cut == 1);
    CHECK(cache.probe("m", run(1, 500)).reused() == 400);
}

TEST_CASE("98. a plain lambda is a listener, and nothing at all takes it away", "[scenario]") {
    WholeCache cache;
    static int calls = 0;
    calls = 0;
    cache.set_removal_listener([](WholeCache::Removal&) { ++calls; });
    put(cache, run(1, 5), Tier::user);
    cache.clear();
    CHECK(calls == 1);
    cache.set_removal_listener([](const WholeCache::Removal& removal) {
        calls += removal.reason == RemovalReason::erased ? 10 : 100;
    });
    put(cache, run(1, 5), Tier::user);
    cache.erase("m", run(1, 5));
    CHECK(calls == 11);
    cache.set_removal_listener(nullptr);
    put(cache, run(1, 5), Tier::user);
    cache.clear();
    CHECK(calls == 11);
    promptkv::ConcurrentPromptCache<Whole> concurrent;
    concurrent.set_removal_listener([](WholeCache::Removal&) { ++calls; });
    concurrent.insert("m", run(1, 5), Whole{5}, Tier::user);
    concurrent.clear();
    CHECK(calls == 12);
}

namespace {

enum class Level : std::uint8_t { low, high };

} // namespace

template <>
struct promptkv::tier_traits<Level> {
    static constexpr std::size_t count = 2;
};

TEST_CASE("99. a tier outside the enum is a broken precondition that corrupts nothing",
          "[scenario]") {
    // Models that do not own their text are refused at compile time: see tests/compile_fail.
    promptkv::LRUPromptCache<Whole, std::string, std::int32_t, Level> cache;
    counts_broken = true;
    broken_preconditions = 0;
    for (int value : {2, 3, 77, 255}) {
        const auto outside = static_cast<Level>(value);
        const Tokens key = run(100 * value, 10);
        cache.insert("m", key, Whole{10}, outside);
        cache.insert("m", run(100 * value, 5), Whole{5}, Level::low);
        cache.insert("m", run(100 * value, 5), Whole{5}, outside);
        cache.mark("m", key, outside);
        (void)cache.stats(outside);
        (void)cache.lease_nearest("m", run(100 * value, 11));
    }
    CHECK(broken_preconditions > 0);
    counts_broken = false;
    CHECK(cache.check_invariants());
    CHECK(cache.size() == 8);
    CHECK(cache.stats(Level::low).entries + cache.stats(Level::high).entries == 8);
    CHECK(evict_all(cache) == 8);
    CHECK(cache.check_invariants());
}

TEST_CASE("100. a system state that a payload of checkpoints does not serve survives it",
          "[scenario]") {
    CheckpointedCache cache;
    const Tokens conversation = run(1, 2'000);
    const Tokens system = first_of(conversation, 700);
    const auto tier = GENERATE(Tier::assistant, Tier::user, Tier::system);
    store(cache, Checkpointed{"m", system, {512}}, Tier::system);
    const Tokens served = first_of(conversation, 1'024);
    store(cache, Checkpointed{"m", served, {512}}, Tier::assistant);

    const auto inserted = cache.insert("m", conversation, conversation.size(), tier, [&] {
        return Checkpointed{"m", conversation, {512, 1'024, 1'536}};
    });
    CHECK(inserted.outcome == Outcome::stored);
    CHECK(inserted.absorbed == 1); // that at 1,024
    const Tokens prompt = join(system, Tokens{-1});
    require_served(cache.fetch_nearest("m", prompt), "m", prompt, 700, Match::shorter);
    CHECK(cache.probe("m", prompt).tier() == Tier::system);
    CHECK(cache.size() == 2);
}
