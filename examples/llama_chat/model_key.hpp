// SPDX-License-Identifier: MIT
// The model key of a llama.cpp context: everything that must be equal for state to be shared.
#ifndef PROMPTKV_EXAMPLES_LLAMA_MODEL_KEY_HPP
#define PROMPTKV_EXAMPLES_LLAMA_MODEL_KEY_HPP

#include <llama.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace llama_kv {

/// A hash of a file (FNV-1a over 8-byte words). It tells apart files that were mixed up, not files
/// that were made to collide.
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
    if (total == 0)
        throw std::runtime_error("cannot read " + path);
    return (hash ^ total) * 0x100000001b3U;
}

/// The cache's model key: equal only where the state of one context can serve another.
/// llama.cpp checks the shape of a state, not the weights that it came from. A server with LoRA
/// adapters adds the fingerprint and the scale of each.
inline std::string model_key(const std::string& model_file, const llama_context_params& params) {
    std::ostringstream key;
    key.precision(9); // floats round trip
    key << std::hex << file_fingerprint(model_file) << std::dec << " kv "
        << ggml_type_name(params.type_k) << '/' << ggml_type_name(params.type_v) << " flash "
        << params.flash_attn_type << " attention " << params.attention_type << " swa "
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
