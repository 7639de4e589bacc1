// SPDX-License-Identifier: MIT
// Capacity: how much the replayed cache may hold, as a person writes it.
#ifndef PROMPTKV_REPLAY_CAPACITY_HPP
#define PROMPTKV_REPLAY_CAPACITY_HPP

#include <cstdint>
#include <string>
#include <string_view>

namespace replay {

/// A capacity in blocks or in bytes.
struct Capacity {
    enum class Unit : std::uint8_t { blocks, bytes, unlimited };

    std::uint64_t amount = 0;
    Unit unit = Unit::unlimited;

    /// Blocks that have room when each of them takes `bytes_per_block`.
    [[nodiscard]] std::uint64_t blocks(std::uint64_t bytes_per_block) const noexcept;

    /// The greatest number where there is no limit or the product is beyond it.
    [[nodiscard]] std::uint64_t bytes(std::uint64_t bytes_per_block) const noexcept;

    friend bool operator==(const Capacity&, const Capacity&) = default;
};

/// | text                                | capacity              |
/// |-------------------------------------|-----------------------|
/// | `24576`, `24576blocks`              | blocks                |
/// | `512B`, `64KiB`, `8GiB`, `8GB`, …   | bytes                 |
/// | `unlimited`                         | no limit              |
///
/// Throws: std::invalid_argument for any other text.
[[nodiscard]] Capacity parse_capacity(std::string_view text);

/// The text that `parse_capacity` reads back, in the largest binary unit that is exact.
[[nodiscard]] std::string to_string(const Capacity& capacity);

} // namespace replay

#endif
