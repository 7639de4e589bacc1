// SPDX-License-Identifier: MIT
// LruShadow: what LRU would have served at several budgets at once.
#ifndef PROMPTKV_DETAIL_LRU_SHADOW_HPP
#define PROMPTKV_DETAIL_LRU_SHADOW_HPP

#include <promptkv/version.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// Counts the hits of LRU caches of several sizes, without keeping any of them.
///
/// LRU holds the tokens that were used most recently. So it holds a run of tokens exactly if the tokens
/// used since the run's last use are fewer than fit. The tokens are kept in slots by their last use, the
/// oldest slot first; each size knows the first slot that it still holds, in part.
///
/// Exact up to a part of 512 of the smallest size; where the largest size is much larger, less so for what
/// was used long ago. Memory: at most 65,536 slots. Complexity: O(log slots + sizes) a run of tokens.
class LruShadow {
public:
    struct Size {
        double tokens = 0; // how many fit
        double hits = 0;   // tokens, so far
        double live = 0;   // in the slots from `from` on
        std::size_t from = 0;
    };

    explicit LruShadow(std::size_t sizes) : sizes_(sizes), slots_(1) {}

    /// A request begins. `number` grows from request to request.
    void next_request(std::uint64_t number) {
        const double smallest = std::ranges::min_element(sizes_, {}, &Size::tokens)->tokens;
        if (slots_.back().tokens <= smallest / 512)
            return; // a slot holds whole requests
        if (slots_.size() >= max_slots)
            coarsen();
        slots_.push_back(Slot{number, 0});
    }

    /// The request uses a run of tokens whose last use was at request `last`; 0: there was none. Of a path
    /// the runs come from the root on: what LRU holds of it is a prefix. `asked`: tokens of the run that
    /// count as hits.
    void use(std::uint64_t last, double tokens, double asked) noexcept {
        const std::size_t slot = last != 0 ? slot_of(last) : slots_.size();
        // Edges that were joined may have been used at different times: a slot may have fewer.
        const double found = slot < slots_.size() ? (std::min)(tokens, slots_[slot].tokens) : 0;
        if (slot < slots_.size())
            slots_[slot].tokens -= found;
        for (Size& size : sizes_) {
            if (slot == slots_.size() || slot < size.from) {
                size.live += tokens;
                continue;
            }
            if (slot > size.from) {
                size.hits += asked;
            } else {
                const double too_many = (std::max)(0.0, size.live - size.tokens);
                const double held = slots_[slot].tokens + found - too_many;
                size.hits += std::clamp(held, 0.0, asked);
            }
            size.live += tokens - found;
        }
        slots_.back().tokens += tokens;
        shed();
    }

    [[nodiscard]] std::vector<Size>& sizes() noexcept { return sizes_; }
    [[nodiscard]] const std::vector<Size>& sizes() const noexcept { return sizes_; }
    [[nodiscard]] std::size_t nbytes() const noexcept {
        return slots_.capacity() * sizeof(Slot) + sizes_.capacity() * sizeof(Size);
    }

private:
    struct Slot {
        std::uint64_t first = 0; // request
        double tokens = 0;       // whose last use lies in it
    };

    static constexpr std::size_t max_slots = 1U << 16U;

    /// The slot of a request; the number of slots if it is no longer known.
    [[nodiscard]] std::size_t slot_of(std::uint64_t request) const noexcept {
        if (request < slots_.front().first)
            return slots_.size();
        const auto behind = std::ranges::upper_bound(slots_, request, {}, &Slot::first);
        return static_cast<std::size_t>(behind - slots_.begin()) - 1;
    }

    /// The oldest slots leave a size that is full; slots that no size holds are dropped.
    void shed() noexcept {
        std::size_t unused = slots_.size();
        for (Size& size : sizes_) {
            while (size.from + 1 < slots_.size() &&
                   size.live - slots_[size.from].tokens >= size.tokens)
                size.live -= slots_[size.from++].tokens;
            unused = (std::min)(unused, size.from);
        }
        constexpr std::size_t many = 4096;
        if (unused < many)
            return;
        slots_.erase(slots_.begin(), slots_.begin() + static_cast<std::ptrdiff_t>(unused));
        for (Size& size : sizes_)
            size.from -= unused;
    }

    /// Of the older half of the slots each two become one.
    void coarsen() noexcept {
        const std::size_t half = slots_.size() / 4 * 2;
        for (Size& size : sizes_) {
            if (size.from >= half) {
                size.from -= half / 2;
                continue;
            }
            if (size.from % 2 == 1)
                size.live += slots_[size.from - 1].tokens;
            size.from /= 2;
        }
        for (std::size_t i = 0; i < half / 2; ++i)
            slots_[i] = {slots_[2 * i].first, slots_[2 * i].tokens + slots_[2 * i + 1].tokens};
        const auto begin = slots_.begin();
        slots_.erase(begin + static_cast<std::ptrdiff_t>(half / 2),
                     begin + static_cast<std::ptrdiff_t>(half));
    }

    std::vector<Size> sizes_;
    std::vector<Slot> slots_;
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
