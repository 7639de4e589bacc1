// expect: a listener is called with a Removal
// SPDX-License-Identifier: MIT
// A listener that does not take what it is told.
#include <promptkv/promptkv.hpp>

#include <cstddef>

struct KV {
    std::size_t nbytes() const noexcept { return 1; }
};

void listen(promptkv::LRUPromptCache<KV>& cache) {
#if REJECT
    cache.on_removal([](int) {});
#else
    cache.on_removal([](const auto& removal) { static_cast<void>(removal.bytes); });
#endif
}
