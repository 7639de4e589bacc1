// SPDX-License-Identifier: MIT
// Throughput of several threads: ConcurrentPromptCache beside LRUPromptCache behind one mutex.
//
// usage: promptkv_threads [REPETITIONS [FOLDER]]
// Writes FOLDER/threads.csv.
#include "prompts.hpp"
#include "targets.hpp"

#include <promptkv/concurrent_prompt_cache.hpp>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace {

using bench::median;
using bench::model;
using bench::Prompt;
using bench::prompt_of;
using bench::quantile;
using bench::quotients;
using bench::Random;
using bench::unseen;
using promptkv::Tier;

constexpr std::size_t n_tokens = 2'048; // of each key
constexpr std::size_t shared = 1'024;   // of these, common to all
constexpr std::size_t conversations = 32;
constexpr std::size_t one_offs = 64; // more than conversations: so the tier rule evicts these alone

/// State that owns `bytes_per_token` for each token; a clone copies them.
class State {
public:
    State(std::size_t tokens, std::size_t bytes_per_token)
        : tokens_(tokens), bytes_per_token_(bytes_per_token),
          memory_(new std::byte[tokens * bytes_per_token]) {
        std::memset(memory_.get(), 1, nbytes());
    }

    [[nodiscard]] std::size_t nbytes() const noexcept { return tokens_ * bytes_per_token_; }
    [[nodiscard]] std::size_t reusable_prefix(std::size_t n) const noexcept { return n; }
    [[nodiscard]] State clone_prefix(std::size_t n) const { return {*this, n}; }

private:
    State(const State& whole, std::size_t n)
        : tokens_(n), bytes_per_token_(whole.bytes_per_token_),
          memory_(new std::byte[n * whole.bytes_per_token_]) {
        std::memcpy(memory_.get(), whole.memory_.get(), nbytes());
    }

    std::size_t tokens_;
    std::size_t bytes_per_token_;
    std::unique_ptr<std::byte[]> memory_;
};

/// What a caller does without ConcurrentPromptCache.
class OneMutex {
public:
    explicit OneMutex(promptkv::LRUPromptCache<State>::Options options) : cache_(options) {}

    auto fetch_nearest(std::string_view in, const Prompt& prompt) {
        const std::lock_guard lock(mutex_);
        return cache_.fetch_nearest(in, prompt);
    }
    auto insert(std::string_view in, const Prompt& prompt, State&& state, Tier tier) {
        const std::lock_guard lock(mutex_);
        return cache_.insert(in, prompt, std::move(state), tier);
    }

private:
    std::mutex mutex_;
    promptkv::LRUPromptCache<State> cache_;
};

/// Three calls in four fetch the state of a conversation. The fourth stores a key that is never asked
/// for again, and evicts such a key.
///
/// Returns: calls a second, of all threads together.
template <class Cache>
double throughput(std::size_t n_threads, std::size_t calls, std::size_t bytes_per_token) {
    Cache cache({.max_entries = conversations + one_offs});
    std::vector<Prompt> prompts;
    for (std::size_t i = 0; i < conversations; ++i) {
        Prompt prompt = prompt_of(i, n_tokens, shared);
        cache.insert(model, prompt, State(n_tokens, bytes_per_token), Tier::system);
        prompt.push_back(unseen);
        prompts.push_back(std::move(prompt));
    }
    std::atomic<std::size_t> ready = 0;
    std::atomic<bool> go = false;
    std::atomic<std::size_t> wrong = 0;
    std::vector<std::jthread> threads;
    for (std::size_t t = 0; t < n_threads; ++t) {
        threads.emplace_back([&, t] {
            Random random(t + 1);
            Prompt one_off = prompt_of(conversations, n_tokens, shared);
            ++ready;
            while (!go)
                std::this_thread::yield();
            for (std::size_t i = 0; i < calls; ++i) {
                if (i % 4 != 3) {
                    const Prompt& prompt = prompts[random.below(conversations)];
                    wrong += cache.fetch_nearest(model, prompt).reused() == n_tokens ? 0U : 1U;
                    continue;
                }
                one_off[shared] = static_cast<bench::Token>(unseen + 1 + t * calls + i);
                const auto inserted =
                    cache.insert(model, one_off, State(n_tokens, bytes_per_token), Tier::assistant);
                wrong += inserted.outcome == promptkv::Outcome::stored ? 0U : 1U;
            }
        });
    }
    while (ready < n_threads)
        std::this_thread::yield();
    const auto start = std::chrono::steady_clock::now();
    go = true;
    threads.clear(); // joins
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
    if (wrong != 0) {
        std::fprintf(stderr, "wrong result: %zu calls among threads\n", wrong.load());
        std::exit(EXIT_FAILURE);
    }
    return static_cast<double>(n_threads * calls) / time.count();
}

} // namespace

int main(int argc, char** argv) {
    const std::size_t repetitions = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 15;
    const std::string folder = argc > 2 ? argv[2] : ".";
    std::ofstream csv(folder + "/threads.csv");
    csv << "state_bytes,threads,one_mutex_calls_per_s,concurrent_calls_per_s,ratio,ratio_p10,"
           "ratio_p90\n";
    std::printf("%u cores\n%12s %8s %18s %18s %20s\n", std::thread::hardware_concurrency(),
                "state bytes", "threads", "one mutex calls/s", "concurrent calls/s",
                "ratio (p10 to p90)");
    for (const std::size_t bytes_per_token : {0U, 32U, 512U}) {
        const std::size_t calls = bytes_per_token == 0    ? 100'000
                                  : bytes_per_token < 100 ? 5'000
                                                          : 250;
        for (const std::size_t n_threads : {1U, 2U, 4U}) {
            std::vector<double> one_mutex;
            std::vector<double> concurrent;
            for (std::size_t i = 0; i < repetitions; ++i) {
                one_mutex.push_back(throughput<OneMutex>(n_threads, calls, bytes_per_token));
                concurrent.push_back(throughput<promptkv::ConcurrentPromptCache<State>>(
                    n_threads, calls, bytes_per_token));
            }
            const std::vector<double> ratios = quotients(concurrent, one_mutex);
            std::printf("%12zu %8zu %18.0f %18.0f %8.2f (%.2f to %.2f)\n",
                        n_tokens * bytes_per_token, n_threads, median(one_mutex),
                        median(concurrent), median(ratios), quantile(ratios, 0.1),
                        quantile(ratios, 0.9));
            csv << n_tokens * bytes_per_token << ',' << n_threads << ',' << median(one_mutex) << ','
                << median(concurrent) << ',' << median(ratios) << ',' << quantile(ratios, 0.1)
                << ',' << quantile(ratios, 0.9) << '\n';
        }
    }
    return EXIT_SUCCESS;
}
