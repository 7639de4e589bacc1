// SPDX-License-Identifier: MIT
// Neighbours: which records stand around a place in a trie.
#ifndef PROMPTKV_DETAIL_NEIGHBOURS_HPP
#define PROMPTKV_DETAIL_NEIGHBOURS_HPP

#include <promptkv/detail/partitions.hpp>
#include <promptkv/version.hpp>

#include <cstddef>
#include <cstdint>

// Questions about the trie of one model. None changes anything, allocates or throws, but what a function of
// the caller's throws.

namespace promptkv::inline PROMPTKV_ABI::detail {

/// How far a call looks: longer entries that it asks, and nodes that it goes up or down a path.
inline constexpr int max_longer = 16;
inline constexpr int max_path = 512;

/// Where the way down a key ends. Valid until the index changes: as long as its version() stays the same.
template <class R>
struct Spot {
    Partition<R>* home = nullptr; // null: the model has no key
    typename R::Tree::Place place{};

    [[nodiscard]] std::size_t common() const noexcept { return place.common; }
    /// The record at the key of `n` tokens that was located; null: there is none.
    [[nodiscard]] R* record(std::size_t n) const noexcept {
        return place.node != nullptr && place.inside == nullptr && place.common == n
                   ? place.node->value
                   : nullptr;
    }
    /// The entry there; null: there is none.
    [[nodiscard]] R* entry(std::size_t n) const noexcept {
        R* found = record(n);
        return found != nullptr && found->is_entry ? found : nullptr;
    }
};

// above //////////////////////////////////////////////////////////////////////

template <class Node>
[[nodiscard]] auto entry_at_or_above(const Node* node) noexcept {
    while (node != nullptr && !node->has_entry())
        node = node->parent;
    return node != nullptr ? node->value : nullptr;
}
/// The entry on the longest strict prefix of a record's key; null: there is none. O(nodes above).
template <class R>
[[nodiscard]] R* prefix_of(const R& record) noexcept {
    return detail::entry_at_or_above(record.node->parent);
}
/// The same, if the record is the only shown entry that continues it; else null. A comb of keys is not
/// walked up.
template <class R>
[[nodiscard]] R* prefix_continued_by(const R& record) noexcept {
    const auto* node = record.node;
    if (!record.shown || node->beyond() != nullptr)
        return nullptr;
    for (const auto* above = node->parent; above != nullptr; above = (node = above)->parent) {
        if (above->children.nearest_except(node->slot) != nullptr)
            return nullptr;
        if (above->has_entry())
            return above->value;
    }
    return nullptr;
}

// below //////////////////////////////////////////////////////////////////////

/// Calls `f(record)` for every record at or below a node. `f` must not change the index.
template <class Node, class F>
void for_each_record(Node* top, F f) {
    for (Node* each = top; each != nullptr; each = each->next(top)) {
        if (each->value != nullptr)
            f(*each->value);
    }
}
/// The first record at or below a node, a few steps far, for which `is(record)` holds; null: there is none.
template <class Node, class Is>
[[nodiscard]] auto first_below(Node* top, Is is) {
    constexpr int max_steps = 64;
    Node* node = top;
    for (int i = 0; i < max_steps && node != nullptr; ++i, node = node->next(top)) {
        if (node->value != nullptr && is(*node->value))
            return node->value;
    }
    return decltype(node->value){};
}
/// An entry at or below a node; null: there is none. O(nodes on the way).
template <class Node>
[[nodiscard]] auto any_entry(Node* node) noexcept {
    for (;; node = node->children[0]) {
        if (node->nearest != nullptr)
            return node->nearest->value;
        if (node->has_entry())
            return node->value;
        if (node->children.nearest_depth() == Node::Children::none)
            return decltype(node->value){};
    }
}
/// Whether an entry continues a record's key. Looks a few steps far where only remembered keys and
/// entries that are not shown do.
template <class R>
[[nodiscard]] bool is_continued(const R& record) noexcept {
    typename R::Node* node = record.node;
    if (node->children.size() == 0 || node->beyond() != nullptr)
        return node->children.size() > 0;
    const auto is_other = [&](const R& each) { return &each != &record && each.is_entry; };
    return record.home->tree.remembered() == 0 || detail::first_below(node, is_other) != nullptr;
}

// around /////////////////////////////////////////////////////////////////////

/// Calls `f(entry)` for shown entries that continue the tokens at the spot, nearest first, until `f`
/// returns false or it has gone far enough. O(1) for the first one.
template <class R, class F>
void for_each_longer(const Spot<R>& spot, std::uint32_t& steps, F f) {
    using Node = typename R::Node;
    const Node* inside = spot.place.inside;
    if (inside != nullptr && inside->shown() && !f(*inside->value))
        return;
    if (const Node* node = spot.place.below())
        R::Tree::for_each_beyond(node, steps, [&](Node* each) { return f(*each->value); });
}

/// An entry that shares most tokens with the key that was located, and how many. Null: there is none.
template <class R>
struct Sharing {
    R* entry = nullptr;
    std::size_t tokens = 0;
};
template <class R>
[[nodiscard]] Sharing<R> any_sharing(const Spot<R>& spot) noexcept {
    std::size_t tokens = spot.common();
    for (auto* node = spot.place.below(); node != nullptr && tokens > 0; node = node->parent) {
        if (R* entry = detail::any_entry(node))
            return {entry, tokens};
        tokens = node->parent != nullptr ? node->parent->depth : 0;
    }
    return {};
}
/// A remembered key that shares spot.common() tokens with the key that was located. Null: none was
/// found within a few steps.
template <class R>
[[nodiscard]] R* any_remembered(const Spot<R>& spot) noexcept {
    return detail::first_below(spot.place.below(),
                               [](const R& record) { return record.remembered; });
}

/// Whether an entry other than `record` serves the first `n` tokens of the record's key, or has exactly
/// these as its key. Asks the nearest ones.
template <class R>
[[nodiscard]] bool others_serve(const R& record, std::size_t n) noexcept {
    const auto* node = record.node;
    if (const auto* longer = node->beyond(); longer != nullptr && longer->value->serves(n))
        return true;
    for (; node->parent != nullptr && node->parent->depth >= n; node = node->parent) {
        const auto* parent = node->parent;
        if (parent->has_entry() && (parent->depth == n || parent->value->serves(n)))
            return true;
        const auto* sibling = parent->children.nearest_except(node->slot);
        if (sibling != nullptr && sibling->nearest->value->serves(n))
            return true;
    }
    return false;
}

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
