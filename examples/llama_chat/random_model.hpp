// SPDX-License-Identifier: MIT
// Writes GGUF models with random weights: what they say is noise, what they compute is real.
//
// For machines without a model, and for tests of architectures that are large elsewhere. The
// vocabulary is made here too, one token a byte, and a chat template, so that nothing else is needed.
#ifndef PROMPTKV_EXAMPLES_RANDOM_MODEL_HPP
#define PROMPTKV_EXAMPLES_RANDOM_MODEL_HPP

#include <ggml.h>
#include <gguf.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <initializer_list>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

namespace random_model {

/// Shape of a Llama model. The default has 26.7 million parameters, in 28 MB at q8_0.
struct Llama {
    std::uint32_t layers = 9;
    std::uint32_t width = 512;
    std::uint32_t feed_forward = 1408;
    std::uint32_t heads = 8;
    std::uint32_t kv_heads = 4;
    std::uint32_t context = 4096;
    ggml_type type = GGML_TYPE_Q8_0; // of the matrices
};

/// Shape of a Mamba model: recurrent, so that its state cannot be cut.
struct Mamba {
    std::uint32_t layers = 2;
    std::uint32_t width = 64;
    std::uint32_t state = 16;
    std::uint32_t kernel = 4;
    std::uint32_t context = 4096;
};

/// A GGUF file in the making.
class Writer {
public:
    Writer(const char* architecture, std::uint32_t seed)
        : gguf_(gguf_init_empty(), gguf_free), prefix_(architecture), random_(seed) {
        gguf_set_val_str(gguf_.get(), "general.architecture", architecture);
    }

    /// Sets "<architecture>.<name>".
    void set(const std::string& name, std::uint32_t value) {
        gguf_set_val_u32(gguf_.get(), (prefix_ + "." + name).c_str(), value);
    }
    void set(const std::string& name, float value) {
        gguf_set_val_f32(gguf_.get(), (prefix_ + "." + name).c_str(), value);
    }

    /// Adds a tokenizer with a token a byte and the chat template ChatML, and answers the size of the
    /// vocabulary.
    std::uint32_t add_byte_vocabulary() {
        constexpr std::int32_t normal = 1, unknown = 2, control = 3, byte_token = 6;
        std::vector<std::string> tokens = {"<unk>",        "<s>",        "</s>",
                                           "<|im_start|>", "<|im_end|>", "\xe2\x96\x81"}; // space
        std::vector<std::int32_t> types = {unknown, control, control, control, control, normal};
        for (unsigned byte = 1; byte < 256; ++byte) { // a zero would end a text
            std::array<char, 8> name{};
            std::snprintf(name.data(), name.size(), "<0x%02X>", byte);
            tokens.emplace_back(name.data());
            types.push_back(byte_token);
        }
        std::vector<const char*> names;
        for (const std::string& token : tokens) {
            names.push_back(token.c_str());
        }
        const std::vector<float> scores(tokens.size(), 0.0F);
        gguf_context* out = gguf_.get();
        gguf_set_val_str(out, "tokenizer.ggml.model", "llama");
        gguf_set_arr_str(out, "tokenizer.ggml.tokens", names.data(), names.size());
        gguf_set_arr_data(out, "tokenizer.ggml.scores", GGUF_TYPE_FLOAT32, scores.data(),
                          scores.size());
        gguf_set_arr_data(out, "tokenizer.ggml.token_type", GGUF_TYPE_INT32, types.data(),
                          types.size());
        gguf_set_val_u32(out, "tokenizer.ggml.unknown_token_id", 0);
        gguf_set_val_u32(out, "tokenizer.ggml.bos_token_id", 1);
        gguf_set_val_u32(out, "tokenizer.ggml.eos_token_id", 2);
        gguf_set_val_str(
            out, "tokenizer.chat_template",
            "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + "
            "message['content'] + '<|im_end|>\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}");
        return static_cast<std::uint32_t>(tokens.size());
    }

    /// Adds a tensor of values from a normal distribution.
    /// Shape:      extents, the contiguous one first.
    void add(const std::string& name, ggml_type type, std::initializer_list<std::int64_t> shape,
             float mean, float deviation) {
        std::array<std::int64_t, GGML_MAX_DIMS> extents{1, 1, 1, 1};
        std::copy(shape.begin(), shape.end(), extents.begin());
        std::int64_t count = 1;
        for (const std::int64_t extent : shape) {
            count *= extent;
        }
        std::normal_distribution<float> normal;
        std::vector<float> values(static_cast<std::size_t>(count));
        for (float& value : values) {
            value = mean + deviation * normal(random_);
        }

        const std::size_t bytes =
            ggml_row_size(type, extents[0]) * static_cast<std::size_t>(count / extents[0]);
        const ggml_init_params params{bytes + ggml_tensor_overhead() + 1024, nullptr, false};
        tensors_.emplace_back(ggml_init(params), ggml_free);
        ggml_tensor* tensor = ggml_new_tensor(tensors_.back().get(), type,
                                              static_cast<int>(shape.size()), extents.data());
        ggml_set_name(tensor, name.c_str());
        ggml_quantize_chunk(type, values.data(), tensor->data, 0, count / extents[0], extents[0],
                            nullptr);
        gguf_add_tensor(gguf_.get(), tensor);
    }

