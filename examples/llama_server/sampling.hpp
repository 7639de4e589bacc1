// SPDX-License-Identifier: MIT
// How the next token of an answer is chosen.
#ifndef PROMPTKV_EXAMPLES_LLAMA_SERVER_SAMPLING_HPP
#define PROMPTKV_EXAMPLES_LLAMA_SERVER_SAMPLING_HPP

#include <llama.h>

#include <cstdint>
#include <memory>

namespace llama_server {

struct Sampling {
    float temperature = 0.8F; // 0: the most likely token
    float top_p = 0.95F;
    float min_p = 0.05F;
    std::int32_t top_k = 40;
    std::uint32_t seed = LLAMA_DEFAULT_SEED;
};

using Sampler = std::unique_ptr<llama_sampler, decltype(&llama_sampler_free)>;

inline Sampler make_sampler(const Sampling& options) {
    Sampler chain(llama_sampler_chain_init(llama_sampler_chain_default_params()),
                  llama_sampler_free);
    const auto add = [&](llama_sampler* sampler) { llama_sampler_chain_add(chain.get(), sampler); };
    if (options.temperature <= 0) {
        add(llama_sampler_init_greedy());
        return chain;
    }
    add(llama_sampler_init_top_k(options.top_k));
    add(llama_sampler_init_top_p(options.top_p, 1));
    add(llama_sampler_init_min_p(options.min_p, 1));
    add(llama_sampler_init_temp(options.temperature));
    add(llama_sampler_init_dist(options.seed));
    return chain;
}

} // namespace llama_server

#endif
