// SPDX-License-Identifier: MIT
// BasicPromptCache and LRUPromptCache: the KV state of prompts, kept between requests in a byte budget.
#ifndef PROMPTKV_LRU_PROMPT_CACHE_HPP
#define PROMPTKV_LRU_PROMPT_CACHE_HPP

#include <promptkv/cache_handles.hpp>
#include <promptkv/cache_types.hpp>
#include <promptkv/detail/cache.hpp>
#include <promptkv/kv_traits.hpp>
#include <promptkv/stats.hpp>
#include <promptkv/tier.hpp>
#include <promptkv/version.hpp>
#include <promptkv/victim_policy.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace promptkv::inline PROMPTKV_ABI {

/// Keeps payloads (KV state) under the token sequences that they were computed from, and hands back the
/// part that a new prompt shares.
///
///     promptkv::LRUPromptCache<promptkv::BlockKV<Block>> cache({.max_bytes = std::size_t{8} << 30});
///
///     std::size_t reused = 0;
///     if (auto hit = cache.lease_nearest(model, prompt)) {
///         reused = hit.reused();
///         engine.restore(hit.kv(), reused);     // a copy; the lease ends with this block
///     }
///     engine.prefill(prompt.subspan(reused));   // only what is new; then generate
///
///     if (auto room = cache.reserve(model, tokens, engine.nbytes(tokens.size()), Tier::assistant)) {
///         auto kv = room.prefix().value_or(promptkv::BlockKV<Block>(64));
///         engine.copy_out(kv, room.tokens());   // appends the blocks from kv.length() on
///         room.commit(std::move(kv));
///     }
///
/// `KV`: see kv_traits. `Model`: the namespace of a key, hashable and equality-comparable; keys of
/// different models never match. Where it is a std::string, functions take a std::string_view.
/// `Token`: an integral type. `TierEnum`: see tier_traits. `Policy`: see victim_policy.hpp. `Mutex`:
/// ConcurrentPromptCache sets it.
///
/// What is evicted: the victim of the policy is cut from its tail by what is needed, rounded up to the
/// payload's `block_tokens`. It is evicted whole if nothing would be left, if it cannot be cut, or if other
/// entries serve what would be left. A victim whose blocks are all held by longer entries frees nothing:
/// the nearest longer entry is evicted instead. Leased entries are no victims.
///
/// What a use does: an exact or shorter match makes its entry the most recent of its tier, and so every
/// entry on its path whose key the reuse covers. A longer match does not refresh its entry.
/// When that entry is chosen for eviction, it is cut to the prefix that was used instead, and then counts as
/// just used. This happens once.
///
/// Superseding, for payloads that cannot be cut: an insert makes the earlier entries on its path, of the
/// same or a less persistent tier, the next victims of their tier, unless other entries continue them.
/// Among these entries, the one whose removal leaves the smallest gap in tokens is evicted first.
///
/// Sessions: when a session stores a key, the entry that it stored last becomes the next victim of its
/// tier if neither key continues the other, nothing continues it, and no other session stored it. If
/// `InsertOptions::request` is given, that lookup must have been made after the entry was stored: samples
/// of one lookup do not demote each other.
///
/// "The next victim" is the first of its tier under TieredLRU, and the first of all under ReuseOrder.
///
/// Invariants: `nbytes() <= max_bytes` and `size() <= max_entries` after every call and during it,
/// except while a limit was lowered below what is leased or reserved. Only equal tokens match, never
/// only their hashes.
///
/// Thread safety: const calls together are safe; any other call needs the caller's lock. A Lease or a
/// Reservation may end on any thread without it. ConcurrentPromptCache has the lock inside.
/// Exceptions: where a call throws, the cache is as it was before, except that what was evicted for the call
/// stays evicted. A function that takes a model may throw what its hash or its comparison throws, beside what
/// the function itself says.
/// Callers' code: the listener, `make` and the destructors of payloads run when the cache is whole, and
/// may call it. A payload's other functions, and what `for_each` calls, must not.
/// Overhead: about 300 bytes for an entry, and 4.2 bytes for each token of its key that no other key shares.
/// Remembered keys come on top: see CacheOptions::remembered_tokens.
/// Source: `LRUPromptCache` of mlx-lm (pull request 1019); each function says where it differs.
template <class KV, class Model = std::string, class Token = std::int32_t, class TierEnum = Tier,
          class Policy = TieredLRU, class Mutex = detail::NoMutex>
