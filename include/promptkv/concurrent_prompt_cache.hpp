// SPDX-License-Identifier: MIT
// ConcurrentPromptCache: LRUPromptCache, safe from any thread.
//
// Not in the umbrella header: who needs no lock does not pay for <mutex>.
#ifndef PROMPTKV_CONCURRENT_PROMPT_CACHE_HPP
#define PROMPTKV_CONCURRENT_PROMPT_CACHE_HPP

#include <promptkv/cache_types.hpp>
#include <promptkv/kv_traits.hpp>
#include <promptkv/lru_prompt_cache.hpp>
#include <promptkv/stats.hpp>
#include <promptkv/tier.hpp>
#include <promptkv/version.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>

namespace promptkv::inline PROMPTKV_ABI {

/// An LRUPromptCache with a lock, which is held for what the index and the accounts need.
///
/// Each function does what its namesake of LRUPromptCache says, as if the calls came one after the
/// other; said here is only what differs. Where the caller's code runs:
///
/// | outside of the lock, may call the cache               | under the lock, must not call the cache   |
/// |-------------------------------------------------------|-------------------------------------------|
/// | `clone_prefix` and the copy constructor of a payload  | `nbytes`, `reusable_prefix`, `length`,    |
/// | its destructor                                        | `truncate`, and moving a payload          |
/// | `make`, `pressure`, the listener                      | the model's hash, comparison and copy     |
/// |                                                       | the function that `for_each` calls        |
///
/// So a clone, a listener or a destructor that takes long keeps back its own thread alone. A victim is
/// cut (`truncate`) under the lock, as a payload that is taken in part is.
///
/// What leaves is reported and destroyed by the thread whose call removed it, before that call
/// returns. `nbytes()` no longer counts it then, so that for this moment more memory may be held.
///
/// Thread safety: everything but construction and destruction. Not movable. A Lease may outlive the
/// cache. Exceptions, overhead, `KV`, `Model`, `Token`, `TierEnum`: as LRUPromptCache.
template <class KV, class Model = std::string, class Token = std::int32_t, class TierEnum = Tier>
class ConcurrentPromptCache {
    using Plain = LRUPromptCache<KV, Model, Token, TierEnum>;
    using Core = typename Plain::Core;
    using ModelView = typename Plain::ModelView;

public:
    using Options = typename Plain::Options;
    using Limits = typename Plain::Limits;
    using FetchOptions = typename Plain::FetchOptions;
    using Inserted = typename Plain::Inserted;
    using Stats = typename Plain::Stats;
    using TierStats = typename Plain::TierStats;
    using Tokens = typename Plain::Tokens;
    using Fetched = typename Plain::Fetched;
    using Lease = typename Plain::Lease;
    using Probe = typename Plain::Probe;
    using Explanation = typename Plain::Explanation;
    using EntryView = typename Plain::EntryView;
    using Removal = typename Plain::Removal;

    ConcurrentPromptCache() : ConcurrentPromptCache(Options{}) {}
    explicit ConcurrentPromptCache(Options options) : plain_(options) {
        core().defer_delivery();
        publish();
    }
    ConcurrentPromptCache(const ConcurrentPromptCache&) = delete;
    ConcurrentPromptCache& operator=(const ConcurrentPromptCache&) = delete;
    ~ConcurrentPromptCache() = default;

    // lookup /////////////////////////////////////////////////////////////////

    /// The entry is leased while it is copied: meanwhile it is no victim and cannot be taken.
    /// Throws:  what the copy throws; the lookup stays counted, and its entry refreshed.
    Fetched fetch_nearest(ModelView model, Tokens tokens,
                          FetchOptions options = {}) requires ClonablePayload<KV> {
        const Lease lease = begin_lease(model, tokens, options, Core::can_clone);
        Fetched fetched;
        if (lease)
            fetched.kv.emplace(Core::clone(lease.kv(), lease.reused));
        fetched.reused = lease.reused;
        fetched.remaining = lease.remaining;
        fetched.match = lease.match;
        fetched.tier = lease.tier;
        return fetched;
    }

    [[nodiscard]] Lease lease_nearest(ModelView model, Tokens tokens, FetchOptions options = {}) {
        return begin_lease(model, tokens, options, Core::can_lease);
    }

    Fetched take_nearest(ModelView model, Tokens tokens, FetchOptions options = {}) {
        const Access access(*this);
        return plain_.take_nearest(model, tokens, options);
    }

    [[nodiscard]] Probe probe(ModelView model, Tokens tokens, FetchOptions options = {}) const {
        const std::lock_guard lock(mutex_);
        return plain_.probe(model, tokens, options);
    }

