// SPDX-License-Identifier: MIT
// Reservations: room for payloads that are not made yet.
#ifndef PROMPTKV_DETAIL_RESERVATIONS_HPP
#define PROMPTKV_DETAIL_RESERVATIONS_HPP

#include <promptkv/cache_types.hpp>
#include <promptkv/config.hpp>
#include <promptkv/detail/admission.hpp>
#include <promptkv/detail/edges.hpp>
#include <promptkv/detail/eviction.hpp>
#include <promptkv/detail/exceptions.hpp>
#include <promptkv/detail/index.hpp>
#include <promptkv/detail/ledger.hpp>
#include <promptkv/detail/parts.hpp>
#include <promptkv/detail/removals.hpp>
#include <promptkv/detail/saturating.hpp>
#include <promptkv/kv_traits.hpp>
#include <promptkv/version.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// The reservations of a cache: what each one holds, and which of them an erase voids. What is decided,
/// and how a payload is stored, the cache knows.
template <class R>
class Reservations {
public:
    using KV = typename R::KV;
    using ModelView = typename R::ModelView;
    using Token = typename R::Token;
    using Tokens = typename R::Tokens;

    /// What an erase may void: the key of a reservation.
    struct Claim {
        Claim(ModelView name, Tokens key, std::uint64_t of_session)
            : model(name), tokens(key.begin(), key.end()), size(key.size()), session(of_session) {}
        [[nodiscard]] Tokens key() const noexcept { return Tokens(tokens).first(size); }

        const typename R::Model model;
        std::vector<Token> tokens; // the key, and what follows of that which was asked for
        std::size_t size;          // of the key
        const std::uint64_t session;
        bool is_void = false; // under the cache's lock
    };

    struct Reserved : Inserted { // what became of the reservation itself
        Reserved() noexcept { outcome = Outcome::cancelled; }
        std::size_t fits = 0;          // tokens for which there was room; the policy may want fewer
        std::shared_ptr<Claim> claim;  // null: no room is held
        PayloadLease<KV> prefix;       // what is stored of the key
        std::size_t prefix_tokens = 0; // and how many tokens that is
        HeldBytes<KV> held;
        typename R::TierEnum tier{};
        InsertOptions options;
        Spot<R> spot; // of `fits` tokens, as long as the index has this version
        std::uint64_t version = 0;
    };

    explicit Reservations(Parts<R>& parts) noexcept : parts_(parts) {}

    /// Carries out what was decided: holds room for the first tokens of the key, and what is stored of
    /// them. Throws what an allocation, the copy of the model or the clone throws. `reserved` has the prefix
    /// then, to be destroyed without a lock.
    void hold(ModelView model, Tokens tokens, const Decision<R>& decision,
              const Incoming<KV>& incoming, const Spot<R>& spot, typename R::TierEnum tier,
              const InsertOptions& options, Removals<R>& gone, Reserved& reserved) {
        reserved.outcome = decision.outcome;
        reserved.tokens = decision.tokens;
        reserved.tier = tier;
        reserved.options = options;
        if (decision.outcome != Outcome::stored && decision.outcome != Outcome::replaced)
            return;
        reserved.spot = spot;
        reserved.version = parts_.index.version();
        reserved.fits = decision.tokens;
        auto claim = std::make_shared<Claim>(model, tokens, options.session);
        claim->size = decision.tokens;
        if (claims_.size() == claims_.capacity())
            forget_expired();
        claims_.push_back(claim);
        std::size_t held = detail::bytes_of_first(incoming, decision.tokens);
        if constexpr (shares_blocks) {
            reserved.prefix_tokens = detail::shared_of_first(incoming, decision.tokens);
            if (reserved.prefix_tokens > 0) {
                reserved.prefix = parts_.ledger.lease_apart(
                    [&] { return detail::share(*incoming.kv, reserved.prefix_tokens); });
                held = less(held, reserved.prefix->nbytes);
            }
        }
        const bool fits = !options.spare_upper_tiers ||
                          detail::fits_below(parts_, tier, incoming, reserved.tokens, held, 0, 1);
        Eviction<R> eviction(parts_, gone);
        const bool is_declined =
            fits && !make_room(eviction, held, reserved, spot, incoming, tier, options);
        reserved.evicted = eviction.evicted().entries;
        reserved.cut = eviction.evicted().cuts;
        const bool is_short =
            !fits || (options.spare_upper_tiers &&
                      parts_.ledger.nbytes() > less(parts_.limits().max_bytes, held));
        if (is_declined || is_short) {
            reserved.outcome = is_declined ? Outcome::declined : Outcome::no_room;
            reserved.tokens = 0;
            return;
        }
        claim->size = reserved.tokens;
        reserved.held = parts_.ledger.reserve(held);
        reserved.claim = std::move(claim);
    }

