// SPDX-License-Identifier: MIT
// Serves one request, in any of the ways of ways.hpp, and measures it.
#ifndef PROMPTKV_EXAMPLES_LLAMA_SERVE_HPP
#define PROMPTKV_EXAMPLES_LLAMA_SERVE_HPP

#include "engine.hpp"
#include "ways.hpp"

#include <promptkv/tier.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <ctime>
#include <utility>
#include <vector>

/// A prompt and how it is to be answered.
struct Task {
    Tokens prompt;
    std::uint64_t user;        // from 1
    std::size_t system_tokens; // of the prompt, at its start
    std::size_t answer_tokens; // at most
    std::size_t first_choice;  // see Engine::generate
};

/// What one way of serving did with a request, or with several.
struct Served {
    using Seconds = std::chrono::duration<double>;

    Restored restored;
    std::size_t computed = 0; // tokens prefilled, those of the answer that is kept included
    std::size_t evictions = 0;
    Seconds prefill{};         // from the request to the logits of its first new token
    Seconds total{};           // with the answer and its keeping
    Seconds processor{};       // of the total, what it kept the processor busy
    std::vector<float> logits; // after the prompt
    Tokens answer;

    [[nodiscard]] bool same_answer(const Served& other) const {
        return answer == other.answer && logits.size() == other.logits.size() &&
               std::memcmp(logits.data(), other.logits.data(), logits.size() * sizeof(float)) == 0;
    }

    /// Adds the figures of another request.
    void add(const Served& other) {
        restored.reused += other.restored.reused;
        restored.from_store += other.restored.from_store;
        computed += other.computed;
        evictions += other.evictions;
        prefill += other.prefill;
        total += other.total;
        processor += other.processor;
    }
};

/// Serves a request and keeps the whole batches of its system prompt, its prompt and its answer, each
/// in its tier.
template <class Sequence, class Way>
Served serve(Engine& engine, Sequence& sequence, Way& way, const Task& task) {
    using Clock = std::chrono::steady_clock;
    const Clock::time_point begin = Clock::now();
    const std::clock_t processor_begin = std::clock();
    const std::size_t evictions_before = way.evictions();
    const auto whole_batches = [batch = engine.batch_tokens()](std::size_t length) {
        return length - length % batch;
    };
    const TokenSpan prompt = task.prompt;
    Served served;

    served.restored = way.restore(sequence, prompt);
    std::size_t done = served.restored.reused;
    const auto compute = [&](TokenSpan tokens) {
        if (tokens.size() > done) {
            engine.prefill(tokens, done);
            served.computed += tokens.size() - done;
            done = tokens.size();
        }
    };

    // A recurrent state is kept when the prefill is at its token: later the sequence is longer.
    for (const auto& [length, tier] : {std::pair(task.system_tokens, promptkv::Tier::system),
                                       std::pair(prompt.size() - 1, promptkv::Tier::user)}) {
        const std::size_t kept = whole_batches(length);
        if (kept > done || (kept > 0 && !Sequence::has_state)) {
            compute(prompt.first(kept));
            way.keep(sequence, prompt.first(kept), tier, task.user);
        }
    }
    compute(prompt);
    served.logits.assign(engine.logits().begin(), engine.logits().end());
    served.prefill = Clock::now() - begin;

    served.answer = engine.generate(prompt.size(), task.answer_tokens, task.first_choice);

    // The answer was computed token by token. Computed again in whole batches, its state is equal to
    // the bit to what the next turn would compute. The user does not wait for it.
    if constexpr (Way::keeps && !Sequence::has_state) {
        Tokens all = task.prompt;
        all.insert(all.end(), served.answer.begin(), served.answer.end());
        const TokenSpan kept = TokenSpan(all).first(whole_batches(all.size()));
        done = std::min(whole_batches(prompt.size()), kept.size());
        sequence.cut(done);
        compute(kept);
        if (!kept.empty())
            way.keep(sequence, kept, promptkv::Tier::assistant, task.user);
    }
    served.total = Clock::now() - begin;
    served.processor = Served::Seconds(static_cast<double>(std::clock() - processor_begin) /
                                       static_cast<double>(CLOCKS_PER_SEC));
    served.evictions = way.evictions() - evictions_before;
    return served;
}

#endif
