// SPDX-License-Identifier: MIT
// Ledger: bytes and counts.
#ifndef PROMPTKV_DETAIL_LEDGER_HPP
#define PROMPTKV_DETAIL_LEDGER_HPP

#include <promptkv/detail/leases.hpp>
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

/// The only writer of bytes and counts, but for leases and reservations that end on other threads: see Account.
///
/// Thread safety: none, but the account.
template <class R>
class Ledger {
public:
    using KV = typename R::KV;
    using TierEnum = typename R::TierEnum;
    using Payload = SharedPayload<KV>;

    Ledger() = default;
    Ledger(const Ledger&) = delete;
    Ledger& operator=(const Ledger&) = delete;
    ~Ledger() = default;

    // entries ////////////////////////////////////////////////////////////////

    /// Counts the blocks of a payload that is about to be stored, so that no eviction frees them.
    /// Returns the bytes that it needs beyond what is held already.
    [[nodiscard]] std::size_t hold(const KV& kv, std::size_t nbytes) noexcept {
        return less(nbytes, detail::store_blocks(kv, account_.get()));
    }

    /// An entry's payload is stored now; `hold` returned `added` for it.
    void add(R& record, std::size_t added) noexcept {
        account_->bytes.fetch_add(added, std::memory_order_relaxed);
        count(record, 1, record.payload->nbytes);
        note_peak();
    }

    /// An entry left. Its payload stays in the account as long as it is leased.
    struct Left {
        std::size_t freed;
        bool leased;
    };
    Left remove(R& record) noexcept {
        Payload& payload = *record.payload;
        uncount(record, 1, payload.nbytes);
        std::size_t held = 0;
        if (payload.leased()) {
            detail::pin_blocks(payload.kv,
                               account_.get()); // first, so that they are held all the time
            detail::unstore_blocks(payload.kv, 0);
            const std::uint32_t before =
                payload.owners.fetch_and(~Payload::in_cache, std::memory_order_acq_rel);
            if ((before & Payload::leases) != 0) {
                leases_.entry_left();
                return {0, true};
            }
            payload.owners.fetch_or(Payload::in_cache, std::memory_order_relaxed); // it has ended
            held = detail::unpin_blocks(payload.kv);
        } else {
            held = detail::unstore_blocks(payload.kv, 0);
        }
        leases_.forget(payload);
        const std::size_t freed = less(payload.nbytes, held);
        account_->bytes.fetch_sub(freed, std::memory_order_relaxed);
        return {freed, false};
    }

    /// Changes an entry's tier.
    void retier(R& record, TierEnum tier) noexcept {
        uncount(record, 1, record.payload->nbytes);
        record.tier = tier;
        count(record, 1, record.payload->nbytes);
    }

    /// What a cut to the first `n` tokens did.
    struct Cut {
        std::optional<KV> tail; // what the payload gave up, if it returns that
        std::size_t nbytes = 0; // that the entry no longer refers to
        std::size_t freed = 0;  // of these: that nobody holds any more
    };
    /// Cuts an entry's payload. Requires: it is not leased.
    [[nodiscard]] Cut cut(R& record, std::size_t n) noexcept {
        leases_.forget(*record.payload);
        Cut cut = shorten(*record.payload, n);
        uncount(record, 0, cut.nbytes);
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
        give_up(less(payload.nbytes, detail::unstore_blocks(payload.kv, 0)), added);
    }

    // leases and reservations ////////////////////////////////////////////////

