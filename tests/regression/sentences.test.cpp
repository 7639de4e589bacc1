// SPDX-License-Identifier: MIT
// Sentences of the contract that did not hold: each test was one that failed.
#include <promptkv/concurrent_prompt_cache.hpp>
#include <promptkv/detail/run.hpp>
#include <promptkv/promptkv.hpp>
#include <promptkv/reuse_order.hpp>

#include "catch.hpp"
#include "leaving.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace {

using promptkv::LRUPromptCache;
using promptkv::Outcome;
using promptkv::PromptCache;
using promptkv::Tier;
using promptkv_test::Watched;
using Key = std::vector<std::int32_t>;

/// Of 16 tokens: a byte a token.
struct Block {
    [[nodiscard]] std::size_t nbytes() const { return 16; }
};
using KV = promptkv::BlockKV<Block>;

Key sequence(std::int32_t first, std::size_t n) {
    Key key(n);
    std::iota(key.begin(), key.end(), first);
    return key;
}
KV state(std::size_t n) {
    KV kv(16);
    while (kv.length() < n)
        kv.append(Block{}, std::min<std::size_t>(16, n - kv.length()));
    return kv;
}

TEST_CASE("An erase of what was asked for voids a reservation for a part of it") {
    const Key key = sequence(0, 800);
    const int how = GENERATE(0, 1, 2);
    CAPTURE(how);
    const auto erase = [&](auto& cache) {
        if (how == 0)
            cache.erase("m", key);
        else if (how == 1)
            cache.erase_below("m", key);
        else
            cache.erase_below("m", Key(sequence(0, 700)));
    };
    SECTION("where there is no room for more") {
        LRUPromptCache<KV> cache({.max_bytes = 1024});
        cache.insert("m", sequence(5000, 512), state(512), Tier::user);
        auto lease = cache.lease_nearest("m", sequence(5000, 513));
        SECTION("in two steps") {
            auto room = cache.reserve("m", key, 800, Tier::user);
            REQUIRE(room.tokens() == 512);
            erase(cache);
            CHECK(room.commit(state(512)).outcome == Outcome::cancelled);
        }
        SECTION("in one") {
            const auto made = [&] {
                lease.end();
                erase(cache);
                return state(800);
            };
            CHECK(cache.insert("m", key, 800, Tier::user, made).outcome == Outcome::cancelled);
        }
        CHECK(cache.probe("m", sequence(0, 801)).reused() == 0);
    }
    SECTION("where the policy wants no more") {
        PromptCache<KV> cache({.max_bytes = 1200});
        cache.insert("m", sequence(5000, 800), state(800), Tier::system);
        auto room = cache.reserve("m", key, 800, Tier::assistant);
        REQUIRE(room.tokens() < 800);
        erase(cache);
        CHECK(room.commit(state(room.tokens())).outcome == Outcome::cancelled);
    }
}

/// Shared blocks, and a table of 100 bytes of its own.
struct Headed : KV {
    explicit Headed(KV kv) : KV(std::move(kv)) {}
    [[nodiscard]] std::size_t nbytes() const noexcept { return KV::nbytes() + 100; }
    [[nodiscard]] Headed clone_prefix(std::size_t n) const { return Headed(KV::clone_prefix(n)); }
    std::optional<Headed> truncate(std::size_t n) { return headed(KV::truncate(n)); }
    std::optional<Headed> adopt_blocks(std::size_t n, const Headed& from) {
        return headed(KV::adopt_blocks(n, from));
    }

private:
    static std::optional<Headed> headed(std::optional<KV> kv) {
        return kv ? std::optional<Headed>(std::move(*kv)) : std::nullopt;
    }
};

