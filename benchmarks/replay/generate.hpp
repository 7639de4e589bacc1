// SPDX-License-Identifier: MIT
// generate_trace, generate_workload: seeded traffic, for when no recorded trace is at hand.
#ifndef PROMPTKV_REPLAY_GENERATE_HPP
#define PROMPTKV_REPLAY_GENERATE_HPP

#include "trace.hpp"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace replay {

/// Makes up `n_requests` requests of chat traffic, the same for the same seed:
/// a few system prompts of very unequal popularity; conversations that grow by a question and an
/// answer a turn and take turns with each other; now and then an earlier question edited or an
/// answer asked for again; one-off documents that nobody returns to; log-normal lengths, so that a
/// few prompts are very long. A block is one token. Chats have a session and their answers as outputs;
/// documents have neither.
[[nodiscard]] Trace generate_trace(std::uint64_t seed, std::size_t n_requests);

/// Workloads whose habits change, each with a cache that they are hard for:
///
/// | name            | what comes                                                                         |
/// |-----------------|------------------------------------------------------------------------------------|
/// | `flood`         | popular documents; in every third thousand of requests, most prompts are one-offs  |
/// | `loop-half`     | documents of half of the cache in a fixed cycle, between popular ones and one-offs |
/// | `loop-90`       | the same with documents of 90 % of the cache, and fewer one-offs                   |
/// | `midnight`      | chats under 16 system prompts, all replaced after every 1,500 requests             |
/// | `tenant-leaves` | documents of six tenants; now and then the busiest leaves and a new one comes      |
/// | `bursts`        | documents that many ask for during a moment and nobody after it                    |
/// | `phases`        | 1,000 requests of chats, 1,000 of a cycle larger than the cache, and so on         |
[[nodiscard]] std::span<const std::string_view> workload_names() noexcept;

/// Makes up `n_requests` requests of the workload, the same for the same seed, and the first ones the
/// same whatever `n_requests`. A block is one token, and `usual_capacity` is known.
/// Throws: std::invalid_argument for another name.
[[nodiscard]] Trace generate_workload(std::string_view name, std::uint64_t seed,
                                      std::size_t n_requests);

} // namespace replay

#endif
