// expect: clone_prefix\(n\) must be const
// SPDX-License-Identifier: MIT
// A clone_prefix that is not const: it would silently be ignored, and only whole entries be copied.
#include <promptkv/promptkv.hpp>

#include <cstddef>

struct KV {
    std::size_t nbytes() const noexcept { return 1; }
    std::size_t reusable_prefix(std::size_t n) const noexcept { return n; }
#if REJECT
    KV clone_prefix(std::size_t) { return {}; }
#else
    KV clone_prefix(std::size_t) const { return {}; }
#endif
};

template class promptkv::BasicPromptCache<KV>;
