// SPDX-License-Identifier: MIT
// Ledger: bytes and counts.
#ifndef PROMPTKV_DETAIL_LEDGER_HPP
#define PROMPTKV_DETAIL_LEDGER_HPP

#include <promptkv/detail/saturating.hpp>
#include <promptkv/detail/shared_payload.hpp>
#include <promptkv/kv_traits.hpp>
#include <promptkv/tier.hpp>
#include <promptkv/version.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

namespace promptkv::inline PROMPTKV_ABI::detail {

template <class KV>
struct GiveBack {
    std::size_t nbytes = 0;

    void operator()(Account<KV>* account) const noexcept {
        account->reserved.fetch_sub(nbytes, std::memory_order_release);
        account->release();
    }
};
/// Bytes held for a payload that is not there yet. Given back when this is destroyed, on any thread.
template <class KV>
using HeldBytes = std::unique_ptr<Account<KV>, GiveBack<KV>>;

/// The blocks of the leased payloads, each once.
struct LeasedBlocks {
    std::unordered_set<const BlockUse*> blocks;
    std::size_t nbytes = 0; // with what else these payloads refer to, and with what is reserved
};

/// The only writer of bytes and counts.
///
/// Thread safety: none, but the account that it shares with leases.
template <class R>
class Ledger {
public:
    using KV = typename R::KV;
    using TierEnum = typename R::TierEnum;
    using Payload = SharedPayload<KV>;

    Ledger() : account_(new Account<KV>) {}
    Ledger(const Ledger&) = delete;
    Ledger& operator=(const Ledger&) = delete;
    /// Leases may outlive it: from now on the last one deletes its payload.
    ~Ledger() {
        while (leased_.first != nullptr)
            unlist(*leased_.first);
        Payload* ended = account_->ended.exchange(Payload::closed(), std::memory_order_acq_rel);
        while (ended != nullptr)
            std::exchange(ended, ended->next_ended)->drop(Payload::queued);
        account_->release();
    }

    // entries ////////////////////////////////////////////////////////////////

    /// Counts the blocks of a payload that is about to be stored, so that no eviction frees them.
    /// Returns the bytes that it needs beyond what is held already.
    [[nodiscard]] std::size_t hold(const KV& kv, std::size_t nbytes) noexcept {
        return less(nbytes, store_blocks(kv, account_));
    }

    /// An entry's payload is stored now; `hold` returned `added` for it.
    void add(R& record, std::size_t added) noexcept {
        account_->bytes.fetch_add(added, std::memory_order_relaxed);
        ++size_;
        ++tiers_[tier_index(record.tier)].entries;
        refer(record, record.payload->nbytes);
        note_peak();
    }

    /// An entry left. Its payload stays in the account as long as it is leased.
    struct Left {
        std::size_t freed;
        bool leased;
    };
    Left remove(R& record) noexcept {
        Payload& payload = *record.payload;
        --size_;
        --tiers_[tier_index(record.tier)].entries;
        refer(record, 0 - payload.nbytes);
        std::size_t held = 0;
        if (payload.leased()) {
            pin_blocks(payload.kv, account_); // first, so that they are held all the time
            unstore_blocks(payload.kv, 0);
            const std::uint32_t before =
                payload.owners.fetch_and(~Payload::in_cache, std::memory_order_acq_rel);
            if ((before & Payload::leases) != 0) {
                --leased_.entries;
                return {0, true};
            }
            payload.owners.fetch_or(Payload::in_cache, std::memory_order_relaxed); // it has ended
            held = unpin_blocks(payload.kv);
        } else {
            held = unstore_blocks(payload.kv, 0);
        }
        forget_leases(payload);
        const std::size_t freed = less(payload.nbytes, held);
        account_->bytes.fetch_sub(freed, std::memory_order_relaxed);
        return {freed, false};
    }

    /// Changes an entry's tier.
    void retier(R& record, TierEnum tier) noexcept {
        --tiers_[tier_index(record.tier)].entries;
        refer(record, 0 - record.payload->nbytes);
        record.tier = tier;
        ++tiers_[tier_index(record.tier)].entries;
        refer(record, record.payload->nbytes);
    }

