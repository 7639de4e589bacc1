// SPDX-License-Identifier: MIT
// ChildIndex: children by their token, and the one with the nearest value.

#include <promptkv/detail/child_index.hpp>

#include "catch.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <iterator>
#include <map>
#include <random>

namespace of_child_index {

struct Child {
    std::uint32_t slot = 0;
    int token = 0;
};

using Index = promptkv::detail::ChildIndex<Child, int>;

/// An index, and what it should hold.
class Pair {
public:
    void add(int token, Index::Nearest nearest) {
        Child& child = children_.emplace_back(Child{0, token});
        index_.reserve(1);
        index_.add(token, &child, nearest);
        naive_[token] = nearest;
    }
    void set(int token, Index::Nearest nearest) {
        index_.set_nearest(index_.find(token)->slot, nearest);
        naive_[token] = nearest;
    }
    void remove(int token) {
        index_.remove(index_.find(token)->slot);
        naive_.erase(token);
    }
    [[nodiscard]] int any(std::uint32_t number) const {
        auto found = naive_.begin();
        std::advance(found, static_cast<std::ptrdiff_t>(number % naive_.size()));
        return found->first;
    }
    [[nodiscard]] std::size_t size() const { return naive_.size(); }
    [[nodiscard]] bool has(int token) const { return naive_.contains(token); }

    void check() const {
        REQUIRE(index_.check_invariants());
        REQUIRE(index_.size() == naive_.size());
        REQUIRE(index_.nearest_depth() == least(-1));
        for (std::uint32_t slot = 0; slot < std::min(index_.size(), 4U); ++slot) {
            const Child* other = index_.nearest_except(slot);
            const Index::Nearest expected = least(index_[slot]->token);
            REQUIRE((other == nullptr) == (expected == Index::none));
            if (other != nullptr) {
                REQUIRE(other != index_[slot]);
                REQUIRE(naive_.at(other->token) == expected);
            }
        }
        const Child* nearest = index_.nearest();
        REQUIRE((nearest == nullptr) == (least(-1) == Index::none));
    }

private:
    /// The least depth of a child with another token.
    [[nodiscard]] Index::Nearest least(int without) const {
        Index::Nearest result = Index::none;
        for (const auto& [token, nearest] : naive_)
            result = token == without ? result : std::min(result, nearest);
        return result;
    }

    std::deque<Child> children_;
    Index index_;
    std::map<int, Index::Nearest> naive_;
};

TEST_CASE("The nearest child is right whatever comes, changes and leaves", "[child_index]") {
    const int seed = GENERATE(range(1, 9));
    const int most = GENERATE(3, 14, 20, 100);
    CAPTURE(seed, most);
    std::mt19937 random(static_cast<std::uint32_t>(seed));
    const auto below = [&](std::uint32_t n) { return static_cast<std::uint32_t>(random() % n); };
    Pair pair;
    // Few depths, so that many are equal, and a third of the children without a value.
    const auto depth = [&] { return below(3) == 0 ? Index::none : 1 + below(6); };
    for (int step = 0; step < 600; ++step) {
        const bool grows = step / 150 % 2 == 0; // then it becomes small again
        const int token = static_cast<int>(below(1'000));
        const bool has_room = pair.size() < static_cast<std::size_t>(most) && !pair.has(token);
        switch (below(8)) {
        case 0:
        case 1:
        case 2:
            if (pair.size() > 0)
                pair.set(pair.any(below(1'000)), depth());
            break;
        case 3:
        case 4:
            if (pair.size() > 0 && !grows)
                pair.remove(pair.any(below(1'000)));
            break;
        case 5:
            if (pair.size() > 0)
                pair.remove(pair.any(below(1'000)));
            break;
        default:
            if (has_room)
                pair.add(token, depth());
        }
        pair.check();
    }
}

} // namespace of_child_index
