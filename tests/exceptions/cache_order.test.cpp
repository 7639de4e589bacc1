// SPDX-License-Identifier: MIT
// CacheOrder where memory fails: a push that throws has not happened.

#include <promptkv/cache_order.hpp>

#include "catch.hpp"
#include "counting_new.hpp"

#include <cstddef>
#include <new>
#include <optional>
#include <string>
#include <utility>

namespace {

using namespace promptkv_test;
using promptkv::CacheOrder;
using promptkv::Tier;

std::string drain(CacheOrder<std::string>& order) {
    std::string all;
    while (const std::optional<std::string> key = order.pop())
        all += *key + " ";
    return all;
}

TEST_CASE("CacheOrder is as before when a push runs out of memory") {
    std::size_t failures = 0;
    for (std::size_t skip = 0;; ++skip) {
        CAPTURE(skip);
        const std::size_t blocks = live_blocks;
        std::size_t size = 0;
        std::string all;
        bool threw = false;
        {
            CacheOrder<std::string> order;
            order.push("first", Tier::user);
            order.push("second", Tier::user);
            std::string key = "a key that is too long to be kept within a string";
            {
                FailingNew failing(skip);
                try {
                    order.push(std::move(key), Tier::assistant);
                } catch (const std::bad_alloc&) {
                    threw = true;
                }
            }
            size = order.size();
            const std::string drained = drain(order);
            threw ? all.assign("as before", drained == "first second " ? 9U : 0U)
                  : all.assign("longer", drained.size() > 40 ? 6U : 0U);
        }
        const bool kept = live_blocks != blocks;
        CHECK_FALSE(kept);
        CHECK(all == (threw ? "as before" : "longer"));
        CHECK(size == (threw ? 2U : 3U));
        if (!threw)
            break;
        ++failures;
    }
    REQUIRE(failures > 0);
}

TEST_CASE("CacheOrder touches, demotes, removes and pops without allocating") {
    CacheOrder<int> order;
    const auto a = order.push(1, Tier::user);
    const auto b = order.push(2, Tier::user);
    const auto c = order.push(3, Tier::user);
    bool popped = false;
    bool struck = true;
    {
        FailingNew failing(0, true);
        order.touch(a);
        order.demote(c);
        order.remove(b);
        popped = order.pop() == 3;
        struck = failing.stop();
    }
    REQUIRE(popped);
    REQUIRE_FALSE(struck);
    REQUIRE(order.size() == 1);
    REQUIRE(order.pop() == 1);
}

} // namespace
