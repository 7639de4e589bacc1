// SPDX-License-Identifier: MIT
// CacheCore: what LRUPromptCache does, behind its face.
#ifndef PROMPTKV_DETAIL_CACHE_CORE_HPP
#define PROMPTKV_DETAIL_CACHE_CORE_HPP

#include <promptkv/cache_order.hpp>
#include <promptkv/cache_types.hpp>
#include <promptkv/detail/exceptions.hpp>
#include <promptkv/detail/stored.hpp>
#include <promptkv/kv_traits.hpp>
#include <promptkv/prompt_trie.hpp>
#include <promptkv/stats.hpp>
#include <promptkv/tier.hpp>
#include <promptkv/version.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <iterator>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <unordered_set>
#include <utility>
#include <vector>

namespace promptkv::inline PROMPTKV_ABI::detail {

enum class OneTier : std::uint8_t { all };

} // namespace promptkv::inline PROMPTKV_ABI::detail

template <>
struct promptkv::tier_traits<promptkv::detail::OneTier> {
    static constexpr std::size_t count = 1;
};

namespace promptkv::inline PROMPTKV_ABI::detail {

/// The state of a cache and the steps that its functions are made of.
///
///     spaces_  a trie a model:  key -> Entry { place in order_, payload }     (an anchor has no payload)
///     order_   a queue a tier of all entries and anchors; anchors_ one queue of the anchors alone
///     departed_  payloads that left, until it is reported and they are destroyed
///
/// Every change is made in three parts: what can fail, the change itself, `settle` (which runs
/// listeners and destructors, when the cache is whole).
template <class KV, class Model, class Token, class TierEnum>
class CacheCore {
    struct Space;

public:
    using ModelView = std::conditional_t<std::is_same_v<Model, std::string>, std::string_view, const Model&>;
    using Tokens = std::span<const Token>;
    using Payload = Stored<KV, Token, TierEnum, Space>;

    struct Removal {
        const Model& model;
        std::span<const Token> tokens; ///< its key, for a cut the one before; empty where memory was wanting
        TierEnum tier;
        std::size_t bytes;             ///< what left: of a cut, what it freed
        RemovalReason reason;
        KV* payload;                   ///< to move from; null where it is leased, or was cut or taken
    };

private:
    struct Record;
    using Order = CacheOrder<Record, TierEnum>;
    using Anchors = CacheOrder<Record, OneTier>;

    /// What the trie holds at a key.
    struct Entry {
        typename Order::Position place;
        typename Anchors::Position anchor; // null: an entry, or a key about to become one
        Payload* payload = nullptr;        // null: an anchor
    };
    using Trie = PromptTrie<Entry, Token>;
    using Handle = typename Trie::Handle;

    /// What the queues hold: where a key is.
    struct Record {
        Space* space;
        Handle handle;
    };

public:
    /// What a lookup came to; false on a miss.
    struct Found {
        Handle handle;
        Space* space = nullptr;
        std::size_t reused = 0;
        Match match = Match::none;
        bool whole = true; // no cut is needed

        [[nodiscard]] explicit operator bool() const noexcept { return match != Match::none; }
    };

    /// Which candidates a lookup can use: in part, only whole, or none.
    struct Use {
        bool parts;
        bool longer;
        bool leased;
    };
    static constexpr Use can_clone{PrefixClonable<KV>, PrefixClonable<KV>, true};
    static constexpr Use can_lease{true, true, true};
    static constexpr Use can_take{TruncatablePayload<KV>, false, false};

    explicit CacheCore(CacheOptions options) : options_(options), account_(std::make_shared<Account>()) {}
    CacheCore(const CacheCore&) = delete;
    CacheCore& operator=(const CacheCore&) = delete;
    ~CacheCore() {
        listener_ = nullptr;
        clear();
    }

    // lookup /////////////////////////////////////////////////////////////////

    [[nodiscard]] Found choose(ModelView model, Tokens tokens, FetchOptions options, Use use) const {
        PROMPTKV_ASSERT(options.align >= 1);
        Found best;
        Space* space = find_space(model);
        if (space == nullptr || options.min_remaining > tokens.size()) return best;
        const std::size_t limit = tokens.size() - options.min_remaining;
        const std::size_t least = std::max<std::size_t>(options.min_reuse, 1);
        int asked = 0;
        const auto ask = [&](typename Trie::ConstHandle handle, std::size_t shared, Match match) {
            if (!handle || handle->payload == nullptr || (!use.leased && handle->payload->leased())) return;
            ++asked;
            const std::size_t length = space->trie.length(handle);
            const std::size_t reused = reusable(*handle->payload->kv, length, std::min(shared, limit), options.align, use.parts);
            const bool whole = reused == length;
            if (reused < least || reused < best.reused || (reused == best.reused && (best.whole || !whole))) return;
            best = Found{space->trie.writable(handle), space, reused, match, whole};
        };
        typename Trie::ConstHandle last;
        space->trie.for_each_offer(tokens, [&](const typename Trie::Offer& offer) {
            const std::size_t shared = offer.common_prefix;
            if (best.reused > shared || (best && best.reused == shared && best.whole)) return false;
            ask(offer.own, shared, shared == tokens.size() ? Match::exact : Match::shorter);
            if (use.longer && offer.longer != last && asked < max_asked) {
                last = offer.longer;
                ask(offer.longer, shared, Match::longer);
            }
            return asked < max_asked;
        });
        return best;
    }

