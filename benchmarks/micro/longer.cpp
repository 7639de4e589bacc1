// SPDX-License-Identifier: MIT
// The nearest longer entry below a node with many children, against one with ten. Each lookup follows an
// insert that evicts another child.
#include "interleave.hpp"
#include "prompts.hpp"

#include <string>

namespace bench {
namespace {

/// A full cache in which all entries continue the same 64 tokens, by 8 to 71 more.
class Wide {
public:
    explicit Wide(std::size_t width) : cache_({.max_entries = width}) {
        append_tokens(shared_, 0, 64);
        asked_ = shared_;
        asked_.push_back(unseen);
        for (std::size_t i = 0; i < width; ++i)
            add_child();
        require(cache_.size() == width, "children stored");
        const auto found = cache_.probe(model, asked_, {.min_remaining = 0});
        require(found.match() == promptkv::Match::longer && found.reused() == 64, "nearest longer");
    }

    /// Makes the key of the next child.
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
        const auto lease = cache_.lease_nearest(model, asked_, {.min_remaining = 0});
        use(lease.reused());
    }

private:
    Cache<Cuttable> cache_;
    Prompt shared_;
    Prompt asked_;
    Prompt child_;
    std::uint64_t made_ = 0;
};

/// Returns: what reading the clock twice takes, the median.
double clock_ns() {
    std::vector<double> times;
    times.reserve(1'001);
    const auto nothing = [](std::size_t) {};
    for (int i = 0; i < 1'001; ++i)
        times.push_back(nanoseconds(1, nothing));
    return median(times);
}

/// Times each lookup after an insert that evicts; with `whole_step` the insert too.
void by_width(Run& run, std::size_t width, bool whole_step) {
    Wide narrow(10);
    Wide wide(width);
    const double clock = clock_ns();
    const auto mean = [clock, whole_step](Wide& node) {
        constexpr int steps = 32;
        double sum = 0;
        for (int k = 0; k < steps; ++k) {
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
    for (int i = 0; i < run.pairs; ++i) {
        times.operation.push_back(mean(wide));
        times.bound.push_back(mean(narrow));
    }
    Allowance allowance{.factor = 3};
    if (width == 100'000 && !whole_step)
        allowance.target = "longer below 100000 children against 10 [ns]";
    report(run, times, allowance);
}

} // namespace

void add_longer(Cases& cases) {
    for (const std::size_t width : {10U, 1'000U, 100'000U}) {
        add(cases, "longer", "lookup", width, [=](Run& run) { by_width(run, width, false); });
        add(cases, "longer", "insert and eviction too", width,
            [=](Run& run) { by_width(run, width, true); });
    }
}

} // namespace bench
