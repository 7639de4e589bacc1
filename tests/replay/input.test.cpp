// SPDX-License-Identifier: MIT
// LineReader: lines of plain and of packed files, in bounded memory.

#include "replay/input.hpp"

#include "catch.hpp"
#include "temporary_file.hpp"

#include <array>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using replay::LineReader;
using replay_test::TemporaryFile;
using Lines = std::vector<std::string>;

/// "two words\n" as xz writes it.
std::string packed() {
    constexpr std::array<unsigned char, 64> bytes{
        0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00, 0x00, 0x01, 0x69, 0x22, 0xde, 0x36, 0x02,
        0x00, 0x21, 0x01, 0x1c, 0x00, 0x00, 0x00, 0x10, 0xcf, 0x58, 0xcc, 0x01, 0x00,
        0x09, 0x74, 0x77, 0x6f, 0x20, 0x77, 0x6f, 0x72, 0x64, 0x73, 0x0a, 0x00, 0x00,
        0x00, 0x26, 0x7d, 0xf6, 0x29, 0x00, 0x01, 0x1e, 0x0a, 0xea, 0x63, 0x12, 0x14,
        0x90, 0x42, 0x99, 0x0d, 0x01, 0x00, 0x00, 0x00, 0x00, 0x01, 0x59, 0x5a};
    return {bytes.begin(), bytes.end()};
}

Lines lines_of(const std::string& content) {
    const TemporaryFile file(content);
    LineReader reader(file.name());
    Lines lines;
    for (std::string line = "overwritten"; reader.next(line);)
        lines.push_back(line);
    return lines;
}

/// The message of the std::runtime_error, without the name of the file.
std::string problem_of(const std::string& content) {
    const TemporaryFile file(content);
    try {
        LineReader reader(file.name());
        for (std::string line; reader.next(line);) {
        }
    } catch (const std::runtime_error& error) {
        const std::string message = error.what();
        REQUIRE(message.starts_with(file.name() + ": "));
        return message.substr(file.name().size() + 2);
    }
    return "nothing";
}

TEST_CASE("LineReader ends lines at LF and CRLF, and the last one at the end of the file") {
    REQUIRE(lines_of("").empty());
    REQUIRE(lines_of("a") == Lines{"a"});
    REQUIRE(lines_of("a\n") == Lines{"a"});
    REQUIRE(lines_of("a\r\nb\r\n") == Lines{"a", "b"});
    REQUIRE(lines_of("\n\r\na\rb\n\r") == Lines{"", "", "a\rb", ""});
}

TEST_CASE("LineReader joins lines that are longer than its buffers") {
    const std::string longer(200'000, 'x');
    REQUIRE(lines_of(longer + "\n" + longer + "y") == Lines{longer, longer + "y"});
}

TEST_CASE("LineReader unpacks one xz stream and several in a row") {
    REQUIRE(lines_of(packed()) == Lines{"two words"});
    REQUIRE(lines_of(packed() + packed()) == Lines{"two words", "two words"});
    REQUIRE(lines_of(packed().substr(0, 5)) == Lines{packed().substr(0, 5)}); // no xz file
}

TEST_CASE("LineReader refuses a damaged xz file") {
    std::string flipped = packed();
    flipped[30] ^= 1;
    REQUIRE(problem_of(flipped) == "the xz file is damaged");
    REQUIRE(problem_of(packed() + "what is this doing here?") == "the xz file is damaged");
    REQUIRE(problem_of(packed().substr(0, 40)) == "the xz file ends early");
}

TEST_CASE("LineReader names the file that it cannot read") {
    try {
        LineReader reader("no/such/file");
        FAIL("a file that is not there was opened");
    } catch (const std::runtime_error& error) {
        REQUIRE(std::string(error.what()) == "no/such/file: No such file or directory");
    }
    REQUIRE_THROWS_AS(LineReader("."), std::runtime_error);
}

TEST_CASE("load_trace reads a file with CRLF as one with LF") {
    const TemporaryFile file("#ptrace1 {\"name\": \"small\", \"block_size\": 1}\r\n"
                             "0\ts\t4\t0\t1\tr\t1:4\r\n"
                             "\r\n"
                             "0\ts\t2\t1\t0\tr\t1:2\t7:1\r\n");
    const replay::Trace trace = replay::load_trace(file.name());
    REQUIRE(trace.name == "small");
    REQUIRE(trace.requests.size() == 2);
    REQUIRE(trace.ranges == std::vector<replay::Range>{{1, 4}, {1, 2}, {7, 1}});
}

TEST_CASE("load_trace names the line that it cannot parse") {
    const TemporaryFile file("\n\n[]\n");
    try {
        (void)replay::load_trace(file.name());
        FAIL("an array was read");
    } catch (const replay::TraceError& error) {
        REQUIRE(std::string(error.what()) == file.name() + ":3: not a JSON object");
    }
}

} // namespace
