// SPDX-License-Identifier: MIT
// Payloads that are made by the dozen, and destroyed as an eviction destroys them.
#ifndef PROMPTKV_BENCHMARKS_PAYLOADS_HPP
#define PROMPTKV_BENCHMARKS_PAYLOADS_HPP

#include "prompts.hpp"

#include <cstddef>
#include <functional>
#include <optional>
#include <utility>
#include <vector>

namespace bench {

/// Returns: the payload of `n` tokens.
template <class KV>
using Make = std::function<KV(std::size_t n)>;

template <class KV>
KV of_tokens(std::size_t n) {
    return KV(n);
}

inline Make<InBlocks> of_blocks(std::size_t block_tokens) {
    return [block_tokens](std::size_t n) { return in_blocks(n, block_tokens); };
}

/// Payloads of `n` tokens, destroyed in the order in which they were made: as cold as those of a ring.
template <class KV>
class Payloads {
public:
    Payloads(std::size_t n, std::size_t count, Make<KV> make)
        : n_(n), make_(std::move(make)), payloads_(count) {
        for (std::optional<KV>& payload : payloads_)
            payload.emplace(make_(n_));
    }

    void destroy_one() {
        payloads_[next_].reset();
        next_ = (next_ + 1) % payloads_.size();
    }

    void refill() {
        for (; !payloads_[refilled_]; refilled_ = (refilled_ + 1) % payloads_.size())
            payloads_[refilled_].emplace(make_(n_));
    }

private:
    std::size_t n_;
    Make<KV> make_;
    std::vector<std::optional<KV>> payloads_;
    std::size_t next_ = 0;
    std::size_t refilled_ = 0;
};

} // namespace bench

#endif
