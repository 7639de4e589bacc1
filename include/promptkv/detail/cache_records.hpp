// SPDX-License-Identifier: MIT
// CacheRecords: the keys and payloads of a cache, and the accounts kept of them.
#ifndef PROMPTKV_DETAIL_CACHE_RECORDS_HPP
#define PROMPTKV_DETAIL_CACHE_RECORDS_HPP

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

/// What a cache holds, and the steps that change it with its accounts.
///
///     spaces_    a trie a model:  key -> Entry { place in order_, payload }   (an anchor has no payload)
///     order_     a queue a tier of all entries and anchors; anchors_ one queue of the anchors alone
///     departed_  payloads that left, until that is reported and they are destroyed
///
/// Every change of the cache is made in three parts: what can fail, the change itself, and `settle`,
/// which runs listeners and destructors when the cache is whole.
template <class KV, class Model, class Token, class TierEnum>
class CacheRecords {
protected:
    struct Space;

public:
    using ModelView =
        std::conditional_t<std::is_same_v<Model, std::string>, std::string_view, const Model&>;
    using Tokens = std::span<const Token>;
    using Payload = Stored<KV, Token, TierEnum, Space>;

    struct Removal {
        const Model& model;
        std::span<const Token>
            tokens; ///< its key, for a cut the one before; empty where memory was wanting
        TierEnum tier;
        std::size_t bytes; ///< what left: of a cut, what it freed
        RemovalReason reason;
        KV* payload; ///< to move from; null where it is leased, or was cut or taken
    };

protected:
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
    explicit CacheRecords(CacheOptions options) : options_(options), account_(new Account) {}
    CacheRecords(const CacheRecords&) = delete;
    CacheRecords& operator=(const CacheRecords&) = delete;
    ~CacheRecords() {
        listener_ = nullptr;
        clear();
    }

    /// Removes everything; returns how many entries.
    std::size_t clear() noexcept {
        std::size_t entries = 0;
        for (const auto& space : spaces_)
            entries += remove_all(*space, RemovalReason::cleared);
        settle();
        return entries;
    }

