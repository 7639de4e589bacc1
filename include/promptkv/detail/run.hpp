// SPDX-License-Identifier: MIT
// Run: the tokens of a trie's edges.
#ifndef PROMPTKV_DETAIL_RUN_HPP
#define PROMPTKV_DETAIL_RUN_HPP

#include <promptkv/version.hpp>

#include <cstddef>
#include <cstdint>
#include <new>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// Tokens in one allocation, behind this header. The edges that splits made of one edge share the
/// run: each edge has a piece. The run is freed with the last piece.
template <class Token>
struct alignas(alignof(Token) > alignof(std::uint32_t) ? alignof(Token)
                                                       : alignof(std::uint32_t)) Run {
    // (g++ 12 takes the laxer of two specifiers.)
    std::uint32_t live;     // tokens that an edge has
    std::uint32_t end;      // tokens that were written; what an edge lost stays
    std::uint32_t capacity; // tokens that there is memory for

    [[nodiscard]] static std::size_t nbytes_of(std::size_t n) noexcept {
        return sizeof(Run) + n * sizeof(Token);
    }
    [[nodiscard]] static Run* make(std::uint32_t n) {
        return new (::operator new(nbytes_of(n))) Run{n, n, n};
    }
    /// A run of `n` tokens with memory for `more`. Null if memory ran out.
    [[nodiscard]] static Run* try_make(std::uint32_t n, std::uint32_t more = 0) noexcept {
        void* memory = ::operator new(nbytes_of(std::size_t{n} + more), std::nothrow);
        return memory != nullptr ? new (memory) Run{n, n, n + more} : nullptr;
    }

    [[nodiscard]] Token* tokens() noexcept { return reinterpret_cast<Token*>(this + 1); }
    [[nodiscard]] std::size_t nbytes() const noexcept { return nbytes_of(capacity); }

    void release(std::uint32_t n) noexcept {
        live -= n;
        if (live == 0)
            ::operator delete(this);
    }
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
