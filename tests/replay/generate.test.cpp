// SPDX-License-Identifier: MIT
// generate_trace, generate_workload: repeatable, and with the structure that is promised.

#include "replay/generate.hpp"

#include "replay/simulate.hpp"

#include "catch.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace {

using replay::generate_trace;
using replay::generate_workload;
using replay::Range;
using replay::Request;
using replay::Trace;

std::vector<Range> parts_of(const Trace& trace, const Request& request) {
    const auto first = trace.ranges.begin() + static_cast<std::ptrdiff_t>(request.first_range);
    return {first, first + static_cast<std::ptrdiff_t>(request.range_count)};
}

TEST_CASE("generate_trace makes the same trace of the same seed, another of another") {
    const Trace first = generate_trace(1, 500);
    const Trace again = generate_trace(1, 500);
    const Trace other = generate_trace(2, 500);
    REQUIRE(first.name == "generated-1");
    REQUIRE(first.ranges == again.ranges);
    REQUIRE(first.ranges != other.ranges);
}

TEST_CASE("generate_trace makes as many requests as asked for, the first of them the same") {
    const Trace longer = generate_trace(1, 500);
    const Trace shorter = generate_trace(1, 100);
    REQUIRE(generate_trace(1, 0).requests.empty());
    REQUIRE(longer.requests.size() == 500);
    REQUIRE(shorter.requests.size() == 100);
    REQUIRE(std::equal(shorter.ranges.begin(), shorter.ranges.end(), longer.ranges.begin()));
}

TEST_CASE("generate_trace gives prompts that are whole, a token a block") {
    const Trace trace = generate_trace(3, 1000);
    REQUIRE(trace.block_size == 1);
    for (const Request& request : trace.requests) {
        std::uint64_t tokens = 0;
        for (const Range& part : parts_of(trace, request)) {
            REQUIRE(part.length > 0);
            tokens += part.length;
        }
        REQUIRE(tokens == request.input_tokens);
        REQUIRE(request.system_tokens == parts_of(trace, request).front().length);
    }
}

TEST_CASE("generate_trace shares system prompts, grows chats and edits some turns") {
    const Trace trace = generate_trace(4, 3000);
    std::set<std::int64_t> system_prompts;
    std::set<std::vector<std::int64_t>> seen; // the starts of the parts of earlier prompts
    std::size_t grown = 0;                    // a prompt of before, its answer and a question
    std::size_t one_offs = 0;                 // a first turn
    std::size_t edited = 0; // the chat goes on from an earlier prompt's answer for the second time
    std::set<std::vector<std::int64_t>> continued;
    for (const Request& request : trace.requests) {
        std::vector<std::int64_t> starts;
        for (const Range& part : parts_of(trace, request))
            starts.push_back(part.start);
        system_prompts.insert(starts.front());
        const bool first_turn = starts.size() == 2;
        one_offs += first_turn ? 1U : 0U;
        if (!first_turn) {
            const std::vector<std::int64_t> before(starts.begin(), starts.end() - 2);
            const std::vector<std::int64_t> answered(starts.begin(), starts.end() - 1);
            REQUIRE(seen.contains(before));
            ++grown;
            edited += continued.insert(answered).second ? 0U : 1U;
        }
        seen.insert(starts);
    }
    REQUIRE(system_prompts.size() > 5);
    REQUIRE(system_prompts.size() < 20);
    REQUIRE(grown > 1500);
    REQUIRE(one_offs > 300);
    REQUIRE(edited > 50);
    REQUIRE(seen.size() < trace.requests.size()); // some answers were asked for again
}

TEST_CASE("generate_trace continues a chat with the answer that it generated") {
    const Trace trace = generate_trace(6, 500);
    std::map<std::uint64_t, std::vector<Range>> last; // prompt and answer, by session
    std::size_t continued = 0;
    std::size_t one_offs = 0;
    for (const Request& request : trace.requests) {
        REQUIRE((request.session == 0) == (request.output_range_count == 0));
        one_offs += request.session == 0 ? 1U : 0U;
        if (request.session == 0)
            continue;
        const std::vector<Range> parts = parts_of(trace, request);
        std::vector<Range>& before = last[request.session];
        continued += !before.empty() && parts.size() == before.size() + 1 &&
                             std::equal(before.begin(), before.end(), parts.begin())
                         ? 1U
                         : 0U;
        before = parts;
        before.push_back(trace.ranges[request.first_range + request.range_count]);
    }
    REQUIRE(one_offs > 10);
    REQUIRE(continued > 200);
}

TEST_CASE("generate_trace makes a few prompts much longer than most") {
    const Trace trace = generate_trace(5, 5000);
    std::vector<std::uint64_t> lengths;
    for (const Request& request : trace.requests)
        lengths.push_back(request.input_tokens);
    std::sort(lengths.begin(), lengths.end());
    const std::uint64_t median = lengths[lengths.size() / 2];
    REQUIRE(median > 500);
    REQUIRE(median < 6000);
    REQUIRE(lengths.back() > 5 * median);
}

// workloads //////////////////////////////////////////////////////////////////

/// The first part of each prompt: its document or system prompt.
std::vector<std::int64_t> documents_of(const Trace& trace) {
    std::vector<std::int64_t> documents;
    for (const Request& request : trace.requests)
        documents.push_back(trace.ranges[request.first_range].start);
    return documents;
}

