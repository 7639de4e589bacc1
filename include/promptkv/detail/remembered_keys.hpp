// SPDX-License-Identifier: MIT
// RememberedKeys: the evicted keys that an index remembers, the last evicted first.
#ifndef PROMPTKV_DETAIL_REMEMBERED_KEYS_HPP
#define PROMPTKV_DETAIL_REMEMBERED_KEYS_HPP

#include <promptkv/config.hpp>
#include <promptkv/detail/hook_list.hpp>
#include <promptkv/detail/saturating.hpp>
#include <promptkv/version.hpp>

#include <cstddef>
#include <cstdint>
#include <utility>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// A list of records without a payload, and a clock: the bytes that were evicted so far. Records that leave
/// the list wait for a caller who may destroy them. It owns only those that wait.
/// Complexity: O(1), no allocation.
template <class R>
class RememberedKeys {
public:
    RememberedKeys() = default;
    RememberedKeys(const RememberedKeys&) = delete;
    RememberedKeys& operator=(const RememberedKeys&) = delete;
    ~RememberedKeys() { PROMPTKV_ASSERT(list_.coldest == nullptr && forgotten_ == nullptr); }

    void note_evicted(std::uint64_t nbytes) noexcept { evicted_ = more(evicted_, nbytes); }
    [[nodiscard]] std::uint64_t evicted() const noexcept { return evicted_; }

    void add(R& record) noexcept {
        record.remembered = true;
        record.evicted_at = evicted_;
        list_.push_hot(record);
        ++size_;
    }
    /// A remembered key stands for one that was evicted just now.
    void renew(R& record) noexcept {
        record.evicted_at = evicted_;
        list_.remove(record);
        list_.push_hot(record);
    }
    void take_off(R& record) noexcept {
        list_.remove(record);
        --size_;
        record.remembered = false;
        record.next = std::exchange(forgotten_, &record);
    }
    /// The key that was evicted first. Null: there is none.
    [[nodiscard]] R* oldest() const noexcept { return list_.coldest; }
    [[nodiscard]] std::size_t size() const noexcept { return size_; }
    /// Hands over the records that left the list, a chain for the caller to destroy; null: there is none.
    [[nodiscard]] R* take_forgotten() noexcept { return std::exchange(forgotten_, nullptr); }

    /// Whether the list has `size` records.
    [[nodiscard]] bool check_invariants(std::size_t size) const noexcept {
        std::size_t listed = 0;
        for (const R* record = list_.coldest; record != nullptr; record = record->hook.hotter)
            ++listed;
        return listed == size && size_ == size;
    }

private:
    HookList<R> list_; // the last evicted is the hottest
    std::size_t size_ = 0;
    R* forgotten_ = nullptr; // a chain
    std::uint64_t evicted_ = 0;
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
