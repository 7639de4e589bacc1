// SPDX-License-Identifier: MIT
// Replaces operator new and delete of the executable by those that counting_new.hpp tells of.
// To be included in exactly one of its sources.
#ifndef PROMPTKV_TESTS_REPLACE_NEW_HPP
#define PROMPTKV_TESTS_REPLACE_NEW_HPP

#include "counting_new.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <new>

namespace promptkv_test::detail {

// The size of a block stands right before it, in a gap as wide as its alignment.
inline constexpr std::size_t least_gap = std::max(sizeof(std::size_t), alignof(std::max_align_t));

inline std::size_t gap_of(std::size_t alignment) noexcept {
    return std::max(alignment, least_gap);
}

inline void* allocate(std::size_t size, std::size_t alignment) noexcept {
    ++allocations;
    if (fails_now())
        return nullptr;
    const std::size_t gap = gap_of(alignment);
    const std::size_t whole = (size + gap + gap - 1) / gap * gap;
    void* const raw = std::aligned_alloc(gap, whole);
    if (raw == nullptr)
        return nullptr;
    void* const block = static_cast<std::byte*>(raw) + gap;
    static_cast<std::size_t*>(block)[-1] = size;
    allocated_bytes += size;
    live_bytes += size;
    ++live_blocks;
    return block;
}

inline void* allocate_or_throw(std::size_t size, std::size_t alignment) {
    void* const block = allocate(size, alignment);
    if (block == nullptr)
        throw std::bad_alloc();
    return block;
}

inline void release(void* block, std::size_t alignment) noexcept {
    if (block == nullptr)
        return;
    live_bytes -= static_cast<std::size_t*>(block)[-1];
    --live_blocks;
    std::free(static_cast<std::byte*>(block) - gap_of(alignment));
}

} // namespace promptkv_test::detail

void* operator new(std::size_t size) {
    return promptkv_test::detail::allocate_or_throw(size, 1);
}
void* operator new[](std::size_t size) {
    return promptkv_test::detail::allocate_or_throw(size, 1);
}
void* operator new(std::size_t size, std::align_val_t alignment) {
    return promptkv_test::detail::allocate_or_throw(size, static_cast<std::size_t>(alignment));
}
void* operator new[](std::size_t size, std::align_val_t alignment) {
    return promptkv_test::detail::allocate_or_throw(size, static_cast<std::size_t>(alignment));
}
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
    return promptkv_test::detail::allocate(size, 1);
}
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept {
    return promptkv_test::detail::allocate(size, 1);
}
void* operator new(std::size_t size, std::align_val_t alignment, const std::nothrow_t&) noexcept {
    return promptkv_test::detail::allocate(size, static_cast<std::size_t>(alignment));
}
void* operator new[](std::size_t size, std::align_val_t alignment, const std::nothrow_t&) noexcept {
    return promptkv_test::detail::allocate(size, static_cast<std::size_t>(alignment));
}

void operator delete(void* block) noexcept {
    promptkv_test::detail::release(block, 1);
}
void operator delete[](void* block) noexcept {
    promptkv_test::detail::release(block, 1);
}
void operator delete(void* block, std::size_t) noexcept {
    promptkv_test::detail::release(block, 1);
}
void operator delete[](void* block, std::size_t) noexcept {
    promptkv_test::detail::release(block, 1);
}
void operator delete(void* block, const std::nothrow_t&) noexcept {
    promptkv_test::detail::release(block, 1);
}
void operator delete[](void* block, const std::nothrow_t&) noexcept {
    promptkv_test::detail::release(block, 1);
}
void operator delete(void* block, std::align_val_t alignment) noexcept {
    promptkv_test::detail::release(block, static_cast<std::size_t>(alignment));
}
void operator delete[](void* block, std::align_val_t alignment) noexcept {
    promptkv_test::detail::release(block, static_cast<std::size_t>(alignment));
}
void operator delete(void* block, std::size_t, std::align_val_t alignment) noexcept {
    promptkv_test::detail::release(block, static_cast<std::size_t>(alignment));
}
void operator delete[](void* block, std::size_t, std::align_val_t alignment) noexcept {
    promptkv_test::detail::release(block, static_cast<std::size_t>(alignment));
}
void operator delete(void* block, std::align_val_t alignment, const std::nothrow_t&) noexcept {
    promptkv_test::detail::release(block, static_cast<std::size_t>(alignment));
}
void operator delete[](void* block, std::align_val_t alignment, const std::nothrow_t&) noexcept {
    promptkv_test::detail::release(block, static_cast<std::size_t>(alignment));
}

#endif
