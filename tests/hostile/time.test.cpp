// SPDX-License-Identifier: MIT
// Tokens, prompts and models chosen against the cache: an operation stays within a stated factor of
// the same one on harmless input.
//
// Each factor is several times what is measured on an idle machine, and several times less than what
// the attack would cost where it found its mark (a list for a table, a walk for a step).
#include "counted_assert.hpp"

#include <promptkv/promptkv.hpp>

#include "../model/random.hpp"
#include "../scale/small_stack.hpp"
#include "catch.hpp"
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
using promptkv::PromptTrie;
using promptkv::Tier;

using Key = std::vector<std::int32_t>;

/// `n`, or a tenth of it where a sanitizer makes each operation cost ten times as much.
constexpr std::size_t scaled(std::size_t n) {
    return PROMPTKV_TEST_SANITIZED ? n / 10 : n;
}

/// Serves every prefix.
struct Cuttable {
    std::size_t n = 0;

    std::size_t nbytes() const noexcept { return n; }
    std::size_t reusable_prefix(std::size_t wanted) const noexcept { return wanted; }
    Cuttable clone_prefix(std::size_t wanted) const noexcept { return {wanted}; }
    void truncate(std::size_t wanted) noexcept { n = wanted; }
};

/// Serves its whole key alone.
struct Whole {
    std::size_t n = 0;

    std::size_t nbytes() const noexcept { return n; }
};

Key random_key(Random& random, std::size_t n_tokens) {
    Key key(n_tokens);
    for (std::int32_t& token : key) {
        token = static_cast<std::int32_t>(random.below(std::size_t{1} << 31U));
    }
    return key;
}

// the children of one node ///////////////////////////////////////////////////

/// The tokens from 0 up that `chosen` takes.
template <class Chosen>
Key tokens_where(std::size_t n_tokens, Chosen chosen) {
    Key tokens;
    for (std::uint32_t token = 0; tokens.size() < n_tokens; ++token) {
        if (chosen(token)) {
            tokens.push_back(static_cast<std::int32_t>(token));
        }
    }
    return tokens;
}