    [[nodiscard]] KV clone(const Found& found) const {
        const KV& kv = *found.handle->payload->kv;
        if constexpr (PrefixClonable<KV>) {
            return kv_traits<KV>::clone_prefix(kv, found.reused);
        } else {
            return KV(kv);
        }
    }

    /// Makes an exact or shorter match the most recently used, and the anchors that the reuse runs over.
    void refresh(const Found& found) noexcept {
        found.handle->payload->used = true;
        if (!options_.refresh_on_fetch) return;
        Trie& trie = found.space->trie;
        if (found.match != Match::longer) {
            order_.touch(found.handle->place);
            found.handle->payload->superseded = false;
        }
        if (anchors_.empty()) return;
        for (auto prefix = trie.longest_prefix(found.handle); prefix; prefix = trie.longest_prefix(prefix)) {
            if (prefix->payload != nullptr || trie.length(prefix) > found.reused) continue;
            touch_anchor(*prefix, tier(prefix));
        }
    }

    void count_lookup(const Found& found, std::size_t requested) noexcept {
        ++stats_.lookups;
        stats_.tokens_requested += requested;
        stats_.tokens_reused += found.reused;
        if (found.match == Match::exact) ++stats_.hits_exact;
        if (found.match == Match::shorter) ++stats_.hits_shorter;
        if (found.match == Match::longer) ++stats_.hits_longer;
    }

    void take(const Found& found, std::optional<KV>& kv) {
        Payload* payload = found.handle->payload;
        const std::size_t length = found.space->trie.length(found.handle);
        refresh(found);
        PROMPTKV_TRY {
            if (found.reused < length) truncate(*payload->kv, found.reused);
        }
        PROMPTKV_CATCH_ALL {
            payload->spoiled = true;
            drop(Record{found.space, found.handle}, RemovalReason::evicted);
            settle();
            PROMPTKV_RETHROW;
        }
        kv.emplace(std::move(*payload->kv));
        drop(Record{found.space, found.handle}, RemovalReason::taken);
        settle();
    }

    // insertion //////////////////////////////////////////////////////////////

    Inserted insert(ModelView model, Tokens tokens, KV&& kv, TierEnum tier) {
        const std::size_t nbytes = kv_traits<KV>::nbytes(kv);
        check_length(kv, tokens.size());
        Inserted inserted;
        if (!refused(model, tokens, nbytes, tier, inserted, false)) {
            auto payload = std::make_unique<Payload>();
            const Record record = link(model, tokens, tier);
            store(record, tier, std::move(payload), std::move(kv), nbytes, inserted);
        }
        settle();
        return inserted;
    }

    template <class Make>
    Inserted insert(ModelView model, Tokens tokens, std::size_t nbytes, TierEnum tier, Make& make) {
        Inserted inserted;
        if (refused(model, tokens, nbytes, tier, inserted, false)) {
            settle();
            return inserted;
        }
        auto payload = std::make_unique<Payload>();
        Record record = link(model, tokens, tier);
        make_room_early(record, tier, nbytes, inserted);
        std::optional<KV> kv;
        ++making_;
        PROMPTKV_TRY {
            settle(&record); // what went is destroyed before the new payload is made
            kv.emplace(make());
        }
        PROMPTKV_CATCH_ALL {
            --making_;
            unlink(model, tokens);
            settle();
            PROMPTKV_RETHROW;
        }
        --making_;
        const std::size_t made = kv_traits<KV>::nbytes(*kv);
        check_length(*kv, tokens.size());
        if (!refused(model, tokens, made, tier, inserted, true)) { // a listener may have changed everything
            record = link(model, tokens, tier);
            store(record, tier, std::move(payload), std::move(*kv), made, inserted);
        } else {
            unlink(model, tokens);
        }
        settle();
        return inserted;
    }

    bool mark(ModelView model, Tokens tokens, TierEnum tier) {
        Space* space = options_.keep_anchors ? find_space(model) : nullptr;
        if (space == nullptr) return false;
        const auto handle = space->trie.find(tokens);
        if (handle && handle->payload != nullptr) {
            touch_entry(handle, std::max(tier, this->tier(handle)));
            return true;
        }
        if (!served_beyond(*space, tokens)) return false;
        anchor(model, tokens, tier);
        settle();
        return true;
    }

    // removal ////////////////////////////////////////////////////////////////

    std::size_t pop_prefixes(ModelView model, Tokens tokens) {
        Space* space = find_space(model);
        if (space == nullptr) return 0;
        std::vector<typename Trie::Handle> found;
        space->trie.for_each_prefix(tokens, [&](auto handle) {
            if (space->trie.length(handle) < tokens.size()) found.push_back(handle);
        });
        std::size_t entries = 0;
        for (const auto handle : found) entries += remove(Record{space, handle}, RemovalReason::erased);
        settle();
        return entries;
    }

