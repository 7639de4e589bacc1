// SPDX-License-Identifier: MIT
// generate_trace: repeatable, and with the structure that chats have.

#include "replay/generate.hpp"

#include "catch.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <vector>

namespace {

using replay::generate_trace;
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
        for (const Range& part : parts_of(trace, request)) {
            starts.push_back(part.start);
        }
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
        if (request.session == 0) {
            continue;
        }
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
    for (const Request& request : trace.requests) {
        lengths.push_back(request.input_tokens);
    }
    std::sort(lengths.begin(), lengths.end());
    const std::uint64_t median = lengths[lengths.size() / 2];
    REQUIRE(median > 500);
    REQUIRE(median < 6000);
    REQUIRE(lengths.back() > 5 * median);
}

} // namespace
