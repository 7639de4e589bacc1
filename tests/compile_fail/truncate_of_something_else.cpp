// expect: truncate\(n\) must return
// SPDX-License-Identifier: MIT
// A truncate that returns a number: it would silently be ignored, and no entry be cut.
#include <promptkv/promptkv.hpp>

#include <cstddef>

struct KV {
    std::size_t nbytes() const noexcept { return 1; }
    std::size_t reusable_prefix(std::size_t n) const noexcept { return n; }
#if REJECT
    std::size_t truncate(std::size_t n) noexcept { return n; }
#else
    void truncate(std::size_t) noexcept {}
#endif
};

template class promptkv::BasicPromptCache<KV>;
