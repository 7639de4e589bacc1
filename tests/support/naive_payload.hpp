// SPDX-License-Identifier: MIT
// NaiveKV: any payload of these tests as plain data; and how to make the real one, and to look into it.
#ifndef PROMPTKV_TESTS_NAIVE_PAYLOAD_HPP
#define PROMPTKV_TESTS_NAIVE_PAYLOAD_HPP

#include "payloads.hpp"

#include <algorithm>
#include <cstddef>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace promptkv_test {

struct NaiveBlock {
    int id = 0;
    std::size_t bytes = 0;

    friend bool operator==(const NaiveBlock&, const NaiveBlock&) = default;
};

/// A payload. Blocks are in `blocks`; all other bytes are `bytes_per_token` and `overhead` of the shape.
struct NaiveKV {
    unsigned abilities = 0; ///< of its type
    int id = 0;             ///< of the insert that it comes from; 0 for blocks without a state
    std::string model;
    Tokens tokens;
    Shape shape;
    std::vector<NaiveBlock> blocks;

    [[nodiscard]] bool can(unsigned ability) const { return (abilities & ability) != 0; }
    [[nodiscard]] std::size_t length() const { return tokens.size(); }

    /// Bytes that are not in blocks.
    [[nodiscard]] std::size_t own_bytes() const {
        return can(has_blocks) ? (can(has_state) ? shape.overhead : 0)
                               : shape.overhead + shape.bytes_per_token * length();
    }

    [[nodiscard]] std::size_t nbytes() const {
        std::size_t sum = own_bytes();
        for (const NaiveBlock& block : blocks)
            sum += block.bytes;
        return sum;
    }

    [[nodiscard]] std::size_t served(std::size_t n) const {
        n = std::min(n, length());
        if (!can(can_reuse))
            return n == length() ? n : 0;
        if (n == length() || shape.step == 1)
            return n;
        return shape.step == 0 ? 0 : n / shape.step * shape.step;
    }

    /// The longest multiple of a block that it serves of its first `n` tokens.
    [[nodiscard]] std::size_t served_blocks(std::size_t n) const {
        n = std::min(n, length()) / shape.block * shape.block;
        while (served(n) != n)
            n -= shape.block;
        return n;
    }

    /// The empty prefix is served by payloads that serve shorter keys than their own, and by one token.
    [[nodiscard]] bool serves(std::size_t n) const {
        if (n == 0 && length() > 0)
            return length() == 1 ? can(can_reuse) : served(length() - 1) > 0;
        return n <= length() && served(n) == n;
    }

    /// The first `n` tokens, with the blocks that they touch.
    [[nodiscard]] NaiveKV first(std::size_t n) const {
        NaiveKV part = *this;
        part.tokens.resize(n);
        part.blocks.resize(std::min(blocks.size(), (n + shape.block - 1) / shape.block));
        return part;
    }

    /// The number of the first block that begins at or beyond token `from`.
    [[nodiscard]] std::size_t block_at(std::size_t from) const {
        return std::min(blocks.size(), (from + shape.block - 1) / shape.block);
    }

    /// Takes the whole blocks of the first `n` tokens from `other`.
    void adopt(std::size_t n, const NaiveKV& other) {
        const std::size_t whole = std::min({n / shape.block, blocks.size(), other.blocks.size()});
        std::copy_n(other.blocks.begin(), whole, blocks.begin());
    }

    friend bool operator==(const NaiveKV& a, const NaiveKV& b) {
        const bool same_model = a.model == b.model || a.tokens.empty(); // no block tells it
        return same_model && a.abilities == b.abilities && a.id == b.id && a.tokens == b.tokens &&
               a.shape == b.shape && a.blocks == b.blocks;
    }
};

/// The abilities of a payload type.
template <class KV>
constexpr unsigned abilities_of() {
    if constexpr (std::is_same_v<KV, BlockTape>)
        return can_reuse | can_clone | can_truncate | can_copy | has_blocks;
    else if constexpr (std::is_same_v<KV, HybridTape>)
        return can_reuse | can_copy | has_blocks | has_state;
    else
        return KV::offered;
}

