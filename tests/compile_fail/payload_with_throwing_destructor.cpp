// expect: [Dd]estr|nothrow_move
// SPDX-License-Identifier: MIT
// A payload whose destructor may throw.
#include <promptkv/promptkv.hpp>

#include <cstddef>

struct KV {
    KV() = default;
    KV(const KV&) = default;
    KV& operator=(const KV&) = default;
    KV(KV&&) noexcept {}
    KV& operator=(KV&&) noexcept { return *this; }
    ~KV() noexcept(REJECT == 0) {}

    std::size_t nbytes() const noexcept { return 1; }
};

promptkv::LRUPromptCache<KV> cache;
