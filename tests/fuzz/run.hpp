// SPDX-License-Identifier: MIT
// What the fuzzer and the replay of its corpus do with some bytes: a run of operations on a cache.
//
//     byte 0   the kind of payload, and the kind of cache; from 250 on: a PromptCache
//     byte 1   the profile of the keys, and whether the model follows
//     then those of RunMaker
#ifndef PROMPTKV_TESTS_FUZZ_RUN_HPP
#define PROMPTKV_TESTS_FUZZ_RUN_HPP

#include "cache_operations.hpp"
#include "cache_runs.hpp"
#include "fragile_tape.hpp"
#include "naive_payload.hpp"
#include "payloads.hpp"

#include <promptkv/concurrent_prompt_cache.hpp>
#include <promptkv/reuse_order.hpp>

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
        if (n < 2)
            return 0;
        std::size_t number = next();
        if (n > 256)
            number = number * 256 + next();
        return number % n;
    }

    [[nodiscard]] bool exhausted() const { return bytes_.empty(); }

private:
    [[nodiscard]] std::size_t next() {
        if (bytes_.empty())
            return 0;
        const std::size_t byte = bytes_.front();
        bytes_ = bytes_.subspan(1);
        return byte;
    }

    std::span<const std::uint8_t> bytes_;
};

/// Runs what the rest of the bytes says. Returns the story of what went wrong; "" where nothing did.
template <class KV, class Cache = promptkv::LRUPromptCache<KV>>
std::string failure_with(Bytes source) {
    constexpr std::array profiles = {short_keys, grown_keys, one_path, many_children};
    const std::size_t profile = source.below(2 * profiles.size());
    const bool modelled = profile < profiles.size();
    const Run run =
        RunMaker(source, profiles[profile % profiles.size()], abilities_of<KV>(), modelled).make();
    return failure_of<KV, Cache>(run);
}

/// The same for a cache that learns, which no model follows.
template <class KV, class Cache>
std::string failure_of_learning(Bytes source) {
    constexpr std::array profiles = {short_keys, grown_keys, one_path, many_children};
    const Profile& profile = profiles[source.below(profiles.size())];
    Run run = RunMaker(source, profile, abilities_of<KV>(), false).make();
    run.options.rules = Rules::promptkv;
    return failure_of<KV, Cache>(run);
}

/// Does what the bytes say. Returns the story of what went wrong; "" where nothing did.
inline std::string failure_of_bytes(std::span<const std::uint8_t> bytes) {
    Bytes source(bytes);
    if (!bytes.empty() && bytes.front() >= 250) { // no older file of the corpus begins so
        const bool is_block = source.below(2) == 0;
        return is_block ? failure_of_learning<BlockTape, promptkv::PromptCache<BlockTape>>(source)
                        : failure_of_learning<WholeTape, promptkv::PromptCache<WholeTape>>(source);
    }
    switch (source.below(10)) {
    case 0:
        return failure_with<Tape>(source);
    case 1:
        return failure_with<ClonedTape>(source);
    case 2:
        return failure_with<CopiedTape>(source);
    case 3:
        return failure_with<MoveOnlyTape>(source);
    case 4:
        return failure_with<WholeTape>(source);
    case 5:
        return failure_with<FragileTape>(source);
    case 6:
        return failure_with<BlockTape>(source);
    case 7:
        return failure_with<HybridTape>(source);
    case 8:
        return failure_with<FragileTape, ConcurrentPromptCache<FragileTape>>(source);
    default:
        return failure_with<BlockTape, ConcurrentPromptCache<BlockTape>>(source);
    }
}

} // namespace promptkv_test

#endif
