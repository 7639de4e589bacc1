// SPDX-License-Identifier: MIT
// The nearest longer entry below a node with many children, against one with ten, evictions going on.
#include "interleave.hpp"
#include "prompts.hpp"

#include <string>

namespace bench {
namespace {

/// A full cache in which all entries continue the same 64 tokens, by 8 to 71 of their own.
class Wide {
public:
    explicit Wide(std::size_t width) : cache_({.max_entries = width}) {
        append_tokens(shared_, 0, 64);
        asked_ = shared_;
        asked_.push_back(unseen);
        for (std::size_t i = 0; i < width; ++i) {
            add_child();
        }
        require(cache_.size() == width, "children stored");
        const auto found = cache_.probe(model, asked_, {.min_remaining = 0});
        require(found.match == promptkv::Match::longer && found.reused == 64, "nearest longer");
    }

    /// Makes the next child, and in a full cache room for it.
    void make_child() {
        child_ = shared_;
        ++made_;
        append_tokens(child_, made_ << 8U, 8 + made_ % 64);
    }

    void store_child() { store(cache_, child_); }

    void add_child() {
        make_child();
        store_child();
    }

    void ask() {
        benchmark::DoNotOptimize(cache_.lease_nearest(model, asked_, {.min_remaining = 0}).reused);
    }

private:
    Cache<Cuttable> cache_;
    Prompt shared_;
    Prompt asked_;
    Prompt child_;
    std::uint64_t made_ = 0;
};

/// Returns: the median of what reading the clock twice takes.
double clock_ns() {
    std::vector<double> times;
    times.reserve(1'001);
    const auto nothing = [](std::size_t) {};
    for (int i = 0; i < 1'001; ++i) {
        times.push_back(nanoseconds(1, nothing));
    }
    return median(times);
}

/// Times what follows an eviction and an insert, or all three, one by one.
void by_width(benchmark::State& state, std::size_t width, bool whole_step) {
    Wide narrow(10);
    Wide wide(width);
    const double clock = clock_ns();
    const auto mean = [clock, whole_step](Wide& node) {
        constexpr int steps = 32;
        double sum = 0;
        for (int i = 0; i < steps; ++i) {
            node.make_child();
            const auto step = [&node](std::size_t) {
                node.store_child();
                node.ask();
            };
            const auto ask = [&node](std::size_t) { node.ask(); };
            if (whole_step) {
                sum += nanoseconds(1, step) - clock;
            } else {
                node.store_child();
                sum += nanoseconds(1, ask) - clock;
            }
        }
        return sum / steps;
    };
    Paired times;
    for ([[maybe_unused]] auto _ : state) {
        times.operation.push_back(mean(wide));
        times.bound.push_back(mean(narrow));
        state.SetIterationTime(1e-9 * times.operation.back());
    }
    Allowance allowance{.factor = 3};
    if (width == 100'000 && !whole_step) {
        allowance.target = "longer below 100000 children against 10 [ns]";
    }
    report(state, times, allowance);
}

} // namespace

void add_longer(const Effort& effort) {
    for (const std::size_t width : {10U, 100U, 1'000U, 10'000U, 100'000U}) {
        add(effort, "longer", "lookup", width,
            [=](benchmark::State& state) { by_width(state, width, false); });
        add(effort, "longer", "eviction + insert + lookup", width,
            [=](benchmark::State& state) { by_width(state, width, true); });
    }
}

} // namespace bench
