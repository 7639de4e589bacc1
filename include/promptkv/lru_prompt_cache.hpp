// SPDX-License-Identifier: MIT
// LRUPromptCache: the KV state of prompts, kept between requests under a byte budget.
#ifndef PROMPTKV_LRU_PROMPT_CACHE_HPP
#define PROMPTKV_LRU_PROMPT_CACHE_HPP

#include <promptkv/cache_order.hpp>
#include <promptkv/cache_types.hpp>
#include <promptkv/detail/cache_core.hpp>
#include <promptkv/kv_traits.hpp>
#include <promptkv/stats.hpp>
#include <promptkv/tier.hpp>
#include <promptkv/version.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>

namespace promptkv::inline PROMPTKV_ABI {

template <class KV, class Model, class Token, class TierEnum>
class ConcurrentPromptCache;

/// Keeps payloads (KV state) under the token sequences that they were computed from, and hands back
/// the part that a new prompt shares.
///
///     promptkv::LRUPromptCache<MyKV> cache({.max_bytes = std::size_t{8} << 30});
///     auto hit = cache.fetch_nearest("llama-3.2-1b", prompt);      // hit.kv: std::optional<MyKV>
///     MyKV kv = hit ? std::move(*hit.kv) : engine.empty();
///     engine.prefill(kv, hit.remaining);                           // only what is new
///     cache.insert("llama-3.2-1b", tokens_in_kv, std::move(kv), promptkv::Tier::assistant);
///
/// An *entry* is a key with a payload. An *anchor* is a key that is remembered with its tier and
/// recency, but needs no payload, because a longer entry serves it and can be cut down to it.
///
/// `KV`: see kv_traits. `Model`: the namespace of a key, hashable and equality-comparable; a
/// std::string is looked up by std::string_view. Keys of different models never match. `Token`: an
/// integral type. `TierEnum`: see tier_traits.
///
/// Invariants: `nbytes() <= max_bytes` and `size() <= max_entries` after every call and during it,
/// unless a limit was lowered below what is leased. Only equal tokens match, never only their hashes.
///
/// Thread safety: const calls together are fine; anything else needs the caller's lock. A Lease may
/// end on any thread without it.
/// Exceptions: strong guarantee, but for `make` and `truncate` as said there. Once a payload has been
/// cut or dropped nothing throws.
/// Callers' code: the listener, `make`, `pressure` and the destructors of payloads run when the cache is
/// whole, and may call it. A payload's other functions, and what `for_each` calls, must not.
/// Overhead: at most 300 bytes an entry and the tokens of its key that it shares with no other.
/// Source: `LRUPromptCache` of mlx-lm (pull request 1019); each function says where it differs.
template <class KV, class Model = std::string, class Token = std::int32_t, class TierEnum = Tier>
class LRUPromptCache {
    static_assert(SizedPayload<KV>,
                  "a payload needs nbytes: a member, or a specialisation of promptkv::kv_traits");
    static_assert(std::is_nothrow_move_constructible_v<KV>,
                  "a payload must be moved without throwing");
    static_assert(std::is_nothrow_destructible_v<KV>, "a payload's destructor must not throw");
    static_assert(std::is_nothrow_destructible_v<Model>, "a model's destructor must not throw");
    static_assert(std::integral<Token>, "Token must be an integral type");
    static_assert(TierEnumeration<TierEnum>,
                  "tier_traits<TierEnum>::count must say how many tiers there are");

    using Core = detail::CacheCore<KV, Model, Token, TierEnum>;
    static constexpr auto as_fetched = ClonablePayload<KV> ? Core::can_clone : Core::can_lease;
    using ModelView = typename Core::ModelView;

public:
    using Options = CacheOptions;
    using Limits = CacheLimits;
    using FetchOptions = promptkv::FetchOptions;
    using Inserted = promptkv::Inserted;
    using Stats = promptkv::Stats;
    using TierStats = promptkv::TierStats;
    using Explanation = promptkv::Explanation<Token, TierEnum>;
    using Tokens = Prompt<Token>;

    /// The answer to a fetch or a take. True where something is reused.
    struct Fetched {
        std::optional<KV> kv;             ///< holds exactly `reused` tokens; empty on a miss
        std::size_t reused = 0;           ///< tokens of the prompt that `kv` holds
        std::span<const Token> remaining; ///< the other tokens, a part of the caller's
        Match match = Match::none;
        TierEnum tier{}; ///< of the entry

        [[nodiscard]] explicit operator bool() const noexcept { return match != Match::none; }
    };

