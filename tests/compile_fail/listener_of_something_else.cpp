// expect: no (viable|matching)|no known conversion|cannot convert|could not convert
// SPDX-License-Identifier: MIT
// A listener that takes something else than a Removal.
#include <promptkv/promptkv.hpp>

#include <cstddef>

struct KV {
    std::size_t nbytes() const noexcept { return 1; }
};

void listen(promptkv::LRUPromptCache<KV>& cache) {
#if REJECT
    cache.set_removal_listener([](int) {});
#else
    cache.set_removal_listener([](const auto& removal) { static_cast<void>(removal.bytes); });
#endif
}