    /// What a cut to the first `n` tokens did.
    struct Cut {
        std::optional<KV> tail; // what the payload gave up, if it returns that
        std::size_t nbytes = 0; // that the entry no longer refers to
        std::size_t freed = 0;  // of these: that nobody holds any more
    };
    /// Cuts an entry's payload. Requires: it is not leased.
    [[nodiscard]] Cut cut(R& record, std::size_t n) noexcept {
        forget_leases(*record.payload);
        Cut cut = shorten(*record.payload, n);
        refer(record, 0 - cut.nbytes);
        account_->bytes.fetch_sub(cut.freed, std::memory_order_relaxed);
        return cut;
    }
    /// Cuts a payload that is held, and not added yet. Lowers `added`, what it needs.
    [[nodiscard]] Cut cut_held(Payload& payload, std::size_t n, std::size_t& added) noexcept {
        Cut cut = shorten(payload, n);
        give_up(cut.freed, added);
        return cut;
    }
    /// Lets go of a payload that is held, and not added yet.
    void let_go(Payload& payload, std::size_t added) noexcept {
        give_up(less(payload.nbytes, unstore_blocks(payload.kv, 0)), added);
    }

    // leases and reservations ////////////////////////////////////////////////

    [[nodiscard]] PayloadLease<KV> lease(Payload& payload) noexcept {
        if (is_listed(payload)) {
            payload.owners.fetch_add(1, std::memory_order_relaxed);
        } else {
            payload.owners.fetch_add(Payload::listed + 1, std::memory_order_relaxed);
            tidy_leased();
            tidy_leased();
            enlist(payload);
        }
        return PayloadLease<KV>(&payload);
    }

    /// Leases a payload that never was an entry: what a reservation shares. Throws what an allocation or
    /// `make()`, which returns it, throws.
    template <class Make>
    [[nodiscard]] PayloadLease<KV> lease_apart(Make make) {
        auto owned =
            std::make_unique<Payload>(*account_); // first: what is made cannot be destroyed here
        KV kv = make();
        Payload* payload = owned.release();
        // Its blocks alone: what a clone has beside them goes with the reservation's own bytes.
        payload->nbytes = 0;
        std::size_t added = 0;
        for_each_block(kv, [&](const BlockUse& use, std::size_t block_bytes, const auto&) {
            payload->nbytes += block_bytes;
            added += use.pin(account_) ? block_bytes : 0;
        });
        payload->emplace(std::move(kv));
        account_->bytes.fetch_add(added, std::memory_order_relaxed);
        PayloadLease<KV> lease = this->lease(*payload);
        payload->owners.fetch_and(~Payload::in_cache, std::memory_order_relaxed);
        return lease;
    }

    /// Ends such a lease. `kv` gets the payload, to be destroyed without a lock. Without effect where a walk
    /// over the leased payloads holds a lease too.
    void end_apart(PayloadLease<KV>& lease, std::optional<KV>& kv) noexcept {
        Payload& payload = *lease.get();
        if (!payload.leased_once())
            return;
        const std::size_t held = unpin_blocks_locked(payload.kv);
        account_->bytes.fetch_sub(less(payload.nbytes, held), std::memory_order_relaxed);
        kv.emplace(std::move(payload.kv));
        payload.destroy_kv();
        forget_leases(payload);
        lease.reset();
    }

    /// Whether there is something to drain.
    [[nodiscard]] bool has_ended() const noexcept {
        return account_->ended.load(std::memory_order_relaxed) != nullptr;
    }
    /// Takes the payloads that last leases queued since the last drain. Calls `f(record)` for those that
    /// are entries: they were set aside, and may be leased again.
    template <class F>
    void drain(F f) noexcept {
        Payload* ended = account_->ended.exchange(nullptr, std::memory_order_acquire);
        while (ended != nullptr) {
            Payload& payload = *std::exchange(ended, ended->next_ended);
            auto* record = static_cast<R*>(payload.record);
            if (!payload.leased())
                forget_leases(payload);
            payload.drop(Payload::queued); // NOLINT: the stack is an owner
            if (record != nullptr)
                f(*record);
        }
    }

    [[nodiscard]] HeldBytes<KV> reserve(std::size_t nbytes) noexcept {
        account_->owners.fetch_add(1, std::memory_order_relaxed);
        account_->reserved.fetch_add(nbytes, std::memory_order_relaxed);
        note_peak();
        return HeldBytes<KV>(account_, GiveBack<KV>{nbytes});
    }

    /// Walks the leased payloads. `pins` get leases that keep them there meanwhile; end them without a
    /// lock. Throws what an allocation throws.
    [[nodiscard]] LeasedBlocks leased_blocks(std::vector<PayloadLease<KV>>& pins) const {
        LeasedBlocks leased;
        leased.nbytes = reserved();
        for (Payload* payload = leased_.first; payload != nullptr; payload = payload->next) {
            auto& pin = pins.emplace_back();
            if (!payload->share_lease()) {
                pins.pop_back();
                continue;
            }
            pin.reset(payload);
            std::size_t nbytes = payload->nbytes;
            for_each_block(payload->kv,
                           [&](const BlockUse& use, std::size_t block_bytes, const auto&) {
                               if (!leased.blocks.insert(&use).second)
                                   nbytes = less(nbytes, block_bytes);
                           });
            leased.nbytes += nbytes;
        }
        return leased;
    }

