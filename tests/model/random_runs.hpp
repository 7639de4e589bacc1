// SPDX-License-Identifier: MIT
// Random runs of a cache beside its naive model.
#ifndef PROMPTKV_TESTS_RANDOM_RUNS_HPP
#define PROMPTKV_TESTS_RANDOM_RUNS_HPP

#include "cache_runs.hpp"
#include "catch.hpp"
#include "naive_payload.hpp"
#include "random.hpp"

#include <cstddef>
#include <cstdint>
#include <iostream>
#include <string>

namespace promptkv_test {

/// Demands that a cache does what its model does, for as many operations as are `wanted`.
template <class KV, class Cache>
void compare_with_model(const std::string& name, std::size_t wanted) {
    std::size_t operations = 0;
    std::uint64_t seed = first_seed();
    for (; operations < wanted; ++seed) {
        const Profile& profile = seed % 20 == 0    ? one_path
                                 : seed % 20 == 10 ? many_children
                                 : seed % 3 == 0   ? grown_keys
                                                   : short_keys;
        Random random(seed);
        const Run run = RunMaker(random, profile, abilities_of<KV>()).make();
        CAPTURE(seed);
        REQUIRE(failure_of<KV, Cache>(run) == "");
        operations += run.operations.size();
    }
    std::cout << "model: " << operations << " operations on " << name << ", seeds " << first_seed()
              << " to " << seed - 1 << '\n';
}

} // namespace promptkv_test

#endif
