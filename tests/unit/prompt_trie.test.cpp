// SPDX-License-Identifier: MIT
// PromptTrie: token sequences to values, asked by prefix.

#include <promptkv/prompt_trie.hpp>

#include "catch.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <random>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace {

using promptkv::PromptTrie;

/// A trie whose tokens are characters and whose values say which key they stand at.
using Trie = PromptTrie<std::string, char>;

/// Stores each of `keys` with itself as its value.
Trie trie_of(std::initializer_list<std::string_view> keys) {
    Trie trie;
    for (const std::string_view key : keys)
        trie.insert_or_assign(key, std::string(key));
    return trie;
}

/// What a handle points to, "-" where it points to nothing.
template <class Handle>
std::string value_at(const Handle& handle) {
    return handle ? *handle : "-";
}

TEST_CASE("PromptTrie that is empty finds nothing") {
    Trie trie;
    REQUIRE(trie.empty());
    REQUIRE(trie.size() == 0);
    REQUIRE(trie.node_count() <= 1);
    const std::string_view key = GENERATE(as<std::string_view>(), "", "a", "abc");
    REQUIRE_FALSE(trie.find(key));
    const auto found = trie.search(key);
    REQUIRE_FALSE(found.exact);
    REQUIRE_FALSE(found.shorter);
    REQUIRE_FALSE(found.longer);
    REQUIRE(found.common_prefix == 0);
    REQUIRE(trie.pop_prefixes(key).empty());
    REQUIRE(trie.check_invariants());
}

TEST_CASE("PromptTrie finds what was inserted, and only that") {
    Trie trie = trie_of({"abc", "abd", "ab", "x", "abcde"});
    REQUIRE(trie.size() == 5);
    REQUIRE_FALSE(trie.empty());
    for (const std::string_view key : {"abc", "abd", "ab", "x", "abcde"}) {
        REQUIRE(value_at(trie.find(key)) == key);
        REQUIRE(value_at(std::as_const(trie).find(key)) == key);
    }
    for (const std::string_view key : {"", "a", "abcd", "abcdef", "b", "xy", "abx"})
        REQUIRE(value_at(trie.find(key)) == "-");
    REQUIRE(trie.check_invariants());
}

TEST_CASE("PromptTrie insert_or_assign tells whether the key is new") {
    Trie trie;
    const auto [handle, inserted] = trie.insert_or_assign(std::string_view("abc"), "first");
    REQUIRE(inserted);
    REQUIRE(value_at(handle) == "first");

    const auto [again, inserted_again] = trie.insert_or_assign(std::string_view("abc"), "second");
    REQUIRE_FALSE(inserted_again);
    REQUIRE(value_at(again) == "second");
    REQUIRE((again == handle));
    REQUIRE(trie.size() == 1);
}

TEST_CASE("PromptTrie has a value at the empty key") {
    Trie trie = trie_of({"", "ab"});
    const std::string_view empty;
    REQUIRE(trie.size() == 2);
    REQUIRE(trie.find(empty));
    REQUIRE(trie.length(trie.find(empty)) == 0);
    REQUIRE(trie.key(trie.find(empty)).empty());
    REQUIRE(trie.search(std::string_view("x")).shorter == trie.find(empty));

    trie.erase(trie.find(empty));
    REQUIRE(trie.size() == 1);
    REQUIRE_FALSE(trie.find(empty));
    REQUIRE_FALSE(trie.search(std::string_view("x")).shorter);
    REQUIRE(trie.check_invariants());
}

TEST_CASE("PromptTrie handle behaves like a pointer to its value") {
    Trie trie;
    const auto handle = trie.insert_or_assign(std::string_view("abc"), "value").first;
    REQUIRE((handle != nullptr));
    REQUIRE(handle->size() == 5);
    *handle = "changed";
    REQUIRE(value_at(trie.find(std::string_view("abc"))) == "changed");
    const Trie::Handle none;
    REQUIRE((none == nullptr));
    REQUIRE_FALSE(none);
}

TEST_CASE("PromptTrie materialises the key of a handle") {
    Trie trie = trie_of({"abcdef", "abc", "abxyz", "", "q"});
    for (const std::string_view key : {"abcdef", "abc", "abxyz", "", "q"}) {
        const auto handle = trie.find(key);
        REQUIRE(trie.length(handle) == key.size());
        const std::vector<char> tokens = trie.key(handle);
        REQUIRE(std::string(tokens.begin(), tokens.end()) == key);
    }
}