    // observers //////////////////////////////////////////////////////////////

    [[nodiscard]] Account<KV>& account() const noexcept { return *account_; }
    [[nodiscard]] std::size_t size() const noexcept { return size_; }
    /// Bytes of all payloads held, each block once, and of reservations.
    [[nodiscard]] std::size_t nbytes() const noexcept {
        return account_->bytes.load(std::memory_order_acquire) + reserved();
    }
    [[nodiscard]] std::size_t reserved() const noexcept {
        return account_->reserved.load(std::memory_order_acquire);
    }
    /// What is reserved, and never less than what leased payloads refer to; some of these leases may have
    /// ended.
    [[nodiscard]] std::size_t pinned_at_most() const noexcept {
        return more(leased_.nbytes, reserved());
    }
    [[nodiscard]] std::size_t leased_entries_at_most() const noexcept { return leased_.entries; }
    /// What leased payloads refer to, and how many are entries. O(leased payloads).
    struct Leased {
        std::size_t nbytes = 0;
        std::size_t entries = 0;
    };
    [[nodiscard]] Leased leased() const noexcept {
        Leased leased;
        for (const Payload* payload = leased_.first; payload != nullptr; payload = payload->next) {
            if (payload->leased()) {
                leased.nbytes += payload->nbytes;
                leased.entries += payload->record != nullptr ? 1 : 0;
            }
        }
        return leased;
    }
    /// How many payloads are leased that are no entry's. O(leased payloads).
    [[nodiscard]] std::size_t leased_apart() const noexcept {
        std::size_t n = 0;
        for (const Payload* payload = leased_.first; payload != nullptr; payload = payload->next)
            n += payload->record == nullptr ? 1 : 0;
        return n;
    }
    [[nodiscard]] std::size_t referenced() const noexcept { return referenced_; }
    [[nodiscard]] std::size_t peak() const noexcept { return peak_; }
    [[nodiscard]] std::size_t entries(TierEnum tier) const noexcept {
        return tiers_[tier_index(tier)].entries;
    }
    [[nodiscard]] std::size_t referenced(TierEnum tier) const noexcept {
        return tiers_[tier_index(tier)].nbytes;
    }

    /// Bytes that an entry's payload alone holds from token `from` on. `in_use`: blocks that the engine uses
    /// itself do not count. `first_block` gets the bytes of the first block that counts, if that is the
    /// first one.
    [[nodiscard]] static std::size_t held_alone(const R& record, std::size_t from, bool in_use,
                                                std::size_t* first_block = nullptr) {
        if constexpr (BlockPayload<KV>) {
            std::size_t alone = 0, all = 0;
            bool is_first = true;
            kv_traits<KV>::for_each_block(
                record.kv(), from,
                [&](const BlockUse& use, std::size_t block_bytes, const auto& used_outside) {
                    all += block_bytes;
                    if (use.count() == 1 && !(in_use && used_outside)) {
                        alone += block_bytes;
                        if (is_first && first_block != nullptr)
                            *first_block = block_bytes;
                    }
                    is_first = false;
                });
            return from == 0 ? alone + less(record.payload->nbytes, all) : alone;
        } else {
            return record.payload->nbytes;
        }
    }

    /// Counts what entries and leases hold anew and compares. `each_entry(f)` calls f(record).
    template <class EachEntry>
    [[nodiscard]] bool check_invariants(EachEntry each_entry) const {
        std::size_t entries = 0, bytes = 0, referenced = 0;
        Leased listed;
        std::array<Sums, tier_traits<TierEnum>::count> tiers{};
        std::unordered_map<const BlockUse*, std::uint32_t> blocks;
        bool sound = true;
        // `nbytes` is that of the whole payload, or of its blocks alone: see lease_apart.
        const auto count = [&](const Payload& payload) {
            bytes += payload.nbytes;
            for_each_block(payload.kv,
                           [&](const BlockUse& use, std::size_t block_bytes, const auto&) {
                               if (++blocks[&use] > 1)
                                   bytes = less(bytes, block_bytes);
                           });
            sound = sound && payload.nbytes <= kv_traits<KV>::nbytes(payload.kv);
        };
        each_entry([&](const R& record) {
            ++entries;
            referenced += record.payload->nbytes;
            ++tiers[tier_index(record.tier)].entries;
            tiers[tier_index(record.tier)].nbytes += record.payload->nbytes;
            count(*record.payload);
            sound = sound && record.payload->record == &record &&
                    record.payload->nbytes == kv_traits<KV>::nbytes(record.kv());
        });
        for (Payload* payload = leased_.first; payload != nullptr; payload = payload->next) {
            listed.nbytes += payload->nbytes;
            listed.entries += payload->record != nullptr ? 1 : 0;
            sound = sound && is_listed(*payload);
            if (payload->record == nullptr && payload->share_lease()) {
                const PayloadLease<KV> pin(payload);
                count(*payload);
            }
        }
        for (const auto& block : blocks)
            sound = sound && block.first->count() == block.second;
        for (std::size_t i = 0; i < tiers.size(); ++i)
            sound = sound && tiers[i].entries == tiers_[i].entries &&
                    tiers[i].nbytes == tiers_[i].nbytes;
        return sound && entries == size_ && referenced == referenced_ &&
               bytes + reserved() == nbytes() && listed.nbytes == leased_.nbytes &&
               listed.entries == leased_.entries;
    }

private:
    struct Sums {
        std::size_t entries = 0;
        std::size_t nbytes = 0;
    };

