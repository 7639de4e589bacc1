// SPDX-License-Identifier: MIT
// RadixTree: the structure of a PromptTrie.
#ifndef PROMPTKV_DETAIL_RADIX_TREE_HPP
#define PROMPTKV_DETAIL_RADIX_TREE_HPP

#include <promptkv/detail/exceptions.hpp>
#include <promptkv/detail/radix_node.hpp>
#include <promptkv/detail/run.hpp>
#include <promptkv/version.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <span>
#include <utility>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// A compressed radix tree: structure, and the nearest visible value below each node.
///
///     run   1 2 3 4 5          one allocation
///           |---| |-|          edges of a node and its child, after a split behind the 3
///
/// The pieces of a run lie on one path, one after the other, without gaps: a split cuts a piece in
/// two, and what a piece loses, it loses where the run's pieces end. So two edges that were one are
/// joined again without a copy. Of a run's memory at least half is in use.
///
/// Exceptions: `node_at` and `split` can throw, and change nothing then.
template <class Value, class Token>
class RadixTree {
public:
    using Node = RadixNode<Value, Token>;
    using Key = std::span<const Token>;

    struct Place {
        Node* node;         // the last node that the key reaches in full
        Node* inside;       // the child in whose edge it ends or leaves; null: at `node` itself
        std::size_t common; // tokens that match
    };

    RadixTree() = default;
    RadixTree(const RadixTree&) = delete;
    RadixTree& operator=(const RadixTree&) = delete;
    ~RadixTree() { clear(); }

    // values /////////////////////////////////////////////////////////////////

    /// Gives a node that has no value one. Requires: it has two children, or is new, or the root.
    void add_value(Node* node, Value&& value) noexcept {
        node->value.emplace(std::move(value));
        node->hidden = false;
        ++size_;
        refresh(node);
        if (unmerged_)
            merge_above(node);
    }

    /// Takes a node's value, and the node itself where nothing else needs it.
    void remove_value(Node* node) noexcept {
        node->value.reset();
        node->hidden = false;
        --size_;
        refresh(node);
        prune(node);
    }

    void set_hidden(Node* node, bool hidden) noexcept {
        node->hidden = hidden;
        refresh(node);
    }

    // structure //////////////////////////////////////////////////////////////

    /// The node at `key`, made where there is none; the caller gives it a value.
    /// Requires: `place` is descend(key).
    [[nodiscard]] Node* node_at(Key key, Place place) {
        if (key.size() >= std::numeric_limits<std::uint32_t>::max())
            fail_length("promptkv: a key has 2^32 - 1 tokens or more");
        const Key rest = key.subspan(place.common);
        if (rest.empty())
            return place.inside == nullptr ? place.node : split(place.inside, place.common);
        if (place.inside == nullptr && place.node != &root_ && place.node->children.size() == 0)
            return grow(place.node, rest);
        auto leaf = make_leaf({}, rest);
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
        bytes_ += upper->children.nbytes();
        ++node_count_;
        return upper;
    }

    /// Shortens the edge of a node without children. Requires: parent's depth < depth < node's depth.
    void shorten(Node* node, std::size_t depth) noexcept {
        const std::uint32_t cut = node->depth - static_cast<std::uint32_t>(depth);
        const bool hidden = std::exchange(node->hidden, true);
        refresh(node); // its depth is the key in the heaps above
        node->depth -= cut;
        node->edge_length -= cut;
        node->run->release(cut);
        compact(node);
        node->hidden = hidden;
        refresh(node);
    }

    void clear() noexcept {
        Node* node = &root_;
        for (;;) { // down to the first leaf, delete it, on with its parent
            if (const std::uint32_t n = node->children.size(); n > 0) {
                node = node->children[n - 1];
                continue;
            }
            if (node == &root_)
                break;
            Node* parent = node->parent;
            parent->children.remove(node->slot);
            delete node;
            node = parent;
        }
        root_.value.reset();
        root_.hidden = false;
        root_.nearest = nullptr;
        size_ = bytes_ = 0;
        node_count_ = 1;
        unmerged_ = false;
    }

