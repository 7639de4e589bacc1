// SPDX-License-Identifier: MIT
// parse_trace: both text formats, what they keep, and what they say of lines that are wrong.

#include "replay/trace.hpp"

#include "catch.hpp"

#include <cstdint>
#include <limits>
#include <string>
#include <tuple>
#include <vector>

namespace of_trace {

using replay::parse_trace;
using replay::Range;
using replay::Trace;
using replay::TraceError;

const std::string header = "#ptrace1 {\"name\": \"small\", \"block_size\": 4}\n";

template <class Token = std::int32_t>
std::vector<Token> ids_of(const Trace& trace, std::size_t request) {
    std::vector<Token> ids{7, 7, 7}; // what was there is replaced
    replay::expand(trace, trace.requests.at(request), ids);
    return ids;
}

/// What is wrong with the text, in the parser's words.
std::string problem_of(const std::string& text) {
    try {
        (void)parse_trace(text, "file");
    } catch (const TraceError& error) {
        return error.what();
    }
    return "nothing";
}

TEST_CASE("parse_trace reads the compact format") {
    const Trace trace = parse_trace(header + "0\ts1\t14\t3\t8\tr\t5:2,1:1\n"
                                             "10\ts2\t4\t3\t0\tr\t5:1\t90:1\n"
                                             "20\t\t4\t3\t0\tr\t5:1\n"
                                             "30\ts1\t4\t3\t0\tr\t5:1\n",
                                    "file");
    REQUIRE(trace.name == "small");
    REQUIRE(trace.block_size == 4);
    REQUIRE(trace.requests.size() == 4);
    REQUIRE(trace.requests[0].input_tokens == 14);
    REQUIRE(trace.requests[0].system_tokens == 8);
    REQUIRE(ids_of(trace, 0) == std::vector<std::int32_t>{5, 6, 1});
    REQUIRE(trace.requests[1].input_tokens == 4);
    REQUIRE(trace.requests[1].system_tokens == 0);
    REQUIRE(ids_of(trace, 1) == std::vector<std::int32_t>{5});
    REQUIRE(trace.requests[0].session == 1);
    REQUIRE(trace.requests[1].session == 2);
    REQUIRE(trace.requests[2].session == 0);
    REQUIRE(trace.requests[3].session == 1);
}

TEST_CASE("parse_trace keeps the output beside the prompt") {
    const Trace trace = parse_trace(header + "0\ts\t8\t4\t0\tr\t5:2\t90:1,7:1\n"
                                             "0\ts\t8\t4\t0\tr\t1:2\n",
                                    "file");
    std::vector<std::int32_t> ids = ids_of(trace, 0);
    REQUIRE(ids == std::vector<std::int32_t>{5, 6});
    append_output(trace, trace.requests[0], ids);
    REQUIRE(ids == std::vector<std::int32_t>{5, 6, 90, 7});
    ids = ids_of(trace, 1);
    append_output(trace, trace.requests[1], ids);
    REQUIRE(ids == std::vector<std::int32_t>{1, 2});
}

TEST_CASE("parse_trace makes the name of the trace printable") {
    REQUIRE(parse_trace("#ptrace1 {\"block_size\": 4, \"name\": \"a\\u001b[31m\"}\n"
                        "0\ts\t4\t0\t0\tr\t1:1\n",
                        "file")
                .name == "a\\x1b[31m");
    REQUIRE(parse_trace(R"({"input_length": 3, "hash_ids": [1]})", "some/\xff\x1b").name ==
            "\\xff\\x1b");
}

TEST_CASE("parse_trace takes an id for the partial block at the end, or none") {
    REQUIRE(ids_of(parse_trace(header + "0\ts\t9\t0\t0\tr\t1:3\n", "file"), 0).size() == 3);
    REQUIRE(ids_of(parse_trace(header + "0\ts\t9\t0\t0\tr\t1:2\n", "file"), 0).size() == 2);
    REQUIRE(ids_of(parse_trace(header + "0\ts\t3\t0\t0\tr\t\n", "file"), 0).empty());
}

TEST_CASE("parse_trace reads ids beyond 32 bits") {
    const Trace trace = parse_trace(header + "0\ts\t8\t0\t0\tr\t9000000000:2\n", "file");
    REQUIRE(ids_of<std::int64_t>(trace, 0) == std::vector<std::int64_t>{9000000000, 9000000001});
    REQUIRE(summarize(trace).largest_id == 9000000001);
}

TEST_CASE("parse_trace reads Mooncake's JSONL as runs of ids of 512-token blocks") {
    const Trace trace = parse_trace(
        R"({"timestamp": 0, "input_length": 2000, "output_length": 5, "hash_ids": [0, 1, 2, 46]})"
        "\n\n"
        R"({"timestamp": 9, "input_length": 3, "output_length": 5, "hash_ids": [47]})",
        "some/conversation_trace.jsonl");
    REQUIRE(trace.name == "conversation_trace.jsonl");
    REQUIRE(trace.block_size == 512);
    REQUIRE(trace.requests.size() == 2);
    REQUIRE(trace.ranges == std::vector<Range>{{0, 3}, {46, 1}, {47, 1}});
    REQUIRE(ids_of(trace, 0) == std::vector<std::int32_t>{0, 1, 2, 46});
    REQUIRE(trace.requests[1].input_tokens == 3);
    REQUIRE(trace.requests[1].system_tokens == 0);
}

TEST_CASE("parse_trace stops after the requests asked for, whatever follows") {
    const std::string text = header + "0\ts\t4\t0\t0\tr\t1:1\n0\ts\t4\t0\t0\tr\t2:1\nnonsense\n";
    REQUIRE(parse_trace(text, "file", 1).requests.size() == 1);
    REQUIRE(parse_trace(text, "file", 2).requests.size() == 2);
    REQUIRE_THROWS_AS(parse_trace(text, "file", 3), TraceError);
}

TEST_CASE("parse_trace names the place and the fault of a malformed compact line") {
    const auto [line, problem] = GENERATE(table<std::string, std::string>({
        {"0\ts\t4\t0\t0\tr", "6 columns where 7 or 8 are due"},
        {"0\ts\t4\t0\t0\tr\t1:1\t2:1\t", "9 columns where 7 or 8 are due"},
        {"x\ts\t4\t0\t0\tr\t1:1", "t_ms is not a whole number of 0 or more: 'x'"},
        {"0\ts\t-4\t0\t0\tr\t1:1", "input_tokens is not a whole number of 0 or more: '-4'"},
        {"0\ts\t\t0\t0\tr\t1:1", "input_tokens is not a whole number of 0 or more: ''"},
        {"0\ts\t4.5\t0\t0\tr\t1:1", "input_tokens is not a whole number of 0 or more: '4.5'"},
        {"0\ts\t99999999999999999999\t0\t0\tr\t1:1",
         "input_tokens is too large: '99999999999999999999'"},
        {"0\ts\t4\ty\t0\tr\t1:1", "output_tokens is not a whole number of 0 or more: 'y'"},
        {"0\ts\t4\t0\tz\tr\t1:1", "system_tokens is not a whole number of 0 or more: 'z'"},
        {"0\ts\t4\t0\t5\tr\t1:1", "a system prompt of 5 tokens in an input of 4"},
        {"0\ts\t4\t0\t0\tr\t1", "ranges: '1' is not start:length"},
        {"0\ts\t8\t0\t0\tr\t1:1,,3:1", "ranges: '' is not start:length"},
        {"0\ts\t4\t0\t0\tr\t1:", "ranges is not a whole number of 0 or more: ''"},
        {"0\ts\t4\t0\t0\tr\t1:1:1", "ranges is not a whole number of 0 or more: '1:1'"},
        {"0\ts\t4\t0\t0\tr\t1:0", "ranges: a range of length 0"},
        {"0\ts\t4\t0\t0\tr\t9223372036854775806:2",
         "ranges: ids from 9223372036854775806 on are too large"},
        {"0\ts\t4\t0\t0\tr\t1:1\t?:1", "output_ranges is not a whole number of 0 or more: '?'"},
        {"0\ts\t4\t0\t0\tr\t1:2", "2 block ids for 4 tokens in blocks of 4: 1 at most"},
        {"0\ts\t24000000000\t0\t0\tr\t1:6000000000", "more than 4194304 block ids in a prompt"},
        {"0\ts\t4\t0\t0\tr\t1:1\t2:6000000000", "more than 4194304 block ids in a prompt"},
        {"0\ts\t4\t0\t0\tr\t1:1\t2:4194304",
         "more than 4194304 block ids in a prompt and its output"},
        {"0\ts\t5\t0\t0\tr\t1:1\t2:1", "an output after an input that ends within a block"},
        {"0\ts\t5\t0\t0\tr\t1:1,2:18446744073709551615", "ranges: ids from 2 on are too large"},
        {"0\ts\t12\t0\t0\tr\t1:2", "2 block ids for 12 tokens in blocks of 4: 3 are due"},
        {"garbage", "1 columns where 7 or 8 are due"},
    }));
    CAPTURE(line);
    REQUIRE(problem_of(header + "0\ts\t4\t0\t0\tr\t1:1\n" + line + "\n") == "file:3: " + problem);
}

TEST_CASE("parse_trace names the fault of a malformed header") {
    const auto [line, problem] = GENERATE(table<std::string, std::string>({
        {"#ptrace1 {", "file:1: not valid JSON, at byte 2"},
        {"#ptrace1 []", "file:1: not a JSON object"},
        {"#ptrace1 {}", "file:1: \"block_size\" is missing"},
        {"#ptrace1 {\"block_size\": 0}", "file:1: \"block_size\" is 0"},
        {"#ptrace1 {\"block_size\": 9223372036854775808}",
         "file:1: \"block_size\" is larger than 1048576"},
        {"#ptrace1 {\"block_size\": -1}",
         "file:1: \"block_size\" is not a whole number of 0 or more"},
        {"#ptrace2 {\"block_size\": 1}", "file:1: not valid JSON, at byte 1"},
    }));
    CAPTURE(line);
    REQUIRE(problem_of(line + "\n0\ts\t4\t0\t0\tr\t1:1\n") == problem);
}

TEST_CASE("parse_trace names the fault of a malformed JSON line") {
    const auto [line, problem] = GENERATE(table<std::string, std::string>({
        {R"({"input_length": 3, "hash_ids": [1])", "not valid JSON, at byte 36"},
        {R"({"input_length": 1e999, "hash_ids": [1]})", "not valid JSON"},
        {"[1]", "not a JSON object"},
        {R"({"hash_ids": [1]})", "\"input_length\" is missing"},
        {R"({"input_length": 3})", "\"hash_ids\" is missing"},
        {R"({"input_length": "3", "hash_ids": [1]})",
         "\"input_length\" is not a whole number of 0 or more"},
        {R"({"input_length": 3, "hash_ids": 1})", "\"hash_ids\" is not an array"},
        {R"({"input_length": 3, "hash_ids": [-1]})", "\"hash_ids\" holds -1, which is no block id"},
        {R"({"input_length": 3, "hash_ids": ["a"]})",
         "\"hash_ids\" holds \"a\", which is no block id"},
        {R"({"input_length": 3, "hash_ids": [1, 2]})",
         "2 block ids for 3 tokens in blocks of 512: 1 at most"},
        {R"({"input_length": 1024, "hash_ids": [1]})",
         "1 block ids for 1024 tokens in blocks of 512: 2 are due"},
    }));
    CAPTURE(line);
    REQUIRE(problem_of("{\"input_length\": 3, \"hash_ids\": [1]}\n" + line + "\n") ==
            "file:2: " + problem);
}

TEST_CASE("parse_trace refuses JSON that is nested 120,000 deep") {
    const std::string open(120'000, '[');
    const std::string close(120'000, ']');
    const std::vector<std::string> lines{
        open,
        open + close,
        R"({"input_length": 3, "hash_ids": )" + open + close + "}",
        R"({"input_length": 3, "hash_ids": [1], "more": )" + open + close + "}",
        "#ptrace1 {\"block_size\": 1, \"more\": " + open + close + "}",
    };
    for (const std::string& line : lines) {
        CAPTURE(line.substr(0, 60));
        CHECK(problem_of(line) == "file:1: JSON of more than 16 levels");
    }
}

TEST_CASE("parse_trace refuses a trace without requests") {
    REQUIRE(problem_of("") == "file:1: a request is due, but the trace ends");
    REQUIRE(problem_of("\n\n") == "file:3: a request is due, but the trace ends");
    REQUIRE(problem_of(header) == "file:2: a request is due, but the trace ends");
}

TEST_CASE("A refused request leaves the trace as it was") {
    Trace trace;
    const std::vector<Range> one{{1, 1}};
    trace.append(1, 0, one);
    REQUIRE_THROWS_AS(trace.append(2, 0, one), std::invalid_argument);
    REQUIRE_THROWS_AS(trace.append(1, 2, one), std::invalid_argument);
    REQUIRE_THROWS_AS(trace.append(1, 0, one, 1, std::vector<Range>{{0, 1U << 22U}}),
                      std::invalid_argument);
    REQUIRE(trace.requests.size() == 1);
    REQUIRE(trace.ranges == one);
}

TEST_CASE("summarize counts each block id once, however the ranges overlap") {
    Trace trace;
    trace.append(6, 0, std::vector<Range>{{10, 5}, {0, 1}});
    trace.append(4, 0, std::vector<Range>{{12, 2}, {3, 2}});
    trace.append(8, 0, std::vector<Range>{{14, 3}, {0, 5}}, 1, std::vector<Range>{{90, 2}});
    const replay::TraceSummary summary = summarize(trace);
    REQUIRE(summary.input_tokens == 18);
    REQUIRE(summary.distinct_blocks == 12); // 0-4, 10-16
    REQUIRE(summary.largest_prompt == 8);
    REQUIRE(summary.total_blocks == 20);
    REQUIRE(summary.largest_id == 91);
}

} // namespace of_trace