    [[nodiscard]] Explanation explain(ModelView model, Tokens tokens,
                                      FetchOptions options = {}) const {
        const std::lock_guard lock(mutex_);
        return plain_.explain(model, tokens, options);
    }

    // insertion //////////////////////////////////////////////////////////////

    Inserted insert(ModelView model, Tokens tokens, KV&& kv, TierEnum tier) {
        const Access access(*this);
        return plain_.insert(model, tokens, std::move(kv), tier);
    }

    /// `make()` runs outside of the lock. While it does, the room that was made is kept for it: its
    /// bytes count in `nbytes()` and `stats().bytes_leased`, so that the budget covers what other
    /// threads store meanwhile. What was made may still be refused, where a limit was lowered or more
    /// was leased meanwhile.
    template <class Make>
    requires std::convertible_to<std::invoke_result_t<Make&>, KV> Inserted
    insert(ModelView model, Tokens tokens, std::size_t nbytes, TierEnum tier, Make&& make) {
        std::optional<KV> kv; // outlives the lock
        Access access(*this);
        const auto fill = [&] {
            const Reservation outside(access, nbytes);
            kv.emplace(make());
        };
        return core().insert(model, tokens, nbytes, tier, fill, kv);
    }

    bool mark(ModelView model, Tokens tokens, TierEnum tier) {
        const Access access(*this);
        return plain_.mark(model, tokens, tier);
    }

    // removal ////////////////////////////////////////////////////////////////

    std::size_t pop_prefixes(ModelView model, Tokens tokens) {
        const Access access(*this);
        return plain_.pop_prefixes(model, tokens);
    }

    bool erase(ModelView model, Tokens tokens) {
        const Access access(*this);
        return plain_.erase(model, tokens);
    }

    std::size_t erase_model(ModelView model) {
        const Access access(*this);
        return plain_.erase_model(model);
    }

    std::size_t clear() noexcept {
        const Access access(*this);
        return plain_.clear();
    }

    std::size_t trim_to(Limits limits) noexcept {
        const Access access(*this);
        return plain_.trim_to(limits);
    }

    void set_limits(Limits limits) noexcept {
        const Access access(*this);
        plain_.set_limits(limits);
    }
    [[nodiscard]] Limits limits() const noexcept {
        const std::lock_guard lock(mutex_);
        return plain_.limits();
    }

    /// `pressure()` runs outside of the lock; other calls come in between.
    template <class Pressure>
    requires std::predicate<Pressure&> std::size_t evict_while(Pressure&& pressure) {
        std::size_t entries = 0;
        for (bool more = true; more && pressure();) {
            const Access access(*this);
            int asked = 0; // again, where something went
            entries += plain_.evict_while([&asked] { return ++asked == 1; });
            more = asked > 1;
        }
        return entries;
    }

    /// The listener runs on the thread whose call removed something, so on several at once. What is
    /// removed by calls that it makes itself is delivered by the outermost call of its thread.
    /// Calls under way may go on to the former listener for a while; it is destroyed after them.
    template <class Listener = std::nullptr_t>
    void on_removal(Listener listener) {
        auto owner = Core::make_listener(std::move(listener));
        const Access access(*this); // the former goes after it
        owner = core().on_removal(std::move(owner));
    }

    // observers //////////////////////////////////////////////////////////////
    //
    // `size`, `empty`, `nbytes()` and `stats` never wait for a call: they show what the latest one left.

    [[nodiscard]] std::size_t size() const noexcept { return published().size; }
    [[nodiscard]] bool empty() const noexcept { return size() == 0; }
    [[nodiscard]] std::size_t nbytes() const noexcept {
        const Published latest = published();
        const auto& orphaned = core().account().orphaned_bytes; // may have become less since
        return std::min(latest.nbytes,
                        latest.nbytes_of_entries + orphaned.load(std::memory_order_relaxed));
    }
    [[nodiscard]] std::size_t nbytes(ModelView model) const {
        const std::lock_guard lock(mutex_);
        return plain_.nbytes(model);
    }
    [[nodiscard]] std::size_t index_nbytes() const noexcept {
        const std::lock_guard lock(mutex_);
        return plain_.index_nbytes();
    }
    [[nodiscard]] Stats stats() const noexcept {
        Stats stats = published().stats;
        stats.bytes_leased = core().account().leased_bytes.load(std::memory_order_relaxed);
        return stats;
    }
    [[nodiscard]] TierStats stats(TierEnum tier) const noexcept {
        return published().tiers[static_cast<std::size_t>(tier)];
    }