    void swap(RadixTree& other) noexcept {
        root_.children.swap(other.root_.children);
        std::swap(root_.value, other.root_.value);
        std::swap(root_.hidden, other.root_.hidden);
        for (RadixTree* tree : {this, &other}) {
            for (std::uint32_t i = 0; i < tree->root_.children.size(); ++i)
                tree->root_.children[i]->parent = &tree->root_;
            tree->root_.nearest = tree->root_.find_nearest();
        }
        std::swap(size_, other.size_);
        std::swap(node_count_, other.node_count_);
        std::swap(bytes_, other.bytes_);
        std::swap(unmerged_, other.unmerged_);
    }

    // lookup /////////////////////////////////////////////////////////////////

    /// Const functions only read; this is the one place where const is dropped, for handles.
    [[nodiscard]] Node* root() const noexcept { return const_cast<Node*>(&root_); }

    [[nodiscard]] Place descend(Key key) const noexcept {
        Node* node = root();
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

    // observers //////////////////////////////////////////////////////////////

    [[nodiscard]] std::size_t size() const noexcept { return size_; }
    [[nodiscard]] std::size_t node_count() const noexcept { return node_count_; }
    [[nodiscard]] std::size_t nbytes() const noexcept {
        return (node_count_ - 1) * sizeof(Node) + bytes_ + root_.children.nbytes();
    }

    [[nodiscard]] bool check_invariants() const noexcept {
        std::size_t values = 0, nodes = 0, bytes = 0;
        for (Node* node = root(); node != nullptr; node = node->next()) {
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
            }
            if (node == &root_)
                continue;
            bytes += node->children.nbytes();
            if (node->run != node->parent->run) {
                bytes += node->run->nbytes();
                std::size_t live = 0;
                for (const Node* piece = node; piece != nullptr; piece = piece->next_piece())
                    live += piece->edge_length;
                if (live != node->run->live)
                    return false;
            }
            if (!node->value && node->children.size() < (unmerged_ ? 1U : 2U))
                return false;
        }
        return values == size_ && nodes == node_count_ && bytes == bytes_;
    }

private:
    /// Tells the nodes above of another nearest value. Ends where it makes no difference.
    void refresh(Node* node) noexcept {
        for (; node != nullptr; node = node->parent) {
            Node* nearest = node->find_nearest();
            if (nearest == node->nearest)
                return;
            node->nearest = nearest;
            if (node->parent != nullptr)
                node->parent->children.set_nearest(node->slot, node->nearest_depth());
        }
    }

    // nodes //////////////////////////////////////////////////////////////////

    /// A node with a run of its own, which begins with the tokens `before` its edge; those are not in use.
    [[nodiscard]] static std::unique_ptr<Node> make_leaf(Key before, Key edge) {
        auto node = std::make_unique<Node>();
        node->run = Run<Token>::make(static_cast<std::uint32_t>(before.size() + edge.size()));
        node->run->live = node->edge_length = static_cast<std::uint32_t>(edge.size());
        node->offset = static_cast<std::uint32_t>(before.size());
        if (!before.empty())
            std::memcpy(node->run->tokens(), before.data(), before.size_bytes());
        std::memcpy(node->run->tokens() + before.size(), edge.data(), edge.size_bytes());
        return node;
    }

    /// Room for a child more, its bytes counted. The root's are asked for when needed.
    void reserve_child(Node* node) {
        const std::size_t before = node->children.nbytes();
        node->children.reserve(1);
        if (node != &root_)
            bytes_ += node->children.nbytes() - before;
    }

    Node* add_child(Node* parent, std::unique_ptr<Node> child) noexcept {
        child->parent = parent;
        child->depth = parent->depth + child->edge_length;
        bytes_ += child->run->nbytes();
        ++node_count_;
        Node* added = child.release(); // the tree owns it now
        parent->children.add(*added->edge(), added, Node::Children::none);
        return added;
    }

    /// Adds a child to a leaf, and copies the leaf's edge before the child's: where the key that ends
    /// at the leaf goes because the longer one makes up for it, the two are joined without a copy.
    [[nodiscard]] Node* grow(Node* leaf, Key rest) {
        auto child = make_leaf(Key(leaf->edge(), leaf->edge_length), rest);
        reserve_child(leaf);
        Node* above = leaf->parent->run == leaf->run ? leaf->parent : nullptr;
        release_edge(leaf);
        leaf->run = child->run;
        leaf->run->live += leaf->edge_length;
        leaf->offset = 0;
        if (above != nullptr)
            compact(above);
        return add_child(leaf, std::move(child));
    }

