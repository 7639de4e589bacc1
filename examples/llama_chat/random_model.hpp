// SPDX-License-Identifier: MIT
// Writes GGUF models with random weights: their text is noise, their computation is real.
//
// For machines without a model, and for tests of architectures that are large elsewhere. The
// vocabulary is made here too, one token a byte, and a chat template, so that nothing else is needed.
#ifndef PROMPTKV_EXAMPLES_LLAMA_RANDOM_MODEL_HPP
#define PROMPTKV_EXAMPLES_LLAMA_RANDOM_MODEL_HPP

#include <ggml.h>
#include <gguf.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <initializer_list>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <unistd.h>

namespace random_model {

/// Shape of a model. The default is a Llama of 26.7 million parameters, in 28 MB at q8_0.
struct Shape {
    /// A letter a layer: 'a' attention, 'w' attention in a sliding window, 'm' Mamba (recurrent).
    /// "aaa" makes a Llama, "mm" a Mamba, "mamm" a Jamba (a hybrid), "wwwa" a Cohere2, where every
    /// fourth layer has to be an 'a'.
    std::string layers = "aaaaaaaaa";
    std::uint32_t width = 512;
    std::uint32_t feed_forward = 1408;
    std::uint32_t heads = 8;
    std::uint32_t kv_heads = 4;
    ggml_type type = GGML_TYPE_Q8_0; // of the matrices, except those of Mamba layers
    /// The most likely token is printable ASCII, so that the text of an answer has the answer's tokens.
    bool printable = false;
};

/// A shape that is quick to write and to compute.
inline Shape small(std::string layers) {
    return {
        .layers = std::move(layers), .width = 128, .feed_forward = 256, .heads = 4, .kv_heads = 2};
}

/// Three layers of a kind of model that has a name; empty: it is no such name.
inline std::string layers_of(std::string_view name) {
    return name == "random" ? "aaa" : name == "hybrid" ? "mma" : name == "recurrent" ? "mmm" : "";
}

/// A GGUF file in the making.
class Writer {
public:
    Writer(const char* architecture, std::uint32_t seed)
        : gguf_(gguf_init_empty(), gguf_free), prefix_(std::string(architecture) + "."),
          random_(seed) {
        gguf_set_val_str(gguf_.get(), "general.architecture", architecture);
    }

    /// Sets "<architecture>.<name>".
    void set(const char* name, std::int64_t value) {
        gguf_set_val_u32(gguf_.get(), (prefix_ + name).c_str(), static_cast<std::uint32_t>(value));
    }
    void set(const char* name, float value) {
        gguf_set_val_f32(gguf_.get(), (prefix_ + name).c_str(), value);
    }
    void set(const char* name, const std::vector<std::uint32_t>& values) {
        gguf_set_arr_data(gguf_.get(), (prefix_ + name).c_str(), GGUF_TYPE_UINT32, values.data(),
                          values.size());
    }

    /// Adds a tokenizer with a token a byte and the chat template ChatML, and answers the size of the
    /// vocabulary.
    std::int64_t add_byte_vocabulary() {
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
        for (const std::string& token : tokens)
            names.push_back(token.c_str());
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
        return static_cast<std::int64_t>(tokens.size());
    }

    /// Adds a tensor of values from a normal distribution.
    /// Shape:      extents, the contiguous one first.
    void add(const std::string& name, ggml_type type, std::initializer_list<std::int64_t> shape,
             float mean, float deviation) {
        std::array<std::int64_t, GGML_MAX_DIMS> extents{1, 1, 1, 1};
        std::copy(shape.begin(), shape.end(), extents.begin());
        const std::int64_t rows = extents[1];
        std::normal_distribution<float> normal;
        std::vector<float> values(static_cast<std::size_t>(extents[0] * rows));
        for (float& value : values)
            value = mean + deviation * normal(random_);
        const ggml_init_params params{ggml_row_size(type, extents[0]) *
                                              static_cast<std::size_t>(rows) +
                                          ggml_tensor_overhead() + 1024,
                                      nullptr, false};
        tensors_.emplace_back(ggml_init(params), ggml_free);
        ggml_tensor* tensor = ggml_new_tensor(tensors_.back().get(), type,
                                              static_cast<int>(shape.size()), extents.data());
        ggml_set_name(tensor, name.c_str());
        ggml_quantize_chunk(type, values.data(), tensor->data, 0, rows, extents[0], nullptr);
        gguf_add_tensor(gguf_.get(), tensor);
    }

    /// Makes the rows [from, to) of the tensor that was added last zero.
    void clear_rows(std::int64_t from, std::int64_t to) {
        ggml_tensor* tensor = ggml_get_first_tensor(tensors_.back().get());
        std::memset(static_cast<char*>(tensor->data) +
                        static_cast<std::size_t>(from) * tensor->nb[1],
                    0, static_cast<std::size_t>(to - from) * tensor->nb[1]);
    }

