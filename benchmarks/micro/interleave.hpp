// SPDX-License-Identifier: MIT
// Timing an operation and its bound in turn, in one process: a slow moment of the machine hits both.
#ifndef PROMPTKV_BENCHMARKS_INTERLEAVE_HPP
#define PROMPTKV_BENCHMARKS_INTERLEAVE_HPP

#include "targets.hpp"

#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace bench {

/// Makes the compiler believe that `value` is read, and that memory may have changed.
template <class T>
void use(const T& value) {
    asm volatile("" : : "r,m"(value) : "memory");
}

/// Ends the program with a message unless `right`: a wrong answer is not worth timing.
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
    for (std::size_t i = 0; i < calls; ++i)
        operation(i);
    const std::chrono::duration<double, std::nano> time = std::chrono::steady_clock::now() - start;
    return time.count() / static_cast<double>(calls);
}

/// One run of a case: how much it measures, and what came out.
struct Run {
    int pairs; // batches of operation and bound
    bool quick;
    double bound = 0; // nanoseconds a call, the median
    double low = 0;   // 10th percentile of the operation's
    double high = 0;  // 90th percentile
    Target result{};  // of the operation against what is allowed
};

/// Times a batch of `operation` and a batch of `bound`, run.pairs times. The first batch of each is not
/// counted. `undo` and `undo_bound` follow each batch and are not timed.
template <class Operation, class Undo, class Bound, class UndoBound>
Paired interleave(const Run& run, std::size_t calls, Operation operation, Undo undo, Bound bound,
                  UndoBound undo_bound) {
    Paired times;
    nanoseconds(calls, operation);
    undo();
    nanoseconds(calls, bound);
    undo_bound();
    for (int i = 0; i < run.pairs; ++i) {
        times.operation.push_back(nanoseconds(calls, operation));
        undo();
        times.bound.push_back(nanoseconds(calls, bound));
        undo_bound();
    }
    return times;
}

/// The same for operations that change nothing, in batches of about 20 microseconds.
template <class Operation, class Bound>
Paired interleave(const Run& run, Operation operation, Bound bound) {
    std::size_t calls = 1;
    while (calls < 1024 && nanoseconds(calls, operation) * static_cast<double>(calls) < 20'000)
        calls *= 2;
    const auto nothing = [] {};
    return interleave(run, calls, operation, nothing, bound, nothing);
}

/// What an operation may cost: `factor` times its bound and `extra_ns` more.
struct Allowance {
    double factor = 1;
    double extra_ns = 0;
    std::string target{}; // names a row of the table of targets; none if empty
};

/// Fills in the result of a run.
inline void report(Run& run, const Paired& times, const Allowance& allowance) {
    std::vector<double> allowed;
    for (const double bound : times.bound)
        allowed.push_back(allowance.factor * bound + allowance.extra_ns);
    run.bound = median(times.bound);
    run.low = quantile(times.operation, 0.1);
    run.high = quantile(times.operation, 0.9);
    run.result = compare(allowance.target, times.operation, allowed);
}

/// A row of micro.csv.
struct Case {
    std::string family;
    std::string series;
    std::size_t x; // tokens, entries or children
    std::function<void(Run&)> measure;
};

using Cases = std::vector<Case>;

inline void add(Cases& cases, std::string family, std::string series, std::size_t x,
                std::function<void(Run&)> measure) {
    cases.push_back({std::move(family), std::move(series), x, std::move(measure)});
}

void add_lookups(Cases& cases);
void add_inserts(Cases& cases);
void add_evictions(Cases& cases);
void add_longer(Cases& cases);
void add_reuse(Cases& cases);

} // namespace bench

#endif