TEST_CASE("A reservation holds what the payload has beside its blocks") {
    const bool leased = GENERATE(false, true);
    LRUPromptCache<Headed> cache({.max_bytes = leased ? 1100U : 1000U});
    cache.insert("m", sequence(0, 800), Headed(state(800)), Tier::user);
    auto lease = cache.lease_nearest("m", sequence(0, 801));
    if (!leased)
        lease.end();
    auto room = cache.reserve("m", sequence(0, 896), 996, Tier::user);
    REQUIRE(room.tokens() == 896);
    CHECK(cache.stats().bytes_reserved == 196);
    CHECK(cache.nbytes() <= cache.limits().max_bytes);
    Headed kv = room.prefix().value();
    while (kv.length() < 896)
        kv.append(Block{}, 16);
    const auto stored = room.commit(std::move(kv));
    CHECK(stored.outcome == Outcome::stored);
    CHECK(stored.tokens == 896);
    CHECK(cache.check_invariants());
}

/// Blocks, and bytes of its own for each token.
struct Noted : promptkv::BlockKV<Block> {
    using Blocks = promptkv::BlockKV<Block>;
    explicit Noted(Blocks kv) : Blocks(std::move(kv)) {}
    [[nodiscard]] std::size_t nbytes() const noexcept { return Blocks::nbytes() + 10 * length(); }
    [[nodiscard]] Noted clone_prefix(std::size_t n) const { return Noted(Blocks::clone_prefix(n)); }
    void truncate(std::size_t n) noexcept { Blocks::truncate(n); }
    void adopt_blocks(std::size_t n, const Noted& other) noexcept {
        Blocks::adopt_blocks(n, other);
    }
};

TEST_CASE("A part of blocks and bytes beside them counts what it has") {
    LRUPromptCache<Noted> cache({.max_bytes = 1900});
    cache.insert("m", sequence(0, 16), Noted(state(16)), Tier::user);
    const auto lease = cache.lease_nearest("m", sequence(0, 17));
    const auto stored = cache.insert("m", sequence(1000, 160), Noted(state(160)), Tier::user);
    CHECK(stored.outcome == Outcome::stored);
    CHECK(stored.tokens < 160);
    std::size_t sum = 0;
    cache.for_each([&](const auto& entry) { sum += entry.kv.nbytes(); });
    CHECK(cache.stats().bytes_referenced == sum);
    CHECK(cache.nbytes() == sum);
    CHECK(cache.check_invariants());
}

TEST_CASE("evict says what a cut freed beside the blocks, too") {
    LRUPromptCache<Noted> cache;
    cache.insert("m", sequence(0, 160), Noted(state(160)), Tier::user);
    const std::size_t before = cache.nbytes();
    const std::size_t could = cache.evictable_nbytes();
    const bool all = GENERATE(false, true);
    if (all) // the first victim is cut to what a longer match used, then it is dropped
        static_cast<void>(cache.lease_nearest("m", sequence(0, 16)));
    const std::size_t freed = cache.evict(all ? could : 16);
    CHECK(freed == before - cache.nbytes());
    CHECK(freed == (all ? could : 176));
    CHECK(cache.check_invariants());
}

TEST_CASE("Tokens of 64 bits are where their type wants them") {
    using promptkv::detail::Run;
    CHECK(alignof(Run<std::uint64_t>) == alignof(std::uint64_t));
    CHECK(sizeof(Run<std::uint64_t>) % alignof(std::uint64_t) == 0);
    CHECK(alignof(Run<std::uint8_t>) == alignof(std::uint32_t));
}

