// SPDX-License-Identifier: MIT
// Admission: whether a payload may be stored, and how much of it. Pure functions over the parts.
#ifndef PROMPTKV_DETAIL_ADMISSION_HPP
#define PROMPTKV_DETAIL_ADMISSION_HPP

#include <promptkv/cache_types.hpp>
#include <promptkv/detail/cutting.hpp>
#include <promptkv/detail/ledger.hpp>
#include <promptkv/detail/lookup.hpp>
#include <promptkv/detail/parts.hpp>
#include <promptkv/detail/saturating.hpp>
#include <promptkv/kv_traits.hpp>
#include <promptkv/version.hpp>

#include <algorithm>
#include <cstddef>
#include <vector>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// A payload that is to be stored: one that is there, or one that room is to be reserved for.
template <class KV>
struct Incoming {
    std::size_t nbytes; // that it refers to, or an estimate
    std::size_t length; // tokens of its key
    const KV* kv; // the payload; of a reservation: one in the cache that shares tokens, or null
    std::size_t kv_length; // tokens of the key of `kv`
    std::size_t common;    // leading tokens that both keys have
    bool is_reservation;
};

/// An entry that is to be made.
template <class R>
struct NewEntry {
    typename R::ModelView model;
    typename R::Tokens tokens;
    Spot<R> spot; // locate(model, tokens)
    typename R::TierEnum tier;
    InsertOptions options;
    bool own_is_present = false; // an entry of exactly this key makes it needless
    bool whole_only = false;     // no part of the payload is stored
};

/// What becomes of it.
template <class R>
struct Decision {
    Outcome outcome = Outcome::no_room;
    std::size_t tokens = 0; // how much of the key is stored or present; 0: nothing
    R* present = nullptr;   // the entry that serves these tokens already

    [[nodiscard]] bool stores() const noexcept {
        return outcome == Outcome::stored || outcome == Outcome::replaced;
    }
};

/// The bytes of its first `n` tokens: in proportion to the tokens, unless its blocks tell.
template <class KV>
[[nodiscard]] std::size_t bytes_of_first(const Incoming<KV>& incoming, std::size_t n) noexcept {
    if (n >= incoming.length)
        return incoming.nbytes;
    if constexpr (BlockPayload<KV>) {
        if (!incoming.is_reservation) {
            std::size_t nbytes = incoming.nbytes;
            detail::for_each_block(*incoming.kv, n,
                                   [&](const BlockUse&, std::size_t block_bytes, const auto&) {
                                       nbytes = less(nbytes, block_bytes);
                                   });
            return nbytes;
        }
    }
    return share_of(incoming.nbytes, n, incoming.length);
}

/// Of how many of its first `n` tokens it has the blocks of `kv`. A reservation shares whole blocks that end
/// where `kv` can be used, or the whole of the `n` tokens.
template <class KV>
[[nodiscard]] std::size_t shared_of_first(const Incoming<KV>& incoming, std::size_t n) noexcept {
    const std::size_t common = (std::min)(n, incoming.common);
    if (!incoming.is_reservation || common == 0)
        return common;
    if constexpr (BlockPayload<KV> && SharedPrefixPayload<KV>) {
        return common - common % detail::block_tokens(*incoming.kv);
    } else if constexpr (BlockPayload<KV> && PrefixClonable<KV>) {
        const KV& kv = *incoming.kv;
        const std::size_t length = incoming.kv_length;
        return detail::served_prefix(kv, length, common) == n
                   ? n
                   : detail::served_multiple(kv, length, common, detail::block_tokens(kv));
    } else {
        return 0;
    }
}

