// SPDX-License-Identifier: MIT
// RadixTree: the structure of a PromptTrie.
#ifndef PROMPTKV_DETAIL_RADIX_TREE_HPP
#define PROMPTKV_DETAIL_RADIX_TREE_HPP

#include <promptkv/detail/edge_runs.hpp>
#include <promptkv/detail/exceptions.hpp>
#include <promptkv/detail/radix_node.hpp>
#include <promptkv/version.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <type_traits>
#include <utility>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// A compressed radix tree: its structure, and the nearest shown value below each node.
///
/// The owner of a node's value sets and clears it, and tells the tree by the functions for values.
/// Exceptions: only `node_at` and `split` can throw, and change nothing then.
template <class Slot, class Token, class Hook>
class RadixTree {
public:
    using Node = RadixNode<Slot, Token, Hook>;
    using Key = std::span<const Token>;
    using Runs = EdgeRuns<Node, Token>;

    struct Place {
        Node* node = nullptr;   // the last one that the key reaches in full; null: there is none
        Node* inside = nullptr; // the child in whose edge the key ends or leaves; null: at `node`
        std::size_t common = 0; // tokens that match

        /// The node below which lies every key that shares `common` tokens.
        [[nodiscard]] Node* below() const noexcept { return inside != nullptr ? inside : node; }
    };

    RadixTree() = default;
    RadixTree(const RadixTree&) = delete;
    RadixTree& operator=(const RadixTree&) = delete;
    ~RadixTree() { clear(); }

    // values /////////////////////////////////////////////////////////////////

    /// Requires: the node got a value just now, and has two children, or is new, or is the root.
    void value_added(Node* node) noexcept {
        ++size_;
        refresh(node);
        if (unmerged_)
            merge_above(node);
    }

    /// Removes the node as well, unless others need it. Requires: the node lost its value just now.
    void value_removed(Node* node) noexcept {
        --size_;
        if (node == root_ || node->children.size() > 0)
            refresh(node); // a leaf leaves, which refreshes its parent
        prune(node);
    }

    /// The node's value was shown or hidden, or became an entry, or no longer is one. Tells the nodes above;
    /// stops where it makes no difference.
    void refresh(Node* node) noexcept {
        for (; node->parent != nullptr; node = node->parent) {
            Node* nearest = node->find_nearest();
            const bool same = nearest == node->nearest;
            node->nearest = nearest;
            const auto before = node->parent->children.nearest_depth(node->slot);
            const auto depth = node->nearest_depth();
            if (same && depth == before)
                return;
            if (!node->remembered() && before == Node::Children::none)
                remembered_ -= node->edge_length;
            node->parent->children.set_nearest(node->slot, depth);
            if (!node->remembered() && depth == Node::Children::none)
                remembered_ += node->edge_length;
        }
        node->nearest = node->find_nearest();
    }

    /// The node's value is remembered from now on, or (false) no longer. `refresh`, or another function for
    /// values, is to follow.
    void remembered_changed(const Node* node, bool is_remembered) noexcept {
        if (!leads_to_entry(node))
            return; // it counts as remembered before and afterwards
        if (is_remembered)
            remembered_ += node->edge_length;
        else
            remembered_ -= node->edge_length;
    }

    // structure //////////////////////////////////////////////////////////////

    /// The node at `key`, made where there is none; the caller gives it a value.
    /// Requires: `place` is descend(key).
    [[nodiscard]] Node* node_at(Key key, Place place) {
        if (key.size() >= Node::Children::hidden)
            fail_length("promptkv: a key must have fewer than 2^32 - 2 tokens");
        if (place.node == nullptr) {
            place.node = root_ = new Node();
            ++node_count_;
        }
        const Key rest = key.subspan(place.common);
        if (rest.empty())
            return place.inside == nullptr ? place.node : split(place.inside, place.common);
        if (place.inside == nullptr && place.node != root_ && place.node->children.size() == 0)
            return grow(place.node, rest);
        auto leaf = Runs::make_leaf({}, rest);
        Node* parent = place.node;
        if (place.inside != nullptr)
            parent = split(place.inside, place.common, 1);
        else
            reserve_child(parent);
        return add_child(parent, std::move(leaf));
    }

