// SPDX-License-Identifier: MIT
// Payloads that lie about their bytes, their length, their blocks and what they serve, and payloads
// whose bytes do not fit into a sum.
#include "counted_assert.hpp"

#include <promptkv/promptkv.hpp>

#include "../model/random.hpp"
#include "catch.hpp"
#include "fire_payloads.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace {

using namespace promptkv_test;
using promptkv::LRUPromptCache;
using promptkv::Outcome;
using promptkv::Tier;

constexpr std::size_t most = std::numeric_limits<std::size_t>::max();

// a liar, and how it is found out ////////////////////////////////////////////

/// How a payload answers. `call` counts the questions that all payloads were asked.
struct Lie {
    using Answer = std::size_t (*)(std::size_t honest, std::size_t call);

    std::string_view what;
    bool changes = false; ///< reusable_prefix answers the same question in different ways
    Answer reusable_prefix = [](std::size_t n, std::size_t) { return n; };
    Answer nbytes = [](std::size_t n, std::size_t) { return n; };
    Answer length = [](std::size_t n, std::size_t) { return n; };
    Answer truncate = [](std::size_t n, std::size_t) { return n; }; // what it is cut to
};

/// A number that has nothing to do with the last one.
std::size_t scattered(std::size_t call) {
    return call * 0x9e3779b97f4a7c15U >> 40U;
}

/// The lie that all liars tell, and how often they were asked.
const Lie* told = nullptr;
std::size_t calls = 0;

struct Liar {
    std::size_t n = 0;

    std::size_t nbytes() const noexcept { return told->nbytes(n, ++calls); }
    std::size_t length() const noexcept { return told->length(n, ++calls); }
    std::size_t reusable_prefix(std::size_t wanted) const noexcept {
        return told->reusable_prefix(wanted, ++calls);
    }
    Liar clone_prefix(std::size_t wanted) const noexcept { return {wanted}; }
    void truncate(std::size_t wanted) noexcept { n = told->truncate(wanted, ++calls); }
};

using Lied = LRUPromptCache<Liar, std::string, char>;

/// What is wrong with the sums of a cache, whatever its payloads say now; "" where all is right.
template <class Cache>
std::string wrong_in(const Cache& cache) {
    std::size_t entries = 0;
    std::size_t bytes = 0;
    bool wrapped = false;
    cache.for_each([&](const auto& entry) {
        ++entries;
        wrapped = wrapped || entry.nbytes > most - bytes;
        bytes += entry.nbytes;
    });
    if (wrapped)
        return "the bytes of the entries do not fit into a sum";
    if (entries != cache.size())
        return "size";
    const promptkv::Stats stats = cache.stats();
    if (bytes != stats.bytes_referenced)
        return "bytes_referenced";
    if (bytes > cache.nbytes() ||
        cache.nbytes() - bytes > stats.bytes_leased + stats.bytes_reserved)
        return "nbytes";
    if (cache.nbytes() > cache.limits().max_bytes || entries > cache.limits().max_entries)
        return "a limit is exceeded";
    std::size_t by_tier = 0;
    for (const Tier tier : {Tier::assistant, Tier::user, Tier::system})
        by_tier += cache.stats(tier).nbytes;
    return by_tier == bytes ? "" : "the bytes of the tiers";
}

