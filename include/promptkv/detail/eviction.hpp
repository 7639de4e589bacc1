// SPDX-License-Identifier: MIT
// Eviction: which entry leaves when there is no room, and how much of it.
#ifndef PROMPTKV_DETAIL_EVICTION_HPP
#define PROMPTKV_DETAIL_EVICTION_HPP

#include <promptkv/cache_types.hpp>
#include <promptkv/detail/cutting.hpp>
#include <promptkv/detail/exceptions.hpp>
#include <promptkv/detail/index.hpp>
#include <promptkv/detail/ledger.hpp>
#include <promptkv/detail/parts.hpp>
#include <promptkv/detail/removals.hpp>
#include <promptkv/detail/saturating.hpp>
#include <promptkv/detail/sessions.hpp>
#include <promptkv/detail/superseding.hpp>
#include <promptkv/kv_traits.hpp>
#include <promptkv/version.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <unordered_map>
#include <utility>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// The evictions and other removals of one call.
template <class R>
class Eviction {
public:
    using KV = typename R::KV;
    using Node = typename R::Node;
    using Payload = typename R::Payload;

    /// What was evicted.
    struct Evicted {
        std::size_t entries = 0;
        std::size_t cuts = 0;
        std::size_t bytes = 0; // freed by `evict`
    };

    Eviction(Parts<R>& parts, Removals<R>& gone) noexcept : parts_(parts), gone_(gone) {}

    /// From now on entries of more persistent tiers than this are no victims.
    void spare_above(typename R::TierEnum tier) noexcept { tiers_ = detail::tier_index(tier) + 1; }

    /// The incoming entry gives up nothing.
    struct Nothing {
        bool operator()(std::size_t /*wanted*/) const noexcept { return false; }
    };
    /// Evicts until `nbytes` more bytes in `entries` more entries fit into the limits, or nothing is left
    /// to evict. Where the policy says that `incoming`, an entry that is being stored, is the victim itself,
    /// `give_up(wanted)` lowers `nbytes`, or sets it aside; false: nothing of it would be left. 0 bytes are wanted
    /// where it is one entry too many. It is no victim where it was set aside.
    /// Returns:  false where the incoming entry is declined.
    /// Requires: both are within the limits.
    template <class GiveUp = Nothing>
    bool make_room(CacheLimits limits, const std::size_t& nbytes, std::size_t entries,
                   const R* incoming = nullptr, GiveUp give_up = {}) noexcept {
        incoming_ = incoming;
        bool is_kept = true;
        while (is_kept) {
            const bool is_crowded = parts_.ledger.size() > limits.max_entries - entries;
            const std::size_t lacking =
                less(parts_.ledger.nbytes(), less(limits.max_bytes, nbytes));
            if (!is_crowded && lacking == 0)
                break;
            const std::size_t wanted = is_crowded ? 0 : lacking; // bytes; 0: an entry
            if (is_crowded ? evict_entry() : (evict_bytes(wanted) || drop_passed()))
                continue;
            if (!incoming_is_next_)
                break;
            is_kept = give_up((std::min)(wanted, nbytes));
        }
        put_back_passed();
        return is_kept;
    }

    /// Evicts one victim, for `nbytes` bytes that nobody outside of the cache uses.
    void evict(std::size_t nbytes) noexcept {
        in_use_ = true;
        if (!evict_bytes(nbytes))
            static_cast<void>(drop_passed());
        put_back_passed();
    }

    /// What all this evicted.
    [[nodiscard]] const Evicted& evicted() const noexcept { return evicted_; }

    /// An entry leaves the policy, the account and, unless its key is to be reported, the index.
    void remove(R& record, RemovalReason reason) noexcept {
        Sessions<R>::leave(record);
        parts_.order.leave(record);
        record.aside = false;
        const auto left = parts_.ledger.remove(record);
        if (reason == RemovalReason::evicted)
            parts_.index.note_evicted(left.freed);
        record.left_bytes = record.payload->nbytes;
        record.left_kept = 0;
        record.reason = reason;
        record.remember = reason == RemovalReason::evicted && parts_.index.remembers();
        record.is_entry = false;
        record.payload->record = nullptr;
        if (left.leased)
            record.payload = nullptr; // its last lease destroys it
        gone_.push(record);           // first, so that its partition stays
        if (record.node != nullptr)
            parts_.take_out(record, parts_.listener != nullptr);
    }

private:
    static constexpr int max_chances = 64;

