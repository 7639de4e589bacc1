// SPDX-License-Identifier: MIT
// RadixNode: a node of a RadixTree with the edge that leads to it.
#ifndef PROMPTKV_DETAIL_RADIX_NODE_HPP
#define PROMPTKV_DETAIL_RADIX_NODE_HPP

#include <promptkv/detail/child_index.hpp>
#include <promptkv/detail/run.hpp>
#include <promptkv/version.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>
#include <vector>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// A node with the edge from its parent.
///
/// `Slot` holds the node's value: an optional or a pointer, false where there is none. `Hook` is a
/// victim policy's state of the node. It is empty, or has `first_part(tokens)`, which a new node gets that takes
/// the first part of the edge, and `join(above, tokens_above)`, for an edge that is joined with the one above.
template <class Slot, class Token, class Hook>
struct RadixNode {
    using Children = ChildIndex<RadixNode, Token>;

    RadixNode* parent = nullptr;
    Run<Token>* run = nullptr; // the edge is a piece of this one; null: the root
    std::uint32_t offset = 0;  // where the piece begins
    std::uint32_t edge_length = 0;
    std::uint32_t depth = 0;      // tokens from the root
    std::uint32_t slot = 0;       // its place among the parent's children
    RadixNode* nearest = nullptr; // the nearest shown value at or below
    Children children;
    Slot value{};
    [[no_unique_address]] Hook hook{};

    RadixNode() = default;
    RadixNode(const RadixNode&) = delete;
    RadixNode& operator=(const RadixNode&) = delete;
    ~RadixNode() {
        if (run != nullptr)
            run->release(edge_length);
    }

    [[nodiscard]] const Token* edge() const noexcept { return run->tokens() + offset; }
    /// Whether searches for a nearest value find the node's own: a record that is shown, or any other value.
    [[nodiscard]] bool shown() const noexcept {
        if constexpr (std::is_pointer_v<Slot>)
            return value != nullptr && value->shown;
        else
            return static_cast<bool>(value);
    }

    /// Whether the value is there, shown or not: a record that is an entry, or any other value.
    [[nodiscard]] bool has_entry() const noexcept {
        if constexpr (std::is_pointer_v<Slot>)
            return value != nullptr && value->is_entry;
        else
            return static_cast<bool>(value);
    }

    /// Whether the value is a key that was evicted and is remembered.
    [[nodiscard]] bool remembered() const noexcept {
        if constexpr (std::is_pointer_v<Slot>)
            return value != nullptr && value->remembered;
        else
            return false;
    }

    /// How many tokens of the edge `key` begins with. O(of them).
    [[nodiscard]] std::size_t matching(std::span<const Token> key) const noexcept {
        const std::size_t length = (std::min)(key.size(), std::size_t{edge_length});
        const Token* tokens = edge();
        const auto same = [&](std::size_t at, std::size_t n) {
            return std::memcmp(tokens + at, key.data() + at, n * sizeof(Token)) == 0;
        };
        constexpr std::size_t stride = 2048; // in steps, to stop soon after a difference
        std::size_t at = 0;
        while (length - at > stride && same(at, stride))
            at += stride;
        std::size_t left = (std::min)(length - at, stride);
        if (same(at, left))
            return at + left;
        while (left > 8) { // a difference is among these
            const std::size_t half = left / 2;
            if (same(at, half)) {
                at += half;
                left -= half;
            } else {
                left = half;
            }
        }
        while (tokens[at] == key[at])
            ++at;
        return at;
    }

    /// The nearest shown value strictly below; null: there is none.
    [[nodiscard]] RadixNode* beyond() const noexcept {
        const RadixNode* child = children.nearest();
        return child != nullptr ? child->nearest : nullptr;
    }

    /// The right value of `nearest`.
    [[nodiscard]] RadixNode* find_nearest() noexcept { return shown() ? this : beyond(); }

    /// What the parent's index of children says of the node.
    [[nodiscard]] std::uint32_t nearest_depth() const noexcept {
        if (nearest != nullptr)
            return nearest->depth;
        return has_entry() || children.nearest_depth() != Children::none ? Children::hidden
                                                                         : Children::none;
    }

    /// The tokens from the root to here. Allocates the vector.
    [[nodiscard]] std::vector<Token> key() const {
        std::vector<Token> tokens(depth);
        for (const RadixNode* node = this; node->parent != nullptr; node = node->parent) {
            std::memcpy(tokens.data() + node->parent->depth, node->edge(),
                        node->edge_length * sizeof(Token));
        }
        return tokens;
    }

    /// The next node in preorder, of those at or below `top`; null: this is the last.
    [[nodiscard]] RadixNode* next(const RadixNode* top) const noexcept {
        if (children.size() > 0)
            return children[0];
        for (const RadixNode* node = this; node != top; node = node->parent) {
            if (node->slot + 1 < node->parent->children.size())
                return node->parent->children[node->slot + 1];
        }
        return nullptr;
    }

    /// The child whose edge is the next piece of the same run; null: this piece is the last.
    [[nodiscard]] RadixNode* next_piece() const noexcept {
        const std::size_t end = std::size_t{offset} + edge_length;
        if (run == nullptr || end == run->end)
            return nullptr;
        RadixNode* child = children.find(run->tokens()[end]);
        return child != nullptr && child->run == run && child->offset == end ? child : nullptr;
    }
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
