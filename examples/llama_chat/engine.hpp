// SPDX-License-Identifier: MIT
// The engine of the example: prompts in whole batches, greedy answers.
#ifndef PROMPTKV_EXAMPLES_LLAMA_ENGINE_HPP
#define PROMPTKV_EXAMPLES_LLAMA_ENGINE_HPP

#include "llama_context.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

/// A model and a context with two sequences: 0 is computed on, 1 is scratch.
///
/// Prompts are computed in batches that end at multiples of batch_tokens(). The result for a token can
/// depend, in its last bits, on the batch that the token was in. So the state of whole batches is equal,
/// to the bit, to the state that computing the prompt anew gives.
class Engine {
public:
    struct Options {
        std::uint32_t context_tokens = 4096;
        std::uint32_t batch_tokens = 32;
        int threads = 1;
        ggml_type kv_type = GGML_TYPE_F16;
        llama_flash_attn_type flash_attention = LLAMA_FLASH_ATTN_TYPE_ENABLED;
    };

    /// Throws:     std::runtime_error if the model cannot be loaded.
    Engine(const std::string& model_file, const Options& options)
        : llama_(model_file, params_of(options)), batch_tokens_(options.batch_tokens) {}

    // computing ///////////////////////////////////////////////////////////////////////////////////

    /// Computes tokens [from, tokens.size()) of a prompt whose first `from` are in the sequence.
    /// Throws:     std::runtime_error if the engine fails.
    void prefill(std::span<const llama_token> tokens, std::size_t from) {
        while (from < tokens.size()) {
            const std::size_t to =
                std::min(tokens.size(), (from / batch_tokens_ + 1) * batch_tokens_);
            decode(tokens.subspan(from, to - from), from);
            from = to;
        }
    }

    /// The most likely next tokens, up to `count` of them or an end of generation. All but the last
    /// are in the sequence afterwards.
    /// `first_choice`: 0 begins with the most likely token, 1 with the runner-up, and so on.
    /// Requires:   the last thing that was computed is the end of the sequence, at `position`.
    Tokens generate(std::size_t position, std::size_t count, std::size_t first_choice = 0) {
        Tokens answer;
        while (answer.size() < count) {
            const llama_token token = choose(answer.empty() ? first_choice : 0);
            if (text().ends(token))
                break;
            answer.push_back(token);
            if (answer.size() < count)
                decode({&token, 1}, position++);
        }
        return answer;
    }

    /// Logits after the last token that was computed.
    /// Invalidates the span: the next computation.
    [[nodiscard]] std::span<const float> logits() {
        return {llama_get_logits_ith(llama_.get(), -1),
                static_cast<std::size_t>(text().vocabulary_size())};
    }

    // observers ///////////////////////////////////////////////////////////////////////////////////

    [[nodiscard]] llama_context* context() { return llama_.get(); }
    [[nodiscard]] const llama_model* model() const { return llama_.model(); }
    [[nodiscard]] const LlamaText& text() const { return llama_.text(); }
    [[nodiscard]] std::size_t batch_tokens() const { return batch_tokens_; }
    [[nodiscard]] const std::string& model_key() const { return llama_.model_key(); }

private:
    static llama_context_params params_of(const Options& options) {
        llama_context_params params = llama_context_default_params();
        params.n_ctx = options.context_tokens;
        params.n_batch = options.batch_tokens;
        params.n_seq_max = 2;
        params.n_threads = options.threads;
        params.type_k = options.kv_type;
        params.type_v = options.kv_type;
        params.flash_attn_type = options.flash_attention;
        return params;
    }

    /// Computes `tokens` at `position` in one batch; the last one's logits are kept.
    void decode(std::span<const llama_token> tokens, std::size_t position) {
        for (std::size_t i = 0; i < tokens.size(); ++i)
            llama_.add(tokens[i], position + i, 0, i + 1 == tokens.size());
        if (!llama_.compute())
            throw std::runtime_error("llama.cpp could not compute a batch");
    }

    /// The token of rank `rank` by likelihood; equal ones in the order of the vocabulary.
    [[nodiscard]] llama_token choose(std::size_t rank) {
        const std::span<const float> scores = logits();
        std::vector<llama_token> order(scores.size());
        for (std::size_t i = 0; i < order.size(); ++i)
            order[i] = static_cast<llama_token>(i);
        const auto nth = order.begin() + static_cast<std::ptrdiff_t>(rank);
        std::nth_element(order.begin(), nth, order.end(), [&](llama_token a, llama_token b) {
            const float score_a = scores[static_cast<std::size_t>(a)];
            const float score_b = scores[static_cast<std::size_t>(b)];
            return score_a != score_b ? score_a > score_b : a < b;
        });
        return *nth;
    }

    LlamaContext llama_;
    std::size_t batch_tokens_;
};

#endif