    /// The policy's victim. Null: there is none, or it is the incoming entry. Leased entries that come up are
    /// set aside until their last lease ends.
    [[nodiscard]] R* candidate() noexcept {
        for (;;) {
            R* record = parts_.order.victim(tiers_);
            incoming_is_next_ = record != nullptr && record == incoming_;
            if (record == nullptr || incoming_is_next_)
                return nullptr;
            if (!record->payload->set_aside())
                return record;
            parts_.set_aside(*record);
        }
    }
    /// Whether an entry that the policy did not name may go in the victim's place.
    [[nodiscard]] bool may_leave(const R& record) const noexcept {
        return &record != incoming_ && !record.is_aside() && !record.payload->leased() &&
               detail::tier_index(record.tier) < tiers_;
    }

    /// Whether an entry has a second chance: a longer match used a prefix that no other entry serves. One
    /// call grants `max_chances`, however many a client has made.
    [[nodiscard]] bool has_chance(const R& record) const noexcept {
        return record.chance > 0 && chances_ > 0 && !detail::others_serve(record, record.chance);
    }
    /// The entry becomes the most recent, once.
    void take_chance(R& record) noexcept {
        --chances_;
        parts_.use_in_part(record);
    }

    /// A superseded entry, or the one that leaves in its place.
    [[nodiscard]] R& thinnest(R& record) const noexcept {
        return detail::thinnest(record, incoming_,
                                [this](const R& other) { return may_leave(other); });
    }

    bool evict_entry() noexcept {
        while (R* record = candidate()) {
            if (!has_chance(*record)) {
                drop(thinnest(*record));
                return true;
            }
            take_chance(*record);
        }
        return false;
    }

    /// Evicts `wanted` bytes, or fewer where the victim has fewer. False: no entry can free anything.
    bool evict_bytes(std::size_t wanted) noexcept {
        while (R* record = candidate()) {
            if (has_chance(*record)) {
                if (cut(*record, wanted,
                        std::max<std::size_t>(record->chance, detail::least_cut(*record))))
                    return true;
                take_chance(*record);
                continue;
            }
            R& thinned = thinnest(*record);
            if (evict_from(thinned, wanted) || (&thinned != record && evict_from(*record, wanted)))
                return true;
            bool found = false;
            int asked = 0;
            std::uint32_t steps = Index<R>::Tree::max_steps;
            Index<R>::Tree::for_each_beyond(record->node, steps, [&](Node* node) {
                R& longer = *node->value;
                found = may_leave(longer) && evict_from(longer, wanted);
                return !found && ++asked < max_longer;
            });
            if (found)
                return true;
            pass_over(*record);
            if constexpr (observes_edges<typename R::Policy>) {
                // What it shares may be held by an entry that it continues, which is no candidate.
                R* above = detail::prefix_of(*record);
                if (above != nullptr && may_leave(*above)) {
                    if (evict_from(*above, wanted))
                        return true;
                    pass_over(*above);
                }
            }
        }
        return false;
    }

    /// False: dropping the entry would free nothing.
    bool evict_from(R& record, std::size_t wanted) noexcept {
        if (cut(record, wanted, detail::least_cut(record)))
            return true;
        if (Ledger<R>::held_alone(record, 0, in_use_) == 0)
            return false;
        drop(record);
        return true;
    }

    // entries that free nothing, for the time of a call ////////////////////////

    void pass_over(R& record) noexcept {
        parts_.set_aside(record);
        record.next = std::exchange(passed_, &record);
    }
    /// Puts them back in their order: the first that was passed over is the coldest again.
    void put_back_passed() noexcept {
        while (passed_ != nullptr)
            parts_.put_back(*std::exchange(passed_, passed_->next));
    }
    /// Entries that hold the same blocks free nothing one by one: drops one of them. False: the blocks of
    /// those that were passed over are held by leases and reservations as well, or memory ran out.
    bool drop_passed() noexcept {
        R* found = nullptr;
        if constexpr (BlockPayload<KV>) {
            PROMPTKV_TRY {
                std::unordered_map<const BlockUse*, std::uint32_t> passed;
                for_each_passed_block([&](R&, const BlockUse& use, std::size_t nbytes, bool) {
                    if (nbytes > 0)
                        ++passed[&use];
                });
                for_each_passed_block(
                    [&](R& record, const BlockUse& use, std::size_t, bool used_outside) {
                        const auto seen = passed.find(&use);
                        if (seen != passed.end() && seen->second == use.count() &&
                            !(in_use_ && used_outside))
                            found = &record; // in the end the first that was passed over
                    });
            }
            PROMPTKV_CATCH_ALL { // the first that was passed over is dropped whole
                for (R* each = in_use_ ? nullptr : passed_; each != nullptr; each = each->next)
                    found = each;
            }
        }
        put_back_passed();
        if (found != nullptr)
            drop(*found);
        return found != nullptr;
    }