/// How often each document comes in the requests from `begin` to `end`.
std::map<std::int64_t, std::size_t> counts(const std::vector<std::int64_t>& documents,
                                           std::size_t begin, std::size_t end) {
    std::map<std::int64_t, std::size_t> counts;
    for (std::size_t i = begin; i < end; ++i)
        ++counts[documents[i]];
    return counts;
}

std::size_t one_offs(const std::map<std::int64_t, std::size_t>& counts) {
    return static_cast<std::size_t>(std::count_if(
        counts.begin(), counts.end(), [](const auto& count) { return count.second == 1; }));
}

double hit_ratio(const Trace& trace, replay::Policy policy) {
    replay::Settings settings;
    settings.policy = policy;
    return simulate(trace, settings, {trace.usual_capacity, replay::Capacity::Unit::blocks})
        .token_hit_ratio();
}

TEST_CASE("A workload is the same for the same seed, and its first requests for any number") {
    REQUIRE(replay::workload_names().size() == 7);
    for (const std::string_view name : replay::workload_names()) {
        CAPTURE(name);
        const Trace trace = generate_workload(name, 1, 400);
        const Trace shorter = generate_workload(name, 1, 100);
        REQUIRE(trace.name == std::string(name) + "-1");
        REQUIRE(trace.requests.size() == 400);
        REQUIRE(trace.usual_capacity > replay::summarize(trace).largest_prompt);
        REQUIRE(shorter.requests.size() == 100);
        REQUIRE(std::equal(shorter.ranges.begin(), shorter.ranges.end(), trace.ranges.begin()));
        REQUIRE(generate_workload(name, 2, 400).ranges != trace.ranges);
    }
    REQUIRE_THROWS_AS(generate_workload("drought", 1, 10), std::invalid_argument);
}

TEST_CASE("In a flood most prompts are one-offs, and before and after it none") {
    const auto documents = documents_of(generate_workload("flood", 1, 3'000));
    REQUIRE(counts(documents, 0, 1'000).size() <= 60);
    REQUIRE(one_offs(counts(documents, 1'000, 2'000)) > 800);
    REQUIRE(counts(documents, 2'000, 3'000).size() <= 60);
}

TEST_CASE("Of a loop LRU reuses only what is popular, and the optimum most") {
    const Trace half = generate_workload("loop-half", 1, 2'000);
    CHECK(hit_ratio(half, replay::Policy::lru) > 0.21);
    CHECK(hit_ratio(half, replay::Policy::lru) < 0.25);
    CHECK(hit_ratio(half, replay::Policy::optimum) > 0.58);
    const Trace most = generate_workload("loop-90", 1, 2'000);
    CHECK(hit_ratio(most, replay::Policy::lru) > 0.21);
    CHECK(hit_ratio(most, replay::Policy::lru) < 0.26);
    CHECK(hit_ratio(most, replay::Policy::optimum) > 0.75);
}

TEST_CASE("At midnight all system prompts change") {
    const auto documents = documents_of(generate_workload("midnight", 1, 3'000));
    const auto day = counts(documents, 0, 1'500);
    const auto next_day = counts(documents, 1'500, 3'000);
    REQUIRE(day.size() > 10);
    REQUIRE(next_day.size() > 10);
    REQUIRE(day.rbegin()->first < next_day.begin()->first);
}

TEST_CASE("When the busiest tenant leaves its documents never come again") {
    const auto documents = documents_of(generate_workload("tenant-leaves", 1, 3'000));
    const auto before = counts(documents, 0, 1'500);
    const auto after = counts(documents, 1'500, 3'000);
    std::size_t left = 0; // requests for the documents that left
    std::size_t stayed = 0;
    for (const auto& [document, count] : before)
        (after.contains(document) ? stayed : left) += count;
    REQUIRE(left > 450);
    REQUIRE(stayed > 750);
}

TEST_CASE("Bursts are requests for a document during a short time only") {
    const auto documents = documents_of(generate_workload("bursts", 1, 3'000));
    std::map<std::int64_t, std::size_t> first;
    std::map<std::int64_t, std::size_t> last;
    for (std::size_t i = 0; i < documents.size(); ++i) {
        first.try_emplace(documents[i], i);
        last[documents[i]] = i;
    }
    std::size_t short_lived = 0; // requests
    for (const auto& [document, count] : counts(documents, 0, documents.size()))
        short_lived += count > 2 && last[document] - first[document] < 40 * count ? count : 0;
    REQUIRE(short_lived > 1'000);
    REQUIRE(one_offs(counts(documents, 0, documents.size())) < 50);
}

TEST_CASE("Phases of chats and of a cycle alternate") {
    const Trace trace = generate_workload("phases", 1, 2'200);
    const auto documents = documents_of(trace);
    for (std::size_t i = 0; i < trace.requests.size(); ++i)
        REQUIRE((trace.requests[i].session != 0) == (i < 1'000 || i >= 2'000));
    for (std::size_t i = 1'080; i < 2'000; ++i)
        REQUIRE(documents[i] == documents[i - 80]);
    REQUIRE(counts(documents, 1'000, 2'000).size() == 80);
}

} // namespace
