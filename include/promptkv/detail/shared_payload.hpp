// SPDX-License-Identifier: MIT
// SharedPayload: a payload and its owners, the cache and its leases.
#ifndef PROMPTKV_DETAIL_SHARED_PAYLOAD_HPP
#define PROMPTKV_DETAIL_SHARED_PAYLOAD_HPP

#include <promptkv/block_kv.hpp>
#include <promptkv/detail/hook_list.hpp>
#include <promptkv/detail/saturating.hpp>
#include <promptkv/kv_traits.hpp>
#include <promptkv/version.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <utility>

namespace promptkv::inline PROMPTKV_ABI::detail {

template <class KV>
struct SharedPayload;

/// The sums that a cache shares with its leases, which may outlive it and end on any thread.
///
/// A sum never says less than is held: whoever takes a block's count from 0 to 1 adds its bytes before
/// the payload is stored, and whoever takes the count from 1 to 0 subtracts them after.
template <class KV>
struct Account {
    std::atomic<std::size_t> bytes{0};              // of the payloads held, each block once
    std::atomic<std::size_t> reserved{0};           // held for reservations
    std::atomic<SharedPayload<KV>*> ended{nullptr}; // their last lease ended; for the next call
    std::atomic<std::size_t> owners{1};             // the cache, its payloads and reservations

    void release() noexcept {
        if (owners.fetch_sub(1, std::memory_order_acq_rel) == 1)
            delete this;
    }
};

/// The bytes of a payload's blocks from token `from` on for which `f(use)` is false.
template <class KV, class F>
std::size_t sum_blocks(const KV& kv, std::size_t from, F f) noexcept {
    std::size_t sum = 0;
    detail::for_each_block(kv, from, [&](const BlockUse& use, std::size_t nbytes, const auto&) {
        sum += f(use) ? 0 : nbytes;
    });
    return sum;
}

/// Counts the blocks of an entry's payload as held once more. Returns the bytes of those that were held
/// before. Under the cache's lock.
template <class KV>
std::size_t store_blocks(const KV& kv, const void* account) noexcept {
    return detail::sum_blocks(kv, 0, [&](const BlockUse& use) { return use.store(account); });
}
/// Counts its blocks from token `from` on as held once less. Returns the bytes of those that are still
/// held. Under the cache's lock.
template <class KV>
std::size_t unstore_blocks(const KV& kv, std::size_t from) noexcept {
    return detail::sum_blocks(kv, from, [](const BlockUse& use) { return use.unstore(); });
}
/// The same for a leased payload that is no entry's; `unpin_blocks` on any thread.
template <class KV>
std::size_t pin_blocks(const KV& kv, const void* account) noexcept {
    return detail::sum_blocks(kv, 0, [&](const BlockUse& use) { return use.pin(account); });
}
template <class KV>
std::size_t unpin_blocks(const KV& kv) noexcept {
    return detail::sum_blocks(kv, 0, [](const BlockUse& use) { return use.unpin(); });
}
template <class KV>
std::size_t unpin_blocks_locked(const KV& kv) noexcept {
    return detail::sum_blocks(kv, 0, [](const BlockUse& use) { return use.unpin_locked(); });
}

/// A payload and its owners. All of them are in one word, so that exactly one of them is the last:
///
///     in_cache   the cache: the payload is an entry's, or waits to be reported as removed
///     listed     the ledger's list of payloads that were leased
///     queued     the account's stack of payloads for the cache's next call
///     ending     a thread that ended the last lease of a payload that left, and destroys it
///     leases     how many
///
/// `aside` is no owner: the entry was set aside, and the policy wants it back when its last lease ends.
///
/// A lease begins under the cache's lock and ends anywhere. The last lease of a payload that has left
/// the cache takes it out of the account, destroys it and queues it, so that the next call takes it off
/// the list. The last lease of an entry touches no block; it queues an entry that was set aside. Whoever
/// clears the word deletes the object.
///
/// Memory order: ending a lease is a release, and the cache reads the word with acquire before it cuts,
/// moves or destroys the payload; so all reads through leases happen before.
template <class KV>
struct SharedPayload {
    static constexpr std::uint32_t in_cache = std::uint32_t{1} << 31U;
    static constexpr std::uint32_t listed = std::uint32_t{1} << 30U;
    static constexpr std::uint32_t queued = std::uint32_t{1} << 29U;
    static constexpr std::uint32_t ending = std::uint32_t{1} << 28U;
    static constexpr std::uint32_t aside = std::uint32_t{1} << 27U;
    static constexpr std::uint32_t leases = aside - 1;

