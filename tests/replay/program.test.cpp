// SPDX-License-Identifier: MIT
// promptkv_replay: its options, what it writes where, and how it ends.

#include "catch.hpp"

#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <sys/wait.h>
#include <unistd.h>

namespace {

const std::string small_trace = "#ptrace1 {\"name\": \"small\", \"block_size\": 1}\n"
                                "0\ts\t4\t0\t1\tr\t1:4\n"
                                "0\ts\t6\t0\t1\tr\t1:6\n";

struct Run {
    int status;
    std::string output; // standard output and standard error
};

/// Runs promptkv_replay in a shell.
Run replay(const std::string& arguments) {
    const std::string command = "\"" PROMPTKV_REPLAY "\" " + arguments + " 2>&1";
    std::FILE* const pipe = popen(command.c_str(), "r");
    REQUIRE(pipe != nullptr);
    std::string output;
    std::array<char, 4096> chunk{};
    while (const std::size_t count = std::fread(chunk.data(), 1, chunk.size(), pipe)) {
        output.append(chunk.data(), count);
    }
    const int status = pclose(pipe);
    REQUIRE(WIFEXITED(status));
    return {WEXITSTATUS(status), output};
}

/// A file in the temporary directory, removed at the end.
class TemporaryFile {
public:
    explicit TemporaryFile(const std::string& content = "")
        : path_(std::filesystem::temp_directory_path() /
                ("promptkv-replay-" + std::to_string(getpid()) + "-" + std::to_string(count_++))) {
        std::ofstream(path_) << content;
    }
    ~TemporaryFile() { std::filesystem::remove(path_); }

    TemporaryFile(const TemporaryFile&) = delete;
    TemporaryFile& operator=(const TemporaryFile&) = delete;

    [[nodiscard]] std::string name() const { return path_.string(); }
    [[nodiscard]] std::string read() const {
        std::ifstream file(path_);
        return {std::istreambuf_iterator<char>(file), {}};
    }

private:
    static inline int count_ = 0;
    std::filesystem::path path_;
};

bool contains(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

TEST_CASE("promptkv_replay explains itself") {
    const Run run = replay("--help");
    REQUIRE(run.status == 0);
    for (const char* option :
         {"--capacity", "--payload", "--tiers", "--policy", "--granularity", "--bytes-per-token",
          "--max-entries", "--no-anchors", "--no-supersede", "--no-refresh", "--limit",
          "--generate", "--csv", "--json", "--quiet"}) {
        CAPTURE(option);
        REQUIRE(contains(run.output, option));
    }
}

TEST_CASE("promptkv_replay prints a row a capacity, and no progress where nobody watches") {
    const TemporaryFile trace(small_trace);
    const Run run = replay(trace.name() + " --capacity 8,2KiB --capacity unlimited "
                                          "--bytes-per-token 1024");
    REQUIRE(run.status == 0);
    REQUIRE(run.output.starts_with("small: 2 requests, 10 tokens in blocks of 1; 6 distinct"));
    REQUIRE(contains(run.output, "\n        8    0.40000  "));
    REQUIRE(contains(run.output, "\n     2KiB    0.00000  "));
    REQUIRE(contains(run.output, "\nunlimited    0.40000  "));
    REQUIRE_FALSE(contains(run.output, "\r"));
}

TEST_CASE("promptkv_replay chooses capacities where none are given") {
    const TemporaryFile trace(small_trace);
    const Run run = replay(trace.name() + " --quiet --csv -");
    REQUIRE(run.status == 0);
    REQUIRE(contains(run.output, ",0,0,0.000000,")); // 6 / 8, 6 / 4, 6 / 2
    REQUIRE(contains(run.output, ",1,131072,0.000000,"));
    REQUIRE(contains(run.output, ",3,393216,0.000000,"));
    REQUIRE(contains(run.output, ",,,0.400000,"));
}

TEST_CASE("promptkv_replay reads standard input") {
    const TemporaryFile trace(small_trace);
    const Run run = replay("- --capacity 8 < " + trace.name());
    REQUIRE(run.status == 0);
    REQUIRE(contains(run.output, "\n       8    0.40000  "));
}

TEST_CASE("promptkv_replay generates a trace") {
    const std::string options = " --limit 200 --capacity 20000 --quiet --csv -";
    const Run standard = replay("--generate" + options);
    const Run seeded = replay("--generate=7" + options);
    REQUIRE(standard.status == 0);
    REQUIRE(contains(standard.output, "generated-1,"));
    REQUIRE(seeded.status == 0);
    REQUIRE(contains(seeded.output, "generated-7,"));
}

TEST_CASE("promptkv_replay passes its options on") {
    const TemporaryFile trace(small_trace);
    const Run run = replay(trace.name() + " --quiet --csv - --capacity 8 --payload whole --tiers "
                                          "--max-entries 9 --granularity 3 --no-anchors "
                                          "--no-supersede --no-refresh --bytes-per-token 2");
    REQUIRE(run.status == 0);
    REQUIRE(contains(run.output, "\nsmall,whole,true,2,9,3,false,false,false,8,16,"));
    const Run reference = replay(trace.name() + " --quiet --csv - --capacity 8 --policy reference");
    REQUIRE(contains(reference.output, "\nsmall,cuttable,false,131072,,0,false,false,false,8,"));
}

TEST_CASE("promptkv_replay writes CSV and JSON files, and nothing else when quiet") {
    const TemporaryFile trace(small_trace);
    const TemporaryFile csv;
    const TemporaryFile json;
    const Run run =
        replay(trace.name() + " --quiet --csv " + csv.name() + " --json " + json.name());
    REQUIRE(run.status == 0);
    REQUIRE(run.output.empty());
    REQUIRE(csv.read().starts_with("trace,payload,"));
    REQUIRE(json.read().starts_with("{\n  \"trace\""));
}

TEST_CASE("promptkv_replay ends with 2 at a malformed line and names it") {
    const TemporaryFile trace(small_trace + "oops\n");
    const Run run = replay(trace.name());
    REQUIRE(run.status == 2);
    REQUIRE(run.output == trace.name() + ":4: 1 columns where 7 or 8 are due\n");
    const Run from_stdin = replay("- < " + trace.name());
    REQUIRE(from_stdin.status == 2);
    REQUIRE(from_stdin.output == "<stdin>:4: 1 columns where 7 or 8 are due\n");
}

TEST_CASE("promptkv_replay ends with 1 at any other failure") {
    const TemporaryFile trace(small_trace);
    const std::string arguments =
        GENERATE("", "no-such-file", "--no-such-option", "TRACE --capacity 8gib",
                 "TRACE --payload soft", "TRACE --limit 0", "TRACE --generate", "--generate=x",
                 "TRACE --bytes-per-token 0", "TRACE --quiet --csv no-such-folder/file");
    CAPTURE(arguments);
    std::string completed = arguments;
    if (completed.starts_with("TRACE")) {
        completed.replace(0, 5, trace.name());
    }
    const Run run = replay(completed);
    REQUIRE(run.status == 1);
    REQUIRE_FALSE(run.output.empty());
}

} // namespace
