// expect: reusable_prefix\(n\) must be const
// SPDX-License-Identifier: MIT
// A reusable_prefix that is not const: it would silently be ignored, and nothing be reused in part.
#include <promptkv/promptkv.hpp>

#include <cstddef>

struct KV {
    std::size_t nbytes() const noexcept { return 1; }
#if REJECT
    std::size_t reusable_prefix(std::size_t n) noexcept { return n; }
#else
    std::size_t reusable_prefix(std::size_t n) const noexcept { return n; }
#endif
};

template class promptkv::BasicPromptCache<KV>;
