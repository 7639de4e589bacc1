// SPDX-License-Identifier: MIT
// Tokens, prompts and models chosen against the cache: an operation stays within a stated factor of
// the same one on harmless input.
//
// Each factor is several times what is measured on an idle machine, and several times less than what
// the attack would cost if it worked (a list for a table, a walk for a step).
#include "counted_assert.hpp"

#include <promptkv/promptkv.hpp>

#include "../model/random.hpp"
#include "../scale/small_stack.hpp"
#include "catch.hpp"
#include "fire_payloads.hpp"
#include "slowdown.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace {

using namespace promptkv_test;
using promptkv::LRUPromptCache;
using promptkv::Match;
using promptkv::PromptCache;
using promptkv::PromptTrie;
using promptkv::Tier;

/// `n`, or a tenth of it where a sanitizer makes each operation cost ten times as much.
constexpr std::size_t scaled(std::size_t n) {
    return PROMPTKV_TEST_SANITIZED ? n / 10 : n;
}

Tokens random_key(Random& random, std::size_t n_tokens) {
    Tokens key(n_tokens);
    for (std::int32_t& token : key)
        token = static_cast<std::int32_t>(random.below(std::size_t{1} << 31U));
    return key;
}

// the children of one node ///////////////////////////////////////////////////

/// The tokens from 0 up that `chosen` takes.
template <class Chosen>
Tokens tokens_where(std::size_t n_tokens, Chosen chosen) {
    Tokens tokens;
    for (std::uint32_t token = 0; tokens.size() < n_tokens; ++token) {
        if (chosen(token))
            tokens.push_back(static_cast<std::int32_t>(token));
    }
    return tokens;
}

/// Sets of tokens that are bad for one table of children or another.
std::vector<std::pair<std::string, Tokens>> sets_of_tokens(std::size_t n_tokens) {
    std::vector<std::pair<std::string, Tokens>> sets;
    sets.emplace_back("in ascending order", tokens_where(n_tokens, [](auto) { return true; }));
    sets.emplace_back("in descending order",
                      Tokens(sets.front().second.rbegin(), sets.front().second.rend()));
    sets.emplace_back("equal in their low bits", tokens_where(n_tokens, [](std::uint32_t token) {
                          return token % 65'536 == 7;
                      }));
    Tokens high;
    for (std::size_t i = 0; i < n_tokens; ++i)
        high.push_back(static_cast<std::int32_t>(static_cast<std::uint32_t>(i) << 18U));
    sets.emplace_back("unequal in their high bits alone", std::move(high));
    // Multiplied by the golden ratio, as a table without a secret would do, all begin alike.
    sets.emplace_back("equal after multiplication", tokens_where(n_tokens, [](std::uint32_t token) {
                          return (token * 0x9e3779b9U) >> 20U == 0;
                      }));
    // Equal after the mixing of ChildIndex, were its secret 0.
    sets.emplace_back("equal but for the secret", tokens_where(n_tokens, [](std::uint32_t token) {
                          std::uint64_t x = token * 0x9e3779b97f4a7c15U;
                          x = (x ^ (x >> 29U)) * 0xbf58476d1ce4e5b9U;
                          return ((x >> 32U) & 0x3ffU) == 0;
                      }));
    return sets;
}

/// One token a key: all come, are found beside ones that are not there, and go.
void fill_and_empty(const Tokens& tokens) {
    PromptTrie<std::size_t> trie;
    std::size_t found = 0;
    for (const std::int32_t& token : tokens)
        trie.insert_or_assign(std::span(&token, 1), std::size_t{1});
    for (int pass = 0; pass < 3; ++pass) {
        for (const std::int32_t token : tokens) {
            const Tokens present = {token};
            const Tokens absent = {~token};
            found += trie.find(present) ? 1U : 0U;
            found += trie.find(absent) ? 1U : 0U;
        }
    }
    for (const std::int32_t& token : tokens)
        trie.erase(trie.find(std::span(&token, 1)));
    if (found != 3 * tokens.size() || !trie.empty())
        FAIL("found " << found << " of " << 3 * tokens.size());
}

