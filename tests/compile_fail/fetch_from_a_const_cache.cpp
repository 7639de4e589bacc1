// expect: const|discards qualifiers
// SPDX-License-Identifier: MIT
// A fetch changes what is recent, which a const cache forbids; a probe changes nothing.
#include <promptkv/promptkv.hpp>

#include <cstddef>
#include <cstdint>
#include <vector>

struct KV {
    std::size_t nbytes() const noexcept { return 1; }
};

std::size_t reused(const promptkv::LRUPromptCache<KV>& cache,
                   const std::vector<std::int32_t>& prompt) {
#if REJECT
    return cache.fetch_nearest("model", prompt).reused();
#else
    return cache.probe("model", prompt).reused();
#endif
}
