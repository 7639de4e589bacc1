// SPDX-License-Identifier: MIT
// BlockTree: how prompts are added to the tree.
#include "block_tree.hpp"

#include <algorithm>
#include <stdexcept>

namespace replay {

BlockTree::NodeId BlockTree::add(std::span<const Range> ids, NodeId from) {
    NodeId node = from;
    std::uint64_t used = length(node); // blocks of `node` that are on the path
    for (Range rest : ids) {
        while (rest.length > 0) {
            if (used < length(node)) {
                const Range& run = nodes_[node].run;
                const bool goes_on = run.start + static_cast<std::int64_t>(used) == rest.start;
                if (!goes_on) {
                    node = split(node, used);
                    continue;
                }
            } else {
                const auto child = children_.find({node, rest.start});
                node = child != children_.end() ? child->second : add_node(rest, node);
                used = 0;
            }
            const std::uint64_t common = std::min(length(node) - used, rest.length);
            used += common;
            rest.start += static_cast<std::int64_t>(common);
            rest.length -= common;
        }
    }
    return used < length(node) ? split(node, used) : node;
}

void BlockTree::path_to(NodeId last, std::vector<NodeId>& path) const {
    path.clear();
    for (NodeId node = last; node != root; node = nodes_[node].parent)
        path.push_back(node);
    std::reverse(path.begin(), path.end());
}

BlockTree::NodeId BlockTree::split(NodeId node, std::uint64_t length) {
    const Range whole = nodes_[node].run;
    const NodeId upper = add_node({whole.start, length}, nodes_[node].parent);
    const Range rest{whole.start + static_cast<std::int64_t>(length), whole.length - length};
    nodes_[node] = {rest, upper};
    children_[{upper, rest.start}] = node;
    return upper;
}

BlockTree::NodeId BlockTree::add_node(const Range& run, NodeId parent) {
    if (nodes_.size() > std::numeric_limits<NodeId>::max())
        throw std::length_error("the trace has too many branches");
    const auto node = static_cast<NodeId>(nodes_.size());
    nodes_.push_back({run, parent});
    children_[{parent, run.start}] = node;
    return node;
}

} // namespace replay
