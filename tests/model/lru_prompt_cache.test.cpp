// SPDX-License-Identifier: MIT
// LRUPromptCache answers as the plainest implementation of its contract does.
//
// PROMPTKV_MODEL_OPS asks for more operations, PROMPTKV_MODEL_SEED for others.
#include "catch.hpp"
#include "payloads.hpp"
#include "random_runs.hpp"

#include <promptkv/lru_prompt_cache.hpp>

#include <cstddef>

using namespace promptkv_test;

TEMPLATE_TEST_CASE("LRUPromptCache does what its naive model does", "", Tape, ClonedTape,
                   CopiedTape, MoveOnlyTape, WholeTape) {
    constexpr std::size_t payload_types = 5;
    hold_against_model<TestType, promptkv::LRUPromptCache<TestType>>(
        "LRUPromptCache", operations_wanted() / payload_types);
}
