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

/// What leases share with their cache, which they may outlive. Atomic, since a lease ends on any thread.
struct Account {
    std::atomic<std::size_t> leased_bytes{0};   // payloads leased, in the cache or not
    std::atomic<std::size_t> leased_entries{0}; // entries in the cache that are leased
    std::atomic<std::size_t> orphaned_bytes{0}; // payloads that left the cache and are still leased
    std::atomic<std::size_t> owners{1};         // the cache, and its leases

    struct Release {
        void operator()(Account* account) const noexcept {
            if (account->owners.fetch_sub(1, std::memory_order_acq_rel) == 1)
                delete account;
        }
    };
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

    std::atomic<std::uint32_t> owners{in_cache}; // the leases, and `in_cache`
    bool used = false;                           // served a lookup
    bool superseded = false;
    bool spoiled = false;  // a cut went wrong: what it holds does not fit its key
    bool orphaned = false; // counted in Account::orphaned_bytes
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
        return owners.load(std::memory_order_acquire) != in_cache;
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
        if (before != in_cache + 1 && before != 1)
            return; // other leases are left
        account.leased_bytes.fetch_sub(bytes_held, std::memory_order_relaxed);
        if (before == 1) {
            account.orphaned_bytes.fetch_sub(bytes_held, std::memory_order_relaxed);
            delete this;
        } else {
            account.leased_entries.fetch_sub(1, std::memory_order_relaxed);
        }
    }

    /// The cache's last step, after the removal was reported.
    void leave_cache(Account& account) noexcept {
        const std::size_t bytes_held = nbytes;
        const bool was_orphaned = orphaned;
        if (owners.fetch_sub(in_cache, std::memory_order_acq_rel) == in_cache) {
            if (was_orphaned)
                account.orphaned_bytes.fetch_sub(bytes_held, std::memory_order_relaxed);
            delete this;
        } else {
            account.leased_entries.fetch_sub(1, std::memory_order_relaxed);
        }
    }
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
