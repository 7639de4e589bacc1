// SPDX-License-Identifier: MIT
// CacheOrder answers as one list a tier does.
#include "catch.hpp"
#include "random.hpp"

#include <promptkv/cache_order.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <iostream>
#include <list>
#include <map>
#include <optional>
#include <utility>

using namespace promptkv_test;

namespace {

using promptkv::Tier;

enum class Level : std::uint8_t { only };

} // namespace

template <>
struct promptkv::tier_traits<Level> {
    static constexpr std::size_t count = 1;
};

namespace {

/// Compares an order with its model.
template <class TierEnum>
class Pair {
public:
    using Order = promptkv::CacheOrder<int, TierEnum>;
    static constexpr std::size_t tiers = promptkv::tier_traits<TierEnum>::count;

    void push(int key, std::size_t tier) {
        positions_.emplace(key, order_.push(key, static_cast<TierEnum>(tier)));
        queues_[tier].push_back(key);
    }

    void touch(int key) {
        order_.touch(positions_.at(key));
        auto& queue = queue_of(key);
        queue.remove(key);
        queue.push_back(key);
    }

    void demote(int key) {
        order_.demote(positions_.at(key));
        auto& queue = queue_of(key);
        queue.remove(key);
        queue.push_front(key);
    }

    void remove(int key) {
        order_.remove(positions_.at(key));
        positions_.erase(key);
        queue_of(key).remove(key);
    }

    void pop() {
        const std::optional<int> expected = victim();
        REQUIRE(order_.pop() == expected);
        if (expected) {
            positions_.erase(*expected);
            queue_of(*expected).remove(*expected);
        }
    }

    void check_all() {
        std::size_t sum = 0;
        bool all = true;
        for (std::size_t tier = 0; tier < tiers; ++tier) {
            sum += queues_[tier].size();
            all = all && order_.size(static_cast<TierEnum>(tier)) == queues_[tier].size();
            for (const int key : queues_[tier]) {
                const auto position = positions_.at(key);
                all = all && order_.key(position) == key &&
                      order_.tier(position) == static_cast<TierEnum>(tier);
            }
        }
        REQUIRE(all);
        REQUIRE(order_.size() == sum);
        REQUIRE(order_.empty() == (sum == 0));
    }

    [[nodiscard]] std::size_t size() const { return positions_.size(); }

    [[nodiscard]] int nth(std::size_t n) const {
        return std::next(positions_.begin(), static_cast<std::ptrdiff_t>(n))->first;
    }

private:
    std::list<int>& queue_of(int key) {
        return *std::find_if(queues_.begin(), queues_.end(), [key](const std::list<int>& queue) {
            return std::find(queue.begin(), queue.end(), key) != queue.end();
        });
    }

    /// The coldest of a tier that is not shorter than the next one which is not empty.
    [[nodiscard]] std::optional<int> victim() const {
        for (std::size_t tier = 0; tier < tiers; ++tier) {
            std::size_t next = tier + 1;
            while (next < tiers && queues_[next].empty())
                ++next;
            const bool shorter = next < tiers && queues_[tier].size() < queues_[next].size();
            if (!queues_[tier].empty() && !shorter)
                return queues_[tier].front();
        }
        return std::nullopt;
    }

    Order order_;
    std::map<int, typename Order::Position> positions_;
    std::array<std::list<int>, tiers> queues_; // the coldest first
};

} // namespace

TEMPLATE_TEST_CASE("CacheOrder answers as one list a tier does", "", Tier, Level) {
    const std::size_t wanted = operations_wanted() * 5;
    constexpr std::size_t operations_a_run = 500;
    std::size_t operations = 0;
    std::uint64_t seed = first_seed();
    for (; operations < wanted; ++seed, operations += operations_a_run) {
        CAPTURE(seed);
        Random random(seed);
        Pair<TestType> pair;
        for (std::size_t i = 0; i < operations_a_run; ++i) {
            CAPTURE(i);
            const std::size_t action = random.below(10);
            if (pair.size() == 0 || action < 4)
                pair.push(static_cast<int>(i), random.below(Pair<TestType>::tiers));
            else if (action < 6)
                pair.touch(pair.nth(random.below(pair.size())));
            else if (action < 7)
                pair.demote(pair.nth(random.below(pair.size())));
            else if (action < 8)
                pair.remove(pair.nth(random.below(pair.size())));
            else
                pair.pop();
            pair.check_all();
        }
    }
    std::cout << "model: " << operations << " operations on the order, seeds " << first_seed()
              << " to " << seed - 1 << '\n';
}
