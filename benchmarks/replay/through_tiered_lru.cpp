// SPDX-License-Identifier: MIT
// replay_through_tiered_lru: the cache with promptkv::TieredLRU.
#include "caches.hpp"
#include "replay_through.hpp"

#include <promptkv/lru_prompt_cache.hpp>

#include <string>

namespace replay {

struct TieredLRUCaches {
    template <class KV, class Token>
    using Of = promptkv::LRUPromptCache<KV, std::string, Token>;
};

Result replay_through_tiered_lru(const Trace& trace, const Settings& settings,
                                 const Capacity& capacity, const Progress& progress) {
    return replay_through<TieredLRUCaches>(trace, settings, capacity, progress);
}

} // namespace replay
