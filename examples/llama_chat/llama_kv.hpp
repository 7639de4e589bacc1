// SPDX-License-Identifier: MIT
// The KV state of one llama.cpp sequence as payloads of a prompt cache.
//
// SegmentedKV  full attention: shared, immutable segments of k tokens. Cut and cloned without a copy.
// WholeKV      anything else (recurrent, hybrid, sliding window): one blob that serves its key only.
// *Port        moves such a payload between host memory and a sequence of a context.
// model_key    names everything that must be equal for one state to serve another prompt.
//
// Needs llama.h and the standard library, so that it can be lifted out as it is.
#ifndef PROMPTKV_EXAMPLES_LLAMA_KV_HPP
#define PROMPTKV_EXAMPLES_LLAMA_KV_HPP

#include <llama.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <memory>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace llama_kv {

/// Bytes that never change and that several payloads may share.
struct Blob {
    std::shared_ptr<const std::uint8_t[]> data;
    std::size_t size = 0;
};

// payloads ////////////////////////////////////////////////////////////////////////////////////////

/// State of the first length() tokens of a prompt, in segments of segment_tokens() each:
///
///     tokens    0        k        2k     length
///     segments  [ blob 0 ][ blob 1 ][ blob 2 ]        the last one may hold tokens beyond length()
///
/// A copy shares the segments: copying costs one pointer a segment, and a cut frees those beyond it.
/// nbytes() counts every segment that it refers to, shared or not.
///
/// Thread safety: as an int; payloads that share segments may be used on different threads.
class SegmentedKV {
public:
    SegmentedKV() = default;

    /// Requires:   `segments` hold the tokens [0, k), [k, 2k), ... and cover `length`.
    SegmentedKV(std::size_t segment_tokens, std::size_t length, std::vector<Blob> segments)
        : segments_(std::move(segments)), segment_tokens_(segment_tokens) {
        truncate(length);
    }

    // what a prompt cache asks of a payload ///////////////////////////////////////////////////////

    [[nodiscard]] std::size_t nbytes() const noexcept {
        std::size_t sum = 0;
        for (const Blob& segment : segments_) {
            sum += segment.size;
        }
        return sum;
    }

    [[nodiscard]] std::size_t length() const noexcept { return length_; }

    /// Attention can be cut anywhere: a restore drops what the last segment holds beyond `n`.
    [[nodiscard]] std::size_t reusable_prefix(std::size_t n) const noexcept {
        return std::min(n, length_);
    }

    [[nodiscard]] SegmentedKV clone_prefix(std::size_t n) const {
        const auto count = static_cast<std::ptrdiff_t>(segments_for(n));
        return SegmentedKV(segment_tokens_, n, {segments_.begin(), segments_.begin() + count});
    }

    /// Frees the segments that lie wholly beyond `n`.
    /// Requires:   `n` is covered by the segments.
    void truncate(std::size_t n) noexcept {
        segments_.resize(segments_for(n));
        length_ = n;
    }

    // lookup //////////////////////////////////////////////////////////////////////////////////////

    [[nodiscard]] std::size_t segment_tokens() const noexcept { return segment_tokens_; }
    [[nodiscard]] std::span<const Blob> segments() const noexcept { return segments_; }

private:
    [[nodiscard]] std::size_t segments_for(std::size_t n) const noexcept {
        return n == 0 ? 0 : (n - 1) / segment_tokens_ + 1;
    }

    std::vector<Blob> segments_;
    std::size_t segment_tokens_ = 1;
    std::size_t length_ = 0;
};

/// State that cannot be cut: it serves the whole of its key or nothing.
class WholeKV {
public:
    WholeKV() = default;
    WholeKV(std::size_t length, Blob blob) : blob_(std::move(blob)), length_(length) {}

    [[nodiscard]] std::size_t nbytes() const noexcept { return blob_.size; }
    [[nodiscard]] std::size_t length() const noexcept { return length_; }
    [[nodiscard]] const Blob& blob() const noexcept { return blob_; }

private:
    Blob blob_;
    std::size_t length_ = 0;
};

// ports ///////////////////////////////////////////////////////////////////////////////////////////

/// Copies the state of a sequence out of a context.
/// Throws:     std::runtime_error if the engine refuses.
inline Blob get_state(llama_context* context, llama_seq_id sequence) {
    const std::size_t size = llama_state_seq_get_size(context, sequence);
    std::shared_ptr<std::uint8_t[]> data(new std::uint8_t[size]); // not zeroed first
    if (size == 0 || llama_state_seq_get_data(context, data.get(), size, sequence) != size) {
        throw std::runtime_error("llama.cpp did not hand out the state of a sequence");
    }
    return {std::move(data), size};
}

