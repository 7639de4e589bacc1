// SPDX-License-Identifier: MIT
// Reports: the table that people read, and the CSV and JSON that programs read.

#include "replay/report.hpp"

#include "catch.hpp"

#include <chrono>
#include <cstdint>
#include <sstream>
#include <string>
#include <vector>

namespace of_report {

using namespace std::chrono_literals;
using replay::Capacity;
using replay::Latency;
using replay::Policy;
using replay::Range;
using replay::Report;
using replay::Result;
using replay::Settings;
using replay::Trace;

Trace small_trace() {
    Trace trace;
    trace.name = "small, \"quoted\"";
    trace.block_size = 16;
    trace.append(1'600'000, 0, std::vector<Range>{{0, 100'000}});
    return trace;
}

std::vector<Result> two_results() {
    Result first;
    first.capacity = {24'576, Capacity::Unit::blocks};
    first.requests = 1;
    first.requests_hit = 1;
    first.tokens = 1'600'000;
    first.tokens_saved = 1'200'000;
    first.evicted = {7, 6, 5};
    first.cut = {4, 3, 2};
    first.entries = 1'234;
    first.refused = 9;
    first.bytes = 77;
    first.bytes_referenced = 99;
    first.index_bytes = 88;
    first.operations = 2;
    first.time = 1ms;
    first.fetch = Latency{850ns, 2'340ns};
    first.insert = Latency{12'300us, 1'000ms};
    Result second;
    second.tokens = 1'600'000;
    return {first, second};
}

std::vector<std::string> lines_of(const std::string& text) {
    std::vector<std::string> lines;
    std::istringstream stream(text);
    for (std::string line; std::getline(stream, line);)
        lines.push_back(line);
    return lines;
}

TEST_CASE("The table describes the trace and the settings and aligns its columns") {
    const Trace trace = small_trace();
    const std::vector<Result> results = two_results();
    const Settings settings;
    const std::vector<std::string> lines =
        lines_of(replay::format_table({trace, settings, results}));
    REQUIRE(lines.size() == 7);
    REQUIRE(lines[0] == "small, \"quoted\": 1 requests, 1,600,000 tokens in blocks of 16; 100,000 "
                        "distinct blocks, 100,000 in the largest prompt");
    REQUIRE(lines[1] == "blocks payload, insert prompt, policy tiered-lru, 131,072 bytes a token");
    REQUIRE(lines[2].empty());
    REQUIRE(lines[3] == " capacity  hit ratio  requests hit  tokens saved  evicted  cut  entries  "
                        "ops/s  fetch p50     p99  insert p50        p99");
    REQUIRE(lines[4] == std::string(lines[3].size(), '-'));
    REQUIRE(lines[5] == "   24,576    0.75000             1     1,200,000        7    4    1,234  "
                        "2,000     850 ns  2.3 us     12.3 ms  1000.0 ms");
    REQUIRE(lines[6] == "unlimited    0.00000             0             0        0    0        0  "
                        "    0       0 ns    0 ns        0 ns       0 ns");
}

TEST_CASE("The table shows evictions and cuts by tier where there are tiers") {
    const Trace trace = small_trace();
    const std::vector<Result> results = two_results();
    Settings settings;
    settings.insert = replay::InsertWay::tiers;
    const std::vector<std::string> lines =
        lines_of(replay::format_table({trace, settings, results}));
    REQUIRE(lines[3].find("evicted a/u/s  cut a/u/s") != std::string::npos);
    REQUIRE(lines[5].find("        7/6/5      4/3/2") != std::string::npos);
}

TEST_CASE("The table says which options are not the default") {
    const Trace trace = small_trace();
    std::vector<Result> results(1);
    results[0].policy = Policy::reference;
    Settings settings;
    settings.block_tokens = 64;
    settings.insert = replay::InsertWay::server;
    settings.sessions = false;
    settings.bytes_per_token = 2;
    settings.max_entries = 1000;
    REQUIRE(
        lines_of(replay::format_table({trace, settings, results}))[1] ==
        "blocks payload of 64 ids, insert server, policy reference, 2 bytes a token, no sessions, "
        "at most 1,000 entries");
    settings.payload = replay::PayloadKind::whole;
    settings.insert = replay::InsertWay::tiers;
    REQUIRE(
        lines_of(replay::format_table({trace, settings, results}))[1] ==
        "whole payload, insert tiers, policy reference, 2 bytes a token, at most 1,000 entries");
}

/// Figures at the first capacity of `two_results`, and of all policies without a limit.
std::vector<replay::Figure> two_figures() {
    return {{"block_lru", {24'576, Capacity::Unit::blocks}, 0.7},
            {"optimal", {24'576, Capacity::Unit::blocks}, 0.9},
            {"any", Capacity{}, 0.95}};
}

TEST_CASE("The table shows the figures of other policies beside") {
    const Trace trace = small_trace();
    std::vector<Result> results = two_results();
    results.push_back(results[0]);
    results.back().capacity = {7, Capacity::Unit::blocks};
    const Settings settings;
    const std::vector<replay::Figure> figures = two_figures();
    const std::vector<std::string> lines =
        lines_of(replay::format_table({trace, settings, results, figures}));
    REQUIRE(
        lines[3].starts_with(" capacity  hit ratio  block LRU  difference  optimum  requests hit"));
    REQUIRE(
        lines[5].starts_with("   24,576    0.75000    0.70000    +0.05000  0.90000             1"));
    REQUIRE(
        lines[6].starts_with("unlimited    0.00000    0.95000    -0.95000  0.95000             0"));
    REQUIRE(
        lines[7].starts_with("        7    0.75000          -           -        -             1"));
}

/// LRU at two capacities, and the optimum at the first of them.
std::vector<Result> three_results() {
    std::vector<Result> results = two_results();
    results[0].policy = Policy::lru;
    results[1].policy = Policy::lru;
    results.insert(results.begin() + 1, results[0]);
    results[1].policy = Policy::optimum;
    results[1].tokens_saved = 1'600'000;
    return results;
}

TEST_CASE("The table shows several policies side by side, and what a bound does not have as -") {
    const Trace trace = small_trace();
    const std::vector<Result> results = three_results();
    const Settings settings;
    const std::vector<std::string> lines =
        lines_of(replay::format_table({trace, settings, results}));
    REQUIRE(lines[1] ==
            "blocks payload, insert prompt, policies lru optimum, 131,072 bytes a token");
    REQUIRE(lines[3] == "hit ratio      lru  optimum");
    REQUIRE(lines[5] == "   24,576  0.75000  1.00000");
    REQUIRE(lines[6] == "unlimited  0.00000        -");
    REQUIRE(lines[7].empty());
    REQUIRE(
        lines[8].starts_with(" policy   capacity  hit ratio  requests hit  tokens saved  evic"));
    REQUIRE(lines[10] == "    lru     24,576    0.75000             1     1,200,000        -    -  "
                         "      -      -          -    -           -    -");
    REQUIRE(lines[11].starts_with("optimum     24,576    1.00000 "));
    REQUIRE(lines[12].starts_with("    lru  unlimited    0.00000 "));
}

TEST_CASE("The ratios alone are CSV with a line a replay") {
    const Trace trace = small_trace();
    const std::vector<Result> results = three_results();
    REQUIRE(replay::format_ratios({trace, {}, results}) ==
            "trace,capacity_blocks,policy,token_hit_ratio\n"
            "\"small, \"\"quoted\"\"\",24576,lru,0.75000\n"
            "\"small, \"\"quoted\"\"\",24576,optimum,1.00000\n"
            "\"small, \"\"quoted\"\"\",unlimited,lru,0.00000\n");
}

TEST_CASE("A curve stands beside what LRU and its own policy reach at its budgets") {
    Trace trace = small_trace();
    trace.name = "small";
    std::vector<Result> results(1);
    results[0].policy = Policy::reuse;
    results[0].capacity = {2, Capacity::Unit::blocks};
    results[0].curve = {{2048, 0.25}, {4096, 0.5}};
    std::vector<Result> measured(2);
    measured[0].policy = Policy::lru;
    measured[0].capacity = {2048, Capacity::Unit::bytes};
    measured[0].tokens = 100;
    measured[0].tokens_saved = 24;
    measured[1] = measured[0];
    measured[1].policy = Policy::reuse;
    measured[1].tokens_saved = 75;
    const Settings settings;
    const replay::Report report{trace, settings, results};
    REQUIRE(replay::format_curve_table(report, measured) ==
            "policy  capacity  budget    curve      LRU  difference  measured\n"
            "----------------------------------------------------------------\n"
            " reuse         2    2KiB  0.25000  0.24000    +0.01000   0.75000\n"
            " reuse         2    4KiB  0.50000        -           -         -\n");
    REQUIRE(replay::format_curve_csv(report, measured) ==
            "trace,policy,capacity_blocks,budget_bytes,curve,lru,measured\n"
            "small,reuse,2,2048,0.25000,0.24000,0.75000\n"
            "small,reuse,2,4096,0.50000,,\n");
}

TEST_CASE("CSV has a line of names, a line a capacity, and quotes where it has to") {
    const Trace trace = small_trace();
    const std::vector<Result> results = two_results();
    const Settings settings;
    const std::vector<std::string> lines = lines_of(replay::format_csv({trace, settings, results}));
    REQUIRE(lines.size() == 3);
    REQUIRE(lines[0] ==
            "trace,insert,sessions,bytes_per_token,max_entries,policy,payload,block_tokens,"
            "capacity_blocks,capacity_bytes,token_hit_ratio,requests,requests_hit,tokens,"
            "tokens_saved,evicted_assistant,evicted_user,evicted_system,cut_assistant,cut_user,"
            "cut_system,refused,entries,nbytes,bytes_referenced,index_nbytes,"
            "operations_per_second,fetch_p50_ns,fetch_p99_ns,insert_p50_ns,insert_p99_ns");
    REQUIRE(lines[1] ==
            "\"small, \"\"quoted\"\"\",prompt,false,131072,,tiered-lru,blocks,1,24576,51539607552,"
            "0.750000,1,1,1600000,1200000,7,6,5,4,3,2,9,1234,77,99,88,2000,850,2340,12300000,"
            "1000000000");
    REQUIRE(lines[2] == "\"small, \"\"quoted\"\"\",prompt,false,131072,,tiered-lru,blocks,1,,,"
                        "0.000000,0,0,1600000,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0");
}

TEST_CASE("CSV ends with the figures of other policies where it is compared") {
    const Trace trace = small_trace();
    const std::vector<Result> results = two_results();
    const Settings settings;
    const std::vector<replay::Figure> figures = two_figures();
    const std::vector<std::string> lines =
        lines_of(replay::format_csv({trace, settings, results, figures}));
    REQUIRE(lines[0].ends_with(",insert_p99_ns,block_lru,optimal"));
    REQUIRE(lines[1].ends_with(",1000000000,0.700000,0.900000"));
    REQUIRE(lines[2].ends_with(",0,0.950000,0.950000"));
}

TEST_CASE("JSON holds the trace, the settings and a result a capacity") {
    const Trace trace = small_trace();
    const std::vector<Result> results = two_results();
    Settings settings;
    settings.max_entries = 5;
    const std::string text = replay::format_json({trace, settings, results});
    REQUIRE(text.starts_with("{\n  \"trace\": {\n    \"name\": \"small, \\\"quoted\\\"\",\n"
                             "    \"block_size\": 16,\n    \"requests\": 1,\n"
                             "    \"input_tokens\": 1600000,\n    \"distinct_blocks\": 100000,\n"
                             "    \"largest_prompt_blocks\": 100000\n  },\n  \"settings\": {\n"));
    REQUIRE(text.find("\"max_entries\": 5\n") != std::string::npos);
    REQUIRE(text.find("\"capacity_blocks\": 24576,") != std::string::npos);
    REQUIRE(text.find("\"capacity_bytes\": null,") != std::string::npos);
    REQUIRE(text.find("\"token_hit_ratio\": 0.75,") != std::string::npos);
    REQUIRE(text.ends_with("\"insert_p99_ns\": 0\n    }\n  ]\n}\n"));
}

} // namespace of_report
