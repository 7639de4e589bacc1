// SPDX-License-Identifier: MIT
// The sizes of the library's types as the including translation unit sees them.
#ifndef PROMPTKV_TESTS_ODR_LAYOUT_HPP
#define PROMPTKV_TESTS_ODR_LAYOUT_HPP

#include <promptkv/concurrent_prompt_cache.hpp>
#include <promptkv/format.hpp>
#include <promptkv/promptkv.hpp>

#include "unit_payloads.hpp"

#include <array>
#include <cstddef>

using LayoutCache = promptkv::LRUPromptCache<promptkv_test::Blocks>;
using LayoutConcurrentCache = promptkv::ConcurrentPromptCache<promptkv_test::Blocks>;
using LayoutTrie = promptkv::PromptTrie<int>;
using LayoutOrder = promptkv::CacheOrder<int>;
using Layout = std::array<std::size_t, 10>;

constexpr Layout layout_here{sizeof(LayoutCache),
                             sizeof(LayoutCache::Lease),
                             sizeof(LayoutCache::Fetched),
                             sizeof(LayoutCache::Reservation),
                             sizeof(LayoutConcurrentCache),
                             sizeof(promptkv_test::Blocks),
                             sizeof(promptkv_test::Blocks::block_type),
                             sizeof(LayoutTrie),
                             sizeof(LayoutTrie::Handle),
                             sizeof(LayoutOrder)};

/// Returns the sizes in a translation unit that is compiled with NDEBUG.
Layout layout_with_ndebug();

#endif