    /// Throws:     std::runtime_error if the file cannot be written.
    void write(const std::string& path) const {
        if (!gguf_write_to_file(gguf_.get(), path.c_str(), false))
            throw std::runtime_error("cannot write " + path);
    }

private:
    std::unique_ptr<gguf_context, decltype(&gguf_free)> gguf_;
    std::vector<std::unique_ptr<ggml_context, decltype(&ggml_free)>> tensors_;
    std::string prefix_;
    std::mt19937 random_;
};

/// Writes a model of this shape.
/// Throws:     std::runtime_error if the file cannot be written.
inline void write(const std::string& path, const Shape& shape, std::uint32_t seed) {
    const auto has = [&](char layer) { return shape.layers.find(layer) != std::string::npos; };
    const bool attention = has('a');
    const bool windows = has('w');
    const std::string architecture = windows     ? "cohere2"
                                     : !has('m') ? "llama"
                                     : attention ? "jamba"
                                                 : "mamba";
    const std::int64_t width = shape.width;
    const std::int64_t kv_width = width / shape.heads * shape.kv_heads;
    const std::int64_t ff = attention ? shape.feed_forward : 0;
    const std::int64_t inner = 2 * width; // the only factor that the engine knows
    const std::int64_t rank = width / 16;
    const std::int64_t state = 16;
    const std::int64_t kernel = 4;
    std::vector<std::uint32_t> kv_heads;
    for (const char layer : shape.layers)
        kv_heads.push_back(layer == 'm' ? 0 : shape.kv_heads);

    Writer out(architecture.c_str(), seed);
    out.set("block_count", static_cast<std::int64_t>(shape.layers.size()));
    out.set("context_length", std::int64_t{4096});
    out.set("embedding_length", width);
    out.set("feed_forward_length", ff);
    out.set("attention.head_count", std::int64_t{attention ? shape.heads : 0});
    out.set("attention.head_count_kv", kv_heads);
    out.set("attention.layer_norm_rms_epsilon", 1e-5F);
    out.set("attention.layer_norm_epsilon", 1e-5F);
    out.set("logit_scale", 1.0F);
    if (windows)
        out.set("attention.sliding_window", std::int64_t{40});
    out.set("ssm.conv_kernel", kernel);
    out.set("ssm.inner_size", inner);
    out.set("ssm.state_size", state);
    out.set("ssm.time_step_rank", rank);

    std::string block;
    const auto ones = [&](const char* name, std::int64_t n) {
        out.add(block + name, GGML_TYPE_F32, {n}, 1.0F, 0.0F);
    };
    const auto matrix = [&](const char* name, std::int64_t columns, std::int64_t rows) {
        out.add(block + name, shape.type, {columns, rows}, 0.0F, 0.06F);
    };
    const auto mamba = [&](const char* name, std::initializer_list<std::int64_t> extents,
                           float mean = 0.0F, float deviation = 0.1F) {
        out.add(block + name, GGML_TYPE_F32, extents, mean, deviation);
    };
    const std::int64_t tokens = out.add_byte_vocabulary();
    matrix("token_embd.weight", width, tokens); // the weights of the output, too
    if (shape.printable) {
        const std::int64_t bytes = tokens - 256; // then comes a token a byte
        out.clear_rows(0, bytes + '!');
        out.clear_rows(bytes + '~' + 1, tokens);
    }
    ones("output_norm.weight", width);
    for (std::size_t i = 0; i < shape.layers.size(); ++i) {
        block = "blk." + std::to_string(i) + ".";
        ones("attn_norm.weight", width);
        if (shape.layers[i] == 'm') {
            mamba("ssm_in.weight", {width, 2 * inner});
            mamba("ssm_conv1d.weight", {kernel, inner}, 0.0F, 0.5F);
            mamba("ssm_conv1d.bias", {inner});
            mamba("ssm_x.weight", {inner, rank + 2 * state});
            mamba("ssm_dt.weight", {rank, inner});
            mamba("ssm_dt.bias", {inner});
            mamba("ssm_a", {state, inner}, -1.0F); // negative: it decays
            mamba("ssm_d", {inner}, 1.0F);
            mamba("ssm_out.weight", {inner, width});
            if (attention) { // a Jamba's
                ones("ssm_dt_norm.weight", rank);
                ones("ssm_b_norm.weight", state);
                ones("ssm_c_norm.weight", state);
            }
        } else {
            matrix("attn_q.weight", width, width);
            matrix("attn_k.weight", width, kv_width);
            matrix("attn_v.weight", width, kv_width);
            matrix("attn_output.weight", width, width);
        }
        if (attention) {
            if (!windows)
                ones("ffn_norm.weight", width);
            matrix("ffn_gate.weight", width, ff);
            matrix("ffn_up.weight", width, ff);
            matrix("ffn_down.weight", ff, width);
        }
    }
    out.write(path);
}

/// A model of random weights in a file that lives as long as the object.
class TemporaryModel {
public:
    explicit TemporaryModel(const Shape& shape, std::uint32_t seed = 1) {
        static int count = 0;
        const std::string name =
            "promptkv_random_" + std::to_string(getpid()) + "_" + std::to_string(++count) + ".gguf";
        path_ = (std::filesystem::temp_directory_path() / name).string();
        write(path_, shape, seed);
    }
    TemporaryModel(const TemporaryModel&) = delete;
    TemporaryModel& operator=(const TemporaryModel&) = delete;
    ~TemporaryModel() {
        std::error_code ignored;
        std::filesystem::remove(path_, ignored);
    }

    [[nodiscard]] const std::string& path() const { return path_; }

private:
    std::string path_;
};

} // namespace random_model

#endif
