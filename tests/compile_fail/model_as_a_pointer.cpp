// expect: Model must own its text
// SPDX-License-Identifier: MIT
// A pointer as a model: equal text at two addresses would be two models.
#include <promptkv/promptkv.hpp>

#include <cstddef>
#include <string>

struct KV {
    std::size_t nbytes() const noexcept { return 1; }
};

#if REJECT
using Model = const char*;
#else
using Model = int;
#endif

promptkv::LRUPromptCache<KV, Model> cache;
