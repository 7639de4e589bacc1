// SPDX-License-Identifier: MIT
// CacheCore: what LRUPromptCache does, behind its face.
#ifndef PROMPTKV_DETAIL_CACHE_CORE_HPP
#define PROMPTKV_DETAIL_CACHE_CORE_HPP

#include <promptkv/cache_types.hpp>
#include <promptkv/detail/cache_lookup.hpp>
#include <promptkv/detail/exceptions.hpp>
#include <promptkv/kv_traits.hpp>
#include <promptkv/version.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// The inserts and removals of a cache, on top of its lookups and evictions.
template <class KV, class Model, class Token, class TierEnum>
class CacheCore : public CacheLookup<KV, Model, Token, TierEnum> {
    using Base = CacheLookup<KV, Model, Token, TierEnum>;
    using Base::account_;
    using Base::anchors_;
    using Base::become_anchor;
    using Base::bytes_;
    using Base::can_cut;
    using Base::check_length;
    using Base::depart;
    using Base::drop;
    using Base::enforce;
    using Base::find_space;
    using Base::higher_tier;
    using Base::index;
    using Base::link;
    using Base::making_;
    using Base::no_longer_anchor;
    using Base::options_;
    using Base::order_;
    using Base::remove;
    using Base::remove_all;
    using Base::serves;
    using Base::serves_parts;
    using Base::set_tier;
    using Base::settle;
    using Base::show_or_hide;
    using Base::size_;
    using Base::stats_;
    using Base::tier_count;
    using Base::tiers_;
    using Base::touch_entry;
    using Base::truncate;
    using Base::unlink;
    using typename Base::Handle;
    using typename Base::Record;
    using typename Base::Space;
    using typename Base::Target;
    using typename Base::Trie;

public:
    using Base::Base;
    using Base::refresh;
    using typename Base::Found;
    using typename Base::ModelView;
    using typename Base::Payload;
    using typename Base::Tokens;

    // insertion //////////////////////////////////////////////////////////////

    Inserted insert(ModelView model, Tokens tokens, KV&& kv, TierEnum tier) {
        const std::size_t nbytes = kv_traits<KV>::nbytes(kv);
        check_length(kv, tokens.size());
        Inserted inserted;
        const Target target = this->locate(model, tokens);
        if (!refused(target, model, tokens, nbytes, tier, inserted, false)) {
            auto payload = std::make_unique<Payload>();
            const Record record = link(target, model, tokens, tier);
            store(record, tier, std::move(payload), std::move(kv), nbytes, inserted);
        }
        settle();
        return inserted;
    }

    /// `make()` fills `kv`, which is the caller's: what is made and then refused outlives the call.
    template <class Make>
    Inserted insert(ModelView model, Tokens tokens, std::size_t nbytes, TierEnum tier, Make& make,
                    std::optional<KV>& kv) {
        Inserted inserted;
        Target target = this->locate(model, tokens);
        if (refused(target, model, tokens, nbytes, tier, inserted, false)) {
            settle();
            return inserted;
        }
        auto payload = std::make_unique<Payload>();
        Record record = link(target, model, tokens, tier);
        make_room_early(record, tier, nbytes, inserted);
        Space& space = *record.space;
        ++space.pins;
        ++making_;
        PROMPTKV_TRY {
            settle(); // what went is destroyed before the new payload is made
            make();
        }
        PROMPTKV_CATCH_ALL {
            --making_;
            --space.pins;
            unlink(space, tokens);
            settle();
            PROMPTKV_RETHROW;
        }
        --making_;
        --space.pins;
        const std::size_t made = kv_traits<KV>::nbytes(*kv);
        check_length(*kv, tokens.size());
        target = {&space, space.trie.locate(tokens)}; // a listener may have changed everything
        if (!refused(target, model, tokens, made, tier, inserted, true)) {
            record = link(target, model, tokens, tier);
            store(record, tier, std::move(payload), std::move(*kv), made, inserted);
        } else {
            unlink(space, tokens);
        }
        settle();
        return inserted;
    }

    bool mark(ModelView model, Tokens tokens, TierEnum tier) {
        const Target target = options_.keep_anchors ? this->locate(model, tokens) : Target{};
        if (target.space == nullptr)
            return false;
        const auto found = target.space->trie.search(tokens, target.place);
        const Handle handle = found.exact;
        if (handle && handle->payload != nullptr) {
            touch_entry(handle, higher_tier(handle, tier));
            return true;
        }
        if (!served_beyond(target, tokens.size(), found))
            return false;
        this->anchor(target, model, tokens, tier);
        settle();
        return true;
    }