    [[nodiscard]] Leases<R>& leases() noexcept { return leases_; }
    [[nodiscard]] const Leases<R>& leases() const noexcept { return leases_; }

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
        detail::for_each_block(kv, 0,
                               [&](const BlockUse& use, std::size_t block_bytes, const auto&) {
                                   payload->nbytes += block_bytes;
                                   added += use.pin(account_.get()) ? block_bytes : 0;
                               });
        payload->emplace(std::move(kv));
        account_->bytes.fetch_add(added, std::memory_order_relaxed);
        PayloadLease<KV> lease = leases_.begin(*payload);
        payload->owners.fetch_and(~Payload::in_cache, std::memory_order_relaxed);
        return lease;
    }

    /// Ends such a lease. `kv` gets the payload, to be destroyed without a lock. Without effect where a walk
    /// over the leased payloads holds a lease too.
    void end_apart(PayloadLease<KV>& lease, std::optional<KV>& kv) noexcept {
        Payload& payload = *lease.get();
        if (!payload.leased_once())
            return;
        const std::size_t held = detail::unpin_blocks_locked(payload.kv);
        account_->bytes.fetch_sub(less(payload.nbytes, held), std::memory_order_relaxed);
        kv.emplace(std::move(payload.kv));
        payload.destroy_kv();
        leases_.forget(payload);
        lease.reset();
    }

    [[nodiscard]] HeldBytes<KV> reserve(std::size_t nbytes) noexcept {
        account_->owners.fetch_add(1, std::memory_order_relaxed);
        account_->reserved.fetch_add(nbytes, std::memory_order_relaxed);
        note_peak();
        return HeldBytes<KV>(account_.get(), GiveBack<KV>{nbytes});
    }

    /// The blocks of the leased payloads; their bytes, with what is reserved. See Leases::blocks.
    [[nodiscard]] LeasedBlocks pinned(std::vector<PayloadLease<KV>>& pins) const {
        LeasedBlocks leased = leases_.blocks(pins);
        leased.nbytes = (std::min)(more(leased.nbytes, reserved()), nbytes());
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
    /// What is reserved, and never less than what leased payloads refer to.
    [[nodiscard]] std::size_t pinned_at_most() const noexcept {
        return more(leases_.at_most().nbytes, reserved());
    }
    [[nodiscard]] std::size_t referenced() const noexcept {
        std::size_t all = 0;
        for (const Sums& tier : tiers_)
            all += tier.nbytes;
        return all;
    }
    [[nodiscard]] std::size_t peak() const noexcept { return peak_; }
    [[nodiscard]] std::size_t entries(TierEnum tier) const noexcept {
        return tiers_[detail::tier_index(tier)].entries;
    }
    [[nodiscard]] std::size_t referenced(TierEnum tier) const noexcept {
        return tiers_[detail::tier_index(tier)].nbytes;
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

    /// Counts what entries and leases hold anew and compares. `each_entry(f)` calls f(record). `pins`: see
    /// Leases::blocks.
    template <class EachEntry>
    [[nodiscard]] bool check_invariants(EachEntry each_entry,
                                        std::vector<PayloadLease<KV>>& pins) const {
        std::size_t entries = 0, bytes = 0;
        std::array<Sums, tier_traits<TierEnum>::count> tiers{};
        std::unordered_map<const BlockUse*, std::uint32_t> blocks;
        bool sound = true;
        // `nbytes` is that of the whole payload, or of its blocks alone: see lease_apart.
        const auto count = [&](const Payload& payload) {
            bytes += payload.nbytes;
            detail::for_each_block(payload.kv, 0,
                                   [&](const BlockUse& use, std::size_t block_bytes, const auto&) {
                                       if (++blocks[&use] > 1)
                                           bytes = less(bytes, block_bytes);
                                   });
            sound = sound && payload.nbytes <= detail::bytes_of(payload.kv);
        };
        each_entry([&](const R& record) {
            ++entries;
            ++tiers[detail::tier_index(record.tier)].entries;
            tiers[detail::tier_index(record.tier)].nbytes += record.payload->nbytes;
            count(*record.payload);
            sound = sound && record.payload->record == &record &&
                    record.payload->nbytes == detail::bytes_of(record.kv());
        });
        leases_.for_each([&](Payload& payload) {
            if (payload.record != nullptr)
                return;
            auto& pin = pins.emplace_back();
            if (payload.share_lease()) {
                pin.reset(&payload);
                count(payload);
            }
        });
        for (const auto& block : blocks)
            sound = sound && block.first->count() == block.second;
        for (std::size_t i = 0; i < tiers.size(); ++i)
            sound = sound && tiers[i].entries == tiers_[i].entries &&
                    tiers[i].nbytes == tiers_[i].nbytes;
        return sound && entries == size_ && bytes + reserved() == nbytes() &&
               leases_.check_invariants();
    }

private:
    struct Sums {
        std::size_t entries = 0;
        std::size_t nbytes = 0;
    };

    [[nodiscard]] static Cut shorten(Payload& payload, std::size_t n) noexcept {
        const std::size_t held = detail::unstore_blocks(payload.kv, n);
        Cut cut{detail::truncate(payload.kv, n)};
        cut.nbytes = less(payload.nbytes, detail::bytes_of(payload.kv));
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

    /// Adds to the sums over entries.
    void count(R& record, std::size_t entries, std::size_t nbytes) noexcept {
        Sums& tier = tiers_[detail::tier_index(record.tier)];
        size_ += entries;
        tier.entries += entries;
        tier.nbytes += nbytes;
        record.home->nbytes += nbytes;
    }
    void uncount(R& record, std::size_t entries, std::size_t nbytes) noexcept {
        count(record, 0 - entries, 0 - nbytes); // modulo 2^64
    }

    void note_peak() noexcept { peak_ = (std::max)(peak_, nbytes()); }

    struct Release {
        void operator()(Account<KV>* account) const noexcept { account->release(); }
    };
    std::unique_ptr<Account<KV>, Release> account_{new Account<KV>};
    Leases<R> leases_{*account_};
    std::size_t size_ = 0;
    std::size_t peak_ = 0;
    std::array<Sums, tier_traits<TierEnum>::count> tiers_{};
};

/// The bytes that would be freed if entries were evicted, one after the other. Adding one: O(its blocks).
template <class R>
class WouldFree {
    using KV = typename R::KV;

public:
    /// The blocks of the payload's first `n` tokens stay.
    void keep(const KV& kv, std::size_t n) {
        constexpr auto many = std::int64_t{1} << 40U;
        const auto stay = [&](std::size_t from, std::int64_t seen) {
            detail::for_each_block(kv, from, [&](const BlockUse& use, std::size_t, const auto&) {
                seen_[&use] = seen;
            });
        };
        stay(0, -many);
        stay(n, 0);
    }
    /// `in_use`: blocks that the engine uses itself do not count.
    void add(const R& record, bool in_use) {
        nbytes_ += record.payload->nbytes;
        detail::for_each_block(
            record.kv(), 0,
            [&](const BlockUse& use, std::size_t block_bytes, const auto& used_outside) {
                if ((in_use && used_outside) || ++seen_[&use] < use.count())
                    nbytes_ = less(nbytes_, block_bytes);
            });
    }
    [[nodiscard]] std::size_t nbytes() const noexcept { return nbytes_; }

private:
    std::size_t nbytes_ = 0;
    std::unordered_map<const BlockUse*, std::int64_t> seen_; // how many of its holders
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
