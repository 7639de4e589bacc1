// SPDX-License-Identifier: MIT
// Cache: the order of the steps of a lookup, an insert and a removal.
#ifndef PROMPTKV_DETAIL_CACHE_HPP
#define PROMPTKV_DETAIL_CACHE_HPP

#include <promptkv/cache_types.hpp>
#include <promptkv/config.hpp>
#include <promptkv/detail/admission.hpp>
#include <promptkv/detail/edges.hpp>
#include <promptkv/detail/erasing.hpp>
#include <promptkv/detail/eviction.hpp>
#include <promptkv/detail/lookup.hpp>
#include <promptkv/detail/removals.hpp>
#include <promptkv/detail/reservations.hpp>
#include <promptkv/detail/saturating.hpp>
#include <promptkv/detail/storing.hpp>
#include <promptkv/detail/usage.hpp>
#include <promptkv/kv_traits.hpp>
#include <promptkv/stats.hpp>
#include <promptkv/version.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// What is behind BasicPromptCache: the parts, a mutex, and the steps of each call.
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

        /// Ends, or is destroyed, as soon as the mutex is unlocked.
        struct Leftovers {
            std::optional<KV> adopted;  // what an incoming payload gave up for shared blocks
            std::optional<KV> cut_off;  // the part of it that there is no room for
            std::optional<KV> given_up; // that the policy does not want
            std::optional<KV> copy;
            std::optional<KV> whole;  // goes back to the caller where the policy declines a part
            std::optional<KV> prefix; // what a reservation shared
            std::vector<PayloadLease<KV>> pins; // these are last, and so end first
            PayloadLease<KV> pin;
        };
        [[nodiscard]] Leftovers& leftovers() noexcept {
            return leftovers_ ? *leftovers_ : leftovers_.emplace();
        }

        Removals<R> gone;

    private:
        std::optional<Leftovers> leftovers_; // most calls have none
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
    void refresh(const Choice<R>& choice, Tokens tokens) noexcept {
        Edges<R>(parts_).touched(choice.spot, choice.record);
        detail::refresh(parts_, choice, tokens);
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
            detail::assign(call.leftovers().cut_off, detail::truncate(payload.kv, choice.reused));
        kv.emplace(std::move(payload.kv));
    }

    [[nodiscard]] auto explain(ModelView model, Tokens tokens, FetchOptions options) const {
        return detail::explain<R>(parts_.index, model, tokens, options);
    }

    // insertion //////////////////////////////////////////////////////////////

    Inserted insert(ModelView model, Tokens tokens, KV& kv, TierEnum tier,
                    const InsertOptions& options, Call& call) {
        return insert(parts_.index.locate(model, tokens), model, tokens, kv, tier, options, {},
                      call);
    }
    /// What is unlike an ordinary insert.
    struct Terms {
        bool own_is_present = false; // an entry of the key makes it needless
        bool whole_only = false;     // no part of the payload is stored
    };
    /// `spot`: locate(model, tokens).
    Inserted insert(Spot<R> spot, ModelView model, Tokens tokens, KV& kv, TierEnum tier,
                    const InsertOptions& options, Terms terms, Call& call) {
        if constexpr (MeasuredPayload<KV>)
            PROMPTKV_ASSERT(kv_traits<KV>::length(kv) == tokens.size());
        tier = static_cast<TierEnum>(detail::tier_index(tier));
        typename Call::Leftovers& leftovers = call.leftovers();
        if (const auto sharing = detail::any_sharing(spot); sharing.entry != nullptr)
            detail::assign(leftovers.adopted,
                           detail::adopt_blocks(kv, sharing.tokens, sharing.entry->kv()));
        const std::size_t n = tokens.size();
        const Incoming<KV> incoming{kv_traits<KV>::nbytes(kv), n, std::addressof(kv), n, n, false};
        const Decision<R> decision = detail::decide(parts_, spot, model, tokens, incoming, tier,
                                                    terms.own_is_present, leftovers.pins);
        Inserted inserted;
        inserted.outcome = decision.outcome;
        inserted.tokens = decision.tokens;
        const bool is_part = decision.tokens > 0 && decision.tokens < n;
        if ((is_part && terms.whole_only) ||
            (options.spare_upper_tiers && !fits_sparing(decision, incoming, tier))) {
            inserted.outcome = Outcome::no_room;
            inserted.tokens = 0;
        }
        if (inserted.outcome == Outcome::present)
            inserted.absorbed = use_present(decision, spot, tokens, tier, options, call);
        if (inserted.outcome == Outcome::stored || inserted.outcome == Outcome::replaced) {
            if constexpr (R::Policy::declines && BlockPayload<KV> && ClonablePayload<KV>) {
                if (is_part)
                    leftovers.whole.emplace(detail::clone(std::as_const(kv), tokens.size()));
            }
            Storing<R>(parts_, call.gone)
                .store(spot, model, tokens.first(decision.tokens),
                       {kv, detail::bytes_of_first(incoming, decision.tokens), is_part, tier,
                        options, inserted, leftovers.cut_off, leftovers.given_up});
            if (leftovers.whole && inserted.outcome == Outcome::declined) {
                leftovers.given_up.emplace(std::move(kv)); // to be destroyed without a lock
                detail::hand_back(kv, *leftovers.whole);
            }
            if (inserted.tokens < tokens.size() && inserted.tokens > 0)
                ++parts_.stats.stored_in_part;
        }
        count_insert(inserted.outcome);
        return inserted;
    }

    bool mark(ModelView model, Tokens tokens, TierEnum tier, Call& call) {
        tier = static_cast<TierEnum>(detail::tier_index(tier));
        const auto spot = parts_.index.locate(model, tokens);
        Decision<R> needed = detail::present_or_stored(parts_, spot, tokens.size(), tier, true);
        if (needed.outcome == Outcome::replaced) // by the rules of mlx-lm nothing is present
            needed.present = spot.record(tokens.size());
        if (needed.present != nullptr) {
            use_present(needed, spot, tokens, tier, {}, call);
            return true;
        }
        if constexpr (PrefixClonable<KV>) {
            const R* longer = detail::longer_serving<R>(spot, tokens.size(), TierEnum{});
            if (longer == nullptr)
                return false;
            KV& kv = call.leftovers().copy.emplace(detail::clone(longer->kv(), tokens.size()));
            return insert(spot, model, tokens, kv, tier, {}, {.whole_only = true}, call).outcome ==
                   Outcome::stored;
        } else {
            return false;
        }
    }

    // reservation ////////////////////////////////////////////////////////////

    /// `reserved`: a new one, that outlives the call.
    void reserve(ModelView model, Tokens tokens, std::size_t nbytes, TierEnum tier,
                 const InsertOptions& options, Call& call, Reserved& reserved) {
        tier = static_cast<TierEnum>(detail::tier_index(tier));
        Spot<R> spot = parts_.index.locate(model, tokens);
        Incoming<KV> incoming{nbytes, tokens.size(), nullptr, 0, 0, true};
        if (const auto sharing = detail::any_sharing(spot); sharing.entry != nullptr) {
            incoming.kv = std::addressof(sharing.entry->kv());
            incoming.kv_length = sharing.entry->length();
            incoming.common = sharing.tokens;
        }
        const Decision<R> decision = detail::decide(parts_, spot, model, tokens, incoming, tier,
                                                    true, call.leftovers().pins);
        const std::size_t absorbed = decision.outcome == Outcome::present
                                         ? use_present(decision, spot, tokens, tier, options, call)
                                         : 0;
        reservations_.hold(model, tokens, decision, incoming, spot, tier, options, call.gone,
                           reserved);
        reserved.absorbed = absorbed;
        if (reserved.claim == nullptr) {
            count_insert(reserved.outcome);
            call.leftovers().pin = std::move(reserved.prefix);
        }
        if (reserved.outcome == Outcome::declined)
            remember(model, tokens, tier, options);
    }

    /// Stores what a reservation was made for; null: nothing was made. If it throws, the reservation is as
    /// before. `whole`: the key of a payload that may be larger than the part that there is room for.
    Inserted commit(Reserved& reserved, KV* kv, Call& call, std::optional<Tokens> whole) {
        typename Call::Leftovers& leftovers = call.leftovers();
        const auto store = [&](const auto& spot, ModelView model, Tokens tokens) {
            return insert(spot, model, tokens, *kv, reserved.tier, reserved.options,
                          {.own_is_present = true}, call);
        };
        const Inserted inserted = reservations_.commit(reserved, kv, whole, leftovers.copy, store);
        if (reserved.prefix) {
            parts_.ledger.end_apart(reserved.prefix, leftovers.prefix);
            leftovers.pin = std::move(reserved.prefix); // where a walk over the leases holds it too
        }
        if (const auto& claim = reserved.claim; claim != nullptr && claim->size < reserved.fits &&
                                                inserted.outcome == Outcome::stored &&
                                                inserted.tokens == claim->size)
            remember(claim->model, Tokens(claim->tokens).first(reserved.fits), reserved.tier,
                     reserved.options);
        return inserted;
    }

    // removal ////////////////////////////////////////////////////////////////

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

    // deciding ///////////////////////////////////////////////////////////////

    /// A key, or the rest of one, that the policy did not want: it may be wanted later. Nothing where the key
    /// is known, or where it cannot be remembered.
    void remember(ModelView model, Tokens tokens, TierEnum tier,
                  const InsertOptions& options) noexcept {
        if constexpr (observes_edges<typename R::Policy>) {
            if (!parts_.index.remembers())
                return;
            PROMPTKV_TRY {
                const auto spot = parts_.index.locate(model, tokens);
                if (spot.home == nullptr)
                    return;
                auto* node =
                    parts_.index.remember(spot, tokens, tier, options.session, parts_.serves_parts);
                if (node != nullptr)
                    Edges<R>(parts_).declined(*node, options);
            }
            PROMPTKV_CATCH_ALL {}
        }
    }

    /// Whether there is room for what was decided to be stored without evicting more persistent entries.
    [[nodiscard]] bool fits_sparing(const Decision<R>& decision, const Incoming<KV>& incoming,
                                    TierEnum tier) const {
        if (decision.outcome != Outcome::stored && decision.outcome != Outcome::replaced)
            return true;
        const std::size_t n = decision.tokens;
        const std::size_t held = detail::held_of_first(incoming, n);
        const std::size_t needed = less(detail::bytes_of_first(incoming, n), held);
        const std::size_t entries = decision.outcome == Outcome::replaced ? 0 : 1;
        return detail::fits_below(parts_, tier, incoming, n, needed, held, entries);
    }

    /// An entry serves the key already. The key's own entry rises to the tier. Returns how many it absorbs.
    std::size_t use_present(const Decision<R>& decision, const Spot<R>& spot, Tokens tokens,
                            TierEnum tier, const InsertOptions& options, Call& call) noexcept {
        R& present = *decision.present;
        const bool is_own = present.length() == decision.tokens;
        std::size_t absorbed = 0;
        if (is_own) {
            Storing<R> storing(parts_, call.gone);
            absorbed = storing.raise(present, tier);
            storing.join_session(present, options.session);
        }
        refresh({spot, &present, decision.tokens, is_own ? Match::exact : Match::longer,
                 MissReason::none},
                tokens.first(decision.tokens));
        return absorbed;
    }

    void count_insert(Outcome outcome) noexcept {
        constexpr std::array<std::uint64_t Stats::*, 7> counters{
            &Stats::stored,    &Stats::replaced,  &Stats::present, &Stats::declined,
            &Stats::cancelled, &Stats::too_large, &Stats::no_room};
        ++(parts_.stats.*counters[static_cast<std::size_t>(outcome)]);
    }

    Parts<R> parts_;
    Reservations<R> reservations_;
    mutable Mutex mutex_;
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
