// expect: set_state|constraint
// SPDX-License-Identifier: MIT
// A state for a BlockKV whose payloads have none.
#include <promptkv/block_kv.hpp>

#include <cstddef>

struct Block {
    std::size_t nbytes() const noexcept { return 1; }
};

#if REJECT
using KV = promptkv::BlockKV<Block>;
#else
using KV = promptkv::BlockKV<Block, Block>;
#endif

void set(KV& kv, Block state) {
    kv.set_state(state);
}