    /// Throws:     std::runtime_error if the file cannot be written.
    void write(const std::string& path) const {
        if (!gguf_write_to_file(gguf_.get(), path.c_str(), false)) {
            throw std::runtime_error("cannot write " + path);
        }
    }

private:
    std::unique_ptr<gguf_context, decltype(&gguf_free)> gguf_;
    std::vector<std::unique_ptr<ggml_context, decltype(&ggml_free)>> tensors_;
    std::string prefix_;
    std::mt19937 random_;
};

/// Writes a Llama model of this shape.
/// Throws:     std::runtime_error if the file cannot be written.
inline void write(const std::string& path, const Llama& shape, std::uint32_t seed) {
    Writer out("llama", seed);
    out.set("block_count", shape.layers);
    out.set("context_length", shape.context);
    out.set("embedding_length", shape.width);
    out.set("feed_forward_length", shape.feed_forward);
    out.set("attention.head_count", shape.heads);
    out.set("attention.head_count_kv", shape.kv_heads);
    out.set("rope.dimension_count", shape.width / shape.heads);
    out.set("attention.layer_norm_rms_epsilon", 1e-5F);

    const std::int64_t width = shape.width;
    const std::int64_t kv_width = width / shape.heads * shape.kv_heads;
    const std::int64_t inner = shape.feed_forward;
    const float deviation = 0.06F;
    out.add("token_embd.weight", shape.type, {width, out.add_byte_vocabulary()}, 0.0F, deviation);
    out.add("output_norm.weight", GGML_TYPE_F32, {width}, 1.0F, 0.0F);
    for (std::uint32_t layer = 0; layer < shape.layers; ++layer) {
        const std::string block = "blk." + std::to_string(layer) + ".";
        out.add(block + "attn_norm.weight", GGML_TYPE_F32, {width}, 1.0F, 0.0F);
        out.add(block + "attn_q.weight", shape.type, {width, width}, 0.0F, deviation);
        out.add(block + "attn_k.weight", shape.type, {width, kv_width}, 0.0F, deviation);
        out.add(block + "attn_v.weight", shape.type, {width, kv_width}, 0.0F, deviation);
        out.add(block + "attn_output.weight", shape.type, {width, width}, 0.0F, deviation);
        out.add(block + "ffn_norm.weight", GGML_TYPE_F32, {width}, 1.0F, 0.0F);
        out.add(block + "ffn_gate.weight", shape.type, {width, inner}, 0.0F, deviation);
        out.add(block + "ffn_up.weight", shape.type, {width, inner}, 0.0F, deviation);
        out.add(block + "ffn_down.weight", shape.type, {inner, width}, 0.0F, deviation);
    }
    out.write(path);
}

/// Writes a Mamba model of this shape.
/// Throws:     std::runtime_error if the file cannot be written.
inline void write(const std::string& path, const Mamba& shape, std::uint32_t seed) {
    Writer out("mamba", seed);
    const std::int64_t width = shape.width;
    const std::int64_t inner = 2 * width; // the only factor that the engine knows
    const std::int64_t rank = width / 16;
    const std::int64_t state = shape.state;
    out.set("block_count", shape.layers);
    out.set("context_length", shape.context);
    out.set("embedding_length", shape.width);
    out.set("feed_forward_length", std::uint32_t{0});
    out.set("attention.head_count", std::uint32_t{0});
    out.set("attention.layer_norm_rms_epsilon", 1e-5F);
    out.set("ssm.conv_kernel", shape.kernel);
    out.set("ssm.inner_size", static_cast<std::uint32_t>(inner));
    out.set("ssm.state_size", shape.state);
    out.set("ssm.time_step_rank", static_cast<std::uint32_t>(rank));

    const ggml_type type = GGML_TYPE_F32;
    const float deviation = 0.1F;
    out.add("token_embd.weight", type, {width, out.add_byte_vocabulary()}, 0.0F, deviation);
    out.add("output_norm.weight", type, {width}, 1.0F, 0.0F);
    for (std::uint32_t layer = 0; layer < shape.layers; ++layer) {
        const std::string block = "blk." + std::to_string(layer) + ".";
        out.add(block + "attn_norm.weight", type, {width}, 1.0F, 0.0F);
        out.add(block + "ssm_in.weight", type, {width, 2 * inner}, 0.0F, deviation);
        out.add(block + "ssm_conv1d.weight", type, {shape.kernel, inner}, 0.0F, 0.5F);
        out.add(block + "ssm_conv1d.bias", type, {inner}, 0.0F, deviation);
        out.add(block + "ssm_x.weight", type, {inner, rank + 2 * state}, 0.0F, deviation);
        out.add(block + "ssm_dt.weight", type, {rank, inner}, 0.0F, deviation);
        out.add(block + "ssm_dt.bias", type, {inner}, 0.0F, deviation);
        out.add(block + "ssm_a", type, {state, inner}, -1.0F, deviation); // negative: it decays
        out.add(block + "ssm_d", type, {inner}, 1.0F, deviation);
        out.add(block + "ssm_out.weight", type, {inner, width}, 0.0F, deviation);
    }
    out.write(path);
}

} // namespace random_model

#endif