    // removal ////////////////////////////////////////////////////////////////

    std::size_t pop_prefixes(ModelView model, Tokens tokens) {
        Space* space = find_space(model);
        if (space == nullptr)
            return 0;
        std::vector<typename Trie::Handle> found;
        space->trie.for_each_prefix(tokens, [&](auto handle) {
            if (space->trie.length(handle) < tokens.size())
                found.push_back(handle);
        });
        std::size_t entries = 0;
        for (const auto handle : found)
            entries += remove(Record{space, handle}, RemovalReason::erased);
        settle();
        return entries;
    }

    bool erase(ModelView model, Tokens tokens) {
        Space* space = find_space(model);
        const auto handle = space != nullptr ? space->trie.find(tokens) : typename Trie::Handle{};
        if (!handle)
            return false;
        const bool entry = remove(Record{space, handle}, RemovalReason::erased) > 0;
        settle();
        return entry;
    }

    std::size_t erase_model(ModelView model) {
        Space* space = find_space(model);
        if (space == nullptr)
            return 0;
        const std::size_t entries = remove_all(*space, RemovalReason::erased);
        settle();
        return entries;
    }

    void take(const Found& found, std::optional<KV>& kv) {
        Payload* payload = found.handle->payload;
        const std::size_t length = found.space->trie.length(found.handle);
        refresh(found);
        PROMPTKV_TRY {
            if (found.reused < length)
                truncate(*payload->kv, found.reused);
        }
        PROMPTKV_CATCH_ALL {
            payload->spoiled = true;
            this->evict_whole(Record{found.space, found.handle});
            settle();
            PROMPTKV_RETHROW;
        }
        kv.emplace(std::move(*payload->kv));
        drop(Record{found.space, found.handle}, RemovalReason::taken);
        settle();
    }

private:
    /// Whether an entry that goes on beyond a key of `n` tokens serves it and could be cut down to it.
    [[nodiscard]] bool served_beyond(Target target, std::size_t n,
                                     const typename Trie::SearchResult& found) const noexcept {
        return target.space != nullptr && can_cut() && found.common_prefix == n &&
               serves(found.longer, target.space->trie, n);
    }

    // storing ////////////////////////////////////////////////////////////////

    /// Whether no payload is to be stored; says why in `inserted`, and makes the anchor. One that is
    /// made already is not thrown away for an anchor.
    bool refused(Target target, ModelView model, Tokens tokens, std::size_t nbytes, TierEnum tier,
                 Inserted& inserted, bool is_made) {
        PROMPTKV_ASSERT(index(tier) < tier_count);
        if (nbytes > options_.max_bytes || options_.max_bytes == 0) {
            inserted.outcome = Outcome::too_large;
            ++stats_.too_large;
            return true;
        }
        typename Trie::SearchResult found;
        if (target.space != nullptr)
            found = target.space->trie.search(tokens, target.place);
        if (!is_made && options_.keep_anchors && served_beyond(target, tokens.size(), found)) {
            anchor_instead(target, found.exact, model, tokens, tier, inserted);
            inserted.outcome = Outcome::anchored;
            ++stats_.anchored;
            return true;
        }
        const std::size_t leased = account_->leased_bytes.load(std::memory_order_acquire);
        std::size_t entries = account_->leased_entries.load(std::memory_order_acquire);
        if (found.exact && found.exact->payload != nullptr && found.exact->payload->leased())
            --entries;
        if (leased > options_.max_bytes - nbytes || entries >= options_.max_entries) {
            inserted.outcome = Outcome::no_room;
            ++stats_.no_room;
            return true;
        }
        return false;
    }

    void anchor_instead(Target target, Handle own, ModelView model, Tokens tokens, TierEnum tier,
                        Inserted& inserted) {
        if (own && own->payload != nullptr) { // it was stored when nothing longer served it
            leave_anchor(Record{target.space, own});
            set_tier(own, higher_tier(own, tier));
            ++inserted.absorbed;
            ++stats_.absorbed;
        } else {
            this->anchor(target, model, tokens, tier);
        }
    }

    /// Takes an entry's payload and leaves an anchor. Throws what the allocation throws, before that.
    void leave_anchor(Record record) {
        const auto position = anchors_.push(Record{}, TierEnum{});
        depart(record, RemovalReason::absorbed);
        record.space->trie.hide(record.handle);
        become_anchor(record, position);
    }

