// SPDX-License-Identifier: MIT
// ReuseOrder: a victim policy that learns how soon state is used again.
#ifndef PROMPTKV_REUSE_ORDER_HPP
#define PROMPTKV_REUSE_ORDER_HPP

#include <promptkv/detail/candidates.hpp>
#include <promptkv/detail/lru_watch.hpp>
#include <promptkv/detail/observed_edge.hpp>
#include <promptkv/detail/reuse_lesson.hpp>
#include <promptkv/detail/saturating.hpp>
#include <promptkv/lru_prompt_cache.hpp>
#include <promptkv/tier.hpp>
#include <promptkv/version.hpp>
#include <promptkv/victim_policy.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

namespace promptkv::inline PROMPTKV_ABI {

/// Evicts the entry with the fewest expected hits per byte, learned from the requests so far.
///
/// What is observed are edges: runs of tokens without a branch, or, for payloads that serve their whole
/// key only, entries. They are observed after they were evicted, too, while their keys are remembered.
/// An edge is of a kind: how often it was used, the requests between its last two uses, how many
/// siblings it had at first, its length, its tier, and a hint of the caller's. The victim has the least
/// worth among the next `sample` candidates of a sweep. What was just stored can be the victim, so an
/// insert may keep a part only, or nothing (`declined`).
///
/// No clock and no random numbers: equal calls have equal victims (in caches that both have a removal
/// listener, or both none: a key that waits to be reported still divides an edge).
/// Complexity: O(sample) per victim, and a lesson after at most 1,365 uses, which takes some 0.3 ms.
struct ReuseOrder {
    struct Options {
        std::uint32_t sample = 32; ///< candidates looked at for each victim
        /// Keeps the curve of LRU's hit ratios: see BasicPromptCache::hit_ratio_curve.
        bool curve = false;
        /// The budgets of the curve, in bytes; none: a quarter, half, 1, 2 and 4 times `max_bytes`. Must be given
        /// where there is no `max_bytes`, as where an engine's pool is the limit.
        std::vector<std::size_t> curve_bytes{};
        /// Falls back to LRU for a while where it does clearly worse than LRU. Has no effect without `max_bytes`.
        bool guard = false;
    };

    static constexpr std::size_t remembered = 4;
    static constexpr bool declines = true;

    using NodeHook = detail::ObservedEdge;

    template <class R>
    using Hook = detail::CandidateHook<R>;

    template <class R, class TierEnum>
    class Order {
    public:
        Order(const Options& options, Rules rules) : options_(options), recency_({}, rules) {
            if (options.curve || options.guard)
                watch_.emplace(options.guard, options.curve_bytes);
        }

        // entries ////////////////////////////////////////////////////////////

        /// Makes sure that there is memory for so many entries.
        void reserve(std::size_t entries) { candidates_.reserve(entries); }
        void enter(R& record) noexcept {
            recency_.enter(record);
            nominate(record, record.is_leaf());
        }
        void used(R& record) noexcept {
            recency_.used(record);
            record.node->hook.is_obsolete = false;
            record.hook.young = 0;
            nominate(record, record.is_leaf());
        }
        /// A longer match used a part of the entry: it is as young as one that was used now. Nothing is learned
        /// of it, since no request ran over its edge whole.
        void used_in_part(R& record) noexcept {
            record.hook.young = now_;
            nominate(record, record.is_leaf());
        }
        void demote(R& record) noexcept {
            recency_.demote(record);
            record.node->hook.is_obsolete = true;
            nominate(record, record.is_leaf());
            candidates_.bring_forward(record);
        }
        void leave(R& record) noexcept {
            recency_.leave(record);
            if (record.node != nullptr) // else it was replaced: the node has a new entry
                record.node->hook.is_obsolete = false;
            nominate(record, false);
        }
        void set_aside(R& record) noexcept {
            recency_.set_aside(record);
            nominate(record, false);
        }
        void put_back(R& record) noexcept {
            recency_.put_back(record);
            nominate(record, record.is_leaf());
            if (record.node->hook.is_obsolete)
                candidates_.bring_forward(record);
        }
        /// An entry became, or ceases to be, one whose state no other entry continues.
        void resident_leaf(R& record, bool is_leaf) noexcept { nominate(record, is_leaf); }

        /// The least worth of the next candidates; where none of them is of the first `tiers` tiers, the
        /// entry of these that was used longest ago.
        [[nodiscard]] R* victim(std::size_t tiers = tier_traits<TierEnum>::count) noexcept {
            const bool by_recency = watch_ && watch_->says_recency();
            const auto is_spared = [&](const auto& each) {
                return tiers < tier_traits<TierEnum>::count &&
                       detail::tier_index(each.record->tier) >= tiers;
            };
            const auto* found =
                candidates_.least((std::max)(1U, options_.sample), now_, [&](const auto& each) {
                    return is_spared(each) ? std::numeric_limits<float>::infinity()
                           : by_recency    ? 0
                                        : lesson_.worth(each.level, now_ - each.last) + each.wish;
                });
            // Null: what is left is continued by entries that are set aside.
            if (found == nullptr || is_spared(*found))
                return recency_.victim(tiers);
            const auto age = static_cast<float>(now_ - found->last);
            victim_age_ += (age - victim_age_) / 256;
            return found->record;
        }

        template <class F>
        void for_each(F f) const {
            recency_.for_each(f);
        }
        [[nodiscard]] std::size_t nbytes() const noexcept {
            return lesson_.nbytes() + candidates_.nbytes() + (watch_ ? watch_->nbytes() : 0);
        }
        [[nodiscard]] bool check_invariants() const noexcept {
            std::size_t leaves = 0;
            recency_.for_each([&](const R& record) {
                leaves += !record.is_aside() && record.is_leaf() ? 1U : 0U;
            });
            return recency_.check_invariants() && candidates_.check_invariants() &&
                   leaves == candidates_.size();
        }

