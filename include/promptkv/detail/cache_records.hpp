// SPDX-License-Identifier: MIT
// CacheRecords: the keys and payloads of a cache, and the accounts kept of them.
#ifndef PROMPTKV_DETAIL_CACHE_RECORDS_HPP
#define PROMPTKV_DETAIL_CACHE_RECORDS_HPP

#include <promptkv/cache_order.hpp>
#include <promptkv/cache_types.hpp>
#include <promptkv/detail/exceptions.hpp>
#include <promptkv/detail/space_table.hpp>
#include <promptkv/detail/stored.hpp>
#include <promptkv/kv_traits.hpp>
#include <promptkv/prompt_trie.hpp>
#include <promptkv/stats.hpp>
#include <promptkv/tier.hpp>
#include <promptkv/version.hpp>

#include <array>
#include <atomic>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// What a cache holds, and the steps that change it with its accounts.
///
///     spaces_   a trie a model:  key -> Entry { place in order_, payload }   (an anchor has no payload)
///     order_    a queue a tier of all entries and anchors; anchors_ the anchors alone, as one tier
///
/// Every change of the cache is made in three parts: what can fail, the change itself, and `settle`
/// (CacheRemovals), which runs listeners and destructors when the cache is whole.
template <class KV, class Model, class Token, class TierEnum>
class CacheRecords {
protected:
    struct Space;

public:
    using ModelView =
        std::conditional_t<std::is_same_v<Model, std::string>, std::string_view, const Model&>;
    using Tokens = std::span<const Token>;
    using Payload = Stored<KV, Token, TierEnum, Space>;

protected:
    struct Record;
    using Order = CacheOrder<Record, TierEnum>;

    /// What the trie holds at a key.
    struct Entry {
        typename Order::Position place; // in order_
        typename Order::Position
            anchor;                 // in anchors_; null: an entry, or a key about to become one
        Payload* payload = nullptr; // null: an anchor
    };
    using Trie = PromptTrie<Entry, Token>;
    using Handle = typename Trie::Handle;

    /// What the queues hold: where a key is.
    struct Record {
        Space* space;
        Handle handle;
    };

public:
    explicit CacheRecords(CacheOptions options) : options_(options), account_(new Account) {}
    CacheRecords(const CacheRecords&) = delete;
    CacheRecords& operator=(const CacheRecords&) = delete;

    [[nodiscard]] CacheLimits limits() const noexcept {
        return {options_.max_bytes, options_.max_entries};
    }

    // observers //////////////////////////////////////////////////////////////

    [[nodiscard]] Account& account() const noexcept { return *account_; }
    [[nodiscard]] TierEnum tier(typename Trie::ConstHandle handle) const noexcept {
        return order_.tier(handle->place);
    }
    [[nodiscard]] std::size_t size() const noexcept { return size_; }
    [[nodiscard]] std::size_t nbytes() const noexcept {
        return bytes_ + account_->orphaned_bytes.load(std::memory_order_relaxed);
    }
    [[nodiscard]] std::size_t nbytes(ModelView model) const {
        const Space* space = find_space(model);
        return space != nullptr ? space->nbytes : 0;
    }

    [[nodiscard]] std::size_t index_nbytes() const noexcept {
        std::size_t bytes =
            order_.nbytes() + anchors_.nbytes() + size_ * (sizeof(Payload) - sizeof(KV));
        for (const Space* space : spaces_)
            bytes += space->trie.nbytes();
        return bytes + spaces_.nbytes();
    }

    [[nodiscard]] Stats stats() const noexcept {
        Stats stats = stats_;
        stats.bytes_leased = account_->leased_bytes.load(std::memory_order_relaxed);
        return stats;
    }

    [[nodiscard]] TierStats stats(TierEnum tier) const noexcept { return tiers_[index(tier)]; }

    template <class F>
    void for_each(F f) const {
        for (const Space* space : spaces_) {
            space->trie.for_each([&](typename Trie::ConstHandle handle) {
                if (handle->payload == nullptr)
                    return;
                const std::vector<Token> tokens = space->trie.key(handle);
                f(space->model, Tokens(tokens), tier(handle), handle->payload->nbytes,
                  std::as_const(*handle->payload->kv));
            });
        }
    }