template <class KV>
inline constexpr bool is_of_blocks = (abilities_of<KV>() & has_blocks) != 0;

/// At most so many blocks are numbered for one insert.
inline constexpr int blocks_of_an_insert = 1000;

/// What an insert with number `id` makes for the key, beyond the blocks that `start` has already.
template <class KV>
NaiveKV naive_payload(int id, const std::string& model, const Tokens& tokens, Shape shape,
                      std::vector<NaiveBlock> start = {}) {
    NaiveKV kv{abilities_of<KV>(), id, model, tokens, shape, std::move(start)};
    if constexpr (is_of_blocks<KV>) {
        kv.shape.step = kv.can(has_state) ? 0 : 1;
        const std::size_t blocks = (tokens.size() + shape.block - 1) / shape.block;
        for (std::size_t i = kv.blocks.size(); i < blocks; ++i) {
            kv.blocks.push_back({id * blocks_of_an_insert + static_cast<int>(i),
                                 shape.bytes_per_token * shape.block});
        }
        if (!kv.can(has_state)) {
            kv.id = 0;
            kv.shape.overhead = 0;
        }
        kv.shape.bytes_per_token = 0; // the blocks know
    }
    return kv;
}

/// The real payload of the same. `start`: what the cache gave to begin with.
template <class KV>
KV real_payload(int id, const std::string& model, const Tokens& tokens, Shape shape, KV* start) {
    if constexpr (is_of_blocks<KV>) {
        KV kv = start != nullptr ? std::move(*start) : KV(shape.block);
        for (std::size_t at = kv.length(); at < tokens.size();) {
            const std::size_t n = std::min(shape.block, tokens.size() - at);
            const auto first = tokens.begin() + static_cast<std::ptrdiff_t>(at);
            kv.append(TapeBlock{id * blocks_of_an_insert + static_cast<int>(at / shape.block),
                                model, Tokens(first, first + static_cast<std::ptrdiff_t>(n)),
                                shape.bytes_per_token * shape.block},
                      n);
            at += n;
        }
        if constexpr (std::is_same_v<KV, HybridTape>)
            kv.set_state(TapeState{id, model, tokens, shape.overhead});
        return kv;
    } else {
        return KV(Recording{id, model, tokens, shape});
    }
}

/// A real payload as plain data.
template <class KV>
NaiveKV described(const KV& kv) {
    if constexpr (is_of_blocks<KV>) {
        NaiveKV plain;
        plain.abilities = abilities_of<KV>();
        plain.shape = {1, 0, 0, kv.block_tokens()};
        for (const auto& block : kv.blocks()) {
            plain.blocks.push_back({block->id, block.nbytes()});
            plain.model = block->model;
            plain.tokens.insert(plain.tokens.end(), block->tokens.begin(), block->tokens.end());
        }
        plain.tokens.resize(std::min(plain.tokens.size(), kv.length()));
        if constexpr (std::is_same_v<KV, HybridTape>) {
            plain.shape.step = 0;
            if (kv.has_state()) {
                plain.id = kv.state().id;
                plain.model = kv.state().model;
                plain.shape.overhead = kv.state().bytes;
            }
        }
        return plain;
    } else {
        const Recording& held = kv.recording();
        return {abilities_of<KV>(), held.id, held.model, held.tokens, held.shape, {}};
    }
}

/// Whether the real payload was computed from exactly these tokens.
template <class KV>
bool computed_from(const KV& kv, const std::string& model, const Tokens& tokens) {
    const NaiveKV plain = described(kv);
    if constexpr (std::is_same_v<KV, HybridTape>) {
        if (kv.has_state() && kv.state().tokens != tokens)
            return false;
    }
    return kv.length() == tokens.size() && plain.tokens == tokens &&
           (tokens.empty() || plain.model == model);
}

} // namespace promptkv_test

#endif
