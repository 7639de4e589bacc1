// SPDX-License-Identifier: MIT
// The workload of the baselines: chats that share a few system prompts, and what each request costs.
#ifndef PROMPTKV_BENCHMARKS_WORKLOAD_HPP
#define PROMPTKV_BENCHMARKS_WORKLOAD_HPP

#include "../micro/targets.hpp"
#include "prefix_store.hpp"

#include <chrono>
#include <random>
#include <utility>
#include <vector>

namespace baselines {

using Prompt = std::vector<Token>;

inline void append_random(Prompt& prompt, std::size_t n, std::mt19937_64& random) {
    std::uniform_int_distribution<Token> token(0, 127'999); // a vocabulary of today
    for (std::size_t i = 0; i < n; ++i)
        prompt.push_back(token(random));
}

struct Request {
    Prompt prompt; // what is asked
    Prompt stored; // the prompt and what was generated
};

/// 100 conversations in turn, 10 turns each, on 4 system prompts of 2,000 tokens; a turn adds 300
/// tokens of the user's and 200 generated ones.
inline std::vector<Request> chats() {
    std::mt19937_64 random(1);
    std::vector<Prompt> systems(4);
    for (Prompt& system : systems)
        append_random(system, 2'000, random);
    std::vector<Prompt> conversations;
    for (std::size_t i = 0; i < 100; ++i)
        conversations.push_back(systems[i % systems.size()]);
    std::vector<Request> requests;
    for (int turn = 0; turn < 10; ++turn) {
        for (Prompt& conversation : conversations) {
            Request request;
            append_random(conversation, 300, random);
            request.prompt = conversation;
            append_random(conversation, 200, random);
            request.stored = conversation;
            requests.push_back(std::move(request));
        }
    }
    return requests;
}

/// Times in microseconds.
class Samples {
public:
    void add(std::chrono::steady_clock::duration time) {
        times_.push_back(std::chrono::duration<double, std::micro>(time).count());
    }

    void append(const Samples& other) {
        times_.insert(times_.end(), other.times_.begin(), other.times_.end());
    }

    double quantile(double p) const { return bench::quantile(times_, p); }

private:
    std::vector<double> times_;
};

struct Measured {
    Samples lookup;
    Samples insert;
    Samples evict; // of 500 tokens
    std::size_t tokens_requested = 0;
    std::size_t tokens_reused = 0;

    double hit_ratio() const {
        return tokens_requested == 0
                   ? 0
                   : static_cast<double>(tokens_reused) / static_cast<double>(tokens_requested);
    }
};

/// Serves `requests` from `store`, evicting 500 tokens at a time while it holds more than
/// `max_tokens`.
inline Measured serve(PrefixStore& store, const std::vector<Request>& requests,
                      std::size_t max_tokens) {
    using Clock = std::chrono::steady_clock;
    Measured measured;
    Prompt tokens; // as in an engine: written just before they are looked up
    for (const Request& request : requests) {
        tokens = request.prompt;
        const Clock::time_point start = Clock::now();
        measured.tokens_reused += store.lookup(tokens);
        const Clock::time_point found = Clock::now();
        tokens = request.stored;
        const Clock::time_point generated = Clock::now();
        store.insert(tokens);
        const Clock::time_point stored = Clock::now();
        measured.lookup.add(found - start);
        measured.insert.add(stored - generated);
        measured.tokens_requested += request.prompt.size();
        while (store.tokens_held() > max_tokens) {
            const Clock::time_point before = Clock::now();
            store.evict(500);
            measured.evict.add(Clock::now() - before);
        }
    }
    return measured;
}

} // namespace baselines

#endif
