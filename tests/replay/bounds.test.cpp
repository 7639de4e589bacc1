// SPDX-License-Identifier: MIT
// simulate_bound: LRU against the plainest LRU, and the optimum against all that can be done.

#include "replay/bounds.hpp"

#include "replay/generate.hpp"

#include "catch.hpp"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <random>
#include <set>
#include <vector>

namespace {

using replay::Capacity;
using replay::InsertWay;
using replay::Policy;
using replay::Range;
using replay::Result;
using replay::Settings;
using replay::simulate;
using replay::Trace;

using Ids = std::vector<std::int64_t>;

Result replay_by(Policy policy, const Trace& trace, std::uint64_t blocks,
                 InsertWay insert = InsertWay::prompt) {
    Settings settings;
    settings.policy = policy;
    settings.insert = insert;
    return simulate(trace, settings, {blocks, Capacity::Unit::blocks});
}

/// Short prompts of few ids, so that they share much.
std::vector<Ids> random_prompts(std::uint32_t seed, std::size_t count, std::size_t longest) {
    std::mt19937 random(seed);
    std::vector<Ids> prompts(count);
    for (Ids& prompt : prompts) {
        prompt.resize(1 + random() % longest);
        for (std::int64_t& id : prompt)
            id = 1 + random() % 3;
    }
    return prompts;
}

/// A trace of `prompts`. Neighbouring ids become a range of two, or two ranges, at random.
Trace trace_of(const std::vector<Ids>& prompts) {
    std::mt19937 random(1);
    Trace trace;
    for (const Ids& prompt : prompts) {
        std::vector<Range> ranges;
        for (const std::int64_t id : prompt) {
            const bool neighbours =
                !ranges.empty() && ranges.back().length == 1 && ranges.back().start + 1 == id;
            if (neighbours && random() % 2 == 0)
                ranges.back().length = 2;
            else
                ranges.push_back({id, 1});
        }
        trace.append(prompt.size(), 0, ranges);
    }
    return trace;
}

Ids prefix(const Ids& prompt, std::size_t n) {
    return {prompt.begin(), prompt.begin() + static_cast<std::ptrdiff_t>(n)};
}

// LRU ////////////////////////////////////////////////////////////////////////

/// Blocks that LRU reuses: a block is the prefix that it ends.
std::uint64_t plain_lru(const std::vector<Ids>& prompts, std::size_t capacity) {
    std::map<Ids, std::size_t> last_use;
    std::uint64_t reused = 0;
    for (std::size_t now = 0; now < prompts.size(); ++now) {
        const Ids& prompt = prompts[now];
        bool found = true;
        for (std::size_t n = 1; n <= prompt.size(); ++n) {
            found = found && last_use.contains(prefix(prompt, n));
            reused += found ? 1U : 0U;
        }
        for (std::size_t n = 1; n <= prompt.size(); ++n)
            last_use[prefix(prompt, n)] = now;
        while (last_use.size() > capacity) {
            const auto victim = std::min_element(
                last_use.begin(), last_use.end(), [](const auto& a, const auto& b) {
                    return a.second != b.second ? a.second < b.second
                                                : a.first.size() > b.first.size();
                });
            last_use.erase(victim);
        }
    }
    return reused;
}

TEST_CASE("The LRU bound reuses what the plainest LRU reuses") {
    std::uint64_t total = 0;
    for (std::uint32_t seed = 1; seed <= 40; ++seed) {
        const std::vector<Ids> prompts = random_prompts(seed, 40, 5);
        for (const std::size_t capacity : {0U, 1U, 4U, 9U, 17U}) {
            CAPTURE(seed, capacity);
            const std::uint64_t expected = plain_lru(prompts, capacity);
            REQUIRE(replay_by(Policy::lru, trace_of(prompts), capacity).tokens_saved == expected);
            total += expected;
        }
    }
    REQUIRE(total > 1'000);
}

// the optimum ////////////////////////////////////////////////////////////////

/// All that a store can do: after each request it may hold any of the blocks that it held or that were
/// requested, if they fit and none is without those before it. A set of blocks is a number, a bit a block.
class Exhaustive {
public:
    explicit Exhaustive(const std::vector<Ids>& prompts) {
        for (const Ids& prompt : prompts) {
            paths_.emplace_back();
            for (std::size_t n = 1; n <= prompt.size(); ++n) {
                const auto number = static_cast<std::uint32_t>(numbers_.size());
                const auto [place, is_new] = numbers_.try_emplace(prefix(prompt, n), number);
                if (is_new)
                    parents_.push_back(n == 1 ? 0 : Set{1} << paths_.back().back());
                paths_.back().push_back(place->second);
            }
        }
    }

    [[nodiscard]] std::size_t n_blocks() const { return numbers_.size(); }

    /// The most blocks that can be reused.
    [[nodiscard]] std::uint64_t most(std::size_t capacity) const {
        std::map<Set, std::uint64_t> best{{0, 0}}; // what was reused, by what is held
        for (const std::vector<std::uint32_t>& path : paths_) {
            std::map<Set, std::uint64_t> next;
            for (const auto& [held, reused] : best) {
                std::uint64_t hits = 0;
                Set there = held;
                for (const std::uint32_t block : path) {
                    hits += (held >> block & 1U) != 0 ? 1U : 0U; // no block is without its parents
                    there |= Set{1} << block;
                }
                for (Set kept = there;; kept = (kept - 1) & there) {
                    if (std::popcount(kept) <= static_cast<int>(capacity) && is_closed(kept)) {
                        std::uint64_t& most = next[kept];
                        most = std::max(most, reused + hits);
                    }
                    if (kept == 0)
                        break;
                }
            }
            best = std::move(next);
        }
        std::uint64_t most = 0;
        for (const auto& [held, reused] : best)
            most = std::max(most, reused);
        return most;
    }

private:
    using Set = std::uint32_t;

    [[nodiscard]] bool is_closed(Set set) const {
        for (std::size_t block = 0; block < parents_.size(); ++block) {
            if ((set >> block & 1U) != 0 && (set & parents_[block]) != parents_[block])
                return false;
        }
        return true;
    }

    std::map<Ids, std::uint32_t> numbers_;
    std::vector<Set> parents_; // the block before each, as a set of one or none
    std::vector<std::vector<std::uint32_t>> paths_;
};

TEST_CASE("The optimum reuses as much as any choice of blocks can") {
    std::size_t above_lru = 0;
    std::size_t tried = 0;
    for (std::uint32_t seed = 1; tried < 25; ++seed) {
        const std::vector<Ids> prompts = random_prompts(seed, 8, 3);
        const Exhaustive exhaustive(prompts);
        if (exhaustive.n_blocks() > 9)
            continue; // would take long
        ++tried;
        const Trace trace = trace_of(prompts);
        for (const std::size_t capacity : {1U, 2U, 3U, 5U}) {
            CAPTURE(seed, capacity);
            const std::uint64_t optimum = replay_by(Policy::optimum, trace, capacity).tokens_saved;
            REQUIRE(optimum == exhaustive.most(capacity));
            above_lru += optimum > replay_by(Policy::lru, trace, capacity).tokens_saved ? 1U : 0U;
        }
    }
    REQUIRE(above_lru > 10);
}

TEST_CASE(
    "No policy reuses more than the optimum, and LRU no more than a cache that cuts as it does") {
    for (const std::string_view name : replay::workload_names()) {
        const Trace trace = replay::generate_workload(name, 1, 120);
        const std::uint64_t capacity = 20'000;
        const std::uint64_t optimum = replay_by(Policy::optimum, trace, capacity).tokens_saved;
        for (const Policy policy : replay::policies()) {
            CAPTURE(name, replay::name(policy));
            CHECK(replay_by(policy, trace, capacity).tokens_saved <= optimum);
        }
        const std::uint64_t cache = replay_by(Policy::tiered_lru, trace, capacity).tokens_saved;
        const std::uint64_t lru = replay_by(Policy::lru, trace, capacity).tokens_saved;
        CHECK(cache >= lru - lru / 100);
        CHECK(cache <= lru + lru / 10);
    }
}

// what both share ////////////////////////////////////////////////////////////

/// A chat whose second prompt is the first one, its output and a question.
Trace chat() {
    Trace trace;
    trace.append(4, 0, std::vector<Range>{{0, 4}}, 1, std::vector<Range>{{4, 2}});
    trace.append(8, 0, std::vector<Range>{{0, 8}}, 1);
    return trace;
}

TEST_CASE("A bound stores outputs as a server does") {
    const Policy policy = GENERATE(Policy::lru, Policy::optimum);
    REQUIRE(replay_by(policy, chat(), 10).tokens_saved == 4);
    REQUIRE(replay_by(policy, chat(), 10, InsertWay::server).tokens_saved == 6);
    REQUIRE(replay_by(policy, chat(), 5, InsertWay::server).tokens_saved == 5);
}

TEST_CASE("A bound counts partial blocks, but never more than the input") {
    const Policy policy = GENERATE(Policy::lru, Policy::optimum);
    Trace trace;
    trace.block_size = 10;
    trace.append(25, 0, std::vector<Range>{{0, 3}});
    trace.append(25, 0, std::vector<Range>{{0, 3}});
    const Result result = replay_by(policy, trace, 3);
    REQUIRE(result.policy == policy);
    REQUIRE(result.tokens_saved == 25);
    REQUIRE(result.requests_hit == 1);
    REQUIRE(result.bytes == 3 * 10 * Settings{}.bytes_per_token);
    REQUIRE(replay_by(policy, trace, 0).tokens_saved == 0);
}

} // namespace