    /// Splits the edge of `lower` where its first `depth` tokens from the root end: a new node takes
    /// the first part and its place. Leaves room for `more` further children. No token is copied.
    [[nodiscard]] Node* split(Node* lower, std::size_t depth, std::uint32_t more = 0) {
        auto made = std::make_unique<Node>();
        made->children.reserve(1 + more);
        Node* upper = made.release();
        const std::uint32_t rest = lower->depth - static_cast<std::uint32_t>(depth);
        upper->parent = lower->parent;
        upper->run = lower->run;
        upper->offset = lower->offset;
        upper->edge_length = lower->edge_length - rest;
        upper->depth = lower->depth - rest;
        upper->nearest = lower->nearest;
        upper->parent->children.replace(lower->slot, upper);
        lower->offset += upper->edge_length;
        lower->edge_length = rest;
        lower->parent = upper;
        upper->children.add(*lower->edge(), lower, lower->nearest_depth());
        if constexpr (!std::is_empty_v<Hook>)
            upper->hook = lower->hook.first_part(upper->edge_length);
        if (lower->remembered() && leads_to_entry(upper))
            remembered_ -= upper->edge_length;
        bytes_ += upper->children.nbytes();
        ++node_count_;
        return upper;
    }

    /// Shortens the edge of a node without children. Requires: parent's depth < depth < node's depth.
    void shorten(Node* node, std::size_t depth) noexcept {
        const std::uint32_t cut = node->depth - static_cast<std::uint32_t>(depth);
        node->depth -= cut;
        tokens_ -= cut;
        if (is_remembered(node))
            remembered_ -= cut;
        runs_.shorten(node, cut);
        refresh(node);
    }

    void clear() noexcept {
        if (root_ == nullptr)
            return;
        Node* node = root_;
        for (;;) { // down to the first leaf, delete it, on with its parent
            if (const std::uint32_t n = node->children.size(); n > 0) {
                node = node->children[n - 1];
                continue;
            }
            if (node == root_)
                break;
            Node* parent = node->parent;
            parent->children.remove(node->slot);
            delete node;
            node = parent;
        }
        delete std::exchange(root_, nullptr);
        size_ = bytes_ = node_count_ = tokens_ = remembered_ = 0;
        runs_ = {};
        unmerged_ = false;
    }

    void swap(RadixTree& other) noexcept {
        std::swap(root_, other.root_);
        std::swap(size_, other.size_);
        std::swap(node_count_, other.node_count_);
        std::swap(runs_, other.runs_);
        std::swap(bytes_, other.bytes_);
        std::swap(tokens_, other.tokens_);
        std::swap(remembered_, other.remembered_);
        std::swap(unmerged_, other.unmerged_);
    }

    // lookup /////////////////////////////////////////////////////////////////

    /// Null: the tree has no node.
    [[nodiscard]] Node* root() const noexcept { return root_; }

    [[nodiscard]] Place descend(Key key) const noexcept {
        Node* node = root_;
        if (node == nullptr)
            return {};
        for (std::size_t at = 0;;) {
            Node* child = at < key.size() ? node->children.find(key[at]) : nullptr;
            if (child == nullptr)
                return {node, nullptr, at};
            const std::size_t n = child->matching(key.subspan(at));
            at += n;
            if (n < child->edge_length)
                return {node, child, at};
            node = child;
        }
    }

    /// Calls `f(node)` for the nodes on the way to `place`, from the root on. Requires: `place` is descend(key).
    template <class F>
    void for_each_on_path(const Place& place, Key key, F f) const {
        for (Node* node = root_; node != nullptr;
             node = node != place.node ? node->children.find(key[node->depth]) : nullptr)
            f(*node);
    }

