// SPDX-License-Identifier: MIT
// generate_trace: seeded chat traffic, for when no recorded trace is at hand.
#ifndef PROMPTKV_REPLAY_GENERATE_HPP
#define PROMPTKV_REPLAY_GENERATE_HPP

#include "trace.hpp"

#include <cstddef>
#include <cstdint>

namespace replay {

/// Makes up `n_requests` requests of chat traffic, the same for the same seed:
/// a few system prompts of very unequal popularity; conversations that grow by a question and an
/// answer a turn and take turns with each other; now and then an earlier question edited or an
/// answer asked for again; one-off documents that nobody returns to; log-normal lengths, so that a
/// few prompts are very long. A block is one token. Chats have a session and their answers as outputs;
/// documents have neither.
[[nodiscard]] Trace generate_trace(std::uint64_t seed, std::size_t n_requests);

} // namespace replay

#endif