TEST_CASE("PromptTrie search finds the values at, before and beyond a key") {
    struct Row {
        std::string_view asked, exact, shorter, longer;
        std::size_t common_prefix;
    };
    const Trie trie = trie_of({"a", "abc", "abcdef", "abcdefgh", "abx", "zzz"});
    const Row row = GENERATE(values<Row>({
        {"abc", "abc", "a", "abcdef", 3},
        {"ab", "-", "a", "?", 2},
        {"abcd", "-", "abc", "abcdef", 4},
        {"abcdq", "-", "abc", "abcdef", 4},
        {"abcq", "-", "abc", "abcdef", 3},
        {"abcdefg", "-", "abcdef", "abcdefgh", 7},
        {"abcdefgh", "abcdefgh", "abcdef", "-", 8},
        {"abcdefghi", "-", "abcdefgh", "-", 8},
        {"aq", "-", "a", "?", 1},
        {"a", "a", "-", "?", 1},
        {"zz", "-", "-", "zzz", 2},
        {"zzq", "-", "-", "zzz", 2},
    }));
    CAPTURE(row.asked);
    const auto found = trie.search(row.asked);
    CHECK(value_at(found.exact) == row.exact);
    CHECK(value_at(found.shorter) == row.shorter);
    CHECK(found.common_prefix == row.common_prefix);
    if (row.longer == "?") // abc and abx are as near
        CHECK(found.longer->size() == 3);
    else
        CHECK(value_at(found.longer) == row.longer);
}

TEST_CASE("PromptTrie counts a one-token key as a shorter match") {
    const Trie trie = trie_of({"7"});
    const auto found = trie.search(std::string_view("789"));
    REQUIRE(value_at(found.shorter) == "7");
    REQUIRE(found.common_prefix == 1);
}

TEST_CASE("PromptTrie counts the matching tokens of an edge that is left half way") {
    const Trie trie = trie_of({"123", "1234"});
    REQUIRE(trie.search(std::string_view("124")).common_prefix == 2);
}

TEST_CASE("PromptTrie gives the longer value with the fewest extra tokens") {
    Trie trie = trie_of({"aaaaaaaa", "abbbb", "acc", "acccccc"});
    REQUIRE(value_at(trie.search(std::string_view("a")).longer) == "acc");

    SECTION("also after a nearer one came") {
        trie.insert_or_assign(std::string_view("ab"), "ab");
        REQUIRE(value_at(trie.search(std::string_view("a")).longer) == "ab");
    }
    SECTION("also after the nearest one left") {
        trie.erase(trie.find(std::string_view("acc")));
        REQUIRE(value_at(trie.search(std::string_view("a")).longer) == "abbbb");
        trie.erase(trie.find(std::string_view("abbbb")));
        REQUIRE(value_at(trie.search(std::string_view("a")).longer) == "acccccc");
        trie.erase(trie.find(std::string_view("acccccc")));
        REQUIRE(value_at(trie.search(std::string_view("a")).longer) == "aaaaaaaa");
        trie.erase(trie.find(std::string_view("aaaaaaaa")));
        REQUIRE(value_at(trie.search(std::string_view("a")).longer) == "-");
    }
    REQUIRE(trie.check_invariants());
}

TEST_CASE("PromptTrie visits the values on the prefixes of a key, shortest first") {
    Trie trie = trie_of({"", "a", "abc", "abx", "abcdef", "abcdefgh", "b"});
    const auto visited = [&trie](std::string_view key) {
        std::string all;
        trie.for_each_prefix(key, [&all](const auto& handle) { all += *handle + "|"; });
        return all;
    };
    REQUIRE(visited("abcdef") == "|a|abc|abcdef|");
    REQUIRE(visited("abcdefg") == "|a|abc|abcdef|");
    REQUIRE(visited("abcd") == "|a|abc|");
    REQUIRE(visited("abq") == "|a|");
    REQUIRE(visited("") == "|");
    REQUIRE(visited("q") == "|");

    std::string all; // of a const trie as well
    std::as_const(trie).for_each_prefix(std::string_view("abc"),
                                        [&all](const auto& handle) { all += *handle + "|"; });
    REQUIRE(all == "|a|abc|");
}