/// Random calls of everything, on keys of the letters a and b, with payloads from `make(length)`.
/// Returns: what went wrong, "" where nothing did. The cache is empty afterwards.
template <class Cache, class Make, class Sound>
std::string use_at_random(Cache& cache, Random& random, std::size_t operations, Make make,
                          Sound sound) {
    std::vector<typename Cache::Lease> leases;
    std::vector<std::pair<typename Cache::Reservation, std::size_t>> rooms;
    for (std::size_t i = 0; i < operations; ++i) {
        std::string key;
        while (key.size() < 40 && !random.one_in(key.size() < 8 ? 20 : 6))
            key.push_back(random.one_in(4) ? 'b' : 'a');
        const std::string model = random.one_in(4) ? "other" : "m";
        const Tier tier = random.pick({Tier::assistant, Tier::user, Tier::system});
        switch (random.below(22)) {
        case 0:
            leases.push_back(cache.lease_nearest(model, key));
            break;
        case 1:
            static_cast<void>(cache.take_nearest(model, key));
            break;
        case 2:
            static_cast<void>(cache.fetch_nearest(model, key, {.min_remaining = 0, .align = 3}));
            break;
        case 3:
            cache.mark(model, key, tier);
            break;
        case 4:
            random.one_in(3) ? cache.erase_below(model, key) : cache.erase(model, key) ? 1U : 0U;
            break;
        case 5:
            cache.trim_to({.max_bytes = cache.nbytes() - cache.nbytes() / 8});
            break;
        case 6:
            cache.evict(random.below(20));
            static_cast<void>(cache.evictable_nbytes());
            break;
        case 7:
            if (random.one_in(4))
                cache.pop_prefixes(model, key);
            break;
        case 8:
            leases.clear();
            break;
        case 9:
        case 10:
            cache.insert(model, key, random.below(60), tier, [&] { return make(key.size()); });
            break;
        case 11:
        case 12:
            if (auto room = cache.reserve(model, key, random.below(60), tier)) {
                const std::size_t n = room.tokens();
                rooms.emplace_back(std::move(room), n);
            }
            break;
        case 13:
            if (!rooms.empty()) {
                static_cast<void>(rooms.back().first.prefix());
                rooms.back().first.commit(make(rooms.back().second));
                rooms.pop_back();
            }
            break;
        case 14:
            rooms.clear();
            break;
        case 15:
            static_cast<void>(cache.explain(model, key));
            static_cast<void>(cache.touch(model, key));
            break;
        case 16:
            if (random.one_in(4))
                static_cast<void>(cache.snapshot());
            break;
        default:
            cache.insert(model, key, make(key.size()), tier, {.session = random.below(3)});
        }
        if (std::string wrong = wrong_in(cache) + (sound(cache) ? "" : "invariants"); wrong != "")
            return wrong + " after operation " + std::to_string(i);
    }
    leases.clear();
    rooms.clear();
    cache.trim_to({.max_entries = 0});
    cache.clear();
    return cache.nbytes() == 0 && cache.size() == 0 && cache.check_invariants() ? ""
                                                                                : "not emptied";
}

TEST_CASE("Whatever reusable_prefix answers, the cache stays whole") {
    using TestType = Lied;
    const Lie lie = GENERATE(values<Lie>({
        {"the truth"},
        {"one token more", false, [](std::size_t n, std::size_t) { return n + 1; }},
        {"more than there is", false, [](std::size_t, std::size_t) { return most; }},
        {"one token less", false, [](std::size_t n, std::size_t) { return n - 1; }},
        {"one less, every other time", true,
         [](std::size_t n, std::size_t call) { return n - call % 2; }},
        {"all or nothing", true, [](std::size_t n, std::size_t call) { return call % 2 * n; }},
        {"always the same", false, [](std::size_t, std::size_t) { return std::size_t{3}; }},
        {"anything", true, [](std::size_t, std::size_t call) { return scattered(call) % 44; }},
    }));
    INFO(lie.what);
    told = &lie;
    failed_assertions = 0;
    for (std::uint64_t seed = 1; seed <= 40; ++seed) {
        CAPTURE(seed);
        Random random(seed);
        calls = 0;
        TestType cache({.max_bytes = 200, .max_entries = 12});
        REQUIRE(use_at_random(
                    cache, random, 250, [](std::size_t n) { return Liar{n}; },
                    [&lie](const TestType& used) {
                        return lie.changes || used.check_invariants();
                    }) == "");
    }
    CHECK(failed_assertions == 0);
}