    bool erase(ModelView model, Tokens tokens) {
        Space* space = find_space(model);
        const auto handle = space != nullptr ? space->trie.find(tokens) : typename Trie::Handle{};
        if (!handle) return false;
        const bool entry = remove(Record{space, handle}, RemovalReason::erased) > 0;
        settle();
        return entry;
    }

    std::size_t erase_model(ModelView model) {
        Space* space = find_space(model);
        if (space == nullptr) return 0;
        const std::size_t entries = remove_all(*space, RemovalReason::erased);
        settle();
        return entries;
    }

    std::size_t clear() noexcept {
        std::size_t entries = 0;
        for (const auto& space : spaces_) entries += remove_all(*space, RemovalReason::cleared);
        settle();
        return entries;
    }

    std::size_t trim_to(CacheLimits limits) noexcept {
        const std::uint64_t before = stats_.evicted;
        enforce(limits, {});
        settle();
        return static_cast<std::size_t>(stats_.evicted - before);
    }

    void set_limits(CacheLimits limits) noexcept {
        options_.max_bytes = limits.max_bytes;
        options_.max_entries = limits.max_entries;
        enforce(limits, {});
        while (nbytes() > limits.max_bytes || size_ > limits.max_entries) { // only leased ones are left
            const auto place = order_.victim([](const Record& record) { return record.handle->payload != nullptr; });
            if (!place) break;
            evict_whole(order_.key(place));
        }
        settle();
    }

    [[nodiscard]] CacheLimits limits() const noexcept { return {options_.max_bytes, options_.max_entries}; }

    template <class Pressure>
    std::size_t evict_while(Pressure& pressure) {
        const std::uint64_t before = stats_.evicted;
        while (pressure() && evict(1, {})) settle();
        settle();
        return static_cast<std::size_t>(stats_.evicted - before);
    }

    void on_removal(std::function<void(Removal&)> listener) noexcept { listener_ = std::move(listener); }

    // observers //////////////////////////////////////////////////////////////

    [[nodiscard]] const std::shared_ptr<Account>& account() const noexcept { return account_; }
    [[nodiscard]] TierEnum tier(typename Trie::ConstHandle handle) const noexcept { return order_.tier(handle->place); }
    [[nodiscard]] std::size_t size() const noexcept { return size_; }
    [[nodiscard]] std::size_t nbytes() const noexcept { return bytes_ + account_->orphaned_bytes.load(std::memory_order_relaxed); }
    [[nodiscard]] std::size_t nbytes(ModelView model) const {
        const Space* space = find_space(model);
        return space != nullptr ? space->nbytes : 0;
    }

    [[nodiscard]] std::size_t index_nbytes() const noexcept {
        std::size_t bytes = order_.nbytes() + anchors_.nbytes() + size_ * (sizeof(Payload) - sizeof(KV));
        for (const auto& space : spaces_) bytes += sizeof(Space) + space->trie.nbytes();
        return bytes;
    }

    [[nodiscard]] Stats stats() const noexcept {
        Stats stats = stats_;
        stats.bytes_leased = account_->leased_bytes.load(std::memory_order_relaxed);
        return stats;
    }

    [[nodiscard]] TierStats stats(TierEnum tier) const noexcept {
        return tiers_[index(tier)];
    }

    template <class F>
    void for_each(F f) const {
        for (const auto& space : spaces_) {
            space->trie.for_each([&](typename Trie::ConstHandle handle) {
                if (handle->payload == nullptr) return;
                const std::vector<Token> tokens = space->trie.key(handle);
                f(space->model, Tokens(tokens), tier(handle), handle->payload->nbytes, std::as_const(*handle->payload->kv));
            });
        }
    }

    [[nodiscard]] bool check_invariants() const {
        std::size_t entries = 0, anchors = 0, linked = 0, bytes = 0;
        std::array<TierStats, tier_count> tiers{};
        for (const auto& space : spaces_) {
            std::size_t space_bytes = 0;
            if (!space->trie.check_invariants() || (space->trie.empty() && space->departed == 0 && !spaces_to_release_)) return false;
            space->trie.for_each([&](typename Trie::ConstHandle handle) {
                TierStats& of_tier = tiers[index(tier(handle))];
                if (const Payload* payload = handle->payload; payload != nullptr) {
                    ++entries;
                    space_bytes += payload->kv && payload->nbytes == kv_traits<KV>::nbytes(*payload->kv) ? payload->nbytes : 1;
                    ++of_tier.entries;
                    of_tier.nbytes += payload->nbytes;
                } else if (!handle->anchor) {
                    ++linked;
                } else {
                    ++anchors;
                    ++of_tier.anchors;
                }
            });
            if (space_bytes != space->nbytes) return false;
            bytes += space_bytes;
        }
        for (std::size_t i = 0; i < tier_count; ++i) {
            if (tiers[i].entries != tiers_[i].entries || tiers[i].nbytes != tiers_[i].nbytes || tiers[i].anchors != tiers_[i].anchors) return false;
        }
        return entries == size_ && anchors == anchors_.size() && entries + anchors + linked == order_.size() &&
               linked <= making_ && bytes == bytes_ &&
               anchors <= max_anchors() && order_.check_invariants() && anchors_.check_invariants();
    }

private:
    static constexpr std::size_t tier_count = tier_traits<TierEnum>::count;
    static constexpr int max_asked = 16;

