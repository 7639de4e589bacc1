// expect: clone_prefix|copy
// SPDX-License-Identifier: MIT
// A fetch hands out a copy, which a move-only payload without clone_prefix cannot give; a lease can.
#include <promptkv/promptkv.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

struct KV {
    std::unique_ptr<int> blocks;

    std::size_t nbytes() const noexcept { return 1; }
};

std::size_t reused(promptkv::LRUPromptCache<KV>& cache, const std::vector<std::int32_t>& prompt) {
#if REJECT
    return cache.fetch_nearest("model", prompt).reused();
#else
    return cache.lease_nearest("model", prompt).reused();
#endif
}
