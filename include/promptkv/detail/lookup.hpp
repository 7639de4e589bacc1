// SPDX-License-Identifier: MIT
// Lookup: which entry a prompt can use, how much of it, and why not. Pure functions over the index.
#ifndef PROMPTKV_DETAIL_LOOKUP_HPP
#define PROMPTKV_DETAIL_LOOKUP_HPP

#include <promptkv/cache_types.hpp>
#include <promptkv/detail/index.hpp>
#include <promptkv/detail/saturating.hpp>
#include <promptkv/kv_traits.hpp>
#include <promptkv/version.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// Which entries a lookup can use.
struct Eligibility {
    bool parts;  // a part of an entry, and not only the whole
    bool longer; // entries that continue or branch off beyond what is shared
    bool leased;
};
template <class KV>
inline constexpr Eligibility can_lease{true, PrefixReusable<KV>, true};
template <class KV>
inline constexpr Eligibility can_take{TruncatablePayload<KV>, false, false};
/// What a fetch can use; a lease, where the payload cannot be copied.
template <class KV>
inline constexpr Eligibility can_fetch =
    ClonablePayload<KV> ? Eligibility{PrefixClonable<KV>, PrefixClonable<KV>, true} : can_lease<KV>;

/// The choice of a lookup.
template <class R>
struct Choice {
    Spot<R> spot;        // of the prompt
    R* record = nullptr; // null: a miss
    std::size_t reused = 0;
    Match match = Match::none;
    MissReason miss = MissReason::nothing_shared;
};

/// Makes what the caller is told of a choice.
struct Answer {
    /// `number`: the lookup's; 0: nothing was counted.
    template <class R>
    [[nodiscard]] static Lookup<typename R::Token, typename R::TierEnum>
    of(const Choice<R>& choice, std::uint64_t number) noexcept {
        Lookup<typename R::Token, typename R::TierEnum> answer;
        answer.reused_ = choice.reused;
        answer.matched_ = choice.spot.common();
        answer.request_ = number;
        answer.match_ = choice.match;
        answer.miss_ = choice.miss;
        if (choice.record != nullptr) {
            answer.entry_tokens_ = choice.record->length();
            answer.tier_ = choice.record->tier;
        }
        return answer;
    }
};

/// How many of the first `n` tokens of an entry can be reused: a multiple of `align`, 0 included, where
/// the payload serves one, else what it serves.
template <class R>
[[nodiscard]] std::size_t reusable(const R& record, std::size_t n, std::size_t align,
                                   bool parts) noexcept {
    const std::size_t length = record.length();
    if (const std::size_t aligned =
            parts ? detail::served_multiple(record.kv(), length, n, align) : 0)
        return aligned;
    const std::size_t served = detail::served_prefix(record.kv(), length, n);
    if (!parts)
        return served == length ? served : 0;
    // No multiple but 0 is served. Of a payload that can be cut anywhere, less than `align` tokens are shared.
    using KV = typename R::KV;
    const bool can_end_at_0 = served > 1 || PrefixClonable<KV> || TruncatablePayload<KV>;
    const bool serves_any = served > 0 && can_end_at_0 && served < align && record.serves_parts() &&
                            detail::served_prefix(record.kv(), length, served - 1) == served - 1;
    return serves_any ? 0 : served;
}