class BasicPromptCache {
    static_assert(SizedPayload<KV>,
                  "a payload needs nbytes: a member, or a specialisation of promptkv::kv_traits");
    static_assert(std::is_nothrow_move_constructible_v<KV>,
                  "a payload must be moved without throwing");
    static_assert(std::is_nothrow_destructible_v<KV>, "a payload's destructor must not throw");
    static_assert(!std::is_pointer_v<Model> && !std::ranges::enable_borrowed_range<Model>,
                  "Model must own its text: a view or a pointer would dangle");
    static_assert(std::is_nothrow_destructible_v<Model>, "a model's destructor must not throw");
    static_assert(
        std::equality_comparable<Model> && requires(const Model& model) {
            std::hash<Model>{}(model);
        }, "Model must have == and a std::hash; a policy is the last template argument");
    static_assert(std::integral<Token> && !std::is_same_v<std::remove_cv_t<Token>, bool> &&
                      sizeof(Token) <= 8,
                  "Token must be an integral type of at most 64 bits, and not bool");
    static_assert(TierEnumeration<TierEnum>,
                  "tier_traits<TierEnum>::count must say how many tiers there are");

    using Record = detail::Record<KV, Model, Token, TierEnum, Policy>;
    static_assert(VictimPolicy<Policy, Record, TierEnum>,
                  "Policy must be a victim policy: see promptkv/victim_policy.hpp");
    using Cache = detail::Cache<Record, Mutex>;
    using Call = typename Cache::Call;
    using Look = typename Cache::Look;
    using ModelView = typename Record::ModelView;

public:
    using Options = CacheOptions<typename Policy::Options>;
    using Limits = CacheLimits;
    using FetchOptions = promptkv::FetchOptions;
    using InsertOptions = promptkv::InsertOptions;
    using Inserted = promptkv::Inserted;
    using Stats = promptkv::Stats;
    using TierStats = promptkv::TierStats;
    using Lookup = promptkv::Lookup<Token, TierEnum>;
    using Explanation = promptkv::Explanation<Token, TierEnum>;
    using Removal = promptkv::Removal<KV, Model, Token, TierEnum>;
    using Fetched = promptkv::Fetched<KV, Token, TierEnum>;
    using Lease = promptkv::Lease<KV, Token, TierEnum>;
    using EntryView = promptkv::EntryView<KV, Model, Token, TierEnum>;
    using SnapshotEntry = promptkv::SnapshotEntry<KV, Model, Token, TierEnum>;
    using Reservation = promptkv::Reservation<detail::Cache<Record, Mutex>>;
    /// Any contiguous range of tokens, a temporary too: nothing in an answer points into it.
    using Tokens = std::span<const Token>;

    /// Without limits. Throws: what an allocation throws.
    BasicPromptCache() : BasicPromptCache(Options{}) {}
    /// Requires: `Rules::mlx_lm` with TieredLRU alone.
    /// Throws:   what an allocation throws.
    explicit BasicPromptCache(const Options& options) : cache_(std::make_shared<Cache>(options)) {
        PROMPTKV_ASSERT(options.rules == Rules::promptkv || (std::is_same_v<Policy, TieredLRU>));
    }
    /// Leases and reservations survive a move, and outlive the content that an assignment replaces. A
    /// moved-from cache is empty; only size, nbytes, assignment and destruction are valid.
    BasicPromptCache(BasicPromptCache&&) noexcept = default;
    BasicPromptCache& operator=(BasicPromptCache&& other) noexcept {
        if (this != &other) {
            close();
            cache_ = std::move(other.cache_);
        }
        return *this;
    }
    /// The destructors of payloads may call the cache meanwhile, and store nothing.
    ~BasicPromptCache() { close(); }

