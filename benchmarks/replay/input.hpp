// SPDX-License-Identifier: MIT
// read_input: the whole text of a file or of standard input, unpacked where it is xz.
#ifndef PROMPTKV_REPLAY_INPUT_HPP
#define PROMPTKV_REPLAY_INPUT_HPP

#include <string>
#include <string_view>

namespace replay {

/// Reads the file at `path`, or standard input if `path` is "-", and unpacks it if it is xz (told
/// by its first bytes, not by its name).
/// Throws: std::runtime_error naming the file when it cannot be read or unpacked.
[[nodiscard]] std::string read_input(const std::string& path);

/// Whether `bytes` begin like an xz file.
[[nodiscard]] bool is_xz(std::string_view bytes) noexcept;

/// Unpacks an xz file: one stream or several in a row.
/// Throws: std::runtime_error when it is damaged or ends early.
[[nodiscard]] std::string unpack_xz(std::string_view packed);

} // namespace replay

#endif
