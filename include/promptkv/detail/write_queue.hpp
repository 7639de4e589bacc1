// SPDX-License-Identifier: MIT
// WriteQueue: what waits to be written, within a number of bytes.
#ifndef PROMPTKV_DETAIL_WRITE_QUEUE_HPP
#define PROMPTKV_DETAIL_WRITE_QUEUE_HPP

#include <promptkv/block_store.hpp>
#include <promptkv/detail/saturating.hpp>
#include <promptkv/version.hpp>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <list>
#include <mutex>
#include <span>
#include <unordered_map>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// Records that wait for the writer's thread, in their order. The front one may be in the writer's hands;
/// it counts and is found until it is written. `Item` has `name()`, `nbytes`, `number`, `info()`, `merge(same)` and
/// `covers(same)`: whether writing it is enough for both.
///
/// What leaves is destroyed outside of the lock: a block's destructor is the caller's code.
/// Thread safety: all functions; `take` and `finish` are the writer's.
template <class Item>
class WriteQueue {
public:
    using Clock = std::chrono::steady_clock;
    using Items = std::list<Item>;
    enum class Pushed { queued, present, full, closed };

    explicit WriteQueue(std::size_t max_bytes) noexcept : max_bytes_(max_bytes) {}

    // adding /////////////////////////////////////////////////////////////////

    /// Waits for room until the deadline, which may be the least time: then it never waits. `one` holds the item,
    /// and keeps it unless it is queued.
    Pushed push_by(Items& one, Clock::time_point deadline) {
        std::unique_lock lock(mutex_);
        const std::size_t nbytes = one.front().nbytes;
        const auto fits = [&] { return nbytes_ <= max_bytes_ && nbytes <= max_bytes_ - nbytes_; };
        if (deadline != (Clock::time_point::min)() && nbytes <= max_bytes_)
            changed_.wait_until(lock, deadline, [&] { return closed_ || fits(); });
        if (closed_)
            return Pushed::closed;
        if (const auto found = where_.find(one.front().name()); found != where_.end()) {
            const bool is_in_hand = in_hand_ && found->second == items_.begin();
            if (!is_in_hand)
                found->second->merge(one.front());
            if (!is_in_hand || found->second->covers(one.front()))
                return Pushed::present;
        }
        if (!fits())
            return Pushed::full;
        where_.insert_or_assign(one.front().name(), one.begin());
        nbytes_ += nbytes;
        one.front().number = ++pushed_;
        items_.splice(items_.end(), one);
        work_.notify_one();
        return Pushed::queued;
    }

    // asking /////////////////////////////////////////////////////////////////

    /// Calls `f(item)` under the lock; false where the name does not wait.
    template <class F>
    bool visit(const BlockName& name, F f) const {
        const std::lock_guard lock(mutex_);
        const auto found = where_.find(name);
        if (found == where_.end())
            return false;
        f(static_cast<const Item&>(*found->second));
        return true;
    }
    template <class F>
    void for_each(F f) const {
        const std::lock_guard lock(mutex_);
        for (const Item& item : items_)
            f(item);
    }
    [[nodiscard]] std::size_t nbytes() const {
        const std::lock_guard lock(mutex_);
        return nbytes_;
    }

    // removing ///////////////////////////////////////////////////////////////

    /// Removes what waits under these names, and waits until what is being written of them is written.
    std::size_t cancel(std::span<const BlockName> names) {
        Items gone;
        std::unique_lock lock(mutex_);
        for (const BlockName& name : names) {
            changed_.wait(lock, [&] { return !in_hand_ || items_.front().name() != name; });
            if (const auto found = where_.find(name); found != where_.end())
                remove(found->second, gone);
        }
        lock.unlock();
        changed_.notify_all();
        return gone.size();
    }

