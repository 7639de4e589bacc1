// SPDX-License-Identifier: MIT
// CacheEviction: who has to go when there is no room, and how much of it.
#ifndef PROMPTKV_DETAIL_CACHE_EVICTION_HPP
#define PROMPTKV_DETAIL_CACHE_EVICTION_HPP

#include <promptkv/cache_types.hpp>
#include <promptkv/detail/cache_removals.hpp>
#include <promptkv/detail/exceptions.hpp>
#include <promptkv/kv_traits.hpp>
#include <promptkv/version.hpp>

#include <cstddef>
#include <cstdint>
#include <new>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// The eviction of a cache: victims are cut from their tails, down to an anchor, or dropped.
template <class KV, class Model, class Token, class TierEnum>
class CacheEviction : public CacheRemovals<KV, Model, Token, TierEnum> {
    using Base = CacheRemovals<KV, Model, Token, TierEnum>;

protected:
    using Base::append;
    using Base::bytes_;
    using Base::can_cut;
    using Base::drop;
    using Base::forget;
    using Base::index;
    using Base::key_or_nothing;
    using Base::listener_;
    using Base::no_longer_anchor;
    using Base::options_;
    using Base::order_;
    using Base::remove_record;
    using Base::serves;
    using Base::settle;
    using Base::show_or_hide;
    using Base::size_;
    using Base::stats_;
    using Base::tiers_;
    using Base::truncate;
    using typename Base::Handle;
    using typename Base::Payload;
    using typename Base::Record;
    using typename Base::Trie;

public:
    using Base::Base;

    std::size_t trim_to(CacheLimits limits) noexcept {
        const std::uint64_t before = stats_.evicted;
        enforce(limits, {});
        const std::uint64_t evicted = stats_.evicted - before; // not what a listener evicts
        settle();
        return static_cast<std::size_t>(evicted);
    }

    void set_limits(CacheLimits limits) noexcept {
        options_.max_bytes = limits.max_bytes;
        options_.max_entries = limits.max_entries;
        enforce(limits, {});
        while (this->nbytes() > limits.max_bytes ||
               size_ > limits.max_entries) { // only leased ones are left
            const auto place = order_.victim(
                [](const Record& record) { return record.handle->payload != nullptr; });
            if (!place)
                break;
            evict_whole(order_.key(place));
        }
        settle();
    }

    template <class Pressure>
    std::size_t evict_while(Pressure& pressure) {
        std::uint64_t evicted = 0;
        for (bool more = true; more && pressure();) {
            const std::uint64_t before = stats_.evicted;
            more = evict(1, {});
            evicted += stats_.evicted - before; // not what a listener evicts
            settle();
        }
        return static_cast<std::size_t>(evicted);
    }

protected:
    /// Evicts until the limits hold or nothing may be taken; never `keep`.
    void enforce(CacheLimits limits, Handle keep) noexcept {
        for (;;) {
            if (size_ > limits.max_entries) {
                if (!evict(unlimited, keep))
                    return;
            } else if (this->nbytes() > limits.max_bytes) {
                if (!evict(this->nbytes() - limits.max_bytes, keep))
                    return;
            } else {
                return;
            }
        }
    }

    /// Takes `wanted` bytes from the victim, or all of it where that is `unlimited`. False: there is none.
    bool evict(std::size_t wanted, Handle keep) noexcept {
        const auto place = order_.victim([&](const Record& record) {
            return record.handle != keep &&
                   (record.handle->payload == nullptr || !record.handle->payload->leased());
        });
        if (!place)
            return false;
        Record victim = order_.key(place);
        if (victim.handle->payload == nullptr) {
            forget(victim);
        } else if (wanted == unlimited || !can_cut() || !cut(victim, wanted, keep)) {
            evict_whole(victim);
        }
        return true;
    }

    void evict_whole(Record victim) noexcept {
        const Payload& payload = *victim.handle->payload;
        ++stats_.evicted;
        ++tiers_[index(this->tier(victim.handle))].evicted;
        stats_.tokens_evicted += victim.space->trie.length(victim.handle);
        count_evicted_bytes(payload.nbytes);
        if (!payload.used)
            ++stats_.evicted_unused;
        drop(victim, RemovalReason::evicted);
    }

