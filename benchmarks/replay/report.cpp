// SPDX-License-Identifier: MIT
// Reports of a replay: tables, CSV and JSON.
#include "report.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace replay {
namespace {

using nlohmann::ordered_json;
using std::chrono::nanoseconds;

constexpr std::array<std::string_view, Result::tier_count> tier_names{"assistant", "user",
                                                                      "system"};

std::string_view name_of(PayloadKind payload) {
    switch (payload) {
    case PayloadKind::blocks:
        return "blocks";
    case PayloadKind::prefix:
        return "prefix";
    case PayloadKind::whole:
        break;
    }
    return "whole";
}

std::string_view name_of(InsertWay way) {
    switch (way) {
    case InsertWay::prompt:
        return "prompt";
    case InsertWay::tiers:
        return "tiers";
    case InsertWay::server:
        break;
    }
    return "server";
}

/// The values of `part` of the results, each once, in the order in which they come.
template <class Part>
auto each_once(std::span<const Result> results, Part part) {
    std::vector<std::decay_t<decltype(results.front().*part)>> values;
    for (const Result& result : results) {
        if (std::find(values.begin(), values.end(), result.*part) == values.end())
            values.push_back(result.*part);
    }
    return values;
}

std::vector<std::string_view> names_of(std::span<const Policy> policies) {
    std::vector<std::string_view> names;
    for (const Policy policy : policies)
        names.push_back(name(policy));
    return names;
}

bool names_sessions(const Settings& settings) {
    return settings.insert == InsertWay::server && settings.sessions;
}

std::uint64_t bytes_per_block(const Report& report) {
    return report.trace.block_size * report.settings.bytes_per_token;
}

/// 1234567 -> "1,234,567"
std::string grouped(std::uint64_t number) {
    std::string digits = fmt::format("{}", number);
    for (std::size_t place = digits.size(); place > 3; place -= 3)
        digits.insert(place - 3, 1, ',');
    return digits;
}

std::string readable(nanoseconds time) {
    const auto ns = static_cast<double>(time.count());
    if (ns < 1e3)
        return fmt::format("{:.0f} ns", ns);
    return ns < 1e6 ? fmt::format("{:.1f} us", ns / 1e3) : fmt::format("{:.1f} ms", ns / 1e6);
}

/// With tiers a count a tier, from assistant to system; otherwise all prompts are in one.
std::string by_tier(const std::array<std::uint64_t, Result::tier_count>& counts, bool tiers) {
    return tiers ? fmt::format("{}", fmt::join(counts, "/")) : grouped(counts[0]);
}

using Row = std::vector<std::string>;

/// The rows with their cells padded to columns, the first row underlined.
std::string aligned(const std::vector<Row>& rows) {
    std::vector<std::size_t> widths(rows.front().size());
    for (const Row& row : rows) {
        for (std::size_t i = 0; i < row.size(); ++i)
            widths[i] = std::max(widths[i], row[i].size());
    }
    std::string text;
    for (const Row& row : rows) {
        std::string line;
        for (std::size_t i = 0; i < row.size(); ++i)
            line += fmt::format("{}{:>{}}", i == 0 ? "" : "  ", row[i], widths[i]);
        text += line + '\n';
        if (&row == &rows.front())
            text += std::string(line.size(), '-') + '\n';
    }
    return text;
}

std::string describe(const Trace& trace) {
    const TraceSummary summary = summarize(trace);
    return fmt::format("{}: {} requests, {} tokens in blocks of {}; {} distinct blocks, {} in the "
                       "largest prompt\n",
                       trace.name, grouped(trace.requests.size()), grouped(summary.input_tokens),
                       trace.block_size, grouped(summary.distinct_blocks),
                       grouped(summary.largest_prompt));
}

std::string describe(const Settings& settings, std::span<const Policy> policies) {
    std::string text = fmt::format("{} payload", name_of(settings.payload));
    if (settings.payload == PayloadKind::blocks && settings.block_tokens > 1)
        text += fmt::format(" of {} ids", grouped(settings.block_tokens));
    text += fmt::format(", insert {}, {} {}, {} bytes a token", name_of(settings.insert),
                        policies.size() > 1 ? "policies" : "policy",
                        fmt::join(names_of(policies), " "), grouped(settings.bytes_per_token));
    text += settings.insert == InsertWay::server && !settings.sessions ? ", no sessions" : "";
    if (settings.max_entries != promptkv::unlimited)
        text += fmt::format(", at most {} entries", grouped(settings.max_entries));
    return text + '\n';
}

std::string readable(const Capacity& capacity) {
    return capacity.unit == Capacity::Unit::blocks ? grouped(capacity.amount) : to_string(capacity);
}

std::string readable(std::optional<double> ratio) {
    return ratio.has_value() ? fmt::format("{:.5f}", *ratio) : "-";
}

void append(Row& row, const Row& cells) {
    row.insert(row.end(), cells.begin(), cells.end());
}

std::string difference(double ratio, std::optional<double> other) {
    return other.has_value() ? fmt::format("{:+.5f}", ratio - *other) : "-";
}

/// Block LRU, the difference to it, and the optimum.
Row comparison(std::span<const Figure> figures, const Result& result) {
    const auto block_lru = find_figure(figures, "block_lru", result.capacity);
    return {readable(block_lru), difference(result.token_hit_ratio(), block_lru),
            readable(find_figure(figures, "optimal", result.capacity))};
}

/// A field of a CSV line, quoted where it has to be.
std::string csv_field(std::string_view text) {
    if (text.find_first_of(",\"\n\r") == std::string_view::npos)
        return std::string(text);
    std::string quoted = "\"";
    for (const char c : text)
        quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
    return quoted + '"';
}

/// What a bound does not have.
std::string unless_bound(const Result& result, std::string text) {
    return is_bound(result.policy) ? "-" : std::move(text);
}

/// Nothing where there was no such replay.
std::optional<double> hit_ratio(std::span<const Result> results, Policy policy,
                                const Capacity& capacity) {
    for (const Result& result : results) {
        if (result.policy == policy && result.capacity == capacity)
            return result.token_hit_ratio();
    }
    return std::nullopt;
}

/// The hit ratios alone: a row a capacity, a column a policy.
std::string side_by_side(std::span<const Result> results, std::span<const Policy> policies) {
    std::vector<Row> rows{{"hit ratio"}};
    for (const Policy policy : policies)
        rows.back().emplace_back(name(policy));
    for (const Capacity& capacity : each_once(results, &Result::capacity)) {
        rows.push_back({readable(capacity)});
        for (const Policy policy : policies)
            rows.back().push_back(readable(hit_ratio(results, policy, capacity)));
    }
    return aligned(rows);
}

/// The figures of one replay by name, in the order in which they are written. A limit that is not
/// there is null.
ordered_json figures(const Report& report, const Result& result) {
    ordered_json row;
    row["policy"] = name(result.policy);
    row["payload"] = name_of(result.payload);
    row["block_tokens"] = is_bound(result.policy) ? 1 : report.settings.block_tokens;
    if (result.capacity.unit == Capacity::Unit::unlimited) {
        row["capacity_blocks"] = nullptr;
        row["capacity_bytes"] = nullptr;
    } else {
        row["capacity_blocks"] = result.capacity.blocks(bytes_per_block(report));
        row["capacity_bytes"] = result.capacity.bytes(bytes_per_block(report));
    }
    row["token_hit_ratio"] = result.token_hit_ratio();
    row["requests"] = result.requests;
    row["requests_hit"] = result.requests_hit;
    row["tokens"] = result.tokens;
    row["tokens_saved"] = result.tokens_saved;
    for (std::size_t tier = 0; tier < Result::tier_count; ++tier)
        row[fmt::format("evicted_{}", tier_names[tier])] = result.evicted[tier];
    for (std::size_t tier = 0; tier < Result::tier_count; ++tier)
        row[fmt::format("cut_{}", tier_names[tier])] = result.cut[tier];
    row["refused"] = result.refused;
    row["entries"] = result.entries;
    row["nbytes"] = result.bytes;
    row["bytes_referenced"] = result.bytes_referenced;
    row["index_nbytes"] = result.index_bytes;
    row["operations_per_second"] = static_cast<std::uint64_t>(result.operations_per_second());
    row["fetch_p50_ns"] = result.fetch.p50.count();
    row["fetch_p99_ns"] = result.fetch.p99.count();
    row["insert_p50_ns"] = result.insert.p50.count();
    row["insert_p99_ns"] = result.insert.p99.count();
    if (!report.figures.empty()) {
        for (const char* policy : {"block_lru", "optimal"}) {
            const auto ratio = find_figure(report.figures, policy, result.capacity);
            row[policy] = ratio.has_value() ? ordered_json(*ratio) : ordered_json(nullptr);
        }
    }
    return row;
}

ordered_json settings_object(const Settings& settings) {
    ordered_json object;
    object["insert"] = name_of(settings.insert);
    object["sessions"] = names_sessions(settings);
    object["bytes_per_token"] = settings.bytes_per_token;
    if (settings.max_entries == promptkv::unlimited)
        object["max_entries"] = nullptr;
    else
        object["max_entries"] = settings.max_entries;
    return object;
}

std::string csv_cell(const ordered_json& value) {
    if (value.is_null())
        return "";
    if (value.is_number_float())
        return fmt::format("{:.6f}", value.get<double>());
    return value.is_string() ? csv_field(value.get<std::string>()) : value.dump();
}

std::string csv_ratio(std::optional<double> ratio) {
    return ratio.has_value() ? fmt::format("{:.5f}", *ratio) : "";
}

/// A point of a curve beside what was measured at its budget.
struct CurveRow {
    Policy policy;
    Capacity capacity;
    Capacity budget;
    double curve;
    std::optional<double> lru;
    std::optional<double> measured; // by the policy itself
};

std::vector<CurveRow> curve_rows(const Report& report, std::span<const Result> measured) {
    std::vector<CurveRow> rows;
    for (const Result& result : report.results) {
        for (const CurvePoint& point : result.curve) {
            const Capacity budget{point.bytes, Capacity::Unit::bytes};
            rows.push_back({result.policy, result.capacity, budget, point.hit_ratio,
                            hit_ratio(measured, Policy::lru, budget),
                            hit_ratio(measured, result.policy, budget)});
        }
    }
    return rows;
}

} // namespace

