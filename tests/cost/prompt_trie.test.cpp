// SPDX-License-Identifier: MIT
// What PromptTrie costs: allocations, nodes and memory.

#include <promptkv/prompt_trie.hpp>

#include "catch.hpp"
#include "counting_new.hpp"
#include "unit_payloads.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <random>
#include <span>
#include <vector>

namespace {

using namespace promptkv_test;
using promptkv::PromptTrie;

/// The number of allocations that `act` makes.
template <class Act>
std::size_t allocations_of(Act act) {
    const std::size_t before = allocations;
    act();
    return allocations - before;
}

TEST_CASE("Lookups of PromptTrie allocate nothing") {
    PromptTrie<int> trie;
    const Key key = counting(4'096);
    for (std::size_t n = 64; n <= key.size(); n += 64)
        trie.insert_or_assign(std::span(key).first(n), static_cast<int>(n));
    Key other = key;
    other[4'000] = -1;
    int found = 0;
    const std::size_t n_allocations = allocations_of([&] {
        found += trie.find(key) ? 1 : 0;
        found += trie.find(other) ? 1 : 0;
        found += trie.search(key).exact ? 1 : 0;
        found += trie.search(other).shorter ? 1 : 0;
        found += trie.search(std::span(key).first(1)).longer ? 1 : 0;
        trie.for_each_prefix(other, [&found](auto) { ++found; });
        found += trie.size() == 64 && trie.node_count() == 65 && trie.nbytes() > 0 ? 1 : 0;
    });
    REQUIRE(found == 1 + 0 + 1 + 1 + 1 + 62 + 1);
    REQUIRE(n_allocations == 0);
}

TEST_CASE("Erasing from PromptTrie allocates nothing but what a joined edge needs") {
    PromptTrie<int> trie;
    const Key key = counting(100);
    const auto inner = trie.insert_or_assign(std::span(key).first(50), 1).first;
    const auto leaf = trie.insert_or_assign(key, 2).first;
    REQUIRE(allocations_of([&] { trie.erase(inner); }) <= 1);
    REQUIRE(allocations_of([&] { trie.erase(leaf); }) == 0);
    REQUIRE(trie.empty());
}

TEST_CASE("PromptTrie copies a token a few times at most when a thousand edges are joined") {
    // Siblings branch off at a thousand places of one long key; without them its edge is one again.
    constexpr std::size_t siblings = 1'000;
    const Key key = counting(100'000);
    PromptTrie<int> trie;
    trie.insert_or_assign(key, 0);
    std::vector<PromptTrie<int>::Handle> handles;
    for (std::size_t i = 1; i <= siblings; ++i) {
        Key sibling(key.begin(), key.begin() + static_cast<std::ptrdiff_t>(i * 99));
        sibling.push_back(-1);
        handles.push_back(trie.insert_or_assign(sibling, 1).first);
    }
    const int order = GENERATE(0, 1, 2);
    CAPTURE(order);
    if (order == 1)
        std::reverse(handles.begin(), handles.end());
    else if (order == 2)
        std::shuffle(handles.begin(), handles.end(), std::mt19937(5));
    const std::size_t before = allocated_bytes;
    for (const auto handle : handles)
        trie.erase(handle);
    // A join that cannot be done in place allocates its result.
    const std::size_t copied = allocated_bytes - before;
    CHECK(copied <= 16 * key.size() * sizeof(std::int32_t));
    CHECK(trie.node_count() == 2);
    CHECK(trie.check_invariants());
}

TEST_CASE("The allocations of an insert into PromptTrie do not depend on the length of the key") {
    const auto of_length = [](std::size_t n, std::size_t shared) {
        PromptTrie<int> trie;
        trie.insert_or_assign(counting(n), 1);
        Key key = counting(n);
        for (std::size_t i = shared; i < n; ++i)
            key[i] = -1;
        return allocations_of([&] { trie.insert_or_assign(key, 2); });
    };
    const std::size_t apart = of_length(16, 0);
    const std::size_t halves = of_length(16, 8);
    for (const std::size_t n : {256U, 4'096U, 65'536U, 1'048'576U}) {
        CAPTURE(n);
        REQUIRE(of_length(n, 0) == apart);
        REQUIRE(of_length(n, n / 2) == halves);
    }
    REQUIRE(apart <= 4);
    REQUIRE(halves <= 6);
}

TEST_CASE("PromptTrie has at most two nodes per value, and the root") {
    std::mt19937 random(7);
    const auto below = [&random](std::size_t n) {
        return std::uniform_int_distribution<std::size_t>(0, n - 1)(random);
    };
    PromptTrie<int> trie;
    std::size_t worst = 0;
    for (int step = 0; step < 20'000; ++step) {
        Key key(1 + below(12));
        for (std::int32_t& token : key)
            token = static_cast<std::int32_t>(below(3));
        if (below(2) == 0)
            trie.insert_or_assign(key, step);
        else if (const auto handle = trie.find(key))
            trie.erase(handle);
        if (trie.node_count() > 2 * trie.size() + 1)
            ++worst;
    }
    REQUIRE(worst == 0);
    REQUIRE(trie.size() > 100);
}

TEST_CASE("PromptTrie says how much memory it has") {
    const std::size_t outside = live_bytes;
    {
        PromptTrie<int> trie;
        const std::size_t empty = trie.nbytes();
        const auto reported = [&] { return trie.nbytes() - empty; };
        const auto close_to = [](std::size_t said, std::size_t had) {
            return said * 100 >= had * 97 && said * 100 <= had * 103;
        };
        const std::size_t before = live_bytes;
        std::mt19937 random(3);
        for (std::int32_t i = 0; i < 5'000; ++i) {
            const Key key = counting(20 + random() % 200, i % 1'000 * 1'000);
            trie.insert_or_assign(key, i);
        }
        CAPTURE(reported(), live_bytes - before);
        const std::size_t full = live_bytes - before;
        const std::size_t full_reported = reported();
        trie.clear();
        const std::size_t cleared = live_bytes - before;
        const std::size_t cleared_reported = reported();
        CHECK(close_to(full_reported, full));
        CHECK(cleared_reported == 0);
        CHECK(cleared <= 4'096); // of the test itself
    }
    REQUIRE(live_bytes <= outside + 4'096);
}

} // namespace