TEST_CASE("Whatever nbytes answers later, the bytes that were recorded count") {
    using TestType = Lied;
    const Lie lie = GENERATE(values<Lie>({
        {.what = "more each time",
         .nbytes = [](std::size_t n, std::size_t call) { return n + call; }},
        {.what = "less each time",
         .nbytes = [](std::size_t n, std::size_t call) { return 100 * n - call % 100; }},
        {.what = "nothing", .nbytes = [](std::size_t, std::size_t) { return std::size_t{0}; }},
        {.what = "the most, now and then",
         .nbytes = [](std::size_t n, std::size_t call) { return call % 5 == 0 ? most : n; }},
        {.what = "anything",
         .nbytes = [](std::size_t, std::size_t call) { return scattered(call) % 60; }},
        {.what = "anything large",
         .nbytes = [](std::size_t, std::size_t call) { return most / 3 + scattered(call); }},
    }));
    INFO(lie.what);
    told = &lie;
    const std::size_t max_bytes = GENERATE(std::size_t{200}, most / 2, most);
    CAPTURE(max_bytes);
    for (std::uint64_t seed = 1; seed <= 20; ++seed) {
        CAPTURE(seed);
        Random random(seed);
        calls = 0;
        TestType cache({.max_bytes = max_bytes});
        REQUIRE(use_at_random(
                    cache, random, 250, [](std::size_t n) { return Liar{n}; },
                    [](const TestType&) { return true; }) == "");
    }
}

TEST_CASE("Whatever length and truncate do, the cache stays whole") {
    const Lie lie = GENERATE(values<Lie>({
        {.what = "a length of 0",
         .length = [](std::size_t, std::size_t) { return std::size_t{0}; }},
        {.what = "the longest length", .length = [](std::size_t, std::size_t) { return most; }},
        {.what = "any length",
         .length = [](std::size_t, std::size_t call) { return scattered(call) % 44; }},
        {.what = "cut to nothing",
         .truncate = [](std::size_t, std::size_t) { return std::size_t{0}; }},
        {.what = "grown by a cut",
         .truncate = [](std::size_t n, std::size_t) { return 2 * n + 30; }},
        {.what = "cut to anything",
         .truncate = [](std::size_t, std::size_t call) { return scattered(call) % 60; }},
    }));
    INFO(lie.what);
    told = &lie;
    for (std::uint64_t seed = 1; seed <= 20; ++seed) {
        CAPTURE(seed);
        Random random(seed);
        calls = 0;
        Lied cache({.max_bytes = 200, .max_entries = 12});
        const std::string wrong = use_at_random(
            cache, random, 250, [](std::size_t n) { return Liar{n}; },
            [](const Lied&) { return true; });
        // A payload that grows when it is cut takes what it takes.
        REQUIRE((wrong == "" || wrong.starts_with("a limit is exceeded")));
    }
}