    // lookup /////////////////////////////////////////////////////////////////

    /// Copies the longest part of an entry that `tokens` can use.
    ///
    /// From the deepest node that matches up, each node on the path offers its own entry and longer ones, at
    /// most 16 longer ones in total. The longest reuse wins, at equal reuse an entry that needs no cut, then
    /// the one asked first. Where the nearest longer entry serves less than what is shared, others are found
    /// within 64 nodes of the index in total, the places where keys branch among them.
    /// Returns:    a miss where nothing, or less than min_reuse, can be reused. A part of an entry is used
    ///             only where the payload has `clone_prefix`.
    /// Throws:     what the copy throws. The lookup is counted and its entry refreshed all the same.
    /// Complexity: O(matched tokens), and the copy.
    /// Differs:    the reference takes the first candidate, and misses if that one cannot be cut; its
    ///             lookups do not refresh.
    Fetched fetch_nearest(ModelView model, Tokens tokens, FetchOptions options = {})
        requires ClonablePayload<KV>
    {
        const Lease lease = begin_lease(model, tokens, options, detail::can_fetch<KV>);
        Fetched fetched(lease);
        if (lease)
            fetched.kv.emplace(detail::clone(lease.kv(), lease.reused()));
        return fetched;
    }

    /// The lookup of fetch_nearest without a copy: works for any payload that serves a prefix.
    /// Complexity: O(matched tokens). No allocation.
    [[nodiscard]] Lease lease_nearest(ModelView model, Tokens tokens, FetchOptions options = {}) {
        return begin_lease(model, tokens, options, detail::can_lease<KV>);
    }

    /// Moves the payload out, cut to what is reused, and removes the entry. Exact and shorter matches
    /// only, never leased ones: a longer match would take another conversation's state. A part of an entry
    /// is taken only where the payload has `truncate`.
    /// Complexity: O(matched tokens + blocks), and the cut.
    Fetched take_nearest(ModelView model, Tokens tokens, FetchOptions options = {}) {
        Call call(*cache_);
        const auto choice = cache_->choose(model, tokens, options, detail::can_take<KV>);
        const std::uint64_t number = cache_->count(choice, tokens);
        Fetched fetched(detail::Answer::of(choice, number));
        if (choice.record != nullptr)
            cache_->take(choice, fetched.kv, call);
        return fetched;
    }

    /// What a fetch would reuse (a lease, where the payload cannot be copied). Changes and counts nothing:
    /// a scheduler may probe as often as it likes.
    /// Complexity: O(matched tokens). No allocation.
    [[nodiscard]] Lookup probe(ModelView model, Tokens tokens, FetchOptions options = {}) const {
        const Look look(*cache_);
        return detail::Answer::of(cache_->choose(model, tokens, options, detail::can_fetch<KV>), 0);
    }

    /// Leading tokens that an entry shares, whether they can be used or not: like `Lookup::matched()`, without
    /// remembered keys. Of these tokens the cache holds the blocks.
    /// Complexity: O(matched tokens). No allocation.
    [[nodiscard]] std::size_t held_tokens(ModelView model, Tokens tokens) const {
        const Look look(*cache_);
        return cache_->held_tokens(model, tokens);
    }

    /// Does what a lease of these tokens does to recency, for an engine whose slot still holds the
    /// sequence. Counts nothing.
    /// Complexity: O(matched tokens). No allocation.
    Lookup touch(ModelView model, Tokens tokens) {
        Call call(*cache_);
        const auto choice =
            cache_->choose(model, tokens, {.min_remaining = 0}, detail::can_lease<KV>);
        if (choice.record != nullptr)
            cache_->refresh(choice, tokens);
        return detail::Answer::of(choice, 0);
    }