    /// A payload that is read where it lies. True where something is reused.
    ///
    /// While it lives its entry is no victim (but of a limit lowered below what is leased). If the
    /// entry is erased, replaced or absorbed meanwhile, the payload lives until the lease ends, and its
    /// bytes stay in `nbytes()`. A lease may outlive the cache, and end on any thread.
    class Lease {
    public:
        std::size_t reused = 0;           ///< tokens of the prompt that `kv()` may be used for
        std::span<const Token> remaining; ///< the other tokens, a part of the caller's
        Match match = Match::none;
        TierEnum tier{}; ///< of the entry

        Lease() = default;
        Lease(Lease&& other) noexcept { swap(other); }
        Lease& operator=(Lease&& other) noexcept {
            Lease(std::move(other)).swap(*this);
            return *this;
        }
        ~Lease() {
            if (stored_ != nullptr)
                stored_->end_lease(*account_);
        }

        /// The payload, which may hold more than `reused` tokens. Requires: *this is true.
        [[nodiscard]] const KV& kv() const noexcept {
            PROMPTKV_ASSERT(stored_ != nullptr);
            return *stored_->kv;
        }
        [[nodiscard]] explicit operator bool() const noexcept { return stored_ != nullptr; }

    private:
        friend LRUPromptCache;
        void swap(Lease& other) noexcept {
            std::swap(reused, other.reused);
            std::swap(remaining, other.remaining);
            std::swap(match, other.match);
            std::swap(tier, other.tier);
            std::swap(stored_, other.stored_);
            std::swap(account_, other.account_);
        }
        typename Core::Payload* stored_ = nullptr;
        detail::Account::Owner account_;
    };

    /// What a fetch would reuse. True where something is.
    struct Probe {
        std::size_t reused = 0;
        Match match = Match::none;
        TierEnum tier{};

        [[nodiscard]] explicit operator bool() const noexcept { return match != Match::none; }
    };

    /// An entry as `for_each` shows it. The tokens are valid during the call.
    struct EntryView {
        const Model& model;
        std::span<const Token> tokens;
        TierEnum tier;
        std::size_t nbytes;
        const KV& kv;
    };

    using Removal = typename Core::Removal;

    LRUPromptCache() : LRUPromptCache(Options{}) {}
    explicit LRUPromptCache(Options options) : core_(std::make_unique<Core>(options)) {}

    // Movable; leases survive. What was moved from is empty: it may be asked for its size and bytes,
    // assigned to and destroyed, nothing else.

    // lookup /////////////////////////////////////////////////////////////////

    /// Copies the longest part of an entry that `tokens` can use.
    ///
    /// From the deepest point that matches up, each node on the path offers its own entry and the
    /// nearest longer one; at most 16 are asked. The longest reuse wins, at equal reuse the one that
    /// needs no cut, then the one asked first.
    /// Requires:   options.align >= 1.
    /// Effects:    an exact or shorter match becomes the most recently used of its tier, and so do the
    ///             anchors that the reuse runs over (unless refresh_on_fetch is off).
    /// Returns:    a miss where nothing, or less than min_reuse, can be reused. A part of an entry can
    ///             be only where the payload has `clone_prefix`.
    /// Throws:     what the copy throws; nothing has changed then.
    /// Complexity: O(matched tokens) and the copy of what is reused. Where no key of the model shares a
    ///             token, to count why, also a probe of each of 16 other models at most.
    /// Differs:    the reference takes the first candidate, and misses if that one cannot be cut.
    Fetched fetch_nearest(ModelView model, Tokens tokens,
                          FetchOptions options = {}) requires ClonablePayload<KV> {
        auto found = core_->choose(model, tokens, options, Core::can_clone);
        Fetched fetched;
        fetched.remaining = tokens;
        if (found) {
            fetched.kv.emplace(Core::clone(*found.handle->payload->kv, found.reused));
            fill(fetched, found, tokens);
            core_->refresh(found);
        }
        core_->count_lookup(found, tokens, options, Core::can_clone);
        return fetched;
    }

    /// The same without a copy: any payload that can be reused in part will do.
    /// Complexity: O(matched tokens). No allocation.
    [[nodiscard]] Lease lease_nearest(ModelView model, Tokens tokens, FetchOptions options = {}) {
        return begin_lease(model, tokens, options, Core::can_lease);
    }