    /// `f` runs under the lock: nobody else gets in meanwhile, and it must not call the cache.
    template <class F>
    void for_each(F f) const {
        const std::lock_guard lock(mutex_);
        plain_.for_each(std::move(f));
    }

    /// Holds the lock for long.
    [[nodiscard]] bool check_invariants() const {
        const std::lock_guard lock(mutex_);
        return plain_.check_invariants();
    }

private:
    using Departed = typename Core::Departed;

    /// The counters as the latest call left them.
    struct Published {
        std::size_t size = 0;
        std::size_t nbytes = 0;
        std::size_t nbytes_of_entries = 0;
        Stats stats;
        std::array<TierStats, tier_traits<TierEnum>::count> tiers{};
    };

    /// A list that a thread is working off, outside of the lock.
    struct Delivery {
        const ConcurrentPromptCache* cache;
        Departed departed;
        Delivery* outer; // of another cache: a listener may call that
    };

    /// The lock of a call that may change something. When it ends, what was counted is published,
    /// and then, without the lock, what left is reported and destroyed.
    class Access {
    public:
        explicit Access(ConcurrentPromptCache& cache) : cache_(cache) { lock(); }
        Access(const Access&) = delete;
        Access& operator=(const Access&) = delete;
        ~Access() { unlock(); }

        [[nodiscard]] Core& core() const noexcept { return cache_.core(); }
        void lock() { cache_.mutex_.lock(); }
        void unlock() noexcept {
            const Departed departed = core().take_departed();
            if (departed.first == nullptr) {
                cache_.publish();
                cache_.mutex_.unlock();
                return;
            }
            const auto listener = core().share_listener();
            cache_.publish();
            cache_.mutex_.unlock();
            cache_.deliver(departed, listener.get());
        }

    private:
        ConcurrentPromptCache& cache_;
    };

    /// A part of the call without its lock, and room for `nbytes`, as far as there is any, that stays
    /// in the account as if it were leased.
    class Reservation {
    public:
        Reservation(Access& access, std::size_t nbytes) : access_(access) {
            const std::size_t max = access_.core().limits().max_bytes;
            const std::size_t held = access_.core().nbytes();
            reserved_ = std::min(nbytes, max > held ? max - held : 0);
            account().leased_bytes.fetch_add(reserved_, std::memory_order_relaxed);
            account().orphaned_bytes.fetch_add(reserved_, std::memory_order_relaxed);
            access_.unlock();
        }
        Reservation(const Reservation&) = delete;
        Reservation& operator=(const Reservation&) = delete;
        ~Reservation() {
            access_.lock();
            account().orphaned_bytes.fetch_sub(reserved_, std::memory_order_relaxed);
            account().leased_bytes.fetch_sub(reserved_, std::memory_order_relaxed);
        }

    private:
        [[nodiscard]] detail::Account& account() const noexcept { return access_.core().account(); }

        Access& access_;
        std::size_t reserved_ = 0;
    };

    [[nodiscard]] Lease begin_lease(ModelView model, Tokens tokens, FetchOptions options,
                                    typename Core::Use use) {
        const Access access(*this);
        return plain_.begin_lease(model, tokens, options, use);
    }

    /// Leaves it to the delivery that this thread is in already, if there is one.
    void deliver(Departed departed, typename Core::Listener* listener) noexcept {
        for (Delivery* each = innermost_delivery; each != nullptr; each = each->outer) {
            if (each->cache == this) {
                each->departed.append(departed);
                return;
            }
        }
        Delivery delivery{this, departed, innermost_delivery};
        innermost_delivery = &delivery;
        while (auto* payload = delivery.departed.pop())
            Core::deliver_taken(payload, listener);
        innermost_delivery = delivery.outer;
    }

    void publish() noexcept {
        const std::lock_guard lock(published_mutex_);
        published_.size = core().size();
        published_.nbytes = core().nbytes();
        published_.stats = core().stats();
        published_.nbytes_of_entries = 0;
        for (std::size_t i = 0; i < published_.tiers.size(); ++i) {
            published_.tiers[i] = core().stats(static_cast<TierEnum>(i));
            published_.nbytes_of_entries += published_.tiers[i].nbytes;
        }
    }

    [[nodiscard]] Published published() const noexcept {
        const std::lock_guard lock(published_mutex_);
        return published_;
    }

    [[nodiscard]] Core& core() const noexcept { return *plain_.core_; }

    static inline constinit thread_local Delivery* innermost_delivery = nullptr;

    mutable std::mutex mutex_; // of plain_
    Plain plain_;

    mutable std::mutex published_mutex_; // of published_; locked last, and for a copy alone
    Published published_;
};

} // namespace promptkv::inline PROMPTKV_ABI

#endif