    /// Puts the payload at a linked key: nothing in here fails.
    void store(Record record, TierEnum tier, std::unique_ptr<Payload> payload, KV&& kv,
               std::size_t nbytes, Inserted& inserted) noexcept {
        const Handle handle = record.handle;
        inserted.outcome = Outcome::stored;
        if (handle->payload != nullptr) {
            depart(record, RemovalReason::replaced);
            inserted.outcome = Outcome::replaced;
        }
        ++(inserted.outcome == Outcome::stored ? stats_.inserted : stats_.replaced);
        no_longer_anchor(handle);
        order_.touch(handle->place, higher_tier(handle, tier));
        payload->nbytes = nbytes;
        payload->kv.emplace(std::move(kv));
        handle->payload = payload.release(); // so that it is asked; counted below
        if (show_or_hide(record))
            absorb(record, inserted);
        if (options_.supersede)
            supersede(record, this->tier(handle));

        make_room(nbytes, 1, handle, inserted);

        ++size_;
        bytes_ += nbytes;
        record.space->nbytes += nbytes;
        ++tiers_[index(this->tier(handle))].entries;
        tiers_[index(this->tier(handle))].nbytes += nbytes;
        if (stats_.peak_nbytes < this->nbytes())
            stats_.peak_nbytes = this->nbytes();
    }

    /// Takes the payloads of the prefix entries that the new one, which can be cut, serves.
    void absorb(Record record, Inserted& inserted) noexcept {
        Trie& trie = record.space->trie;
        for (Handle prefix = trie.longest_prefix(record.handle), next; prefix; prefix = next) {
            next = trie.longest_prefix(prefix);
            if (prefix->payload != nullptr && serves(record.handle, trie, trie.length(prefix))) {
                absorb_one(Record{record.space, prefix}, this->tier(record.handle), inserted);
            }
        }
    }

    /// Takes the payload of a prefix entry that a new one of `tier` serves, unless that would cost its tier.
    void absorb_one(Record prefix, TierEnum tier, Inserted& inserted) noexcept {
        if (options_.keep_anchors && this->tier(prefix.handle) > tier) {
            if (!can_cut())
                return;
            PROMPTKV_TRY {
                leave_anchor(prefix);
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
            if (prefix->payload == nullptr || this->tier(prefix) > tier)
                return;
            order_.chill(prefix->place);
            if (!std::exchange(prefix->payload->superseded, true))
                ++stats_.superseded;
        });
    }

    void make_room(std::size_t nbytes, std::size_t entries, Handle incoming,
                   Inserted& inserted) noexcept {
        const std::uint64_t evicted = stats_.evicted;
        const std::uint64_t cut = stats_.cut;
        enforce({options_.max_bytes - nbytes, options_.max_entries - entries}, incoming);
        inserted.evicted += static_cast<std::size_t>(stats_.evicted - evicted);
        inserted.cut += static_cast<std::size_t>(stats_.cut - cut);
    }

    /// The same before there is a payload: what it will probably absorb goes first, where room is
    /// wanting. What it will replace counts as room, and goes only when the payload is there.
    void make_room_early(Record record, TierEnum tier, std::size_t nbytes,
                         Inserted& inserted) noexcept {
        const Handle handle = record.handle;
        Trie& trie = record.space->trie;
        const bool replaces = handle->payload != nullptr && !handle->payload->leased();
        const std::size_t own = replaces ? handle->payload->nbytes : 0;
        const std::size_t more_bytes = nbytes > own ? nbytes - own : 0;
        const std::size_t more_entries = handle->payload != nullptr ? 0 : 1;
        const auto wanting = [&] {
            return this->nbytes() > options_.max_bytes - more_bytes ||
                   size_ > options_.max_entries - more_entries;
        };
        for (Handle prefix = trie.longest_prefix(handle), next; prefix && wanting();
             prefix = next) {
            next = trie.longest_prefix(prefix);
            if (prefix->payload != nullptr && serves_parts(prefix, trie)) {
                absorb_one(Record{record.space, prefix}, higher_tier(handle, tier), inserted);
            }
        }
        if (!wanting())
            return;
        if (options_.supersede)
            supersede(record, higher_tier(handle, tier));
        make_room(more_bytes, more_entries, handle, inserted);
    }
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
