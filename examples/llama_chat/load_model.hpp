// SPDX-License-Identifier: MIT
// load_model: a model of llama.cpp, with the backends that this build knows.
#ifndef PROMPTKV_EXAMPLES_LLAMA_LOAD_MODEL_HPP
#define PROMPTKV_EXAMPLES_LLAMA_LOAD_MODEL_HPP

#include <llama.h>

#include <cstdio>
#include <stdexcept>
#include <string>

/// Loads a model; the first call loads the backends, and keeps all but errors out of the log. The caller
/// frees the model with llama_model_free.
/// Throws:     std::runtime_error if the model cannot be loaded.
inline llama_model* load_model(const std::string& file) {
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
    llama_model_params params = llama_model_default_params();
    llama_model* model = llama_model_load_from_file(file.c_str(), params);
    if (model == nullptr)
        throw std::runtime_error("llama.cpp could not load " + file);
    return model;
}

#endif
