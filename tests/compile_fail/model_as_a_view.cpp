// expect: Model must own its text
// SPDX-License-Identifier: MIT
// A model that points to text of somebody else.
#include <promptkv/promptkv.hpp>

#include <cstddef>
#include <string>
#include <string_view>

struct KV {
    std::size_t nbytes() const noexcept { return 1; }
};

#if REJECT
using Model = std::string_view;
#else
using Model = std::string;
#endif

promptkv::LRUPromptCache<KV, Model> cache;