    /// Removes all, and waits until what is being written is written. Returns how many were removed.
    std::size_t cancel_all() {
        const std::size_t n = drop_all().size();
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [this] { return !in_hand_; });
        return n;
    }

    /// Removes what waits, the latest first, since earlier records are of use without later ones: until
    /// `freed(item)`, of those that it is above 0 for, adds up to `nbytes`. Returns the items.
    template <class Freed>
    Items drop(std::size_t nbytes, Freed freed) {
        Items gone;
        {
            const std::lock_guard lock(mutex_);
            const auto first = [this] {
                return in_hand_ ? std::next(items_.begin()) : items_.begin();
            };
            for (auto item = items_.end(); nbytes > 0 && item != first();) {
                --item;
                const std::size_t frees = freed(static_cast<const Item&>(*item));
                if (frees == 0)
                    continue;
                nbytes = less(nbytes, frees);
                remove(item++, gone);
            }
        }
        changed_.notify_all();
        return gone;
    }
    /// Removes all that waits.
    Items drop_all() {
        return drop(~std::size_t{0}, [](const Item&) { return std::size_t{1}; });
    }

    /// Waits until nothing waits of what waits now; false: the deadline came first.
    bool wait_written(Clock::time_point deadline) {
        std::unique_lock lock(mutex_);
        return changed_.wait_until(lock, deadline, [this, last = pushed_] {
            return items_.empty() || items_.front().number > last;
        });
    }

    /// From now on nothing is added, and the writer gets nothing.
    void close() {
        {
            const std::lock_guard lock(mutex_);
            closed_ = true;
        }
        changed_.notify_all();
        work_.notify_all();
    }

    // the writer /////////////////////////////////////////////////////////////

    /// The next item, once there is one, and nobody reads or somebody hurries. Null: the queue was closed.
    [[nodiscard]] const Item* take() {
        std::unique_lock lock(mutex_);
        work_.wait(lock, [this] {
            return closed_ || (!items_.empty() && (readers_ == 0 || hurries_ > 0));
        });
        if (closed_)
            return nullptr;
        in_hand_ = true;
        return &items_.front();
    }
    /// What was taken is written.
    void finish() {
        Items gone;
        {
            const std::lock_guard lock(mutex_);
            in_hand_ = false;
            remove(items_.begin(), gone);
        }
        changed_.notify_all();
    }
    /// Sleeps, unless the queue is closed or somebody hurries.
    void pause(std::chrono::duration<double> time) {
        // A clock counts to a few hundred years.
        constexpr std::chrono::duration<double> longest = std::chrono::hours(1'000'000);
        std::unique_lock lock(mutex_);
        changed_.wait_for(lock, (std::min)(time, longest),
                          [this] { return closed_ || hurries_ > 0; });
    }
    /// While it lives the writer neither pauses nor waits for readers.
    class Hurry {
    public:
        explicit Hurry(WriteQueue& queue) : queue_(queue) {
            {
                const std::lock_guard lock(queue_.mutex_);
                ++queue_.hurries_;
            }
            queue_.changed_.notify_all();
            queue_.work_.notify_one();
        }
        Hurry(const Hurry&) = delete;
        Hurry& operator=(const Hurry&) = delete;
        ~Hurry() {
            const std::lock_guard lock(queue_.mutex_);
            --queue_.hurries_;
        }

    private:
        WriteQueue& queue_;
    };

    /// While it lives the writer begins nothing, unless somebody hurries: reads go before writes.
    class Reading {
    public:
        explicit Reading(WriteQueue& queue) : queue_(queue) {
            const std::lock_guard lock(queue_.mutex_);
            ++queue_.readers_;
        }
        Reading(const Reading&) = delete;
        Reading& operator=(const Reading&) = delete;
        ~Reading() {
            {
                const std::lock_guard lock(queue_.mutex_);
                --queue_.readers_;
            }
            queue_.work_.notify_one();
        }

    private:
        WriteQueue& queue_;
    };

private:
    void remove(typename Items::iterator item, Items& gone) {
        nbytes_ -= item->nbytes;
        const auto found = where_.find(item->name());
        if (in_hand_ && item->name() == items_.front().name())
            found->second = items_.begin(); // it waited once more; what is being written stays
        else if (found->second == item)     // else it waits once more
            where_.erase(found);
        gone.splice(gone.end(), items_, item);
    }

    const std::size_t max_bytes_;
    mutable std::mutex mutex_;
    std::condition_variable work_;    // for the writer
    std::condition_variable changed_; // something left, or was closed
    Items items_;
    std::unordered_map<BlockName, typename Items::iterator> where_;
    std::size_t nbytes_ = 0;
    std::uint64_t pushed_ = 0;
    std::size_t readers_ = 0;
    std::size_t hurries_ = 0;
    bool in_hand_ = false;
    bool closed_ = false;
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
