// expect: a State needs nbytes
// SPDX-License-Identifier: MIT
// A recurrent state that does not say how many bytes it holds.
#include <promptkv/block_kv.hpp>

#include <cstddef>

struct Block {
    std::size_t nbytes() const noexcept { return 1; }
};
struct State {
#if REJECT == 0
    std::size_t nbytes() const noexcept { return 1; }
#endif
};

std::size_t size_of(const promptkv::BlockKV<Block, State>& kv) {
    return kv.nbytes();
}
