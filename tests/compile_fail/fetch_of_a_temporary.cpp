// expect: deleted
// SPDX-License-Identifier: MIT
// A temporary vector as the prompt: `remaining` would point into it.
#include <promptkv/promptkv.hpp>

#include <cstddef>
#include <cstdint>
#include <vector>

struct KV {
    std::size_t nbytes() const noexcept { return 1; }
};

std::size_t reused(promptkv::LRUPromptCache<KV>& cache, std::vector<std::int32_t> prompt) {
#if REJECT
    return cache.fetch_nearest("model", std::vector<std::int32_t>(prompt)).reused;
#else
    return cache.fetch_nearest("model", prompt).reused;
#endif
}