/// Copies a state into a sequence of a context.
/// Throws:     std::runtime_error if the engine refuses: another shape or type, or no free cells.
inline void set_state(llama_context* context, llama_seq_id sequence, const Blob& blob) {
    if (llama_state_seq_set_data(context, blob.data.get(), blob.size, sequence) != blob.size) {
        throw std::runtime_error("llama.cpp refused the state of a sequence");
    }
}

/// One sequence of a context whose state comes and goes as SegmentedKV.
///
/// It remembers the segments that the sequence was restored from or saved to, so that saving a
/// grown conversation copies only what is new and shares the rest. So whatever shortens the
/// sequence has to go through the port.
///
/// Requires:   a model with full attention (`supports`), a context with `kv_unified = true`, and a
///             second sequence, `scratch`, that nobody else uses. Both share their cells, so that
///             it takes no room.
class SegmentedPort {
public:
    using KV = SegmentedKV;
    static constexpr bool can_cut = true;

    [[nodiscard]] static bool supports(const llama_model* model) {
        return !llama_model_is_recurrent(model) && !llama_model_is_hybrid(model) &&
               llama_model_n_swa(model) == 0;
    }

    /// `segment_tokens`: small ones cut finely, large ones waste less on headers (64 tokens: 0.3 %
    /// of the state of a 5-layer model).
    SegmentedPort(llama_context* context, llama_seq_id sequence, llama_seq_id scratch,
                  std::size_t segment_tokens)
        : context_(context), memory_(llama_get_memory(context)), sequence_(sequence),
          scratch_(scratch), held_(segment_tokens, 0, {}) {}

    /// Makes the sequence empty.
    void clear() { cut(0); }

    /// Cuts the sequence to its first `n` tokens.
    void cut(std::size_t n) {
        llama_memory_seq_rm(memory_, sequence_, static_cast<llama_pos>(n), -1);
        if (n < held_.length()) {
            held_.truncate(n);
        }
    }

    /// Makes the sequence the first `n` tokens of `kv`.
    /// Requires:   n <= kv.length().
    /// Throws:     std::runtime_error if the engine refuses; the sequence is then empty.
    /// Complexity: a memcpy of the segments that hold those tokens.
    void restore(const SegmentedKV& kv, std::size_t n) {
        clear();
        SegmentedKV wanted = kv.clone_prefix(n);
        try {
            for (const Blob& segment : wanted.segments()) {
                set_state(context_, scratch_, segment);
                llama_memory_seq_cp(memory_, scratch_, sequence_, -1, -1);
                llama_memory_seq_rm(memory_, scratch_, -1, -1);
            }
        } catch (...) {
            llama_memory_seq_rm(memory_, scratch_, -1, -1);
            clear();
            throw;
        }
        held_ = std::move(wanted);
        cut(n);
    }

    /// What save(n).nbytes() will be; copies nothing.
    [[nodiscard]] std::size_t nbytes(std::size_t n) {
        const SegmentedKV shared = shareable(n);
        std::size_t sum = shared.nbytes();
        for_each_missing(shared, n, [&] { sum += llama_state_seq_get_size(context_, scratch_); });
        return sum;
    }

    /// The state of the first `n` tokens of the sequence, of which new segments are copied.
    /// Requires:   the sequence holds `n` tokens or more.
    [[nodiscard]] SegmentedKV save(std::size_t n) {
        const SegmentedKV shared = shareable(n);
        std::vector<Blob> segments(shared.segments().begin(), shared.segments().end());
        for_each_missing(shared, n, [&] { segments.push_back(get_state(context_, scratch_)); });
        SegmentedKV saved(held_.segment_tokens(), n, std::move(segments));
        if (n > held_.length()) {
            held_ = saved;
        }
        return saved;
    }

private:
    /// What is held of the first `n` tokens. A segment that covers only a part of what is wanted
    /// of it is left out.
    [[nodiscard]] SegmentedKV shareable(std::size_t n) const {
        if (n <= held_.length()) {
            return held_.clone_prefix(n);
        }
        return held_.clone_prefix(held_.length() - held_.length() % held_.segment_tokens());
    }

