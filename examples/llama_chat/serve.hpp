// SPDX-License-Identifier: MIT
// Serving one request, in any of the ways of ways.hpp, and what came of it.
#ifndef PROMPTKV_EXAMPLES_SERVE_HPP
#define PROMPTKV_EXAMPLES_SERVE_HPP

#include "engine.hpp"
#include "ways.hpp"

#include <promptkv/tier.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstring>
#include <ctime>
#include <functional>
#include <span>
#include <utility>
#include <vector>

/// A prompt and how it is to be answered.
struct Task {
    Tokens prompt;
    std::size_t system_tokens; // of the prompt, at its start
    std::size_t answer_tokens; // at most
    std::size_t first_choice;  // see Engine::generate
};

/// What one way of serving did with a request.
struct Served {
    using Seconds = std::chrono::duration<double>;

    Restored restored;
    std::size_t computed = 0; // tokens prefilled, those of the answer that is kept included
    std::size_t evictions = 0;
    Seconds prefill{};         // from the request to the logits of its first new token
    Seconds total{};           // with the answer, and with what is kept of it
    Seconds processor{};       // of the total, what it kept the processor busy
    std::vector<float> logits; // after the prompt
    Tokens answer;

    [[nodiscard]] bool same_answer(const Served& other) const {
        return answer == other.answer && logits.size() == other.logits.size() &&
               std::memcmp(logits.data(), other.logits.data(), logits.size() * sizeof(float)) == 0;
    }
};

/// Serves a request and keeps the whole batches of its system prompt, its prompt and its answer, each
/// in its tier. `progress(done, total)` is called as tokens are computed.
template <class Port, class Way>
Served serve(Engine& engine, Port& port, Way& way, const Task& task,
             const std::function<void(std::size_t, std::size_t)>& progress) {
    using Clock = std::chrono::steady_clock;
    const Clock::time_point begin = Clock::now();
    const std::clock_t processor_begin = std::clock();
    const std::size_t evictions_before = way.evictions();
    const std::size_t batch = engine.batch_tokens();
    const auto whole_batches = [batch](std::size_t length) { return length - length % batch; };
    const std::span<const llama_token> prompt = task.prompt;
    Served served;

    served.restored = way.restore(port, prompt, batch);
    std::size_t done = served.restored.reused;
    const auto compute = [&](std::span<const llama_token> tokens) {
        if (tokens.size() > done) {
            const std::size_t total = std::max(tokens.size(), prompt.size());
            engine.prefill(tokens, done, [&](std::size_t n) { progress(n, total); });
            served.computed += tokens.size() - done;
            done = tokens.size();
        }
    };

    // State that cannot be cut is kept on the way: later it is that of a longer prompt.
    for (const auto& [length, tier] : {std::pair(task.system_tokens, promptkv::Tier::system),
                                       std::pair(prompt.size() - 1, promptkv::Tier::user)}) {
        const std::size_t kept = whole_batches(length);
        if (kept > done || (Port::can_cut && kept > 0)) {
            compute(prompt.first(kept));
            way.keep(port, prompt.first(kept), tier);
        }
    }
    compute(prompt);
    served.logits.assign(engine.logits().begin(), engine.logits().end());
    served.prefill = Clock::now() - begin;

    served.answer = engine.generate(prompt.size(), task.answer_tokens, task.first_choice);

    // The answer was computed token by token. Computed again in whole batches it can be kept: the
    // next turn gets, to the bit, what it would compute itself. The user does not wait for it.
    if constexpr (Port::can_cut && Way::keeps) {
        Tokens all = task.prompt;
        all.insert(all.end(), served.answer.begin(), served.answer.end());
        const auto kept = std::span<const llama_token>(all).first(whole_batches(all.size()));
        done = std::min(whole_batches(prompt.size()), kept.size());
        port.cut(done);
        compute(kept);
        if (!kept.empty()) {
            way.keep(port, kept, promptkv::Tier::assistant);
        }
    }
    served.total = Clock::now() - begin;
    served.processor = Served::Seconds(static_cast<double>(std::clock() - processor_begin) /
                                       static_cast<double>(CLOCKS_PER_SEC));
    served.evictions = way.evictions() - evictions_before;
    return served;
}

#endif
