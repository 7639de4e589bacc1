// SPDX-License-Identifier: MIT
// The recorded traces, where they lie beside the project: the reference's policy gives the figures
// of a simulator of the reference, and the default policy is better by what is promised.

#include "replay/input.hpp"
#include "replay/simulate.hpp"

#include "catch.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

namespace {

using replay::Capacity;
using replay::PayloadKind;
using replay::Settings;
using replay::Trace;

const std::filesystem::path folder = PROMPTKV_SHARED_DIR "/traces";

bool present() {
    if (std::filesystem::exists(folder / "expected.csv")) {
        return true;
    }
    WARN("skipped: there is no " << (folder / "expected.csv"));
    SUCCEED("nothing to compare with"); // a test without an assertion fails
    return false;
}

Trace load(const std::string& name) {
    const std::string path = (folder / (name + ".ptrace.xz")).string();
    return replay::parse_trace(replay::read_input(path), path);
}

double hit_ratio(const Trace& trace, const Settings& settings, std::uint64_t blocks) {
    return simulate(trace, settings, {blocks, Capacity::Unit::blocks}).token_hit_ratio();
}

/// One line of expected.csv.
struct Expected {
    std::string trace;
    std::uint64_t blocks = 0; // 0: unlimited
    std::string policy;
    double token_hit_ratio = 0;
};

std::vector<Expected> expected_figures(const std::string& trace) {
    std::ifstream file(folder / "expected.csv");
    std::vector<Expected> figures;
    for (std::string line; std::getline(file, line);) {
        std::istringstream cells(line);
        Expected figure;
        std::string capacity;
        std::string ratio;
        std::getline(cells, figure.trace, ',');
        std::getline(cells, capacity, ',');
        std::getline(cells, figure.policy, ',');
        std::getline(cells, ratio, ',');
        if (figure.trace == trace) {
            figure.blocks = capacity == "unlimited" ? 0 : std::stoull(capacity);
            figure.token_hit_ratio = std::stod(ratio);
            figures.push_back(figure);
        }
    }
    return figures;
}

/// Replays every `reference_` figure of a trace whose capacity is within the limits, and compares.
void compare_with_reference(const std::string& name, std::uint64_t least, std::uint64_t most) {
    const Trace trace = load(name);
    least = std::max(least, summarize(trace).largest_prompt);
    std::size_t compared = 0;
    for (const Expected& expected : expected_figures(name)) {
        const bool reference = expected.policy.starts_with("reference_");
        if (!reference || expected.blocks < least || expected.blocks > most) {
            continue;
        }
        Settings settings;
        settings.follow_reference();
        settings.tiers = expected.policy.ends_with("_tiers");
        settings.payload = expected.policy.find("_not_trimmable") != std::string::npos
                               ? PayloadKind::whole
                               : PayloadKind::cuttable;
        // with tiers an entry keeps the more persistent of its tiers here, the last in the reference
        const double tolerance = settings.tiers ? 0.0005 : 0.00005;
        CAPTURE(name, expected.blocks, expected.policy, expected.token_hit_ratio);
        CHECK(std::abs(hit_ratio(trace, settings, expected.blocks) - expected.token_hit_ratio) <=
              tolerance);
        ++compared;
    }
    REQUIRE(compared > 0);
}

constexpr std::uint64_t any_capacity = std::numeric_limits<std::uint64_t>::max();

TEST_CASE("With the reference's policy tau gives the reference's figures") {
    if (present()) {
        compare_with_reference("tau_airline_l16", 0, any_capacity);
    }
}

TEST_CASE("With the reference's policy Mooncake's conversation gives the reference's figures") {
    if (present()) {
        compare_with_reference("mooncake_conversation", 0, any_capacity);
    }
}

TEST_CASE("With the reference's policy Mooncake's synthetic gives the reference's figures") {
    if (present()) {
        compare_with_reference("mooncake_synthetic", 0, any_capacity);
    }
}

TEST_CASE("With the reference's policy Claude Code gives the reference's figures") {
    if (present()) {
        compare_with_reference("cc_mix_l16_s1", 24'576, 32'768); // the others take too long
    }
}

TEST_CASE("Without a limit all that was seen before is reused, but for partial blocks") {
    const std::string name =
        GENERATE("tau_airline_l16", "mooncake_conversation", "mooncake_synthetic");
    if (!present()) {
        return;
    }
    for (const Expected& expected : expected_figures(name)) {
        if (expected.blocks == 0) {
            CAPTURE(name);
            const double ratio = simulate(load(name), {}, Capacity{}).token_hit_ratio();
            REQUIRE(ratio <= expected.token_hit_ratio + 0.00005);
            // the bound reuses the partial blocks at the ends of prompts too, which are not stored
            REQUIRE(ratio >= expected.token_hit_ratio - 0.001);
        }
    }
}

TEST_CASE("The default policy reuses at least as much as promised") {
    struct Promise {
        const char* trace;
        PayloadKind payload;
        bool tiers;
        std::uint64_t blocks;
        double token_hit_ratio;
    };
    const Promise promise = GENERATE(values<Promise>({
        {"tau_airline_l16", PayloadKind::cuttable, false, 15'000, 0.607},
        {"tau_airline_l16", PayloadKind::cuttable, false, 30'000, 0.806},
        {"mooncake_conversation", PayloadKind::cuttable, false, 9'139, 0.1985},
        {"mooncake_synthetic", PayloadKind::cuttable, false, 10'981, 0.440},
        {"cc_mix_l16_s1", PayloadKind::cuttable, false, 24'576, 0.595},
        {"cc_mix_l16_s1", PayloadKind::cuttable, true, 24'576, 0.596},
        {"cc_mix_l16_s1", PayloadKind::cuttable, false, 32'768, 0.785},
        {"tau_airline_l16", PayloadKind::whole, true, 30'000, 0.785},
        {"cc_mix_l16_s1", PayloadKind::whole, true, 32'768, 0.658},
    }));
    if (!present()) {
        return;
    }
    CAPTURE(promise.trace, promise.tiers, promise.blocks);
    Settings settings;
    settings.payload = promise.payload;
    settings.tiers = promise.tiers;
    REQUIRE(hit_ratio(load(promise.trace), settings, promise.blocks) >= promise.token_hit_ratio);
}

} // namespace
