// SPDX-License-Identifier: MIT
// CacheRemovals: how payloads leave a cache, and how that is told.
#ifndef PROMPTKV_DETAIL_CACHE_REMOVALS_HPP
#define PROMPTKV_DETAIL_CACHE_REMOVALS_HPP

#include <promptkv/cache_types.hpp>
#include <promptkv/detail/cache_records.hpp>
#include <promptkv/detail/exceptions.hpp>
#include <promptkv/detail/stored.hpp>
#include <promptkv/version.hpp>

#include <atomic>
#include <cstddef>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// The removals of a cache: a payload leaves its key and the account at once, and waits in `departed_`
/// until the cache is whole, to be reported and destroyed.
template <class KV, class Model, class Token, class TierEnum>
class CacheRemovals : public CacheRecords<KV, Model, Token, TierEnum> {
    using Base = CacheRecords<KV, Model, Token, TierEnum>;

protected:
    using Base::account_;
    using Base::anchors_;
    using Base::bytes_;
    using Base::forget;
    using Base::index;
    using Base::list_if_empty;
    using Base::max_anchors;
    using Base::no_longer_anchor;
    using Base::order_;
    using Base::release_empty_spaces;
    using Base::remove_record;
    using Base::size_;
    using Base::spaces_;
    using Base::tiers_;
    using typename Base::Record;
    using typename Base::Space;
    using typename Base::Trie;

public:
    using Base::Base;
    using typename Base::Payload;

    using Removal = promptkv::Removal<KV, Model, Token, TierEnum>;

    ~CacheRemovals() {
        listener_ = nullptr;
        settling_ = false;
        clear();
    }

    /// Removes everything; returns how many entries.
    std::size_t clear() noexcept {
        std::size_t entries = 0;
        for (Space* space : spaces_)
            entries += remove_all(*space, RemovalReason::cleared);
        settle();
        return entries;
    }

    /// What the caller wants to be called with each removal. As a std::function, which alone would be a
    /// twentieth of the time that a file takes to compile, but also for what can only be moved.
    struct Listener {
        virtual ~Listener() = default;
        virtual void operator()(Removal& removal) noexcept = 0;
        std::atomic<std::size_t> owners{1}; // the cache, and deliveries under way
    };
    using ListenerOwner = std::unique_ptr<Listener, Release>;

    /// Null for what is empty: a null pointer, or an empty std::function.
    template <class F>
    [[nodiscard]] static ListenerOwner make_listener(F f) {
        if constexpr (std::is_null_pointer_v<F>) {
            return nullptr;
        } else {
            static_assert(std::is_invocable_v<F&, Removal&>,
                          "a listener is called with a Removal&, or is nullptr");
            static_assert(std::is_nothrow_destructible_v<F>,
                          "a listener's destructor must not throw");
            if constexpr (std::is_constructible_v<bool, F&>) {
                if (!static_cast<bool>(f))
                    return nullptr;
            }
            struct Calling final : Listener {
                explicit Calling(F&& callable) : f(std::move(callable)) {}
                void operator()(Removal& removal) noexcept override { f(removal); }
                F f;
            };
            return ListenerOwner(new Calling(std::move(f)));
        }
    }

    /// Returns the former one.
    ListenerOwner on_removal(ListenerOwner listener) noexcept {
        listener_.swap(listener);
        return listener;
    }

    // delivery from outside ///////////////////////////////////////////////////

    /// Payloads that left, in the order in which they did.
    struct Departed {
        Payload* first = nullptr;
        Payload* last = nullptr;

        void append(Departed more) noexcept {
            if (more.first == nullptr)
                return;
            (last != nullptr ? last->next : first) = more.first;
            last = more.last;
        }
        /// Null where there is none.
        Payload* pop() noexcept {
            Payload* payload = first;
            if (payload == nullptr)
                return nullptr;
            first = payload->next;
            if (first == nullptr)
                last = nullptr;
            return payload;
        }
    };

    /// From now on nothing is reported or destroyed in here: what leaves is given away by
    /// `take_departed`, after every call that may remove.
    void defer_delivery() noexcept { settling_ = true; }

    /// What has left, to be given one by one to `deliver_taken`, without the lock that guards the rest.
    [[nodiscard]] Departed take_departed() noexcept {
        for (Payload* each = departed_.first; each != nullptr; each = each->next) {
            each->space->owners.fetch_add(1, std::memory_order_relaxed);
            --each->space->pins;
            list_if_empty(*each->space);
        }
        release_empty_spaces();
        return std::exchange(departed_, {});
    }

    /// The listener, for a delivery that it must outlive; null where there is none.
    [[nodiscard]] ListenerOwner share_listener() const noexcept {
        if (listener_ != nullptr)
            listener_->owners.fetch_add(1, std::memory_order_relaxed);
        return ListenerOwner(listener_.get());
    }

    static void deliver_taken(Payload* payload, Listener* listener) noexcept {
        Space* space = payload->space;
        deliver(payload, listener);
        Release{}(space);
    }

protected:
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
        list_if_empty(space);
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
        payload->tier = this->tier(record.handle);
        payload->reason = reason;
        payload->bytes = payload->nbytes;
        if (listener_ != nullptr)
            payload->tokens = key_or_nothing(record);
        payload->leave_entry(*account_);
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
        ++space.pins;
        departed_.append({payload, payload});
    }

    /// Reports a payload that left, and destroys it.
    static void deliver(Payload* payload, Listener* listener) noexcept {
        if (listener != nullptr) {
            const bool to_move = payload->kv && !payload->spoiled &&
                                 payload->reason != RemovalReason::taken && !payload->leased();
            Removal removal{payload->space->model, payload->tokens,
                            payload->tier,         payload->bytes,
                            payload->reason,       to_move ? &*payload->kv : nullptr};
            (*listener)(removal);
        }
        payload->leave_cache();
    }

    /// The last step of every change: keeps the number of anchors in bounds, reports what left and
    /// destroys it. What a listener or a destructor raises meanwhile is appended and comes after.
    void settle() noexcept {
        while (anchors_.size() > max_anchors())
            forget(anchors_.key(anchors_.coldest(TierEnum{})));
        if (settling_)
            return;
        settling_ = true;
        while (Payload* payload = departed_.pop()) {
            Space* space = payload->space;
            deliver(payload, listener_.get());
            --space->pins;
            list_if_empty(*space);
        }
        settling_ = false;
        release_empty_spaces();
    }

    ListenerOwner listener_;
    Departed departed_;
    bool settling_ = false;
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
