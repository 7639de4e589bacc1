// SPDX-License-Identifier: MIT
// Reports of a replay: tables for people, CSV and JSON for programs.
#ifndef PROMPTKV_REPLAY_REPORT_HPP
#define PROMPTKV_REPLAY_REPORT_HPP

#include "figures.hpp"
#include "simulate.hpp"
#include "trace.hpp"

#include <span>
#include <string>

namespace replay {

/// What was replayed, and what came out at each capacity by each policy.
struct Report {
    const Trace& trace;
    const Settings& settings;
    std::span<const Result> results;
    std::span<const Figure> figures{}; ///< of other policies on the same trace; none: not compared
};

/// A line on the trace, a line on the settings, and a row a replay under aligned headings. With several
/// policies first their hit ratios alone: a row a capacity, a column a policy.
/// With figures: the hit ratios of block LRU and of the optimum, and the difference to block LRU.
[[nodiscard]] std::string format_table(const Report& report);

/// A line of column names and a line a replay. Times are whole nanoseconds.
[[nodiscard]] std::string format_csv(const Report& report);

/// CSV with the hit ratios alone: trace, capacity_blocks, policy, token_hit_ratio.
[[nodiscard]] std::string format_ratios(const Report& report);

/// One object: "trace", "settings" and the array "results".
[[nodiscard]] std::string format_json(const Report& report);

/// A row for each point of the curves of the results, with the hit ratios that `measured` has at its
/// budget: of LRU, which the curve predicts, and of the policy of the curve.
[[nodiscard]] std::string format_curve_table(const Report& report,
                                             std::span<const Result> measured);

/// The same as CSV: trace, policy, capacity_blocks, budget_bytes, curve, lru, measured.
[[nodiscard]] std::string format_curve_csv(const Report& report, std::span<const Result> measured);

} // namespace replay

#endif
