// SPDX-License-Identifier: MIT
// Cache: the parts, a mutex, and what happens at the start and the end of each call.
#ifndef PROMPTKV_DETAIL_CACHE_HPP
#define PROMPTKV_DETAIL_CACHE_HPP

#include <promptkv/cache_types.hpp>
#include <promptkv/config.hpp>
#include <promptkv/detail/erasing.hpp>
#include <promptkv/detail/eviction.hpp>
#include <promptkv/detail/inserting.hpp>
#include <promptkv/detail/leftovers.hpp>
#include <promptkv/detail/lookup.hpp>
#include <promptkv/detail/removals.hpp>
#include <promptkv/detail/reservations.hpp>
#include <promptkv/detail/usage.hpp>
#include <promptkv/kv_traits.hpp>
#include <promptkv/stats.hpp>
#include <promptkv/version.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// The mutex of a cache that is not thread-safe.
struct NoMutex {
    void lock() noexcept {}
    void unlock() noexcept {}
};

/// What is behind BasicPromptCache: the parts, a mutex, and the steps of a lookup. `inserting` and `erasing` have those
/// of the other calls.
///
/// A step that can fail comes first, then the change, then listeners and destructors: `Call` runs these
/// when the cache is whole again and the mutex is unlocked.
template <class R, class Mutex>
class Cache {
public:
    using KV = typename R::KV;
    using Model = typename R::Model;
    using Token = typename R::Token;
    using TierEnum = typename R::TierEnum;
    using ModelView = typename R::ModelView;
    using Tokens = typename R::Tokens;
    using Options = typename Parts<R>::Options;
    using Listener = typename Removals<R>::Listener;
    using Payload = typename R::Payload;
    using Reserved = typename Reservations<R>::Reserved;

    explicit Cache(const Options& options) : parts_(options), reservations_(parts_) {}
    Cache(const Cache&) = delete;
    Cache& operator=(const Cache&) = delete;
    ~Cache() = default;

    /// Removes everything, and stores nothing any more. The destructors of payloads may still call.
    void close() noexcept {
        set_listener(nullptr);
        Call call(*this);
        parts_.is_closed = true;
        erasing(call).clear();
    }

    /// A call that may change the cache. It holds the mutex until its end. Then its own leases end, so that no
    /// listener sees them, and what was removed is reported and destroyed.
    class Call {
    public:
        explicit Call(Cache& cache) : cache_(cache) {
            cache_.mutex_.lock();
            cache_.drain();
            cache_.keep_limits(*this);
        }
        Call(const Call&) = delete;
        Call& operator=(const Call&) = delete;
        ~Call() {
            Parts<R>& parts = cache_.parts_;
            parts.bound_remembered();
            gone.deliver(parts.index, cache_.mutex_, parts.listener,
                         [this] { leftovers_.reset(); });
        }

        [[nodiscard]] Leftovers<KV>& leftovers() noexcept {
            return leftovers_ ? *leftovers_ : leftovers_.emplace();
        }

        Removals<R> gone;

    private:
        std::optional<Leftovers<KV>> leftovers_; // most calls have none
        Cache& cache_;
    };

    /// A call that changes nothing.
    class Look {
    public:
        explicit Look(const Cache& cache) : mutex_(cache.mutex_) { mutex_.lock(); }
        Look(const Look&) = delete;
        Look& operator=(const Look&) = delete;
        ~Look() { mutex_.unlock(); }

    private:
        Mutex& mutex_;
    };

    // lookup /////////////////////////////////////////////////////////////////

    [[nodiscard]] Choice<R> choose(ModelView model, Tokens tokens, FetchOptions options,
                                   Eligibility can) const {
        PROMPTKV_ASSERT(options.align >= 1);
        return detail::choose<R>(parts_.index.locate(model, tokens), tokens.size(), options, can);
    }

    [[nodiscard]] std::size_t held_tokens(ModelView model, Tokens tokens) const {
        return detail::any_sharing(parts_.index.locate(model, tokens)).tokens;
    }

    /// Counts a lookup and does what it does to recency. Returns its number.
    std::uint64_t count(const Choice<R>& choice, Tokens tokens) noexcept {
        return detail::count_lookup(parts_, choice, tokens);
    }
    /// Does what a lookup does to recency. It is a request of its own for the policy.
    void refresh(const Choice<R>& choice, Tokens tokens) noexcept {
        Edges<R>(parts_).begin_request(tokens);
        detail::touch(parts_, choice, tokens);
    }

    [[nodiscard]] PayloadLease<KV> lease(R& record) noexcept {
        return parts_.ledger.leases().begin(*record.payload);
    }

    /// Moves the match's payload out, cut to what is reused, and removes the entry.
    void take(const Choice<R>& choice, std::optional<KV>& kv, Call& call) noexcept {
        R& record = *choice.record;
        Payload& payload = *record.payload;
        const bool is_cut = choice.reused < record.length();
        ++parts_.stats.taken;
        Eviction<R>(parts_, call.gone).remove(record, RemovalReason::taken);
        if (is_cut)
            call.leftovers().add_any(detail::truncate(payload.kv, choice.reused));
        kv.emplace(std::move(payload.kv));
    }

