// SPDX-License-Identifier: MIT
// CacheLookup: which entry a prompt can use, how much of it, and why none.
#ifndef PROMPTKV_DETAIL_CACHE_LOOKUP_HPP
#define PROMPTKV_DETAIL_CACHE_LOOKUP_HPP

#include <promptkv/cache_types.hpp>
#include <promptkv/detail/cache_eviction.hpp>
#include <promptkv/kv_traits.hpp>
#include <promptkv/version.hpp>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// The lookups of a cache. They choose; the answer is the caller's to make.
template <class KV, class Model, class Token, class TierEnum>
class CacheLookup : public CacheEviction<KV, Model, Token, TierEnum> {
    using Base = CacheEviction<KV, Model, Token, TierEnum>;

protected:
    using Base::anchors_;
    using Base::find_space;
    using Base::options_;
    using Base::order_;
    using Base::spaces_;
    using Base::stats_;
    using Base::touch_anchor;
    using typename Base::Handle;
    using typename Base::Space;
    using typename Base::Trie;

public:
    using Base::Base;
    using typename Base::ModelView;
    using typename Base::Tokens;

    /// What a lookup came to; false on a miss.
    struct Found {
        Handle handle;
        Space* space = nullptr; // of the model, on a miss too
        std::size_t reused = 0;
        Match match = Match::none;
        bool whole = true; // no cut is needed
        MissReason miss = MissReason::nothing_shared;
        typename Trie::Place place{}; // of the prompt

        [[nodiscard]] explicit operator bool() const noexcept { return match != Match::none; }
    };

    /// Which candidates a lookup can use.
    struct Use {
        bool parts;  // a part of an entry, not the whole alone
        bool longer; // entries that go on beyond what is shared
        bool leased;
    };
    static constexpr Use can_clone{PrefixClonable<KV>, PrefixClonable<KV>, true};
    static constexpr Use can_lease{true, true, true};
    static constexpr Use can_take{TruncatablePayload<KV>, false, false};

    [[nodiscard]] Found choose(ModelView model, Tokens tokens, FetchOptions options,
                               Use use) const {
        PROMPTKV_ASSERT(options.align >= 1);
        Space* space = find_space(model);
        return space != nullptr ? choose(*space, tokens, options, use) : Found{};
    }

    [[nodiscard]] Explanation<Token, TierEnum> explain(ModelView model, Tokens tokens,
                                                       FetchOptions options, Use use) const {
        const Found found = choose(model, tokens, options, use);
        Explanation<Token, TierEnum> why;
        why.reason = reason_of(found, tokens, options, use);
        why.match = found.match;
        why.reused = found.reused;
        why.requested = tokens.size();
        why.common_prefix = found.place.common;
        if (why.common_prefix == 0)
            return why;
        const Trie& trie = found.space->trie;
        const typename Trie::ConstHandle nearest =
            found ? typename Trie::ConstHandle(found.handle) : trie.nearest(found.place);
        why.nearest_length = trie.length(nearest);
        why.nearest_tier = this->tier(nearest);
        why.nearest_is_anchor = nearest->payload == nullptr;
        const std::vector<Token> key = trie.key(nearest);
        if (why.common_prefix < tokens.size() && why.common_prefix < key.size())
            why.differs.emplace(tokens[why.common_prefix], key[why.common_prefix]);
        return why;
    }

    /// A copy of the first `n` tokens, which are the whole where there is no `clone_prefix`.
    [[nodiscard]] static KV clone(const KV& kv, [[maybe_unused]] std::size_t n) {
        if constexpr (PrefixClonable<KV>) {
            return kv_traits<KV>::clone_prefix(kv, n);
        } else {
            return KV(kv);
        }
    }

    /// Makes an exact or shorter match the most recently used, and the anchors that the reuse runs over.
    void refresh(const Found& found) noexcept {
        found.handle->payload->used = true;
        if (!options_.refresh_on_fetch)
            return;
        Trie& trie = found.space->trie;
        if (found.match != Match::longer) {
            order_.touch(found.handle->place);
            found.handle->payload->superseded = false;
        }
        if (anchors_.empty())
            return;
        for (auto prefix = trie.longest_prefix(found.place); prefix;
             prefix = trie.longest_prefix(prefix)) {
            if (prefix->payload != nullptr || trie.length(prefix) > found.reused)
                continue;
            touch_anchor(*prefix, this->tier(prefix));
        }
    }

