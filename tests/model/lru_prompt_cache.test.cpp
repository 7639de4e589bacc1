// SPDX-License-Identifier: MIT
// LRUPromptCache answers as the plainest implementation of its contract does.
//
// PROMPTKV_MODEL_OPS asks for more operations, PROMPTKV_MODEL_SEED for others.
#include "cache_runs.hpp"
#include "catch.hpp"
#include "random.hpp"

#include <cstddef>
#include <cstdint>
#include <iostream>

using namespace promptkv_test;

TEMPLATE_TEST_CASE("LRUPromptCache does what its naive model does", "", Tape, ClonedTape,
                   CopiedTape, MoveOnlyTape, WholeTape) {
    constexpr std::size_t payload_types = 5;
    const std::size_t wanted = operations_wanted() / payload_types;
    std::size_t operations = 0;
    std::uint64_t seed = first_seed();
    for (; operations < wanted; ++seed) {
        const Profile& profile = seed % 20 == 0    ? many_anchors
                                 : seed % 20 == 10 ? many_children
                                 : seed % 3 == 0   ? grown_keys
                                                   : short_keys;
        Random random(seed);
        const Run run = RunMaker(random, profile).make();
        CAPTURE(seed);
        REQUIRE(failure_of<TestType>(run) == "");
        operations += run.operations.size();
    }
    std::cout << "model: " << operations << " operations, seeds " << first_seed() << " to "
              << seed - 1 << ", abilities " << TestType::offered << '\n';
}
