// SPDX-License-Identifier: MIT
// Trace: the requests of a recorded or generated traffic, and the reader of its two text formats.
#ifndef PROMPTKV_REPLAY_TRACE_HPP
#define PROMPTKV_REPLAY_TRACE_HPP

#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <numeric>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace replay {

/// A run of block ids: `start`, `start + 1`, … `start + length - 1`.
struct Range {
    std::int64_t start = 0;
    std::uint64_t length = 0;

    friend bool operator==(const Range&, const Range&) = default;
};

/// A prompt, and what is known of the tokens that were generated for it. Its ids are `range_count`
/// ranges of the trace from `first_range` on; the ids of the output are the ranges that follow.
struct Request {
    std::uint64_t input_tokens = 0;
    std::uint64_t system_tokens = 0; ///< tokens of the system prompt at the front; 0: unknown
    std::uint64_t session = 0;       ///< number of the conversation; 0: unknown
    std::size_t first_range = 0;
    std::size_t range_count = 0;
    std::size_t output_range_count = 0; ///< 0: unknown
};

/// Requests in replay order. Two of them share KV state exactly as far as their block ids are
/// equal from the start. The ids stay run-length coded: a long trace has millions of them.
struct Trace {
    static constexpr std::uint64_t max_block_size = std::uint64_t{1} << 20U;    ///< tokens
    static constexpr std::uint64_t max_prompt_blocks = std::uint64_t{1} << 22U; ///< output included

    std::string name;
    std::uint64_t block_size = 1;     ///< tokens a block
    std::uint64_t usual_capacity = 0; ///< in blocks: what the trace was made for; 0: unknown
    std::vector<Request> requests;
    std::vector<Range> ranges;

    /// Adds a request.
    /// Throws: std::invalid_argument, changing nothing, when the ids do not fit `input_tokens`
    ///         (the partial block at the end may have an id or none), when there are more than
    ///         `max_prompt_blocks`, when an output follows an input that ends within a block, or when
    ///         the system prompt is longer than the input.
    void append(std::uint64_t input_tokens, std::uint64_t system_tokens, std::span<const Range> ids,
                std::uint64_t session = 0, std::span<const Range> output = {});
};

/// Tokens of `ranges` in blocks of one token.
[[nodiscard]] constexpr std::uint64_t length_of(std::span<const Range> ranges) noexcept {
    std::uint64_t length = 0;
    for (const Range& range : ranges)
        length += range.length;
    return length;
}

/// What a trace holds.
struct TraceSummary {
    std::uint64_t input_tokens = 0;    ///< of all requests together
    std::uint64_t total_blocks = 0;    ///< block ids of all prompts and outputs together
    std::uint64_t distinct_blocks = 0; ///< block ids that occur in a prompt
    std::uint64_t largest_prompt = 0;  ///< whole blocks of the longest prompt
    std::int64_t largest_id = 0;       ///< of prompts and outputs
};

[[nodiscard]] TraceSummary summarize(const Trace& trace);

/// Appends the ids of `ranges` to `ids`.
/// Requires: Token can hold the ids.
template <class Token>
void append_ids(std::span<const Range> ranges, std::vector<Token>& ids) {
    for (const Range& range : ranges) {
        const std::size_t old_size = ids.size();
        ids.resize(old_size + range.length);
        std::iota(ids.begin() + static_cast<std::ptrdiff_t>(old_size), ids.end(),
                  static_cast<Token>(range.start));
    }
}

/// Replaces the content of `ids` by the block ids of the prompt of `request`.
/// Requires: Token can hold the ids.
template <class Token>
void expand(const Trace& trace, const Request& request, std::vector<Token>& ids) {
    ids.clear();
    append_ids(std::span(trace.ranges).subspan(request.first_range, request.range_count), ids);
}

/// Appends the block ids of the output of `request` to `ids`.
/// Requires: Token can hold the ids.
template <class Token>
void append_output(const Trace& trace, const Request& request, std::vector<Token>& ids) {
    append_ids(std::span(trace.ranges)
                   .subspan(request.first_range + request.range_count, request.output_range_count),
               ids);
}

/// A line that is not what the format asks for. `what()` is "source:line: what is wrong".
class TraceError : public std::runtime_error {
public:
    TraceError(std::string_view source, std::size_t line, std::string_view problem);
};

/// Replaces its argument by the next line; false at the end.
using NextLine = std::function<bool(std::string&)>;

/// Reads a trace: the compact format if the first line begins with "#ptrace1 ", otherwise a JSON
/// object a line as Mooncake publishes them, with blocks of 512 tokens. Reads at most `limit`
/// requests; lines beyond them are not looked at. Empty lines are skipped.
/// `source` names the trace in errors, and where its header has no name.
/// Throws: TraceError at the first malformed line, and for a text without a request; what `next`
///         throws, but for std::invalid_argument: that is a malformed line.
[[nodiscard]] Trace parse_trace(const NextLine& next, std::string_view source,
                                std::size_t limit = std::numeric_limits<std::size_t>::max());

/// Reads a trace from a text in memory, with line breaks of LF.
[[nodiscard]] Trace parse_trace(std::string_view text, std::string_view source,
                                std::size_t limit = std::numeric_limits<std::size_t>::max());

} // namespace replay

#endif
