// expect: reusable_prefix\(n\) must be const
// SPDX-License-Identifier: MIT
// A question to the payload that is not const: it would count as left out, and nothing be reused.
#include <promptkv/promptkv.hpp>

#include <cstddef>

struct KV {
    std::size_t nbytes() const noexcept { return 1; }
#if REJECT
    std::size_t reusable_prefix(std::size_t n) noexcept {
        return n;
    }
#else
    std::size_t reusable_prefix(std::size_t n) const noexcept {
        return n;
    }
#endif
};

template class promptkv::LRUPromptCache<KV>;