    /// Cuts the victim's tail, not to the key of `keep`; false where it is to be dropped instead.
    bool cut(Record& victim, std::size_t wanted, Handle keep) noexcept {
        Trie& trie = victim.space->trie;
        Handle handle = victim.handle;
        Payload& payload = *handle->payload;
        if (payload.nbytes == 0)
            return false;
        const std::size_t length = trie.length(handle);
        const std::size_t target = cut_target(length, payload.nbytes, wanted);
        const std::size_t kept = served_prefix(*payload.kv, length, target);
        Handle anchor;
        Handle elsewhere;
        bool key_at_kept = false;
        trie.for_each_ancestor(handle, [&](Handle own, Handle nearest, std::size_t at) {
            if (at < kept || at == 0)
                return false;
            elsewhere = nearest;
            key_at_kept = own && at == kept;
            if (own && own != keep && own->anchor && !serves(nearest, trie, at) &&
                served_prefix(*payload.kv, length, at) == at)
                anchor = own;
            return !anchor;
        });
        if (anchor)
            return cut_to_anchor(victim, anchor);
        if (kept == 0 || key_at_kept || serves(elsewhere, trie, kept))
            return false;

        Payload* report = make_report(victim);
        if (listener_ != nullptr && report == nullptr)
            return false;
        const std::size_t nbytes = truncated(payload, kept);
        PROMPTKV_TRY {
            if (nbytes < payload.nbytes)
                handle = trie.cut(handle, kept);
        }
        PROMPTKV_CATCH_ALL {}
        if (trie.length(handle) != kept) {
            delete report;
            return false;
        }
        victim.handle = handle;
        order_.key(handle->place).handle = handle;
        const std::size_t freed = payload.nbytes - nbytes;
        payload.nbytes = nbytes;
        payload.spoiled = false;
        show_or_hide(victim);
        count_cut(victim, report, this->tier(handle), length - kept, freed);
        tiers_[index(this->tier(handle))].nbytes -= freed;
        return true;
    }

    /// The longest length, a multiple of the granularity, that frees `wanted` bytes by the bytes a
    /// token, and an eighth of the tokens.
    [[nodiscard]] std::size_t cut_target(std::size_t length, std::size_t nbytes,
                                         std::size_t wanted) const noexcept {
        if (wanted >= nbytes || length == 0)
            return 0;
        std::size_t needed = 0;
        if (wanted <= unlimited / length) {
            needed = wanted * length / nbytes + (wanted * length % nbytes != 0 ? 1 : 0);
        } else { // of more than 2^32 tokens and bytes; an estimate will do
            needed =
                static_cast<std::size_t>(static_cast<double>(wanted) / static_cast<double>(nbytes) *
                                         static_cast<double>(length)) +
                1;
        }
        const std::size_t eighth = (length + 7) / 8;
        const std::size_t tokens = needed > eighth ? needed : eighth;
        if (tokens >= length)
            return 0;
        return (length - tokens) / options_.cut_granularity * options_.cut_granularity;
    }

    /// Cuts the victim down to an anchor that only it serves: the entry is that anchor's from now on.
    bool cut_to_anchor(Record& victim, Handle anchor) noexcept {
        Trie& trie = victim.space->trie;
        Payload& payload = *victim.handle->payload;
        const std::size_t length = trie.length(victim.handle);
        const std::size_t at = trie.length(anchor);
        const TierEnum tier_before = this->tier(victim.handle);
        Payload* report = make_report(victim);
        if (listener_ != nullptr && report == nullptr)
            return false;
        const std::size_t before = payload.nbytes;
        const std::size_t nbytes = truncated(payload, at);
        if (nbytes >= before) {
            delete report;
            return false;
        }
        const std::size_t freed = before - nbytes;
        payload.nbytes = nbytes;
        payload.spoiled = false;
        victim.handle->payload = nullptr;
        remove_record(victim);
        no_longer_anchor(anchor);
        anchor->payload = &payload;
        const Record record{victim.space, anchor};
        show_or_hide(record);
        count_cut(record, report, tier_before, length - at, freed);
        --tiers_[index(tier_before)].entries;
        ++tiers_[index(this->tier(anchor))].entries;
        tiers_[index(tier_before)].nbytes -= before;
        tiers_[index(this->tier(anchor))].nbytes += payload.nbytes;
        return true;
    }

    /// Truncates and measures: the bytes that it holds then, or `unlimited` where it threw. It no longer
    /// fits its key, so it is spoiled until the caller has made up for that.
    [[nodiscard]] static std::size_t truncated(Payload& payload, std::size_t length) noexcept {
        payload.spoiled = true;
        PROMPTKV_TRY {
            truncate(*payload.kv, length);
            return kv_traits<KV>::nbytes(*payload.kv);
        }
        PROMPTKV_CATCH_ALL {}
        return unlimited;
    }

    /// A record of a cut for the listener; null where there is no listener, or no memory.
    [[nodiscard]] Payload* make_report(Record victim) noexcept {
        if (listener_ == nullptr)
            return nullptr;
        auto* report = new (std::nothrow) Payload();
        if (report != nullptr)
            report->tokens = key_or_nothing(victim);
        return report;
    }

    /// Saturates.
    void count_evicted_bytes(std::size_t nbytes) noexcept {
        const auto left = ~decltype(stats_.bytes_evicted){0} - stats_.bytes_evicted;
        stats_.bytes_evicted += nbytes < left ? nbytes : left;
    }

    void count_cut(Record record, Payload* report, TierEnum tier, std::size_t tokens,
                   std::size_t freed) noexcept {
        ++stats_.cut;
        ++tiers_[index(tier)].cut;
        stats_.tokens_evicted += tokens;
        count_evicted_bytes(freed);
        bytes_ -= freed;
        record.space->nbytes -= freed;
        if (report == nullptr)
            return;
        report->tier = tier;
        report->bytes = freed;
        report->reason = RemovalReason::cut;
        append(*record.space, report);
    }
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
