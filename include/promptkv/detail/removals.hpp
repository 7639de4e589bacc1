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
    using Removal = promptkv::Removal<typename R::KV, typename R::Model, typename R::Token,
                                      typename R::TierEnum>;
    using Listener = std::function<void(Removal&)>;

    Removals() = default;
    Removals(const Removals&) = delete;
    Removals& operator=(const Removals&) = delete;
    ~Removals() { PROMPTKV_ASSERT(first_ == nullptr); }

    /// Takes over a record that left.
    void push(R& record) noexcept {
        record.home->owners.fetch_add(1, std::memory_order_relaxed);
        record.next = nullptr;
        *end_ = &record;
        end_ = &record.next;
    }

    /// Reports each record and destroys it with its payload; forgotten keys are destroyed, and not reported.
    /// Calls `unlocked()` before, without the lock, and maybe again later.
    /// Only the index is touched under the lock, and one key at a time is read from there.
    /// Requires: `lock` is locked. It is not when this returns, nor while listeners and destructors run.
    template <class Index, class Mutex, class F>
    void deliver(Index& index, Mutex& lock, std::shared_ptr<const Listener> listener,
                 F unlocked) noexcept {
        R* forgotten = index.take_forgotten();
        R* forgotten_later = nullptr;
        if (listener != nullptr) {
            while (R* record = first_) {
                first_ = record->next;
                if (record->node != nullptr) {
                    auto key = index.copy_of_key(*record->node);
                    index.unlink(*record);
                    record->keep(std::move(key));
                }
                lock.unlock();
                unlocked();
                report(*record, *listener);
                destroy(record);
                lock.lock();
            }
            forgotten_later = index.take_forgotten();
        }
        lock.unlock();
        unlocked();
        destroy_all(std::exchange(first_, nullptr));
        destroy_all(forgotten);
        destroy_all(forgotten_later);
    }

private:
    static void report(R& record, const Listener& listener) noexcept {
        using Tokens = typename R::Tokens;
        const bool can_move = record.payload != nullptr && record.payload->has_kv &&
                              record.reason != RemovalReason::taken;
        Removal removal{record.home->model,
                        record.keeps_tokens ? Tokens(*record.left_tokens) : Tokens(),
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
    static void destroy_all(R* chain) noexcept {
        while (chain != nullptr)
            destroy(std::exchange(chain, chain->next));
    }

    R* first_ = nullptr;
    R** end_ = &first_; // where the next one is linked
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
