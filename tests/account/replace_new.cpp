// SPDX-License-Identifier: MIT
// Puts an operator new and delete into this executable that sum up what the allocator really gave
// out, roundings included, into live_bytes. Where it does not tell, what was asked for is summed up.

#include "counting_new.hpp"

#include <cstddef>
#include <cstdlib>
#include <new>

#ifdef __GLIBC__ // has malloc_usable_size

#include <malloc.h>

namespace {

void* counted(void* block) noexcept {
    if (block != nullptr) {
        promptkv_test::live_bytes += malloc_usable_size(block);
        ++promptkv_test::live_blocks;
    }
    return block;
}

void release(void* block) noexcept {
    if (block != nullptr) {
        promptkv_test::live_bytes -= malloc_usable_size(block);
        --promptkv_test::live_blocks;
        std::free(block);
    }
}

void* or_throw(void* block) {
    if (block == nullptr)
        throw std::bad_alloc();
    return block;
}

} // namespace

// The other forms call these; none of the types here is aligned beyond what malloc does.
void* operator new(std::size_t size) {
    return or_throw(counted(std::malloc(size)));
}
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
    return counted(std::malloc(size));
}
void operator delete(void* block) noexcept {
    release(block);
}
void operator delete(void* block, std::size_t) noexcept {
    release(block);
}

#else

#include "replace_new.hpp"

#endif
