// SPDX-License-Identifier: MIT
// Storing: what an insert changes once it is decided.
#ifndef PROMPTKV_DETAIL_STORING_HPP
#define PROMPTKV_DETAIL_STORING_HPP

#include <promptkv/cache_types.hpp>
#include <promptkv/detail/admission.hpp>
#include <promptkv/detail/cutting.hpp>
#include <promptkv/detail/edges.hpp>
#include <promptkv/detail/eviction.hpp>
#include <promptkv/detail/exceptions.hpp>
#include <promptkv/detail/index.hpp>
#include <promptkv/detail/leftovers.hpp>
#include <promptkv/detail/saturating.hpp>
#include <promptkv/detail/sessions.hpp>
#include <promptkv/detail/superseding.hpp>
#include <promptkv/kv_traits.hpp>
#include <promptkv/version.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// Puts payloads into a cache: links the key, and settles what the new entry means for others.
template <class R>
class Storing {
public:
    using KV = typename R::KV;
    using TierEnum = typename R::TierEnum;
    using Tokens = typename R::Tokens;
    using Payload = typename R::Payload;
    using Policy = typename R::Policy;

    Storing(Parts<R>& parts, Removals<R>& gone, Leftovers<KV>& leftovers) noexcept
        : parts_(parts), eviction_(parts, gone), leftovers_(leftovers) {}

    /// Links a record for the key of the entry, and puts `kv` there, the incoming payload; what the key has no room for
    /// is cut off. If it throws, nothing has changed. Where a part is kept whose bytes only the cut tells, and it
    /// does not fit, the payload stays the caller's, cut.
    void store(const NewEntry<R>& entry, const Incoming<KV>& incoming, KV& kv, Inserted& inserted) {
        const Spot<R>& spot = entry.spot;
        const Tokens tokens = entry.tokens;
        const Insert insert{entry, kv, inserted};
        auto payload = std::make_unique<Payload>(parts_.ledger.account());
        payload->nbytes = detail::bytes_of_first(incoming, tokens.size());
        auto record = std::make_unique<R>();
        if constexpr (observes_edges<typename R::Policy>)
            parts_.order.reserve(parts_.ledger.size() + 1);
        const std::uint64_t session =
            parts_.is_mlx_lm() || entry.options.side_request ? 0 : entry.options.session;
        const bool is_new_session =
            spot.home != nullptr && Sessions<R>::expect(*spot.home, session);
        R* former = spot.entry(tokens.size());
        R* linked = nullptr;
        const auto is_refused = [&]() noexcept {
            return tokens.size() < incoming.length && !cut_to_part(*payload, insert);
        };
        const auto take_back = [&]() noexcept {
            if (is_new_session)
                Sessions<R>::forget(*spot.home, session);
            if (linked != nullptr) {
                parts_.index.unlink(*linked);
                delete linked;
            }
        };
        // A key that has an entry is linked without an allocation, and its entry cannot be linked again: so
        // the payload is cut before. Else nothing is cut that may come to nothing.
        if (former != nullptr && is_refused())
            return take_back();
        PROMPTKV_TRY {
            linked = &parts_.index.link(spot, entry.model, tokens, std::move(record));
            if (spot.home == nullptr)
                Sessions<R>::expect(*linked->home, session);
        }
        PROMPTKV_CATCH_ALL {
            take_back();
            PROMPTKV_RETHROW;
        }
        if (former == nullptr && is_refused())
            return take_back();
        settle_in(*linked, former, std::move(payload), session, insert);
    }

    /// The tier of an entry rises; it absorbs as a new entry of that tier does. Returns how many.
    std::size_t raise(R& record, TierEnum tier) noexcept {
        if (tier <= record.tier)
            return 0;
        parts_.order.leave(record);
        record.aside = false;
        parts_.ledger.retier(record, tier);
        parts_.order.enter(record);
        return absorb(record);
    }

private:
    struct Insert {
        const NewEntry<R>& entry;
        KV& kv;
        Inserted& inserted; // the answer
    };

