// SPDX-License-Identifier: MIT
// promptkv_replay: its options, what it writes where, and how it ends.

#include "replay/caches.hpp"

#include "catch.hpp"
#include "temporary_file.hpp"

#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <sys/resource.h>
#include <sys/wait.h>

namespace {

using replay_test::TemporaryFile;

const std::string small_trace = "#ptrace1 {\"name\": \"small\", \"block_size\": 1}\n"
                                "0\ts\t4\t0\t1\tr\t1:4\n"
                                "0\ts\t6\t0\t1\tr\t1:6\n";

struct Run {
    int status;
    std::string output; // standard output and standard error
};

Run shell(const std::string& command) {
    std::FILE* const pipe = popen((command + " 2>&1").c_str(), "r");
    REQUIRE(pipe != nullptr);
    std::string output;
    std::array<char, 4096> chunk{};
    while (const std::size_t count = std::fread(chunk.data(), 1, chunk.size(), pipe))
        output.append(chunk.data(), count);
    const int status = pclose(pipe);
    REQUIRE(WIFEXITED(status));
    return {WEXITSTATUS(status), output};
}

Run replay(const std::string& arguments) {
    return shell("\"" PROMPTKV_REPLAY "\" " + arguments);
}

bool contains(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

TEST_CASE("promptkv_replay explains itself") {
    const Run run = replay("--help");
    REQUIRE(run.status == 0);
    for (const char* option :
         {"--capacity", "--payload", "--block-tokens", "--insert", "--tiers", "--no-sessions",
          "--policy", "--rules", "--bytes-per-token", "--max-entries", "--limit", "--generate",
          "--compare", "--csv", "--json", "--ratios", "--curve", "--curve-csv", "--quiet"}) {
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
    REQUIRE(contains(run.output, "\n     2KiB    0.10000  ")); // half of the room holds one block
    REQUIRE(contains(run.output, "\nunlimited    0.40000  "));
    REQUIRE_FALSE(contains(run.output, "\r"));
}

TEST_CASE("promptkv_replay chooses capacities where none are given") {
    const TemporaryFile trace(small_trace);
    const Run run = replay(trace.name() + " --quiet --csv -");
    REQUIRE(run.status == 0);
    REQUIRE(contains(run.output, ",0,0,0.000000,")); // 6 / 8, 6 / 4, 6 / 2
    REQUIRE(contains(run.output, ",1,131072,0.000000,"));
    REQUIRE(contains(run.output, ",3,393216,0.100000,"));
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

TEST_CASE("promptkv_replay generates workloads that drift") {
    const std::string options = " --limit 100 --policy lru --quiet --ratios -";
    const std::string heading = "trace,capacity_blocks,policy,token_hit_ratio\n";
    const Run run = replay("--generate flood" + options);
    REQUIRE(run.status == 0);
    REQUIRE(run.output.starts_with(heading + "flood-1,50000,lru,"));
    REQUIRE(contains(run.output, "\nflood-1,100000,lru,"));
    REQUIRE(contains(run.output, "\nflood-1,200000,lru,"));
    const Run seeded = replay("--generate=phases:7 --capacity 9" + options);
    REQUIRE(seeded.output.starts_with(heading + "phases-7,9,lru,"));
}

TEST_CASE("promptkv_replay replays several policies side by side") {
    const TemporaryFile trace(small_trace);
    const std::string common = trace.name() + " --capacity 8 ";
    const Run run = replay(common + "--policy optimum,lru --policy tiered-lru");
    REQUIRE(run.status == 0);
    REQUIRE(contains(run.output, "\nhit ratio  tiered-lru      lru  optimum\n"));
    REQUIRE(contains(run.output, "\n        8     0.40000  0.40000  0.40000\n"));
    const Run all = replay(common + "--policy all --quiet --ratios -");
    for (const char* policy : {"tiered-lru", "reference", "lru", "optimum"}) {
        CAPTURE(policy);
        REQUIRE(contains(all.output, std::string("\nsmall,8,") + policy + ",0.40000\n"));
    }
    const bool has_reuse = contains(all.output, "\nsmall,8,reuse,");
    REQUIRE(replay(common + "--policy reuse").status == (has_reuse ? 0 : 1));
}

TEST_CASE("promptkv_replay shows the curve of a cache that has one") {
    const TemporaryFile trace(small_trace);
    const std::string common = trace.name() + " --capacity 8 --curve ";
    const Run none = replay(common + "--policy lru --curve-csv -");
    REQUIRE(none.status == 0);
    REQUIRE(contains(none.output, "\nno policy here has a curve of hit ratios\n"));
    REQUIRE(
        none.output.ends_with("trace,policy,capacity_blocks,budget_bytes,curve,lru,measured\n"));
    if (replay::has_hit_ratio_curve()) {
        const Run run = replay(common + "--policy reuse");
        REQUIRE(run.status == 0);
        REQUIRE(contains(run.output, "\npolicy  capacity "));
        REQUIRE(contains(run.output, "\n reuse         8 "));
    }
}

TEST_CASE("compare_policies writes the ratios of all policies and draws them") {
    const TemporaryFile results;
    std::filesystem::remove(results.name());
    const Run run = shell("\"" PROMPTKV_COMPARE_POLICIES "\" \"" PROMPTKV_REPLAY "\" \"" +
                          results.name() + "\" \"\" --limit 40");
    CAPTURE(run.output);
    REQUIRE(run.status == 0);
    REQUIRE(contains(run.output, "tiered-lru"));
    std::ifstream file(results.name() + "/policies.csv");
    const std::string ratios{std::istreambuf_iterator<char>(file), {}};
    for (const char* row : {"flood-1,100000,optimum,", "phases-1,100000,tiered-lru,"}) {
        CAPTURE(row, ratios);
        REQUIRE(contains(ratios, row));
    }
    if (contains(run.output, "no plots"))
        WARN("skipped: there is no gnuplot");
    else
        REQUIRE(std::filesystem::file_size(results.name() + "/policies.svg") > 1'000);
    std::filesystem::remove_all(results.name());
}

TEST_CASE("promptkv_replay passes its options on") {
    const TemporaryFile trace(small_trace);
    const std::string common = trace.name() + " --quiet --csv - --capacity 8 ";
    const Run run = replay(common + "--payload whole --tiers --max-entries 9 --bytes-per-token 2");
    REQUIRE(run.status == 0);
    REQUIRE(contains(run.output, "\nsmall,tiers,false,2,9,tiered-lru,whole,1,8,16,"));
    const Run reference = replay(common + "--rules mlx_lm --payload prefix");
    REQUIRE(contains(reference.output, "\nsmall,prompt,false,131072,,reference,prefix,1,8,"));
    const Run server = replay(common + "--insert server --block-tokens 3");
    REQUIRE(contains(server.output, "\nsmall,server,true,131072,,tiered-lru,blocks,3,8,"));
    const Run anonymous = replay(common + "--insert server --no-sessions");
    REQUIRE(contains(anonymous.output, "\nsmall,server,false,131072,,tiered-lru,blocks,1,8,"));
}

TEST_CASE("promptkv_replay replays at the capacities of the figures to compare with") {
    const TemporaryFile trace(small_trace);
    const TemporaryFile figures("trace,capacity_blocks,policy,token_hit_ratio\n"
                                "other,7,block_lru,0.1\n"
                                "small,8,block_lru,0.2\n"
                                "small,8,optimal,0.5\n"
                                "small,unlimited,any,0.4\n");
    const Run run = replay(trace.name() + " --compare " + figures.name());
    REQUIRE(run.status == 0);
    REQUIRE(contains(run.output, "\n        8    0.40000    0.20000    +0.20000  0.50000  "));
    REQUIRE(contains(run.output, "\nunlimited    0.40000    0.40000    +0.00000  0.40000  "));
    REQUIRE_FALSE(contains(run.output, "\n        7"));

    const TemporaryFile broken("headings\nsmall,8\n");
    const Run refused = replay(trace.name() + " --compare " + broken.name());
    REQUIRE(refused.status == 2);
    REQUIRE(refused.output == broken.name() + ":1: not 4 columns\n");
    const TemporaryFile empty("trace,capacity_blocks,policy,token_hit_ratio\n");
    const Run missing = replay(trace.name() + " --compare " + empty.name());
    REQUIRE(missing.status == 1);
    REQUIRE(contains(missing.output, ": no figure of a trace 'small'"));
}

TEST_CASE("promptkv_replay writes CSV and JSON files, and nothing else when quiet") {
    const TemporaryFile trace(small_trace);
    const TemporaryFile csv;
    const TemporaryFile json;
    const Run run =
        replay(trace.name() + " --quiet --csv " + csv.name() + " --json " + json.name());
    REQUIRE(run.status == 0);
    REQUIRE(run.output.empty());
    REQUIRE(csv.read().starts_with("trace,insert,sessions,"));
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
                 "TRACE --payload soft", "TRACE --insert none", "TRACE --insert server --tiers",
                 "TRACE --rules none", "TRACE --policy none", "TRACE --policy lru --rules mlx_lm",
                 "--generate=drought:1", "--generate=flood:x", "TRACE --block-tokens 0",
                 "TRACE --limit 0", "TRACE --generate", "--generate=x", "TRACE --bytes-per-token 0",
                 "TRACE --compare no-such-file", "TRACE --quiet --csv no-such-folder/file");
    CAPTURE(arguments);
    std::string completed = arguments;
    if (completed.starts_with("TRACE"))
        completed.replace(0, 5, trace.name());
    const Run run = replay(completed);
    REQUIRE(run.status == 1);
    REQUIRE_FALSE(run.output.empty());
}

// input that means harm //////////////////////////////////////////////////////

/// KiB of the largest process that was waited for so far.
long largest_child_kib() {
    struct rusage usage {};
    REQUIRE(getrusage(RUSAGE_CHILDREN, &usage) == 0);
    return usage.ru_maxrss; // in KiB on Linux
}

TEST_CASE("promptkv_replay refuses a file without line breaks, however long, in bounded memory") {
    if (!std::filesystem::exists("/dev/zero")) {
        WARN("skipped: there is no /dev/zero");
        return;
    }
    const Run run = replay("/dev/zero");
    REQUIRE(run.status == 2);
    REQUIRE(run.output == "/dev/zero:1: a line of more than 67108864 bytes\n");
    REQUIRE(largest_child_kib() < 1024 * 1024);
}

TEST_CASE("promptkv_replay refuses numbers that are beyond reason, in bounded memory") {
    const auto [text, problem] = GENERATE(table<std::string, std::string>({
        {"#ptrace1 {\"block_size\": 9223372036854775808}\n0\ts\t1\t0\t0\tr\t1:1\n",
         ":1: \"block_size\" is larger than 1048576\n"},
        {"#ptrace1 {\"block_size\": 1}\n0\ts\t6000000000\t0\t0\tr\t1:6000000000\n",
         ":2: more than 4194304 block ids in a prompt\n"},
        {"{\"input_length\": 9223372036854775808, \"hash_ids\": [1]}\n",
         ":1: 1 block ids for 9223372036854775808 tokens in blocks of 512: 18014398509481984 are "
         "due\n"},
    }));
    const TemporaryFile trace(text);
    const Run run = replay(trace.name());
    REQUIRE(run.status == 2);
    REQUIRE(run.output == trace.name() + problem);
    REQUIRE(largest_child_kib() < 1024 * 1024);
}

TEST_CASE("promptkv_replay refuses bytes that cannot be counted") {
    std::string text = "#ptrace1 {\"name\": \"large\", \"block_size\": 1048576}\n";
    for (int i = 0; i < 2048; ++i)
        text += "0\ts\t1048576\t0\t0\tr\t1:1\n";
    const TemporaryFile trace(text);
    const Run run = replay(trace.name() + " --bytes-per-token 1073741824");
    REQUIRE(run.status == 1);
    REQUIRE(run.output == "promptkv_replay: large: 4096 blocks of 1125899906842624 bytes are too "
                          "many bytes to count; take fewer bytes a token\n");
}

TEST_CASE("promptkv_replay refuses JSON that is nested 120,000 deep") {
    const std::string deep = std::string(120'000, '[') + std::string(120'000, ']');
    const TemporaryFile trace("{\"input_length\": 3, \"hash_ids\": " + deep + "}\n");
    const Run run = replay(trace.name());
    REQUIRE(run.status == 2);
    REQUIRE(run.output == trace.name() + ":1: JSON of more than 16 levels\n");
}

TEST_CASE("promptkv_replay reads lines that end with CRLF") {
    std::string text = small_trace;
    for (std::size_t at = 0; (at = text.find('\n', at)) != std::string::npos; at += 2)
        text.insert(at, 1, '\r');
    const TemporaryFile trace(text);
    const Run run = replay(trace.name() + " --capacity 8");
    REQUIRE(run.status == 0);
    REQUIRE(contains(run.output, "\n       8    0.40000  "));
}

TEST_CASE("promptkv_replay shows names without the control characters in them") {
    const std::string unnamed = "#ptrace1 {\"block_size\": 1}\n0\ts\t1\t0\t0\tr\t1:1\n";
    const TemporaryFile good(unnamed, "\x1b[31m\xff");
    const Run run = replay("'" + good.name() + "' --capacity 8 --csv - --json -");
    REQUIRE(run.status == 0);
    REQUIRE(contains(run.output, "\\x1b[31m\\xff: 1 requests, "));
    REQUIRE(contains(run.output, "\\x1b[31m\\xff,prompt,"));
    REQUIRE_FALSE(contains(run.output, "\x1b"));
    REQUIRE_FALSE(contains(run.output, "\xff"));

    const TemporaryFile bad(unnamed + "\x1b[31m\n", "\x1b[31m\xff");
    const Run refused = replay("'" + bad.name() + "'");
    REQUIRE(refused.status == 2);
    REQUIRE(contains(refused.output, "\\x1b[31m\\xff:3: 1 columns"));
    REQUIRE_FALSE(contains(refused.output, "\x1b"));

    const Run absent = replay("'no\x1b[31m\xff'");
    REQUIRE(absent.status == 1);
    REQUIRE(absent.output == "promptkv_replay: no\\x1b[31m\\xff: No such file or directory\n");
    const Run option = replay("'--no\x1b[31m'");
    REQUIRE(option.status == 1);
    REQUIRE_FALSE(contains(option.output, "\x1b"));
}

} // namespace
