// SPDX-License-Identifier: MIT
// replay_through_reuse_order: the cache with promptkv::ReuseOrder, where promptkv has it.
#include "caches.hpp"

#if __has_include(<promptkv/reuse_order.hpp>)

#include "replay_through.hpp"

#include <promptkv/lru_prompt_cache.hpp>
#include <promptkv/reuse_order.hpp>

#include <cstdint>
#include <string>

namespace replay {

struct ReuseOrderCaches {
    template <class KV, class Token>
    using Of = promptkv::PromptCache<KV, std::string, Token>;
};

bool has_reuse_order() noexcept {
    return true;
}

bool has_hit_ratio_curve() noexcept {
    return detail::HasCurve<ReuseOrderCaches::Of<detail::Blocks, std::int32_t>>;
}

Result replay_through_reuse_order(const Trace& trace, const Settings& settings,
                                  const Capacity& capacity, const Progress& progress) {
    return replay_through<ReuseOrderCaches>(trace, settings, capacity, progress);
}

} // namespace replay

#else

#include <cstdlib>

namespace replay {

bool has_reuse_order() noexcept {
    return false;
}

bool has_hit_ratio_curve() noexcept {
    return false;
}

Result replay_through_reuse_order(const Trace&, const Settings&, const Capacity&, const Progress&) {
    std::abort();
}

} // namespace replay

#endif
