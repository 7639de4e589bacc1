// SPDX-License-Identifier: MIT
// The library as a C++20 module. Macros do not come along: for PROMPTKV_ASSERT and the version numbers
// include <promptkv/config.hpp>.
module;

#include <promptkv/concurrent_prompt_cache.hpp>
#include <promptkv/promptkv.hpp>
#include <promptkv/reuse_order.hpp>

export module promptkv;

export namespace promptkv {

// the cache
using promptkv::BasicPromptCache;
using promptkv::CacheLimits;
using promptkv::CacheOptions;
using promptkv::ConcurrentPromptCache;
using promptkv::EntryView;
using promptkv::Explanation;
using promptkv::Fetched;
using promptkv::FetchOptions;
using promptkv::HitRatioPoint;
using promptkv::Inserted;
using promptkv::InsertOptions;
using promptkv::Lease;
using promptkv::Lookup;
using promptkv::LRUPromptCache;
using promptkv::Match;
using promptkv::MissReason;
using promptkv::name;
using promptkv::Outcome;
using promptkv::PromptCache;
using promptkv::Removal;
using promptkv::RemovalReason;
using promptkv::Reservation;
using promptkv::Rules;
using promptkv::SnapshotEntry;
using promptkv::Tier;
using promptkv::tier_traits;
using promptkv::TierEnumeration;
using promptkv::to_string;
using promptkv::unlimited;

// payloads
using promptkv::AdoptingPayload;
using promptkv::BlockKV;
using promptkv::BlockPayload;
using promptkv::BlockUse;
using promptkv::ClonablePayload;
using promptkv::kv_traits;
using promptkv::KVPayload;
using promptkv::MeasuredPayload;
using promptkv::PrefixClonable;
using promptkv::PrefixReusable;
using promptkv::SharedBlock;
using promptkv::SharedPrefixPayload;
using promptkv::SizedPayload;
using promptkv::TruncatablePayload;

// counters, policies, parts
using promptkv::CacheOrder;
using promptkv::for_each_counter;
using promptkv::PromptTrie;
using promptkv::ReuseOrder;
using promptkv::Stats;
using promptkv::TieredLRU;
using promptkv::TierStats;
using promptkv::VictimPolicy;

} // namespace promptkv
