// SPDX-License-Identifier: MIT
// promptkv_replay: replays a trace of prompts through the cache and prints what it saves.
#include "capacity.hpp"
#include "generate.hpp"
#include "input.hpp"
#include "progress.hpp"
#include "report.hpp"
#include "simulate.hpp"
#include "trace.hpp"

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

constexpr int exit_success = 0;
constexpr int exit_failure = 1;
constexpr int exit_malformed = 2;

constexpr std::size_t generated_requests = 10'000;

/// The command line.
struct Arguments {
    std::string trace_path;
    std::optional<std::uint64_t> seed; // of a generated trace
    std::optional<std::size_t> limit;
    std::vector<std::string> capacities;
    std::string policy = "default";
    std::string payload = "cuttable";
    std::uint64_t bytes_per_token = replay::Settings{}.bytes_per_token;
    std::optional<std::size_t> granularity;
    std::optional<std::size_t> max_entries;
    bool tiers = false;
    bool no_anchors = false;
    bool no_supersede = false;
    bool no_refresh = false;
    std::string csv_path;
    std::string json_path;
    bool quiet = false;
};

std::string check_capacity(const std::string& text) {
    try {
        (void)replay::parse_capacity(text);
        return {};
    } catch (const std::invalid_argument& problem) {
        return problem.what();
    }
}

void declare_input(CLI::App& app, Arguments& arguments) {
    CLI::Option* const path = app.add_option(
        "trace", arguments.trace_path,
        "File to replay: #ptrace1 or Mooncake's JSONL, plain or xz; - is standard input");
    path->type_name("FILE");
    CLI::Option* const seed =
        app.add_option("--generate", arguments.seed, "Replay made-up chats instead [seed 1]");
    seed->expected(0, 1)->default_str("1")->type_name("[SEED]")->excludes(path);
    app.add_option("--limit", arguments.limit, "Replay the first N requests only")
        ->check(CLI::Range(std::size_t{1}, std::numeric_limits<std::size_t>::max()).description(""))
        ->type_name("N");
}

void declare_cache(CLI::App& app, Arguments& arguments) {
    const std::string group = "Cache";
    app.add_option("--capacity", arguments.capacities,
                   "Blocks (24576), bytes (8GiB) or unlimited; several with commas "
                   "[1/8, 1/4, 1/2 of the trace's blocks and unlimited]")
        ->delimiter(',')
        ->allow_extra_args(false)
        ->check(CLI::Validator(check_capacity, ""))
        ->type_name("LIST")
        ->group(group);
    app.add_option("--payload", arguments.payload,
                   "KV state that can be cut to any length, or that serves whole only")
        ->check(CLI::IsMember({"cuttable", "whole"}).description(""))
        ->type_name("cuttable|whole")
        ->capture_default_str()
        ->group(group);
    app.add_flag("--tiers", arguments.tiers,
                 "Store system prompts as system and prompts as user, not all as assistant")
        ->group(group);
    app.add_option("--bytes-per-token", arguments.bytes_per_token, "Size of the KV state")
        ->check(CLI::Range(std::uint64_t{1}, std::uint64_t{1} << 30U).description(""))
        ->type_name("BYTES")
        ->capture_default_str()
        ->group(group);
    app.add_option("--policy", arguments.policy,
                   "reference: whole entries go, no anchors, no superseding, no refresh")
        ->check(CLI::IsMember({"default", "reference"}).description(""))
        ->type_name("default|reference")
        ->capture_default_str()
        ->group(group);
    app.add_option("--granularity", arguments.granularity,
                   "Cut victims in steps of so many blocks, 0: drop them whole [1]")
        ->type_name("BLOCKS")
        ->group(group);
    app.add_option("--max-entries", arguments.max_entries, "Store at most N entries")
        ->type_name("N")
        ->group(group);
    app.add_flag("--no-anchors", arguments.no_anchors, "Forget prefixes that a longer entry serves")
        ->group(group);
    app.add_flag("--no-supersede", arguments.no_supersede, "Let earlier turns keep their place")
        ->group(group);
    app.add_flag("--no-refresh", arguments.no_refresh, "Let a fetch leave recency alone")
        ->group(group);
}

void declare_output(CLI::App& app, Arguments& arguments) {
    const std::string group = "Output";
    app.add_option("--csv", arguments.csv_path, "Write the figures as CSV; - is standard output")
        ->type_name("FILE")
        ->group(group);
    app.add_option("--json", arguments.json_path, "Write the figures as JSON; - is standard output")
        ->type_name("FILE")
        ->group(group);
    app.add_flag("--quiet", arguments.quiet, "Neither table nor progress bar")->group(group);
}

