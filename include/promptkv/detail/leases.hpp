// SPDX-License-Identifier: MIT
// Leases: which payloads are leased, and which leases have ended.
#ifndef PROMPTKV_DETAIL_LEASES_HPP
#define PROMPTKV_DETAIL_LEASES_HPP

#include <promptkv/detail/saturating.hpp>
#include <promptkv/detail/shared_payload.hpp>
#include <promptkv/kv_traits.hpp>
#include <promptkv/version.hpp>

#include <array>
#include <atomic>
#include <cstddef>
#include <unordered_set>
#include <utility>
#include <vector>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// The blocks of the leased payloads, each once.
struct LeasedBlocks {
    std::unordered_set<const BlockUse*> blocks;
    std::size_t nbytes = 0; // with what else these payloads refer to
};

/// A list of the payloads that were leased, the latest first, and its sums. Leases end on any thread and do
/// not take a payload off the list; that happens later, at the latest when as many others were leased.
///
/// Thread safety: none, but the account that it shares with leases.
template <class R>
class Leases {
public:
    using KV = typename R::KV;
    using Payload = SharedPayload<KV>;

    struct Sums {
        std::size_t nbytes = 0;  // that the payloads refer to
        std::size_t entries = 0; // how many are an entry's
    };

    explicit Leases(Account<KV>& account) noexcept : account_(account) {}
    Leases(const Leases&) = delete;
    Leases& operator=(const Leases&) = delete;
    /// Leases may outlive it: from now on the last one deletes its payload.
    ~Leases() {
        while (list_.hottest != nullptr)
            unlist(*list_.hottest);
        Payload* ended = account_.ended.exchange(Payload::closed(), std::memory_order_acq_rel);
        while (ended != nullptr)
            std::exchange(ended, ended->next_ended)->drop(Payload::queued);
    }

    [[nodiscard]] PayloadLease<KV> begin(Payload& payload) noexcept {
        if (is_listed(payload)) {
            payload.owners.fetch_add(1, std::memory_order_relaxed);
        } else {
            payload.owners.fetch_add(Payload::listed + 1, std::memory_order_relaxed);
            tidy();
            tidy();
            enlist(payload);
        }
        return PayloadLease<KV>(&payload);
    }
    /// A leased payload was an entry's until now.
    void entry_left() noexcept { --sums_.entries; }
    /// Requires: the payload has no lease, and another owner.
    void forget(Payload& payload) noexcept {
        if (is_listed(payload))
            unlist(payload);
    }

    /// Whether there is something to drain.
    [[nodiscard]] bool has_ended() const noexcept {
        return account_.ended.load(std::memory_order_relaxed) != nullptr;
    }
    /// Takes the payloads that last leases queued since the last drain. Calls `f(record)` for the entries that
    /// were set aside and are not leased again, the one that was set aside last first.
    template <class F>
    void drain(F f) noexcept {
        Payload* ended = account_.ended.exchange(nullptr, std::memory_order_acquire);
        Payload* back =
            nullptr; // a chain; no lease can queue these payloads before they are put back
        while (ended != nullptr) {
            Payload& payload = *std::exchange(ended, ended->next_ended);
            const auto* record = static_cast<const R*>(payload.record);
            if (!payload.pinned())
                forget(payload);
            payload.drop(Payload::queued); // NOLINT: the stack is an owner
            if (record != nullptr && record->is_aside() && !payload.set_aside())
                payload.next_ended = std::exchange(back, &payload);
        }
        if (back != nullptr && back->next_ended != nullptr)
            back = sorted(back);
        while (back != nullptr)
            f(record_of(*std::exchange(back, back->next_ended)));
    }

    // observers //////////////////////////////////////////////////////////////

