// SPDX-License-Identifier: MIT
// Parts: index, ledger, policy, counters and options of a cache, side by side.
#ifndef PROMPTKV_DETAIL_PARTS_HPP
#define PROMPTKV_DETAIL_PARTS_HPP

#include <promptkv/cache_types.hpp>
#include <promptkv/detail/index.hpp>
#include <promptkv/detail/ledger.hpp>
#include <promptkv/detail/removals.hpp>
#include <promptkv/kv_traits.hpp>
#include <promptkv/stats.hpp>
#include <promptkv/tier.hpp>
#include <promptkv/version.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <type_traits>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// Whether a policy observes the nodes of the index.
template <class Policy>
inline constexpr bool observes_edges = !std::is_empty_v<typename Policy::NodeHook>;

template <class R>
struct Parts {
    using Policy = typename R::Policy;
    using Options = CacheOptions<typename Policy::Options>;

    explicit Parts(const Options& given) : options(given), order(options.policy, options.rules) {}

    Options options;
    Index<R> index;
    Ledger<R> ledger;
    typename Policy::template Order<R, typename R::TierEnum> order;
    Stats stats;
    std::array<TierStats, tier_traits<typename R::TierEnum>::count> tiers{}; // what only counts up
    std::shared_ptr<const typename Removals<R>::Listener> listener;
    std::size_t block_tokens = 1; // of the last payload that was stored
    bool serves_parts = false;    // whether that one serves parts of its key
    std::size_t peak_tokens = 0;  // the most tokens that were ever resident
    std::uint64_t requests = 0;   // lookups, and touches that the policy was told of: their numbers
    std::uint32_t asides = 0;     // entries that were set aside so far
    bool is_closed = false;       // the cache is being destroyed: it stores nothing

    /// Says how many tokens of evicted keys may be remembered now.
    void bound_remembered() noexcept {
        if (Policy::remembered == 0 && !options.remembered_tokens)
            return;
        peak_tokens = (std::max)(peak_tokens, index.resident_tokens());
        index.remember_at_most(
            options.remembered_tokens.value_or(Policy::remembered * peak_tokens));
    }

    [[nodiscard]] bool is_mlx_lm() const noexcept { return options.rules == Rules::mlx_lm; }
    [[nodiscard]] CacheLimits limits() const noexcept {
        return {options.max_bytes, options.max_entries};
    }

    // what the policy is told ////////////////////////////////////////////////

    void use(R& record) noexcept {
        record.superseded = false;
        make_recent(record);
    }
    void make_recent(R& record) noexcept {
        order.used(record);
        record.aside = false;
        record.chance = 0;
    }
    /// A longer match used a part of an entry, which becomes the most recent for that.
    void use_in_part(R& record) noexcept {
        make_recent(record);
        if constexpr (observes_edges<Policy>)
            order.used_in_part(record);
    }
    void demote(R& record) noexcept {
        order.demote(record);
        record.aside = false;
    }
    /// Other entries came or left: the record may have become one that no other continues, or may no longer
    /// be one. Null: there is no record.
    void resident_leaf([[maybe_unused]] R* record) noexcept {
        if constexpr (observes_edges<Policy>) {
            for (; record != nullptr; record = detail::prefix_of(*record)) {
                if (record->is_entry && record->payload != nullptr)
                    order.resident_leaf(*record, !record->is_aside() && record->is_leaf());
                if (!PrefixReusable<typename R::KV> || record->shown)
                    break; // it continues those above, whatever continues it
            }
        }
    }
    /// The entry above that only this record continues: without the record no entry does. Null where there is
    /// none, or the policy does not ask.
    [[nodiscard]] R* prefix_bared_by([[maybe_unused]] const R& record) const noexcept {
        if constexpr (observes_edges<Policy>)
            return detail::prefix_continued_by(record);
        else
            return nullptr;
    }
    /// A record that is no entry any more leaves the index, or only hides there until it is reported.
    void take_out(R& record, bool is_reported) noexcept {
        R* above = prefix_bared_by(record);
        if (is_reported)
            index.show(record, false);
        else
            index.unlink(record);
        resident_leaf(above);
    }
    /// An entry has another end.
    void was_cut(R& record) noexcept {
        if (record.chance > record.length())
            record.chance = 0; // what a longer match used is no longer here
        resident_leaf(&record);
        resident_leaf(detail::prefix_of(record));
    }
    void withdraw([[maybe_unused]] R& record) noexcept {
        if constexpr (observes_edges<Policy>)
            order.resident_leaf(record, false);
    }
    void put_back(R& record) noexcept {
        order.put_back(record);
        record.aside = false;
    }
    void set_aside(R& record) noexcept {
        order.set_aside(record);
        record.aside = true;
        record.set_aside_at = ++asides;
    }
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