replay::Trace load(const Arguments& arguments) {
    if (arguments.seed.has_value()) {
        return replay::generate_trace(*arguments.seed,
                                      arguments.limit.value_or(generated_requests));
    }
    const std::string source = arguments.trace_path == "-" ? "<stdin>" : arguments.trace_path;
    return replay::parse_trace(replay::read_input(arguments.trace_path), source,
                               arguments.limit.value_or(std::numeric_limits<std::size_t>::max()));
}

replay::Settings settings_from(const Arguments& arguments) {
    replay::Settings settings;
    if (arguments.policy == "reference") {
        settings.follow_reference();
    }
    if (arguments.payload == "whole") {
        settings.payload = replay::PayloadKind::whole;
    }
    settings.tiers = arguments.tiers;
    settings.bytes_per_token = arguments.bytes_per_token;
    settings.max_entries = arguments.max_entries.value_or(settings.max_entries);
    settings.cut_granularity = arguments.granularity.value_or(settings.cut_granularity);
    settings.keep_anchors = settings.keep_anchors && !arguments.no_anchors;
    settings.supersede = settings.supersede && !arguments.no_supersede;
    settings.refresh_on_fetch = settings.refresh_on_fetch && !arguments.no_refresh;
    return settings;
}

std::vector<replay::Capacity> capacities_from(const Arguments& arguments,
                                              const replay::Trace& trace) {
    std::vector<replay::Capacity> capacities;
    if (arguments.capacities.empty()) {
        const std::uint64_t blocks = replay::summarize(trace).distinct_blocks;
        for (const std::uint64_t part : {8U, 4U, 2U}) {
            capacities.push_back({blocks / part, replay::Capacity::Unit::blocks});
        }
        capacities.emplace_back();
    }
    for (const std::string& text : arguments.capacities) {
        capacities.push_back(replay::parse_capacity(text));
    }
    return capacities;
}

void write(const std::string& text, const std::string& path) {
    const bool to_stdout = path == "-";
    std::FILE* const file = to_stdout ? stdout : std::fopen(path.c_str(), "wb");
    const bool written = file != nullptr &&
                         std::fwrite(text.data(), 1, text.size(), file) == text.size() &&
                         std::fflush(file) == 0;
    const int error = errno;
    if (file != nullptr && !to_stdout) {
        std::fclose(file);
    }
    if (!written) {
        throw std::runtime_error(fmt::format("{}: {}", path, std::strerror(error)));
    }
}

void run(const Arguments& arguments) {
    const replay::Trace trace = load(arguments);
    const replay::Settings settings = settings_from(arguments);
    const std::vector<replay::Capacity> capacities = capacities_from(arguments, trace);
    std::vector<replay::Result> results;
    for (const replay::Capacity& capacity : capacities) {
        replay::ProgressBar bar(
            fmt::format("{} of {}: {}", results.size() + 1, capacities.size(), to_string(capacity)),
            trace.requests.size(), !arguments.quiet);
        results.push_back(replay::simulate(trace, settings, capacity,
                                           [&bar](std::size_t done) { bar.update(done); }));
    }
    const replay::Report report{trace, settings, results};
    if (!arguments.quiet) {
        write(replay::format_table(report), "-");
    }
    if (!arguments.csv_path.empty()) {
        write(replay::format_csv(report), arguments.csv_path);
    }
    if (!arguments.json_path.empty()) {
        write(replay::format_json(report), arguments.json_path);
    }
}

} // namespace

int main(int argc, char** argv) {
    CLI::App app("Replays a trace of prompts through promptkv's cache and prints what it saves.");
    Arguments arguments;
    declare_input(app, arguments);
    declare_cache(app, arguments);
    declare_output(app, arguments);
    try {
        app.parse(argc, argv);
        if (arguments.trace_path.empty() && !arguments.seed.has_value()) {
            throw CLI::RequiredError("a trace or --generate");
        }
    } catch (const CLI::ParseError& error) {
        return app.exit(error) == exit_success ? exit_success : exit_failure;
    }
    try {
        run(arguments);
        return exit_success;
    } catch (const replay::TraceError& error) {
        fmt::print(stderr, "{}\n", error.what());
        return exit_malformed;
    } catch (const std::exception& error) {
        fmt::print(stderr, "promptkv_replay: {}\n", error.what());
        return exit_failure;
    }
}