    [[nodiscard]] auto explain(ModelView model, Tokens tokens, FetchOptions options) const {
        return detail::explain<R>(parts_.index, model, tokens, options);
    }

    // changes ////////////////////////////////////////////////////////////////

    /// What a caller stores. For the time of the call.
    [[nodiscard]] Inserting<R> inserting(Call& call) noexcept {
        return Inserting<R>(parts_, reservations_, call.gone, call.leftovers());
    }
    /// What a caller removes by name. For the time of the call.
    [[nodiscard]] Erasing<R> erasing(Call& call) noexcept {
        return Erasing<R>(parts_, reservations_, call.gone);
    }
    std::size_t trim_to(CacheLimits trimmed, Call& call) noexcept {
        Eviction<R> eviction(parts_, call.gone);
        eviction.make_room(trimmed, 0, 0);
        return eviction.evicted().entries;
    }
    void set_limits(CacheLimits limits, Call& call) noexcept {
        parts_.options.max_bytes = limits.max_bytes;
        parts_.options.max_entries = limits.max_entries;
        trim_to(limits, call);
    }
    /// Evicts one victim. Its blocks are in use until it is destroyed, at the end of the call.
    auto evict(std::size_t nbytes, Call& call) noexcept {
        Eviction<R> eviction(parts_, call.gone);
        eviction.evict(nbytes);
        return eviction.evicted();
    }
    void set_listener(std::shared_ptr<const Listener> listener) noexcept {
        mutex_.lock();
        parts_.listener.swap(listener);
        mutex_.unlock();
    }

    // observers; under Look //////////////////////////////////////////////////

    [[nodiscard]] CacheLimits limits() const noexcept { return parts_.limits(); }
    [[nodiscard]] std::size_t size() const noexcept { return parts_.ledger.size(); }
    [[nodiscard]] std::size_t nbytes() const noexcept { return parts_.ledger.nbytes(); }
    [[nodiscard]] std::size_t nbytes(ModelView model) const {
        const Partition<R>* home = parts_.index.find(model);
        return home != nullptr ? home->nbytes : 0;
    }
    [[nodiscard]] std::size_t index_nbytes() const noexcept {
        constexpr std::size_t payload = sizeof(Payload) - sizeof(KV);
        std::size_t order = 0;
        if constexpr (observes_edges<typename R::Policy>)
            order = parts_.order.nbytes();
        return order + parts_.index.nbytes() + size() * (sizeof(R) + payload) +
               parts_.index.remembered_keys() * sizeof(R) +
               parts_.ledger.leases().apart() * sizeof(Payload) + reservations_.nbytes();
    }
    [[nodiscard]] std::vector<HitRatioPoint> hit_ratio_curve() const {
        if constexpr (observes_edges<typename R::Policy>)
            return parts_.order.hit_ratio_curve();
        else
            return {}; // a compiler may instantiate what nobody can call
    }
    [[nodiscard]] Stats stats() const noexcept {
        Stats stats = parts_.stats;
        stats.bytes_evicted = parts_.index.evicted();
        stats.bytes_referenced = parts_.ledger.referenced();
        stats.bytes_leased = parts_.ledger.leases().sums().nbytes;
        stats.bytes_reserved = parts_.ledger.reserved();
        stats.peak_nbytes = parts_.ledger.peak();
        return stats;
    }
    [[nodiscard]] TierStats stats(TierEnum tier) const noexcept {
        TierStats stats = parts_.tiers[detail::tier_index(tier)];
        stats.entries = parts_.ledger.entries(tier);
        stats.nbytes = parts_.ledger.referenced(tier);
        return stats;
    }

    template <class F>
    void for_each(F f) const {
        parts_.order.for_each(f);
    }

    template <class F>
    void for_each_model(F f) const {
        parts_.index.for_each_home([&](const Partition<R>& home) { f(home.model); });
    }

    [[nodiscard]] std::size_t evictable_nbytes() const {
        WouldFree<R> all;
        parts_.order.for_each([&](const R& record) {
            if (!record.payload->leased())
                all.add(record, true);
        });
        return all.nbytes();
    }

    [[nodiscard]] bool check_invariants(std::vector<PayloadLease<KV>>& pins) const {
        const auto each_entry = [&](auto f) { parts_.order.for_each(f); };
        bool sound = parts_.index.check_invariants() && parts_.order.check_invariants() &&
                     parts_.ledger.check_invariants(each_entry, pins);
        parts_.index.for_each_home([&](const Partition<R>& home) {
            for (const auto& session : home.sessions)
                sound = sound && session.second->last_of_session &&
                        session.second->session == session.first;
        });
        return sound;
    }

private:
    /// Returns the entries whose last lease ended to the policy; those set aside first are the coldest.
    void drain() noexcept {
        Leases<R>& leases = parts_.ledger.leases();
        if (leases.has_ended())
            leases.drain([this](R& record) { parts_.put_back(record); });
    }

    /// Evicts what was leased when a limit was lowered.
    void keep_limits(Call& call) noexcept {
        if (size() > limits().max_entries || nbytes() > limits().max_bytes)
            trim_to(limits(), call);
    }

    Parts<R> parts_;
    Reservations<R> reservations_;
    mutable Mutex mutex_;
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