    struct Space {
        explicit Space(ModelView name) : model(name) {}
        const Model model;
        Trie trie;
        std::size_t nbytes = 0;
        std::size_t departed = 0; // removals that are not reported yet
    };

    struct SpaceHash {
        using is_transparent = void;
        std::size_t operator()(ModelView model) const { return std::hash<std::remove_cvref_t<ModelView>>{}(model); }
        std::size_t operator()(const std::unique_ptr<Space>& space) const { return (*this)(ModelView(space->model)); }
    };
    struct SpaceEqual {
        using is_transparent = void;
        bool operator()(const std::unique_ptr<Space>& a, const std::unique_ptr<Space>& b) const { return a->model == b->model; }
        bool operator()(ModelView a, const std::unique_ptr<Space>& b) const { return a == ModelView(b->model); }
        bool operator()(const std::unique_ptr<Space>& a, ModelView b) const { return ModelView(a->model) == b; }
    };

    [[nodiscard]] static std::size_t index(TierEnum tier) noexcept { return static_cast<std::size_t>(tier); }
    [[nodiscard]] std::size_t max_anchors() const noexcept { return 64 * (size_ + 1); }
    [[nodiscard]] bool can_cut() const noexcept { return TruncatablePayload<KV> && options_.cut_granularity > 0; }

    static void check_length([[maybe_unused]] const KV& kv, [[maybe_unused]] std::size_t length) noexcept {
        if constexpr (MeasuredPayload<KV>) PROMPTKV_ASSERT(kv_traits<KV>::length(kv) == length);
    }

    static void truncate([[maybe_unused]] KV& kv, [[maybe_unused]] std::size_t n) {
        if constexpr (TruncatablePayload<KV>) kv_traits<KV>::truncate(kv, n);
    }

    /// How many of the first `n` tokens can be reused, a multiple of `align` where the payload allows.
    [[nodiscard]] static std::size_t reusable(const KV& kv, std::size_t length, std::size_t n, std::size_t align, bool parts) noexcept {
        if (!parts) return n >= length ? length : 0;
        const std::size_t reused = served_prefix(kv, length, n);
        const std::size_t aligned = reused - reused % align;
        return aligned == reused || served_prefix(kv, length, aligned) == aligned ? aligned : reused;
    }

    [[nodiscard]] bool serves(typename Trie::ConstHandle handle, const Trie& trie, std::size_t n) const noexcept {
        return handle && handle->payload != nullptr && handle->payload->kv &&
               served_prefix(*handle->payload->kv, trie.length(handle), n) == n;
    }

    /// Whether an entry that goes on beyond `tokens` serves them and could be cut down to them.
    [[nodiscard]] bool served_beyond(const Space& space, Tokens tokens) const noexcept {
        if (!can_cut()) return false;
        const auto found = space.trie.search(tokens);
        return found.common_prefix == tokens.size() && serves(found.longer, space.trie, tokens.size());
    }

    [[nodiscard]] Space* find_space(ModelView model) const {
        const auto found = spaces_.find(model);
        return found != spaces_.end() ? found->get() : nullptr;
    }

    // keys ///////////////////////////////////////////////////////////////////

    /// The record at a key. Where there is none it is made, most recently used of its tier; it has no
    /// payload and is no anchor yet.
    Record link(ModelView model, Tokens tokens, TierEnum tier) {
        Space* space = find_space(model);
        const bool is_new = space == nullptr;
        if (is_new) space = spaces_.insert(std::make_unique<Space>(model)).first->get();
        PROMPTKV_TRY {
            if (const Handle found = space->trie.find(tokens)) return Record{space, found};
            typename Order::Position place = order_.push(Record{space, {}}, tier);
            PROMPTKV_TRY {
                const Handle handle = space->trie.insert_or_assign(tokens, Entry{place, {}, nullptr}).first;
                space->trie.hide(handle);
                order_.key(place).handle = handle;
                return Record{space, handle};
            }
            PROMPTKV_CATCH_ALL {
                order_.remove(place);
                PROMPTKV_RETHROW;
            }
        }
        PROMPTKV_CATCH_ALL {
            if (is_new) release(space);
            PROMPTKV_RETHROW;
        }
        return {};
    }

    /// Takes a key back that was linked and got no payload.
    void unlink(ModelView model, Tokens tokens) {
        Space* space = find_space(model);
        const Handle handle = space != nullptr ? space->trie.find(tokens) : Handle{};
        if (handle && handle->payload == nullptr && !handle->anchor) remove_record(Record{space, handle});
    }

    void remove_record(Record record) noexcept {
        order_.remove(record.handle->place);
        record.space->trie.erase(record.handle);
        if (record.space->trie.empty()) spaces_to_release_ = true;
    }

    void release(const Space* space) noexcept {
        const auto found = std::find_if(spaces_.begin(), spaces_.end(), [&](const auto& each) { return each.get() == space; });
        if (found != spaces_.end()) spaces_.erase(found);
    }

