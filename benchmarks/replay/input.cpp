// SPDX-License-Identifier: MIT
// read_input: files, standard input, and liblzma.
#include "input.hpp"

#include <fmt/format.h>
#include <lzma.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
#include <stdexcept>
#include <vector>

namespace replay {
namespace {

constexpr std::size_t chunk_bytes = std::size_t{1} << 16;

struct CloseFile {
    void operator()(std::FILE* file) const noexcept { std::fclose(file); }
};

struct EndStream {
    void operator()(lzma_stream* stream) const noexcept { lzma_end(stream); }
};

std::string read_all(std::FILE* file, const std::string& name) {
    std::string text;
    std::vector<char> chunk(chunk_bytes);
    while (true) {
        const std::size_t count = std::fread(chunk.data(), 1, chunk.size(), file);
        text.append(chunk.data(), count);
        if (count < chunk.size()) {
            break;
        }
    }
    if (std::ferror(file) != 0) {
        throw std::runtime_error(fmt::format("{}: {}", name, std::strerror(errno)));
    }
    return text;
}

std::string problem_of(lzma_ret code) {
    switch (code) {
    case LZMA_MEM_ERROR:
        return "not enough memory to unpack it";
    case LZMA_OPTIONS_ERROR:
        return "the xz file uses a filter that is not supported";
    case LZMA_BUF_ERROR:
        return "the xz file ends early";
    default:
        return "the xz file is damaged";
    }
}

} // namespace

bool is_xz(std::string_view bytes) noexcept {
    using namespace std::string_view_literals;
    return bytes.starts_with("\xFD\x37zXZ\0"sv);
}

std::string unpack_xz(std::string_view packed) {
    lzma_stream stream = LZMA_STREAM_INIT;
    if (lzma_stream_decoder(&stream, std::numeric_limits<std::uint64_t>::max(),
                            LZMA_CONCATENATED) != LZMA_OK) {
        throw std::runtime_error("the xz decoder does not start");
    }
    const std::unique_ptr<lzma_stream, EndStream> ends_stream(&stream);
    stream.next_in = reinterpret_cast<const std::uint8_t*>(packed.data());
    stream.avail_in = packed.size();
    std::string text;
    std::vector<std::uint8_t> chunk(chunk_bytes);
    lzma_ret code = LZMA_OK;
    while (code == LZMA_OK) {
        stream.next_out = chunk.data();
        stream.avail_out = chunk.size();
        code = lzma_code(&stream, LZMA_FINISH);
        text.append(reinterpret_cast<const char*>(chunk.data()), chunk.size() - stream.avail_out);
    }
    if (code != LZMA_STREAM_END) {
        throw std::runtime_error(problem_of(code));
    }
    return text;
}

std::string read_input(const std::string& path) {
    std::string text;
    if (path == "-") {
        text = read_all(stdin, "standard input");
    } else {
        const std::unique_ptr<std::FILE, CloseFile> file(std::fopen(path.c_str(), "rb"));
        if (file == nullptr) {
            throw std::runtime_error(fmt::format("{}: {}", path, std::strerror(errno)));
        }
        text = read_all(file.get(), path);
    }
    if (!is_xz(text)) {
        return text;
    }
    try {
        return unpack_xz(text);
    } catch (const std::runtime_error& problem) {
        throw std::runtime_error(fmt::format("{}: {}", path, problem.what()));
    }
}

} // namespace replay
