// SPDX-License-Identifier: MIT
// promptkv_replay: replays a trace of prompts through the cache and prints what it saves.
#include "capacity.hpp"
#include "figures.hpp"
#include "generate.hpp"
#include "input.hpp"
#include "progress.hpp"
#include "report.hpp"
#include "simulate.hpp"
#include "text.hpp"
#include "trace.hpp"

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <limits>
#include <map>
#include <new>
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
    std::string payload = "blocks";
    std::uint64_t block_tokens = replay::Settings{}.block_tokens;
    std::string insert = "prompt";
    bool tiers = false;
    bool no_sessions = false;
    std::string rules = "promptkv";
    std::uint64_t bytes_per_token = replay::Settings{}.bytes_per_token;
    std::optional<std::size_t> max_entries;
    std::string figures_path;
    std::string csv_path;
    std::string json_path;
    bool quiet = false;
};

using replay::InsertWay;
using replay::PayloadKind;

const std::map<std::string, PayloadKind> payload_names{{"blocks", PayloadKind::blocks},
                                                       {"prefix", PayloadKind::prefix},
                                                       {"whole", PayloadKind::whole}};
const std::map<std::string, InsertWay> insert_names{
    {"prompt", InsertWay::prompt}, {"tiers", InsertWay::tiers}, {"server", InsertWay::server}};
const std::map<std::string, promptkv::Rules> rules_names{{"promptkv", promptkv::Rules::promptkv},
                                                         {"mlx_lm", promptkv::Rules::mlx_lm}};

/// Accepts the names of `values`.
template <class T>
CLI::Validator one_of(const std::map<std::string, T>& values) {
    std::vector<std::string> names;
    for (const auto& [name, value] : values) {
        names.push_back(name);
    }
    return CLI::IsMember(names).description("");
}

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
                   "[those of --compare; or 1/8, 1/4, 1/2 of the trace's blocks and unlimited]")
        ->delimiter(',')
        ->allow_extra_args(false)
        ->check(CLI::Validator(check_capacity, ""))
        ->type_name("LIST")
        ->group(group);
    app.add_option("--payload", arguments.payload,
                   "KV state in blocks that entries share, of its own, or that serves whole only")
        ->check(one_of(payload_names))
        ->type_name("blocks|prefix|whole")
        ->capture_default_str()
        ->group(group);
    app.add_option("--block-tokens", arguments.block_tokens,
                   "Block ids of the trace that a shared block holds")
        ->check(CLI::Range(std::uint64_t{1}, std::uint64_t{1} << 20U).description(""))
        ->type_name("N")
        ->capture_default_str()
        ->group(group);
    CLI::Option* const insert =
        app.add_option("--insert", arguments.insert,
                       "Store the prompt; or system prompt and prompt in tiers; or these and the "
                       "output, as a server does");
    insert->check(one_of(insert_names))
        ->type_name("prompt|tiers|server")
        ->capture_default_str()
        ->group(group);
    app.add_flag("--tiers", arguments.tiers, "The same as --insert tiers")
        ->excludes(insert)
        ->group(group);
    app.add_flag("--no-sessions", arguments.no_sessions,
                 "With --insert server: leave out the trace's sessions")
        ->group(group);
    app.add_option("--rules", arguments.rules,
                   "mlx_lm: behave as the cache that promptkv started from")
        ->check(one_of(rules_names))
        ->type_name("promptkv|mlx_lm")
        ->capture_default_str()
        ->group(group);
    app.add_option("--bytes-per-token", arguments.bytes_per_token, "Size of the KV state")
        ->check(CLI::Range(std::uint64_t{1}, std::uint64_t{1} << 30U).description(""))
        ->type_name("BYTES")
        ->capture_default_str()
        ->group(group);
    app.add_option("--max-entries", arguments.max_entries, "Store at most N entries")
        ->type_name("N")
        ->group(group);
}

void declare_output(CLI::App& app, Arguments& arguments) {
    const std::string group = "Output";
    app.add_option("--compare", arguments.figures_path,
                   "Show other policies' hit ratios beside, and replay at the capacities of FILE: "
                   "trace,capacity_blocks,policy,token_hit_ratio")
        ->type_name("FILE")
        ->group(group);
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
    return replay::load_trace(arguments.trace_path,
                              arguments.limit.value_or(std::numeric_limits<std::size_t>::max()));
}

replay::Settings settings_from(const Arguments& arguments) {
    replay::Settings settings;
    settings.payload = payload_names.at(arguments.payload);
    settings.insert = arguments.tiers ? InsertWay::tiers : insert_names.at(arguments.insert);
    settings.rules = rules_names.at(arguments.rules);
    settings.block_tokens = arguments.block_tokens;
    settings.sessions = !arguments.no_sessions;
    settings.bytes_per_token = arguments.bytes_per_token;
    settings.max_entries = arguments.max_entries.value_or(settings.max_entries);
    return settings;
}

std::vector<replay::Capacity> capacities_from(const Arguments& arguments,
                                              const replay::Trace& trace,
                                              const std::vector<replay::Figure>& figures) {
    std::vector<replay::Capacity> capacities;
    for (const std::string& text : arguments.capacities) {
        capacities.push_back(replay::parse_capacity(text));
    }
    if (capacities.empty()) {
        capacities = replay::capacities_of(figures);
    }
    if (capacities.empty()) {
        const std::uint64_t blocks = replay::summarize(trace).distinct_blocks;
        for (const std::uint64_t part : {8U, 4U, 2U}) {
            capacities.push_back({blocks / part, replay::Capacity::Unit::blocks});
        }
        capacities.emplace_back();
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
    std::vector<replay::Figure> figures;
    if (!arguments.figures_path.empty()) {
        figures = replay::read_figures(arguments.figures_path, trace.name);
    }
    const std::vector<replay::Capacity> capacities = capacities_from(arguments, trace, figures);
    std::vector<replay::Result> results;
    for (const replay::Capacity& capacity : capacities) {
        replay::ProgressBar bar(
            fmt::format("{} of {}: {}", results.size() + 1, capacities.size(), to_string(capacity)),
            trace.requests.size(), !arguments.quiet);
        results.push_back(replay::simulate(trace, settings, capacity,
                                           [&bar](std::size_t done) { bar.update(done); }));
    }
    const replay::Report report{trace, settings, results, figures};
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
        if (error.get_exit_code() == exit_success) {
            return app.exit(error); // --help
        }
        fmt::print(stderr, "promptkv_replay: {}\nRun with --help for more information.\n",
                   replay::printable(error.what()));
        return exit_failure;
    }
    // names of files and of traces are shown here, whatever bytes they have
    try {
        run(arguments);
        return exit_success;
    } catch (const replay::TraceError& error) {
        fmt::print(stderr, "{}\n", replay::printable(error.what()));
        return exit_malformed;
    } catch (const std::bad_alloc&) {
        fmt::print(stderr, "promptkv_replay: out of memory\n");
        return exit_failure;
    } catch (const std::exception& error) {
        fmt::print(stderr, "promptkv_replay: {}\n", replay::printable(error.what()));
        return exit_failure;
    }
}