    /// Calls `f` for each segment beyond `shared` while the scratch sequence is that segment.
    template <class F>
    void for_each_missing(const SegmentedKV& shared, std::size_t n, F f) {
        for (std::size_t from = shared.length(); from < n; from += held_.segment_tokens()) {
            const std::size_t to = std::min(n, from + held_.segment_tokens());
            llama_memory_seq_cp(memory_, sequence_, scratch_, static_cast<llama_pos>(from),
                                static_cast<llama_pos>(to));
            try {
                f();
            } catch (...) {
                llama_memory_seq_rm(memory_, scratch_, -1, -1);
                throw;
            }
            llama_memory_seq_rm(memory_, scratch_, -1, -1);
        }
    }

    llama_context* context_;
    llama_memory_t memory_;
    llama_seq_id sequence_;
    llama_seq_id scratch_;
    SegmentedKV held_; // of the sequence's first tokens, as far as they are known in segments
};

/// One sequence of a context whose state comes and goes as WholeKV.
class WholePort {
public:
    using KV = WholeKV;
    static constexpr bool can_cut = false;

    WholePort(llama_context* context, llama_seq_id sequence)
        : context_(context), sequence_(sequence) {}

    void clear() { llama_memory_seq_rm(llama_get_memory(context_), sequence_, -1, -1); }

    /// Requires:   n == kv.length().
    void restore(const WholeKV& kv, std::size_t n) {
        clear();
        if (n != kv.length()) {
            throw std::logic_error("state that cannot be cut was asked for a part");
        }
        set_state(context_, sequence_, kv.blob());
    }

    [[nodiscard]] std::size_t nbytes(std::size_t /*n*/) {
        return llama_state_seq_get_size(context_, sequence_);
    }

    /// Requires:   the sequence holds exactly `n` tokens.
    [[nodiscard]] WholeKV save(std::size_t n) { return {n, get_state(context_, sequence_)}; }

private:
    llama_context* context_;
    llama_seq_id sequence_;
};

// model key ///////////////////////////////////////////////////////////////////////////////////////

/// A number that differs where two files differ (FNV-1a over 8-byte words). It tells files apart
/// that were mixed up, not files that were made to collide.
/// Throws:     std::runtime_error if the file cannot be read.
inline std::uint64_t file_fingerprint(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::uint64_t hash = 0xcbf29ce484222325U;
    std::vector<char> buffer(std::size_t{1} << 20);
    std::uint64_t total = 0;
    while (file.read(buffer.data(), static_cast<std::streamsize>(buffer.size())),
           file.gcount() > 0) {
        const auto count = static_cast<std::size_t>(file.gcount());
        total += count;
        std::fill(buffer.begin() + file.gcount(), buffer.end(), '\0');
        for (std::size_t at = 0; at < count; at += sizeof(std::uint64_t)) {
            std::uint64_t word = 0;
            std::memcpy(&word, buffer.data() + at, sizeof word);
            hash = (hash ^ word) * 0x100000001b3U;
            hash ^= hash >> 32; // high bits of a word reach the low ones of the hash
        }
    }
    if (total == 0) {
        throw std::runtime_error("cannot read " + path);
    }
    return (hash ^ total) * 0x100000001b3U;
}

/// A LoRA adapter in use: the file and how strongly it is applied.
struct Adapter {
    std::string file;
    float scale = 1.0F;
};

/// The cache's model key: equal only where the state of one context can serve another.
/// llama.cpp checks the shape of a state, not the weights that it came from.
inline std::string model_key(const std::string& model_file, const llama_context_params& params,
                             std::span<const Adapter> adapters = {}) {
    std::ostringstream key;
    key.precision(9); // floats round trip
    key << std::hex << file_fingerprint(model_file) << std::dec;
    for (const Adapter& adapter : adapters) {
        key << " lora " << std::hex << file_fingerprint(adapter.file) << std::dec << '*'
            << adapter.scale;
    }
    key << " kv " << ggml_type_name(params.type_k) << '/' << ggml_type_name(params.type_v)
        << " flash " << params.flash_attn_type << " attention " << params.attention_type << " swa "
        << params.swa_full << " unified " << params.kv_unified << " ctx " << params.n_ctx << '/'
        << params.n_seq_max             // some models rotate by it
        << " batch " << params.n_ubatch // the rounding depends on it
        << " rope " << params.rope_scaling_type << ' ' << params.rope_freq_base << ' '
        << params.rope_freq_scale << " yarn " << params.yarn_ext_factor << ' '
        << params.yarn_attn_factor << ' ' << params.yarn_beta_fast << ' ' << params.yarn_beta_slow
        << ' ' << params.yarn_orig_ctx;
    return key.str();
}

} // namespace llama_kv

#endif