    static constexpr std::uint32_t max_steps = 64;

    /// Calls `f(node)` for the nodes with a shown value strictly below `node`, nearest first, until `f`
    /// returns false. Behind the nearest one it gives up after `steps` nodes, at most max_steps, and
    /// subtracts those that it has looked at. `visited`: a child of `node` that is left out, with all below.
    /// Complexity: O(steps), no allocation.
    template <class F>
    static void for_each_beyond(const Node* node, std::uint32_t& steps, F f,
                                const Node* visited = nullptr) {
        Node* nearest = node->beyond();
        if (nearest == nullptr || !f(nearest))
            return;
        // Best first: each step takes the nearest subtree, and puts in its place the two that stand
        // below it in the parent's heap, and the nearest of its own.
        struct Subtree {
            const Node* parent;
            std::uint32_t slot;
            std::uint32_t depth;
        };
        std::array<Subtree, 2 * max_steps + 2> open;
        std::size_t n = 0;
        const auto push = [&](const Node* parent, std::uint32_t slot) {
            if (slot >= parent->children.size() || n == open.size())
                return;
            const std::uint32_t depth = parent->children[slot]->nearest_depth();
            if (depth < Node::Children::hidden)
                open[n++] = Subtree{parent, slot, depth};
        };
        push(node, 0);
        while (steps > 0 && n > 0) {
            std::size_t first = 0;
            for (std::size_t i = 1; i < n; ++i)
                first = open[i].depth < open[first].depth ? i : first;
            const Subtree next = open[first];
            open[first] = open[--n];
            Node* child = next.parent->children[next.slot];
            push(next.parent, 2 * next.slot + 1);
            push(next.parent, 2 * next.slot + 2);
            if (child == visited)
                continue;
            --steps;
            push(child, 0);
            if (child->shown() && child != nearest && !f(child))
                return;
        }
    }

    // observers //////////////////////////////////////////////////////////////

    [[nodiscard]] std::size_t size() const noexcept { return size_; }
    /// Nodes, the root included.
    [[nodiscard]] std::size_t node_count() const noexcept { return node_count_; }
    /// Tokens of all edges.
    [[nodiscard]] std::size_t tokens() const noexcept { return tokens_; }
    /// Tokens of the edges whose value is remembered, or that have no entry at or below.
    [[nodiscard]] std::size_t remembered() const noexcept { return remembered_; }
    [[nodiscard]] std::size_t nbytes() const noexcept {
        return node_count_ * sizeof(Node) + runs_.nbytes() + bytes_;
    }

    [[nodiscard]] bool check_invariants() const noexcept {
        std::size_t values = 0, nodes = 0, bytes = 0, tokens = 0, remembered = 0;
        for (Node* node = root_; node != nullptr; node = node->next(root_)) {
            ++nodes;
            values += node->value ? std::size_t{1} : 0;
            if (node->nearest != node->find_nearest() || !node->children.check_invariants())
                return false;
            for (std::uint32_t i = 0; i < node->children.size(); ++i) {
                const Node* child = node->children[i];
                if (child->parent != node || child->depth != node->depth + child->edge_length)
                    return false;
                if (child->edge_length == 0 || node->children.find(*child->edge()) != child)
                    return false;
                if (child->run == node->run && child != node->next_piece())
                    return false;
                if (child->nearest_depth() != node->children.nearest_depth(i))
                    return false;
            }
            bytes += node->children.nbytes();
            if (node == root_)
                continue;
            tokens += node->edge_length;
            remembered += is_remembered(node) ? node->edge_length : 0;
            if (node->run != node->parent->run) {
                bytes += node->run->nbytes();
                std::size_t live = 0;
                for (const Node* piece = node; piece != nullptr; piece = piece->next_piece())
                    live += piece->edge_length;
                if (live != node->run->live || node->run->end > node->run->capacity)
                    return false;
            }
            if (!node->value && node->children.size() < (unmerged_ ? 1U : 2U))
                return false;
        }
        return values == size_ && nodes == node_count() && bytes == runs_.nbytes() + bytes_ &&
               tokens == tokens_ && remembered == remembered_;
    }

private:
    /// Whether entries are at or below a node, as its parent knows.
    [[nodiscard]] static bool leads_to_entry(const Node* node) noexcept {
        return node->parent == nullptr ||
               node->parent->children.nearest_depth(node->slot) != Node::Children::none;
    }
    /// Whether the tokens of a node's edge count as remembered.
    [[nodiscard]] static bool is_remembered(const Node* node) noexcept {
        return node->remembered() || !leads_to_entry(node);
    }

