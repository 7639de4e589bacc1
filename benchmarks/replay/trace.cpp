// SPDX-License-Identifier: MIT
// Trace: bookkeeping of requests, and the parsers of the compact format and of Mooncake's JSONL.
#include "trace.hpp"

#include "text.hpp"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>
#include <system_error>
#include <unordered_map>
#include <utility>

namespace replay {
namespace {

using nlohmann::json;

constexpr std::string_view compact_mark = "#ptrace1 ";
constexpr std::uint64_t mooncake_block_size = 512;
constexpr int max_json_depth = 16;
constexpr std::uint64_t max_id = std::numeric_limits<std::int64_t>::max() - 1; // ids are counted up

/// What is wrong with a line; the place is added where the lines are counted.
template <class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
    throw std::invalid_argument(fmt::format(format, std::forward<Args>(args)...));
}

/// Cuts the text up to the next `separator`, or all of it, off the front of `text`.
std::string_view take_until(std::string_view& text, char separator) {
    const std::size_t end = std::min(text.find(separator), text.size());
    const std::string_view front = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    return front;
}

std::uint64_t parse_number(std::string_view text, std::string_view what) {
    std::uint64_t number = 0;
    const char* const end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, number);
    if (error == std::errc::result_out_of_range)
        fail("{} is too large: '{:.40}'", what, text);
    if (error != std::errc() || stop != end)
        fail("{} is not a whole number of 0 or more: '{:.40}'", what, text);
    return number;
}

/// Reads "start:length,start:length,…" into `ranges`. An empty text has no range.
void parse_ranges(std::string_view text, std::string_view what, std::vector<Range>& ranges) {
    ranges.clear();
    while (!text.empty()) {
        std::string_view item = take_until(text, ',');
        if (item.find(':') == std::string_view::npos)
            fail("{}: '{:.40}' is not start:length", what, item);
        const std::uint64_t start = parse_number(take_until(item, ':'), what);
        const std::uint64_t length = parse_number(item, what);
        if (length == 0)
            fail("{}: a range of length 0", what);
        if (start > max_id || length - 1 > max_id - start)
            fail("{}: ids from {} on are too large", what, start);
        ranges.push_back({static_cast<std::int64_t>(start), length});
    }
}

json parse_object(std::string_view text) {
    const auto is_shallow = [](int depth, json::parse_event_t, json&) {
        if (depth > max_json_depth) // a value of any depth would be built, and destroyed
            fail("JSON of more than {} levels", max_json_depth);
        return true;
    };
    json value;
    try {
        value = json::parse(text, is_shallow);
    } catch (const json::parse_error& error) {
        fail("not valid JSON, at byte {}", error.byte);
    } catch (const json::exception&) {
        fail("not valid JSON");
    }
    if (!value.is_object())
        fail("not a JSON object");
    return value;
}

const json& member(const json& object, const char* name) {
    const auto found = object.find(name);
    if (found == object.end())
        fail("\"{}\" is missing", name);
    return *found;
}

std::uint64_t number_member(const json& object, const char* name) {
    const json& value = member(object, name);
    if (!value.is_number_unsigned())
        fail("\"{}\" is not a whole number of 0 or more", name);
    return value.get<std::uint64_t>();
}

/// The first line of the compact format.
void parse_compact_header(std::string_view line, Trace& trace) {
    const json header = parse_object(line.substr(compact_mark.size()));
    trace.block_size = number_member(header, "block_size");
    if (trace.block_size == 0)
        fail("\"block_size\" is 0");
    if (trace.block_size > Trace::max_block_size)
        fail("\"block_size\" is larger than {}", Trace::max_block_size);
    if (const auto name = header.find("name"); name != header.end() && name->is_string())
        trace.name = name->get<std::string>();
}

/// Reads the lines of one trace.
class Parser {
public:
    explicit Parser(std::string_view source) {
        trace_.name = std::filesystem::path(source).filename().string();
    }

    void parse_line(std::string_view line) {
        if (first_) {
            first_ = false;
            compact_ = line.starts_with(compact_mark);
            if (compact_) {
                parse_compact_header(line, trace_);
                return;
            }
            trace_.block_size = mooncake_block_size;
        }
        if (!line.empty())
            compact_ ? parse_compact(line) : parse_mooncake(line);
    }

    [[nodiscard]] std::size_t count() const noexcept { return trace_.requests.size(); }

    Trace release() && {
        trace_.name = printable(trace_.name);
        return std::move(trace_);
    }

private:
    /// t_ms, session, input_tokens, output_tokens, system_tokens, kind, ranges, [output_ranges]
    void parse_compact(std::string_view line) {
        constexpr std::size_t min_columns = 7;
        constexpr std::size_t max_columns = 8;
        const auto columns =
            static_cast<std::size_t>(std::count(line.begin(), line.end(), '\t')) + 1;
        if (columns < min_columns || columns > max_columns)
            fail("{} columns where {} or {} are due", columns, min_columns, max_columns);
        std::array<std::string_view, max_columns> column;
        for (std::string_view& cell : column)
            cell = take_until(line, '\t');
        parse_number(column[0], "t_ms");
        const std::uint64_t input_tokens = parse_number(column[2], "input_tokens");
        parse_number(column[3], "output_tokens");
        const std::uint64_t system_tokens = parse_number(column[4], "system_tokens");
        parse_ranges(column[6], "ranges", ids_);
        parse_ranges(column[7], "output_ranges", output_);
        trace_.append(input_tokens, system_tokens, ids_, session_number(column[1]), output_);
    }

