// SPDX-License-Identifier: MIT
// The driver for any compiler: replays files, and the files of folders.
#include "run.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

namespace {

std::vector<std::filesystem::path> files_at(const std::filesystem::path& path) {
    if (!std::filesystem::is_directory(path))
        return {path};
    std::vector<std::filesystem::path> files;
    for (const auto& entry : std::filesystem::directory_iterator(path))
        files.push_back(entry.path());
    std::sort(files.begin(), files.end());
    return files;
}

} // namespace

int main(int argc, char** argv) {
    std::size_t replayed = 0;
    std::size_t failed = 0;
    for (int i = 1; i < argc; ++i) {
        for (const std::filesystem::path& file : files_at(argv[i])) {
            std::ifstream in(file, std::ios::binary);
            const std::vector<std::uint8_t> bytes{std::istreambuf_iterator<char>(in), {}};
            if (!in) {
                std::cerr << file.string() << ": cannot be read\n";
                return 2;
            }
            const std::string story = promptkv_test::failure_of_bytes(bytes);
            if (!story.empty()) {
                std::cerr << file.string() << ":\n" << story << '\n';
                ++failed;
            }
            ++replayed;
        }
    }
    std::cout << "fuzz: " << replayed << " files replayed, " << failed << " failed\n";
    return replayed > 0 && failed == 0 ? 0 : 1;
}
