// SPDX-License-Identifier: MIT
// read_figures, and the recorded traces, where they lie beside the project: with the rules of mlx_lm
// the replay gives the figures of the reference, and with promptkv's it reaches block LRU.

#include "replay/figures.hpp"
#include "replay/input.hpp"
#include "replay/simulate.hpp"

#include "catch.hpp"
#include "temporary_file.hpp"

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace {

using replay::Capacity;
using replay::Figure;
using replay::InsertWay;
using replay::PayloadKind;
using replay::Settings;
using replay::Trace;
using replay_test::TemporaryFile;

constexpr Capacity blocks(std::uint64_t amount) {
    return {amount, Capacity::Unit::blocks};
}

TEST_CASE("read_figures takes the figures of one trace") {
    const TemporaryFile file("trace,capacity_blocks,policy,token_hit_ratio\r\n"
                             "one,10,block_lru,0.25\r\n"
                             "two,10,block_lru,0.5\r\n"
                             "one,20,block_lru,1\r\n"
                             "one,10,optimal,0.75\r\n"
                             "one,unlimited,any,1\r\n");
    const std::vector<Figure> figures = replay::read_figures(file.name(), "one");
    REQUIRE(figures.size() == 4);
    REQUIRE(capacities_of(figures) == std::vector<Capacity>{blocks(10), blocks(20), Capacity{}});
    REQUIRE(find_figure(figures, "block_lru", blocks(10)) == 0.25);
    REQUIRE(find_figure(figures, "optimal", blocks(10)) == 0.75);
    REQUIRE(find_figure(figures, "optimal", Capacity{}) == 1.0);
    REQUIRE_FALSE(find_figure(figures, "optimal", blocks(20)).has_value());
}

TEST_CASE("read_figures names a malformed line, and a trace that it does not know") {
    const auto [line, problem] = GENERATE(table<std::string, std::string>({
        {"one,10,lru", ":2: not 4 columns"},
        {"one,10,lru,0.5,", ":2: not 4 columns"},
        {"one,10,lru,0.5x", ":2: '0.5x' is no hit ratio"},
        {"one,10,lru,1.5", ":2: '1.5' is no hit ratio"},
        {"one,10,lru,nan", ":2: 'nan' is no hit ratio"},
        {"one,ten,lru,0.5", ":2: 'ten' is no capacity: write blocks such as 24576, bytes such as "
                            "8GiB, or unlimited"},
        {"two,10,lru,0.5", ": no figure of a trace 'one'"},
    }));
    const TemporaryFile file("trace,capacity_blocks,policy,token_hit_ratio\n" + line + "\n");
    try {
        (void)replay::read_figures(file.name(), "one");
        FAIL("a malformed line was read");
    } catch (const std::exception& error) {
        REQUIRE(std::string(error.what()) == file.name() + problem);
    }
}

// the recorded traces ////////////////////////////////////////////////////////

const std::filesystem::path folder = PROMPTKV_SHARED_DIR "/traces";

bool present() {
    if (std::filesystem::exists(folder / "expected.csv"))
        return true;
    WARN("skipped: there is no " << (folder / "expected.csv"));
    SUCCEED("nothing to compare with"); // a test without an assertion fails
    return false;
}

Trace load(const std::string& name) {
    return replay::load_trace((folder / (name + ".ptrace.xz")).string());
}

std::vector<Figure> figures_of(const std::string& name) {
    return replay::read_figures((folder / "expected.csv").string(), name);
}

double hit_ratio(const Trace& trace, const Settings& settings, const Capacity& capacity) {
    return simulate(trace, settings, capacity).token_hit_ratio();
}

TEST_CASE("By the reference policy recorded traces give the reference's figures") {
    struct Point {
        const char* trace;
        std::uint64_t blocks;
    };
    const Point point = GENERATE(values<Point>({
        {"tau_airline_l16", 15'000},
        {"tau_airline_l16", 60'000},
        {"mooncake_conversation", 1'827},
        {"mooncake_conversation", 18'279},
        {"mooncake_synthetic", 878},
        {"mooncake_synthetic", 21'962},
    }));
    if (!present())
        return;
    const Trace trace = load(point.trace);
    std::size_t compared = 0;
    for (const Figure& figure : figures_of(point.trace)) {
        if (figure.capacity != blocks(point.blocks) || !figure.policy.starts_with("reference_"))
            continue;
        Settings settings;
        settings.policy = replay::Policy::reference;
        settings.insert = figure.policy.ends_with("_tiers") ? InsertWay::tiers : InsertWay::prompt;
        settings.payload = figure.policy.starts_with("reference_not_trimmable")
                               ? PayloadKind::whole
                               : PayloadKind::prefix;
        // with tiers an entry keeps the more persistent of its tiers here, the last in the reference
        const double tolerance = settings.insert == InsertWay::tiers ? 0.0005 : 0.00005;
        CAPTURE(point.trace, point.blocks, figure.policy, figure.token_hit_ratio);
        CHECK(std::abs(hit_ratio(trace, settings, figure.capacity) - figure.token_hit_ratio) <=
              tolerance);
        ++compared;
    }
    REQUIRE(compared >= 2);
}

TEST_CASE("The bounds give the figures that are published with recorded traces") {
    using replay::Policy;
    struct Point {
        const char* trace;
        std::uint64_t blocks;
        Policy policy;
    };
    const Point point = GENERATE(values<Point>({
        {"tau_airline_l16", 15'000, Policy::lru},
        {"tau_airline_l16", 5'117, Policy::optimum},
        {"tau_airline_l16", 15'000, Policy::optimum},
        {"mooncake_conversation", 9'139, Policy::lru},
        {"mooncake_conversation", 1'827, Policy::optimum},
        {"mooncake_conversation", 9'139, Policy::optimum},
        {"mooncake_synthetic", 10'981, Policy::lru},
        {"mooncake_synthetic", 439, Policy::optimum},
        {"mooncake_synthetic", 10'981, Policy::optimum},
        {"cc_mix_l16_s1", 24'576, Policy::optimum},
    }));
    if (!present())
        return;
    const auto expected =
        find_figure(figures_of(point.trace), point.policy == Policy::lru ? "block_lru" : "optimal",
                    blocks(point.blocks));
    REQUIRE(expected.has_value());
    Settings settings;
    settings.policy = point.policy;
    CAPTURE(point.trace, point.blocks, replay::name(point.policy), *expected);
    CHECK(std::abs(hit_ratio(load(point.trace), settings, blocks(point.blocks)) - *expected) <=
          0.000006);
}

TEST_CASE("With shared blocks recorded traces reuse as much as block LRU") {
    struct Point {
        const char* trace;
        InsertWay insert;
        std::uint64_t block_tokens;
        std::uint64_t blocks;
        double at_least; // less than a simulation of the rules gave by 0.001
    };
    const Point point = GENERATE(values<Point>({
        {"tau_airline_l16", InsertWay::prompt, 1, 15'000, 0.7514},
        {"tau_airline_l16", InsertWay::server, 4, 30'000, 0.9009},
        {"mooncake_conversation", InsertWay::prompt, 1, 9'139, 0.2061},
        {"mooncake_synthetic", InsertWay::prompt, 1, 4'392, 0.2754},
        {"mooncake_synthetic", InsertWay::prompt, 1, 10'981, 0.4647},
    }));
    if (!present())
        return;
    Settings settings;
    settings.insert = point.insert;
    settings.block_tokens = point.block_tokens;
    CAPTURE(point.trace, static_cast<int>(point.insert), point.blocks);
    const double ratio = hit_ratio(load(point.trace), settings, blocks(point.blocks));
    const auto block_lru = find_figure(figures_of(point.trace), "block_lru", blocks(point.blocks));
    REQUIRE(block_lru.has_value());
    CHECK(ratio >= *block_lru - 0.002);
    CHECK(ratio >= point.at_least);
}

TEST_CASE("Without a limit all that was seen before is reused, but for partial blocks") {
    const std::string name = GENERATE("mooncake_conversation", "mooncake_synthetic");
    if (!present())
        return;
    const auto most = find_figure(figures_of(name), "any", Capacity{});
    REQUIRE(most.has_value());
    CAPTURE(name);
    const double ratio = hit_ratio(load(name), {}, Capacity{});
    CHECK(ratio <= *most + 0.00005);
    // the bound reuses the partial blocks at the ends of prompts too, which are not stored
    CHECK(ratio >= *most - 0.001);
}

} // namespace