    [[nodiscard]] bool check_invariants() const {
        std::size_t entries = 0, anchors = 0, linked = 0, bytes = 0;
        std::array<TierStats, tier_count> tiers{};
        bool honest = true; // a payload holds what it said when it was stored
        for (const Space* space : spaces_) {
            std::size_t space_bytes = 0;
            if (!space->trie.check_invariants() ||
                (space->trie.empty() && space->pins == 0 && !space->listed_empty))
                return false;
            space->trie.for_each([&](typename Trie::ConstHandle handle) {
                TierStats& of_tier = tiers[index(tier(handle))];
                if (const Payload* payload = handle->payload; payload != nullptr) {
                    ++entries;
                    space_bytes += payload->nbytes;
                    honest &= payload->kv && payload->nbytes == kv_traits<KV>::nbytes(*payload->kv);
                    ++of_tier.entries;
                    of_tier.nbytes += payload->nbytes;
                } else if (!handle->anchor) {
                    ++linked;
                } else {
                    ++anchors;
                    ++of_tier.anchors;
                }
            });
            if (space_bytes != space->nbytes)
                return false;
            bytes += space_bytes;
        }
        for (std::size_t i = 0; i < tier_count; ++i) {
            if (tiers[i].entries != tiers_[i].entries || tiers[i].nbytes != tiers_[i].nbytes ||
                tiers[i].anchors != tiers_[i].anchors)
                return false;
        }
        return honest && entries == size_ && anchors == anchors_.size() &&
               entries + anchors + linked == order_.size() && linked <= making_ &&
               bytes == bytes_ && anchors <= max_anchors() && order_.check_invariants() &&
               anchors_.check_invariants();
    }

protected:
    static constexpr std::size_t tier_count = tier_traits<TierEnum>::count;

    struct Space {
        Space(ModelView name, std::size_t hash_of_name) : model(name), hash(hash_of_name) {}
        const Model model;
        const std::size_t
            hash; // of the model, kept so that a release asks nothing of the caller's type
        Trie trie;
        std::size_t nbytes = 0;
        std::size_t pins = 0; // removals not reported yet, and inserts that wait for `make`
        Space* next_empty = nullptr;
        bool listed_empty = false;
        std::size_t slot = 0; // these two: of `spaces_`
        Space* next = nullptr;
        std::atomic<std::size_t> owners{
            1}; // `spaces_`, and removals that `take_departed` gave away
    };

    /// A key on its way in: its space, null where there is none yet, and its place in that.
    struct Target {
        Space* space = nullptr;
        typename Trie::Place place{};
    };

    [[nodiscard]] static std::size_t index(TierEnum tier) noexcept {
        return static_cast<std::size_t>(tier);
    }
    [[nodiscard]] std::size_t max_anchors() const noexcept { return 64 * (size_ + 1); }
    [[nodiscard]] bool can_cut() const noexcept {
        return TruncatablePayload<KV> && options_.cut_granularity > 0;
    }

    static void check_length([[maybe_unused]] const KV& kv,
                             [[maybe_unused]] std::size_t length) noexcept {
        if constexpr (MeasuredPayload<KV>)
            PROMPTKV_ASSERT(kv_traits<KV>::length(kv) == length);
    }

    static void truncate([[maybe_unused]] KV& kv, [[maybe_unused]] std::size_t n) {
        if constexpr (TruncatablePayload<KV>)
            kv_traits<KV>::truncate(kv, n);
    }

    [[nodiscard]] bool serves(typename Trie::ConstHandle handle, const Trie& trie,
                              std::size_t n) const noexcept {
        return handle && handle->payload != nullptr && handle->payload->kv &&
               served_prefix(*handle->payload->kv, trie.length(handle), n) == n;
    }

    [[nodiscard]] static std::size_t hash_of(ModelView model) {
        return std::hash<std::remove_cvref_t<ModelView>>{}(model);
    }

    [[nodiscard]] Space* find_space(ModelView model) const {
        return spaces_.find(model, hash_of(model));
    }

    [[nodiscard]] Target locate(ModelView model, Tokens tokens) const {
        Space* space = find_space(model);
        return space != nullptr ? Target{space, space->trie.locate(tokens)} : Target{};
    }

    /// Hides from `longer` what cannot be cut at all.
    bool show_or_hide(Record record) noexcept {
        Trie& trie = record.space->trie;
        const bool visible = serves_parts(record.handle, trie);
        visible ? trie.show(record.handle) : trie.hide(record.handle);
        return visible;
    }

    /// Whether an entry serves more than its whole key: of one token, the empty key.
    [[nodiscard]] static bool serves_parts(Handle handle, const Trie& trie) noexcept {
        const std::size_t length = trie.length(handle);
        if (length == 1)
            return PrefixReusable<KV>;
        return length > 1 && served_prefix(*handle->payload->kv, length, length - 1) > 0;
    }