    void set_tier(Handle handle, TierEnum tier) noexcept {
        const TierEnum before = this->tier(handle);
        if (handle->payload != nullptr) {
            --tiers_[index(before)].entries;
            ++tiers_[index(tier)].entries;
            tiers_[index(before)].nbytes -= handle->payload->nbytes;
            tiers_[index(tier)].nbytes += handle->payload->nbytes;
        } else if (handle->anchor) {
            --tiers_[index(before)].anchors;
            ++tiers_[index(tier)].anchors;
        }
        order_.touch(handle->place, tier);
    }

    void touch_entry(Handle handle, TierEnum tier) noexcept {
        handle->payload->superseded = false;
        set_tier(handle, tier);
    }

    void touch_anchor(Entry& entry, TierEnum tier) noexcept {
        order_.touch(entry.place, tier);
        if (entry.anchor) anchors_.touch(entry.anchor);
    }

    // anchors ////////////////////////////////////////////////////////////////

    void anchor(ModelView model, Tokens tokens, TierEnum tier) {
        typename Anchors::Position position = anchors_.push(Record{}, OneTier::all);
        PROMPTKV_TRY {
            const Record record = link(model, tokens, tier);
            if (record.handle->anchor) {
                anchors_.remove(position);
                anchors_.touch(record.handle->anchor);
            } else {
                become_anchor(record, position);
            }
            set_tier(record.handle, std::max(tier, this->tier(record.handle)));
        }
        PROMPTKV_CATCH_ALL {
            anchors_.remove(position);
            PROMPTKV_RETHROW;
        }
    }

    void become_anchor(Record record, typename Anchors::Position position) noexcept {
        anchors_.key(position) = record;
        record.handle->anchor = position;
        ++tiers_[index(tier(record.handle))].anchors;
    }

    void no_longer_anchor(Handle handle) noexcept {
        if (!handle->anchor) return;
        anchors_.remove(std::exchange(handle->anchor, nullptr));
        --tiers_[index(tier(handle))].anchors;
    }

    void forget(Record record) noexcept {
        no_longer_anchor(record.handle);
        remove_record(record);
    }

    // storing ////////////////////////////////////////////////////////////////

    /// Whether no payload is to be stored; says why in `inserted`, and makes the anchor. One that is
    /// made already is not thrown away for an anchor.
    bool refused(ModelView model, Tokens tokens, std::size_t nbytes, TierEnum tier, Inserted& inserted, bool is_made) {
        PROMPTKV_ASSERT(index(tier) < tier_count);
        if (nbytes > options_.max_bytes || options_.max_bytes == 0) {
            inserted.outcome = Outcome::too_large;
            ++stats_.too_large;
            return true;
        }
        Space* space = find_space(model);
        if (!is_made && options_.keep_anchors && space != nullptr && served_beyond(*space, tokens)) {
            anchor_instead(*space, model, tokens, tier, inserted);
            inserted.outcome = Outcome::anchored;
            ++stats_.anchored;
            return true;
        }
        const std::size_t leased = account_->leased_bytes.load(std::memory_order_relaxed);
        std::size_t entries = account_->leased_entries.load(std::memory_order_relaxed);
        if (space != nullptr && entries > 0) {
            const Handle own = space->trie.find(tokens);
            if (own && own->payload != nullptr && own->payload->leased()) --entries;
        }
        if (leased > options_.max_bytes - nbytes || entries >= options_.max_entries) {
            inserted.outcome = Outcome::no_room;
            ++stats_.no_room;
            return true;
        }
        return false;
    }

    void anchor_instead(Space& space, ModelView model, Tokens tokens, TierEnum tier, Inserted& inserted) {
        const Handle own = space.trie.find(tokens);
        if (own && own->payload != nullptr) { // it was stored when nothing longer served it
            const auto position = anchors_.push(Record{}, OneTier::all);
            depart(Record{&space, own}, RemovalReason::absorbed);
            space.trie.hide(own);
            become_anchor(Record{&space, own}, position);
            set_tier(own, std::max(tier, this->tier(own)));
            ++inserted.absorbed;
            ++stats_.absorbed;
        } else {
            anchor(model, tokens, tier);
        }
    }

    /// Puts the payload at a linked key: nothing in here fails.
    void store(Record record, TierEnum tier, std::unique_ptr<Payload> payload, KV&& kv, std::size_t nbytes, Inserted& inserted) noexcept {
        const Handle handle = record.handle;
        inserted.outcome = Outcome::stored;
        if (handle->payload != nullptr) {
            depart(record, RemovalReason::replaced);
            inserted.outcome = Outcome::replaced;
        }
        ++(inserted.outcome == Outcome::stored ? stats_.inserted : stats_.replaced);
        no_longer_anchor(handle);
        order_.touch(handle->place, std::max(tier, this->tier(handle)));
        payload->nbytes = nbytes;
        payload->kv.emplace(std::move(kv));
        handle->payload = payload.release(); // so that it is asked; counted below
        const bool visible = show_or_hide(record);
        absorb(record, inserted, visible);
        if (options_.supersede) supersede(record, this->tier(handle));

        make_room(nbytes, 1, handle, inserted);

        ++size_;
        bytes_ += nbytes;
        record.space->nbytes += nbytes;
        ++tiers_[index(this->tier(handle))].entries;
        tiers_[index(this->tier(handle))].nbytes += nbytes;
        stats_.peak_nbytes = std::max(stats_.peak_nbytes, this->nbytes());
    }

