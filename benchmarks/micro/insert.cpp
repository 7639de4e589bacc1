// SPDX-License-Identifier: MIT
// Inserts against `memcmp` of what is shared and allocation and `memcpy` of what is new.
#include "interleave.hpp"
#include "prompts.hpp"

#include <algorithm>
#include <cstdlib>
#include <string>

namespace bench {
namespace {

/// What an insert must do at least, many times over: compare the first tokens, keep the others.
class Bound {
public:
    Bound(const std::vector<Prompt>& prompts, std::size_t shared)
        : prompts_(prompts), copies_(prompts), kept_(prompts.size()), shared_(shared) {}

    void keep(std::size_t i) {
        const Prompt& prompt = prompts_[i];
        benchmark::DoNotOptimize(same(prompt, copies_[i], shared_));
        const std::size_t bytes = (prompt.size() - shared_) * sizeof(Token);
        kept_[i] = std::malloc(bytes);
        std::memcpy(kept_[i], prompt.data() + shared_, bytes);
        benchmark::DoNotOptimize(kept_[i]);
    }

    void drop() {
        for (void*& block : kept_) {
            std::free(block);
            block = nullptr;
        }
    }

private:
    const std::vector<Prompt>& prompts_;
    std::vector<Prompt> copies_;
    std::vector<void*> kept_;
    std::size_t shared_;
};

/// How many keys of `n` tokens are inserted in a batch: what stays warm, as far as that goes.
std::size_t batch_of(std::size_t n) {
    return std::clamp<std::size_t>(65'536 / n, 4, 64);
}

/// Each new key shares its beginning with a stored key of its own.
void branch(benchmark::State& state, std::size_t n, std::size_t shared_percent) {
    const std::size_t shared = n * shared_percent / 100;
    const std::size_t batch = batch_of(n);
    Cache<Cuttable> cache;
    std::vector<Prompt> prompts = prompts_of(batch, n);
    for (Prompt& prompt : prompts) {
        store(cache, prompt);
        const std::uint64_t seed = static_cast<std::uint64_t>(prompt.back()) << 8U;
        prompt.resize(shared);
        prompt.push_back(unseen);
        append_tokens(prompt, seed, n - shared - 1);
    }
    const auto insert = [&](std::size_t i) { store(cache, prompts[i]); };
    const auto undo = [&] {
        require(cache.size() == 2 * batch, "keys that branch off stored");
        for (const Prompt& prompt : prompts) {
            cache.erase(model, prompt);
        }
        require(cache.size() == batch, "keys that branch off erased");
    };
    Bound bound(prompts, shared);
    const Paired times = interleave(
        state, batch, insert, undo, [&](std::size_t i) { bound.keep(i); }, [&] { bound.drop(); });
    Allowance allowance{.factor = 2, .extra_ns = 500};
    if (shared_percent == 50) {
        allowance.target = "insert of " + std::to_string(n) + " tokens half shared [ns]";
    }
    report(state, times, allowance);
}

/// A turn: an eighth is new, and the entry that it continues is absorbed.
void turn(benchmark::State& state, std::size_t n) {
    const std::size_t shared = n - n / 8;
    const std::size_t batch = batch_of(n);
    Cache<Cuttable> cache;
    const std::vector<Prompt> prompts = prompts_of(batch, n);
    std::vector<Prompt> before = prompts;
    for (Prompt& prompt : before) {
        prompt.resize(shared);
        store(cache, prompt);
    }
    const auto undo = [&] {
        require(cache.size() == batch && cache.nbytes() == batch * n, "turns absorb");
        for (std::size_t i = 0; i < batch; ++i) {
            cache.erase(model, prompts[i]);
            store(cache, before[i]);
        }
    };
    Bound bound(prompts, shared);
    const Paired times = interleave(
        state, batch, [&](std::size_t i) { store(cache, prompts[i]); }, undo,
        [&](std::size_t i) { bound.keep(i); }, [&] { bound.drop(); });
    report(state, times, {.factor = 2, .extra_ns = 500});
}

/// New prompts into a full cache: each insert evicts an entry.
void into_full(benchmark::State& state, std::size_t n, std::size_t entries) {
    Cache<Cuttable> cache({.max_entries = entries});
    std::uint64_t next = 0;
    for (std::size_t i = 0; i < entries; ++i) {
        store(cache, prompt_of(next++, n));
    }
    std::vector<Prompt> prompts(32);
    const auto choose = [&] {
        require(cache.size() == entries, "full cache stays full");
        for (Prompt& prompt : prompts) {
            prompt = prompt_of(next++, n);
        }
    };
    choose();
    Bound bound(prompts, 0);
    const Paired times = interleave(
        state, prompts.size(), [&](std::size_t i) { store(cache, prompts[i]); }, choose,
        [&](std::size_t i) { bound.keep(i); }, [&] { bound.drop(); });
    report(state, times, {.factor = 2, .extra_ns = 800});
}

} // namespace

void add_inserts(const Effort& effort) {
    for (const std::size_t n : {128U, 1'024U, 4'096U, 32'768U, 131'072U}) {
        for (const std::size_t shared : {0U, 50U, 99U}) {
            add(effort, "insert", "shared " + std::to_string(shared) + " %", n,
                [=](benchmark::State& state) { branch(state, n, shared); });
        }
        add(effort, "insert", "turn", n, [=](benchmark::State& state) { turn(state, n); });
    }
    for (const std::size_t entries : {100U, 1'000U, 10'000U, 100'000U, 1'000'000U}) {
        add(effort, "insert_entries", "128 tokens full", entries,
            [=](benchmark::State& state) { into_full(state, 128, entries); });
    }
}

} // namespace bench
