// SPDX-License-Identifier: MIT
// Capacity: units and their names.
#include "capacity.hpp"

#include <fmt/format.h>

#include <charconv>
#include <limits>
#include <stdexcept>
#include <system_error>

namespace replay {
namespace {

constexpr std::uint64_t unlimited = std::numeric_limits<std::uint64_t>::max();

struct ByteUnit {
    std::string_view name;
    std::uint64_t bytes;
};

constexpr std::uint64_t kibi = 1024;
constexpr std::uint64_t kilo = 1000;

// binary units from the largest down, as to_string tries them
constexpr ByteUnit byte_units[] = {
    {"TiB", kibi* kibi* kibi* kibi},
    {"GiB", kibi* kibi* kibi},
    {"MiB", kibi* kibi},
    {"KiB", kibi},
    {"B", 1},
    {"TB", kilo* kilo* kilo* kilo},
    {"GB", kilo* kilo* kilo},
    {"MB", kilo* kilo},
    {"kB", kilo},
};

} // namespace

std::uint64_t Capacity::blocks(std::uint64_t bytes_per_block) const noexcept {
    switch (unit) {
    case Unit::blocks:
        return amount;
    case Unit::bytes:
        return amount / bytes_per_block;
    case Unit::unlimited:
        break;
    }
    return unlimited;
}

std::uint64_t Capacity::bytes(std::uint64_t bytes_per_block) const noexcept {
    switch (unit) {
    case Unit::blocks:
        return amount <= unlimited / bytes_per_block ? amount * bytes_per_block : unlimited;
    case Unit::bytes:
        return amount;
    case Unit::unlimited:
        break;
    }
    return unlimited;
}

Capacity parse_capacity(std::string_view text) {
    if (text == "unlimited")
        return {};
    std::uint64_t amount = 0;
    const char* const end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, amount);
    if (error == std::errc()) {
        const std::string_view unit(stop, static_cast<std::size_t>(end - stop));
        if (unit.empty() || unit == "blocks")
            return {amount, Capacity::Unit::blocks};
        for (const ByteUnit& known : byte_units) {
            if (unit == known.name && amount <= unlimited / known.bytes)
                return {amount * known.bytes, Capacity::Unit::bytes};
        }
    }
    throw std::invalid_argument(fmt::format(
        "'{}' is no capacity: write blocks such as 24576, bytes such as 8GiB, or unlimited", text));
}

std::string to_string(const Capacity& capacity) {
    if (capacity.unit == Capacity::Unit::unlimited)
        return "unlimited";
    if (capacity.unit == Capacity::Unit::blocks)
        return fmt::format("{}blocks", capacity.amount);
    for (const ByteUnit& unit : byte_units) {
        if (capacity.amount % unit.bytes == 0 && capacity.amount >= unit.bytes)
            return fmt::format("{}{}", capacity.amount / unit.bytes, unit.name);
    }
    return "0B";
}

} // namespace replay