/// The bytes of the blocks, of its first `n` tokens, that the cache may hold already and for which `f(use)` is true.
template <class KV, class F>
[[nodiscard]] std::size_t held_of_first(const Incoming<KV>& incoming, std::size_t n, F f) {
    std::size_t nbytes = 0;
    if (incoming.kv == nullptr)
        return nbytes;
    const auto count = [&](std::size_t from, bool add) {
        detail::for_each_block(
            *incoming.kv, from, [&](const BlockUse& use, std::size_t block_bytes, const auto&) {
                if (f(use))
                    nbytes = add ? more(nbytes, block_bytes) : less(nbytes, block_bytes);
            });
    };
    count(0, true);
    count(detail::shared_of_first(incoming, n), false);
    return nbytes;
}

/// Whether it fits if no entry is evicted that is more persistent than its tier. Throws what an allocation throws.
/// Complexity: O(tiers). Where the sums cannot tell, since blocks are shared with more persistent entries:
/// O(blocks of up to 4,096 others); if these do not suffice, it does not fit.
template <class R>
[[nodiscard]] bool fits_below(const Parts<R>& parts, const NewEntry<R>& entry,
                              const Incoming<typename R::KV>& incoming) {
    constexpr std::size_t most_asked = 4096;
    const Ledger<R>& ledger = parts.ledger;
    const std::size_t n = entry.tokens.size();
    const std::size_t held =
        detail::held_of_first(incoming, n, [](const BlockUse& use) { return use.count() > 0; });
    const std::size_t nbytes = less(detail::bytes_of_first(incoming, n), held);
    const std::size_t entries = entry.spot.entry(n) != nullptr ? 0 : 1;
    const std::size_t wanted = less(more(ledger.nbytes(), nbytes), parts.options.max_bytes);
    const std::size_t crowd = less(ledger.size() + entries, parts.options.max_entries);
    if (wanted == 0 && crowd == 0)
        return true;
    std::size_t below = 0, n_below = 0;
    for (std::size_t i = 0; i <= detail::tier_index(entry.tier); ++i) {
        const auto each = static_cast<typename R::TierEnum>(i);
        below = more(below, ledger.referenced(each));
        n_below += ledger.entries(each);
    }
    if (below < wanted || n_below < crowd)
        return false;
    const std::size_t above = less(ledger.referenced(), below);
    const std::size_t stays = more(more(above, ledger.pinned_at_most()), held);
    if (less(n_below, ledger.leases().at_most().entries) >= crowd &&
        less(ledger.nbytes(), stays) >= wanted)
        return true;
    WouldFree<R> evicted;
    if (held > 0)
        evicted.keep(*incoming.kv, detail::shared_of_first(incoming, n));
    std::size_t n_evicted = 0, n_asked = 0;
    parts.order.for_each([&](const R& record) {
        const bool is_below = record.tier <= entry.tier;
        if (is_below && !record.payload->leased() && !record.is_aside()) {
            evicted.add(record, false);
            ++n_evicted;
        }
        return is_below && ++n_asked < most_asked &&
               (evicted.nbytes() < wanted || n_evicted < crowd);
    });
    return evicted.nbytes() >= wanted && n_evicted >= crowd;
}

/// Whether the key needs to be stored at all.
template <class R>
[[nodiscard]] Decision<R> present_or_stored(const Parts<R>& parts,
                                            const NewEntry<R>& entry) noexcept {
    const std::size_t n = entry.tokens.size();
    R* own = entry.spot.entry(n);
    if (!parts.is_mlx_lm()) {
        R* present = entry.own_is_present ? own : nullptr;
        if (present == nullptr)
            present = detail::longer_serving<R>(entry.spot, n, entry.tier);
        if (present != nullptr)
            return {Outcome::present, n, present};
    }
    return {own != nullptr ? Outcome::replaced : Outcome::stored, n, nullptr};
}