    void on_removal(std::function<void(Removal&)> listener) noexcept {
        listener_ = std::move(listener);
    }

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
        for (const auto& space : spaces_)
            bytes += sizeof(Space) + space->trie.nbytes();
        return bytes;
    }

    [[nodiscard]] Stats stats() const noexcept {
        Stats stats = stats_;
        stats.bytes_leased = account_->leased_bytes.load(std::memory_order_relaxed);
        return stats;
    }

    [[nodiscard]] TierStats stats(TierEnum tier) const noexcept { return tiers_[index(tier)]; }

    template <class F>
    void for_each(F f) const {
        for (const auto& space : spaces_) {
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
        for (const auto& space : spaces_) {
            std::size_t space_bytes = 0;
            if (!space->trie.check_invariants() ||
                (space->trie.empty() && space->departed == 0 && !spaces_to_release_))
                return false;
            space->trie.for_each([&](typename Trie::ConstHandle handle) {
                TierStats& of_tier = tiers[index(tier(handle))];
                if (const Payload* payload = handle->payload; payload != nullptr) {
                    ++entries;
                    space_bytes +=
                        payload->kv && payload->nbytes == kv_traits<KV>::nbytes(*payload->kv)
                            ? payload->nbytes
                            : 1;
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
        return entries == size_ && anchors == anchors_.size() &&
               entries + anchors + linked == order_.size() && linked <= making_ &&
               bytes == bytes_ && anchors <= max_anchors() && order_.check_invariants() &&
               anchors_.check_invariants();
    }

protected:
    static constexpr std::size_t tier_count = tier_traits<TierEnum>::count;

    struct Space {
        explicit Space(ModelView name) : model(name) {}
        const Model model;
        Trie trie;
        std::size_t nbytes = 0;
        std::size_t departed = 0; // removals that are not reported yet
    };

    struct SpaceHash {
        using is_transparent = void;
        std::size_t operator()(ModelView model) const {
            return std::hash<std::remove_cvref_t<ModelView>>{}(model);
        }
        std::size_t operator()(const std::unique_ptr<Space>& space) const {
            return (*this)(ModelView(space->model));
        }
    };
    struct SpaceEqual {
        using is_transparent = void;
        bool operator()(const std::unique_ptr<Space>& a, const std::unique_ptr<Space>& b) const {
            return a->model == b->model;
        }
        bool operator()(ModelView a, const std::unique_ptr<Space>& b) const {
            return a == ModelView(b->model);
        }
        bool operator()(const std::unique_ptr<Space>& a, ModelView b) const {
            return ModelView(a->model) == b;
        }
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

    [[nodiscard]] Space* find_space(ModelView model) const {
        const auto found = spaces_.find(model);
        return found != spaces_.end() ? found->get() : nullptr;
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

    // keys ///////////////////////////////////////////////////////////////////

    /// The record at a key. Where there is none it is made, most recently used of its tier; it has no
    /// payload and is no anchor yet.
    Record link(ModelView model, Tokens tokens, TierEnum tier) {
        Space* space = find_space(model);
        const bool is_new = space == nullptr;
        if (is_new)
            space = spaces_.insert(std::make_unique<Space>(model)).first->get();
        PROMPTKV_TRY {
            if (const Handle found = space->trie.find(tokens))
                return Record{space, found};
            typename Order::Position place = order_.push(Record{space, {}}, tier);
            PROMPTKV_TRY {
                const Handle handle =
                    space->trie.insert_or_assign(tokens, Entry{place, {}, nullptr}).first;
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
            if (is_new)
                release(space);
            PROMPTKV_RETHROW;
        }
        return {};
    }

    /// Takes a key back that was linked and got no payload.
    void unlink(ModelView model, Tokens tokens) {
        Space* space = find_space(model);
        const Handle handle = space != nullptr ? space->trie.find(tokens) : Handle{};
        if (handle && handle->payload == nullptr && !handle->anchor)
            remove_record(Record{space, handle});
    }

    void remove_record(Record record) noexcept {
        order_.remove(record.handle->place);
        record.space->trie.erase(record.handle);
        if (record.space->trie.empty())
            spaces_to_release_ = true;
    }

    void release(const Space* space) noexcept {
        const auto found = std::find_if(spaces_.begin(), spaces_.end(),
                                        [&](const auto& each) { return each.get() == space; });
        if (found != spaces_.end())
            spaces_.erase(found);
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
        if (!handle->anchor)
            return;
        anchors_.remove(std::exchange(handle->anchor, nullptr));
        --tiers_[index(tier(handle))].anchors;
    }

    void forget(Record record) noexcept {
        no_longer_anchor(record.handle);
        remove_record(record);
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
            if (each->payload != nullptr)
                depart(record, reason);
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
        if (listener_)
            payload->tokens = key_or_nothing(record);
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
        PROMPTKV_CATCH_ALL {}
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
        while (anchors_.size() > max_anchors())
            forget(anchors_.key(anchors_.coldest(OneTier::all)));
        if (settling_)
            return;
        settling_ = true;
        while (departed_ != nullptr) {
            Payload* payload = departed_;
            departed_ = payload->next;
            if (departed_ == nullptr)
                last_departed_ = nullptr;
            Space* space = payload->space;
            if (listener_) {
                const bool to_move = payload->kv && !payload->spoiled &&
                                     payload->reason != RemovalReason::taken && !payload->leased();
                Removal removal{space->model,   payload->tokens, payload->tier,
                                payload->bytes, payload->reason, to_move ? &*payload->kv : nullptr};
                listener_(removal);
            }
            payload->leave_cache(*account_);
            --space->departed;
            if (space->departed == 0 && space->trie.empty())
                spaces_to_release_ = true;
        }
        settling_ = false;
        if (!std::exchange(spaces_to_release_, false))
            return;
        for (auto it = spaces_.begin(); it != spaces_.end();) {
            const bool release = (*it)->trie.empty() && (*it)->departed == 0 &&
                                 (keep == nullptr || keep->space != it->get());
            it = release ? spaces_.erase(it) : std::next(it);
        }
    }

    CacheOptions options_;
    std::unordered_set<std::unique_ptr<Space>, SpaceHash, SpaceEqual> spaces_;
    Order order_;
    Anchors anchors_;
    Account::Owner account_;
    std::size_t size_ = 0;  // entries
    std::size_t bytes_ = 0; // of their payloads
    std::array<TierStats, tier_count> tiers_{};
    Stats stats_;
    std::function<void(Removal&)> listener_;
    Payload* departed_ = nullptr;
    Payload* last_departed_ = nullptr;
    std::size_t making_ =
        0; // inserts that wait for `make`: their keys have neither payload nor anchor yet
    bool settling_ = false;
    bool spaces_to_release_ = false;
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