TEST_CASE("PromptTrie pops the strict prefixes of a key, never the key itself") {
    Trie trie = trie_of({"", "a", "abc", "abcd", "abcx", "b"});
    const auto popped = trie.pop_prefixes(std::string_view("abcd"));
    REQUIRE(popped.size() == 3);
    CHECK(popped[0].length == 0);
    CHECK(popped[0].value.empty());
    CHECK(popped[1].length == 1);
    CHECK(popped[1].value == "a");
    CHECK(popped[2].length == 3);
    CHECK(popped[2].value == "abc");
    CHECK(trie.size() == 3);
    for (const std::string_view kept : {"abcd", "abcx", "b"})
        CHECK(value_at(trie.find(kept)) == kept);
    REQUIRE(trie.check_invariants());

    SECTION("a second time there are none") {
        REQUIRE(trie.pop_prefixes(std::string_view("abcd")).empty());
    }
    SECTION("a key that is not stored has prefixes, too") {
        const auto more = trie.pop_prefixes(std::string_view("abcdq"));
        REQUIRE(more.size() == 1);
        REQUIRE(more[0].value == "abcd");
        REQUIRE(trie.node_count() <= 2 * trie.size() + 1);
    }
}

TEST_CASE("PromptTrie leaves no node behind") {
    Trie trie = trie_of({"abcdef", "abcxyz", "abc"});
    REQUIRE(trie.node_count() == 4);

    SECTION("an inner node without a value leaves when it has one child left") {
        trie.erase(trie.find(std::string_view("abc")));
        REQUIRE(trie.node_count() == 4); // it still joins two
        trie.erase(trie.find(std::string_view("abcxyz")));
        REQUIRE(trie.node_count() == 2);
        REQUIRE(value_at(trie.find(std::string_view("abcdef"))) == "abcdef");
    }
    SECTION("a leaf leaves with its value, and its parent merges when it has none") {
        trie.erase(trie.find(std::string_view("abcdef")));
        REQUIRE(trie.node_count() == 3);
        trie.erase(trie.find(std::string_view("abc")));
        REQUIRE(trie.node_count() == 2);
        REQUIRE(value_at(trie.find(std::string_view("abcxyz"))) == "abcxyz");
    }
    SECTION("the root stays, however empty") {
        trie.erase(trie.find(std::string_view("abcdef")));
        trie.erase(trie.find(std::string_view("abcxyz")));
        trie.erase(trie.find(std::string_view("abc")));
        REQUIRE(trie.node_count() == 1);
        REQUIRE(trie.empty());
    }
    SECTION("pop_prefixes leaves none either") {
        trie.erase(trie.find(std::string_view("abcxyz")));
        REQUIRE(trie.pop_prefixes(std::string_view("abcdef")).size() == 1);
        REQUIRE(trie.node_count() == 2);
    }
    REQUIRE(trie.check_invariants());
}

TEST_CASE("PromptTrie never moves a value when it splits or merges an edge") {
    Trie trie;
    const auto handle = trie.insert_or_assign(std::string_view("abcdef"), "stays").first;
    const std::string* const address = &*handle;
    trie.insert_or_assign(std::string_view("abcxyz"), "splits");
    trie.insert_or_assign(std::string_view("abcde"), "splits again");
    trie.insert_or_assign(std::string_view("abcdefgh"), "extends");
    trie.insert_or_assign(std::string_view(""), "root");
    REQUIRE((trie.find(std::string_view("abcdef")) == handle));
    REQUIRE(&*trie.find(std::string_view("abcdef")) == address);

    trie.erase(trie.find(std::string_view("abcxyz")));
    trie.erase(trie.find(std::string_view("abcde")));
    trie.erase(trie.find(std::string_view("abcdefgh")));
    REQUIRE(&*trie.find(std::string_view("abcdef")) == address);
    REQUIRE(*handle == "stays");
    REQUIRE(trie.length(handle) == 6);
    REQUIRE(trie.node_count() == 3 - 1); // the root, which holds a value, and the key's node
    REQUIRE(trie.check_invariants());
}