/// Sets of tokens that are bad for one table of children or another.
std::vector<std::pair<std::string, Key>> sets_of_tokens(std::size_t n_tokens) {
    std::vector<std::pair<std::string, Key>> sets;
    sets.emplace_back("in ascending order", tokens_where(n_tokens, [](auto) { return true; }));
    sets.emplace_back("in descending order",
                      Key(sets.front().second.rbegin(), sets.front().second.rend()));
    sets.emplace_back("equal in their low bits", tokens_where(n_tokens, [](std::uint32_t token) {
                          return token % 65'536 == 7;
                      }));
    Key high;
    for (std::size_t i = 0; i < n_tokens; ++i) {
        high.push_back(static_cast<std::int32_t>(static_cast<std::uint32_t>(i) << 18U));
    }
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
void fill_and_empty(const Key& tokens) {
    PromptTrie<std::size_t> trie;
    std::size_t found = 0;
    for (const std::int32_t& token : tokens) {
        trie.insert_or_assign(std::span(&token, 1), std::size_t{1});
    }
    for (int pass = 0; pass < 3; ++pass) {
        for (const std::int32_t token : tokens) {
            const Key present = {token};
            const Key absent = {~token};
            found += trie.find(present) ? 1U : 0U;
            found += trie.find(absent) ? 1U : 0U;
        }
    }
    for (const std::int32_t& token : tokens) {
        trie.erase(trie.find(std::span(&token, 1)));
    }
    if (found != 3 * tokens.size() || !trie.empty()) {
        FAIL("found " << found << " of " << 3 * tokens.size());
    }
}

TEST_CASE("Tokens chosen against the table of children cost at most 6 times what others do") {
    constexpr std::size_t n_tokens = 16'000;
    Random random(1);
    const Key harmless = random_key(random, n_tokens);
    const auto fill = [](const Key& tokens) {
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
            for (std::int32_t token = 1; token <= others; ++token) {
                trie->insert_or_assign(Key{token}, token);
            }
            return [trie] {
                const Key key = {0};
                for (std::size_t i = 0; i < scaled(2'000); ++i) {
                    trie->erase(trie->insert_or_assign(key, 0).first);
                }
            };
        };
    };
    double worst = 0;
    for (std::int32_t others = 1; others < 100; ++others) {
        worst = std::max(worst, slowdown(beside(others), beside(3), 3));
    }
    CHECK(worst < 15);
}

// prompts ////////////////////////////////////////////////////////////////////

/// Stores the keys in turn, each after a lookup, with room for half of them.
template <class KV>
auto serve(const std::vector<Key>& keys) {
    return [&keys] {
        return [&keys] {
            LRUPromptCache<KV> cache({.max_entries = keys.size() / 2});
            for (const Key& key : keys) {
                (void)cache.fetch_nearest("m", key);
                cache.insert("m", key, KV{key.size()}, Tier::user);
            }
            if (cache.size() != keys.size() / 2) {
                FAIL("not all were stored");
            }
        };
    };
}

TEST_CASE("Prompts that differ in their last token only cost at most 4 times what others do") {
    constexpr std::size_t n_tokens = 500;
    Random random(2);
    std::vector<Key> harmless;
    std::vector<Key> attack(scaled(4'000), random_key(random, n_tokens));
    for (Key& key : attack) {
        harmless.push_back(random_key(random, n_tokens));
        key.back() = harmless.back().back();
    }
    CHECK(slowdown(serve<Cuttable>(attack), serve<Cuttable>(harmless)) < 4);
    CHECK(slowdown(serve<Whole>(attack), serve<Whole>(harmless)) < 4);
}

TEST_CASE("A million prompts of one token cost at most 5 times what prompts of three do") {
    std::vector<Key> attack;
    std::vector<Key> harmless;
    for (std::size_t i = 0; i < scaled(1'000'000); ++i) {
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
    for (std::size_t n = key.size(); n > 0; --n) { // the longest first: each is found on one edge
        cache->insert("m", key.first(n), Whole{1}, Tier::user);
    }
    return cache;
}

TEST_CASE("Prefixes nested 100,000 deep cost at most 60 times as much a token as 200 do") {
    // A walk over all of them for each would cost 500 times as much.
    const std::size_t deep = scaled(100'000);
    constexpr std::size_t shallow = 200;
    const std::vector<std::int8_t> tokens(deep + 1, 7);
    const std::span<const std::int8_t> key = tokens;
    const auto require_all_but_one = [](const auto& hit, std::span<const std::int8_t> prompt) {
        if (hit.reused + 1 != prompt.size()) {
            FAIL("reused " << hit.reused << " of " << prompt.size());
        }
    };

    SECTION("what finds or stores one") {
        // The same number of tokens for each depth.
        const auto repeat = [&](auto operation, std::size_t depth) {
            return [=, cache = nested(key.first(depth))] {
                return [=] {
                    for (std::size_t done = 0; done < 2 * deep; done += depth) {
                        operation(*cache, key.first(depth + 1));
                    }
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
                for (std::size_t done = 0; done < deep; done += depth) {
                    caches.push_back(nested(key.first(depth)));
                }
                return [=] {
                    for (const auto& cache : caches) {
                        if (operation(*cache) < depth - 1) {
                            FAIL("not all are gone");
                        }
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

using Anchored = LRUPromptCache<Cuttable>;

/// A cache with an anchor on each prefix of a key of `depth` tokens, and two entries that go on
/// beyond it; and as many others as it takes to be allowed the anchors.
std::shared_ptr<Anchored> anchored(std::size_t depth) {
    auto cache = std::make_shared<Anchored>(promptkv::CacheOptions{.cut_granularity = 1});
    Key key(depth + 1, 7);
    for (const std::int32_t last : {-1, -2}) {
        key.back() = last;
        cache->insert("m", key, Cuttable{10 * key.size()}, Tier::assistant);
    }
    for (std::size_t i = 0; i < depth / 64; ++i) {
        const Key other = {-3, static_cast<std::int32_t>(i)};
        cache->insert("m", other, Cuttable{1}, Tier::assistant);
    }
    const std::span<const std::int32_t> tokens = key;
    for (std::size_t n = depth; n > 1; --n) {
        cache->mark("m", tokens.first(n), Tier::assistant);
    }
    if (cache->stats(Tier::assistant).anchors != depth - 1) {
        FAIL("anchors are missing");
    }
    return cache;
}

TEST_CASE("A prompt of two tokens costs at most 10 times as much beside 20,000 anchors") {
    const auto look_up = [](std::size_t depth) {
        return [cache = anchored(depth)] {
            return [cache] {
                const Key prompt = {7, 1};
                for (int i = 0; i < 5'000; ++i) {
                    if (cache->lease_nearest("m", prompt).match != Match::longer) {
                        FAIL("missed");
                    }
                }
            };
        };
    };
    CHECK(slowdown(look_up(scaled(20'000)), look_up(20)) < 10);
}

TEST_CASE("A cut over 20,000 anchors costs at most 20 times as much an anchor as over 200") {
    // Their tokens are all served by the other entry: none of them stops the cut. Were it asked for
    // anew from the tail for each of them, the factor would be 100.
    constexpr std::size_t deep = 20'000;
    const auto cut = [](std::size_t depth) {
        return [depth] {
            std::vector<std::shared_ptr<Anchored>> caches;
            for (std::size_t done = 0; done < deep; done += depth) {
                caches.push_back(anchored(depth));
            }
            return [caches] {
                for (const auto& cache : caches) {
                    const std::size_t held = cache->nbytes();
                    cache->trim_to({.max_bytes = held - 10});
                    if (cache->nbytes() == held) {
                        FAIL("nothing was freed");
                    }
                }
            };
        };
    };
    CHECK(slowdown(cut(deep), cut(deep / 100), 4) < 20);
}

// models /////////////////////////////////////////////////////////////////////

TEST_CASE("Models that come and go cost at most 10 times as much among 50,000 as among 50") {
    const auto come_and_go = [](std::size_t models) {
        auto cache = std::make_shared<Anchored>(promptkv::CacheOptions{.max_entries = models});
        const auto come = [cache](std::size_t number) {
            const Key key = {1, 2, 3};
            cache->insert("tenant " + std::to_string(number), key, Cuttable{3}, Tier::user);
        };
        for (std::size_t i = 0; i < models; ++i) {
            come(i);
        }
        return [=, next = models]() mutable {
            const std::size_t first = std::exchange(next, next + 2'000);
            return [=] {
                for (std::size_t i = first; i < first + 2'000; ++i) {
                    come(i); // and another goes
                }
            };
        };
    };
    CHECK(slowdown(come_and_go(scaled(50'000)), come_and_go(50)) < 10);
}

} // namespace
