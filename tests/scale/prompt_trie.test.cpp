// SPDX-License-Identifier: MIT
// PromptTrie at its largest: depth, fan-out, number of keys, length of a key.

#include <promptkv/prompt_trie.hpp>

#include "catch.hpp"
#include "small_stack.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace {

using namespace promptkv_test;
using promptkv::PromptTrie;

/// A chain of one-token steps: a value at each prefix of `key`. The longest comes first, so that
/// each insert finds its place on one edge.
template <class Trie, class Token>
void insert_chain(Trie& trie, std::span<const Token> key) {
    for (std::size_t n = key.size(); n > 0; --n)
        trie.insert_or_assign(key.first(n), static_cast<int>(n));
}

TEST_CASE("PromptTrie of 200,000 nodes one below the other fits a stack of 256 KiB") {
    REQUIRE(on_small_stack([] {
        const std::vector<std::int8_t> key(deep, 7);
        const std::span<const std::int8_t> tokens = key;
        std::optional<PromptTrie<int, std::int8_t>> trie(std::in_place);
        insert_chain(*trie, tokens);
        REQUIRE(trie->size() == deep);
        REQUIRE(trie->node_count() == deep + 1);
        REQUIRE(trie->check_invariants());

        REQUIRE(*trie->find(tokens) == static_cast<int>(deep));
        REQUIRE(trie->key(trie->find(tokens)).size() == deep);
        const auto found = trie->search(tokens);
        REQUIRE(*found.exact == static_cast<int>(deep));
        REQUIRE(*found.shorter == static_cast<int>(deep) - 1);
        REQUIRE_FALSE(found.longer);
        REQUIRE(*trie->search(tokens.first(1)).longer == 2);
        std::size_t visited = 0;
        trie->for_each_prefix(tokens, [&visited](auto) { ++visited; });
        REQUIRE(visited == deep);

        // A lone inner value is erased: its two edges are joined.
        trie->erase(trie->find(tokens.first(deep / 2)));
        REQUIRE(trie->node_count() == deep);
        REQUIRE(*trie->search(tokens.first(deep / 2)).longer == static_cast<int>(deep / 2) + 1);
        REQUIRE(trie->pop_prefixes(tokens).size() == deep - 2);
        REQUIRE(trie->size() == 1);
        REQUIRE(trie->node_count() == 2);

        insert_chain(*trie, tokens.first(deep / 10));
        trie->clear();
        REQUIRE(trie->empty());
        insert_chain(*trie, tokens.first(deep / 2));
        trie.reset(); // the destructor does not recurse either
    }));
}

TEST_CASE("PromptTrie holds a comb: at each step of a long chain a key branches off") {
    REQUIRE(on_small_stack([] {
        constexpr std::size_t teeth = 20'000;
        const std::vector<std::int8_t> spine(teeth, 1);
        const std::span<const std::int8_t> tokens = spine;
        PromptTrie<int, std::int8_t> trie;
        trie.insert_or_assign(tokens, 0);
        std::vector<std::int8_t> tooth;
        for (std::size_t n = teeth - 1; n > 0; --n) {
            tooth.assign(spine.begin(), spine.begin() + static_cast<std::ptrdiff_t>(n));
            tooth.push_back(2);
            trie.insert_or_assign(tooth, static_cast<int>(n));
        }
        REQUIRE(trie.size() == teeth);
        REQUIRE(trie.node_count() == 2 * teeth);
        REQUIRE(*trie.search(tokens.first(5)).longer == 5);
        const auto found = trie.search(tokens);
        REQUIRE(*found.exact == 0);
        REQUIRE_FALSE(found.shorter);
        REQUIRE(trie.check_invariants());
        trie.clear();
        REQUIRE(trie.node_count() <= 1);
    }));
}

TEST_CASE("PromptTrie finds the nearest of 100,000 children, also while they leave") {
    constexpr std::int32_t children = 100'000;
    const auto tail_of = [](std::int32_t child) {
        return static_cast<std::size_t>((child * 7'919LL) % 97);
    };
    PromptTrie<std::int32_t> trie;
    std::vector<std::int32_t> key;
    for (std::int32_t child = 0; child < children; ++child) {
        key.assign(2 + tail_of(child), child);
        key.front() = -1;
        trie.insert_or_assign(key, child);
    }
    REQUIRE(trie.size() == static_cast<std::size_t>(children));
    const std::vector<std::int32_t> top = {-1};
    std::size_t last = 0;
    for (int gone = 0; gone < 50'000; ++gone) {
        const auto nearest = trie.search(top).longer;
        const std::size_t length = trie.length(nearest);
        if (length < last)
            FAIL("a nearer one was there before");
        last = length;
        trie.erase(nearest);
    }
    REQUIRE(last >= 2 + 45);
    REQUIRE(trie.size() == 50'000);
    REQUIRE(trie.node_count() == 50'000 + 2);
    REQUIRE(trie.check_invariants());
    // The others are all where they were.
    std::size_t wrong = 0;
    for (std::int32_t child = 0; child < children; ++child) {
        key.assign(2 + tail_of(child), child);
        key.front() = -1;
        const auto handle = trie.find(key);
        if (handle ? *handle != child : key.size() > last)
            ++wrong;
    }
    REQUIRE(wrong == 0);
}

TEST_CASE("PromptTrie takes a key of a million tokens") {
    constexpr std::size_t million = 1'000'000;
    std::vector<std::int32_t> key(million);
    for (std::size_t i = 0; i < million; ++i)
        key[i] = static_cast<std::int32_t>(i * 2'654'435'761U % 150'000);
    const std::span<const std::int32_t> tokens = key;
    PromptTrie<int> trie;
    trie.insert_or_assign(tokens, 1);
    trie.insert_or_assign(tokens.first(million - 1), 2);
    trie.insert_or_assign(tokens.first(million / 2), 3);
    std::vector<std::int32_t> branch = key;
    branch[million * 3 / 4] = -1;
    trie.insert_or_assign(branch, 4);
    REQUIRE(*trie.find(tokens) == 1);
    REQUIRE(*trie.search(tokens).shorter == 2);
    REQUIRE(trie.search(branch).common_prefix == million);
    REQUIRE((trie.key(trie.find(branch)) == branch));
    REQUIRE((trie.key(trie.find(tokens)) == key));
    REQUIRE(trie.nbytes() < 2 * million * sizeof(std::int32_t));
    trie.erase(trie.find(branch));
    trie.erase(trie.find(tokens.first(million / 2)));
    trie.erase(trie.find(tokens.first(million - 1)));
    REQUIRE(trie.node_count() == 2);
    REQUIRE(*trie.find(tokens) == 1);
    REQUIRE(trie.check_invariants());
}

} // namespace