    /// Calls `store(spot, model, tokens)` for the tokens that a payload holds of a reservation's key, or of
    /// `whole`, a longer one. Null: nothing was made. If it throws, the reservation is as before. `given_up`
    /// gets the blocks for which the payload takes stored ones.
    template <class Store>
    Inserted commit(Reserved& reserved, KV* made, std::optional<Tokens> whole,
                    std::optional<KV>& given_up, Store store) {
        if (reserved.claim == nullptr || reserved.claim->is_void || made == nullptr)
            return cancel(reserved);
        KV& kv = *made;
        const Tokens key = whole.value_or(reserved.claim->key());
        std::size_t n = key.size();
        if constexpr (MeasuredPayload<KV>) {
            PROMPTKV_ASSERT(kv_traits<KV>::length(kv) <= n);
            n = std::min<std::size_t>(n, kv_traits<KV>::length(kv));
        }
        if (reserved.prefix)
            detail::assign(given_up, detail::adopt_blocks(kv, (std::min)(n, reserved.prefix_tokens),
                                                          std::as_const(reserved.prefix->kv)));
        if (n == 0 && !key.empty())
            return cancel(reserved); // nothing was made
        const std::size_t held = reserved.held.get_deleter().nbytes;
        reserved.held.reset();
        Inserted inserted;
        PROMPTKV_TRY {
            const bool is_found = n == reserved.fits && reserved.version == parts_.index.version();
            const auto spot =
                is_found ? reserved.spot : parts_.index.locate(reserved.claim->model, key.first(n));
            inserted = store(spot, reserved.claim->model, key.first(n));
        }
        PROMPTKV_CATCH_ALL {
            reserved.held = parts_.ledger.reserve(held);
            PROMPTKV_RETHROW;
        }
        const bool is_stored =
            inserted.outcome == Outcome::stored || inserted.outcome == Outcome::replaced;
        const bool is_part = reserved.claim->size < reserved.claim->tokens.size();
        if (is_part && !whole && is_stored && inserted.tokens == n)
            ++parts_.stats.stored_in_part;
        return inserted;
    }

    /// Nothing is made for a reservation. A refused one was counted as what it was refused for.
    Inserted cancel(const Reserved& reserved) noexcept {
        Inserted inserted;
        inserted.outcome = Outcome::cancelled;
        parts_.stats.cancelled += reserved.claim != nullptr ? 1U : 0U;
        return inserted;
    }

    /// Voids the reservations whose claim `covers`. Throws what comparing models or an allocation throws;
    /// nothing has changed then.
    template <class Covers>
    void void_covered(Covers covers) {
        std::vector<std::shared_ptr<Claim>> covered;
        for (const std::weak_ptr<Claim>& each : claims_) {
            std::shared_ptr<Claim> claim = each.lock();
            if (claim != nullptr && covers(std::as_const(*claim)))
                covered.push_back(std::move(claim));
        }
        for (const std::shared_ptr<Claim>& claim : covered)
            claim->is_void = true;
        forget_expired();
    }
    void void_all() noexcept {
        for (const std::weak_ptr<Claim>& each : claims_) {
            if (const std::shared_ptr<Claim> claim = each.lock())
                claim->is_void = true;
        }
        forget_expired();
    }