        // edges //////////////////////////////////////////////////////////////

        using Node = typename R::Node;
        using Use = detail::ObservedEdge::Use;

        void next_request(std::uint64_t number, std::size_t prompt_tokens) noexcept {
            now_ = static_cast<std::uint32_t>(number);
            prompts_[now_ % prompts_.size()] = {now_, prompt_tokens};
            lesson_.learn(now_);
            thin_out();
        }
        /// By how many tokens a key is longer than what a request had so far; nothing: unknown.
        [[nodiscard]] std::optional<std::size_t> extension(std::uint32_t request,
                                                           std::size_t tokens) const noexcept {
            const Prompt& prompt = prompts_[request % prompts_.size()];
            if (prompt.request != request)
                return std::nullopt;
            return detail::less(tokens, prompt.tokens);
        }
        /// A request stores a key, or would have.
        void extend_request(std::uint32_t request, std::size_t tokens) noexcept {
            Prompt& prompt = prompts_[request % prompts_.size()];
            if (prompt.request == request)
                prompt.tokens = (std::max)(prompt.tokens, tokens);
        }
        /// What compares with LRU; null: nothing does.
        [[nodiscard]] detail::LruWatch* watch() noexcept { return watch_ ? &*watch_ : nullptr; }
        [[nodiscard]] std::vector<HitRatioPoint> hit_ratio_curve() const {
            return watch_ && options_.curve ? watch_->curve() : std::vector<HitRatioPoint>();
        }
        [[nodiscard]] std::uint32_t now() const noexcept { return now_; }

        /// A request ran over the whole edge, for the first time since `last`.
        void used(Node& node, const Use& use) noexcept {
            NodeHook& edge = node.hook;
            lesson_.end(edge.is_new_part ? begin(edge) : edge.interval, use.request);
            edge.use_again(use);
            observe(node);
        }
        /// The first part of an edge that was split is an edge of its own from now on, not used again yet.
        void separated(Node& node) noexcept {
            node.hook.is_new_part = false;
            observe(node);
        }
        /// What the caller says of the request that used an edge last.
        void hint(Node& node, std::uint32_t hint) noexcept {
            node.hook.set_hint(hint);
            lesson_.amend(node.hook.interval, node.hook.features);
            refresh_candidate(node);
        }
        /// An edge is new, below one that has `children` with it; 0: at the root.
        void born(Node& node, std::size_t children, const Use& use) noexcept {
            node.hook.begin(children, use);
            node.hook.key = static_cast<std::uint8_t>((births_++ * 2654435761U) >> 24U);
            observe(node);
        }

    private:
        void refresh_candidate(const Node& node) noexcept {
            const R* record = node.value;
            if (record != nullptr && record->hook.is_candidate())
                candidates_.refresh(*record, lesson_.level(node.hook.features));
        }
        [[nodiscard]] std::uint32_t begin(const NodeHook& edge) noexcept {
            return (edge.key & thin_) == 0 ? lesson_.begin(edge.last, edge.features) : 0;
        }
        /// An interval of the edge begins. Of the busiest edges one use in 16 is enough.
        void observe(Node& node) noexcept {
            const bool is_busy = node.hook.uses > 32 && node.hook.uses % 16 != 0;
            node.hook.interval = is_busy ? 0 : begin(node.hook);
            refresh_candidate(node);
        }

        /// The intervals are to span some four times the age at which victims go: else only a part of the
        /// edges is observed.
        void thin_out() noexcept {
            if (now_ % 1024 != 0)
                return;
            const auto span = static_cast<float>(lesson_.span(now_));
            if (span > 0 && span < 4 * victim_age_ && thin_ < 0xff)
                thin_ = thin_ * 2 + 1;
            else if (span > 16 * victim_age_)
                thin_ /= 2;
        }

        void nominate(R& record, bool is_candidate) noexcept {
            if (!is_candidate) {
                candidates_.remove(record);
                return;
            }
            NodeHook& edge = record.node->hook;
            edge.is_tail = false; // an entry ends here
            edge.uses = (std::max<std::uint16_t>)(edge.uses, 1);
            candidates_.set(record, lesson_.level(edge.features), wish_of(record));
        }
        /// As log2: a tier counts for twice the one below, an obsolete entry for nothing.
        [[nodiscard]] float wish_of(const R& record) const noexcept {
            return (record.node->hook.is_obsolete ? candidates_.obsolete_wish : 0.0F) +
                   static_cast<float>(detail::tier_index(record.tier));
        }

        struct Prompt {
            std::uint32_t request = 0;
            std::size_t tokens = 0;
        };

        Options options_;
        TieredLRU::Order<R, TierEnum> recency_; // of for_each, and where a sweep finds none
        detail::ReuseLesson lesson_;
        std::optional<detail::LruWatch> watch_;
        std::array<Prompt, 256> prompts_{}; // of the last requests
        detail::Candidates<R> candidates_;
        std::uint32_t now_ = 0;
        std::uint32_t births_ = 0;
        std::uint32_t thin_ = 0; // edges with a bit of this in their key are not observed
        float victim_age_ = 0;
    };
};

/// The prompt cache whose victim is what promises the fewest hits for its room.
template <class KV, class Model = std::string, class Token = std::int32_t, class TierEnum = Tier>
using PromptCache = BasicPromptCache<KV, Model, Token, TierEnum, ReuseOrder>;

} // namespace promptkv::inline PROMPTKV_ABI

#endif
