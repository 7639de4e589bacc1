// SPDX-License-Identifier: MIT
// BlockTree: all prompts of a trace in one tree, known before the first of them is replayed.
#ifndef PROMPTKV_REPLAY_BLOCK_TREE_HPP
#define PROMPTKV_REPLAY_BLOCK_TREE_HPP

#include "trace.hpp"

#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <span>
#include <utility>
#include <vector>

namespace replay {

/// A tree of runs of block ids. A path from the root spells a prompt, or a prompt and its output.
/// When all of them are added, each ends where a node ends, so that the blocks of a node are always
/// used together.
class BlockTree {
public:
    using NodeId = std::uint32_t;

    static constexpr NodeId root = 0;

    BlockTree() : nodes_(1) {}

    /// Adds the path of `ids` below the end of `from`.
    /// Returns: the node at the end of the path, which stays at that end whatever is added later.
    NodeId add(std::span<const Range> ids, NodeId from = root);

    /// Replaces the content of `path` by the nodes from below the root to `last`.
    void path_to(NodeId last, std::vector<NodeId>& path) const;

    /// Blocks of `node`.
    [[nodiscard]] std::uint64_t length(NodeId node) const { return nodes_[node].run.length; }

    [[nodiscard]] std::size_t size() const noexcept { return nodes_.size(); }

private:
    struct Node {
        Range run;
        NodeId parent = root;
    };

    /// Makes a node of the first `length` blocks of `node`, which goes on as the rest.
    NodeId split(NodeId node, std::uint64_t length);
    NodeId add_node(const Range& run, NodeId parent);

    std::vector<Node> nodes_;
    std::map<std::pair<NodeId, std::int64_t>, NodeId> children_; // by parent and first id
};

} // namespace replay

#endif
