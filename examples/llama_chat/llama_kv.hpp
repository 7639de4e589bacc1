// SPDX-License-Identifier: MIT
// The KV state of a llama.cpp sequence as blocks, and how it is copied out of a context and into it.
//
//     tokens     0         k        2k        n
//     blocks     [ bytes  ][ bytes  ][ bytes  ]    of the attention layers; shared, immutable
//     state                                [ S ]   of the recurrent layers, at n, where there are any
//
// AttentionKV    attention alone: can be cut and cloned anywhere
// RecurrentKV    with a state: serves its whole key. A hybrid model still shares the blocks of its
//                attention layers; the blocks of a recurrent model are empty but for a header.
//
// Needs llama.h, promptkv and the standard library, so that it can be lifted out as it is.
#ifndef PROMPTKV_EXAMPLES_LLAMA_KV_HPP
#define PROMPTKV_EXAMPLES_LLAMA_KV_HPP

#include <promptkv/block_kv.hpp>

#include <llama.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

namespace llama_kv {

/// State in the engine's own format: a block, or the recurrent part of a sequence.
struct Bytes {
    std::vector<std::uint8_t> data;

    [[nodiscard]] std::size_t nbytes() const noexcept { return data.size(); }

    // for a second level
    template <class Sink>
    void write_block(Sink& sink) const {
        sink(std::as_bytes(std::span(data)));
    }
    static std::optional<Bytes> make_block(std::span<const std::byte> bytes) {
        const auto* begin = reinterpret_cast<const std::uint8_t*>(bytes.data());
        return Bytes{std::vector<std::uint8_t>(begin, begin + bytes.size())};
    }
};

using AttentionKV = promptkv::BlockKV<Bytes>;
using RecurrentKV = promptkv::BlockKV<Bytes, Bytes>;

/// Whether a model's state is a RecurrentKV, not an AttentionKV.
[[nodiscard]] inline bool is_recurrent(const llama_model* model) {
    return llama_model_is_recurrent(model) || llama_model_is_hybrid(model);
}

/// One sequence of a context, whose state is saved to payloads and restored from them.
///
/// The engine hands out whole sequences only. So a range of tokens passes through a second sequence,
/// `scratch`, that shares the cells of the first: it takes no room and no copy.
///
/// Requires: a context with `kv_unified = true`, so that sequences share cells, and `swa_full = true`:
///           from pruned sliding windows llama.cpp restores without an error and answers wrongly.
///           `scratch` is empty and used by nobody else.
/// Throws:   std::runtime_error if the engine refuses: another shape or type, damage, no free cells.
template <class KV>
class Sequence {
public:
    static constexpr bool has_state = requires(const KV& kv) { kv.state(); };

    Sequence(llama_context* context, llama_seq_id sequence, llama_seq_id scratch,
             std::size_t block_tokens)
        : context_(context), memory_(llama_get_memory(context)), sequence_(sequence),
          scratch_(scratch), block_tokens_(block_tokens), no_state_(get(scratch, recurrent_part)) {}

    [[nodiscard]] std::size_t block_tokens() const { return block_tokens_; }

    void clear() { remove(sequence_); }

    /// Cuts the sequence to its first `n` tokens.
    void cut(std::size_t n)
        requires(!has_state)
    {
        llama_memory_seq_rm(memory_, sequence_, position(n), -1);
    }

    /// Makes the sequence the first `n` tokens of `kv`. If the engine refuses, the sequence is empty.
    /// Requires: n <= kv.length(); with a state: n == kv.length().
    void restore(const KV& kv, std::size_t n) {
        clear();
        try {
            for (std::size_t i = 0; i * block_tokens_ < n; ++i) {
                set(scratch_, *kv.blocks()[i], everything);
                llama_memory_seq_cp(memory_, scratch_, sequence_, -1, -1);
                remove(scratch_);
            }
            if constexpr (has_state)
                set(sequence_, kv.state(), recurrent_part);
            else
                cut(n); // the last block may hold tokens beyond n
        } catch (...) {
            remove(scratch_);
            clear();
            throw;
        }
    }

    /// Appends to `kv` what it lacks of the first `n` tokens.
    /// Requires: kv.length() is a multiple of block_tokens(), or n. The sequence holds n tokens or
    ///           more; with a state: exactly n.
    void save(KV& kv, std::size_t n) {
        while (kv.length() < n) {
            const std::size_t from = kv.length();
            const std::size_t to = std::min(n, from + block_tokens_);
            kv.append(through_scratch(from, to, [&] { return get(scratch_, everything); }),
                      to - from);
        }
        if constexpr (has_state)
            kv.set_state(get(sequence_, recurrent_part));
    }

    /// The size of a payload of `n` tokens.
    /// Requires: the sequence holds n tokens or more; for whole blocks one block is enough.
    [[nodiscard]] std::size_t nbytes(std::size_t n) {
        const auto size_of = [this](std::size_t from, std::size_t to) {
            return through_scratch(from, to,
                                   [this] { return llama_state_seq_get_size(context_, scratch_); });
        };
        if (n >= block_tokens_ && block_bytes_ == 0)
            block_bytes_ = size_of(0, block_tokens_);
        const std::size_t rest = n % block_tokens_;
        return n / block_tokens_ * block_bytes_ + (rest > 0 ? size_of(n - rest, n) : 0) +
               (has_state ? llama_state_seq_get_size_ext(context_, sequence_, recurrent_part) : 0);
    }

private:
    static constexpr llama_state_seq_flags everything = 0;
    static constexpr llama_state_seq_flags recurrent_part = LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY;

    static llama_pos position(std::size_t n) { return static_cast<llama_pos>(n); }
    void remove(llama_seq_id sequence) { llama_memory_seq_rm(memory_, sequence, -1, -1); }

    [[nodiscard]] Bytes get(llama_seq_id sequence, llama_state_seq_flags part) const {
        Bytes bytes{
            std::vector<std::uint8_t>(llama_state_seq_get_size_ext(context_, sequence, part))};
        if (llama_state_seq_get_data_ext(context_, bytes.data.data(), bytes.data.size(), sequence,
                                         part) != bytes.data.size()) {
            throw std::runtime_error("llama.cpp did not hand out the state of a sequence");
        }
        return bytes;
    }

    void set(llama_seq_id sequence, const Bytes& bytes, llama_state_seq_flags part) {
        if (llama_state_seq_set_data_ext(context_, bytes.data.data(), bytes.data.size(), sequence,
                                         part) != bytes.data.size()) {
            throw std::runtime_error("llama.cpp refused the state of a sequence");
        }
    }

    /// Calls `f` while the scratch sequence is tokens [from, to) of the attention layers.
    template <class F>
    auto through_scratch(std::size_t from, std::size_t to, F f) {
        struct Guard {
            Sequence* self;
            ~Guard() { self->remove(self->scratch_); }
        } guard{this};
        llama_memory_seq_cp(memory_, sequence_, scratch_, position(from), position(to));
        if constexpr (has_state)
            set(scratch_, no_state_, recurrent_part); // seq_cp shares that part for any range
        return f();
    }

    llama_context* context_;
    llama_memory_t memory_;
    llama_seq_id sequence_;
    llama_seq_id scratch_;
    std::size_t block_tokens_;
    Bytes no_state_; // the recurrent part of an empty sequence
    std::size_t block_bytes_ = 0;
};

} // namespace llama_kv

#endif
