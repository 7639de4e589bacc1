// SPDX-License-Identifier: MIT
// ConcurrentPromptCache: the prompt cache, thread-safe.
//
// Not in the umbrella header: a program without threads does not pay for <mutex>.
#ifndef PROMPTKV_CONCURRENT_PROMPT_CACHE_HPP
#define PROMPTKV_CONCURRENT_PROMPT_CACHE_HPP

#include <promptkv/lru_prompt_cache.hpp>
#include <promptkv/tier.hpp>
#include <promptkv/version.hpp>
#include <promptkv/victim_policy.hpp>

#include <cstdint>
#include <mutex>
#include <string>

namespace promptkv::inline PROMPTKV_ABI {

/// A BasicPromptCache with a mutex, which is held for what the index and the account need. Its calls take
/// effect one after the other. Where the caller's code runs:
///
/// | outside of the lock, may call the cache              | under the lock, must not call the cache   |
/// |------------------------------------------------------|-------------------------------------------|
/// | `clone_prefix` and the copy constructor, in a fetch  | the other functions of kv_traits, and     |
/// | the destructors of payloads                          | moving a payload                          |
/// | `make`, the listener                                 | the model's hash, comparison and copy     |
/// |                                                      | the function that `for_each` calls        |
///
/// So a slow copy, listener or destructor delays its own thread alone. A victim is cut under the lock; the
/// tail that `truncate` returns is destroyed outside. `reserve` and `mark` clone under the lock: blocks
/// are shared, but a payload without shared blocks is copied there.
///
/// What payloads share, such as a pool of blocks, needs a lock of its own; nobody may call the cache while
/// holding it. Do not hold a lock in the listener that a block's destructor takes. What leaves is reported and
/// destroyed by the thread whose call removed it, before that call returns; `nbytes()` no longer counts it
/// then. So the listener may run on several threads at once.
///
/// Thread safety: all but construction, assignment and destruction.
template <class KV, class Model = std::string, class Token = std::int32_t, class TierEnum = Tier,
          class Policy = TieredLRU>
using ConcurrentPromptCache = BasicPromptCache<KV, Model, Token, TierEnum, Policy, std::mutex>;

} // namespace promptkv::inline PROMPTKV_ABI

#endif