    /// Moves the payload out, cut to what is reused, and removes the entry. Exact and shorter matches
    /// only, never leased ones: a longer match would rob another conversation. A part of an entry can
    /// be taken only where the payload has `truncate`.
    /// Throws: what `truncate` throws; the entry is lost then.
    Fetched take_nearest(ModelView model, Tokens tokens, FetchOptions options = {}) {
        auto found = core_->choose(model, tokens, options, Core::can_take);
        Fetched fetched;
        fetched.remaining = tokens;
        core_->count_lookup(found, tokens, options, Core::can_take);
        if (found) {
            fill(fetched, found, tokens);
            core_->take(found, fetched.kv);
        }
        return fetched;
    }

    /// What a fetch would reuse (a lease, where the payload cannot be copied). Changes nothing.
    /// Complexity: O(matched tokens). No allocation.
    [[nodiscard]] Probe probe(ModelView model, Tokens tokens, FetchOptions options = {}) const {
        const auto found = core_->choose(model, tokens, options, as_fetched);
        return found ? Probe{found.reused, found.match, core_->tier(found.handle)} : Probe{};
    }

    /// Says why a fetch of the prompt would miss, or what it would hit (a lease, where the payload
    /// cannot be copied). For a person who asks: it changes and counts nothing, but allocates.
    /// `MissReason::other_model` is looked for among 16 other models at most; do not show it to a
    /// tenant who must not learn of others.
    /// Complexity: O(matched tokens, and the length of the nearest key).
    [[nodiscard]] Explanation explain(ModelView model, Tokens tokens,
                                      FetchOptions options = {}) const {
        return core_->explain(model, tokens, options, as_fetched);
    }

    // insertion //////////////////////////////////////////////////////////////

    /// Stores `kv`, the state of exactly these tokens. Decided in this order:
    ///
    /// | outcome     | when                                                      | effect                   |
    /// |-------------|-----------------------------------------------------------|--------------------------|
    /// | `too_large` | it is larger than the whole budget                        | none                     |
    /// | `anchored`  | a longer entry serves this key and can be cut down to it  | the key is an anchor     |
    /// | `no_room`   | with what is leased it exceeds a limit                    | none                     |
    /// | `replaced`  | the key has an entry                                      | its payload goes         |
    /// | `stored`    | else                                                      |                          |
    ///
    /// Entries on strict prefixes that `kv` serves are absorbed: their payloads go; one of a more
    /// persistent tier stays as an anchor, or untouched where `kv` cannot be cut. The tier of a key
    /// never falls. Then others are cut or evicted until there is room, before `kv` is counted.
    /// Requires:   where the payload knows its length, it is tokens.size().
    /// Effects:    `kv` is moved from only where it is stored or replaced.
    /// Throws:     what an allocation throws, or the copy of the model; nothing has changed then.
    /// Complexity: O(tokens), O(tiers) an eviction besides the cut itself, and the leased entries that
    ///             are older than the victim.
    /// Differs:    the reference empties itself for what is too large, lets the tier fall, may evict
    ///             what it has just stored, and deletes a system entry that a longer one contains.
    Inserted insert(ModelView model, Tokens tokens, KV&& kv, TierEnum tier) {
        return core_->insert(model, tokens, std::move(kv), tier);
    }

    /// The same, with the payload made by `make()`, and only once it is decided that it will be kept
    /// and there is room: for state that must first be copied from a device. What was evicted has
    /// been destroyed by then; what it replaces goes only when it is there, so that a `make` that throws
    /// costs nothing of it: both are held for that time. Since `kv` cannot be asked yet, an entry on a
    /// strict prefix that can be cut itself is taken for one that it will serve, where room is wanting.
    /// Requires: `nbytes` is what the payload will hold.
    /// Throws:   what `make` throws; the evictions stand then.
    template <class Make>
    requires std::convertible_to<std::invoke_result_t<Make&>, KV> Inserted
    insert(ModelView model, Tokens tokens, std::size_t nbytes, TierEnum tier, Make&& make) {
        std::optional<KV> kv;
        const auto fill = [&] { kv.emplace(make()); };
        return core_->insert(model, tokens, nbytes, tier, fill, kv);
    }

    /// Makes an anchor of a prefix that an entry serves and can be cut down to; where the key has an
    /// entry of its own, raises its tier. It becomes the most recently used of its tier.
    /// Returns: whether an entry serves the key; without one, or without keep_anchors, nothing changes.
    bool mark(ModelView model, Tokens tokens, TierEnum tier) {
        return core_->mark(model, tokens, tier);
    }

    // removal ////////////////////////////////////////////////////////////////

    /// Removes the entries and anchors on the strict prefixes of `tokens`; returns how many entries.
    std::size_t pop_prefixes(ModelView model, Tokens tokens) {
        return core_->pop_prefixes(model, tokens);
    }