/// Decides how much of the payload there is room for, if any entry may be evicted. Shortens the key of the entry
/// to that.
template <class R>
[[nodiscard]] Decision<R> decide_part(const Parts<R>& parts, NewEntry<R>& entry,
                                      const Incoming<typename R::KV>& incoming,
                                      std::vector<PayloadLease<typename R::KV>>& pins) {
    using KV = typename R::KV;
    const std::size_t n = incoming.length;
    const Decision<R> needed = detail::present_or_stored(parts, entry);
    if (needed.outcome == Outcome::present)
        return needed;
    if (parts.is_closed)
        return {Outcome::no_room, 0, nullptr};
    const std::size_t max_bytes = parts.options.max_bytes;
    const bool over = incoming.nbytes > max_bytes || max_bytes == 0;
    const bool can_part = TruncatablePayload<KV> && !parts.is_mlx_lm() &&
                          parts.options.max_partial > 0 && max_bytes > 0;
    if (over && !can_part)
        return {Outcome::too_large, 0, nullptr};

    const R* own = entry.spot.entry(n);
    const bool own_leased = own != nullptr && own->payload->leased();
    const std::size_t max_entries = parts.options.max_entries;
    if (parts.ledger.leases().at_most().entries >= max_entries &&
        less(parts.ledger.leases().staying().entries, own_leased ? 1 : 0) >= max_entries)
        return {Outcome::no_room, 0, nullptr};

    // The sum over the leased payloads never says less than is held; only where it refuses are the
    // blocks counted one by one.
    if (!over && incoming.nbytes <= less(max_bytes, parts.ledger.pinned_at_most()))
        return needed;
    const LeasedBlocks leased = parts.ledger.pinned(pins);
    const std::size_t room = less(max_bytes, leased.nbytes);
    const auto needs = [&](std::size_t first) {
        const std::size_t held = detail::held_of_first(
            incoming, first, [&](const BlockUse& use) { return leased.blocks.contains(&use); });
        return less(detail::bytes_of_first(incoming, first), held);
    };
    if (!over && needs(n) <= room)
        return needed;
    if (!can_part || n == 0)
        return {over ? Outcome::too_large : Outcome::no_room, 0, nullptr};

    const double share = parts.options.max_partial;
    const std::size_t most = over && share < 1
                                 ? static_cast<std::size_t>(static_cast<double>(max_bytes) * share)
                                 : max_bytes;
    const std::size_t step =
        incoming.kv != nullptr ? detail::block_tokens(*incoming.kv) : parts.block_tokens;
    const auto fits = [&](std::size_t first) {
        return needs(first) <= room && detail::bytes_of_first(incoming, first) <= most;
    };
    // Between the prefixes that can be shared more room is needed than at the next one.
    const std::size_t shared = detail::shared_of_first(incoming, n);
    const std::size_t enough = incoming.is_reservation && fits(shared) ? shared - shared % step : 0;
    std::size_t part = detail::most_that_fits(enough, (n - 1) / step * step + step, step, fits);
    if (!incoming.is_reservation)
        part = detail::served_multiple(*incoming.kv, n, part, step);
    if (part == 0) // where leases take room, some of it may fit later
        return {over && leased.nbytes == 0 ? Outcome::too_large : Outcome::no_room, 0, nullptr};
    if (own_leased && parts.ledger.leases().staying().entries >= max_entries)
        return {Outcome::no_room, 0, nullptr}; // the part is another key
    entry.tokens = entry.tokens.first(part);
    entry.spot = parts.index.locate(entry.model, entry.tokens);
    return detail::present_or_stored(parts, entry);
}

/// Decides what becomes of an incoming payload. Shortens the key of the entry where only a part of it fits. `pins`:
/// see Ledger::pinned.
template <class R>
[[nodiscard]] Decision<R> decide(const Parts<R>& parts, NewEntry<R>& entry,
                                 const Incoming<typename R::KV>& incoming,
                                 std::vector<PayloadLease<typename R::KV>>& pins) {
    const Decision<R> decision = detail::decide_part(parts, entry, incoming, pins);
    const bool is_part = decision.tokens > 0 && decision.tokens < incoming.length;
    if ((is_part && entry.whole_only) || (entry.options.spare_upper_tiers && decision.stores() &&
                                          !detail::fits_below(parts, entry, incoming)))
        return {Outcome::no_room, 0, nullptr};
    return decision;
}

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
