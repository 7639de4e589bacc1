// SPDX-License-Identifier: MIT
// Inserting: the order of the steps of an insert, a reservation and its commit.
#ifndef PROMPTKV_DETAIL_INSERTING_HPP
#define PROMPTKV_DETAIL_INSERTING_HPP

#include <promptkv/cache_types.hpp>
#include <promptkv/config.hpp>
#include <promptkv/detail/admission.hpp>
#include <promptkv/detail/edges.hpp>
#include <promptkv/detail/exceptions.hpp>
#include <promptkv/detail/leftovers.hpp>
#include <promptkv/detail/lookup.hpp>
#include <promptkv/detail/parts.hpp>
#include <promptkv/detail/removals.hpp>
#include <promptkv/detail/reservations.hpp>
#include <promptkv/detail/sessions.hpp>
#include <promptkv/detail/storing.hpp>
#include <promptkv/detail/usage.hpp>
#include <promptkv/kv_traits.hpp>
#include <promptkv/stats.hpp>
#include <promptkv/version.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// What a caller stores, for one call: decides, then changes.
template <class R>
class Inserting {
public:
    using KV = typename R::KV;
    using TierEnum = typename R::TierEnum;
    using ModelView = typename R::ModelView;
    using Tokens = typename R::Tokens;
    using Reserved = typename Reservations<R>::Reserved;

    Inserting(Parts<R>& parts, Reservations<R>& reservations, Removals<R>& gone,
              Leftovers<KV>& leftovers) noexcept
        : parts_(parts), reservations_(reservations), gone_(gone), leftovers_(leftovers) {}

    Inserted insert(ModelView model, Tokens tokens, KV& kv, TierEnum tier,
                    const InsertOptions& options) {
        return insert(entry_at(model, tokens, tier, options), kv);
    }

    bool mark(ModelView model, Tokens tokens, TierEnum tier) {
        NewEntry<R> entry = entry_at(model, tokens, tier, {});
        entry.own_is_present = true;
        entry.whole_only = true;
        Decision<R> needed = detail::present_or_stored(parts_, entry);
        if (needed.outcome == Outcome::replaced) // by the rules of mlx-lm nothing is present
            needed.present = entry.spot.record(tokens.size());
        if (needed.present != nullptr) {
            use_present(*needed.present, entry);
            return true;
        }
        if constexpr (PrefixClonable<KV>) {
            const R* longer = detail::longer_serving<R>(entry.spot, tokens.size(), TierEnum{});
            if (longer == nullptr)
                return false;
            KV& kv = leftovers_.add(detail::clone(longer->kv(), tokens.size()));
            return insert(entry, kv).outcome == Outcome::stored;
        } else {
            return false;
        }
    }

    /// `reserved`: a new one, that outlives the call.
    void reserve(ModelView model, Tokens tokens, std::size_t nbytes, TierEnum tier,
                 const InsertOptions& options, Reserved& reserved) {
        NewEntry<R> entry = entry_at(model, tokens, tier, options);
        entry.own_is_present = true;
        Incoming<KV> incoming{nbytes, tokens.size(), nullptr, 0, 0, true};
        if (const auto sharing = detail::any_sharing(entry.spot); sharing.entry != nullptr) {
            incoming.kv = std::addressof(sharing.entry->kv());
            incoming.kv_length = sharing.entry->length();
            incoming.common = sharing.tokens;
        }
        const Decision<R> decision = detail::decide(parts_, entry, incoming, leftovers_.pins());
        const std::size_t absorbed =
            decision.outcome == Outcome::present ? use_present(*decision.present, entry) : 0;
        reservations_.hold(entry, tokens, decision, incoming, gone_, reserved);
        reserved.absorbed = absorbed;
        if (reserved.claim == nullptr) {
            count(reserved.outcome);
            leftovers_.add(std::move(reserved.prefix));
        }
        if (reserved.outcome == Outcome::declined)
            remember(model, tokens, entry.tier, options);
    }

    /// Stores what a reservation was made for; null: nothing was made. If it throws, the reservation is as
    /// before. `whole`: the key of a payload that may be larger than the part that there is room for.
    Inserted commit(Reserved& reserved, KV* kv, std::optional<Tokens> whole) {
        const auto* claim = reserved.claim.get();
        Inserted inserted;
        inserted.outcome = Outcome::cancelled;
        if (claim != nullptr && !claim->is_void && kv != nullptr)
            inserted = commit(reserved, *kv, whole.value_or(claim->key()));
        if (claim != nullptr && inserted.outcome == Outcome::cancelled)
            ++parts_.stats.cancelled; // a refused one was counted as what it was refused for
        if (reserved.prefix) {
            std::optional<KV> prefix;
            parts_.ledger.end_apart(reserved.prefix, prefix);
            leftovers_.add_any(std::move(prefix));
            leftovers_.add(std::move(reserved.prefix)); // where a walk over the leases holds it too
        }
        return inserted;
    }

private:
    [[nodiscard]] NewEntry<R> entry_at(ModelView model, Tokens tokens, TierEnum tier,
                                       const InsertOptions& options) const {
        tier = static_cast<TierEnum>(detail::tier_index(tier));
        return {model, tokens, parts_.index.locate(model, tokens), tier, options};
    }

