// expect: deleted|implicitly
// SPDX-License-Identifier: MIT
// A copy of a lease, which would end it twice; moving it is fine.
#include <promptkv/promptkv.hpp>

#include <cstddef>
#include <utility>

struct KV {
    std::size_t nbytes() const noexcept { return 1; }
};

using Lease = promptkv::LRUPromptCache<KV>::Lease;

Lease pass_on(Lease& lease) {
#if REJECT
    return Lease(lease);
#else
    return Lease(std::move(lease));
#endif
}
