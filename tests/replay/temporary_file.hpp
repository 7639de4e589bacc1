// SPDX-License-Identifier: MIT
// TemporaryFile: a file in the temporary directory.
#ifndef PROMPTKV_TESTS_TEMPORARY_FILE_HPP
#define PROMPTKV_TESTS_TEMPORARY_FILE_HPP

#include <filesystem>
#include <fstream>
#include <ios>
#include <iterator>
#include <string>
#include <unistd.h>

namespace replay_test {

/// A file that is removed at the end. `ending` is the end of its name.
class TemporaryFile {
public:
    explicit TemporaryFile(const std::string& content = "", const std::string& ending = "")
        : path_(std::filesystem::temp_directory_path() /
                ("promptkv-replay-" + std::to_string(getpid()) + "-" + std::to_string(count_++) +
                 ending)) {
        std::ofstream(path_, std::ios::binary) << content;
    }
    ~TemporaryFile() { std::filesystem::remove(path_); }

    TemporaryFile(const TemporaryFile&) = delete;
    TemporaryFile& operator=(const TemporaryFile&) = delete;

    [[nodiscard]] std::string name() const { return path_.string(); }
    [[nodiscard]] std::string read() const {
        std::ifstream file(path_, std::ios::binary);
        return {std::istreambuf_iterator<char>(file), {}};
    }

private:
    static inline int count_ = 0;
    std::filesystem::path path_;
};

} // namespace replay_test

#endif