    /// A lease of the entry at exactly these tokens, or of one that serves them whole, which counts nothing
    /// and refreshes nothing: it only keeps the entry where it is.
    [[nodiscard]] Lease pin(ModelView model, Tokens tokens) {
        Call call(*cache_);
        const auto choice =
            cache_->choose(model, tokens, {.min_remaining = 0}, detail::can_lease<KV>);
        if (choice.record == nullptr || choice.reused < tokens.size())
            return {};
        return Lease(detail::Answer::of(choice, 0), cache_->lease(*choice.record));
    }

    /// Says why a fetch of the prompt would miss, or what it would hit. For a person who asks: it changes
    /// and counts nothing, but allocates. It alone looks into other models, 1,024 at most: do not show
    /// `MissReason::other_model` to a tenant who must not learn of others.
    /// Throws:     what an allocation throws.
    /// Complexity: O(matched tokens), on a miss in each model that it looks into.
    [[nodiscard]] Explanation explain(ModelView model, Tokens tokens,
                                      FetchOptions options = {}) const {
        const Look look(*cache_);
        return cache_->explain(model, tokens, options);
    }

    // insertion //////////////////////////////////////////////////////////////

    /// Stores `kv`, the state of exactly these tokens. Decided in this order:
    ///
    /// | outcome     | when                                                                        |
    /// |-------------|-----------------------------------------------------------------------------|
    /// | `present`   | a longer entry of the same or a more persistent tier serves the key, one of the 16 nearest within 64 nodes of the index; that entry is treated as if a lookup had used it |
    /// | `too_large` | it is larger than the whole budget, and no part of it may be stored         |
    /// | `no_room`   | together with what is leased or reserved it exceeds a limit                 |
    /// | `declined`  | the policy keeps nothing of it                                              |
    /// | `replaced`  | the key has an entry                                                        |
    /// | `stored`    | else                                                                        |
    ///
    /// A payload that is larger than the budget, or than what leases leave, but can be cut, is stored under
    /// the longest prefix that fits, a multiple of its `block_tokens`; if it is larger than the budget, the
    /// prefix takes at most `max_partial` times the budget. `Inserted::tokens` says how far. Without shared
    /// blocks bytes are taken as proportional to tokens: the prefix takes more where a payload has a fixed part.
    ///
    /// Before anything is decided `kv` takes over the blocks of the stored entry that shares most tokens.
    /// Entries on strict prefixes that the new entry serves are absorbed unless their tier is more
    /// persistent. Then others are evicted until there is room, before `kv` is counted. The tier of a key
    /// never falls.
    /// Requires:   where the payload knows its length, it is tokens.size().
    /// Effects:    `kv` is moved from only where it is stored or replaced. A payload without blocks may come
    ///             back cut where the outcome is `no_room` or `declined`.
    /// Throws:     what an allocation throws, or the copy of the model; std::length_error for a key of
    ///             2^32 - 2 tokens or more.
    /// Complexity: O(tokens + blocks), and the evictions.
    /// Differs:    the reference empties itself for what is too large, lets the tier fall, may evict what
    ///             it has just stored, and deletes a system entry that a longer one contains.
    Inserted insert(ModelView model, Tokens tokens, KV&& kv, TierEnum tier,
                    InsertOptions options = {}) {
        Call call(*cache_);
        return cache_->inserting(call).insert(model, tokens, kv, tier, options);
    }

    /// Reserves room, calls `make()`, and commits: for state that must first be copied from a device.
    /// `make` returns the payload, or a std::optional of it (empty: `cancelled`). What was evicted is
    /// destroyed before `make` runs.
    /// Requires:   `nbytes` is what the payload will refer to; an estimate is allowed.
    /// Throws:     what `make` throws, and what `reserve` and `commit` throw.
    /// Complexity: that of `reserve`, `make` and `commit`.
    template <class Make>
        requires std::convertible_to<std::invoke_result_t<Make&>, std::optional<KV>>
    Inserted insert(ModelView model, Tokens tokens, std::size_t nbytes, TierEnum tier, Make&& make,
                    InsertOptions options = {}) {
        Reservation room = reserve(model, tokens, nbytes, tier, options);
        const Inserted reserved = room.reserved_;
        if (!room)
            return reserved;
        std::optional<KV> kv(make());
        // If there is room for a part, what was made is cut.
        Inserted inserted = room.commit(kv ? std::addressof(*kv) : nullptr, tokens);
        inserted.evicted += reserved.evicted;
        inserted.cut += reserved.cut;
        return inserted;
    }

