// SPDX-License-Identifier: MIT
// Reports of a replay: a table for people, CSV and JSON for programs.
#ifndef PROMPTKV_REPLAY_REPORT_HPP
#define PROMPTKV_REPLAY_REPORT_HPP

#include "figures.hpp"
#include "simulate.hpp"
#include "trace.hpp"

#include <span>
#include <string>

namespace replay {

/// What was replayed, and what came out at each capacity.
struct Report {
    const Trace& trace;
    const Settings& settings;
    std::span<const Result> results;
    std::span<const Figure> figures{}; ///< of other policies on the same trace; none: not compared
};

/// A line on the trace, a line on the settings, and a row a capacity under aligned headings.
/// With figures: the hit ratios of block LRU and of the optimum, and the difference to block LRU.
[[nodiscard]] std::string format_table(const Report& report);

/// A line of column names and a line a capacity. Times are whole nanoseconds.
[[nodiscard]] std::string format_csv(const Report& report);

/// One object: "trace", "settings" and the array "results".
[[nodiscard]] std::string format_json(const Report& report);

} // namespace replay

#endif
