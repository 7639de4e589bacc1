// SPDX-License-Identifier: MIT
// ChildIndex: the children of one trie node, found by token and ordered by their nearest value.
#ifndef PROMPTKV_DETAIL_CHILD_INDEX_HPP
#define PROMPTKV_DETAIL_CHILD_INDEX_HPP

#include <promptkv/config.hpp>
#include <promptkv/detail/exceptions.hpp>
#include <promptkv/version.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <initializer_list>
#include <limits>
#include <memory>
#include <new>
#include <utility>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// A per-process secret, so that chosen tokens cannot force collisions: the addresses of the process
/// and the table, and the time in nanoseconds. Source: abseil seeds its hashes by an address.
[[nodiscard]] inline std::uint64_t hash_secret(const void* table) noexcept {
#ifdef TIME_UTC
    std::timespec now{};
    std::timespec_get(&now, TIME_UTC);
    const auto seconds = static_cast<std::uint64_t>(now.tv_sec);
    const auto part = static_cast<std::uint64_t>(now.tv_nsec);
#else // MinGW has no timespec_get
    const auto seconds = static_cast<std::uint64_t>(std::time(nullptr));
    const auto part = static_cast<std::uint64_t>(std::clock());
#endif
    std::uint64_t secret = reinterpret_cast<std::uintptr_t>(table);
    for (const std::uint64_t more :
         {std::uint64_t{reinterpret_cast<std::uintptr_t>(&part)},
          std::uint64_t{reinterpret_cast<std::uintptr_t>(&hash_secret)}, seconds, part}) {
        secret = (secret ^ more) * 0x9e3779b97f4a7c15U;
        secret ^= secret >> 29U;
    }
    return secret;
}

/// The children of one node.
///
///     slots   [ child, nearest, token | ... ]    a binary heap: slot 0 has the nearest value
///     table   token -> child                     only above `scan_limit` children
///
/// `nearest` is the depth of the nearest shown value at or below the child; `hidden` if entries are there,
/// and none is shown; `none` if no entries are there.
/// A node keeps its slot number in `Node::slot`. Up to `scan_limit` children are found by a scan of
/// 16 bytes a child; beyond, by linear probing in a table whose hash is keyed by a secret.
///
/// Exceptions: only `reserve` throws, and changes nothing then.
template <class Node, class Token>
class ChildIndex {
public:
    using Nearest = std::uint32_t;
    static constexpr Nearest none = (std::numeric_limits<Nearest>::max)();
    static constexpr Nearest hidden = none - 1;
    static constexpr std::uint32_t scan_limit = 16;

    [[nodiscard]] std::uint32_t size() const noexcept { return size_; }
    [[nodiscard]] Node* operator[](std::uint32_t slot) const noexcept { return slots_[slot].child; }
    [[nodiscard]] Nearest nearest_depth() const noexcept {
        return size_ > 0 ? slots_[0].nearest : none;
    }

    /// The child whose subtree has the nearest shown value; null if none has one.
    [[nodiscard]] Node* nearest() const noexcept {
        return nearest_depth() < hidden ? slots_[0].child : nullptr;
    }
    [[nodiscard]] Nearest nearest_depth(std::uint32_t slot) const noexcept {
        return slots_[slot].nearest;
    }
    /// Whether entries are below one child alone; it is in slot 0. O(1).
    [[nodiscard]] bool one_has_entries() const noexcept {
        return nearest_depth() != none && (size_ < 2 || slots_[1].nearest == none) &&
               (size_ < 3 || slots_[2].nearest == none);
    }

    /// The nearest among the children except the one at `slot`. O(1): it is in one of the first 3 slots.
    [[nodiscard]] Node* nearest_except(std::uint32_t slot) const noexcept {
        if (slot != 0)
            return nearest();
        const Slot* best = nullptr;
        for (std::uint32_t i = 1; i < size_ && i <= 2; ++i) {
            if (slots_[i].nearest < hidden &&
                (best == nullptr || slots_[i].nearest < best->nearest))
                best = &slots_[i];
        }
        return best != nullptr ? best->child : nullptr;
    }

