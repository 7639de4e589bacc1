// SPDX-License-Identifier: MIT
// simulate: chooses how a policy is replayed.
#include "simulate.hpp"

#include "bounds.hpp"
#include "caches.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

namespace replay {
namespace {

/// All payloads together, each in three tiers, must be countable in 64 bits.
void check_bytes(const Trace& trace, const TraceSummary& summary, const Settings& settings) {
    constexpr std::uint64_t most = std::uint64_t{1} << 61U;
    const std::uint64_t bytes_per_block = trace.block_size * settings.bytes_per_token;
    const std::uint64_t blocks =
        summary.total_blocks + trace.requests.size() * settings.block_tokens;
    if (blocks > most / bytes_per_block) {
        throw std::invalid_argument(
            fmt::format("{}: {} blocks of {} bytes are too many bytes to count; take fewer bytes "
                        "a token",
                        trace.name, blocks, bytes_per_block));
    }
}

} // namespace

PayloadKind payload_of(const Settings& settings) noexcept {
    if (is_bound(settings.policy))
        return PayloadKind::blocks;
    const bool shares = settings.payload == PayloadKind::blocks;
    return settings.policy == Policy::reference && shares ? PayloadKind::prefix : settings.payload;
}

void Result::count(std::uint64_t input_tokens, std::uint64_t reusable_tokens) noexcept {
    const std::uint64_t saved = std::min(reusable_tokens, input_tokens);
    ++requests;
    requests_hit += saved > 0 ? 1 : 0;
    tokens += input_tokens;
    tokens_saved += saved;
}

double Result::token_hit_ratio() const noexcept {
    return tokens == 0 ? 0.0 : static_cast<double>(tokens_saved) / static_cast<double>(tokens);
}

double Result::operations_per_second() const noexcept {
    const double seconds = std::chrono::duration<double>(time).count();
    return seconds > 0.0 ? static_cast<double>(operations) / seconds : 0.0;
}

void report_progress(const Progress& progress, std::size_t done) {
    constexpr std::size_t interval = 64;
    if (progress != nullptr && done % interval == 0)
        progress(done);
}

Result simulate(const Trace& trace, const Settings& settings, const Capacity& capacity,
                const Progress& progress) {
    check_bytes(trace, summarize(trace), settings);
    if (is_bound(settings.policy))
        return simulate_bound(trace, settings, capacity, progress);
    return settings.policy == Policy::reuse
               ? replay_through_reuse_order(trace, settings, capacity, progress)
               : replay_through_tiered_lru(trace, settings, capacity, progress);
}

} // namespace replay