TEST_CASE("What left and waits to be reported is forgotten by an erase") {
    LRUPromptCache<KV> cache({.max_bytes = 64, .remembered_tokens = 10'000});
    const bool all = GENERATE(false, true);
    for (std::int32_t i = 1; i <= 4; ++i)
        cache.insert("m", sequence(1000 * i, 16), state(16), Tier::user);
    bool first = true;
    cache.set_removal_listener([&](auto&) {
        if (!std::exchange(first, false))
            return;
        if (all)
            cache.clear();
        else
            cache.erase_model("m");
    });
    cache.trim_to({.max_bytes = 0}); // all four leave
    for (std::int32_t i = 1; i <= 4; ++i)
        CHECK(cache.probe("m", sequence(1000 * i, 17)).matched() == 0);
}

/// Bytes a token, in one buffer.
struct Flat {
    std::vector<std::uint8_t> bytes;
    static inline int destroyed_under_lock = 0;

    explicit Flat(std::size_t n) : bytes(n) {}
    Flat(const Flat&) = default;
    Flat(Flat&&) noexcept = default;
    Flat& operator=(const Flat&) = default;
    Flat& operator=(Flat&&) noexcept = default;
    ~Flat() { destroyed_under_lock += Watched::is_held && !bytes.empty() ? 1 : 0; }
    [[nodiscard]] std::size_t nbytes() const { return bytes.size(); }
    [[nodiscard]] std::size_t length() const { return bytes.size(); }
    [[nodiscard]] std::size_t reusable_prefix(std::size_t n) const { return n; }
    [[nodiscard]] Flat clone_prefix(std::size_t n) const { return Flat(n); }
    std::optional<Flat> truncate(std::size_t n) {
        Flat tail(bytes.size() - n);
        bytes.resize(n);
        return tail;
    }
};

TEST_CASE("What is cut twice is not destroyed under the lock") {
    promptkv::BasicPromptCache<Flat, std::string, std::int32_t, Tier, promptkv::ReuseOrder, Watched>
        cache({.max_bytes = 100});
    cache.insert("m", sequence(5000, 80), Flat(80), Tier::system);
    Flat::destroyed_under_lock = 0;
    // Half of the budget would get 50 tokens; the policy wants fewer.
    const auto stored = cache.insert("m", sequence(0, 200), Flat(200), Tier::assistant);
    REQUIRE(stored.outcome == Outcome::stored);
    REQUIRE(stored.tokens < 50);
    CHECK(Flat::destroyed_under_lock == 0);
}

TEST_CASE("A declined insert is no turn of its session") {
    PromptCache<KV> cache({.max_bytes = 128});
    cache.insert("m", sequence(1000, 64), state(64), Tier::assistant, {.session = 7});
    cache.insert("m", sequence(3000, 64), state(64), Tier::system);
    auto lease = cache.lease_nearest("m", sequence(1000, 65));
    REQUIRE(
        cache.insert("m", sequence(5000, 64), state(64), Tier::assistant, {.session = 7}).outcome ==
        Outcome::declined);
    CHECK(cache.stats().demoted == 0);
    lease.end();
    cache.set_limits({.max_bytes = 1000});
    cache.insert("m", sequence(7000, 64), state(64), Tier::assistant, {.session = 7});
    CHECK(cache.stats().demoted == 1); // the entry before the declined one
    CHECK(cache.check_invariants());
}

TEST_CASE("An insert says what left, whatever its outcome") {
    SECTION("present, in a higher tier") {
        LRUPromptCache<KV> cache;
        cache.insert("m", sequence(0, 32), state(32), Tier::user);
        cache.insert("m", sequence(0, 64), state(64), Tier::assistant);
        REQUIRE(cache.size() == 2);
        const bool makes = GENERATE(false, true);
        const auto answer =
            makes ? cache.insert("m", sequence(0, 64), 64, Tier::user, [] { return state(64); })
                  : cache.insert("m", sequence(0, 64), state(64), Tier::user);
        CHECK(cache.size() == 1);
        CHECK(answer.absorbed == 1);
    }
    SECTION("declined") {
        std::uint64_t declined_after_evictions = 0;
        for (std::uint32_t seed = 0; seed < 50; ++seed) {
            PromptCache<KV> cache({.max_bytes = 128});
            std::uint32_t random = seed;
            const auto next = [&](std::uint32_t n) {
                random = random * 1664525U + 1013904223U;
                return (random >> 16U) % n;
            };
            for (int i = 0; i < 200; ++i) {
                Key key = sequence(static_cast<std::int32_t>(1000 * next(18)), 1 + next(40));
                if (next(2) == 0) {
                    static_cast<void>(cache.lease_nearest("m", key));
                    continue;
                }
                const promptkv::Stats before = cache.stats();
                const auto answer =
                    cache.insert("m", key, (key.size() + 15) / 16 * 16, static_cast<Tier>(next(3)),
                                 [&] { return state(key.size()); });
                REQUIRE(answer.evicted == cache.stats().evicted - before.evicted);
                REQUIRE(answer.cut == cache.stats().cut - before.cut);
                declined_after_evictions +=
                    answer.outcome == Outcome::declined && answer.evicted > 0 ? 1U : 0U;
            }
        }
        CHECK(declined_after_evictions > 0);
    }
}

/// Serves multiples of 64 tokens.
struct Stepped : KV {
    explicit Stepped(KV kv) : KV(std::move(kv)) {}
    [[nodiscard]] std::size_t reusable_prefix(std::size_t n) const noexcept {
        return n >= length() ? length() : n / 64 * 64;
    }
    [[nodiscard]] Stepped clone_prefix(std::size_t n) const { return Stepped(KV::clone_prefix(n)); }
    std::optional<Stepped> truncate(std::size_t n) {
        auto tail = KV::truncate(n);
        return tail ? std::optional<Stepped>(std::move(*tail)) : std::nullopt;
    }
};

TEST_CASE("A cut leaves what the payload serves") {
    LRUPromptCache<Stepped> cache({.max_bytes = 208});
    cache.insert("m", sequence(0, 192), Stepped(state(192)), Tier::user);
    cache.insert("m", sequence(1000, 112), Stepped(state(112)), Tier::user); // 96 bytes must go
    CHECK(cache.stats().cut == 1);
    CHECK(cache.held_tokens("m", sequence(0, 192)) == 64);
    CHECK(cache.probe("m", sequence(0, 192)).reused() == 64);
}

/// Serves a checkpoint, and its whole key.
struct Checkpointed {
    std::size_t checkpoint;
    std::size_t tokens;

    [[nodiscard]] std::size_t nbytes() const { return tokens; }
    [[nodiscard]] std::size_t length() const { return tokens; }
    [[nodiscard]] std::size_t reusable_prefix(std::size_t n) const {
        return n >= tokens ? tokens : n >= checkpoint ? checkpoint : 0;
    }
    [[nodiscard]] Checkpointed clone_prefix(std::size_t n) const { return {0, n}; }
};

TEST_CASE("Each of sixteen longer entries is asked, however deep the prompt matches") {
    LRUPromptCache<Checkpointed> cache;
    const Key prompt = sequence(0, 100);
    const auto branch_off = [&](std::size_t at, std::int32_t number, std::size_t checkpoint,
                                std::size_t n) {
        Key key(prompt.begin(), prompt.begin() + static_cast<std::ptrdiff_t>(at));
        const Key more = sequence(1000 * number, n);
        key.insert(key.end(), more.begin(), more.end());
        cache.insert("m", key, Checkpointed{checkpoint, key.size()}, Tier::user);
    };
    for (std::int32_t i = 1; i <= 8; ++i)
        branch_off(100, i, 105, 20);
    for (std::int32_t i = 4; i <= 9; ++i)
        branch_off(10 * static_cast<std::size_t>(i), 10 + i, 10 * static_cast<std::size_t>(i) + 5,
                   300);
    branch_off(10, 20, 10, 500);
    Key asked = prompt;
    asked.push_back(-1);
    CHECK(cache.probe("m", asked).reused() == 10);
}

TEST_CASE("A payload of one token that cannot be cut is served whatever the alignment") {
    using Hybrid = promptkv::BlockKV<Block, Block>;
    LRUPromptCache<Hybrid> cache;
    Hybrid kv(16);
    kv.append(Block{}, 1);
    kv.set_state(Block{});
    cache.insert("m", sequence(1, 1), std::move(kv), Tier::user);
    CHECK(cache.probe("m", sequence(1, 3), {.align = 4}).reused() == 1);
    CHECK(cache.lease_nearest("m", sequence(1, 3), {.align = 4}).reused() == 1);
}

TEST_CASE("A refused reservation counts once") {
    LRUPromptCache<KV> cache({.max_bytes = 10, .max_entries = 10, .max_partial = 0});
    auto room = cache.reserve("m", sequence(0, 5), 100, Tier::user);
    REQUIRE(room.outcome() == Outcome::too_large);
    CHECK(room.commit(state(5)).outcome == Outcome::cancelled);
    CHECK(cache.stats().too_large == 1);
    CHECK(cache.stats().cancelled == 0);
}

} // namespace
