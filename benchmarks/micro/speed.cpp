// SPDX-License-Identifier: MIT
// Each operation against its own bound, measured in turn, in one process.
//
// usage: promptkv_speed [--quick] [--folder=FOLDER] [PART_OF_A_NAME...]
// Writes FOLDER/micro.csv and FOLDER/targets-micro.csv, of the cases FAMILY/SERIES/x whose name has one of
// the parts, or of all cases.
#include "interleave.hpp"

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iomanip>
#include <malloc.h>
#include <string>
#include <string_view>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

namespace {

void set_up() {
    // An engine has threads. Before the first thread starts, shared pointers count without atomics.
    std::thread([] {}).join();
    // Freed memory stays with the allocator. Otherwise the kernel's page faults would be timed.
    mallopt(M_MMAP_THRESHOLD, 1 << 30);
    mallopt(M_TRIM_THRESHOLD, 1 << 30);
    // A small chunk is joined with its neighbours when it is freed. Otherwise some later, larger one pays.
    mallopt(M_MXFAST, 0);
}

/// Measures a case and appends its rows.
void measure(const bench::Case& what, const std::string& name, bench::Run run,
             const std::string& folder) {
    what.measure(run);
    const bench::Target& result = run.result;
    std::ofstream csv(folder + "/micro.csv", std::ios::app);
    csv << std::setprecision(4) << what.family << ',' << what.series << ',' << what.x << ','
        << result.measured << ',' << run.low << ',' << run.high << ',' << run.bound << ','
        << result.allowed << ',' << result.ratio << ',' << result.low << ',' << result.high << '\n';
    if (!result.name.empty())
        std::ofstream(folder + "/targets-micro.csv", std::ios::app) << result;
    std::printf("%-48s %12.1f ns %12.1f bound %8.2f of what is allowed (%.2f to %.2f)\n",
                name.c_str(), result.measured, run.bound, result.ratio, result.low, result.high);
}

/// The same in a process of its own: each case finds a fresh heap. Returns whether it succeeded.
bool measure_apart(const bench::Case& what, const std::string& name, const bench::Run& run,
                   const std::string& folder) {
    std::fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        set_up();
        measure(what, name, run, folder);
        std::fflush(stdout);
        _exit(EXIT_SUCCESS);
    }
    int status = 0;
    return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) &&
           WEXITSTATUS(status) == EXIT_SUCCESS;
}

bool is_wanted(const std::string& name, const std::vector<std::string>& parts) {
    for (const std::string& part : parts) {
        if (name.find(part) != std::string::npos)
            return true;
    }
    return parts.empty();
}

} // namespace

int main(int argc, char** argv) {
    bench::Run run{.pairs = 1'500, .quick = false};
    std::string folder = ".";
    std::vector<std::string> parts;
    for (int i = 1; i < argc; ++i) {
        const std::string_view argument = argv[i];
        constexpr std::string_view folder_option = "--folder=";
        if (argument == "--quick") {
            run = {.pairs = 100, .quick = true};
        } else if (argument.starts_with(folder_option)) {
            folder = argument.substr(folder_option.size());
        } else if (argument.starts_with("--")) {
            std::fprintf(stderr, "unknown option: %s\n", argv[i]);
            return EXIT_FAILURE;
        } else {
            parts.emplace_back(argument);
        }
    }
    bench::Cases cases;
    bench::add_lookups(cases);
    bench::add_inserts(cases);
    bench::add_evictions(cases);
    bench::add_longer(cases);
    bench::add_reuse(cases);
    std::ofstream(folder + "/micro.csv") << "family,series,x,ns,ns_p10,ns_p90,bound_ns,allowed_ns,"
                                            "of_allowed,of_allowed_p10,of_allowed_p90\n";
    std::ofstream(folder + "/targets-micro.csv").flush(); // empties it
    for (const bench::Case& what : cases) {
        const std::string name = what.family + '/' + what.series + '/' + std::to_string(what.x);
        if (is_wanted(name, parts) && !measure_apart(what, name, run, folder))
            return EXIT_FAILURE;
    }
    return EXIT_SUCCESS;
}