    /// Bytes of the claims.
    [[nodiscard]] std::size_t nbytes() const noexcept {
        constexpr std::size_t counts = 2 * sizeof(void*); // beside each claim
        std::size_t bytes = claims_.capacity() * sizeof(claims_[0]);
        for (const std::weak_ptr<Claim>& each : claims_) {
            if (const std::shared_ptr<Claim> claim = each.lock())
                bytes += sizeof(Claim) + counts + claim->tokens.capacity() * sizeof(Token);
        }
        return bytes;
    }

private:
    static constexpr bool shares_blocks =
        BlockPayload<KV> && (PrefixClonable<KV> || SharedPrefixPayload<KV>);

    /// Makes room for `held` bytes. A policy that declines compares what is to come with what is there, and
    /// may lower the reservation's tokens, and `held` with them. False: it declines.
    bool make_room(Eviction<R>& eviction, std::size_t& held, [[maybe_unused]] Reserved& reserved,
                   [[maybe_unused]] const Spot<R>& spot,
                   [[maybe_unused]] const Incoming<KV>& incoming,
                   [[maybe_unused]] typename R::TierEnum tier, const InsertOptions& options) {
        if (options.spare_upper_tiers)
            eviction.spare_above(tier);
        if constexpr (observes_edges<typename R::Policy>) {
            if (R::Policy::declines && reserved.outcome == Outcome::stored) {
                typename R::Node node;
                R to_come;
                to_come.node = &node;
                to_come.tier = tier;
                Edges<R>(parts_).expect(node.hook, spot, reserved.tokens, tier, options);
                parts_.order.reserve(parts_.ledger.size() + 1);
                parts_.order.resident_leaf(to_come, true);
                const auto give_up = [&](std::size_t wanted) {
                    return give_up_part(wanted, held, reserved, incoming);
                };
                const bool is_kept =
                    eviction.make_room(parts_.limits(), held, 0, &to_come, give_up);
                parts_.order.resident_leaf(to_come, false);
                return is_kept;
            }
        }
        return eviction.make_room(parts_.limits(), held, 0);
    }

    /// Lowers `held` by `wanted` bytes, at whole blocks. False: nothing new would be left.
    bool give_up_part(std::size_t wanted, std::size_t& held, Reserved& reserved,
                      const Incoming<KV>& incoming) const noexcept {
        if constexpr (TruncatablePayload<KV>) {
            if (reserved.tokens == 0)
                return false;
            const std::size_t shared = reserved.prefix_tokens;
            const std::size_t step =
                incoming.kv != nullptr ? detail::block_tokens(*incoming.kv) : parts_.block_tokens;
            const std::size_t now = detail::bytes_of_first(incoming, reserved.tokens);
            std::size_t fewer = shared / step, enough = (reserved.tokens - 1) / step + 1; // blocks
            while (enough - fewer > 1) {
                const std::size_t middle = fewer + (enough - fewer) / 2;
                const bool fits =
                    detail::bytes_of_first(incoming, middle * step) <= less(now, wanted);
                (fits ? fewer : enough) = middle;
            }
            if (fewer * step <= shared)
                return false;
            held = less(held, now - detail::bytes_of_first(incoming, fewer * step));
            reserved.tokens = fewer * step;
            return true;
        } else {
            return false;
        }
    }

    void forget_expired() noexcept {
        std::erase_if(claims_, [](const auto& each) { return each.expired(); });
        if (claims_.empty())
            std::vector<std::weak_ptr<Claim>>().swap(claims_);
    }

    Parts<R>& parts_;
    std::vector<std::weak_ptr<Claim>> claims_; // of reservations that may be alive
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