    template <class F>
    void for_each_passed_block(F f) {
        for (R* record = passed_; record != nullptr; record = record->next) {
            detail::for_each_block(record->kv(), 0,
                                   [&](const BlockUse& use, std::size_t nbytes, bool used_outside) {
                                       f(*record, use, nbytes, used_outside);
                                   });
        }
    }

    // whole entries ////////////////////////////////////////////////////////////

    void drop(R& record) noexcept {
        evicted_.bytes += in_use_ ? Ledger<R>::held_alone(record, 0, true) : 0;
        const std::size_t tier = detail::tier_index(record.tier);
        ++parts_.stats.evicted;
        ++parts_.tiers[tier].evicted;
        if (!record.used)
            ++parts_.stats.evicted_unused;
        parts_.stats.tokens_evicted += record.length();
        ++evicted_.entries;
        remove(record, RemovalReason::evicted);
    }

    // tails ////////////////////////////////////////////////////////////////////

    /// Cuts the tail off an entry, down to `least` tokens at most, so that `wanted` bytes are freed.
    /// False: it cannot be cut so, or is better dropped; nothing has changed.
    bool cut(R& record, std::size_t wanted, std::size_t least) noexcept {
        if constexpr (TruncatablePayload<KV>) {
            if (parts_.is_mlx_lm() || record.payload->nbytes == 0)
                return false;
            const std::size_t kept = detail::cut_point(record, wanted, least, in_use_);
            if (kept == 0 || kept >= record.length() || detail::others_serve(record, kept))
                return false;
            return cut_to(record, kept);
        } else {
            return false;
        }
    }

    /// Cuts an entry to its first `kept` tokens. False: memory ran out, and nothing has changed.
    bool cut_to(R& record, std::size_t kept) noexcept {
        std::unique_ptr<R> left(new (std::nothrow) R());
        if (left == nullptr)
            return false;
        left->payload = new (std::nothrow) Payload(parts_.ledger.account());
        const std::size_t length = record.length();
        const bool reports = parts_.listener != nullptr;
        if (reports)
            left->keep(Index<R>::copy_of_key(*record.node));
        const bool changes_edge = kept <= record.node->parent->depth;
        if (changes_edge)
            parts_.withdraw(record);
        if (left->payload == nullptr || !parts_.index.shorten(record, kept)) {
            delete left->payload;
            parts_.resident_leaf(&record);
            return false;
        }
        std::size_t outside = 0; // of the blocks that it held alone: bytes that are used outside
        if (in_use_)
            detail::for_each_block(
                record.kv(), kept,
                [&](const BlockUse& use, std::size_t block_bytes, const auto& used_outside) {
                    outside += use.count() == 1 && used_outside ? block_bytes : 0;
                });
        auto cut = parts_.ledger.cut(record, kept);
        if (cut.tail)
            left->payload->emplace(std::move(*cut.tail));
        const bool was_shown = record.shown;
        parts_.index.show(record, record.serves_parts());
        if (changes_edge || record.shown != was_shown)
            parts_.was_cut(record);

        ++parts_.stats.cut;
        ++parts_.tiers[detail::tier_index(record.tier)].cut;
        parts_.stats.tokens_evicted += length - kept;
        parts_.index.note_evicted(cut.freed);
        ++evicted_.cuts;
        evicted_.bytes += less(cut.freed, outside);
        left->home = record.home;
        left->tier = record.tier;
        left->reason = RemovalReason::cut;
        left->left_kept = static_cast<std::uint32_t>(kept);
        left->left_bytes = cut.nbytes;
        gone_.push(*left.release());
        if (cut.freed == 0) // nothing was gained: it can only be dropped
            drop(record);
        return true;
    }

    Parts<R>& parts_;
    Removals<R>& gone_;
    Evicted evicted_;
    const R* incoming_ = nullptr;
    bool incoming_is_next_ = false; // it is the policy's victim
    bool in_use_ = false;           // what is used outside of the cache does not count as freed
    std::size_t tiers_ = tier_traits<typename R::TierEnum>::count; // the first ones may give
    int chances_ = max_chances;
    R* passed_ = nullptr; // a chain, the last that was passed over first
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
