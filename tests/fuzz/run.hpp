// SPDX-License-Identifier: MIT
// What the fuzzer and the replay of its corpus do with some bytes: a run of operations on a cache.
//
//     byte 0   payload type; from 222 to 251 it is of a ConcurrentPromptCache
//     byte 1   profile, and whether the model follows
//     then RunMaker's
#ifndef PROMPTKV_TESTS_FUZZ_RUN_HPP
#define PROMPTKV_TESTS_FUZZ_RUN_HPP

#include "cache_operations.hpp"
#include "cache_runs.hpp"
#include "fragile_tape.hpp"
#include "payloads.hpp"

#include <promptkv/concurrent_prompt_cache.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace promptkv_test {

using promptkv::ConcurrentPromptCache;

/// A source for RunMaker: a byte a number, two where one is not enough; zeros at the end.
class Bytes {
public:
    explicit Bytes(std::span<const std::uint8_t> bytes) : bytes_(bytes) {}

    [[nodiscard]] std::size_t below(std::size_t n) {
        if (n < 2) {
            return 0;
        }
        std::size_t number = next();
        if (n > 256) {
            number = number * 256 + next();
        }
        return number % n;
    }

    [[nodiscard]] bool exhausted() const { return bytes_.empty(); }

private:
    [[nodiscard]] std::size_t next() {
        if (bytes_.empty()) {
            return 0;
        }
        const std::size_t byte = bytes_.front();
        bytes_ = bytes_.subspan(1);
        return byte;
    }

    std::span<const std::uint8_t> bytes_;
};

/// Does what the bytes say. Returns the story of what went wrong; "" where nothing did.
inline std::string failure_of_bytes(std::span<const std::uint8_t> bytes) {
    constexpr std::array profiles = {short_keys, grown_keys, many_anchors, many_children};
    Bytes source(bytes);
    const std::size_t first = source.below(256);
    const bool concurrent = first >= 222 && first < 252; // what older files leave free
    const std::size_t type = first % 6;
    const std::size_t profile = source.below(2 * profiles.size());
    const bool modelled = profile < profiles.size();
    const Run run = RunMaker(source, profiles[profile % profiles.size()], modelled).make();
    if (concurrent) {
        return type == 4 ? failure_of<WholeTape, ConcurrentPromptCache<WholeTape>>(run)
                         : failure_of<FragileTape, ConcurrentPromptCache<FragileTape>>(run);
    }
    switch (type) {
    case 0:
        return failure_of<Tape>(run);
    case 1:
        return failure_of<ClonedTape>(run);
    case 2:
        return failure_of<CopiedTape>(run);
    case 3:
        return failure_of<MoveOnlyTape>(run);
    case 4:
        return failure_of<WholeTape>(run);
    default:
        return failure_of<FragileTape>(run);
    }
}

} // namespace promptkv_test

#endif