    Inserted insert(NewEntry<R> entry, KV& kv) {
        const std::size_t n = entry.tokens.size();
        if constexpr (MeasuredPayload<KV>)
            PROMPTKV_ASSERT(detail::length_of(kv) == n);
        if (const auto sharing = detail::any_sharing(entry.spot); sharing.entry != nullptr)
            leftovers_.add_any(detail::adopt_blocks(kv, sharing.tokens, sharing.entry->kv()));
        const Incoming<KV> incoming{detail::bytes_of(kv), n, std::addressof(kv), n, n, false};
        const Decision<R> decision = detail::decide(parts_, entry, incoming, leftovers_.pins());
        Inserted inserted;
        inserted.outcome = decision.outcome;
        inserted.tokens = decision.tokens;
        if (decision.outcome == Outcome::present)
            inserted.absorbed = use_present(*decision.present, entry);
        else if (decision.stores())
            store(entry, incoming, kv, inserted);
        count(inserted.outcome);
        return inserted;
    }

    void store(const NewEntry<R>& entry, const Incoming<KV>& incoming, KV& kv, Inserted& inserted) {
        KV* whole = nullptr; // the caller's again where the policy declines a part
        if constexpr (R::Policy::declines && BlockPayload<KV> && ClonablePayload<KV>) {
            if (entry.tokens.size() < incoming.length)
                whole = &leftovers_.add(detail::clone(std::as_const(kv), incoming.length));
        }
        Storing<R>(parts_, gone_, leftovers_).store(entry, incoming, kv, inserted);
        if (whole != nullptr && inserted.outcome == Outcome::declined) {
            leftovers_.add(std::move(kv));
            detail::hand_back(kv, *whole);
        }
        if (inserted.tokens > 0 && inserted.tokens < incoming.length)
            ++parts_.stats.stored_in_part;
    }

    /// `key`: the reservation's, or a longer one.
    Inserted commit(Reserved& reserved, KV& kv, Tokens key) {
        const auto& claim = *reserved.claim;
        Inserted inserted;
        inserted.outcome = Outcome::cancelled;
        std::size_t n = key.size();
        if constexpr (MeasuredPayload<KV>) {
            PROMPTKV_ASSERT(detail::length_of(kv) <= n);
            n = (std::min)(n, detail::length_of(kv));
        }
        if (n == 0 && !key.empty())
            return inserted; // nothing was made
        if (reserved.prefix)
            leftovers_.add_any(detail::adopt_blocks(kv, (std::min)(n, reserved.prefix_tokens),
                                                    std::as_const(reserved.prefix->kv)));
        const std::size_t held = reserved.held.get_deleter().nbytes;
        reserved.held.reset();
        PROMPTKV_TRY {
            const bool is_found = n == reserved.fits && reserved.version == parts_.index.version();
            const Tokens tokens = key.first(n);
            inserted = insert({claim.model, tokens,
                               is_found ? reserved.spot : parts_.index.locate(claim.model, tokens),
                               reserved.tier, reserved.options, true},
                              kv);
        }
        PROMPTKV_CATCH_ALL {
            reserved.held = parts_.ledger.reserve(held);
            PROMPTKV_RETHROW;
        }
        const bool is_new = inserted.outcome == Outcome::stored;
        if (inserted.tokens == n && key.size() < claim.tokens.size() &&
            (is_new || inserted.outcome == Outcome::replaced))
            ++parts_.stats.stored_in_part;
        if (is_new && inserted.tokens == claim.size && claim.size < reserved.fits)
            remember(claim.model, Tokens(claim.tokens).first(reserved.fits), reserved.tier,
                     reserved.options);
        return inserted;
    }

    /// An entry serves the key already. The key's own entry rises to the tier. Returns how many it absorbs.
    std::size_t use_present(R& present, const NewEntry<R>& entry) noexcept {
        const bool is_own = present.length() == entry.tokens.size();
        std::size_t absorbed = 0;
        if (is_own) {
            absorbed = Storing<R>(parts_, gone_, leftovers_).raise(present, entry.tier);
            Sessions<R>::join(present, entry.options.session);
        }
        detail::touch(parts_,
                      {entry.spot, &present, entry.tokens.size(),
                       is_own ? Match::exact : Match::longer, MissReason::none},
                      entry.tokens);
        return absorbed;
    }

    /// A key, or the rest of one, that the policy did not want: it may be wanted later. Nothing where the key
    /// is known, or where it cannot be remembered.
    void remember([[maybe_unused]] ModelView model, [[maybe_unused]] Tokens tokens,
                  [[maybe_unused]] TierEnum tier,
                  [[maybe_unused]] const InsertOptions& options) noexcept {
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

    void count(Outcome outcome) noexcept {
        constexpr std::array<std::uint64_t Stats::*, 7> counters{
            &Stats::stored,    &Stats::replaced,  &Stats::present, &Stats::declined,
            &Stats::cancelled, &Stats::too_large, &Stats::no_room};
        ++(parts_.stats.*counters[static_cast<std::size_t>(outcome)]);
    }

    Parts<R>& parts_;
    Reservations<R>& reservations_;
    Removals<R>& gone_;
    Leftovers<KV>& leftovers_;
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