    /// Deletes a node that is no child of another any more.
    void delete_node(Node* node) noexcept {
        bytes_ -= node->children.nbytes();
        release_edge(node);
        --node_count_;
        delete node;
    }

    void release_edge(Node* node) noexcept {
        Run<Token>* run = std::exchange(node->run, nullptr);
        if (run->live == node->edge_length)
            bytes_ -= run->nbytes();
        run->release(node->edge_length);
    }

    /// Removes a node that lost its value, or joins it with its only child; then so its parent.
    void prune(Node* node) noexcept {
        if (unmerged_)
            merge_above(node);
        while (node != &root_ && !node->value && node->children.size() == 0) {
            Node* parent = node->parent;
            const std::size_t before = parent->children.nbytes();
            parent->children.remove(node->slot);
            if (parent != &root_)
                bytes_ -= before - parent->children.nbytes();
            const bool shared = parent->run == node->run;
            delete_node(node);
            if (shared)
                compact(parent);
            node = parent;
        }
        if (node != &root_ && !node->value && node->children.size() == 1)
            merge(node);
    }

    /// Makes up for the merges above a node for which memory was wanting.
    void merge_above(Node* node) noexcept {
        for (node = node->parent; node != nullptr && node != &root_;) {
            Node* parent = node->parent;
            if (!node->value && node->children.size() == 1)
                merge(node);
            node = parent;
        }
    }

    /// Joins a node without a value with its only child, which takes its place. Where there is no
    /// memory for the longer edge the node stays for now.
    void merge(Node* node) noexcept {
        Node* child = node->children[0];
        const std::uint32_t length = node->edge_length + child->edge_length;
        if (child->run == node->run) {
            child->offset = node->offset;
            node->run = nullptr;
        } else {
            Run<Token>* run = Run<Token>::try_make(length);
            if (run == nullptr) {
                unmerged_ = true;
                return;
            }
            std::memcpy(run->tokens(), node->edge(), node->edge_length * sizeof(Token));
            std::memcpy(run->tokens() + node->edge_length, child->edge(),
                        child->edge_length * sizeof(Token));
            Node* above = node->parent->run == node->run ? node->parent : nullptr;
            Node* below = child->next_piece();
            release_edge(node);
            release_edge(child);
            child->run = run;
            child->offset = 0;
            bytes_ += run->nbytes();
            for (Node* rest : {above, below}) {
                if (rest != nullptr)
                    compact(rest);
            }
        }
        child->edge_length = length;
        child->parent = node->parent;
        node->parent->children.replace(node->slot, child);
        bytes_ -= node->children.nbytes();
        --node_count_;
        delete node;
    }

    // runs ///////////////////////////////////////////////////////////////////

    /// Moves the pieces of a node's run to a smaller one where less than half is in use. Amortised
    /// O(1) a token that went out of use. Where memory is wanting the run stays as it is.
    void compact(Node* node) noexcept {
        Run<Token>* run = node->run;
        if (run->live >= run->capacity / 2)
            return;
        Run<Token>* smaller = Run<Token>::try_make(run->live);
        if (smaller == nullptr)
            return;
        bytes_ -= run->nbytes() - smaller->nbytes();
        while (node->parent->run == run)
            node = node->parent;
        for (std::uint32_t offset = 0; node != nullptr;) {
            Node* below = node->next_piece();
            std::memcpy(smaller->tokens() + offset, node->edge(),
                        node->edge_length * sizeof(Token));
            node->run = smaller;
            node->offset = std::exchange(offset, offset + node->edge_length);
            run->release(node->edge_length);
            node = below;
        }
    }

    Node root_;
    std::size_t size_ = 0; // values
    std::size_t node_count_ = 1;
    std::size_t bytes_ = 0; // runs, and the child indexes of all nodes but the root
    bool unmerged_ = false; // there may be nodes to merge, for which memory was wanting
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
