// SPDX-License-Identifier: MIT
// The version of promptkv, the tag of its ABI, and the assertion macro.
#ifndef PROMPTKV_VERSION_HPP
#define PROMPTKV_VERSION_HPP

#define PROMPTKV_VERSION_MAJOR 0
#define PROMPTKV_VERSION_MINOR 1
#define PROMPTKV_VERSION_PATCH 0

/// Inline namespace of everything public. It changes with every minor version while the major one
/// is 0, so that two versions in one program are two sets of symbols.
#define PROMPTKV_ABI v0_1

/// Checks what a caller guarantees ("Requires" in the comments). Define it before the first include
/// to report in another way; by default it is `assert`, so nothing is checked under NDEBUG.
#ifndef PROMPTKV_ASSERT
#include <cassert>
#define PROMPTKV_ASSERT(condition) assert(condition)
#endif

#endif
