// SPDX-License-Identifier: MIT
// promptkv_replay: replays a trace of prompts by one policy or several and prints what each saves.
#include "capacity.hpp"
#include "figures.hpp"
#include "generate.hpp"
#include "input.hpp"
#include "policy.hpp"
#include "progress.hpp"
#include "report.hpp"
#include "simulate.hpp"
#include "text.hpp"
#include "trace.hpp"

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
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
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace {

constexpr int exit_success = 0;
constexpr int exit_failure = 1;
constexpr int exit_malformed = 2;

constexpr std::size_t generated_requests = 10'000;

/// The command line.
struct Arguments {
    std::string trace_path;
    std::optional<std::string> generated; // workload and seed
    std::optional<std::size_t> limit;
    std::vector<std::string> capacities;
    std::string payload = "blocks";
    std::uint64_t block_tokens = replay::Settings{}.block_tokens;
    std::string insert = "prompt";
    bool tiers = false;
    bool no_sessions = false;
    std::vector<std::string> policies;
    std::string rules = "promptkv";
    std::uint64_t bytes_per_token = replay::Settings{}.bytes_per_token;
    std::optional<std::size_t> max_entries;
    std::string figures_path;
    std::string csv_path;
    std::string json_path;
    std::string ratios_path;
    bool curve = false;
    bool guard = false;
    std::string curve_path;
    bool quiet = false;
};

using replay::InsertWay;
using replay::PayloadKind;
using replay::Policy;

const std::map<std::string, PayloadKind> payload_names{{"blocks", PayloadKind::blocks},
                                                       {"prefix", PayloadKind::prefix},
                                                       {"whole", PayloadKind::whole}};
const std::map<std::string, InsertWay> insert_names{
    {"prompt", InsertWay::prompt}, {"tiers", InsertWay::tiers}, {"server", InsertWay::server}};
const std::map<std::string, Policy> rules_names{{"promptkv", Policy::tiered_lru},
                                                {"mlx_lm", Policy::reference}};

constexpr const char* all_policies = "all";

std::vector<std::string> policy_names() {
    std::vector<std::string> names{all_policies};
    for (const Policy policy : replay::policies())
        names.emplace_back(name(policy));
    return names;
}

/// What `--generate` names.
struct Generated {
    std::string workload; // empty: chats
    std::uint64_t seed = 1;
};

/// Reads NAME, SEED or NAME:SEED.
/// Throws: CLI::ValidationError.
Generated parse_generated(const std::string& text) {
    const std::size_t colon = text.find(':');
    Generated generated{text.substr(0, colon)};
    std::string seed = colon == std::string::npos ? "" : text.substr(colon + 1);
    const auto names = replay::workload_names();
    if (std::find(names.begin(), names.end(), generated.workload) == names.end()) {
        if (colon != std::string::npos) {
            throw CLI::ValidationError(fmt::format("--generate: '{}' is no workload: {}",
                                                   generated.workload, fmt::join(names, ", ")));
        }
        seed = std::exchange(generated.workload, "");
    } else if (colon == std::string::npos) {
        return generated;
    }
    const char* const end = seed.data() + seed.size();
    const auto [stop, error] = std::from_chars(seed.data(), end, generated.seed);
    if (error != std::errc() || stop != end) {
        throw CLI::ValidationError(fmt::format("--generate: '{}' is neither a seed nor one of {}",
                                               seed, fmt::join(names, ", ")));
    }
    return generated;
}

/// Accepts the names of `values`.
template <class T>
CLI::Validator one_of(const std::map<std::string, T>& values) {
    std::vector<std::string> names;
    for (const auto& [name, value] : values)
        names.push_back(name);
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
    CLI::Option* const generated =
        app.add_option("--generate", arguments.generated,
                       fmt::format("Replay made-up chats instead, or one of {}",
                                   fmt::join(replay::workload_names(), ", ")));
    generated->expected(0, 1)->default_str("1")->type_name("[NAME|SEED|NAME:SEED]")->excludes(path);
    app.add_option("--limit", arguments.limit, "Replay the first N requests only")
        ->check(CLI::Range(std::size_t{1}, std::numeric_limits<std::size_t>::max()).description(""))
        ->type_name("N");
}

void declare_cache(CLI::App& app, Arguments& arguments) {
    const std::string group = "Cache";
    app.add_option("--capacity", arguments.capacities,
                   "Blocks (24576), bytes (8GiB) or unlimited; several with commas "
                   "[those of --compare, or by the trace]")
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
    CLI::Option* const policy =
        app.add_option("--policy", arguments.policies,
                       "What decides which state is given up; several with commas [tiered-lru]");
    policy->delimiter(',')
        ->allow_extra_args(false)
        ->check(CLI::IsMember(policy_names()).description(""))
        ->type_name(fmt::format("{}", fmt::join(policy_names(), "|")))
        ->group(group);
    app.add_option("--rules", arguments.rules, "mlx_lm: the same as --policy reference")
        ->check(one_of(rules_names))
        ->excludes(policy)
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
    app.add_option("--ratios", arguments.ratios_path,
                   "Write the hit ratios alone as CSV; - is standard output")
        ->type_name("FILE")
        ->group(group);
    app.add_flag("--guard", arguments.guard,
                 "With --policy reuse: order by recency for a while when it is clearly behind LRU");
    app.add_flag("--curve", arguments.curve,
                 "Show the cache's curve of LRU's hit ratios beside what is measured")
        ->group(group);
    app.add_option("--curve-csv", arguments.curve_path,
                   "Write the curve as CSV; - is standard output")
        ->type_name("FILE")
        ->group(group);
    app.add_flag("--quiet", arguments.quiet, "Neither tables nor progress bar")->group(group);
}

replay::Trace load(const Arguments& arguments) {
    if (arguments.generated.has_value()) {
        const Generated generated = parse_generated(*arguments.generated);
        const std::size_t n_requests = arguments.limit.value_or(generated_requests);
        return generated.workload.empty()
                   ? replay::generate_trace(generated.seed, n_requests)
                   : replay::generate_workload(generated.workload, generated.seed, n_requests);
    }
    return replay::load_trace(arguments.trace_path,
                              arguments.limit.value_or(std::numeric_limits<std::size_t>::max()));
}

/// The policies to replay, in the order of the enum.
std::vector<Policy> policies_from(const Arguments& arguments) {
    if (arguments.policies.empty())
        return {rules_names.at(arguments.rules)};
    const auto is_named = [&arguments](std::string_view text) {
        return std::find(arguments.policies.begin(), arguments.policies.end(), text) !=
               arguments.policies.end();
    };
    std::vector<Policy> chosen;
    for (const Policy policy : replay::policies()) {
        if (is_named(name(policy)) || is_named(all_policies))
            chosen.push_back(policy);
    }
    return chosen;
}

replay::Settings settings_from(const Arguments& arguments) {
    replay::Settings settings;
    settings.payload = payload_names.at(arguments.payload);
    settings.insert = arguments.tiers ? InsertWay::tiers : insert_names.at(arguments.insert);
    settings.block_tokens = arguments.block_tokens;
    settings.sessions = !arguments.no_sessions;
    settings.bytes_per_token = arguments.bytes_per_token;
    settings.max_entries = arguments.max_entries.value_or(settings.max_entries);
    settings.curve = arguments.curve || !arguments.curve_path.empty();
    settings.guard = arguments.guard;
    return settings;
}

std::vector<replay::Capacity> capacities_from(const Arguments& arguments,
                                              const replay::Trace& trace,
                                              const std::vector<replay::Figure>& figures) {
    std::vector<replay::Capacity> capacities;
    for (const std::string& text : arguments.capacities)
        capacities.push_back(replay::parse_capacity(text));
    if (capacities.empty())
        capacities = replay::capacities_of(figures);
    if (!capacities.empty())
        return capacities;
    using enum replay::Capacity::Unit;
    if (const std::uint64_t usual = trace.usual_capacity; usual > 0)
        return {{usual / 2, blocks}, {usual, blocks}, {usual * 2, blocks}};
    const std::uint64_t all = replay::summarize(trace).distinct_blocks;
    return {{all / 8, blocks}, {all / 4, blocks}, {all / 2, blocks}, {}};
}

void write(const std::string& text, const std::string& path) {
    const bool to_stdout = path == "-";
    std::FILE* const file = to_stdout ? stdout : std::fopen(path.c_str(), "wb");
    const bool written = file != nullptr &&
                         std::fwrite(text.data(), 1, text.size(), file) == text.size() &&
                         std::fflush(file) == 0;
    const int error = errno;
    if (file != nullptr && !to_stdout)
        std::fclose(file);
    if (!written)
        throw std::runtime_error(fmt::format("{}: {}", path, std::strerror(error)));
}

/// Replays, one after the other, with a progress bar.
class Replayer {
public:
    Replayer(const replay::Trace& trace, const replay::Settings& settings, bool shows_progress)
        : trace_(trace), settings_(settings), shows_progress_(shows_progress) {}

    replay::Result run(Policy policy, const replay::Capacity& capacity) {
        settings_.policy = policy;
        replay::ProgressBar bar(fmt::format("{} {}", name(policy), to_string(capacity)),
                                trace_.requests.size(), shows_progress_);
        return replay::simulate(trace_, settings_, capacity,
                                [&bar](std::size_t done) { bar.update(done); });
    }

private:
    const replay::Trace& trace_;
    replay::Settings settings_;
    bool shows_progress_;
};

/// LRU and the policy of each curve, replayed at the budgets of its points.
std::vector<replay::Result> measure_curves(Replayer& replayer,
                                           const std::vector<replay::Result>& results) {
    std::vector<replay::Result> measured;
    for (const replay::Result& result : results) {
        for (const replay::CurvePoint& point : result.curve) {
            const replay::Capacity budget{point.bytes, replay::Capacity::Unit::bytes};
            for (const Policy policy : {Policy::lru, result.policy}) {
                const bool known =
                    std::any_of(measured.begin(), measured.end(), [&](const replay::Result& other) {
                        return other.policy == policy && other.capacity == budget;
                    });
                if (!known)
                    measured.push_back(replayer.run(policy, budget));
            }
        }
    }
    return measured;
}

void run(const Arguments& arguments) {
    const replay::Trace trace = load(arguments);
    const replay::Settings settings = settings_from(arguments);
    std::vector<replay::Figure> figures;
    if (!arguments.figures_path.empty())
        figures = replay::read_figures(arguments.figures_path, trace.name);
    Replayer replayer(trace, settings, !arguments.quiet);
    std::vector<replay::Result> results;
    for (const replay::Capacity& capacity : capacities_from(arguments, trace, figures)) {
        for (const Policy policy : policies_from(arguments))
            results.push_back(replayer.run(policy, capacity));
    }
    const replay::Report report{trace, settings, results, figures};
    if (!arguments.quiet)
        write(replay::format_table(report), "-");
    if (!arguments.csv_path.empty())
        write(replay::format_csv(report), arguments.csv_path);
    if (!arguments.json_path.empty())
        write(replay::format_json(report), arguments.json_path);
    if (!arguments.ratios_path.empty())
        write(replay::format_ratios(report), arguments.ratios_path);
    if (!arguments.curve && arguments.curve_path.empty())
        return;
    const std::vector<replay::Result> measured = measure_curves(replayer, results);
    if (!arguments.quiet) {
        write(measured.empty() ? "\nno policy here has a curve of hit ratios\n"
                               : '\n' + replay::format_curve_table(report, measured),
              "-");
    }
    if (!arguments.curve_path.empty())
        write(replay::format_curve_csv(report, measured), arguments.curve_path);
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
        if (arguments.trace_path.empty() && !arguments.generated.has_value())
            throw CLI::RequiredError("a trace or --generate");
        if (arguments.generated.has_value())
            (void)parse_generated(*arguments.generated); // a wrong one is a wrong option
    } catch (const CLI::ParseError& error) {
        if (error.get_exit_code() == exit_success)
            return app.exit(error); // --help
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