TEST_CASE("check_invariants finds a payload that does not hold the bytes that were recorded") {
    const std::size_t recorded = GENERATE(0U, 1U, 2U, 1'000U);
    const std::size_t held = GENERATE(0U, 1U, 2U, 999U);
    static std::size_t answer;
    const Lie lie = {.what = "another number",
                     .nbytes = [](std::size_t, std::size_t) { return answer; }};
    CAPTURE(recorded, held);
    told = &lie;
    Lied cache;
    const std::string key = "ab";
    answer = recorded;
    cache.insert("m", key, Liar{2}, Tier::user);
    CHECK(cache.check_invariants());
    answer = held;
    CHECK(cache.check_invariants() == (held == recorded));

    // Also where the errors of two payloads cancel out.
    const std::string other = "xy";
    answer = 2;
    cache.insert("m", other, Liar{2}, Tier::user);
    answer = 1;
    CHECK_FALSE(cache.check_invariants());
}

TEST_CASE("A payload of another length than its key is found by an assertion, and harms nothing") {
    const std::size_t length = GENERATE(0U, 3U, 5U, 1'000U);
    CAPTURE(length);
    LRUPromptCache<Cuttable> cache({.max_bytes = 2'000});
    failed_assertions = 0;
    cache.insert("m", key("abcd"), Cuttable{length}, Tier::user);
    CHECK(failed_assertions == 1);
    cache.insert("m", key("wxyz"), 4, Tier::user, [length] { return Cuttable{length}; });
    // A payload that was made may be shorter: then less of the key is stored.
    CHECK((length > 4 ? failed_assertions >= 2 : failed_assertions == 1));
    CHECK(cache.fetch_nearest("m", key("abcdef")).reused() <= 4);
    CHECK(cache.take_nearest("m", key("wxyzab")).reused() <= 4);
    cache.trim_to({.max_bytes = 0});
    CHECK(cache.nbytes() == 0);
    CHECK(cache.check_invariants());
}

// blocks that are not what they seem //////////////////////////////////////////

/// Blocks of an engine's pool.
struct Pool {
    struct Cell {
        promptkv::BlockUse use;
        std::size_t bytes = 4;
    };
    std::vector<std::unique_ptr<Cell>> cells;

    Pool() {
        while (cells.size() < 64)
            cells.push_back(std::make_unique<Cell>());
    }
};

/// How a payload of pool blocks lies.
enum class BlockLie : std::uint8_t {
    nothing,
    other_bytes,      ///< a block's bytes change from one call to the next
    too_many_bytes,   ///< the blocks have more bytes than the payload
    no_bytes,         ///< the blocks have no bytes
    most_bytes,       ///< each block has the most bytes that can be
    twice,            ///< each block is named twice
    beyond,           ///< the blocks before `from` are named as well
    any_use,          ///< in_use is random
    no_block_tokens,  ///< block_tokens is 0
    odd_block_tokens, ///< block_tokens changes
    huge_block_tokens,
    adopts_nothing,
    adopts_all,  ///< beyond the tokens that both share
    clones_other ///< a clone holds other blocks
};

Pool* pool = nullptr;
BlockLie block_lie = BlockLie::nothing;

/// Four tokens a block, four bytes each; the number of a block follows from its place and the key.
struct PoolKV {
    std::size_t n = 0;
    std::vector<std::size_t> ids{};

    static PoolKV of(std::size_t n_tokens, std::size_t first) {
        PoolKV kv{n_tokens};
        for (std::size_t from = 0; from < n_tokens; from += 4)
            kv.ids.push_back((first + kv.ids.size()) % pool->cells.size());
        return kv;
    }

    std::size_t nbytes() const noexcept { return 4 * ids.size(); }
    std::size_t length() const noexcept { return n; }
    std::size_t reusable_prefix(std::size_t wanted) const noexcept { return wanted; }
    std::size_t block_tokens() const noexcept {
        switch (block_lie) {
        case BlockLie::no_block_tokens:
            return 0;
        case BlockLie::odd_block_tokens:
            return scattered(++calls) % 9;
        case BlockLie::huge_block_tokens:
            return most - 1;
        default:
            return 4;
        }
    }
    PoolKV clone_prefix(std::size_t wanted) const {
        if (block_lie == BlockLie::clones_other)
            return of(wanted, scattered(++calls));
        PoolKV kv{wanted, ids};
        kv.ids.resize(std::min(ids.size(), (wanted + 3) / 4));
        return kv;
    }
    void truncate(std::size_t wanted) noexcept {
        n = wanted;
        ids.resize(std::min(ids.size(), (wanted + 3) / 4));
    }
    template <class F>
    void for_each_block(std::size_t from, F&& f) const {
        const std::size_t first = block_lie == BlockLie::beyond ? 0 : (from + 3) / 4;
        for (std::size_t i = first; i < ids.size(); ++i) {
            const Pool::Cell& cell = *pool->cells[ids[i]];
            std::size_t bytes = cell.bytes;
            if (block_lie == BlockLie::other_bytes)
                bytes = scattered(++calls) % 9;
            else if (block_lie == BlockLie::too_many_bytes)
                bytes = 5;
            else if (block_lie == BlockLie::no_bytes)
                bytes = 0;
            else if (block_lie == BlockLie::most_bytes)
                bytes = most;
            f(cell.use, bytes, block_lie == BlockLie::any_use && scattered(++calls) % 2 == 0);
            if (block_lie == BlockLie::twice)
                f(cell.use, bytes, false);
        }
    }
    void adopt_blocks(std::size_t shared, const PoolKV& other) noexcept {
        if (block_lie == BlockLie::adopts_nothing)
            return;
        std::size_t whole = block_lie == BlockLie::adopts_all ? other.ids.size() : shared / 4;
        whole = std::min({whole, ids.size(), other.ids.size()});
        std::copy_n(other.ids.begin(), whole, ids.begin());
    }
};

TEST_CASE("Whatever a payload says of its blocks, no memory is corrupted") {
    using TestType = LRUPromptCache<PoolKV, std::string, char>;
    for (int which = 0; which <= static_cast<int>(BlockLie::clones_other); ++which) {
        CAPTURE(which);
        block_lie = static_cast<BlockLie>(which);
        for (std::uint64_t seed = 1; seed <= 20; ++seed) {
            CAPTURE(seed);
            Random random(seed);
            calls = 0;
            failed_assertions = 0;
            auto blocks = std::make_unique<Pool>();
            pool = blocks.get();
            {
                TestType cache({.max_bytes = 200, .max_entries = 12});
                std::string wrong;
                const auto make = [&random](std::size_t n) {
                    return PoolKV::of(n, random.below(64));
                };
                for (int i = 0; i < 200; ++i) {
                    std::string key;
                    while (key.size() < 40 && !random.one_in(10))
                        key.push_back(random.one_in(4) ? 'b' : 'a');
                    const Tier tier = random.pick({Tier::assistant, Tier::user, Tier::system});
                    switch (random.below(8)) {
                    case 0:
                        static_cast<void>(cache.fetch_nearest("m", key));
                        break;
                    case 1:
                        static_cast<void>(cache.take_nearest("m", key));
                        break;
                    case 2:
                        if (auto room = cache.reserve("m", key, 4 * key.size(), tier)) {
                            const std::size_t n = room.tokens();
                            static_cast<void>(room.prefix());
                            room.commit(make(n));
                        }
                        break;
                    case 3:
                        cache.mark("m", key, tier);
                        break;
                    case 4:
                        cache.evict(random.below(30));
                        break;
                    default:
                        cache.insert("m", key, make(key.size()), tier);
                    }
                    std::size_t entries = 0;
                    cache.for_each([&entries](const auto&) { ++entries; });
                    if (entries != cache.size() || entries > 12)
                        wrong = "size after operation " + std::to_string(i);
                    if (block_lie == BlockLie::nothing &&
                        (cache.nbytes() > 200 || !cache.check_invariants()))
                        wrong = "honest blocks after operation " + std::to_string(i);
                }
                CHECK(wrong == "");
                cache.clear();
                CHECK(cache.size() == 0);
            }
            // The pool is freed here: a cache that still pointed to it would be found by a sanitizer.
            if (block_lie == BlockLie::nothing) {
                for (const auto& cell : blocks->cells)
                    CHECK(cell->use.count() == 0);
                CHECK(failed_assertions == 0);
            }
        }
    }
}

// bytes that do not fit into a sum ///////////////////////////////////////////

using Weighed = LRUPromptCache<Weight, std::string, char>;

TEST_CASE("Payloads of up to SIZE_MAX bytes are evicted or refused, and no sum wraps") {
    const std::size_t max_bytes = GENERATE(most, most - 1, most / 2, std::size_t{1});
    CAPTURE(max_bytes);
    for (std::uint64_t seed = 1; seed <= 40; ++seed) {
        CAPTURE(seed);
        Random random(seed);
        Weighed cache({.max_bytes = max_bytes});
        const auto make = [&random](std::size_t n) {
            return Weight{n, random.pick({std::size_t{0}, std::size_t{1}, most / 5, most / 2,
                                          most / 2 + 1, most - 1, most})};
        };
        std::uint64_t last = 0;
        REQUIRE(use_at_random(cache, random, 250, make, [&last](const Weighed& used) {
                    const std::uint64_t before = std::exchange(last, used.stats().bytes_evicted);
                    return used.check_invariants() && before <= last &&
                           used.stats().peak_nbytes >= used.nbytes();
                }) == "");
    }
}

TEST_CASE("Leased and reserved bytes leave room that is told without a sum that wraps") {
    Weighed cache({.max_partial = 0});
    const std::string a = "aaaa";
    const std::string b = "bbbb";
    CHECK(cache.insert("m", a, Weight{4, most - 10}, Tier::user).outcome == Outcome::stored);
    {
        const auto lease = cache.lease_nearest("m", a, {.min_remaining = 0});
        CHECK(cache.stats().bytes_leased == most - 10);
        CHECK_FALSE(cache.reserve("m", b, most, Tier::user));
        {
            const auto room = cache.reserve("m", b, 8, Tier::user);
            CHECK(room.tokens() == 4);
            CHECK(cache.nbytes() == most - 2);
            CHECK_FALSE(cache.reserve("m", b + "b", most - 1, Tier::user));
        }
        CHECK(cache.insert("m", b, Weight{4, 10}, Tier::user).outcome == Outcome::stored);
        CHECK(cache.nbytes() == most);
        CHECK(cache.erase("m", a));
        CHECK(cache.nbytes() == most);
    }
    CHECK(cache.nbytes() == 10);
    CHECK(cache.insert("m", a, Weight{4, most}, Tier::user).outcome == Outcome::stored);
    CHECK(cache.size() == 1);
    CHECK(cache.stats().peak_nbytes == most);
    CHECK(cache.check_invariants());
}

TEST_CASE("Payloads of no bytes are stored without end, and leave when entries are limited") {
    Weighed cache({.max_bytes = 1});
    for (char token = 'a'; token <= 'z'; ++token) {
        const std::string key(5, token);
        CHECK(cache.insert("m", key, Weight{5, 0}, Tier::user).outcome == Outcome::stored);
    }
    CHECK(cache.size() == 26);
    CHECK(cache.nbytes() == 0);
    CHECK(cache.trim_to({.max_bytes = 0}) == 0);
    CHECK(cache.evict(1) == 0);
    CHECK(cache.size() == 26);
    CHECK(cache.trim_to({.max_entries = 3}) == 23);
    CHECK(cache.check_invariants());
}

TEST_CASE("A tier outside the enum is caught by an assertion, and corrupts nothing") {
    LRUPromptCache<Cuttable> cache({.max_bytes = 20});
    failed_assertions = 0;
    cache.insert("m", key("abcd"), Cuttable{4}, static_cast<Tier>(200));
    CHECK(failed_assertions > 0);
    cache.mark("m", key("ab"), static_cast<Tier>(77));
    static_cast<void>(cache.reserve("m", key("xyz"), 3, static_cast<Tier>(3)));
    static_cast<void>(cache.stats(static_cast<Tier>(255)));
    CHECK(cache.fetch_nearest("m", key("abcde")).reused() == 4);
    for (int i = 0; i < 20; ++i)
        cache.insert("m", Tokens(10, i), Cuttable{10}, static_cast<Tier>(i));
    CHECK(cache.nbytes() <= 20);
    cache.clear();
    CHECK(cache.check_invariants());
}

} // namespace