    /// Removes the entry or the anchor at `tokens`; returns whether there was an entry.
    bool erase(ModelView model, Tokens tokens) { return core_->erase(model, tokens); }

    /// Removes all that a model has; returns how many entries.
    std::size_t erase_model(ModelView model) { return core_->erase_model(model); }

    /// Removes everything; returns how many entries.
    std::size_t clear() noexcept { return core_->clear(); }

    /// Evicts until these limits hold, once; what is leased stays. Returns how many entries went.
    std::size_t trim_to(Limits limits) noexcept { return core_->trim_to(limits); }

    /// Sets the limits from now on, and evicts until they hold. Where what is leased exceeds them, its
    /// entries go too, and its bytes as the leases end; until then inserts are refused.
    void set_limits(Limits limits) noexcept { core_->set_limits(limits); }
    [[nodiscard]] Limits limits() const noexcept { return core_->limits(); }

    /// Evicts, a cut of an eighth or an entry at a time, while `pressure()` is true: for memory that the
    /// cache cannot see. What goes is destroyed before the next question. Ends where nothing may go.
    /// Returns: how many entries went whole.
    /// Throws:  what `pressure` throws; what went is gone then.
    template <class Pressure>
    requires std::predicate<Pressure&> std::size_t evict_while(Pressure&& pressure) {
        return core_->evict_while(pressure);
    }

    /// Sets what is called with each `Removal&`; a null pointer, or an empty function, for none. It runs
    /// when the cache is whole again, before the payload is destroyed, and may call the cache (what that
    /// removes is delivered by the outermost call), but not destroy, move or re-register on it. It must
    /// not throw: that ends the program. What is left when the cache is destroyed or assigned to is not
    /// reported: `clear()` before, if that matters.
    template <class Listener = std::nullptr_t>
    void on_removal(Listener listener) {
        core_->on_removal(Core::make_listener(std::move(listener)));
    }

    // observers //////////////////////////////////////////////////////////////

    /// Entries; anchors do not count.
    [[nodiscard]] std::size_t size() const noexcept { return core_ ? core_->size() : 0; }
    [[nodiscard]] bool empty() const noexcept { return size() == 0; }
    /// Bytes of all payloads, those included that left and are still leased.
    [[nodiscard]] std::size_t nbytes() const noexcept { return core_ ? core_->nbytes() : 0; }
    /// Bytes of a model's entries.
    [[nodiscard]] std::size_t nbytes(ModelView model) const { return core_->nbytes(model); }
    /// Bytes of what finds the payloads: tries, queues and the records of the entries.
    [[nodiscard]] std::size_t index_nbytes() const noexcept { return core_->index_nbytes(); }
    [[nodiscard]] Stats stats() const noexcept { return core_->stats(); }
    [[nodiscard]] TierStats stats(TierEnum tier) const noexcept { return core_->stats(tier); }

    /// Calls `f(const EntryView&)` for every entry, in no particular order. `f` must not change the cache.
    template <class F>
    void for_each(F f) const {
        core_->for_each([&](const Model& model, std::span<const Token> tokens, TierEnum tier,
                            std::size_t bytes, const KV& kv) {
            const EntryView entry{model, tokens, tier, bytes, kv};
            f(entry);
        });
    }

    /// Compares everything that is counted or remembered with what is there, for tests. O(all tokens).
    [[nodiscard]] bool check_invariants() const { return core_->check_invariants(); }

private:
    template <class, class, class, class>
    friend class ConcurrentPromptCache;

    [[nodiscard]] Lease begin_lease(ModelView model, Tokens tokens, FetchOptions options,
                                    typename Core::Use use) {
        auto found = core_->choose(model, tokens, options, use);
        Lease lease;
        lease.remaining = tokens;
        if (found) {
            fill(lease, found, tokens);
            lease.stored_ = found.handle->payload;
            lease.account_ = core_->account().share();
            lease.stored_->begin_lease(*lease.account_);
            core_->refresh(found);
        }
        core_->count_lookup(found, tokens, options, use);
        return lease;
    }

    template <class Answer>
    void fill(Answer& answer, const typename Core::Found& found, Tokens tokens) const noexcept {
        answer.reused = found.reused;
        answer.remaining = tokens.subspan(found.reused);
        answer.match = found.match;
        answer.tier = core_->tier(found.handle);
    }

    std::unique_ptr<Core> core_;
};

} // namespace promptkv::inline PROMPTKV_ABI

#endif
