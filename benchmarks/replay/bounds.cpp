// SPDX-License-Identifier: MIT
// simulate_bound: the store of shared blocks, ordered by when each block is used.
#include "bounds.hpp"

#include "block_tree.hpp"

#include <algorithm>
#include <compare>
#include <cstdint>
#include <set>
#include <span>
#include <vector>

namespace replay {
namespace {

using NodeId = BlockTree::NodeId;

/// Where the paths of each request end in the tree of all requests.
class Paths {
public:
    Paths(const Trace& trace, bool outputs) {
        for (const Request& request : trace.requests) {
            const auto ids = std::span(trace.ranges).subspan(request.first_range);
            const NodeId prompt = tree_.add(ids.first(request.range_count));
            prompts_.push_back(prompt);
            stored_.push_back(
                outputs ? tree_.add(ids.subspan(request.range_count, request.output_range_count),
                                    prompt)
                        : prompt);
        }
    }

    [[nodiscard]] const BlockTree& tree() const noexcept { return tree_; }
    [[nodiscard]] NodeId prompt(std::size_t request) const { return prompts_[request]; }
    [[nodiscard]] NodeId stored(std::size_t request) const { return stored_[request]; }

private:
    BlockTree tree_;
    std::vector<NodeId> prompts_;
    std::vector<NodeId> stored_; // with the output where it is known
};

/// For each node the requests that read it.
class Future {
public:
    explicit Future(const Paths& paths, std::size_t n_requests)
        : reads_(paths.tree().size()), position_(paths.tree().size()) {
        std::vector<NodeId> path;
        for (std::size_t request = 0; request < n_requests; ++request) {
            paths.tree().path_to(paths.prompt(request), path);
            for (const NodeId node : path)
                reads_[node].push_back(static_cast<std::uint32_t>(request));
        }
        never_ = n_requests;
    }

    /// The first request after `now` that reads `node`, or their number.
    /// Requires: `now` is not smaller than before.
    std::uint64_t next_read(NodeId node, std::size_t now) {
        const std::vector<std::uint32_t>& reads = reads_[node];
        std::size_t& next = position_[node];
        while (next < reads.size() && reads[next] <= now)
            ++next;
        return next < reads.size() ? reads[next] : never_;
    }

private:
    std::vector<std::vector<std::uint32_t>> reads_;
    std::vector<std::size_t> position_; // of the next read
    std::uint64_t never_ = 0;
};

/// The blocks that are held, in the order in which they are given up.
class Store {
public:
    Store(const BlockTree& tree, std::uint64_t capacity)
        : tree_(tree), capacity_(capacity), places_(tree.size()) {}

    /// Blocks of `path` that are held. They are its first ones: no block is held without those before it.
    [[nodiscard]] std::uint64_t held(std::span<const NodeId> path) const {
        std::uint64_t blocks = 0;
        for (const NodeId node : path)
            blocks += places_[node].held;
        return blocks;
    }

    /// Holds all blocks of `node`, to be given up before those with a smaller `rank`, and among those
    /// with the same `rank` before those with a smaller `depth`.
    void hold(NodeId node, std::uint64_t rank, std::uint64_t depth) {
        Place& place = places_[node];
        if (place.held > 0)
            order_.erase({place.rank, place.depth, node});
        blocks_ += tree_.length(node) - place.held;
        place = {tree_.length(node), rank, depth};
        order_.insert({rank, depth, node});
    }

    void give_up_what_does_not_fit() {
        while (blocks_ > capacity_) {
            const auto last = std::prev(order_.end());
            Place& place = places_[last->node];
            const std::uint64_t cut = std::min(place.held, blocks_ - capacity_);
            place.held -= cut;
            blocks_ -= cut;
            if (place.held == 0)
                order_.erase(last);
        }
    }

    [[nodiscard]] std::uint64_t blocks() const noexcept { return blocks_; }

private:
    struct Place {
        std::uint64_t held = 0; ///< blocks
        std::uint64_t rank = 0;
        std::uint64_t depth = 0;
    };
    struct Key {
        std::uint64_t rank;
        std::uint64_t depth;
        NodeId node;

        friend auto operator<=>(const Key&, const Key&) = default;
    };

    const BlockTree& tree_;
    std::uint64_t capacity_;
    std::uint64_t blocks_ = 0;
    std::vector<Place> places_;
    std::set<Key> order_;
};

} // namespace

Result simulate_bound(const Trace& trace, const Settings& settings, const Capacity& capacity,
                      const Progress& progress) {
    const std::size_t n_requests = trace.requests.size();
    const std::uint64_t bytes_per_block = trace.block_size * settings.bytes_per_token;
    const Paths paths(trace, settings.insert == InsertWay::server);
    Future future(paths, settings.policy == Policy::optimum ? n_requests : 0);
    Store store(paths.tree(), capacity.blocks(bytes_per_block));
    Result result;
    result.policy = settings.policy;
    result.capacity = capacity;
    std::vector<NodeId> path;
    for (std::size_t now = 0; now < n_requests; ++now) {
        paths.tree().path_to(paths.prompt(now), path);
        result.count(trace.requests[now].input_tokens, store.held(path) * trace.block_size);
        paths.tree().path_to(paths.stored(now), path);
        for (std::size_t depth = 0; depth < path.size(); ++depth) {
            const std::uint64_t rank = settings.policy == Policy::optimum
                                           ? future.next_read(path[depth], now)
                                           : n_requests - now;
            store.hold(path[depth], rank, depth);
        }
        store.give_up_what_does_not_fit();
        report_progress(progress, now + 1);
    }
    result.bytes = store.blocks() * bytes_per_block;
    return result;
}

} // namespace replay
