// expect: [Mm]ove
// SPDX-License-Identifier: MIT
// A payload whose move constructor may throw.
#include <promptkv/promptkv.hpp>

#include <cstddef>

struct KV {
    KV() = default;
    KV(const KV&) = default;
    KV& operator=(const KV&) = default;
    KV(KV&&) noexcept(REJECT == 0) {}
    KV& operator=(KV&&) noexcept { return *this; }
    ~KV() = default;

    std::size_t nbytes() const noexcept { return 1; }
};

promptkv::LRUPromptCache<KV> cache;