std::string format_table(const Report& report) {
    const bool tiers = report.settings.insert != InsertWay::prompt;
    const bool compared = !report.figures.empty();
    const std::vector<Policy> replayed = each_once(report.results, &Result::policy);
    std::string text = describe(report.trace) + describe(report.settings, replayed) + '\n';
    std::vector<Row> rows(1);
    if (replayed.size() > 1) {
        text += side_by_side(report.results, replayed) + '\n';
        rows.back().emplace_back("policy");
    }
    append(rows.back(), {"capacity", "hit ratio"});
    if (compared)
        append(rows.back(), {"block LRU", "difference", "optimum"});
    append(rows.back(), {"requests hit", "tokens saved", tiers ? "evicted a/u/s" : "evicted",
                         tiers ? "cut a/u/s" : "cut", "entries", "ops/s", "fetch p50", "p99",
                         "insert p50", "p99"});
    for (const Result& result : report.results) {
        rows.emplace_back();
        if (replayed.size() > 1)
            rows.back().emplace_back(name(result.policy));
        append(rows.back(), {readable(result.capacity), readable(result.token_hit_ratio())});
        if (compared)
            append(rows.back(), comparison(report.figures, result));
        append(rows.back(), {grouped(result.requests_hit), grouped(result.tokens_saved)});
        for (std::string& cell :
             Row{by_tier(result.evicted, tiers), by_tier(result.cut, tiers),
                 grouped(result.entries),
                 grouped(static_cast<std::uint64_t>(result.operations_per_second())),
                 readable(result.fetch.p50), readable(result.fetch.p99),
                 readable(result.insert.p50), readable(result.insert.p99)}) {
            rows.back().push_back(unless_bound(result, std::move(cell)));
        }
    }
    return text + aligned(rows);
}