    /// Hides from `longer` what cannot be cut at all.
    bool show_or_hide(Record record) noexcept {
        Trie& trie = record.space->trie;
        const bool visible = cuttable(record.handle, trie);
        visible ? trie.show(record.handle) : trie.hide(record.handle);
        return visible;
    }

    /// Whether an entry serves more than its whole key.
    [[nodiscard]] static bool cuttable(Handle handle, const Trie& trie) noexcept {
        const std::size_t length = trie.length(handle);
        return length > 1 && served_prefix(*handle->payload->kv, length, length - 1) > 0;
    }

    void absorb(Record record, Inserted& inserted, bool visible) noexcept {
        if (!visible) return;
        Trie& trie = record.space->trie;
        for (Handle prefix = trie.longest_prefix(record.handle), next; prefix; prefix = next) {
            next = trie.longest_prefix(prefix);
            if (prefix->payload != nullptr && serves(record.handle, trie, trie.length(prefix))) {
                absorb_one(Record{record.space, prefix}, tier(record.handle), inserted);
            }
        }
    }

    /// Takes the payload of a prefix entry that a new one of `tier` serves, unless that would cost its tier.
    void absorb_one(Record prefix, TierEnum tier, Inserted& inserted) noexcept {
        if (options_.keep_anchors && this->tier(prefix.handle) > tier) {
            if (!can_cut()) return;
            PROMPTKV_TRY {
                const auto position = anchors_.push(Record{}, OneTier::all);
                depart(prefix, RemovalReason::absorbed);
                prefix.space->trie.hide(prefix.handle);
                become_anchor(prefix, position);
            }
            PROMPTKV_CATCH_ALL {
                return; // no memory for an anchor: it keeps its payload
            }
        } else {
            drop(prefix, RemovalReason::absorbed);
        }
        ++inserted.absorbed;
        ++stats_.absorbed;
    }

    void supersede(Record record, TierEnum tier) noexcept {
        record.space->trie.for_each_unbranched_prefix(record.handle, [&](Handle prefix) {
            if (prefix->payload == nullptr || this->tier(prefix) > tier) return;
            order_.chill(prefix->place);
            if (!std::exchange(prefix->payload->superseded, true)) ++stats_.superseded;
        });
    }

    void make_room(std::size_t nbytes, std::size_t entries, Handle incoming, Inserted& inserted) noexcept {
        const std::uint64_t evicted = stats_.evicted;
        const std::uint64_t cut = stats_.cut;
        enforce({options_.max_bytes - nbytes, options_.max_entries - entries}, incoming);
        inserted.evicted += static_cast<std::size_t>(stats_.evicted - evicted);
        inserted.cut += static_cast<std::size_t>(stats_.cut - cut);
    }

    /// The same before there is a payload: what it will probably absorb goes first, where room is
    /// wanting. What it will replace counts as room, and goes only when the payload is there.
    void make_room_early(Record record, TierEnum tier, std::size_t nbytes, Inserted& inserted) noexcept {
        const Handle handle = record.handle;
        Trie& trie = record.space->trie;
        const bool replaces = handle->payload != nullptr && !handle->payload->leased();
        const std::size_t own = replaces ? handle->payload->nbytes : 0;
        const std::size_t more_bytes = nbytes > own ? nbytes - own : 0;
        const std::size_t more_entries = handle->payload != nullptr ? 0 : 1;
        const auto wanting = [&] {
            return this->nbytes() > options_.max_bytes - more_bytes || size_ > options_.max_entries - more_entries;
        };
        for (Handle prefix = trie.longest_prefix(handle), next; prefix && wanting(); prefix = next) {
            next = trie.longest_prefix(prefix);
            if (prefix->payload != nullptr && cuttable(prefix, trie)) {
                absorb_one(Record{record.space, prefix}, std::max(tier, this->tier(handle)), inserted);
            }
        }
        if (!wanting()) return;
        if (options_.supersede) supersede(record, std::max(tier, this->tier(handle)));
        make_room(more_bytes, more_entries, handle, inserted);
    }

    // eviction ///////////////////////////////////////////////////////////////

    /// Evicts until the limits hold or nothing may be taken; never `keep`.
    void enforce(CacheLimits limits, Handle keep) noexcept {
        for (;;) {
            if (size_ > limits.max_entries) {
                if (!evict(unlimited, keep)) return;
            } else if (nbytes() > limits.max_bytes) {
                if (!evict(nbytes() - limits.max_bytes, keep)) return;
            } else {
                return;
            }
        }
    }

    /// Takes `wanted` bytes from the victim, or all of it where that is `unlimited`. False: there is none.
    bool evict(std::size_t wanted, Handle keep) noexcept {
        const auto place = order_.victim([&](const Record& record) {
            return record.handle != keep && (record.handle->payload == nullptr || !record.handle->payload->leased());
        });
        if (!place) return false;
        Record victim = order_.key(place);
        if (victim.handle->payload == nullptr) {
            forget(victim);
        } else if (wanted == unlimited || !can_cut() || !cut(victim, wanted)) {
            evict_whole(victim);
        }
        return true;
    }