    /// False: it does not fit, as the answer says now.
    [[nodiscard]] bool cut_to_part(Payload& payload, const Insert& insert) noexcept {
        const std::size_t n = insert.entry.tokens.size();
        leftovers_.add_any(detail::truncate(insert.kv, n));
        payload.nbytes = detail::bytes_of(insert.kv);
        if constexpr (!BlockPayload<KV>) { // else the blocks have told that it fits
            const KV& kv = insert.kv;
            const Incoming<KV> part{payload.nbytes, n, std::addressof(kv), n, n, false};
            if (!has_room_beside_pinned(part.nbytes) ||
                (insert.entry.options.spare_upper_tiers &&
                 !detail::fits_below(parts_, insert.entry, part))) {
                insert.inserted.outcome = Outcome::no_room;
                insert.inserted.tokens = 0;
                return false;
            }
        }
        return true;
    }
    [[nodiscard]] bool has_room_beside_pinned(std::size_t nbytes) const noexcept {
        const Ledger<R>& ledger = parts_.ledger;
        const std::size_t pinned = more(ledger.leases().staying().nbytes, ledger.reserved());
        return nbytes <= less(parts_.options.max_bytes, pinned);
    }

    /// Nothing in here can fail.
    void settle_in(R& record, R* former, std::unique_ptr<Payload> payload, std::uint64_t session,
                   const Insert& insert) noexcept {
        const InsertOptions& options = insert.entry.options;
        payload->record = &record;
        parts_.block_tokens = detail::block_tokens(insert.kv);
        std::size_t added = parts_.ledger.hold(insert.kv, payload->nbytes);
        payload->emplace(std::move(insert.kv));
        record.payload = payload.release();
        record.is_entry = true;
        record.tier =
            former != nullptr ? (std::max)(former->tier, insert.entry.tier) : insert.entry.tier;
        record.session = options.session;
        record.stored_at = parts_.requests;
        parts_.serves_parts = record.serves_parts();
        parts_.index.show(record, parts_.serves_parts);
        if (former != nullptr)
            replace(record, *former, options);
        const Turn turn = session != 0 ? begin_turn(record, session, options.request) : Turn{};
        insert.inserted.absorbed = absorb(record);
        const bool supersedes =
            !parts_.is_mlx_lm() && !options.side_request && detail::supersede(parts_, record) > 0;

        Edges<R>(parts_).stored(record, options);
        parts_.order.enter(record); // it counts in its tier while room is made
        // A payload that serves its whole key only does not continue the entry above, as the former may have.
        parts_.resident_leaf(former != nullptr && !record.shown ? detail::prefix_of(record)
                                                                : parts_.prefix_bared_by(record));
        if (!Policy::declines || former != nullptr)
            parts_.set_aside(record);
        const bool is_kept = make_room_for(record, added, supersedes, insert);
        insert.inserted.evicted = eviction_.evicted().entries;
        insert.inserted.cut = eviction_.evicted().cuts;
        if (Policy::declines && !is_kept) {
            decline(record, added, turn, insert);
            return;
        }
        parts_.ledger.add(record, added);
        parts_.use(record);
    }

    /// Evicts others until the incoming entry, which needs `added` bytes, fits; or a part of it, which lowers
    /// `added`, where the policy wants no more. False: the policy wants nothing of it.
    bool make_room_for(R& record, std::size_t& added, bool supersedes,
                       const Insert& insert) noexcept {
        if (insert.entry.options.spare_upper_tiers)
            eviction_.spare_above(insert.entry.tier);
        const CacheLimits limits = parts_.limits();
        const bool is_kept = Policy::declines ? offer(record, added, supersedes, insert)
                                              : eviction_.make_room(limits, added, 1, &record);
        const bool is_short = parts_.ledger.nbytes() > less(limits.max_bytes, added) ||
                              parts_.ledger.size() >= limits.max_entries;
        if (is_kept && is_short && insert.entry.options.spare_upper_tiers) {
            eviction_.spare_above(static_cast<TierEnum>(tier_traits<TierEnum>::count - 1));
            make_room_beside(record, added); // the limits come first
        }
        return is_kept;
    }
    /// Evicts others, and nothing of the incoming entry.
    void make_room_beside(R& record, std::size_t added) noexcept {
        if (!record.is_aside())
            parts_.set_aside(record);
        eviction_.make_room(parts_.limits(), added, 1);
    }
    /// Makes room where the incoming entry may be the policy's victim itself: it gives up its tail then. False:
    /// nothing of it would be left.
    bool offer(R& record, std::size_t& added, bool supersedes, const Insert& insert) noexcept {
        Part part{record.length(), 0};
        std::size_t needed = added;
        const auto give_up_some = [&](std::size_t wanted) {
            if (wanted > 0 && give_up(record, wanted, part)) {
                needed = less(added, part.given_up);
                return true;
            }
            if (insert.inserted.absorbed == 0 && !supersedes)
                return false;
            parts_.set_aside(record); // it stands for others, and must stay
            return true;
        };
        if (!eviction_.make_room(parts_.limits(), needed, 1, &record, give_up_some))
            return false;
        if (part.kept < record.length()) {
            if (!cut_incoming(record, part.kept, added, insert))
                return false;
            make_room_beside(record, added); // in case that the cut freed less than was thought
        }
        return true;
    }

