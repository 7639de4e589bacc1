// SPDX-License-Identifier: MIT
// Removals: what left during a call. It is reported, then destroyed, last of all.
#ifndef PROMPTKV_DETAIL_REMOVALS_HPP
#define PROMPTKV_DETAIL_REMOVALS_HPP

#include <promptkv/cache_types.hpp>
#include <promptkv/version.hpp>

#include <atomic>
#include <functional>
#include <memory>
#include <utility>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// The records that left during one call, in their order. Each call has its own, so that a listener or
/// a destructor may make calls, which deliver what they removed before they return.
template <class R>
class Removals {
public:
    using Listener = std::function<void(
        Removal<typename R::KV, typename R::Model, typename R::Token, typename R::TierEnum>&)>;

    Removals() = default;
    Removals(const Removals&) = delete;
    Removals& operator=(const Removals&) = delete;
    ~Removals() { PROMPTKV_ASSERT(first_ == nullptr); }

    /// Takes over a record that left.
    void push(R& record) noexcept {
        record.home->owners.fetch_add(1, std::memory_order_relaxed);
        record.next = nullptr;
        (last_ != nullptr ? last_->next : first_) = &record;
        last_ = &record;
    }

    /// Reports each record and destroys it with its payload. `lock` is locked before and afterwards not;
    /// only the index is touched under it, and one key at a time is read from there.
    template <class Index, class Mutex>
    void deliver(Index& index, Mutex& lock, std::shared_ptr<const Listener> listener) noexcept {
        take_forgotten(index);
        if (listener == nullptr) {
            lock.unlock();
            while (R* record = pop())
                destroy(record);
            destroy_forgotten();
            return;
        }
        while (R* record = pop()) {
            if (record->node != nullptr) {
                auto key = index.copy_of_key(*record->node);
                index.unlink(*record);
                record->keep(std::move(key));
            }
            lock.unlock();
            report(*record, *listener);
            destroy(record);
            lock.lock();
        }
        take_forgotten(index);
        lock.unlock();
        destroy_forgotten();
    }

private:
    R* pop() noexcept {
        R* record = first_;
        if (record != nullptr) {
            first_ = record->next;
            if (first_ == nullptr)
                last_ = nullptr;
        }
        return record;
    }

    /// Takes over the keys that the index forgot, and lets it forget what is too many: they are destroyed, and
    /// not reported.
    template <class Index>
    void take_forgotten(Index& index) noexcept {
        index.forget_surplus();
        while (R* forgotten = index.pop_forgotten())
            forgotten->next = std::exchange(forgotten_, forgotten);
    }
    void destroy_forgotten() noexcept {
        while (R* record = forgotten_) {
            forgotten_ = record->next;
            destroy(record);
        }
    }

    static void report(R& record, const Listener& listener) noexcept {
        const std::span<const typename R::Token> tokens =
            record.keeps_tokens ? std::span<const typename R::Token>(*record.left_tokens)
                                : std::span<const typename R::Token>();
        const bool can_move = record.payload != nullptr && record.payload->has_kv &&
                              record.reason != RemovalReason::taken;
        Removal<typename R::KV, typename R::Model, typename R::Token, typename R::TierEnum> removal{
            record.home->model,
            tokens,
            record.left_kept,
            record.tier,
            record.left_bytes,
            record.reason,
            can_move ? std::addressof(record.payload->kv) : nullptr};
        listener(removal);
    }

    static void destroy(R* record) noexcept {
        if (record->payload != nullptr) {
            record->payload->destroy_kv();
            record->payload->drop(R::Payload::in_cache);
        }
        record->home->release();
        delete record;
    }

    R* first_ = nullptr;
    R* last_ = nullptr;
    R* forgotten_ = nullptr; // a chain
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