    Account<KV>& account;
    union {
        KV kv;
    };
    std::size_t nbytes = 0;         // what it refers to
    void* record = nullptr;         // the entry's; null: none. Under the cache's lock
    ListHook<SharedPayload> hook{}; // in the list of leased payloads. Under the cache's lock
    SharedPayload* next_ended = nullptr;
    std::atomic<std::uint32_t> owners{in_cache};
    bool has_kv = false;

    explicit SharedPayload(Account<KV>& of) noexcept : account(of) {
        account.owners.fetch_add(1, std::memory_order_relaxed);
    }
    SharedPayload(const SharedPayload&) = delete;
    SharedPayload& operator=(const SharedPayload&) = delete;
    ~SharedPayload() {
        destroy_kv();
        account.release();
    }

    void emplace(KV&& from) noexcept {
        ::new (static_cast<void*>(std::addressof(kv))) KV(std::move(from));
        has_kv = true;
    }
    void destroy_kv() noexcept {
        if (std::exchange(has_kv, false))
            std::destroy_at(std::addressof(kv));
    }

    [[nodiscard]] bool leased() const noexcept {
        return (owners.load(std::memory_order_acquire) & leases) != 0;
    }

    /// Whether leases keep it in the account: one is held, or the last one is being ended.
    [[nodiscard]] bool pinned() const noexcept {
        return (owners.load(std::memory_order_acquire) & (leases | ending)) != 0;
    }

    [[nodiscard]] bool leased_once() const noexcept {
        return (owners.load(std::memory_order_acquire) & leases) == 1;
    }

    /// Lets go of an ownership. Deletes the object if it was the last one.
    void drop(std::uint32_t owner) noexcept {
        if ((owners.fetch_and(~owner, std::memory_order_acq_rel) & ~(owner | aside)) == 0)
            delete this;
    }

    /// Asks the last lease to queue the payload. False: there is no lease. Under the cache's lock.
    [[nodiscard]] bool set_aside() noexcept {
        std::uint32_t before = owners.load(std::memory_order_acquire);
        while ((before & leases) != 0) {
            if (owners.compare_exchange_weak(before, before | aside, std::memory_order_acq_rel,
                                             std::memory_order_acquire))
                return true;
        }
        return false;
    }

    /// One more lease, if there is one already. Without a lock.
    [[nodiscard]] bool share_lease() noexcept {
        std::uint32_t before = owners.load(std::memory_order_relaxed);
        while ((before & leases) != 0) {
            if (owners.compare_exchange_weak(before, before + 1, std::memory_order_acquire,
                                             std::memory_order_relaxed))
                return true;
        }
        return false;
    }

    /// On any thread.
    void end_lease() noexcept {
        std::uint32_t before = owners.load(std::memory_order_acquire);
        std::uint32_t after = 0;
        bool is_gone = false, comes_back = false;
        do {
            const bool is_last = (before & leases) == 1;
            is_gone = is_last && (before & in_cache) == 0;
            comes_back = is_last && !is_gone && (before & aside) != 0;
            after = before - 1;
            if (is_gone)
                after |= ending;
            if (comes_back)
                after = (after | queued) & ~aside;
        } while (!owners.compare_exchange_weak(before, after, std::memory_order_acq_rel,
                                               std::memory_order_acquire));
        if (is_gone) {
            const std::size_t freed = has_kv ? less(nbytes, detail::unpin_blocks(kv)) : 0;
            account.bytes.fetch_sub(freed, std::memory_order_release);
            destroy_kv();
            before = owners.load(std::memory_order_relaxed);
            do {
                after = before & ~(ending | aside);
                if ((before & listed) != 0)
                    after |= queued;
            } while (!owners.compare_exchange_weak(before, after, std::memory_order_acq_rel,
                                                   std::memory_order_relaxed));
            if (after == 0)
                return delete this;
        }
        if ((is_gone || comes_back) && (after & queued) != 0 && (before & queued) == 0)
            enqueue();
    }

    /// Marks the end of an account's stack that nobody reads any more: the cache is gone.
    [[nodiscard]] static SharedPayload* closed() noexcept {
        static constinit std::uint32_t mark = 0;
        return reinterpret_cast<SharedPayload*>(&mark);
    }

private:
    /// Puts it on the account's stack.
    void enqueue() noexcept {
        SharedPayload* top = account.ended.load(std::memory_order_relaxed);
        do {
            if (top == closed())
                return drop(queued);
            next_ended = top;
        } while (!account.ended.compare_exchange_weak(top, this, std::memory_order_release,
                                                      std::memory_order_relaxed));
    }
};

template <class KV>
struct EndLease {
    void operator()(SharedPayload<KV>* payload) const noexcept { payload->end_lease(); }
};
/// A lease that has begun. It ends when this is destroyed.
template <class KV>
using PayloadLease = std::unique_ptr<SharedPayload<KV>, EndLease<KV>>;

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
