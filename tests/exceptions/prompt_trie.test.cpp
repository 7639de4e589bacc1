// SPDX-License-Identifier: MIT
// PromptTrie where memory fails: the strong guarantee of every function that can throw.

#include <promptkv/prompt_trie.hpp>

#include "catch.hpp"
#include "fail_each_allocation.hpp"

#include <cstddef>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace {

using namespace promptkv_test;
using promptkv::PromptTrie;

using Trie = PromptTrie<std::string, char>;

/// A value too long to be kept within a string.
std::string value_of(std::string_view key) {
    return "the value that stands at the key " + std::string(key);
}

void fill(Trie& trie, std::initializer_list<std::string_view> keys) {
    for (const std::string_view key : keys)
        trie.insert_or_assign(key, value_of(key));
}

/// The key in a value of value_of.
template <class Handle>
std::string key_in(const Handle& handle) {
    return handle ? handle->substr(handle->rfind(' ') + 1) : "-";
}

/// What the trie answers for each key of up to four letters from a to c.
std::string answers_of(const Trie& trie) {
    std::string state = std::to_string(trie.size());
    std::vector<std::string> keys = {""};
    for (std::size_t i = 0; i < keys.size(); ++i) {
        const std::string key = keys[i];
        const auto found = trie.search(key);
        state += " " + key + ":" + key_in(found.exact) + "," + key_in(found.shorter) + "," +
                 std::to_string(found.longer ? trie.length(found.longer) : 0) + "," +
                 std::to_string(found.common_prefix);
        if (key.size() < 4)
            for (const char token : {'a', 'b', 'c'})
                keys.push_back(key + token);
    }
    return state;
}

/// The answers, and the nodes that they are kept in.
std::string state_of(const Trie& trie) {
    return std::to_string(trie.node_count()) + " nodes: " + answers_of(trie);
}

/// Lets each allocation of `act` fail on a trie of `keys`.
template <class Act, class State>
std::size_t fail_each(std::initializer_list<std::string_view> keys, Act act, State state) {
    return fail_each_allocation(Fixture{[] { return Trie(); },
                                        [keys](Trie& trie) { fill(trie, keys); }, state,
                                        [](const Trie&) { return std::string(); }},
                                act);
}

TEST_CASE("PromptTrie is as before when an insert runs out of memory") {
    const std::string_view key =
        GENERATE(as<std::string_view>(), "", "a", "abc", "abb", "abcab", "c", "bb", "b", "abca");
    CAPTURE(key);
    const auto insert = [key](Trie& trie) { trie.insert_or_assign(key, value_of("new")); };
    REQUIRE(fail_each({"abca", "abcb", "b"}, insert, state_of) > 0);
}

TEST_CASE("PromptTrie is as before when the first insert runs out of memory") {
    const auto insert = [](Trie& trie) {
        trie.insert_or_assign(std::string_view("abc"), value_of("abc"));
    };
    REQUIRE(fail_each({}, insert, answers_of) > 0);
}

TEST_CASE("PromptTrie erases whatever memory there is") {
    const std::string_view key = GENERATE(as<std::string_view>(), "", "a", "abc", "abca", "b");
    CAPTURE(key);
    const auto erase = [key](Trie& trie) { trie.erase(trie.find(key)); };
    // Edges may be joined later: the nodes are not compared.
    fail_each({"", "a", "abc", "abca", "abcb", "b"}, erase, answers_of);

    SECTION("and joins edges later, if memory ran out") {
        Trie trie;
        fill(trie, {"abca", "abcb", "b"});
        {
            FailingNew failing(0, true);
            trie.erase(trie.find(std::string_view("abcb")));
            failing.stop();
        }
        REQUIRE(trie.check_invariants());
        trie.insert_or_assign(std::string_view("abcc"), value_of("abcc"));
        trie.erase(trie.find(std::string_view("abcc")));
        REQUIRE(trie.node_count() <= 2 * trie.size() + 1);
        REQUIRE(trie.check_invariants());
    }
}

TEST_CASE("PromptTrie is as before when pop_prefixes or key runs out of memory") {
    const auto pop = [](Trie& trie) { (void)trie.pop_prefixes(std::string_view("abca")); };
    REQUIRE(fail_each({"", "a", "ab", "abc", "abca"}, pop, answers_of) > 0);
    const auto key = [](Trie& trie) { (void)trie.key(trie.find(std::string_view("abca"))); };
    REQUIRE(fail_each({"", "a", "ab", "abc", "abca"}, key, state_of) > 0);
    const auto clear = [](Trie& trie) { trie.clear(); };
    REQUIRE(fail_each({"", "a", "ab", "abc", "abca"}, clear, state_of) == 0);
}

} // namespace
