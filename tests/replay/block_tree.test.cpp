// SPDX-License-Identifier: MIT
// BlockTree: each path is found again, whatever was added after it.

#include "replay/block_tree.hpp"

#include "catch.hpp"

#include <cstdint>
#include <vector>

namespace {

using replay::BlockTree;
using replay::Range;
using Ranges = std::vector<Range>;

/// The blocks of each node on the path to `last`.
std::vector<std::uint64_t> lengths(const BlockTree& tree, BlockTree::NodeId last) {
    std::vector<BlockTree::NodeId> path;
    tree.path_to(last, path);
    std::vector<std::uint64_t> result;
    for (const BlockTree::NodeId node : path)
        result.push_back(tree.length(node));
    return result;
}

TEST_CASE("BlockTree splits a node where a path leaves it or ends in it") {
    BlockTree tree;
    const auto whole = tree.add(Ranges{{1, 10}});
    const auto branch = tree.add(Ranges{{1, 6}, {50, 3}});
    const auto part = tree.add(Ranges{{1, 2}});
    const auto further = tree.add(Ranges{{1, 10}, {90, 4}});
    const auto other = tree.add(Ranges{{2, 9}});
    REQUIRE(lengths(tree, part) == std::vector<std::uint64_t>{2});
    REQUIRE(lengths(tree, whole) == std::vector<std::uint64_t>{2, 4, 4});
    REQUIRE(lengths(tree, branch) == std::vector<std::uint64_t>{2, 4, 3});
    REQUIRE(lengths(tree, further) == std::vector<std::uint64_t>{2, 4, 4, 4});
    REQUIRE(lengths(tree, other) == std::vector<std::uint64_t>{9});
    REQUIRE(tree.size() == 1 + 6);
}

TEST_CASE("BlockTree does not care how ids are cut into ranges") {
    BlockTree tree;
    const auto whole = tree.add(Ranges{{1, 6}, {20, 2}});
    REQUIRE(tree.add(Ranges{{1, 2}, {3, 4}, {20, 1}, {21, 1}}) == whole);
    REQUIRE(lengths(tree, whole) == std::vector<std::uint64_t>{6, 2});
}

TEST_CASE("BlockTree goes on from the end of a path") {
    BlockTree tree;
    const auto prompt = tree.add(Ranges{{1, 4}});
    const auto output = tree.add(Ranges{{5, 3}}, prompt);
    REQUIRE(tree.add(Ranges{{1, 7}}) == output);
    REQUIRE(tree.add(Ranges{}, prompt) == prompt);
    REQUIRE(tree.add(Ranges{}) == BlockTree::root);
    REQUIRE(lengths(tree, output) == std::vector<std::uint64_t>{4, 3});
}

} // namespace
