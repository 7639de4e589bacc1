// SPDX-License-Identifier: MIT
// Figures: the reader of the CSV file.
#include "figures.hpp"

#include "input.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <stdexcept>
#include <system_error>

namespace replay {
namespace {

constexpr std::size_t n_columns = 4; // trace, capacity_blocks, policy, token_hit_ratio

std::array<std::string_view, n_columns> split(std::string_view line) {
    if (std::count(line.begin(), line.end(), ',') != n_columns - 1)
        throw std::invalid_argument(fmt::format("not {} columns", n_columns));
    std::array<std::string_view, n_columns> cells;
    for (std::string_view& cell : cells) {
        cell = line.substr(0, line.find(','));
        line.remove_prefix(std::min(cell.size() + 1, line.size()));
    }
    return cells;
}

double parse_ratio(std::string_view text) {
    double ratio = 0;
    const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), ratio);
    if (error != std::errc() || stop != text.data() + text.size() || !(ratio >= 0 && ratio <= 1))
        throw std::invalid_argument(fmt::format("'{:.40}' is no hit ratio", text));
    return ratio;
}

} // namespace

std::vector<Figure> read_figures(const std::string& path, std::string_view trace) {
    LineReader reader(path);
    std::vector<Figure> figures;
    std::string line;
    std::size_t line_number = 0;
    while (true) {
        ++line_number;
        try {
            if (!reader.next(line))
                break;
            const auto cells = split(line);
            if (line_number > 1 && cells[0] == trace) {
                figures.push_back(
                    {std::string(cells[2]), parse_capacity(cells[1]), parse_ratio(cells[3])});
            }
        } catch (const std::invalid_argument& problem) {
            throw TraceError(path, line_number, problem.what());
        }
    }
    if (figures.empty())
        throw std::runtime_error(fmt::format("{}: no figure of a trace '{}'", path, trace));
    return figures;
}

std::optional<double> find_figure(std::span<const Figure> figures, std::string_view policy,
                                  const Capacity& capacity) {
    for (const Figure& figure : figures) {
        if (figure.capacity == capacity && (figure.policy == policy || figure.policy == "any"))
            return figure.token_hit_ratio;
    }
    return std::nullopt;
}

std::vector<Capacity> capacities_of(std::span<const Figure> figures) {
    std::vector<Capacity> capacities;
    for (const Figure& figure : figures) {
        if (std::find(capacities.begin(), capacities.end(), figure.capacity) == capacities.end())
            capacities.push_back(figure.capacity);
    }
    return capacities;
}

} // namespace replay