TEST_CASE("PromptTrie keeps values that can only be moved") {
    PromptTrie<std::unique_ptr<int>, char> trie;
    trie.insert_or_assign(std::string_view("ab"), std::make_unique<int>(1));
    trie.insert_or_assign(std::string_view("abc"), std::make_unique<int>(2));
    trie.insert_or_assign(std::string_view("ab"), std::make_unique<int>(3));
    REQUIRE(**trie.find(std::string_view("ab")) == 3);
    const auto popped = trie.pop_prefixes(std::string_view("abc"));
    REQUIRE(popped.size() == 1);
    REQUIRE(*popped[0].value == 3);
}

TEST_CASE("PromptTrie destroys each value once") {
    const auto counted = std::make_shared<int>(0);
    {
        PromptTrie<std::shared_ptr<int>, char> trie;
        for (const std::string_view key : {"abc", "abd", "ab", "", "xyz"})
            trie.insert_or_assign(key, counted);
        REQUIRE(counted.use_count() == 6);
        trie.insert_or_assign(std::string_view("abc"), counted);
        REQUIRE(counted.use_count() == 6);
        trie.erase(trie.find(std::string_view("ab")));
        REQUIRE(counted.use_count() == 5);

        SECTION("when it is cleared") {
            trie.clear();
            REQUIRE(counted.use_count() == 1);
            REQUIRE(trie.empty());
            REQUIRE(trie.node_count() <= 1);
            REQUIRE(trie.check_invariants());
            trie.insert_or_assign(std::string_view("ab"), counted);
            REQUIRE(trie.size() == 1);
        }
        SECTION("when it is moved") {
            auto other = std::move(trie);
            REQUIRE(other.size() == 4);
            REQUIRE(counted.use_count() == 5);
            REQUIRE(other.find(std::string_view("xyz")));
            REQUIRE(other.check_invariants());
        }
        SECTION("when it is assigned to") {
            PromptTrie<std::shared_ptr<int>, char> other;
            other.insert_or_assign(std::string_view("q"), counted);
            other = std::move(trie);
            REQUIRE(other.size() == 4);
            REQUIRE(counted.use_count() == 5);
            REQUIRE(other.check_invariants());
        }
    }
    REQUIRE(counted.use_count() == 1);
}

TEST_CASE("PromptTrie handles stay valid when the trie moves") {
    Trie trie = trie_of({"", "a", "abc"});
    const std::string_view empty;
    const auto root = trie.find(empty);
    const auto leaf = trie.find(std::string_view("abc"));
    Trie moved = std::move(trie);
    CHECK((moved.find(empty) == root));
    CHECK(moved.length(root) == 0);
    CHECK(moved.key(leaf).size() == 3);
    Trie assigned = trie_of({"x"});
    assigned = std::move(moved);
    CHECK((assigned.find(empty) == root));
    CHECK((assigned.find(std::string_view("abc")) == leaf));
    CHECK(*leaf == "abc");
    assigned.erase(root);
    CHECK_FALSE(assigned.find(empty));
    CHECK(assigned.size() == 2);
    CHECK(assigned.check_invariants());

    SECTION("and what was moved from is empty and may be used again") {
        // NOLINTBEGIN(bugprone-use-after-move)
        CHECK(trie.empty());
        trie.insert_or_assign(std::string_view("q"), "again");
        CHECK(value_at(trie.find(std::string_view("q"))) == "again");
        // NOLINTEND(bugprone-use-after-move)
    }
}