    // nodes //////////////////////////////////////////////////////////////////

    /// Makes room for one more child.
    void reserve_child(Node* node) {
        const std::size_t before = node->children.nbytes();
        node->children.reserve(1);
        bytes_ += node->children.nbytes() - before;
    }

    Node* add_child(Node* parent, std::unique_ptr<Node> child) noexcept {
        child->parent = parent;
        child->depth = parent->depth + child->edge_length;
        runs_.add(*child);
        tokens_ += child->edge_length;
        ++node_count_;
        remembered_ += child->edge_length; // until it has a value
        Node* added = child.release();     // the tree owns it now
        parent->children.add(*added->edge(), added, Node::Children::none);
        return added;
    }

    /// Adds a child to a leaf, and copies the leaf's edge before the child's. When the value at the leaf
    /// is removed because the longer one replaces it, the two edges are joined without a copy.
    [[nodiscard]] Node* grow(Node* leaf, Key rest) {
        auto child = Runs::make_leaf(Key(leaf->edge(), leaf->edge_length), rest);
        reserve_child(leaf);
        runs_.move_to_run_of(*child, leaf);
        return add_child(leaf, std::move(child));
    }

    /// Removes a node that lost its value, or joins it with its only child; then does so above.
    void prune(Node* node) noexcept {
        if (unmerged_)
            merge_above(node);
        while (node != root_ && !node->value && node->children.size() == 0) {
            Node* parent = node->parent;
            const std::size_t before = parent->children.nbytes();
            if (!leads_to_entry(node))
                remembered_ -= node->edge_length;
            parent->children.remove(node->slot);
            refresh(parent);
            bytes_ -= before - parent->children.nbytes();
            tokens_ -= node->edge_length;
            runs_.release(node);
            --node_count_;
            delete std::exchange(node, parent);
        }
        if (node != root_ && !node->value && node->children.size() == 1)
            merge(node);
    }

    /// Does the merges above a node that failed for lack of memory.
    void merge_above(Node* node) noexcept {
        for (node = node->parent; node != nullptr && node != root_;) {
            Node* parent = node->parent;
            if (!node->value && node->children.size() == 1)
                merge(node);
            node = parent;
        }
    }

    /// Joins a node without a value with its only child, which takes its place. Without memory for the
    /// longer edge the node stays for now.
    void merge(Node* node) noexcept {
        Node* child = node->children[0];
        const std::uint32_t joined = node->edge_length;
        if (!runs_.join(node, child)) {
            unmerged_ = true;
            return;
        }
        child->parent = node->parent;
        node->parent->children.replace(node->slot, child);
        if constexpr (!std::is_empty_v<Hook>)
            child->hook.join(node->hook, joined);
        if (child->remembered() && leads_to_entry(child))
            remembered_ += joined;
        bytes_ -= node->children.nbytes();
        --node_count_;
        delete node;
    }

    Node* root_ = nullptr;       // made with the first node; it never moves
    std::size_t size_ = 0;       // values
    std::size_t node_count_ = 0; // with the root
    Runs runs_;                  // of the edges
    std::size_t bytes_ = 0;      // of the child indexes of all nodes
    std::size_t tokens_ = 0;     // of all edges
    std::size_t remembered_ = 0; // tokens of the edges that are remembered
    bool unmerged_ = false;      // there may be nodes whose merge failed for lack of memory
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
