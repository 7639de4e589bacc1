// SPDX-License-Identifier: MIT
// The assertion macro.
#ifndef PROMPTKV_CONFIG_HPP
#define PROMPTKV_CONFIG_HPP

/// Checks what a caller guarantees ("Requires" in the comments). Define it before the first include
/// to report in another way. By default it is `assert`: nothing is checked under NDEBUG.
#ifndef PROMPTKV_ASSERT
#include <cassert>
#define PROMPTKV_ASSERT(condition) assert(condition)
#endif

#endif
