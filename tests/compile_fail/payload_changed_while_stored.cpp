// expect: const|read-only
// SPDX-License-Identifier: MIT
// A write to a payload where it lies: others may be served it.
#include <promptkv/promptkv.hpp>

#include <cstddef>

struct KV {
    std::size_t n_tokens = 0;

    std::size_t nbytes() const noexcept { return 1; }
};

std::size_t use(const promptkv::LRUPromptCache<KV>::Lease& lease) {
#if REJECT
    lease.kv().n_tokens = 0;
#endif
    return lease.kv().n_tokens;
}
