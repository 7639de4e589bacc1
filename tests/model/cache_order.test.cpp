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
#include <set>
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

    void chill(int key) {
        order_.chill(positions_.at(key));
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
        const std::optional<int> expected = victim([](int) { return true; });
        REQUIRE(order_.pop() == expected);
        if (expected) {
            positions_.erase(*expected);
            queue_of(*expected).remove(*expected);
        }
    }

    /// Asks for a victim that is not among `spared`.
    void check_victim(const std::set<int>& spared) {
        const auto may_take = [&spared](int key) { return !spared.contains(key); };
        const std::optional<int> expected = victim(may_take);
        const auto position = order_.victim(may_take);
        REQUIRE(static_cast<bool>(position) == expected.has_value());
        if (expected) {
            REQUIRE(order_.key(position) == *expected);
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

    template <class Predicate>
    std::optional<int> victim(Predicate may_take) const {
        std::array<std::optional<int>, tiers> coldest;
        for (std::size_t tier = 0; tier < tiers; ++tier) {
            const auto found = std::find_if(queues_[tier].begin(), queues_[tier].end(), may_take);
            if (found != queues_[tier].end()) {
                coldest[tier] = *found;
            }
        }
        for (std::size_t tier = 0; tier + 1 < tiers; ++tier) {
            if (coldest[tier] && queues_[tier].size() >= queues_[tier + 1].size()) {
                return coldest[tier];
            }
        }
        if (coldest.back()) {
            return coldest.back();
        }
        const auto left = std::find_if(coldest.begin(), coldest.end(),
                                       [](const auto& key) { return key.has_value(); });
        return left == coldest.end() ? std::nullopt : *left;
    }

    Order order_;
    std::map<int, typename Order::Position> positions_;
    std::array<std::list<int>, tiers> queues_; // the coldest first
};

} // namespace

TEMPLATE_TEST_CASE("CacheOrder answers as one list a tier does", "", Tier, Level) {
    const std::size_t wanted = operations_wanted() / 10;
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
            if (pair.size() == 0 || action < 4) {
                pair.push(static_cast<int>(i), random.below(Pair<TestType>::tiers));
            } else if (action < 6) {
                pair.touch(pair.nth(random.below(pair.size())));
            } else if (action < 7) {
                pair.chill(pair.nth(random.below(pair.size())));
            } else if (action < 8) {
                pair.remove(pair.nth(random.below(pair.size())));
            } else {
                pair.pop();
            }
            pair.check_all();
            std::set<int> spared;
            for (std::size_t n = 0; n < pair.size(); ++n) {
                if (random.one_in(3)) {
                    spared.insert(pair.nth(n));
                }
            }
            pair.check_victim({});
            pair.check_victim(spared);
        }
    }
    std::cout << "model: " << operations << " operations on the order, seeds " << first_seed()
              << " to " << seed - 1 << '\n';
}
