// SPDX-License-Identifier: MIT
// Timing an operation and its bound in turn, in the same process, so that both meet the same machine.
#ifndef PROMPTKV_BENCHMARKS_INTERLEAVE_HPP
#define PROMPTKV_BENCHMARKS_INTERLEAVE_HPP

#include "targets.hpp"

#include <benchmark/benchmark.h>

#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <sstream>
#include <string>
#include <vector>

namespace bench {

/// Ends the program with a message unless `right`: what is wrong is not worth timing.
inline void require(bool right, const char* what) {
    if (!right) {
        std::fprintf(stderr, "wrong result: %s\n", what);
        std::exit(EXIT_FAILURE);
    }
}

/// Times of two things that were measured in turn, in nanoseconds a call; equal indices are
/// neighbours in time.
struct Paired {
    std::vector<double> operation;
    std::vector<double> bound;
};

/// Returns: nanoseconds a call of `operation(0)` ... `operation(calls - 1)`.
template <class Operation>
double nanoseconds(std::size_t calls, Operation& operation) {
    const auto start = std::chrono::steady_clock::now();
    for (std::size_t i = 0; i < calls; ++i) {
        operation(i);
    }
    const std::chrono::duration<double, std::nano> time = std::chrono::steady_clock::now() - start;
    return time.count() / static_cast<double>(calls);
}

/// Times a batch of `operation` and a batch of `bound` in each iteration of `state`, after one of
/// each that does not count. `undo` and `undo_bound` follow each batch, untimed.
template <class Operation, class Undo, class Bound, class UndoBound>
Paired interleave(benchmark::State& state, std::size_t calls, Operation operation, Undo undo,
                  Bound bound, UndoBound undo_bound) {
    Paired times;
    nanoseconds(calls, operation);
    undo();
    nanoseconds(calls, bound);
    undo_bound();
    for ([[maybe_unused]] auto _ : state) {
        times.operation.push_back(nanoseconds(calls, operation));
        undo();
        times.bound.push_back(nanoseconds(calls, bound));
        undo_bound();
        state.SetIterationTime(1e-9 * times.operation.back());
    }
    return times;
}

/// The same for what leaves nothing behind, in batches of about 20 microseconds.
template <class Operation, class Bound>
Paired interleave(benchmark::State& state, Operation operation, Bound bound) {
    std::size_t calls = 1;
    while (calls < 1024 && nanoseconds(calls, operation) * static_cast<double>(calls) < 20'000) {
        calls *= 2;
    }
    const auto nothing = [] {};
    return interleave(state, calls, operation, nothing, bound, nothing);
}

/// What an operation may cost: `factor` times its bound and `extra_ns` more.
struct Allowance {
    double factor = 1;
    double extra_ns = 0;
    std::string target{}; // names a row of the table of targets; none if empty
};

/// Reports the medians, the ratio to the bound with its spread, and what of the allowance was used.
inline void report(benchmark::State& state, const Paired& times, const Allowance& allowance) {
    std::vector<double> allowed;
    for (const double bound : times.bound) {
        allowed.push_back(allowance.factor * bound + allowance.extra_ns);
    }
    const Target target = compare(allowance.target, times.operation, allowed);
    const std::vector<double> ratios = quotients(times.operation, times.bound);
    if (!allowance.target.empty()) {
        std::ostringstream row;
        row << target;
        state.SetLabel(row.str());
    }
    state.counters["ns"] = target.measured;
    state.counters["ns_p10"] = quantile(times.operation, 0.1);
    state.counters["ns_p90"] = quantile(times.operation, 0.9);
    state.counters["bound_ns"] = median(times.bound);
    state.counters["ratio"] = median(ratios);
    state.counters["ratio_p10"] = quantile(ratios, 0.1);
    state.counters["ratio_p90"] = quantile(ratios, 0.9);
    state.counters["allowed_ns"] = target.allowed;
    state.counters["of_allowed"] = target.ratio;
    state.counters["of_allowed_p10"] = target.low;
    state.counters["of_allowed_p90"] = target.high;
}

/// How much is measured.
struct Effort {
    int pairs = 1'500; // batches of operation and bound
    bool quick = false;
};

/// Registers `body` as FAMILY/SERIES/x.
inline void add(const Effort& effort, const std::string& family, const std::string& series,
                std::size_t x, const std::function<void(benchmark::State&)>& body) {
    const std::string name = family + '/' + series + '/' + std::to_string(x);
    benchmark::RegisterBenchmark(name.c_str(), body)->Iterations(effort.pairs)->UseManualTime();
}

void add_lookups(const Effort& effort);
void add_inserts(const Effort& effort);
void add_evictions(const Effort& effort);
void add_longer(const Effort& effort);

} // namespace bench

#endif
