// SPDX-License-Identifier: MIT
// LineReader, load_trace: the lines of a file or of standard input, unpacked where the file is xz.
#ifndef PROMPTKV_REPLAY_INPUT_HPP
#define PROMPTKV_REPLAY_INPUT_HPP

#include "trace.hpp"

#include <cstddef>
#include <limits>
#include <memory>
#include <string>

namespace replay {

/// Reads a file line by line, and unpacks it if it is xz (told by its first bytes, not by its name).
/// Holds a line and two buffers, however long the file is.
class LineReader {
public:
    /// A longer line is refused: a file without line breaks would fill the memory.
    static constexpr std::size_t max_line_bytes = std::size_t{64} << 20U;

    /// Opens the file at `path`, or standard input if `path` is "-".
    /// Throws: std::runtime_error naming the file.
    explicit LineReader(const std::string& path);
    ~LineReader();

    LineReader(const LineReader&) = delete;
    LineReader& operator=(const LineReader&) = delete;

    /// Replaces `line` by the next line, without its line break (LF or CRLF).
    /// Returns: false at the end of the file.
    /// Throws: std::runtime_error naming the file when it cannot be read or unpacked;
    ///         std::invalid_argument when the line is too long.
    [[nodiscard]] bool next(std::string& line);

private:
    class Bytes;
    std::unique_ptr<Bytes> bytes_;
};

/// Reads at most `limit` requests of the trace at `path`; "-" is standard input.
/// Throws: as LineReader and parse_trace.
[[nodiscard]] Trace load_trace(const std::string& path,
                               std::size_t limit = std::numeric_limits<std::size_t>::max());

} // namespace replay

#endif
