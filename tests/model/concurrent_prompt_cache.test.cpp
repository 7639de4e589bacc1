// SPDX-License-Identifier: MIT
// ConcurrentPromptCache on one thread answers as the model of LRUPromptCache does.
//
// PROMPTKV_MODEL_OPS asks for more operations, PROMPTKV_MODEL_SEED for others.
#include "catch.hpp"
#include "payloads.hpp"
#include "random_runs.hpp"

#include <promptkv/concurrent_prompt_cache.hpp>

#include <cstddef>

using namespace promptkv_test;

TEMPLATE_TEST_CASE("ConcurrentPromptCache does what the naive model does", "", Tape, WholeTape) {
    constexpr std::size_t payload_types = 2;
    constexpr std::size_t share = 12; // of the operations: what is below the lock has its own test
    hold_against_model<TestType, promptkv::ConcurrentPromptCache<TestType>>(
        "ConcurrentPromptCache", operations_wanted() / share / payload_types);
}
