// expect: victim policy
// SPDX-License-Identifier: MIT
// A policy that has no order.
#include <promptkv/promptkv.hpp>

#include <cstddef>
#include <cstdint>
#include <string>

struct KV {
    std::size_t nbytes() const noexcept { return 1; }
};

struct NoPolicy {
    struct Options {};
    struct NodeHook {};
    template <class Record>
    struct Hook {};
};

#if REJECT
using Policy = NoPolicy;
#else
using Policy = promptkv::TieredLRU;
#endif

promptkv::BasicPromptCache<KV, std::string, std::int32_t, promptkv::Tier, Policy> cache;