    void evict_whole(Record victim) noexcept {
        const Payload& payload = *victim.handle->payload;
        ++stats_.evicted;
        ++tiers_[index(tier(victim.handle))].evicted;
        stats_.tokens_evicted += victim.space->trie.length(victim.handle);
        stats_.bytes_evicted += payload.nbytes;
        if (!payload.used) ++stats_.evicted_unused;
        drop(victim, RemovalReason::evicted);
    }

    /// Cuts the victim's tail; false where it is to be dropped instead.
    bool cut(Record& victim, std::size_t wanted) noexcept {
        Trie& trie = victim.space->trie;
        Handle handle = victim.handle;
        Payload& payload = *handle->payload;
        if (payload.nbytes == 0) return false;
        const std::size_t length = trie.length(handle);
        const std::size_t target = cut_target(length, payload.nbytes, wanted);
        const std::size_t kept = served_prefix(*payload.kv, length, target);
        bool other_at_kept = false;
        for (Handle prefix = trie.longest_prefix(handle); prefix; prefix = trie.longest_prefix(prefix)) {
            const std::size_t at = trie.length(prefix);
            if (at < kept || at == 0) break;
            if (!prefix->anchor) {
                other_at_kept = at == kept;
            } else if (!serves(trie.nearest_elsewhere(handle, at), trie, at) &&
                       served_prefix(*payload.kv, length, at) == at) {
                return cut_to_anchor(victim, prefix);
            }
        }
        if (kept == 0 || other_at_kept || serves(trie.nearest_elsewhere(handle, kept), trie, kept)) return false;

        Payload* report = make_report(victim);
        if (listener_ && report == nullptr) return false;
        const std::size_t nbytes = truncated(payload, kept);
        PROMPTKV_TRY {
            if (nbytes < payload.nbytes) handle = trie.cut(handle, kept);
        }
        PROMPTKV_CATCH_ALL {
        }
        if (trie.length(handle) != kept) {
            delete report;
            return false;
        }
        victim.handle = handle;
        order_.key(handle->place).handle = handle;
        const std::size_t freed = payload.nbytes - nbytes;
        payload.nbytes = nbytes;
        payload.spoiled = false;
        show_or_hide(victim);
        count_cut(victim, report, tier(handle), length - kept, freed);
        tiers_[index(tier(handle))].nbytes -= freed;
        return true;
    }

    /// The longest length, a multiple of the granularity, that frees `wanted` bytes by the bytes a
    /// token, and an eighth of the tokens.
    [[nodiscard]] std::size_t cut_target(std::size_t length, std::size_t nbytes, std::size_t wanted) const noexcept {
        if (wanted >= nbytes) return 0;
        const std::size_t needed = wanted <= unlimited / (length + 1)
                                       ? (wanted * length + nbytes - 1) / nbytes
                                       : static_cast<std::size_t>(static_cast<double>(wanted) / static_cast<double>(nbytes) * static_cast<double>(length)) + 1;
        const std::size_t tokens = std::max(needed, (length + 7) / 8);
        if (tokens >= length) return 0;
        return (length - tokens) / options_.cut_granularity * options_.cut_granularity;
    }

    /// Cuts the victim down to an anchor that only it serves: the entry is that anchor's from now on.
    bool cut_to_anchor(Record& victim, Handle anchor) noexcept {
        Trie& trie = victim.space->trie;
        Payload& payload = *victim.handle->payload;
        const std::size_t length = trie.length(victim.handle);
        const std::size_t at = trie.length(anchor);
        const TierEnum tier_before = tier(victim.handle);
        Payload* report = make_report(victim);
        if (listener_ && report == nullptr) return false;
        const std::size_t before = payload.nbytes;
        const std::size_t nbytes = truncated(payload, at);
        if (nbytes >= before) {
            delete report;
            return false;
        }
        const std::size_t freed = before - nbytes;
        payload.nbytes = nbytes;
        payload.spoiled = false;
        victim.handle->payload = nullptr;
        remove_record(victim);
        no_longer_anchor(anchor);
        anchor->payload = &payload;
        const Record record{victim.space, anchor};
        show_or_hide(record);
        count_cut(record, report, tier_before, length - at, freed);
        --tiers_[index(tier_before)].entries;
        ++tiers_[index(tier(anchor))].entries;
        tiers_[index(tier_before)].nbytes -= before;
        tiers_[index(tier(anchor))].nbytes += payload.nbytes;
        return true;
    }

    /// Truncates and measures: the bytes that it holds then, or `unlimited` where it threw. It no longer
    /// fits its key, so it is spoiled until the caller has made up for that.
    [[nodiscard]] static std::size_t truncated(Payload& payload, std::size_t length) noexcept {
        payload.spoiled = true;
        PROMPTKV_TRY {
            truncate(*payload.kv, length);
            return kv_traits<KV>::nbytes(*payload.kv);
        }
        PROMPTKV_CATCH_ALL {
        }
        return unlimited;
    }

