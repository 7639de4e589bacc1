// SPDX-License-Identifier: MIT
// LRUPromptCache answers as the plainest implementation of its contract does.
//
// PROMPTKV_MODEL_OPS asks for more operations, PROMPTKV_MODEL_SEED for others.
#include "catch.hpp"
#include "payloads.hpp"
#include "random_runs.hpp"

#include <promptkv/lru_prompt_cache.hpp>

#include <string>

using namespace promptkv_test;

namespace {

/// Compares caches of one kind of payload. The operations that are wanted are those of each kind.
template <class KV>
void compare(const std::string& payload) {
    compare_with_model<KV, promptkv::LRUPromptCache<KV>>("LRUPromptCache, " + payload,
                                                         operations_wanted());
}

} // namespace

TEST_CASE("LRUPromptCache answers as its model: payloads that can be cut, cloned and copied") {
    compare<Tape>("Tape");
}

TEST_CASE("LRUPromptCache answers as its model: payloads that cannot be cut") {
    compare<ClonedTape>("ClonedTape");
}

TEST_CASE("LRUPromptCache answers as its model: payloads that are copied whole") {
    compare<CopiedTape>("CopiedTape");
}

TEST_CASE("LRUPromptCache answers as its model: payloads that cannot be copied") {
    compare<MoveOnlyTape>("MoveOnlyTape");
}

TEST_CASE("LRUPromptCache answers as its model: payloads that serve their whole key only") {
    compare<WholeTape>("WholeTape");
}

TEST_CASE("LRUPromptCache answers as its model: shared blocks") {
    compare<BlockTape>("BlockTape");
}

TEST_CASE("LRUPromptCache answers as its model: shared blocks and a state") {
    compare<HybridTape>("HybridTape");
}