    /// Holds room for a payload of these tokens that will refer to `nbytes` bytes, an estimate. The room is
    /// `nbytes` minus the bytes of the blocks in `prefix()`. Unlike an insert: if the key has an entry, it
    /// answers `present`, and raises the tier of the entry if need be. Otherwise it decides as an insert does.
    /// Throws:     what an insert throws, or the clone of what is stored.
    /// Complexity: O(tokens + blocks), and the evictions.
    [[nodiscard]] Reservation reserve(ModelView model, Tokens tokens, std::size_t nbytes,
                                      TierEnum tier, InsertOptions options = {}) {
        Reservation room;
        Call call(*cache_);
        cache_->inserting(call).reserve(model, tokens, nbytes, tier, options, room.reserved_);
        room.cache_ = cache_;
        return room;
    }

    /// Makes an entry of a prefix that another entry serves, by `clone_prefix`: free for shared blocks, a
    /// copy otherwise. Where the key has an entry, its tier is raised if need be.
    /// Returns:    whether the key is kept in this tier or a more persistent one; false where nothing serves
    ///             it, or there is no room for the whole copy.
    /// Throws:     what an insert or `clone_prefix` throws.
    /// Complexity: as an insert, and the clone.
    bool mark(ModelView model, Tokens tokens, TierEnum tier) {
        Call call(*cache_);
        return cache_->inserting(call).mark(model, tokens, tier);
    }

    // removal ////////////////////////////////////////////////////////////////
    //
    // Each voids the reservations of keys that it covers. Those that count return a number of entries.
    //
    // Throws, where not noexcept: what an allocation or a comparison of models throws; nothing has changed
    // then. Complexity: O(tokens), O(blocks) of each entry that leaves, and a look at each reservation. What
    // leaves is destroyed before the call returns, unless it is leased.

    /// Removes the entries on the strict prefixes of `tokens`.
    std::size_t pop_prefixes(ModelView model, Tokens tokens) {
        Call call(*cache_);
        return cache_->erasing(call).pop_prefixes(model, tokens);
    }
    /// Removes the entry at `tokens`; returns whether there was one. A longer entry may still serve
    /// these tokens; `erase_below` prevents that.
    bool erase(ModelView model, Tokens tokens) {
        Call call(*cache_);
        return cache_->erasing(call).erase(model, tokens);
    }
    /// Removes the entry at `tokens` and all entries that continue it, whoever stored them.
    /// Complexity: also O(removed entries).
    std::size_t erase_below(ModelView model, Tokens tokens) {
        Call call(*cache_);
        return cache_->erasing(call).erase_below(model, tokens);
    }
    /// Removes the entries that this session alone stored. Complexity: O(entries of the model).
    std::size_t erase_session(ModelView model, std::uint64_t session) {
        Call call(*cache_);
        return cache_->erasing(call).erase_session(model, session);
    }
    /// Removes all entries of a model.
    std::size_t erase_model(ModelView model) {
        Call call(*cache_);
        return cache_->erasing(call).erase_model(model);
    }
    /// Removes everything.
    std::size_t clear() noexcept {
        Call call(*cache_);
        return cache_->erasing(call).clear();
    }
    /// Evicts until these limits hold, once; leased entries stay. Returns how many entries left whole.
    /// Complexity: O(blocks) of what is evicted.
    std::size_t trim_to(Limits limits) noexcept {
        Call call(*cache_);
        return cache_->trim_to(limits, call);
    }
    /// Sets the limits from now on, and evicts until they hold. Leased entries stay; while they exceed
    /// the limits, inserts are refused. Complexity: as trim_to.
    void set_limits(Limits limits) noexcept {
        Call call(*cache_);
        cache_->set_limits(limits, call);
    }
    [[nodiscard]] Limits limits() const noexcept {
        const Look look(*cache_);
        return cache_->limits();
    }
    /// Evicts until at least `nbytes` bytes were freed, or nothing can be; returns the bytes freed. Counts no block that
    /// somebody outside of the cache uses, and evicts no entry for nothing. For an engine's own pool:
    /// `while (pool.free() < need && cache.evict(need - pool.free()))`. What a removal listener moves away counts as freed.
    /// Complexity: O(blocks) of what is evicted and of the entries that would free nothing.
    std::size_t evict(std::size_t nbytes) noexcept {
        {
            const Call settled(*cache_); // what a lowered limit still evicts is destroyed first
        }
        std::size_t freed = 0;
        for (bool goes_on = true; goes_on && freed < nbytes;) {
            Call call(*cache_);
            const auto evicted = cache_->evict(nbytes - freed, call);
            goes_on = evicted.entries + evicted.cuts > 0;
            freed += evicted.bytes;
        }
        return freed;
    }
    /// How many bytes `evict` could free. Complexity: O(all blocks). Throws: what an allocation throws.
    [[nodiscard]] std::size_t evictable_nbytes() const {
        const Look look(*cache_);
        return cache_->evictable_nbytes();
    }

