// expect: a block needs nbytes
// SPDX-License-Identifier: MIT
// A block that does not say how many bytes it holds.
#include <promptkv/block_kv.hpp>

#include <cstddef>

struct Block {
#if REJECT == 0
    std::size_t nbytes() const noexcept { return 1; }
#endif
};

promptkv::BlockKV<Block> kv(64);
