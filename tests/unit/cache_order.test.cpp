// SPDX-License-Identifier: MIT
// CacheOrder: one recency queue a tier, and the rule that picks the victim.

#include <promptkv/cache_order.hpp>

#include "catch.hpp"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace of_cache_order {

enum class Single : std::uint8_t { only };
enum class Pair : std::uint8_t { low, high };
enum class Five : std::uint8_t { a, b, c, d, e };

} // namespace of_cache_order

template <>
struct promptkv::tier_traits<of_cache_order::Single> {
    static constexpr std::size_t count = 1;
};
template <>
struct promptkv::tier_traits<of_cache_order::Pair> {
    static constexpr std::size_t count = 2;
};
template <>
struct promptkv::tier_traits<of_cache_order::Five> {
    static constexpr std::size_t count = 5;
};

namespace of_cache_order {

using promptkv::CacheOrder;
using promptkv::Tier;

/// Pops everything: the keys in the order in which they leave, written one after the other.
template <class TierEnum>
std::string drain(CacheOrder<char, TierEnum>& order) {
    std::string left;
    while (const std::optional<char> key = order.pop())
        left.push_back(*key);
    return left;
}

TEST_CASE("CacheOrder that is empty has nothing to give") {
    CacheOrder<char> order;
    REQUIRE(order.empty());
    REQUIRE(order.size() == 0);
    REQUIRE(order.size(Tier::assistant) == 0);
    REQUIRE(order.size(Tier::user) == 0);
    REQUIRE(order.size(Tier::system) == 0);
    REQUIRE_FALSE(order.pop().has_value());
}

TEST_CASE("CacheOrder remembers key and tier of a position") {
    CacheOrder<std::string> order;
    const auto first = order.push("first", Tier::user);
    const auto second = order.push("second", Tier::system);
    REQUIRE(order.key(first) == "first");
    REQUIRE(order.tier(first) == Tier::user);
    REQUIRE(order.key(second) == "second");
    REQUIRE(order.tier(second) == Tier::system);
    REQUIRE(order.size() == 2);
    REQUIRE(order.size(Tier::user) == 1);
    REQUIRE(order.size(Tier::system) == 1);
    REQUIRE(order.size(Tier::assistant) == 0);
    REQUIRE_FALSE(order.empty());
}

TEST_CASE("CacheOrder gives the least recently used key of a tier first") {
    CacheOrder<char> order;
    const auto a = order.push('a', Tier::user);
    const auto b = order.push('b', Tier::user);
    const auto c = order.push('c', Tier::user);

    SECTION("in the order of the pushes") {
        REQUIRE(drain(order) == "abc");
    }
    SECTION("touch makes a key the most recently used one") {
        order.touch(a);
        REQUIRE(drain(order) == "bca");
    }
    SECTION("touch of the hottest key changes nothing") {
        order.touch(c);
        REQUIRE(drain(order) == "abc");
    }
    SECTION("demote makes a key the least recently used one") {
        order.demote(c);
        REQUIRE(drain(order) == "cab");
    }
    SECTION("demote of the coldest key changes nothing") {
        order.demote(a);
        REQUIRE(drain(order) == "abc");
    }
    SECTION("remove takes a key out, wherever it is") {
        order.remove(b);
        REQUIRE(order.size() == 2);
        REQUIRE(order.size(Tier::user) == 2);
        REQUIRE(drain(order) == "ac");
    }
    SECTION("the others' positions stay valid") {
        order.remove(a);
        order.touch(b);
        REQUIRE(order.key(b) == 'b');
        REQUIRE(order.key(c) == 'c');
        REQUIRE(drain(order) == "cb");
    }
    REQUIRE(order.empty());
    REQUIRE(order.size(Tier::user) == 0);
}

TEST_CASE("CacheOrder touches and demotes within the key's own tier") {
    CacheOrder<char> order;
    const auto a = order.push('a', Tier::assistant);
    order.push('s', Tier::system);
    order.push('b', Tier::assistant);
    order.touch(a);
    REQUIRE(order.tier(a) == Tier::assistant);
    REQUIRE(drain(order) == "bas");
}

TEST_CASE("CacheOrder spares a tier shorter than the next one that is not empty") {
    struct Row {
        std::size_t assistants, users, systems;
        std::optional<Tier> from;
    };
    const Row row = GENERATE(values<Row>({
        {0, 0, 0, std::nullopt},
        {1, 0, 0, Tier::assistant},
        {0, 1, 0, Tier::user},
        {0, 0, 1, Tier::system},
        {1, 1, 0, Tier::assistant},
        {1, 2, 0, Tier::user},
        {1, 2, 2, Tier::user},
        {1, 2, 3, Tier::system},
        {2, 2, 9, Tier::assistant},
        {3, 9, 9, Tier::user},
        {0, 1, 2, Tier::system},
        {1, 0, 1, Tier::assistant}, // the next tier that is not empty is the system tier
        {1, 0, 2, Tier::system},
        {2, 0, 2, Tier::assistant},
        {3, 0, 9, Tier::system},
        {0, 2, 1, Tier::user},
        {3, 2, 1, Tier::assistant},
        {0, 1, 1, Tier::user},
        {1, 3, 2, Tier::user},
    }));
    CAPTURE(row.assistants, row.users, row.systems);
    CacheOrder<Tier> order;
    for (std::size_t i = 0; i < row.assistants; ++i)
        order.push(Tier::assistant, Tier::assistant);
    for (std::size_t i = 0; i < row.users; ++i)
        order.push(Tier::user, Tier::user);
    for (std::size_t i = 0; i < row.systems; ++i)
        order.push(Tier::system, Tier::system);
    const std::optional<Tier> popped = order.pop();
    REQUIRE((popped == row.from));
}

TEST_CASE("CacheOrder gives assistants until they are fewer than users, then users") {
    CacheOrder<char> order;
    for (const char key : {'a', 'b', 'c'})
        order.push(key, Tier::assistant);
    for (const char key : {'m', 'n'})
        order.push(key, Tier::user);
    order.push('x', Tier::system);
    REQUIRE(drain(order) == "abmcnx");
}

TEST_CASE("CacheOrder moves a key to another tier when it is touched there") {
    CacheOrder<char> order;
    const auto a = order.push('a', Tier::assistant);
    order.push('b', Tier::assistant);
    order.push('s', Tier::system);
    order.touch(a, Tier::system);
    REQUIRE(order.tier(a) == Tier::system);
    REQUIRE(order.size() == 3);
    REQUIRE(order.size(Tier::assistant) == 1);
    REQUIRE(order.size(Tier::system) == 2);
    REQUIRE(order.check_invariants());
    REQUIRE(drain(order) == "sba"); // one assistant is fewer than two system keys
}

TEST_CASE("CacheOrder shows the next victim and leaves it where it is") {
    CacheOrder<char> order;
    CHECK_FALSE(order.victim());
    const auto a = order.push('a', Tier::user);
    const auto b = order.push('b', Tier::user);
    CHECK((order.victim() == a));
    CHECK((order.victim() == a));
    order.touch(a);
    CHECK((order.victim() == b));
    order.push('s', Tier::system);
    order.push('t', Tier::system);
    const auto r = order.push('r', Tier::system);
    CHECK(order.key(order.victim()) == 's');
    order.demote(r);
    CHECK((order.victim() == r));
    CHECK(order.size() == 5);
    CHECK(order.pop() == 'r');
}

TEST_CASE("CacheOrder visits its keys tier by tier, the coldest of each first") {
    CacheOrder<char> order;
    order.push('s', Tier::system);
    order.push('a', Tier::assistant);
    order.push('b', Tier::assistant);
    std::string visited;
    order.for_each([&visited](char key, Tier tier) {
        visited += key + std::to_string(static_cast<int>(tier));
    });
    CHECK(visited == "a0b0s2");
}

TEST_CASE("CacheOrder that is cleared is empty and may be used again") {
    CacheOrder<std::string> order;
    order.push("a key that is too long to be kept within a string", Tier::user);
    order.push("another", Tier::system);
    REQUIRE(order.nbytes() > 0);
    order.clear();
    REQUIRE(order.empty());
    REQUIRE(order.size(Tier::user) == 0);
    REQUIRE(order.nbytes() == 0);
    REQUIRE(order.check_invariants());
    order.push("again", Tier::user);
    REQUIRE(order.pop() == "again");
}

TEST_CASE("CacheOrder works with any number of tiers") {
    SECTION("one") {
        CacheOrder<char, Single> order;
        order.push('a', Single::only);
        const auto b = order.push('b', Single::only);
        order.demote(b);
        REQUIRE(order.size(Single::only) == 2);
        REQUIRE(drain(order) == "ba");
    }
    SECTION("two") {
        CacheOrder<char, Pair> order;
        order.push('a', Pair::low);
        order.push('m', Pair::high);
        order.push('n', Pair::high);
        REQUIRE(drain(order) == "man");
    }
    SECTION("five") {
        CacheOrder<char, Five> order;
        order.push('e', Five::e);
        order.push('d', Five::d);
        order.push('c', Five::c);
        order.push('b', Five::b);
        order.push('a', Five::a);
        REQUIRE(drain(order) == "abcde");
    }
}

TEST_CASE("CacheOrder takes from the last tier where every other is shorter than the next") {
    CacheOrder<char, Five> order;
    const std::string keys = "abbcccddddeeeee";
    for (const char key : keys)
        order.push(key, static_cast<Five>(key - 'a'));
    std::string left;
    for (int i = 0; i < 4; ++i)
        left.push_back(*order.pop());
    // The last tier, until it is as long as the one before it; then that one, and so on.
    REQUIRE(left == "edcb");
}

TEST_CASE("CacheOrder takes a key that can only be moved") {
    struct MoveOnly {
        explicit MoveOnly(int number) : n(number) {}
        MoveOnly(MoveOnly&&) noexcept = default;
        MoveOnly& operator=(MoveOnly&&) noexcept = default;
        int n;
    };
    CacheOrder<MoveOnly> order;
    order.push(MoveOnly(7), Tier::user);
    const std::optional<MoveOnly> popped = order.pop();
    REQUIRE(popped.has_value());
    REQUIRE(popped->n == 7);
}

TEST_CASE("CacheOrder keeps its positions when it is moved") {
    CacheOrder<char> order;
    const auto a = order.push('a', Tier::user);
    order.push('b', Tier::user);
    CacheOrder<char> moved = std::move(order);
    REQUIRE(order.empty()); // NOLINT(bugprone-use-after-move): it may be used as a new one
    REQUIRE(moved.key(a) == 'a');
    moved.touch(a);

    CacheOrder<char> assigned;
    assigned.push('x', Tier::system);
    assigned = std::move(moved);
    REQUIRE(assigned.check_invariants());
    REQUIRE(drain(assigned) == "ba");
}

} // namespace of_cache_order
