// SPDX-License-Identifier: MIT
// Figures: token hit ratios of other policies on the same traces, to compare with.
#ifndef PROMPTKV_REPLAY_FIGURES_HPP
#define PROMPTKV_REPLAY_FIGURES_HPP

#include "capacity.hpp"

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace replay {

/// What one policy reached on one trace at one capacity.
struct Figure {
    std::string policy;
    Capacity capacity;
    double token_hit_ratio = 0;
};

/// Reads the figures of `trace` from a CSV file with the columns trace, capacity_blocks, policy and
/// token_hit_ratio, below a line of headings; `unlimited` is a capacity.
/// Throws: TraceError at a malformed line; std::runtime_error when the file cannot be read, or has no
///         figure of the trace.
[[nodiscard]] std::vector<Figure> read_figures(const std::string& path, std::string_view trace);

/// The figure of `policy` at `capacity`, or of the policy `any`, which stands for all.
[[nodiscard]] std::optional<double> find_figure(std::span<const Figure> figures,
                                                std::string_view policy, const Capacity& capacity);

/// The capacities of the figures, each once, in the order of the file.
[[nodiscard]] std::vector<Capacity> capacities_of(std::span<const Figure> figures);

} // namespace replay

#endif
