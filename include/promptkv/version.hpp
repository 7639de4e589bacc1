// SPDX-License-Identifier: MIT
// The version of promptkv and the tag of its ABI.
#ifndef PROMPTKV_VERSION_HPP
#define PROMPTKV_VERSION_HPP

#define PROMPTKV_VERSION_MAJOR 0
#define PROMPTKV_VERSION_MINOR 2
#define PROMPTKV_VERSION_PATCH 0

/// Inline namespace of everything public. It changes with every minor version while the major one
/// is 0, so that two versions in one program are two sets of symbols.
#define PROMPTKV_ABI v0_2

#endif
