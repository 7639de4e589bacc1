// SPDX-License-Identifier: MIT
// replay_through_tiered_lru: the cache with promptkv::TieredLRU.
#include "caches.hpp"
#include "replay_through.hpp"

#include <promptkv/lru_prompt_cache.hpp>

namespace replay {
namespace {

template <class KV, class Token>
using TieredCache = promptkv::LRUPromptCache<KV, std::string, Token>;

} // namespace

Result replay_through_tiered_lru(const Trace& trace, const Settings& settings,
                                 const Capacity& capacity, const Progress& progress) {
    return replay_through<TieredCache>(trace, settings, capacity, progress);
}

} // namespace replay
