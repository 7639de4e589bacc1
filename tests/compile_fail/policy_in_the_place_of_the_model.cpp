// expect: a policy is the last template argument
// SPDX-License-Identifier: MIT
// A policy that is given without the template arguments before it.
#include <promptkv/concurrent_prompt_cache.hpp>
#include <promptkv/promptkv.hpp>

#include <cstddef>
#include <cstdint>
#include <string>

struct KV {
    std::size_t nbytes() const noexcept { return 1; }
};

#if REJECT
promptkv::ConcurrentPromptCache<KV, promptkv::ReuseOrder> cache;
#else
promptkv::ConcurrentPromptCache<KV, std::string, std::int32_t, promptkv::Tier, promptkv::ReuseOrder>
    cache;
#endif
