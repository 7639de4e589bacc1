// SPDX-License-Identifier: MIT
// Reservations: room for payloads that are not made yet.
#ifndef PROMPTKV_DETAIL_RESERVATIONS_HPP
#define PROMPTKV_DETAIL_RESERVATIONS_HPP

#include <promptkv/cache_types.hpp>
#include <promptkv/detail/admission.hpp>
#include <promptkv/detail/cutting.hpp>
#include <promptkv/detail/edges.hpp>
#include <promptkv/detail/eviction.hpp>
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
#include <utility>
#include <vector>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// The reservations of a cache: what each one holds, and which of them an erase voids.
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

    /// Carries out what was decided: holds room for an entry, and what is stored of its key. `asked`: the key that
    /// was asked for. Throws what an allocation, the copy of the model or the clone throws. `reserved` has the
    /// prefix then, to be destroyed without a lock.
    void hold(const NewEntry<R>& entry, Tokens asked, const Decision<R>& decision,
              const Incoming<KV>& incoming, Removals<R>& gone, Reserved& reserved) {
        reserved.outcome = decision.outcome;
        reserved.tokens = decision.tokens;
        reserved.tier = entry.tier;
        reserved.options = entry.options;
        if (!decision.stores())
            return;
        reserved.spot = entry.spot;
        reserved.version = parts_.index.version();
        reserved.fits = decision.tokens;
        auto claim = std::make_shared<Claim>(entry.model, asked, entry.options.session);
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
        Eviction<R> eviction(parts_, gone);
        const bool is_declined = !make_room(eviction, held, entry, incoming, reserved);
        reserved.evicted = eviction.evicted().entries;
        reserved.cut = eviction.evicted().cuts;
        const bool is_short = entry.options.spare_upper_tiers &&
                              parts_.ledger.nbytes() > less(parts_.limits().max_bytes, held);
        if (is_declined || is_short) {
            reserved.outcome = is_declined ? Outcome::declined : Outcome::no_room;
            reserved.tokens = 0;
            return;
        }
        claim->size = reserved.tokens;
        reserved.held = parts_.ledger.reserve(held);
        reserved.claim = std::move(claim);
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
    bool make_room(Eviction<R>& eviction, std::size_t& held, const NewEntry<R>& entry,
                   [[maybe_unused]] const Incoming<KV>& incoming,
                   [[maybe_unused]] Reserved& reserved) {
        if (entry.options.spare_upper_tiers)
            eviction.spare_above(entry.tier);
        if constexpr (observes_edges<typename R::Policy>) {
            if (R::Policy::declines && reserved.outcome == Outcome::stored) {
                typename R::Node node;
                R to_come;
                to_come.node = &node;
                to_come.tier = entry.tier;
                Edges<R>(parts_).expect(node.hook, entry.spot, reserved.tokens, entry.tier,
                                        entry.options);
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
            const std::size_t too_many = (reserved.tokens - 1) / step * step + step;
            const std::size_t kept =
                detail::most_that_fits(shared - shared % step, too_many, step, [&](std::size_t n) {
                    return detail::bytes_of_first(incoming, n) <= less(now, wanted);
                });
            if (kept <= shared)
                return false;
            held = less(held, now - detail::bytes_of_first(incoming, kept));
            reserved.tokens = kept;
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
