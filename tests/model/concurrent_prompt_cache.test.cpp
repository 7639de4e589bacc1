// SPDX-License-Identifier: MIT
// ConcurrentPromptCache on one thread answers as the model of LRUPromptCache does.
//
// PROMPTKV_MODEL_OPS asks for more operations, PROMPTKV_MODEL_SEED for others.
#include "catch.hpp"
#include "payloads.hpp"
#include "random_runs.hpp"

#include <promptkv/concurrent_prompt_cache.hpp>

#include <string>

using namespace promptkv_test;

namespace {

/// Compares caches of one kind of payload.
template <class KV>
void compare(const std::string& payload) {
    compare_with_model<KV, promptkv::ConcurrentPromptCache<KV>>("ConcurrentPromptCache, " + payload,
                                                                operations_wanted());
}

} // namespace

TEST_CASE("ConcurrentPromptCache answers as the model: payloads that can be cut") {
    compare<Tape>("Tape");
}

TEST_CASE("ConcurrentPromptCache answers as the model: shared blocks") {
    compare<BlockTape>("BlockTape");
}