    /// The child whose edge begins with `token`; null if there is none. O(1).
    [[nodiscard]] Node* find(Token token) const noexcept {
        if (table_)
            return table_->find(token);
        for (std::uint32_t i = 0; i < size_; ++i) {
            if (slots_[i].token == token)
                return slots_[i].child;
        }
        return nullptr;
    }

    /// Makes room for `more` children, so that as many calls of `add` cannot fail. Amortised O(1).
    void reserve(std::uint32_t more) {
        const std::uint32_t wanted = size_ + more;
        std::unique_ptr<Table> table;
        if (wanted > scan_limit && (!table_ || !table_->fits(wanted)))
            table = make_table(wanted);
        if (wanted > capacity_) {
            const std::uint32_t capacity = (std::max)(wanted, capacity_ + capacity_ / 2);
            set_slots(std::unique_ptr<Slot[]>(new Slot[capacity]), capacity);
        }
        if (table)
            table_ = std::move(table);
    }

    /// Adds a child. Requires: room, and no child with this token. O(log size).
    void add(Token token, Node* child, Nearest nearest) noexcept {
        PROMPTKV_ASSERT(size_ < capacity_);
        slots_[size_] = Slot{child, nearest, token};
        child->slot = size_;
        if (table_)
            table_->add(token, child);
        sift_up(size_++);
    }

    /// Puts another node in a child's place, with the same token and the same nearest value. O(1).
    void replace(std::uint32_t slot, Node* child) noexcept {
        slots_[slot].child = child;
        child->slot = slot;
        if (table_)
            table_->replace(slots_[slot].token, child);
    }

    /// Sets the depth of the nearest value below a child. O(log size).
    void set_nearest(std::uint32_t slot, Nearest nearest) noexcept {
        const Nearest before = std::exchange(slots_[slot].nearest, nearest);
        if (nearest < before)
            sift_up(slot);
        if (nearest > before)
            sift_down(slot);
    }

    /// Removes a child. O(log size); unused memory is freed, amortised.
    void remove(std::uint32_t slot) noexcept {
        if (table_)
            table_->remove(slots_[slot].token);
        const Nearest before = slots_[slot].nearest;
        --size_;
        if (slot != size_) {
            place(slot, slots_[size_]);
            if (slots_[slot].nearest < before)
                sift_up(slot);
            else
                sift_down(slot);
        }
        shrink();
    }

    /// Bytes of the slots and the table.
    [[nodiscard]] std::size_t nbytes() const noexcept {
        return capacity_ * sizeof(Slot) + (table_ ? sizeof(Table) + table_->nbytes() : 0);
    }

    [[nodiscard]] bool check_invariants() const noexcept {
        if (table_ && table_->size() != size_)
            return false;
        for (std::uint32_t i = 0; i < size_; ++i) {
            if (slots_[i].child->slot != i || find(slots_[i].token) != slots_[i].child)
                return false;
            if (i > 0 && slots_[(i - 1) / 2].nearest > slots_[i].nearest)
                return false;
        }
        return true;
    }

private:
    struct Slot {
        Node* child;
        Nearest nearest;
        Token token;
    };

    /// Open addressing with linear probing and no tombstones: a removal moves later cells back.
    class Table {
    public:
        explicit Table(std::uint32_t capacity)
            : cells_(std::make_unique<Cell[]>(capacity)), mask_(capacity - 1),
              secret_(hash_secret(cells_.get())) {}

        [[nodiscard]] std::uint32_t size() const noexcept { return size_; }
        [[nodiscard]] bool fits(std::uint32_t n) const noexcept { return n <= (mask_ + 1) / 4 * 3; }
        [[nodiscard]] std::size_t nbytes() const noexcept {
            return (std::size_t{mask_} + 1) * sizeof(Cell);
        }