TEST_CASE("Tokens chosen against the table of children cost at most 6 times what others do") {
    constexpr std::size_t n_tokens = 16'000;
    Random random(1);
    const Tokens harmless = random_key(random, n_tokens);
    const auto fill = [](const Tokens& tokens) {
        return [&tokens] { return [&tokens] { fill_and_empty(tokens); }; };
    };
    for (const auto& [what, tokens] : sets_of_tokens(n_tokens)) {
        INFO("tokens " << what);
        CHECK(slowdown(fill(tokens), fill(harmless)) < 6);
    }
}

TEST_CASE("A child that comes and goes costs at most 15 times as much beside the worst number") {
    const auto beside = [](std::int32_t others) {
        return [others] {
            auto trie = std::make_shared<PromptTrie<int>>();
            for (std::int32_t token = 1; token <= others; ++token)
                trie->insert_or_assign(Tokens{token}, token);
            return [trie] {
                const Tokens key = {0};
                for (std::size_t i = 0; i < scaled(2'000); ++i)
                    trie->erase(trie->insert_or_assign(key, 0).first);
            };
        };
    };
    double worst = 0;
    for (std::int32_t others = 1; others < 100; ++others)
        worst = std::max(worst, slowdown(beside(others), beside(3), 3));
    CHECK(worst < 15);
}

// prompts ////////////////////////////////////////////////////////////////////

/// Stores the keys in turn, each after a lookup, with room for half of them.
template <class KV, class Cache = LRUPromptCache<KV>>
auto serve(const std::vector<Tokens>& keys) {
    return [&keys] {
        return [&keys] {
            Cache cache({.max_entries = keys.size() / 2});
            for (const Tokens& key : keys) {
                (void)cache.fetch_nearest("m", key);
                cache.insert("m", key, KV{key.size()}, Tier::user);
            }
            if (cache.size() != keys.size() / 2)
                FAIL("not all were stored");
        };
    };
}

TEST_CASE("Prompts that differ in their last token only cost at most 4 times what others do") {
    constexpr std::size_t n_tokens = 500;
    Random random(2);
    std::vector<Tokens> harmless;
    std::vector<Tokens> attack(scaled(4'000), random_key(random, n_tokens));
    for (Tokens& key : attack) {
        harmless.push_back(random_key(random, n_tokens));
        key.back() = harmless.back().back();
    }
    CHECK(slowdown(serve<Cuttable>(attack), serve<Cuttable>(harmless)) < 4);
    CHECK(slowdown(serve<Whole>(attack), serve<Whole>(harmless)) < 4);
    using Learning = PromptCache<Cuttable>;
    CHECK(slowdown(serve<Cuttable, Learning>(attack), serve<Cuttable, Learning>(harmless), 3) < 4);
}

TEST_CASE("200,000 prompts of one token cost at most 5 times what prompts of three do") {
    std::vector<Tokens> attack;
    std::vector<Tokens> harmless;
    for (std::size_t i = 0; i < scaled(200'000); ++i) {
        const auto number = static_cast<std::int32_t>(i);
        attack.push_back({number});
        harmless.push_back({number % 100, number / 100 % 100, number / 10'000});
    }
    CHECK(slowdown(serve<Cuttable>(attack), serve<Cuttable>(harmless), 2) < 5);
}

// depth //////////////////////////////////////////////////////////////////////

using Nested = LRUPromptCache<Whole, std::string, std::int8_t>;

/// Entries on all prefixes of `key`, each of which serves its whole key alone.
std::shared_ptr<Nested> nested(std::span<const std::int8_t> key) {
    auto cache = std::make_shared<Nested>();
    for (std::size_t n = key.size(); n > 0; --n) // the longest first: each is found on one edge
        cache->insert("m", key.first(n), Whole{1}, Tier::user);
    return cache;
}

TEST_CASE("Prefixes nested 100,000 deep cost at most 60 times as much a token as 200 do") {
    // A walk over all of them for each would cost 500 times as much.
    const std::size_t deep = scaled(100'000);
    constexpr std::size_t shallow = 200;
    const std::vector<std::int8_t> tokens(deep + 1, 7);
    const std::span<const std::int8_t> key = tokens;
    const auto require_all_but_one = [](const auto& hit, std::span<const std::int8_t> prompt) {
        if (hit.reused() + 1 != prompt.size())
            FAIL("reused " << hit.reused() << " of " << prompt.size());
    };

    SECTION("what finds or stores one") {
        // The same number of tokens for each depth.
        const auto repeat = [&](auto operation, std::size_t depth) {
            return [=, cache = nested(key.first(depth))] {
                return [=] {
                    for (std::size_t done = 0; done < 2 * deep; done += depth)
                        operation(*cache, key.first(depth + 1));
                };
            };
        };
        const auto look_up = [&](Nested& cache, std::span<const std::int8_t> prompt) {
            require_all_but_one(cache.probe("m", prompt), prompt);
            require_all_but_one(cache.fetch_nearest("m", prompt), prompt);
            require_all_but_one(cache.lease_nearest("m", prompt), prompt);
        };
        CHECK(slowdown(repeat(look_up, deep), repeat(look_up, shallow)) < 60);
        const auto supersede = [](Nested& cache, std::span<const std::int8_t> prompt) {
            cache.insert("m", prompt, Whole{1}, Tier::user);
            cache.erase("m", prompt);
        };
        CHECK(slowdown(repeat(supersede, deep), repeat(supersede, shallow)) < 60);
    }
    SECTION("what removes them all") {
        const auto remove = [&](auto operation, std::size_t depth) {
            return [=] {
                std::vector<std::shared_ptr<Nested>> caches;
                for (std::size_t done = 0; done < deep; done += depth)
                    caches.push_back(nested(key.first(depth)));
                return [=] {
                    for (const auto& cache : caches) {
                        if (operation(*cache) < depth - 1)
                            FAIL("not all are gone");
                    }
                };
            };
        };
        const auto trim = [](Nested& cache) { return cache.trim_to({.max_entries = 0}); };
        const auto pop = [=](Nested& cache) { return cache.pop_prefixes("m", key); };
        CHECK(slowdown(remove(trim, deep), remove(trim, shallow), 3) < 60);
        CHECK(slowdown(remove(pop, deep), remove(pop, shallow), 3) < 60);
    }
}

// combs and nests beside a prompt ////////////////////////////////////////////

/// Prefixes of one long key, each with another last token.
std::vector<Tokens> comb(std::size_t teeth) {
    std::vector<Tokens> keys;
    for (std::size_t n = teeth; n > 0; --n) { // the longest first: each is found on one edge
        keys.emplace_back(n + 1, 7);
        keys.back().back() = -static_cast<std::int32_t>(n);
    }
    return keys;
}

template <class KV>
std::shared_ptr<LRUPromptCache<KV>> cache_of(const std::vector<Tokens>& keys) {
    auto cache = std::make_shared<LRUPromptCache<KV>>();
    for (const Tokens& key : keys)
        cache->insert("m", key, KV{key.size()}, Tier::user);
    return cache;
}

TEMPLATE_TEST_CASE("A short prompt costs at most 10 times as much beside a comb of 5,000", "",
                   Whole, Cuttable) {
    const auto look_up = [](std::size_t teeth) {
        return [cache = cache_of<TestType>(comb(teeth))] {
            return [cache] {
                for (std::int32_t i = 0; i < 2'000; ++i) {
                    const Tokens prompt = {7, 7, 7, i};
                    static_cast<void>(cache->probe("m", prompt));
                    static_cast<void>(cache->lease_nearest("m", prompt));
                    const Tokens unrelated = {i, 1};
                    cache->insert("m", unrelated, TestType{2}, Tier::user);
                    cache->erase("m", unrelated);
                }
            };
        };
    };
    CHECK(slowdown(look_up(scaled(5'000)), look_up(10)) < 10);
}

TEST_CASE(
    "A tooth that leaves a comb of 5,000 costs at most 60 times as much as it does in one of 50") {
    // Were what is nearest updated along the whole spine for each, the factor would be 100 and more.
    constexpr std::size_t all = scaled(5'000);
    const auto leave = [](std::size_t teeth) {
        return [=] {
            std::vector<std::shared_ptr<LRUPromptCache<Whole>>> caches;
            for (std::size_t done = 0; done < all; done += teeth)
                caches.push_back(cache_of<Whole>(comb(teeth)));
            return [caches] {
                for (const auto& cache : caches)
                    cache->trim_to({.max_entries = 1});
            };
        };
    };
    CHECK(slowdown(leave(all), leave(50), 3) < 60);
}

TEST_CASE("A cache that learns evicts a comb of 5,000 at most 10 times as slowly as other keys") {
    // Were the spine walked up for each, the factor would be 100 and more.
    constexpr std::size_t teeth = scaled(5'000);
    std::vector<Tokens> flat;
    for (std::int32_t i = 0; flat.size() < teeth; ++i)
        flat.push_back({i, i});
    const auto evict = [&](const std::vector<Tokens>& keys) {
        return [keys] {
            using Cache = PromptCache<Whole>;
            auto cache = std::make_shared<Cache>(Cache::Options{.max_bytes = 10 * teeth});
            for (const Tokens& key : keys)
                cache->insert("m", key, Whole{10}, Tier::assistant);
            return [cache] {
                for (std::int32_t i = 0; i < 20; ++i)
                    cache->insert("other", Tokens{i, i}, Whole{teeth / 10}, Tier::system);
            };
        };
    };
    CHECK(slowdown(evict(comb(teeth)), evict(flat), 3) < 10);
}

TEMPLATE_TEST_CASE(
    "A reservation that spares upper tiers costs at most 10 times as much beside 50,000", "",
    LRUPromptCache<Whole>, PromptCache<Whole>) {
    // Were each of them looked at, the factor would be 100 and more.
    const auto reserve = [](std::size_t entries) {
        return [=] {
            auto cache = std::make_shared<TestType>();
            for (std::size_t i = 0; i < entries; ++i) {
                const auto first = static_cast<std::int32_t>(i);
                cache->insert("m", Tokens{first, 1}, Whole{10}, Tier::system);
            }
            cache->set_limits({.max_bytes = cache->nbytes() + 10});
            return [cache] {
                const promptkv::InsertOptions sparing{.spare_upper_tiers = true};
                for (std::int32_t i = 0; i < 1'000; ++i) {
                    cache->insert("m", Tokens{-1, i}, Whole{10}, Tier::user); // the only one to go
                    static_cast<void>(cache->reserve("m", Tokens{-2, i}, 10, Tier::user, sparing));
                    CHECK_FALSE(cache->reserve("m", Tokens{-3, i}, 30, Tier::user, sparing));
                }
                if (cache->stats(Tier::system).evicted > 0 || cache->stats(Tier::user).evicted == 0)
                    FAIL("evicted " << cache->stats(Tier::user).evicted << " of the user tier");
            };
        };
    };
    CHECK(slowdown(reserve(scaled(50'000)), reserve(50)) < 10);
}

TEST_CASE("Keys of two tokens only cost at most 15 times what others do") {
    // A node at each bit, where other keys share their first token at most.
    Random random(3);
    std::vector<Tokens> attack;
    std::vector<Tokens> harmless;
    for (std::size_t i = 0; i < scaled(20'000); ++i) {
        harmless.push_back(random_key(random, 100));
        attack.push_back(harmless.back());
        for (std::int32_t& token : attack.back())
            token %= 2;
    }
    CHECK(slowdown(serve<Cuttable>(attack), serve<Cuttable>(harmless), 3) < 15);
    CHECK(slowdown(serve<Whole>(attack), serve<Whole>(harmless), 3) < 15);
    using Learning = PromptCache<Cuttable>;
    CHECK(slowdown(serve<Cuttable, Learning>(attack), serve<Cuttable, Learning>(harmless), 2) < 15);
}

// leases /////////////////////////////////////////////////////////////////////

/// Evicts by inserting, beside `leased` entries that stay leased and come up as victims first.
template <class Cache>
auto evict_beside(std::size_t leased) {
    struct State {
        Cache cache;
        std::vector<typename Cache::Lease> leases{};
        std::int32_t next = 1'000'000;

        void come() {
            const Tokens key = {next, next + 1, next + 2};
            ++next;
            cache.insert("m", key, Cuttable{3}, Tier::user);
        }
    };
    auto state = std::make_shared<State>(
        State{Cache({.max_entries = leased + 1'000, .remembered_tokens = 0})});
    for (std::size_t i = 0; i < leased; ++i) {
        const auto token = static_cast<std::int32_t>(i);
        const Tokens key = {token, token + 1, token + 2};
        state->cache.insert("m", key, Cuttable{3}, Tier::user);
        state->leases.push_back(state->cache.lease_nearest("m", key));
    }
    for (int i = 0; i < 3'000; ++i)
        state->come(); // all that are leased have come up once
    return [state] {
        return [state] {
            for (int i = 0; i < 5'000; ++i)
                state->come();
        };
    };
}

TEMPLATE_TEST_CASE("An eviction beside 100,000 leased entries costs at most 4 times as much", "",
                   LRUPromptCache<Cuttable>, PromptCache<Cuttable>) {
    CHECK(slowdown(evict_beside<TestType>(scaled(100'000)), evict_beside<TestType>(10), 3) < 4);
}

TEST_CASE("A lease that ends among 100,000 costs at most 6 times as much as among 10") {
    using Cache = LRUPromptCache<Cuttable>;
    const auto end = [](std::size_t leased) {
        auto cache = std::make_shared<Cache>();
        auto leases = std::make_shared<std::vector<Cache::Lease>>();
        for (std::size_t i = 0; i < leased; ++i) {
            const Tokens key = {static_cast<std::int32_t>(i), 1, 2};
            cache->insert("m", key, Cuttable{3}, Tier::user);
            leases->push_back(cache->lease_nearest("m", key));
        }
        return [cache, leases, leased] {
            return [=] {
                for (std::size_t i = 0; i < 5'000; ++i) {
                    const auto which = static_cast<std::int32_t>(i * 7'919 % leased);
                    const Tokens key = {which, 1, 2};
                    (*leases)[static_cast<std::size_t>(which)].end();
                    cache->evict(0);
                    (*leases)[static_cast<std::size_t>(which)] = cache->lease_nearest("m", key);
                }
            };
        };
    };
    CHECK(slowdown(end(scaled(100'000)), end(10)) < 6);
}

// the longest single call //////////////////////////////////////////////////////

/// The longest of the calls that serve each of the keys, with room for `entries`.
///
/// A lesson takes some thousand times as long as another call, and comes on harmless keys as well.
double longest_call(const std::vector<Tokens>& keys, std::size_t entries) {
    PromptCache<Cuttable> cache({.max_entries = entries});
    double longest = 0;
    for (const Tokens& key : keys) {
        auto serve = [&] {
            static_cast<void>(cache.lease_nearest("m", key));
            cache.insert("m", key, Cuttable{key.size()}, Tier::user);
        };
        longest = std::max(longest, seconds(serve));
    }
    return longest;
}

TEST_CASE(
    "No set of keys makes a single call take more than 5 times the longest on harmless keys") {
    Random random(9);
    std::vector<Tokens> harmless;
    std::vector<Tokens> teeth;
    std::vector<Tokens> bits;
    for (std::size_t i = 0; i < scaled(20'000); ++i) {
        harmless.push_back(random_key(random, 100));
        teeth.emplace_back(2 + i % 100, 7);
        teeth.back().back() = -static_cast<std::int32_t>(i);
        bits.push_back(harmless.back());
        for (std::int32_t& token : bits.back())
            token %= 2;
    }
    for (const auto& [what, attack] : {std::pair{"a comb", teeth}, std::pair{"two tokens", bits}}) {
        INFO(what);
        double attacked = 1;
        double usual = 1;
        for (int round = 0; round < 3; ++round) {
            attacked = std::min(attacked, longest_call(attack, 1'000));
            usual = std::min(usual, longest_call(harmless, 1'000));
        }
        CHECK(attacked < 5 * usual);
    }
}

// models and sessions ////////////////////////////////////////////////////////

TEST_CASE("Models that come and go cost at most 10 times as much among 50,000 as among 50") {
    const auto come_and_go = [](std::size_t models) {
        auto cache = std::make_shared<LRUPromptCache<Cuttable>>(
            LRUPromptCache<Cuttable>::Options{.max_entries = models});
        const auto come = [cache](std::size_t number) {
            const Tokens key = {1, 2, 3};
            cache->insert("tenant " + std::to_string(number), key, Cuttable{3}, Tier::user);
        };
        for (std::size_t i = 0; i < models; ++i)
            come(i);
        return [=, next = models]() mutable {
            const std::size_t first = std::exchange(next, next + 2'000);
            return [=] {
                for (std::size_t i = first; i < first + 2'000; ++i)
                    come(i); // and another goes
            };
        };
    };
    CHECK(slowdown(come_and_go(scaled(50'000)), come_and_go(50)) < 10);
}

TEST_CASE("A miss costs at most 3 times as much beside 1,000 models that hold the prompt") {
    const auto miss = [](bool held) {
        auto cache = std::make_shared<LRUPromptCache<Cuttable>>();
        const Tokens prompt(200, 3);
        for (int i = 0; i < 1'000; ++i) {
            const Tokens key(200, held ? 3 : 4);
            cache->insert("tenant " + std::to_string(i), key, Cuttable{200}, Tier::user);
        }
        return [cache, prompt] {
            return [=] {
                for (int i = 0; i < 20'000; ++i) {
                    if (cache->lease_nearest("m", prompt))
                        FAIL("the model has nothing");
                }
            };
        };
    };
    CHECK(slowdown(miss(true), miss(false)) < 3);
}

TEST_CASE("Sessions that store cost at most 6 times as much among 50,000 as among 50") {
    const auto store = [](std::size_t sessions) {
        auto cache = std::make_shared<LRUPromptCache<Cuttable>>(
            LRUPromptCache<Cuttable>::Options{.max_entries = 50'000});
        const auto come = [cache](std::size_t number, std::uint64_t session) {
            const auto token = static_cast<std::int32_t>(number);
            const Tokens key = {token, 2, 3};
            cache->insert("m", key, Cuttable{3}, Tier::user, {.session = session});
        };
        for (std::size_t i = 0; i < 50'000; ++i)
            come(i, 1 + i % sessions);
        return [=, next = std::size_t{50'000}]() mutable {
            const std::size_t first = std::exchange(next, next + 5'000);
            return [=] {
                for (std::size_t i = first; i < first + 5'000; ++i)
                    come(i, 1 + i % sessions);
            };
        };
    };
    CHECK(slowdown(store(scaled(50'000)), store(50)) < 6);
}

} // namespace
