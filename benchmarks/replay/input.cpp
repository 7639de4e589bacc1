// SPDX-License-Identifier: MIT
// LineReader: files, standard input, and liblzma.
#include "input.hpp"

#include <fmt/format.h>
#include <lzma.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string_view>
#include <utility>
#include <vector>

namespace replay {
namespace {

constexpr std::size_t chunk_bytes = std::size_t{1} << 16U;
constexpr std::uint64_t max_xz_memory = std::uint64_t{256} << 20U; // xz -9 needs 65 MiB

struct CloseFile {
    void operator()(std::FILE* file) const noexcept {
        if (file != stdin)
            std::fclose(file);
    }
};

bool is_xz(std::string_view bytes) noexcept {
    using namespace std::string_view_literals;
    return bytes.starts_with("\xFD\x37zXZ\0"sv);
}

std::string problem_of(lzma_ret code) {
    switch (code) {
    case LZMA_MEM_ERROR:
    case LZMA_MEMLIMIT_ERROR:
        return "too much memory is needed to unpack it";
    case LZMA_OPTIONS_ERROR:
        return "the xz file uses a filter that is not supported";
    case LZMA_BUF_ERROR:
        return "the xz file ends early";
    default:
        return "the xz file is damaged";
    }
}

} // namespace

/// The content of the file, chunk by chunk.
class LineReader::Bytes {
public:
    explicit Bytes(const std::string& path)
        : name_(path == "-" ? "standard input" : path),
          file_(path == "-" ? stdin : std::fopen(path.c_str(), "rb")) {
        if (file_ == nullptr)
            fail(std::strerror(errno));
        const std::string_view start = read();
        if (!is_xz(start)) {
            rest = start;
            return;
        }
        if (lzma_stream_decoder(&xz_, max_xz_memory, LZMA_CONCATENATED) != LZMA_OK)
            fail("the xz decoder does not start");
        packed_ = true;
        unpacked_.resize(chunk_bytes);
        feed(start);
    }
    ~Bytes() { lzma_end(&xz_); }

    Bytes(const Bytes&) = delete;
    Bytes& operator=(const Bytes&) = delete;

    /// Puts the next chunk into `rest`. Returns: false at the end.
    bool refill() {
        rest = packed_ ? unpack() : read();
        return !rest.empty();
    }

    std::string_view rest; // of the chunk, not yet taken

private:
    [[noreturn]] void fail(std::string_view problem) const {
        throw std::runtime_error(fmt::format("{}: {}", name_, problem));
    }

    std::string_view read() {
        const std::size_t count = std::fread(chunk_.data(), 1, chunk_.size(), file_.get());
        if (std::ferror(file_.get()) != 0)
            fail(std::strerror(errno));
        return {chunk_.data(), count};
    }

    void feed(std::string_view packed) {
        xz_.next_in = reinterpret_cast<const std::uint8_t*>(packed.data());
        xz_.avail_in = packed.size();
    }

    std::string_view unpack() {
        while (!ended_) {
            if (xz_.avail_in == 0)
                feed(read());
            const bool at_end = xz_.avail_in == 0;
            xz_.next_out = reinterpret_cast<std::uint8_t*>(unpacked_.data());
            xz_.avail_out = unpacked_.size();
            const lzma_ret code = lzma_code(&xz_, at_end ? LZMA_FINISH : LZMA_RUN);
            ended_ = code == LZMA_STREAM_END;
            if (code != LZMA_OK && !ended_)
                fail(problem_of(code));
            const std::size_t count = unpacked_.size() - xz_.avail_out;
            if (count > 0)
                return {unpacked_.data(), count};
        }
        return {};
    }

    std::string name_;
    std::unique_ptr<std::FILE, CloseFile> file_;
    std::vector<char> chunk_ = std::vector<char>(chunk_bytes);
    bool packed_ = false;
    bool ended_ = false;
    lzma_stream xz_ = LZMA_STREAM_INIT;
    std::vector<char> unpacked_;
};

LineReader::LineReader(const std::string& path) : bytes_(std::make_unique<Bytes>(path)) {}
LineReader::~LineReader() = default;

bool LineReader::next(std::string& line) {
    line.clear();
    bool any = false;
    bool ended = false;
    while (!ended && (!bytes_->rest.empty() || bytes_->refill())) {
        std::string_view& rest = bytes_->rest;
        const std::size_t end = rest.find('\n');
        ended = end != std::string_view::npos;
        const std::string_view part = rest.substr(0, end);
        if (part.size() > max_line_bytes - line.size()) {
            throw std::invalid_argument(
                fmt::format("a line of more than {} bytes", max_line_bytes));
        }
        line += part;
        rest.remove_prefix(part.size() + (ended ? 1 : 0));
        any = true;
    }
    if (line.ends_with('\r'))
        line.pop_back();
    return any;
}

Trace load_trace(const std::string& path, std::size_t limit) {
    LineReader reader(path);
    return parse_trace([&reader](std::string& line) { return reader.next(line); },
                       path == "-" ? "<stdin>" : path, limit);
}

} // namespace replay