    void count_lookup(const Found& found, Tokens tokens, FetchOptions options, Use use) noexcept {
        ++stats_.lookups;
        if (!found)
            ++missed(reason_of(found, tokens, options, use));
        stats_.tokens_requested += tokens.size();
        stats_.tokens_reused += found.reused;
        if (found.match == Match::exact)
            ++stats_.hits_exact;
        if (found.match == Match::shorter)
            ++stats_.hits_shorter;
        if (found.match == Match::longer)
            ++stats_.hits_longer;
    }

private:
    static constexpr int max_asked = 16;

    [[nodiscard]] Found choose(Space& space, Tokens tokens, FetchOptions options, Use use) const {
        const auto place = space.trie.locate(tokens);
        Found best;
        best.space = &space;
        best.place = place;
        if (options.min_remaining > tokens.size())
            return best;
        const std::size_t limit = tokens.size() - options.min_remaining;
        const std::size_t least = options.min_reuse > 0 ? options.min_reuse : 1;
        MissReason miss = MissReason::nothing_shared;
        const auto note = [&](MissReason reason) { miss = reason > miss ? reason : miss; };
        int asked = 0;
        const auto ask = [&](typename Trie::ConstHandle handle, std::size_t shared, Match match) {
            if (!handle || handle->payload == nullptr)
                return;
            if (!use.leased && handle->payload->leased())
                return note(MissReason::leased);
            ++asked;
            const std::size_t length = space.trie.length(handle);
            const std::size_t reused =
                reusable(*handle->payload->kv, length, shared < limit ? shared : limit,
                         options.align, use.parts);
            const bool whole = reused == length;
            if (reused < least)
                return note(reused > 0   ? MissReason::below_min_reuse
                            : shared > 0 ? MissReason::not_cuttable
                                         : MissReason::nothing_shared);
            if (reused < best.reused || (reused == best.reused && (best.whole || !whole)))
                return;
            best = Found{space.trie.writable(handle), &space, reused, match, whole, miss, place};
        };
        typename Trie::ConstHandle last;
        space.trie.for_each_offer(place, [&](const typename Trie::Offer& offer) {
            const std::size_t shared = offer.common_prefix;
            if (best.reused > shared || (best && best.reused == shared && best.whole))
                return false;
            ask(offer.own, shared, shared == tokens.size() ? Match::exact : Match::shorter);
            if (use.longer && offer.longer != last && asked < max_asked) {
                last = offer.longer;
                ask(offer.longer, shared, Match::longer);
            }
            return asked < max_asked;
        });
        if (!best && place.common > 0 && miss == MissReason::nothing_shared) {
            const auto nearest = space.trie.nearest(place); // hidden, or an anchor
            PROMPTKV_ASSERT(nearest);
            note(nearest->payload != nullptr ? MissReason::not_cuttable : MissReason::only_anchor);
        }
        best.miss = miss;
        return best;
    }

    /// Why a lookup missed. Where nothing is shared, at most `max_asked` other models are asked.
    [[nodiscard]] MissReason reason_of(const Found& found, Tokens tokens, FetchOptions options,
                                       Use use) const noexcept {
        if (found)
            return MissReason::none;
        if (found.miss != MissReason::nothing_shared)
            return found.miss;
        int asked = 0;
        for (Space* each : spaces_) {
            if (each == found.space)
                continue;
            if (asked++ == max_asked)
                break;
            if (choose(*each, tokens, options, use))
                return MissReason::other_model;
        }
        return MissReason::nothing_shared;
    }

    [[nodiscard]] std::uint64_t& missed(MissReason reason) noexcept {
        switch (reason) {
        case MissReason::other_model:
            return stats_.missed_other_model;
        case MissReason::only_anchor:
            return stats_.missed_only_anchor;
        case MissReason::not_cuttable:
            return stats_.missed_not_cuttable;
        case MissReason::leased:
            return stats_.missed_leased;
        case MissReason::below_min_reuse:
            return stats_.missed_below_min_reuse;
        default:
            return stats_.missed_nothing_shared;
        }
    }

    /// How many of the first `n` tokens can be reused, a multiple of `align` where the payload allows.
    [[nodiscard]] static std::size_t reusable(const KV& kv, std::size_t length, std::size_t n,
                                              std::size_t align, bool parts) noexcept {
        if (!parts)
            return n >= length ? length : 0;
        const std::size_t reused = served_prefix(kv, length, n);
        const std::size_t aligned = reused - reused % align;
        return aligned == reused || served_prefix(kv, length, aligned) == aligned ? aligned
                                                                                  : reused;
    }
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
