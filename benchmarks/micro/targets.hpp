// SPDX-License-Identifier: MIT
// A target row: what was measured, what is allowed, and whether it was met.
#ifndef PROMPTKV_BENCHMARKS_TARGETS_HPP
#define PROMPTKV_BENCHMARKS_TARGETS_HPP

#include <algorithm>
#include <cstddef>
#include <iomanip>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

namespace bench {

/// Returns: the quantile `p` of `values`, 0 <= p <= 1; 0 if there are no values.
inline double quantile(std::vector<double> values, double p) {
    if (values.empty())
        return 0;
    const auto rank = static_cast<std::ptrdiff_t>(p * static_cast<double>(values.size() - 1));
    std::nth_element(values.begin(), values.begin() + rank, values.end());
    return values[static_cast<std::size_t>(rank)];
}

inline double median(std::vector<double> values) {
    return quantile(std::move(values), 0.5);
}

/// Returns: the quotients of equal indices; 0 / 0 is 0.
inline std::vector<double> quotients(const std::vector<double>& of, const std::vector<double>& by) {
    std::vector<double> result;
    for (std::size_t i = 0; i < of.size(); ++i)
        result.push_back(of[i] == 0 ? 0 : of[i] / by[i]);
    return result;
}

/// Measured values and what is allowed, in the unit that `name` says.
///
/// The ratio is the median of measured / allowed; `low` and `high` are the 10th and 90th percentile. A
/// target is met when the ratio is at most 1.
struct Target {
    std::string name; // without a comma
    double measured = 0;
    double allowed = 0;
    double ratio = 0;
    double low = 0;
    double high = 0;

    /// Writes a line of `target,measured,allowed,ratio,low,high,met`.
    friend std::ostream& operator<<(std::ostream& out, const Target& t) {
        return out << std::fixed << std::setprecision(1) << t.name << ',' << t.measured << ','
                   << t.allowed << std::setprecision(2) << ',' << t.ratio << ',' << t.low << ','
                   << t.high << ',' << (t.ratio <= 1 ? "yes" : "NO") << std::endl;
    }
};

/// Requires: as many measured values as allowed ones.
inline Target compare(std::string name, const std::vector<double>& measured,
                      const std::vector<double>& allowed) {
    const std::vector<double> ratios = quotients(measured, allowed);
    return {std::move(name), median(measured),      median(allowed),
            median(ratios),  quantile(ratios, 0.1), quantile(ratios, 0.9)};
}

} // namespace bench

#endif
