// SPDX-License-Identifier: MIT
// Prompts that follow from a number, payloads of several kinds, and caches filled with them.
#ifndef PROMPTKV_BENCHMARKS_PROMPTS_HPP
#define PROMPTKV_BENCHMARKS_PROMPTS_HPP

#include <promptkv/promptkv.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

namespace bench {

using Token = std::int32_t;
using Prompt = std::vector<Token>;

inline constexpr std::string_view model = "model";
inline constexpr Token vocabulary = 128'000;
inline constexpr Token unseen = vocabulary; // in no prompt that is made here

/// A generator (splitmix64) that is cheap enough to make a billion tokens.
class Random {
public:
    explicit Random(std::uint64_t seed) : state_(seed) {}

    std::uint64_t next() {
        state_ += 0x9E37'79B9'7F4A'7C15U;
        std::uint64_t z = state_;
        z = (z ^ (z >> 30U)) * 0xBF58'476D'1CE4'E5B9U;
        z = (z ^ (z >> 27U)) * 0x94D0'49BB'1331'11EBU;
        return z ^ (z >> 31U);
    }

    /// Returns: a number below `n`.
    std::uint32_t below(std::uint32_t n) {
        return static_cast<std::uint32_t>(((next() >> 32U) * n) >> 32U);
    }

private:
    std::uint64_t state_;
};

inline void append_tokens(Prompt& prompt, std::uint64_t seed, std::size_t n) {
    Random random(seed);
    prompt.reserve(prompt.size() + n);
    for (std::size_t i = 0; i < n; ++i)
        prompt.push_back(static_cast<Token>(random.below(vocabulary)));
}

/// Returns: the `i`-th prompt of `n` tokens; its first `shared` tokens are common to all.
inline Prompt prompt_of(std::uint64_t i, std::size_t n, std::size_t shared = 0) {
    Prompt prompt;
    prompt.reserve(n);
    append_tokens(prompt, ~std::uint64_t{0}, shared);
    append_tokens(prompt, (i + 1) << 20U, n - shared);
    return prompt;
}

inline std::vector<Prompt> prompts_of(std::size_t count, std::size_t n, std::size_t shared = 0) {
    std::vector<Prompt> prompts;
    for (std::size_t i = 0; i < count; ++i)
        prompts.push_back(prompt_of(i, n, shared));
    return prompts;
}

/// Attention state that only knows its length: one byte a token, can be cut anywhere.
struct Cuttable {
    std::size_t tokens = 0;

    explicit Cuttable(std::size_t n) noexcept : tokens(n) {}
    std::size_t nbytes() const noexcept { return tokens; }
    std::size_t reusable_prefix(std::size_t n) const noexcept { return n; }
    Cuttable clone_prefix(std::size_t n) const { return Cuttable(n); }
    void truncate(std::size_t n) noexcept { tokens = n; }
};

/// State that serves its whole key only, such as a recurrent one, and owns memory.
struct Whole {
    std::unique_ptr<std::byte[]> state;

    explicit Whole(std::size_t) : state(new std::byte[256]) {}
    std::size_t nbytes() const noexcept { return 256; }
};

/// A block that only knows its length: one byte a token.
struct Block {
    std::size_t tokens = 0;

    std::size_t nbytes() const noexcept { return tokens; }
};

using InBlocks = promptkv::BlockKV<Block>;

/// Appends new blocks until `kv` holds `n` tokens. Requires: what it holds ends at a block.
inline void append_blocks(InBlocks& kv, std::size_t n) {
    while (kv.length() < n) {
        const std::size_t tokens = std::min(n - kv.length(), kv.block_tokens());
        kv.append(Block{tokens}, tokens);
    }
}

/// Returns: a payload of `n` tokens in blocks that nobody else holds.
inline InBlocks in_blocks(std::size_t n, std::size_t block_tokens) {
    InBlocks kv(block_tokens);
    append_blocks(kv, n);
    return kv;
}

template <class KV>
using Cache = promptkv::LRUPromptCache<KV>;

template <class KV>
promptkv::Outcome store(Cache<KV>& cache, const Prompt& prompt, KV&& kv,
                        std::string_view in = model) {
    return cache.insert(in, prompt, std::move(kv), promptkv::Tier::assistant).outcome;
}

template <class KV>
promptkv::Outcome store(Cache<KV>& cache, const Prompt& prompt, std::string_view in = model) {
    return store(cache, prompt, KV(prompt.size()), in);
}

/// Compares `prompt` with tokens that lie elsewhere: the least that a lookup must do.
inline bool same(const Prompt& prompt, const Prompt& copy, std::size_t n) {
    return std::memcmp(prompt.data(), copy.data(), n * sizeof(Token)) == 0;
}

} // namespace bench

#endif