    /// Sets the function that is called with each `Removal&`; empty: none. It runs when the cache is whole
    /// again, before the payload is destroyed, one key in memory at a time (of what was cut: all). It may
    /// call the cache, and what it evicts or erases is destroyed before such a call returns; it must not
    /// destroy or move the cache.
    /// Keys that left and are not reported yet still count in `matched()`, and may decide which of several
    /// entries that serve equally well is used.
    /// It must not throw: that ends the program. What is left when the cache is destroyed is not reported:
    /// `clear()` before, if that matters. Throws: what an allocation throws; the listener is as before.
    void set_removal_listener(std::function<void(Removal&)> listener) {
        cache_->set_listener(
            listener ? std::make_shared<const std::function<void(Removal&)>>(std::move(listener))
                     : nullptr);
    }

    // observers //////////////////////////////////////////////////////////////

    // O(1) and noexcept, unless they say otherwise. A reference into the cache is never handed out.

    /// Entries.
    [[nodiscard]] std::size_t size() const noexcept {
        return observe([](const Cache& cache) { return cache.size(); });
    }
    [[nodiscard]] bool empty() const noexcept { return size() == 0; }
    /// Bytes of all payloads that are stored or leased, each shared block once, and of reservations.
    [[nodiscard]] std::size_t nbytes() const noexcept {
        return observe([](const Cache& cache) { return cache.nbytes(); });
    }
    /// Bytes that a model's entries refer to; a block that several share counts for each.
    [[nodiscard]] std::size_t nbytes(ModelView model) const {
        const Look look(*cache_);
        return cache_->nbytes(model);
    }
    /// Bytes of what finds the payloads: tries, records, queues. O(models, and what is leased or reserved).
    [[nodiscard]] std::size_t index_nbytes() const noexcept {
        return observe([](const Cache& cache) { return cache.index_nbytes(); });
    }
    /// O(leased payloads).
    [[nodiscard]] Stats stats() const noexcept {
        const Look look(*cache_);
        return cache_->stats();
    }
    [[nodiscard]] TierStats stats(TierEnum tier) const noexcept {
        const Look look(*cache_);
        return cache_->stats(tier);
    }

    /// The share of the requested tokens that LRU would have reused with other budgets: would twice the memory
    /// help? Counted since the cache was made or its budget changed; for payloads that serve parts
    /// of their keys. Empty without `Options::policy.curve`. ReuseOrder only.
    /// Throws: what an allocation throws.
    [[nodiscard]] std::vector<HitRatioPoint> hit_ratio_curve() const
        requires detail::observes_edges<Policy>
    {
        const Look look(*cache_);
        return cache_->hit_ratio_curve();
    }