    /// How much of an incoming entry the policy wants.
    struct Part {
        std::size_t kept;     // tokens
        std::size_t given_up; // bytes
    };
    /// The incoming entry is to give up `wanted` bytes more. False: nothing of it would be left.
    bool give_up(const R& record, std::size_t wanted, Part& part) const noexcept {
        const std::size_t kept = detail::cut_point_of_incoming(record, part.given_up + wanted);
        if (kept == 0 || kept >= part.kept)
            return false;
        const std::size_t nbytes = record.payload->nbytes;
        const std::size_t freed = BlockPayload<KV> ? Ledger<R>::held_alone(record, kept, false)
                                                   : nbytes - nbytes / record.length() * kept;
        if (freed <= part.given_up)
            return false;
        part = {kept, freed};
        return true;
    }
    /// Cuts the incoming entry, which lowers `added`, the bytes that it needs. False: memory ran out.
    bool cut_incoming(R& record, std::size_t kept, std::size_t& added,
                      const Insert& insert) noexcept {
        if (!parts_.index.shorten(record, kept))
            return false;
        leftovers_.add_any(parts_.ledger.cut_held(*record.payload, kept, added).tail);
        insert.inserted.tokens = kept;
        parts_.index.show(record, record.serves_parts());
        parts_.was_cut(record);
        return true;
    }

    /// A session's last entry before the one that came in, and whether it was demoted. Null: none.
    struct Turn {
        R* last = nullptr;
        bool demoted = false;
    };

    /// Takes the incoming entry out again, and gives the payload back to the caller. The session's last
    /// entry is the one that it was before.
    void decline(R& record, std::size_t added, const Turn& turn, const Insert& insert) noexcept {
        Sessions<R>::go_back(record, turn.last);
        if (turn.demoted && turn.last->is_entry) {
            parts_.use(*turn.last);
            --parts_.stats.demoted;
        }
        parts_.order.leave(record);
        std::unique_ptr<Payload> payload(record.payload);
        parts_.ledger.let_go(*payload, added);
        detail::hand_back(insert.kv, payload->kv);
        record.is_entry = false;
        record.payload = nullptr;
        record.remember = parts_.index.remembers();
        parts_.take_out(record, false);
        delete &record;
        insert.inserted.outcome = Outcome::declined;
        insert.inserted.tokens = 0;
    }

    void replace(R& record, R& former, const InsertOptions& options) noexcept {
        record.used = former.used;
        Sessions<R>::succeed(record, former);
        Sessions<R>::join(record, options.session);
        eviction_.remove(former, RemovalReason::replaced);
        if (parts_.listener != nullptr)
            former.keep(Index<R>::copy_of_key(*record.node));
    }

    /// The session's last entry becomes the next victim of its tier if it is a dead branch; `record` is
    /// the session's last entry now.
    Turn begin_turn(R& record, std::uint64_t session, std::uint64_t request) noexcept {
        R* last = Sessions<R>::advance(record, session);
        const bool demoted = last != nullptr && (request == 0 || request > last->stored_at) &&
                             Sessions<R>::is_dead_branch(*last, record);
        if (demoted) {
            parts_.demote(*last);
            ++parts_.stats.demoted;
        }
        return {last, demoted};
    }

    /// Removes the entries on strict prefixes that the record serves, unless they are more persistent.
    std::size_t absorb(R& record) noexcept {
        std::size_t absorbed = 0;
        if (!record.serves_parts())
            return absorbed;
        for (R *prefix = detail::prefix_of(record), *next = nullptr; prefix != nullptr;
             prefix = next) {
            next = detail::prefix_of(*prefix);
            if ((prefix->tier > record.tier && !parts_.is_mlx_lm()) ||
                !record.serves(prefix->length()))
                continue;
            record.used = record.used || prefix->used;
            eviction_.remove(*prefix, RemovalReason::absorbed);
            ++absorbed;
        }
        parts_.stats.absorbed += absorbed;
        return absorbed;
    }

    Parts<R>& parts_;
    Eviction<R> eviction_;
    Leftovers<KV>& leftovers_;
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