    /// A record of a cut for the listener; null where there is no listener, or no memory.
    [[nodiscard]] Payload* make_report(Record victim) noexcept {
        if (!listener_) return nullptr;
        auto* report = new (std::nothrow) Payload();
        if (report != nullptr) report->tokens = key_or_nothing(victim);
        return report;
    }

    void count_cut(Record record, Payload* report, TierEnum tier, std::size_t tokens, std::size_t freed) noexcept {
        ++stats_.cut;
        ++tiers_[index(tier)].cut;
        stats_.tokens_evicted += tokens;
        stats_.bytes_evicted += freed;
        bytes_ -= freed;
        record.space->nbytes -= freed;
        if (report == nullptr) return;
        report->tier = tier;
        report->bytes = freed;
        report->reason = RemovalReason::cut;
        append(*record.space, report);
    }

    // leaving ////////////////////////////////////////////////////////////////

    std::size_t remove(Record record, RemovalReason reason) noexcept {
        if (record.handle->payload != nullptr) {
            drop(record, reason);
            return 1;
        }
        forget(record);
        return 0;
    }

    std::size_t remove_all(Space& space, RemovalReason reason) noexcept {
        const std::size_t before = size_;
        space.trie.for_each([&](typename Trie::ConstHandle each) {
            const Record record{&space, space.trie.writable(each)};
            if (each->payload != nullptr) depart(record, reason);
            no_longer_anchor(record.handle);
            order_.remove(each->place);
        });
        space.trie.clear();
        spaces_to_release_ = true;
        return before - size_;
    }

    void drop(Record record, RemovalReason reason) noexcept {
        depart(record, reason);
        remove_record(record);
    }

    /// Takes the payload from its key and out of the account, to be reported and destroyed by `settle`.
    /// The key is left to the caller.
    void depart(Record record, RemovalReason reason) noexcept {
        Payload* payload = std::exchange(record.handle->payload, nullptr);
        payload->tier = tier(record.handle);
        payload->reason = reason;
        payload->bytes = payload->nbytes;
        if (listener_) payload->tokens = key_or_nothing(record);
        if (payload->leased()) {
            payload->orphaned = true;
            account_->orphaned_bytes.fetch_add(payload->nbytes, std::memory_order_relaxed);
        }
        --size_;
        bytes_ -= payload->nbytes;
        record.space->nbytes -= payload->nbytes;
        --tiers_[index(payload->tier)].entries;
        tiers_[index(payload->tier)].nbytes -= payload->nbytes;
        append(*record.space, payload);
    }

    [[nodiscard]] std::vector<Token> key_or_nothing(Record record) const noexcept {
        PROMPTKV_TRY {
            return record.space->trie.key(record.handle);
        }
        PROMPTKV_CATCH_ALL {
        }
        return {};
    }

    void append(Space& space, Payload* payload) noexcept {
        payload->space = &space;
        payload->next = nullptr;
        ++space.departed;
        (last_departed_ != nullptr ? last_departed_->next : departed_) = payload;
        last_departed_ = payload;
    }

    /// The last step of every change: keeps the number of anchors in bounds, reports what left and
    /// destroys it. What a listener or a destructor raises meanwhile is appended and comes after.
    void settle(const Record* keep = nullptr) noexcept {
        while (anchors_.size() > max_anchors()) forget(anchors_.key(anchors_.coldest(OneTier::all)));
        if (settling_) return;
        settling_ = true;
        while (departed_ != nullptr) {
            Payload* payload = departed_;
            departed_ = payload->next;
            if (departed_ == nullptr) last_departed_ = nullptr;
            Space* space = payload->space;
            if (listener_) {
                const bool to_move = payload->kv && !payload->spoiled && payload->reason != RemovalReason::taken && !payload->leased();
                Removal removal{space->model,    payload->tokens, payload->tier,
                                payload->bytes,  payload->reason, to_move ? &*payload->kv : nullptr};
                listener_(removal);
            }
            payload->leave_cache(*account_);
            --space->departed;
            if (space->departed == 0 && space->trie.empty()) spaces_to_release_ = true;
        }
        settling_ = false;
        if (!std::exchange(spaces_to_release_, false)) return;
        for (auto it = spaces_.begin(); it != spaces_.end();) {
            const bool release = (*it)->trie.empty() && (*it)->departed == 0 && (keep == nullptr || keep->space != it->get());
            it = release ? spaces_.erase(it) : std::next(it);
        }
    }

    CacheOptions options_;
    std::unordered_set<std::unique_ptr<Space>, SpaceHash, SpaceEqual> spaces_;
    Order order_;
    Anchors anchors_;
    std::shared_ptr<Account> account_;
    std::size_t size_ = 0;  // entries
    std::size_t bytes_ = 0; // of their payloads
    std::array<TierStats, tier_count> tiers_{};
    Stats stats_;
    std::function<void(Removal&)> listener_;
    Payload* departed_ = nullptr;
    Payload* last_departed_ = nullptr;
    std::size_t making_ = 0; // inserts that wait for `make`: their keys have neither payload nor anchor yet
    bool settling_ = false;
    bool spaces_to_release_ = false;
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