        [[nodiscard]] Node* find(Token token) const noexcept { return cells_[locate(token)].child; }
        void replace(Token token, Node* child) noexcept { cells_[locate(token)].child = child; }
        void add(Token token, Node* child) noexcept {
            cells_[locate(token)] = Cell{child, token};
            ++size_;
        }
        void remove(Token token) noexcept {
            std::uint32_t hole = locate(token);
            for (std::uint32_t i = (hole + 1) & mask_; cells_[i].child != nullptr;
                 i = (i + 1) & mask_) {
                const std::uint32_t home = hash(cells_[i].token);
                if (((i - home) & mask_) < ((i - hole) & mask_))
                    continue; // the cell cannot move before its home
                cells_[hole] = cells_[i];
                hole = i;
            }
            cells_[hole] = Cell{};
            --size_;
        }

    private:
        struct Cell {
            Node* child = nullptr;
            Token token{};
        };

        [[nodiscard]] std::uint32_t hash(Token token) const noexcept {
            std::uint64_t x = static_cast<std::uint64_t>(token) ^ secret_;
            x = (x ^ (x >> 32U)) * 0x9e3779b97f4a7c15U;
            x = (x ^ (x >> 29U) ^ (secret_ >> 7U)) * 0xbf58476d1ce4e5b9U;
            return static_cast<std::uint32_t>(x >> 32U) & mask_;
        }

        /// The cell of the token, or the empty cell for it.
        [[nodiscard]] std::uint32_t locate(Token token) const noexcept {
            std::uint32_t i = hash(token);
            while (cells_[i].child != nullptr && cells_[i].token != token)
                i = (i + 1) & mask_;
            return i;
        }

        std::unique_ptr<Cell[]> cells_;
        std::uint32_t mask_;
        std::uint32_t size_ = 0;
        std::uint64_t secret_;
    };

    [[nodiscard]] std::unique_ptr<Table> make_table(std::uint32_t n) const {
        std::uint32_t capacity = 32;
        while (capacity / 4 * 3 < n)
            capacity *= 2;
        auto table = std::make_unique<Table>(capacity);
        for (std::uint32_t i = 0; i < size_; ++i)
            table->add(slots_[i].token, slots_[i].child);
        return table;
    }

    void set_slots(std::unique_ptr<Slot[]> slots, std::uint32_t capacity) noexcept {
        for (std::uint32_t i = 0; i < size_; ++i)
            slots[i] = slots_[i];
        slots_ = std::move(slots);
        capacity_ = capacity;
    }

    /// Frees memory where less than a quarter is used; later, if memory for the smaller array ran out.
    void shrink() noexcept {
        if (size_ == 0) {
            *this = ChildIndex();
        } else if (capacity_ > 4 && size_ < capacity_ / 4) {
            const std::uint32_t capacity = capacity_ / 2;
            if (auto* slots = new (std::nothrow) Slot[capacity]) {
                set_slots(std::unique_ptr<Slot[]>(slots), capacity);
                if (size_ <= scan_limit / 2)
                    table_.reset();
            }
        }
        if (table_ && size_ > scan_limit && table_->nbytes() > std::size_t{128} * size_) {
            PROMPTKV_TRY {
                table_ = make_table(2 * size_);
            }
            PROMPTKV_CATCH_ALL {} // the table stays larger than it has to be
        }
    }

    void place(std::uint32_t slot, const Slot& content) noexcept {
        slots_[slot] = content;
        content.child->slot = slot;
    }

    void sift_up(std::uint32_t slot) noexcept {
        const Slot moving = slots_[slot];
        while (slot > 0 && moving.nearest < slots_[(slot - 1) / 2].nearest) {
            place(slot, slots_[(slot - 1) / 2]);
            slot = (slot - 1) / 2;
        }
        place(slot, moving);
    }

    void sift_down(std::uint32_t slot) noexcept {
        const Slot moving = slots_[slot];
        for (;;) {
            std::uint32_t least = 2 * slot + 1;
            if (least >= size_)
                break;
            if (least + 1 < size_ && slots_[least + 1].nearest < slots_[least].nearest)
                ++least;
            if (slots_[least].nearest >= moving.nearest)
                break;
            place(slot, slots_[least]);
            slot = least;
        }
        place(slot, moving);
    }

    std::unique_ptr<Slot[]> slots_;
    std::unique_ptr<Table> table_;
    std::uint32_t size_ = 0;
    std::uint32_t capacity_ = 0;
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
