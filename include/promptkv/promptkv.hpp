// SPDX-License-Identifier: MIT
// promptkv: a prompt KV cache. This header includes the library except format.hpp (which needs fmt),
// concurrent_prompt_cache.hpp (which needs threads), and the second level with its stores and codec.
#ifndef PROMPTKV_PROMPTKV_HPP
#define PROMPTKV_PROMPTKV_HPP

#include <promptkv/block_kv.hpp>
#include <promptkv/cache_order.hpp>
#include <promptkv/cache_types.hpp>
#include <promptkv/config.hpp>
#include <promptkv/kv_traits.hpp>
#include <promptkv/lru_prompt_cache.hpp>
#include <promptkv/prompt_trie.hpp>
#include <promptkv/reuse_order.hpp>
#include <promptkv/stats.hpp>
#include <promptkv/tier.hpp>
#include <promptkv/version.hpp>
#include <promptkv/victim_policy.hpp>

#endif
