// SPDX-License-Identifier: MIT
// LlamaContext: a model of llama.cpp and a context of several sequences, which computes batches.
#ifndef PROMPTKV_EXAMPLES_LLAMA_CONTEXT_HPP
#define PROMPTKV_EXAMPLES_LLAMA_CONTEXT_HPP

#include "llama_text.hpp"
#include "model_key.hpp"

#include <llama-cpp.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <stdexcept>
#include <string>

/// Loads a model; the first call loads the backends that this build knows, and keeps all but errors out of
/// the log.
/// Throws:     std::runtime_error if the model cannot be loaded.
inline llama_model_ptr load_model(const std::string& file) {
    static const bool backends_loaded = [] {
        llama_log_set(
            [](ggml_log_level level, const char* message, void*) {
                if (level == GGML_LOG_LEVEL_ERROR)
                    std::fputs(message, stderr);
            },
            nullptr);
#ifdef PROMPTKV_LLAMA_BACKENDS
        ggml_backend_load_all_from_path(PROMPTKV_LLAMA_BACKENDS);
#else
        ggml_backend_load_all();
#endif
        return true;
    }();
    static_cast<void>(backends_loaded);
    llama_model_ptr model(llama_model_load_from_file(file.c_str(), llama_model_default_params()));
    if (model == nullptr)
        throw std::runtime_error("llama.cpp could not load " + file);
    return model;
}

/// A model with a context whose sequences llama_kv::Sequence can copy, and the batch that is computed next.
class LlamaContext {
public:
    /// `params`: n_ctx, n_batch, n_seq_max and n_threads at least; what follows from these is set here.
    /// Throws:     std::runtime_error if the model cannot be loaded.
    LlamaContext(const std::string& model_file, llama_context_params params)
        : model_(load_model(model_file)), text_(model_.get()) {
        params.n_ubatch = params.n_batch;
        params.n_threads_batch = params.n_threads;
        params.kv_unified = true; // the sequences share cells
        params.swa_full = true;   // sliding windows are not pruned, so that they can be cut
        context_.reset(llama_init_from_model(model_.get(), params));
        if (context_ == nullptr)
            throw std::runtime_error("llama.cpp made no context for " + model_file);
        model_key_ = llama_kv::model_key(model_file, params);
        batch_ = llama_batch_init(static_cast<std::int32_t>(params.n_batch), 0, 1);
    }

    LlamaContext(const LlamaContext&) = delete;
    LlamaContext& operator=(const LlamaContext&) = delete;
    ~LlamaContext() { llama_batch_free(batch_); }

    /// Adds a token to the batch, and returns its place there. `wants_logits`: after this token.
    /// Requires:   the batch has less than n_batch tokens.
    std::int32_t add(llama_token token, std::size_t position, llama_seq_id sequence,
                     bool wants_logits) {
        const std::int32_t i = batch_.n_tokens++;
        batch_.token[i] = token;
        batch_.pos[i] = static_cast<llama_pos>(position);
        batch_.n_seq_id[i] = 1;
        batch_.seq_id[i][0] = sequence;
        batch_.logits[i] = static_cast<std::int8_t>(wants_logits);
        return i;
    }
    [[nodiscard]] bool batch_empty() const { return batch_.n_tokens == 0; }
    /// Computes the batch, which is empty then. False: the engine failed.
    [[nodiscard]] bool compute() {
        const bool computed = llama_decode(context_.get(), batch_) == 0;
        batch_.n_tokens = 0;
        return computed;
    }

    [[nodiscard]] llama_context* get() { return context_.get(); }
    [[nodiscard]] const llama_model* model() const { return model_.get(); }
    [[nodiscard]] const LlamaText& text() const { return text_; }
    /// Equal only where the state of one context can serve another.
    [[nodiscard]] const std::string& model_key() const { return model_key_; }

private:
    llama_model_ptr model_;
    LlamaText text_;
    llama_context_ptr context_;
    std::string model_key_;
    llama_batch batch_{};
};

#endif
