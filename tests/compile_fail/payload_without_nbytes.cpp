// expect: nbytes
// SPDX-License-Identifier: MIT
// A payload that does not say how many bytes it holds.
#include <promptkv/promptkv.hpp>

#include <cstddef>

struct KV {
#if REJECT == 0
    std::size_t nbytes() const noexcept { return 1; }
#endif
};

promptkv::LRUPromptCache<KV> cache;
