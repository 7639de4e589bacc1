// expect: deleted
// SPDX-License-Identifier: MIT
// A copy of the cache; moving it is fine.
#include <promptkv/promptkv.hpp>

#include <cstddef>
#include <utility>

struct KV {
    std::size_t nbytes() const noexcept { return 1; }
};

promptkv::LRUPromptCache<KV> cache;
#if REJECT
promptkv::LRUPromptCache<KV> copy(cache);
#else
promptkv::LRUPromptCache<KV> moved(std::move(cache));
#endif
