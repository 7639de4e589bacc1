// SPDX-License-Identifier: MIT
// Stored: a payload in the cache, which leases may keep alive beyond its entry.
#ifndef PROMPTKV_DETAIL_STORED_HPP
#define PROMPTKV_DETAIL_STORED_HPP

#include <promptkv/cache_types.hpp>
#include <promptkv/version.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// Deletes what has a count of its `owners` when the last of them lets go.
struct Release {
    template <class Owned>
    void operator()(Owned* owned) const noexcept {
        if (owned->owners.fetch_sub(1, std::memory_order_acq_rel) == 1)
            delete owned;
    }
};

/// What leases share with their cache, which they may outlive. Atomic, since a lease ends on any thread.
/// Who no longer finds it in `leased_…` (acquire) finds nothing else of it either.
struct Account {
    std::atomic<std::size_t> leased_bytes{0};   // payloads leased, in the cache or not
    std::atomic<std::size_t> leased_entries{0}; // entries in the cache that are leased
    std::atomic<std::size_t> orphaned_bytes{0}; // payloads that left the cache and are still leased
    std::atomic<std::size_t> owners{1};         // the cache, and its leases

    using Owner = std::unique_ptr<Account, Release>;

    [[nodiscard]] Owner share() noexcept {
        owners.fetch_add(1, std::memory_order_relaxed);
        return Owner(this);
    }
};

/// A payload with the number of its leases, and, once it has left its entry, what to report of that.
///
/// It is deleted by whoever lets go last: the cache, by `leave_cache`, or a lease, by `end_lease`.
template <class KV, class Token, class TierEnum, class Space>
struct Stored {
    static constexpr std::uint32_t in_cache = std::uint32_t{1} << 31U;
    static constexpr std::uint32_t orphaned = std::uint32_t{1} << 30U; // leased when its entry went
    static constexpr std::uint32_t leases = orphaned - 1;

    std::atomic<std::uint32_t> owners{in_cache}; // the number of leases, `in_cache`, `orphaned`
    bool used = false;                           // served a lookup
    bool superseded = false;
    bool spoiled = false; // a cut went wrong: what it holds does not fit its key
    RemovalReason reason{};
    TierEnum tier{};
    std::size_t nbytes = 0;
    std::optional<KV> kv;

    // once it has left
    Stored* next = nullptr;
    Space* space = nullptr;
    std::size_t bytes = 0;
    std::vector<Token> tokens;

    [[nodiscard]] bool leased() const noexcept {
        return (owners.load(std::memory_order_acquire) & leases) != 0;
    }

    void begin_lease(Account& account) noexcept {
        if (owners.fetch_add(1, std::memory_order_relaxed) != in_cache)
            return;
        account.leased_bytes.fetch_add(nbytes, std::memory_order_relaxed);
        account.leased_entries.fetch_add(1, std::memory_order_relaxed);
    }

    void end_lease(Account& account) noexcept {
        const std::size_t bytes_held = nbytes; // a cut may follow as soon as the lease is over
        const std::uint32_t before = owners.fetch_sub(1, std::memory_order_acq_rel);
        if ((before & leases) != 1)
            return; // other leases are left
        if ((before & orphaned) != 0) {
            account.orphaned_bytes.fetch_sub(bytes_held, std::memory_order_relaxed);
        } else {
            account.leased_entries.fetch_sub(1, std::memory_order_release);
        }
        account.leased_bytes.fetch_sub(bytes_held, std::memory_order_release);
        if ((before & in_cache) == 0)
            delete this;
    }

    /// Its entry goes. What is leased stays in the account, until its last lease ends.
    void leave_entry(Account& account) noexcept {
        if (!leased())
            return;
        account.orphaned_bytes.fetch_add(nbytes,
                                         std::memory_order_relaxed); // for that lease to take
        if ((owners.fetch_or(orphaned, std::memory_order_acq_rel) & leases) != 0) {
            account.leased_entries.fetch_sub(1, std::memory_order_relaxed);
        } else { // it has ended
            account.orphaned_bytes.fetch_sub(nbytes, std::memory_order_relaxed);
        }
    }

    /// The cache's last step, after the removal was reported.
    void leave_cache() noexcept {
        if ((owners.fetch_and(~in_cache, std::memory_order_acq_rel) & leases) == 0)
            delete this;
    }
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