/// Chooses the entry that gives the prompt most tokens to reuse.
///
/// From the deepest node that matches up, each node on the path offers its own entry, then longer ones,
/// nearest first: at most 16 of these in all, and at each node only until one serves all that is
/// shared. Behind the nearest one of a node the search looks at 64 nodes in all, branching points among them:
/// where more lie between, an entry that serves more may be missed. The longest reuse wins; at equal reuse
/// an entry that needs no cut, then the one asked first.
/// Complexity: O(matched tokens), no allocation.
template <class R>
[[nodiscard]] Choice<R> choose(const Spot<R>& spot, std::size_t n_tokens, FetchOptions options,
                               Eligibility can) noexcept {
    using Node = typename R::Node;
    options.align = std::max<std::size_t>(options.align, 1);
    const std::size_t limit = less(n_tokens, options.min_remaining);
    const std::size_t least = std::max<std::size_t>(options.min_reuse, 1);
    Choice<R> best{spot};
    MissReason miss = spot.common() > 0 ? MissReason::not_cuttable : MissReason::nothing_shared;
    const auto note = [&](MissReason reason) { miss = (std::max)(miss, reason); };
    bool best_is_whole = false;
    bool met_entry = false;
    std::size_t without_limit = 0; // what could be reused but for `min_remaining`

    // Returns whether the entry serves all that can be reused here.
    const auto ask = [&](R& record, std::size_t shared, Match match) {
        met_entry = true;
        if (record.payload->leased() && !can.leased) {
            note(MissReason::leased);
            return false;
        }
        const std::size_t wanted = (std::min)(shared, limit);
        const std::size_t reused = detail::reusable(record, wanted, options.align, can.parts);
        if (reused < least) {
            if (reused > 0)
                note(MissReason::below_min_reuse);
            if (shared > limit)
                without_limit = (std::max)(
                    without_limit, detail::reusable(record, shared, options.align, can.parts));
            return false;
        }
        const bool is_whole = reused == record.length();
        if (reused > best.reused || (reused == best.reused && is_whole && !best_is_whole)) {
            best.record = &record;
            best.reused = reused;
            best.match = match;
            best_is_whole = is_whole;
        }
        return reused == wanted;
    };

    std::array<const R*, max_longer> asked; // the first n_asked of them
    std::size_t n_asked = 0;
    const auto ask_longer = [&](R& record, std::size_t shared) {
        const auto end = asked.begin() + static_cast<std::ptrdiff_t>(n_asked);
        if (std::find(asked.begin(), end, &record) != end)
            return true;
        if (n_asked == max_longer)
            return false;
        asked[n_asked++] = &record;
        return !ask(record, shared, Match::longer);
    };

    std::uint32_t steps = Index<R>::Tree::max_steps; // beyond all nodes of the path together
    Node* inside = spot.place.inside;
    if (inside != nullptr && can.longer && spot.common() > 0)
        detail::for_each_longer(spot, steps,
                                [&](R& record) { return ask_longer(record, spot.common()); });
    const Node* visited = inside; // what lies beyond it was asked
    // The root shares nothing.
    for (Node* node = spot.place.node; node != nullptr && node->depth > 0;
         visited = node, node = node->parent) {
        const std::size_t shared = node->depth;
        const std::size_t wanted = (std::min)(shared, limit);
        if (best.reused > shared || (best_is_whole && best.reused >= wanted))
            break;
        if (R* own = node->value; own != nullptr && own->is_entry)
            ask(*own, shared, shared == n_tokens ? Match::exact : Match::shorter);
        const bool wants_reason = limit == 0;
        if ((best.reused < wanted || wants_reason) && can.longer && n_asked < max_longer)
            Index<R>::Tree::for_each_beyond(
                node, steps, [&](Node* longer) { return ask_longer(*longer->value, shared); },
                visited);
    }
    const bool may_be_gone = miss == MissReason::not_cuttable && !met_entry;
    if (may_be_gone && spot.home->tree.remembered() > 0 && !detail::any_sharing(spot).entry)
        miss = MissReason::evicted;
    if (without_limit > 0)
        note(without_limit >= least ? MissReason::needs_last_token : MissReason::below_min_reuse);
    best.miss = best.record != nullptr ? MissReason::none : miss;
    return best;
}

/// An entry, of `tier` or a more persistent one, that continues the key of `n` tokens at the spot and
/// serves it. Null: none was found.
template <class R>
[[nodiscard]] R* longer_serving(const Spot<R>& spot, std::size_t n,
                                typename R::TierEnum tier) noexcept {
    R* found = nullptr;
    int asked = 0;
    if (PrefixReusable<typename R::KV> && spot.home != nullptr && spot.common() == n) {
        std::uint32_t steps = Index<R>::Tree::max_steps;
        detail::for_each_longer(spot, steps, [&](R& record) {
            if (record.tier >= tier && record.serves(n))
                found = &record;
            return found == nullptr && ++asked < max_longer;
        });
    }
    return found;
}

/// What a person wants to know of a fetch of the prompt. `index` is for the other models.
template <class R>
[[nodiscard]] Explanation<typename R::Token, typename R::TierEnum>
explain(const Index<R>& index, typename R::ModelView model, typename R::Tokens tokens,
        FetchOptions options) {
    constexpr int max_models = 1024;
    constexpr Eligibility can = can_fetch<typename R::KV>;
    const Choice<R> choice =
        detail::choose<R>(index.locate(model, tokens), tokens.size(), options, can);
    Explanation<typename R::Token, typename R::TierEnum> why;
    why.reason = choice.miss;
    why.match = choice.match;
    why.reused = choice.reused;
    why.requested = tokens.size();
    why.matched = choice.spot.common();
    if (why.reason == MissReason::nothing_shared) {
        int asked = 0;
        index.for_each_home([&](Partition<R>& home) {
            if (&home == choice.spot.home || asked++ >= max_models)
                return;
            if (detail::choose<R>(Index<R>::locate(home, tokens), tokens.size(), options, can)
                    .record)
                why.reason = MissReason::other_model;
        });
    }
    const R* nearest = choice.record;
    if (nearest == nullptr) {
        const auto sharing = detail::any_sharing(choice.spot);
        nearest = sharing.entry;
        const R* remembered =
            sharing.tokens < why.matched ? detail::any_remembered(choice.spot) : nullptr;
        if (remembered != nullptr) {
            nearest = remembered;
            why.evicted_bytes_ago = index.evicted() - nearest->evicted_at;
        }
    }
    if (nearest == nullptr)
        return why;
    why.nearest_tokens = nearest->length();
    why.nearest_tier = nearest->tier;
    const std::vector<typename R::Token> key = nearest->node->key();
    const auto parts = std::mismatch(key.begin(), key.end(), tokens.begin(), tokens.end());
    if (parts.first != key.end() && parts.second != tokens.end())
        why.differs.emplace(*parts.second, *parts.first);
    return why;
}

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