TEST_CASE("PromptTrie memory grows with what it holds and falls with what leaves") {
    PromptTrie<int> trie;
    trie.insert_or_assign(std::span<const std::int32_t>(), 0);
    const std::size_t before = trie.nbytes();
    const std::vector<std::int32_t> key(1'000, 7);
    trie.insert_or_assign(key, 1);
    REQUIRE(trie.nbytes() >= before + key.size() * sizeof(std::int32_t));
    trie.erase(trie.find(key));
    REQUIRE(trie.nbytes() == before);
    trie.clear();
    REQUIRE(trie.nbytes() == PromptTrie<int>().nbytes());
}

TEMPLATE_TEST_CASE("PromptTrie compares tokens of any integral type as they are", "", std::int8_t,
                   std::uint16_t, std::int64_t, std::uint64_t, char, char32_t) {
    using Token = TestType;
    constexpr Token low = std::numeric_limits<Token>::min();
    constexpr Token high = std::numeric_limits<Token>::max();
    PromptTrie<int, Token> trie;
    std::vector<std::vector<Token>> keys;
    for (const Token token : {low, high, Token(0), Token(1), Token(high - 1)}) {
        keys.push_back({token});
        keys.push_back({token, token, low});
        keys.push_back({token, token, high});
    }
    std::sort(keys.begin(), keys.end());
    keys.erase(std::unique(keys.begin(), keys.end()), keys.end());
    for (std::size_t i = 0; i < keys.size(); ++i)
        trie.insert_or_assign(keys[i], static_cast<int>(i));
    REQUIRE(trie.size() == keys.size());
    for (std::size_t i = 0; i < keys.size(); ++i) {
        REQUIRE(*trie.find(keys[i]) == static_cast<int>(i));
        REQUIRE((trie.key(trie.find(keys[i])) == keys[i]));
    }
    REQUIRE(trie.check_invariants());
}

TEST_CASE("PromptTrie tells tokens apart that are equal in their low 32 bits") {
    PromptTrie<int, std::int64_t> trie;
    for (std::int64_t i = 0; i < 100; ++i) {
        const std::vector<std::int64_t> key = {5 + (i << 32), 6};
        trie.insert_or_assign(key, static_cast<int>(i));
    }
    REQUIRE(trie.size() == 100);
    for (std::int64_t i = 0; i < 100; ++i) {
        const std::vector<std::int64_t> key = {5 + (i << 32), 6};
        REQUIRE(*trie.find(key) == static_cast<int>(i));
    }
}

/// The plainest trie: it looks at every key for each answer.
class Plain {
public:
    std::set<std::string> keys;

    std::size_t common_prefix(const std::string& asked) const {
        std::size_t longest = 0;
        for (const std::string& key : keys)
            longest = std::max(longest, common(key, asked));
        return longest;
    }

    std::string shorter(const std::string& asked) const {
        std::string found = "-";
        for (const std::string& key : keys) {
            if (key.size() < asked.size() && common(key, asked) == key.size() &&
                (found == "-" || key.size() > found.size())) {
                found = key;
            }
        }
        return found;
    }

    /// The length of the nearest longer key; 0 where there is none.
    std::size_t nearest_longer(const std::string& asked) const {
        const std::size_t matched = common_prefix(asked);
        std::size_t nearest = 0;
        for (const std::string& key : keys) {
            if (common(key, asked) == matched && key.size() > matched &&
                (nearest == 0 || key.size() < nearest)) {
                nearest = key.size();
            }
        }
        return nearest;
    }

private:
    static std::size_t common(const std::string& a, const std::string& b) {
        const auto [in_a, in_b] = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
        return static_cast<std::size_t>(in_a - a.begin());
    }
};

TEST_CASE("PromptTrie answers as a list of keys would, whatever the order of the steps") {
    std::mt19937 random(GENERATE(1U, 2U, 3U, 4U));
    const auto below = [&random](std::size_t n) {
        return std::uniform_int_distribution<std::size_t>(0, n - 1)(random);
    };
    Trie trie;
    Plain plain;
    for (int step = 0; step < 600; ++step) {
        std::string key(below(9), 'a');
        for (char& token : key)
            token = static_cast<char>('a' + below(3));
        switch (below(5)) {
        case 0:
        case 1: {
            const bool inserted = trie.insert_or_assign(key, key).second;
            REQUIRE(inserted == plain.keys.insert(key).second);
            break;
        }
        case 2:
            if (const auto handle = trie.find(key)) {
                trie.erase(handle);
                plain.keys.erase(key);
            }
            break;
        case 3:
            if (below(10) == 0) {
                for (const auto& popped : trie.pop_prefixes(key)) {
                    REQUIRE(popped.length == popped.value.size());
                    REQUIRE(plain.keys.erase(popped.value) == 1);
                }
                REQUIRE(plain.shorter(key) == "-");
            }
            break;
        default:
            break;
        }
        const auto found = std::as_const(trie).search(key);
        REQUIRE(static_cast<bool>(found.exact) == (plain.keys.count(key) == 1));
        REQUIRE(value_at(found.shorter) == plain.shorter(key));
        REQUIRE(found.common_prefix == plain.common_prefix(key));
        REQUIRE((found.longer ? found.longer->size() : 0) == plain.nearest_longer(key));
        REQUIRE(trie.size() == plain.keys.size());
        REQUIRE(trie.node_count() <= 2 * trie.size() + 1);
        REQUIRE(trie.check_invariants());
    }
}

} // namespace