    // keys ///////////////////////////////////////////////////////////////////

    /// The record at a key. Where there is none it is made, most recently used of its tier; it has no
    /// payload and is no anchor yet. Requires: `target` is locate(model, tokens).
    Record link(Target target, ModelView model, Tokens tokens, TierEnum tier) {
        if (target.space == nullptr) {
            std::unique_ptr<Space, Release> made(new Space(model, hash_of(model)));
            spaces_.add(made.get());
            Space* space = made.release();
            target = {space, space->trie.locate(tokens)};
        }
        Space* space = target.space;
        typename Order::Position place;
        PROMPTKV_TRY {
            if (const Handle found = space->trie.search(tokens, target.place).exact)
                return Record{space, found};
            place = order_.push(Record{space, {}}, tier);
            const Handle handle =
                space->trie.insert_or_assign(tokens, Entry{place, {}, nullptr}, target.place).first;
            space->trie.hide(handle);
            order_.key(place).handle = handle;
            return Record{space, handle};
        }
        PROMPTKV_CATCH_ALL {
            if (place)
                order_.remove(place);
            list_if_empty(*space);
            release_empty_spaces();
            PROMPTKV_RETHROW;
        }
        return {};
    }

    /// Takes a key back that was linked and got no payload.
    void unlink(Space& space, Tokens tokens) noexcept {
        const Handle handle = space.trie.find(tokens);
        if (handle && handle->payload == nullptr && !handle->anchor)
            remove_record(Record{&space, handle});
        list_if_empty(space);
    }

    void remove_record(Record record) noexcept {
        order_.remove(record.handle->place);
        record.space->trie.erase(record.handle);
        list_if_empty(*record.space);
    }

    /// Leaves a space without keys to `settle`.
    void list_if_empty(Space& space) noexcept {
        if (!space.trie.empty() || space.listed_empty)
            return;
        space.listed_empty = true;
        space.next_empty = std::exchange(empty_spaces_, &space);
    }

    void release_empty_spaces() noexcept {
        while (empty_spaces_ != nullptr) {
            Space* space = std::exchange(empty_spaces_, empty_spaces_->next_empty);
            space->listed_empty = false;
            if (!space->trie.empty() || space->pins > 0)
                continue;
            spaces_.remove(space);
        }
    }

    /// The tier of a key that is stored again in `tier`: it never falls.
    [[nodiscard]] TierEnum higher_tier(Handle handle, TierEnum tier) const noexcept {
        const TierEnum before = this->tier(handle);
        return before < tier ? tier : before;
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
        if (entry.anchor)
            anchors_.touch(entry.anchor);
    }

    // anchors ////////////////////////////////////////////////////////////////

    void anchor(Target target, ModelView model, Tokens tokens, TierEnum tier) {
        typename Order::Position position = anchors_.push(Record{}, TierEnum{});
        PROMPTKV_TRY {
            const Record record = link(target, model, tokens, tier);
            if (record.handle->anchor) {
                anchors_.remove(position);
                anchors_.touch(record.handle->anchor);
            } else {
                become_anchor(record, position);
            }
            set_tier(record.handle, higher_tier(record.handle, tier));
        }
        PROMPTKV_CATCH_ALL {
            anchors_.remove(position);
            PROMPTKV_RETHROW;
        }
    }

    void become_anchor(Record record, typename Order::Position position) noexcept {
        anchors_.key(position) = record;
        record.handle->anchor = position;
        ++tiers_[index(tier(record.handle))].anchors;
    }

    void no_longer_anchor(Handle handle) noexcept {
        if (!handle->anchor)
            return;
        anchors_.remove(std::exchange(handle->anchor, nullptr));
        --tiers_[index(tier(handle))].anchors;
    }

    void forget(Record record) noexcept {
        no_longer_anchor(record.handle);
        remove_record(record);
    }

    CacheOptions options_;
    SpaceTable<Space> spaces_;
    Order order_;
    Order anchors_;
    Account::Owner account_;
    std::size_t size_ = 0;  // entries
    std::size_t bytes_ = 0; // of their payloads
    std::array<TierStats, tier_count> tiers_{};
    Stats stats_;
    std::size_t making_ = 0;        // inserts that wait for `make`
    Space* empty_spaces_ = nullptr; // those that may be released
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
