// SPDX-License-Identifier: MIT
// Every operation against its own bound: ratios that are measured in turn, in one process.
//
// usage: promptkv_speed [--quick] [--folder=FOLDER] [Google Benchmark's options]
// Writes FOLDER/micro.csv and FOLDER/targets-micro.csv.
#include "interleave.hpp"

#include <benchmark/benchmark.h>

#include <cstdlib>
#include <fstream>
#include <malloc.h>
#include <string>
#include <string_view>
#include <vector>

namespace {

/// Prints as usual, and keeps all for the CSV files.
class CsvReporter final : public benchmark::ConsoleReporter {
public:
    explicit CsvReporter(const std::string& folder)
        : ConsoleReporter(OO_Tabular), csv_(folder + "/micro.csv"),
          targets_(folder + "/targets-micro.csv") {
        csv_ << "family,series,x";
        for (const char* column : columns) {
            csv_ << ',' << column;
        }
        csv_ << '\n';
    }

    void ReportRuns(const std::vector<Run>& runs) override {
        for (const Run& run : runs) {
            std::string name = run.run_name.function_name; // FAMILY/SERIES/x
            const std::size_t series = name.find('/');
            const std::size_t x = name.rfind('/');
            csv_ << name.substr(0, series) << ',' << name.substr(series + 1, x - series - 1) << ','
                 << name.substr(x + 1);
            for (const char* column : columns) {
                csv_ << ',' << run.counters.at(column).value;
            }
            csv_ << std::endl;
            targets_ << run.report_label << std::flush; // empty, or a row
        }
        ConsoleReporter::ReportRuns(runs);
    }

private:
    static constexpr const char* columns[] = {
        "ns",        "ns_p10",     "ns_p90",     "bound_ns",       "ratio",         "ratio_p10",
        "ratio_p90", "allowed_ns", "of_allowed", "of_allowed_p10", "of_allowed_p90"};

    std::ofstream csv_;
    std::ofstream targets_;
};

} // namespace

int main(int argc, char** argv) {
    bench::Effort effort;
    std::string folder = ".";
    std::vector<char*> others;
    for (int i = 0; i < argc; ++i) {
        const std::string_view argument = argv[i];
        constexpr std::string_view folder_option = "--folder=";
        if (argument == "--quick") {
            effort = {.pairs = 100, .quick = true};
        } else if (argument.starts_with(folder_option)) {
            folder = argument.substr(folder_option.size());
        } else {
            others.push_back(argv[i]);
        }
    }
    // Large blocks stay with the allocator: or else operations and bounds alike are timed by how the
    // kernel hands out pages, which depends on what was freed before.
    mallopt(M_MMAP_THRESHOLD, 1 << 30);
    mallopt(M_TRIM_THRESHOLD, 1 << 30);
    int count = static_cast<int>(others.size());
    benchmark::Initialize(&count, others.data());
    if (benchmark::ReportUnrecognizedArguments(count, others.data())) {
        return EXIT_FAILURE;
    }
    bench::add_lookups(effort);
    bench::add_inserts(effort);
    bench::add_evictions(effort);
    bench::add_longer(effort);
    CsvReporter reporter(folder);
    benchmark::RunSpecifiedBenchmarks(&reporter);
    return EXIT_SUCCESS;
}