    /// Calls `f(const EntryView&)` for every entry, tier by tier, within a tier from the coldest to the
    /// hottest: storing the payloads elsewhere in this order, as side requests, restores the order of eviction
    /// of TieredLRU, but for second chances. Other inserts would demote what their session stored before them,
    /// and supersede what cannot be cut. What was superseded is evicted in this order then, and not thinned
    /// evenly; a session demotes nothing until it has stored a key again. ReuseOrder learns anew. `f` must not
    /// call the cache.
    /// Throws:     what an allocation or `f` throws.
    /// Complexity: O(all tokens).
    template <class F>
    void for_each(F f) const {
        const Look look(*cache_);
        cache_->for_each([&](const Record& record) {
            const std::vector<Token> tokens = record.node->key();
            const EntryView entry{record.home->model,     tokens,      record.tier,
                                  record.payload->nbytes, record.kv(), record.session};
            f(entry);
        });
    }

    /// Calls `f(const Model&)` for each model that has entries, or keys that are remembered. `f` must not call
    /// the cache.
    /// Throws:     what `f` throws.
    /// Complexity: O(models).
    template <class F>
    void for_each_model(F f) const {
        const Look look(*cache_);
        cache_->for_each_model(f);
    }

    /// All entries with leases, in the order of `for_each`. Nothing is counted or refreshed. The cache's
    /// lock is held for a copy of pointers, then for one key at a time; entries that leave meanwhile are
    /// left out. While the leases live nothing can be evicted.
    /// Throws:     what an allocation or the copy of a model throws; the leases end.
    /// Complexity: O(all tokens).
    [[nodiscard]] std::vector<SnapshotEntry> snapshot() {
        std::vector<detail::PayloadLease<KV>> leases;
        leases.reserve(size());
        {
            Call call(*cache_);
            cache_->for_each([&](Record& record) { leases.push_back(cache_->lease(record)); });
        }
        std::vector<SnapshotEntry> entries;
        entries.reserve(leases.size());
        for (detail::PayloadLease<KV>& lease : leases) {
            const Look look(*cache_);
            if (const auto* record = static_cast<const Record*>(lease->record)) {
                entries.push_back(SnapshotEntry{record->home->model, record->node->key(),
                                                record->tier, Lease(Lookup(), std::move(lease)),
                                                record->session});
            }
        }
        return entries;
    }

    /// Compares everything that is counted or remembered with what is there, for tests. O(all tokens). May
    /// return false while a lease or a reservation ends on another thread.
    /// Throws: what an allocation throws.
    [[nodiscard]] bool check_invariants() const {
        std::vector<detail::PayloadLease<KV>> pins; // end without the lock
        const Look look(*cache_);
        return cache_->check_invariants(pins);
    }

private:
    [[nodiscard]] Lease begin_lease(ModelView model, Tokens tokens, FetchOptions options,
                                    detail::Eligibility can) {
        Call call(*cache_);
        const auto choice = cache_->choose(model, tokens, options, can);
        const std::uint64_t number = cache_->count(choice, tokens);
        return Lease(detail::Answer::of(choice, number), choice.record != nullptr
                                                             ? cache_->lease(*choice.record)
                                                             : detail::PayloadLease<KV>());
    }

    void close() noexcept {
        if (cache_ != nullptr)
            cache_->close();
    }

    template <class F>
    [[nodiscard]] std::size_t observe(F f) const noexcept {
        if (cache_ == nullptr)
            return 0;
        const Look look(*cache_);
        return f(*cache_);
    }

    std::shared_ptr<Cache> cache_;
};

/// The prompt cache whose victim is the least recently used entry of a tier.
template <class KV, class Model = std::string, class Token = std::int32_t, class TierEnum = Tier>
using LRUPromptCache = BasicPromptCache<KV, Model, Token, TierEnum, TieredLRU>;

} // namespace promptkv::inline PROMPTKV_ABI

#endif