    template <class F>
    static void for_each_block([[maybe_unused]] const KV& kv, [[maybe_unused]] F f) {
        if constexpr (BlockPayload<KV>)
            kv_traits<KV>::for_each_block(kv, 0, f);
    }

    [[nodiscard]] static Cut shorten(Payload& payload, std::size_t n) noexcept {
        const std::size_t held = unstore_blocks(payload.kv, n);
        Cut cut{truncate(payload.kv, n)};
        cut.nbytes = less(payload.nbytes, kv_traits<KV>::nbytes(payload.kv));
        cut.freed = less(cut.nbytes, held);
        payload.nbytes -= cut.nbytes;
        return cut;
    }
    /// A payload that is not added yet gives up `freed` bytes: of what it needed, and beyond that of what
    /// others left to it meanwhile.
    void give_up(std::size_t freed, std::size_t& added) noexcept {
        account_->bytes.fetch_sub(less(freed, added), std::memory_order_relaxed);
        added = less(added, freed);
    }

    /// Adds to the sums of what entries refer to, modulo 2^64: a negative number is subtracted.
    void refer(R& record, std::size_t nbytes) noexcept {
        referenced_ += nbytes;
        record.home->nbytes += nbytes;
        tiers_[tier_index(record.tier)].nbytes += nbytes;
    }

    // payloads that were leased //////////////////////////////////////////////

    /// A list, the latest first, and its sums. Leases end without a word, so ended ones are taken off
    /// later: at the latest when as many others have begun.
    struct LeasedList {
        Payload* first = nullptr;
        Payload* last = nullptr;
        std::size_t nbytes = 0;
        std::size_t entries = 0;
    };

    [[nodiscard]] static bool is_listed(const Payload& payload) noexcept {
        return (payload.owners.load(std::memory_order_relaxed) & Payload::listed) != 0;
    }
    void enlist(Payload& payload) noexcept {
        payload.prev = nullptr;
        payload.next = leased_.first;
        (leased_.first != nullptr ? leased_.first->prev : leased_.last) = &payload; // NOLINT
        leased_.first = &payload;
        leased_.nbytes += payload.nbytes;
        leased_.entries += payload.record != nullptr ? 1 : 0;
    }
    void take_off(Payload& payload) noexcept {
        (payload.prev != nullptr ? payload.prev->next : leased_.first) = payload.next;
        (payload.next != nullptr ? payload.next->prev : leased_.last) = payload.prev;
        leased_.nbytes -= payload.nbytes;
        leased_.entries -= payload.record != nullptr ? 1 : 0;
    }
    /// May delete the payload.
    void unlist(Payload& payload) noexcept {
        take_off(payload);
        payload.drop(Payload::listed);
    }
    /// Requires: the payload has no lease, and another owner.
    void forget_leases(Payload& payload) noexcept {
        if (is_listed(payload))
            unlist(payload);
    }
    /// Looks at the last one of the list.
    void tidy_leased() noexcept {
        Payload* last = leased_.last;
        if (last == nullptr)
            return;
        if (last->leased()) { // NOLINT: a payload on the list is not deleted
            take_off(*last);
            enlist(*last);
        } else {
            unlist(*last);
        }
    }

    void note_peak() noexcept { peak_ = (std::max)(peak_, nbytes()); }

    Account<KV>* account_;
    LeasedList leased_;
    std::size_t size_ = 0;
    std::size_t referenced_ = 0;
    std::size_t peak_ = 0;
    std::array<Sums, tier_traits<TierEnum>::count> tiers_{};
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
