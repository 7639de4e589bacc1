// SPDX-License-Identifier: MIT
// PromptTrie answers as a sorted map does.
#include "catch.hpp"
#include "payloads.hpp"
#include "random.hpp"

#include <promptkv/prompt_trie.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iostream>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

using namespace promptkv_test;

namespace {

using Trie = promptkv::PromptTrie<int>;

struct Value {
    int value;
    Trie::Handle handle;
};

using Model = std::map<Tokens, Value>;

std::size_t common(const Tokens& a, const Tokens& b) {
    return static_cast<std::size_t>(std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first -
                                    a.begin());
}

bool is_prefix(const Tokens& a, const Tokens& b) {
    return common(a, b) == a.size();
}

Tokens first(const Tokens& tokens, std::size_t n) {
    return {tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(n)};
}

/// The root, the values and the branches.
std::size_t nodes_needed(const Model& model) {
    std::set<Tokens> nodes = {{}};
    for (auto one = model.begin(); one != model.end(); ++one) {
        nodes.insert(one->first);
        const auto next = std::next(one);
        if (next != model.end()) // in order, a branch lies between neighbours
            nodes.insert(first(one->first, common(one->first, next->first)));
    }
    return nodes.size();
}

/// Compares a trie with its model, one answer after the other.
class Pair {
public:
    void insert(const Tokens& key, int value) {
        const auto [handle, added] = trie_.insert_or_assign(key, value);
        const auto found = model_.find(key);
        REQUIRE(added == (found == model_.end()));
        if (found == model_.end()) {
            model_.emplace(key, Value{value, handle});
        } else {
            REQUIRE(handle == found->second.handle);
            found->second.value = value;
        }
    }

    void erase(const Tokens& key) {
        const auto found = model_.find(key);
        if (found != model_.end()) {
            trie_.erase(found->second.handle);
            model_.erase(found);
        }
    }

    void pop_prefixes(const Tokens& tokens) {
        std::vector<std::pair<std::size_t, int>> popped;
        for (const auto& each : trie_.pop_prefixes(tokens))
            popped.emplace_back(each.length, each.value);
        std::vector<std::pair<std::size_t, int>> expected;
        for (std::size_t n = 0; n < tokens.size(); ++n) {
            const auto found = model_.find(first(tokens, n));
            if (found != model_.end()) {
                expected.emplace_back(n, found->second.value);
                model_.erase(found);
            }
        }
        REQUIRE(popped == expected);
    }

    void clear() {
        trie_.clear();
        model_.clear();
    }

    void check_prefixes(const Tokens& tokens) {
        std::vector<int> seen;
        trie_.for_each_prefix(tokens, [&seen](auto handle) { seen.push_back(*handle); });
        std::vector<int> expected;
        for (const auto& [key, value] : model_) { // in order, prefixes come shortest first
            if (is_prefix(key, tokens))
                expected.push_back(value.value);
        }
        REQUIRE(seen == expected);
    }

    void check_search(const Tokens& tokens) {
        std::size_t shared = 0;
        const Tokens* shorter = nullptr;
        for (const auto& [key, value] : model_) {
            shared = std::max(shared, common(key, tokens));
            if (key.size() < tokens.size() && is_prefix(key, tokens))
                shorter = &key;
        }
        std::size_t nearest = 0;
        bool any = false;
        for (const auto& [key, value] : model_) {
            if (key.size() > shared && common(key, tokens) == shared) {
                nearest = any ? std::min(nearest, key.size()) : key.size();
                any = true;
            }
        }

        const auto result = trie_.search(tokens);
        REQUIRE(result.common_prefix == shared);
        const auto exact = model_.find(tokens);
        REQUIRE(static_cast<bool>(result.exact) == (exact != model_.end()));
        REQUIRE((!result.exact || result.exact == exact->second.handle));
        REQUIRE(static_cast<bool>(result.shorter) == (shorter != nullptr));
        REQUIRE((!result.shorter || result.shorter == model_.at(*shorter).handle));
        REQUIRE(static_cast<bool>(result.longer) == any);
        if (result.longer) { // any of the nearest
            const Tokens key = trie_.key(result.longer);
            REQUIRE(key.size() == nearest);
            REQUIRE(common(key, tokens) == shared);
        }
    }

    void check_all() {
        REQUIRE(trie_.check_invariants());
        REQUIRE(trie_.size() == model_.size());
        REQUIRE(trie_.empty() == model_.empty());
        if (model_.empty()) // there may be no root
            REQUIRE(trie_.node_count() <= 1);
        else
            REQUIRE(trie_.node_count() == nodes_needed(model_));
        bool all = true;
        for (const auto& [key, value] : model_) {
            all = all && *value.handle == value.value && trie_.find(key) == value.handle &&
                  trie_.length(value.handle) == key.size() && trie_.key(value.handle) == key;
        }
        REQUIRE(all);
    }

    void check_absent(const Tokens& tokens) {
        REQUIRE(static_cast<bool>(std::as_const(trie_).find(tokens)) == model_.contains(tokens));
    }

private:
    Trie trie_;
    Model model_;
};

} // namespace

TEST_CASE("PromptTrie answers as a sorted map does") {
    const std::size_t wanted = operations_wanted() * 5;
    constexpr std::size_t operations_a_run = 300;
    std::size_t operations = 0;
    std::uint64_t seed = first_seed();
    for (; operations < wanted; ++seed, operations += operations_a_run) {
        CAPTURE(seed);
        Random random(seed);
        const std::size_t alphabet = random.pick<std::size_t>({2, 2, 3, 40});
        const std::size_t longest = random.pick<std::size_t>({3, 6, 12, 60});
        Pair pair;
        std::vector<Tokens> keys = {{}};
        for (std::size_t i = 0; i < operations_a_run; ++i) {
            CAPTURE(i);
            Tokens key = keys[random.below(keys.size())];
            key.resize(random.below(key.size() + 1));
            for (std::size_t more = random.below(longest / 2 + 1); more > 0 && key.size() < longest;
                 --more) {
                key.push_back(static_cast<std::int32_t>(random.below(alphabet)) - 1);
            }
            keys.push_back(key);
            switch (random.below(13)) {
            case 0:
                pair.pop_prefixes(key);
                break;
            case 1:
            case 2:
            case 3:
            case 4:
                pair.erase(keys[random.below(keys.size())]);
                break;
            case 5:
                if (random.one_in(20))
                    pair.clear();
                break;
            default:
                pair.insert(key, static_cast<int>(i));
                break;
            }
            pair.check_all();
            pair.check_absent(key);
            pair.check_prefixes(key);
            pair.check_search(key);
            pair.check_search(keys[random.below(keys.size())]);
        }
    }
    std::cout << "model: " << operations << " operations on the trie, seeds " << first_seed()
              << " to " << seed - 1 << '\n';
}