    /// The sums, never too little; some of these leases may have ended.
    [[nodiscard]] const Sums& at_most() const noexcept { return sums_; }
    /// The sums of the payloads that are pinned. O(payloads on the list).
    [[nodiscard]] Sums sums() const noexcept {
        return sum_if([](const Payload& payload) { return payload.pinned(); });
    }
    /// The sums of the payloads that cannot leave in this call. O(payloads on the list).
    [[nodiscard]] Sums staying() const noexcept { return sum_if(stays); }
    /// How many payloads on the list are no entry's. O(payloads on the list).
    [[nodiscard]] std::size_t apart() const noexcept {
        std::size_t n = 0;
        for_each([&](const Payload& payload) { n += payload.record == nullptr ? 1 : 0; });
        return n;
    }
    /// Calls `f(payload)` for each on the list.
    template <class F>
    void for_each(F f) const {
        for (Payload* payload = list_.hottest; payload != nullptr; payload = payload->hook.colder)
            f(*payload);
    }
    /// Walks the payloads that cannot leave in this call. `pins` get leases that keep them there meanwhile; end them
    /// without a lock. A payload whose last lease has ended since the last drain counts whole. Throws what an
    /// allocation throws.
    [[nodiscard]] LeasedBlocks blocks(std::vector<PayloadLease<KV>>& pins) const {
        LeasedBlocks leased;
        for_each([&](Payload& payload) {
            auto& pin = pins.emplace_back();
            if (!payload.share_lease()) {
                pins.pop_back();
                leased.nbytes += stays(payload) ? payload.nbytes : 0;
                return;
            }
            pin.reset(&payload);
            leased.nbytes += payload.nbytes;
            detail::for_each_block(payload.kv, 0,
                                   [&](const BlockUse& use, std::size_t nbytes, const auto&) {
                                       if (!leased.blocks.insert(&use).second)
                                           leased.nbytes = less(leased.nbytes, nbytes);
                                   });
        });
        return leased;
    }
    [[nodiscard]] bool check_invariants() const {
        bool sound = true;
        Sums sums;
        for_each([&](const Payload& payload) {
            sums.nbytes += payload.nbytes;
            sums.entries += payload.record != nullptr ? 1 : 0;
            sound = sound && is_listed(payload);
        });
        return sound && sums.nbytes == sums_.nbytes && sums.entries == sums_.entries;
    }

private:
    // the list ///////////////////////////////////////////////////////////////

    template <class Is>
    [[nodiscard]] Sums sum_if(Is is) const noexcept {
        Sums sums;
        for_each([&](const Payload& payload) {
            if (is(payload)) {
                sums.nbytes += payload.nbytes;
                sums.entries += payload.record != nullptr ? 1 : 0;
            }
        });
        return sums;
    }
    /// Whether it cannot leave in this call: it is pinned, or an entry that was set aside and comes back in the
    /// next drain.
    [[nodiscard]] static bool stays(const Payload& payload) noexcept {
        return payload.pinned() || (payload.record != nullptr && record_of(payload).is_aside());
    }
    [[nodiscard]] static bool is_listed(const Payload& payload) noexcept {
        return (payload.owners.load(std::memory_order_relaxed) & Payload::listed) != 0;
    }
    void enlist(Payload& payload) noexcept {
        list_.push_hot(payload);
        sums_.nbytes += payload.nbytes;
        sums_.entries += payload.record != nullptr ? 1 : 0;
    }
    void take_off(Payload& payload) noexcept {
        list_.remove(payload);
        sums_.nbytes -= payload.nbytes;
        sums_.entries -= payload.record != nullptr ? 1 : 0;
    }
    /// May delete the payload.
    void unlist(Payload& payload) noexcept {
        take_off(payload);
        payload.drop(Payload::listed);
    }
    /// Looks at the last one of the list.
    void tidy() noexcept {
        Payload* last = list_.coldest;
        if (last == nullptr)
            return;
        if (last->pinned()) { // NOLINT: a payload on the list is not deleted
            take_off(*last);
            enlist(*last);
        } else {
            unlist(*last);
        }
    }

    // entries that come back /////////////////////////////////////////////////

    [[nodiscard]] static R& record_of(const Payload& payload) noexcept {
        return *static_cast<R*>(payload.record);
    }
    /// Sorts a chain: those that were set aside last come first. A merge sort, without an allocation.
    [[nodiscard]] static Payload* sorted(Payload* chain) noexcept {
        std::array<Payload*, 32> parts{}; // part i is empty or has 2^i payloads
        while (chain != nullptr) {
            Payload* part = std::exchange(chain, chain->next_ended);
            part->next_ended = nullptr;
            std::size_t i = 0;
            for (; i + 1 < parts.size() && parts[i] != nullptr; ++i)
                part = merged(std::exchange(parts[i], nullptr), part);
            parts[i] = merged(parts[i], part);
        }
        Payload* all = nullptr;
        for (Payload* part : parts)
            all = merged(all, part);
        return all;
    }
    /// Two sorted chains as one.
    [[nodiscard]] static Payload* merged(Payload* a, Payload* b) noexcept {
        Payload* first = nullptr;
        Payload** at = &first;
        while (a != nullptr && b != nullptr) {
            Payload*& next = record_of(*a).set_aside_at > record_of(*b).set_aside_at ? a : b;
            *at = next;
            at = &(*at)->next_ended;
            next = *at;
        }
        *at = a != nullptr ? a : b;
        return first;
    }

    Account<KV>& account_;
    HookList<Payload> list_; // the latest is the hottest
    Sums sums_;              // of the list
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