    /// {"timestamp": …, "input_length": …, "output_length": …, "hash_ids": […]}
    void parse_mooncake(std::string_view line) {
        const json object = parse_object(line);
        const std::uint64_t input_tokens = number_member(object, "input_length");
        const json& ids = member(object, "hash_ids");
        if (!ids.is_array())
            fail("\"hash_ids\" is not an array");
        ids_.clear();
        for (const json& id : ids) {
            if (!id.is_number_unsigned() || id.get<std::uint64_t>() > max_id)
                fail("\"hash_ids\" holds {:.40}, which is no block id", id.dump());
            const std::int64_t value = id.get<std::int64_t>();
            const bool continues =
                !ids_.empty() &&
                value - ids_.back().start == static_cast<std::int64_t>(ids_.back().length);
            if (continues)
                ++ids_.back().length;
            else
                ids_.push_back({value, 1});
        }
        trace_.append(input_tokens, 0, ids_);
    }

    /// Sessions are numbered from 1 as they appear. No name: 0.
    std::uint64_t session_number(std::string_view name) {
        if (name.empty())
            return 0;
        return sessions_.try_emplace(std::string(name), sessions_.size() + 1).first->second;
    }

    Trace trace_;
    bool first_ = true;
    bool compact_ = false;
    std::unordered_map<std::string, std::uint64_t> sessions_;
    std::vector<Range> ids_;
    std::vector<Range> output_;
};

std::uint64_t count_blocks(std::span<const Range> ranges) {
    std::uint64_t count = 0;
    for (const Range& range : ranges) {
        if (range.length > Trace::max_prompt_blocks - count)
            fail("more than {} block ids in a prompt", Trace::max_prompt_blocks);
        count += range.length;
    }
    return count;
}

} // namespace

void Trace::append(std::uint64_t input_tokens, std::uint64_t system_tokens,
                   std::span<const Range> ids, std::uint64_t session,
                   std::span<const Range> output) {
    if (system_tokens > input_tokens)
        fail("a system prompt of {} tokens in an input of {}", system_tokens, input_tokens);
    const std::uint64_t whole = input_tokens / block_size;
    const bool ends_within = input_tokens % block_size != 0;
    const std::uint64_t most = whole + (ends_within ? 1 : 0);
    const std::uint64_t count = count_blocks(ids);
    if (count > most) {
        fail("{} block ids for {} tokens in blocks of {}: {} at most", count, input_tokens,
             block_size, most);
    }
    if (count < whole) {
        fail("{} block ids for {} tokens in blocks of {}: {} are due", count, input_tokens,
             block_size, whole);
    }
    if (ends_within && !output.empty())
        fail("an output after an input that ends within a block");
    if (count_blocks(output) > max_prompt_blocks - count)
        fail("more than {} block ids in a prompt and its output", max_prompt_blocks);
    const Request request{input_tokens,  system_tokens, session,
                          ranges.size(), ids.size(),    output.size()};
    requests.push_back(request);
    ranges.insert(ranges.end(), ids.begin(), ids.end());
    ranges.insert(ranges.end(), output.begin(), output.end());
}

TraceSummary summarize(const Trace& trace) {
    TraceSummary summary;
    for (const Request& request : trace.requests) {
        summary.input_tokens += request.input_tokens;
        summary.largest_prompt =
            std::max(summary.largest_prompt, request.input_tokens / trace.block_size);
    }
    std::vector<Range> sorted; // of the prompts
    for (const Request& request : trace.requests) {
        const auto first = trace.ranges.begin() + static_cast<std::ptrdiff_t>(request.first_range);
        sorted.insert(sorted.end(), first,
                      first + static_cast<std::ptrdiff_t>(request.range_count));
    }
    std::sort(sorted.begin(), sorted.end(),
              [](const Range& a, const Range& b) { return a.start < b.start; });
    std::int64_t last_counted = -1;
    for (const Range& range : sorted) {
        const std::int64_t last = range.start + static_cast<std::int64_t>(range.length - 1);
        if (last > last_counted) {
            summary.distinct_blocks +=
                static_cast<std::uint64_t>(last - std::max(last_counted, range.start - 1));
            last_counted = last;
        }
    }
    for (const Range& range : trace.ranges) {
        summary.total_blocks += range.length;
        summary.largest_id =
            std::max(summary.largest_id, range.start + static_cast<std::int64_t>(range.length - 1));
    }
    return summary;
}

TraceError::TraceError(std::string_view source, std::size_t line, std::string_view problem)
    : std::runtime_error(fmt::format("{}:{}: {}", source, line, problem)) {}

Trace parse_trace(const NextLine& next, std::string_view source, std::size_t limit) {
    Parser parser(source);
    std::string line;
    std::size_t line_number = 0;
    while (parser.count() < limit) {
        ++line_number;
        try {
            if (!next(line))
                break;
            parser.parse_line(line);
        } catch (const std::invalid_argument& problem) {
            throw TraceError(source, line_number, problem.what());
        }
    }
    if (parser.count() == 0)
        throw TraceError(source, line_number, "a request is due, but the trace ends");
    return std::move(parser).release();
}

Trace parse_trace(std::string_view text, std::string_view source, std::size_t limit) {
    const auto next = [&text](std::string& line) {
        const bool any = !text.empty();
        line = take_until(text, '\n');
        return any;
    };
    return parse_trace(next, source, limit);
}

} // namespace replay