std::string format_csv(const Report& report) {
    ordered_json shared;
    shared["trace"] = report.trace.name;
    shared.update(settings_object(report.settings));
    std::string text;
    for (const Result& result : report.results) {
        ordered_json line = shared;
        line.update(figures(report, result));
        std::vector<std::string> names;
        std::vector<std::string> cells;
        for (const auto& item : line.items()) {
            names.push_back(item.key());
            cells.push_back(csv_cell(item.value()));
        }
        if (text.empty())
            text = fmt::format("{}\n", fmt::join(names, ","));
        text += fmt::format("{}\n", fmt::join(cells, ","));
    }
    return text;
}

std::string format_ratios(const Report& report) {
    std::string text = "trace,capacity_blocks,policy,token_hit_ratio\n";
    for (const Result& result : report.results) {
        const bool limited = result.capacity.unit != Capacity::Unit::unlimited;
        text +=
            fmt::format("{},{},{},{:.5f}\n", csv_field(report.trace.name),
                        limited ? fmt::format("{}", result.capacity.blocks(bytes_per_block(report)))
                                : "unlimited",
                        name(result.policy), result.token_hit_ratio());
    }
    return text;
}

std::string format_curve_table(const Report& report, std::span<const Result> measured) {
    std::vector<Row> rows{
        {"policy", "capacity", "budget", "curve", "LRU", "difference", "measured"}};
    for (const CurveRow& row : curve_rows(report, measured)) {
        rows.push_back({std::string(name(row.policy)), readable(row.capacity), readable(row.budget),
                        readable(row.curve), readable(row.lru), difference(row.curve, row.lru),
                        readable(row.measured)});
    }
    return aligned(rows);
}

std::string format_curve_csv(const Report& report, std::span<const Result> measured) {
    std::string text = "trace,policy,capacity_blocks,budget_bytes,curve,lru,measured\n";
    for (const CurveRow& row : curve_rows(report, measured)) {
        const bool limited = row.capacity.unit != Capacity::Unit::unlimited;
        text += fmt::format(
            "{},{},{},{},{},{},{}\n", csv_field(report.trace.name), name(row.policy),
            limited ? fmt::format("{}", row.capacity.blocks(bytes_per_block(report))) : "",
            row.budget.amount, csv_ratio(row.curve), csv_ratio(row.lru), csv_ratio(row.measured));
    }
    return text;
}

std::string format_json(const Report& report) {
    const TraceSummary summary = summarize(report.trace);
    ordered_json object;
    object["trace"] = {{"name", report.trace.name},
                       {"block_size", report.trace.block_size},
                       {"requests", report.trace.requests.size()},
                       {"input_tokens", summary.input_tokens},
                       {"distinct_blocks", summary.distinct_blocks},
                       {"largest_prompt_blocks", summary.largest_prompt}};
    object["settings"] = settings_object(report.settings);
    object["results"] = ordered_json::array();
    for (const Result& result : report.results)
        object["results"].push_back(figures(report, result));
    return object.dump(2) + '\n';
}

} // namespace replay
