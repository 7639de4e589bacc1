// SPDX-License-Identifier: MIT
// simulate: the replay protocol on traces small enough to follow by hand.

#include "replay/simulate.hpp"

#include "replay/generate.hpp"

#include "catch.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <vector>

namespace of_simulate {

using replay::Capacity;
using replay::InsertWay;
using replay::PayloadKind;
using replay::Range;
using replay::Result;
using replay::Settings;
using replay::simulate;
using replay::Trace;

constexpr Capacity unlimited{};

constexpr Capacity blocks(std::uint64_t amount) {
    return {amount, Capacity::Unit::blocks};
}

/// Two chats that share a system prompt of 10 of their tokens, in blocks of 10.
Trace two_chats() {
    Trace trace;
    trace.block_size = 10;
    trace.append(30, 10, std::vector<Range>{{0, 3}});
    trace.append(45, 10, std::vector<Range>{{0, 5}});          // goes on, with a partial block
    trace.append(30, 10, std::vector<Range>{{0, 1}, {90, 2}}); // branches off
    trace.append(45, 10, std::vector<Range>{{0, 5}});          // once more
    return trace;
}

TEST_CASE("simulate counts the tokens of the blocks that were reused") {
    Settings settings;
    settings.payload = GENERATE(PayloadKind::blocks, PayloadKind::prefix);
    const Result result = simulate(two_chats(), settings, unlimited);
    REQUIRE(result.requests == 4);
    REQUIRE(result.requests_hit == 3);
    REQUIRE(result.tokens == 150);
    REQUIRE(result.tokens_saved == 0 + 30 + 10 + 40);
    REQUIRE(result.token_hit_ratio() == 80.0 / 150.0);
    REQUIRE(result.entries == 2);
    REQUIRE(result.operations == 8);
    REQUIRE(result.refused == 0);
    REQUIRE(result.time.count() > 0);
    REQUIRE(result.fetch.p50 <= result.fetch.p99);
    REQUIRE(result.insert.p50 <= result.insert.p99);
}

TEST_CASE("simulate takes the size of an entry from its whole blocks") {
    Settings settings;
    settings.bytes_per_token = 3;
    settings.payload = PayloadKind::prefix;
    REQUIRE(simulate(two_chats(), settings, unlimited).bytes == (4 + 3) * 10 * 3);
}

TEST_CASE("simulate holds a shared block once") {
    Settings settings;
    settings.bytes_per_token = 3;
    const Result result = simulate(two_chats(), settings, unlimited);
    REQUIRE(result.bytes == (4 + 2) * 10 * 3);
    REQUIRE(result.bytes_referenced == (4 + 3) * 10 * 3);
}

TEST_CASE("simulate shares only blocks whose ids are all shared") {
    Settings settings;
    settings.block_tokens = 2;
    settings.bytes_per_token = 3;
    const Result result = simulate(two_chats(), settings, unlimited);
    REQUIRE(result.tokens_saved == 80);
    REQUIRE(result.bytes ==
            (2 + 2) * 2 * 10 * 3); // [0 1][2 3] and [0 90][91], the last half filled
    REQUIRE(result.bytes_referenced == result.bytes);
}

TEST_CASE("simulate never counts more than the input where the partial block is in the key") {
    Trace trace;
    trace.block_size = 10;
    trace.append(20, 0, std::vector<Range>{{0, 2}});
    trace.append(15, 0, std::vector<Range>{{0, 2}});
    REQUIRE(simulate(trace, {}, unlimited).tokens_saved == 15);
}

TEST_CASE("simulate stores nothing of a prompt shorter than a block") {
    Trace trace;
    trace.block_size = 10;
    trace.append(5, 0, std::vector<Range>{{0, 1}});
    trace.append(5, 0, std::vector<Range>{{0, 1}});
    const Result result = simulate(trace, {}, unlimited);
    REQUIRE(result.tokens_saved == 0);
    REQUIRE(result.entries == 0);
    REQUIRE(result.operations == 2);
}

TEST_CASE("simulate reuses of whole payloads only what was stored as it is") {
    Settings settings;
    settings.payload = PayloadKind::whole;
    const Result result = simulate(two_chats(), settings, unlimited);
    REQUIRE(result.tokens_saved == 0 + 30 + 0 + 40);
    REQUIRE(result.entries == 3);
    settings.insert = InsertWay::tiers;
    REQUIRE(simulate(two_chats(), settings, unlimited).tokens_saved == 0 + 30 + 10 + 40);
}

TEST_CASE("simulate inserts system prompts with tiers, where they are known") {
    Settings settings;
    settings.insert = InsertWay::tiers;
    const Result result = simulate(two_chats(), settings, unlimited);
    REQUIRE(result.tokens_saved == 80);
    REQUIRE(result.operations == 12);
    REQUIRE(result.entries == 3); // the system prompt costs no bytes
    REQUIRE(result.bytes == (4 + 2) * 10 * settings.bytes_per_token);
}

/// A chat of three turns. The third is an edit of the second.
Trace chat_with_outputs() {
    Trace trace;
    trace.append(4, 1, std::vector<Range>{{0, 4}}, 1, std::vector<Range>{{4, 2}});
    trace.append(8, 1, std::vector<Range>{{0, 8}}, 1, std::vector<Range>{{8, 3}});
    trace.append(7, 1, std::vector<Range>{{0, 6}, {90, 1}}, 1, std::vector<Range>{{91, 2}});
    return trace;
}

TEST_CASE("simulate stores what was generated as a server does") {
    Settings settings;
    settings.payload = GENERATE(PayloadKind::blocks, PayloadKind::prefix, PayloadKind::whole);
    settings.insert = InsertWay::tiers;
    const std::uint64_t edited = settings.payload == PayloadKind::whole ? 4 : 6;
    REQUIRE(simulate(chat_with_outputs(), settings, unlimited).tokens_saved == 0 + 4 + edited);
    settings.insert = InsertWay::server;
    const Result result = simulate(chat_with_outputs(), settings, unlimited);
    REQUIRE(result.tokens_saved == 0 + 6 + 6);
    REQUIRE(result.operations == 3 + 9);
}

TEST_CASE("simulate names sessions to the cache, so that a dead branch is evicted first") {
    // the other chat is older than the dead branch, and is asked again at the end
    Trace trace;
    trace.append(4, 0, std::vector<Range>{{50, 4}}, 2);
    trace.append(4, 0, std::vector<Range>{{0, 4}}, 1);
    trace.append(4, 0, std::vector<Range>{{0, 1}, {90, 3}}, 1); // an edit of the chat before
    trace.append(3, 0, std::vector<Range>{{70, 3}}, 3);         // needs room for 2 of its 3
    trace.append(4, 0, std::vector<Range>{{50, 4}}, 2);
    Settings settings;
    settings.insert = InsertWay::server;
    REQUIRE(simulate(trace, settings, blocks(12)).tokens_saved == 1 + 4);
    settings.sessions = false;
    REQUIRE(simulate(trace, settings, blocks(12)).tokens_saved == 1 + 2);
}

TEST_CASE("simulate evicts at a capacity in blocks, by cutting") {
    const Settings settings;
    const Result result = simulate(two_chats(), settings, blocks(5));
    REQUIRE(result.bytes == 5 * 10 * settings.bytes_per_token);
    REQUIRE(result.tokens_saved == 0 + 30 + 10 + 30);
    REQUIRE(result.cut[0] == 2);
    REQUIRE(result.evicted == std::array<std::uint64_t, 3>{});
}

TEST_CASE("simulate evicts whole entries as the reference does, which shares no blocks") {
    Settings settings;
    settings.policy = replay::Policy::reference;
    const Result result = simulate(two_chats(), settings, blocks(5));
    REQUIRE(result.tokens_saved == 0 + 30 + 10 + 10);
    REQUIRE(result.evicted[0] == 2);
    REQUIRE(result.cut == std::array<std::uint64_t, 3>{});
}

TEST_CASE("simulate keeps to a number of entries") {
    Settings settings;
    settings.max_entries = 1;
    const Result result = simulate(two_chats(), settings, unlimited);
    REQUIRE(result.entries == 1);
    REQUIRE(result.evicted[0] == 2);
}

TEST_CASE("simulate replays ids beyond 32 bits alike") {
    const Trace small = replay::generate_trace(1, 100);
    Trace large = small;
    for (Range& range : large.ranges)
        range.start += std::int64_t{1} << 40;
    const Capacity capacity = blocks(10'000);
    const Result expected = simulate(small, {}, capacity);
    const Result result = simulate(large, {}, capacity);
    REQUIRE(expected.tokens_saved > 0);
    REQUIRE(result.tokens_saved == expected.tokens_saved);
    REQUIRE(result.evicted == expected.evicted);
    REQUIRE(result.cut == expected.cut);
}

TEST_CASE("simulate reports its progress") {
    const Trace trace = replay::generate_trace(1, 300);
    std::vector<std::size_t> reports;
    (void)simulate(trace, {}, unlimited, [&reports](std::size_t done) { reports.push_back(done); });
    REQUIRE_FALSE(reports.empty());
    REQUIRE(std::is_sorted(reports.begin(), reports.end()));
    REQUIRE(reports.back() <= trace.requests.size());
}

} // namespace of_simulate
