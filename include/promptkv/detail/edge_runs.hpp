// SPDX-License-Identifier: MIT
// EdgeRuns: where the tokens of a trie's edges are.
#ifndef PROMPTKV_DETAIL_EDGE_RUNS_HPP
#define PROMPTKV_DETAIL_EDGE_RUNS_HPP

#include <promptkv/detail/run.hpp>
#include <promptkv/version.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <utility>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// The runs that the edges of a tree are pieces of: the only writer of their bytes.
///
///     run   1 2 3 4 5          one allocation
///           |---| |-|          the edges of a node and its child, after a split behind the 3
///
/// The pieces of a run lie on one path, one after the other, without gaps. A split cuts a piece in
/// two without copying a token, and joining two pieces of a run copies none either. Two edges of
/// different runs are joined by copying the shorter one to the longer one, where there is spare room
/// for it; a new run gets a little spare room. So a token is copied a few times at most, however many
/// joins an edge goes through. At least half of a run's tokens are in use.
template <class Node, class Token>
class EdgeRuns {
public:
    using Key = std::span<const Token>;

    /// A node with a run of its own. The run begins with the tokens `before` the edge, not in use yet.
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

    /// Counts the run of a leaf that the tree owns from now on.
    void add(const Node& leaf) noexcept { bytes_ += leaf.run->nbytes(); }

    /// The node, whose edge is the first piece of its run or the last, gives it up.
    void release(Node* node) noexcept {
        Run<Token>* run = node->run;
        Node* other = nullptr; // with the next piece
        if (run->live > node->edge_length)
            other = node->parent->run == run ? node->parent : node->next_piece();
        else
            bytes_ -= run->nbytes();
        node->run = nullptr;
        run->release(node->edge_length);
        if (other != nullptr)
            compact(other);
    }

    /// Drops the last `n` tokens of an edge. Requires: no piece of its run follows.
    void shorten(Node* node, std::uint32_t n) noexcept {
        node->edge_length -= n;
        node->run->release(n);
        compact(node);
    }
    /// Gives `node`, whose edge the child was made with, the tokens before the child's edge. The child's run is
    /// not counted yet.
    void move_to_run_of(Node& child, Node* node) noexcept {
        release(node);
        node->run = child.run;
        node->run->live += node->edge_length;
        node->offset = 0;
    }
    /// Gives the child of a node the node's edge before its own. False: memory ran out, and nothing has
    /// changed. O(tokens of the shorter edge), amortised.
    [[nodiscard]] bool join(Node* node, Node* child) noexcept {
        if (child->run == node->run) {
            child->offset = node->offset;
            child->edge_length += node->edge_length;
            node->run = nullptr;
            return true;
        }
        const bool fits =
            node->edge_length >= child->edge_length ? append(node, child) : prepend(node, child);
        return fits || join_in_new_run(node, child);
    }

    [[nodiscard]] std::size_t nbytes() const noexcept { return bytes_; }

private:
    /// Moves the pieces of a node's run to a smaller run when less than half is in use. Amortised O(1)
    /// a token that is no longer in use. The run stays as it is if memory ran out.
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

    /// Copies the child's edge behind the node's, if the node's run has spare room there.
    bool append(Node* node, Node* child) noexcept {
        Run<Token>* run = node->run;
        const std::uint32_t end = node->offset + node->edge_length;
        if (run->capacity - end < child->edge_length)
            return false;
        std::memcpy(run->tokens() + end, child->edge(), child->edge_length * sizeof(Token));
        run->end = end + child->edge_length;
        run->live += child->edge_length;
        release(child);
        child->run = run;
        child->offset = node->offset;
        child->edge_length += node->edge_length;
        node->run = nullptr; // the child has it now
        return true;
    }

    /// Copies the node's edge before the child's, if the child's run has spare room there.
    bool prepend(Node* node, Node* child) noexcept {
        if (child->offset < node->edge_length)
            return false;
        child->offset -= node->edge_length;
        child->edge_length += node->edge_length;
        child->run->live += node->edge_length;
        std::memcpy(child->run->tokens() + child->offset, node->edge(),
                    node->edge_length * sizeof(Token));
        release(node);
        return true;
    }

    /// Copies both edges to a new run, with spare room for the next join on the side of the longer one.
    bool join_in_new_run(Node* node, Node* child) noexcept {
        const std::uint32_t length = node->edge_length + child->edge_length;
        constexpr std::uint32_t spare_part = 32;
        Run<Token>* run = Run<Token>::try_make(length, length / spare_part);
        if (run == nullptr)
            return false;
        const bool spare_behind = node->edge_length >= child->edge_length;
        const std::uint32_t offset = spare_behind ? 0 : length / spare_part;
        std::memcpy(run->tokens() + offset, node->edge(), node->edge_length * sizeof(Token));
        std::memcpy(run->tokens() + offset + node->edge_length, child->edge(),
                    child->edge_length * sizeof(Token));
        run->end = offset + length;
        release(node);
        release(child);
        child->run = run;
        child->offset = offset;
        child->edge_length = length;
        bytes_ += run->nbytes();
        return true;
    }

    std::size_t bytes_ = 0;
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
