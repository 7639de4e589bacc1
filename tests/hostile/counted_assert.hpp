// SPDX-License-Identifier: MIT
// PROMPTKV_ASSERT that counts what is wrong and goes on: what an assertion would catch is seen, and
// what happens where assertions are compiled out. To be included before any header of promptkv.
#ifndef PROMPTKV_TESTS_COUNTED_ASSERT_HPP
#define PROMPTKV_TESTS_COUNTED_ASSERT_HPP

#include <cstddef>

#ifdef PROMPTKV_ASSERT
#error "include counted_assert.hpp before the headers of promptkv"
#endif

namespace promptkv_test {

/// Assertions of this executable that failed so far.
inline std::size_t failed_assertions = 0;

} // namespace promptkv_test

#define PROMPTKV_ASSERT(condition)                                                                 \
    ((condition) ? static_cast<void>(0) : static_cast<void>(++::promptkv_test::failed_assertions))

#endif
