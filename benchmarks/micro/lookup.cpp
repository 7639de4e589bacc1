// SPDX-License-Identifier: MIT
// Lookups against `memcmp` of the same tokens: by length, entries, models and depth, warm and cold.
#include "interleave.hpp"
#include "prompts.hpp"

#include <algorithm>
#include <map>
#include <string>

namespace bench {
namespace {

struct Probe {
    static constexpr const char* name = "probe";
    template <class KV>
    static std::size_t reused(Cache<KV>& cache, const Prompt& prompt, std::string_view in = model) {
        return cache.probe(in, prompt, {.min_remaining = 0}).reused;
    }
};

struct Lease {
    static constexpr const char* name = "lease";
    template <class KV>
    static std::size_t reused(Cache<KV>& cache, const Prompt& prompt, std::string_view in = model) {
        return cache.lease_nearest(in, prompt, {.min_remaining = 0}).reused;
    }
};

/// A stored key, asked for again and again, among a hundred that share some of it.
template <class Ask>
void warm(benchmark::State& state, std::size_t n, std::size_t shared_percent) {
    Cache<Cuttable> cache;
    for (const Prompt& key : prompts_of(100, n, n * shared_percent / 100)) {
        store(cache, key);
    }
    const Prompt prompt = prompt_of(50, n, n * shared_percent / 100);
    const Prompt copy = prompt;
    require(Ask::reused(cache, prompt) == n, "warm lookup");
    const Paired times = interleave(
        state, [&](std::size_t) { benchmark::DoNotOptimize(Ask::reused(cache, prompt)); },
        [&](std::size_t) { benchmark::DoNotOptimize(same(prompt, copy, n)); });
    Allowance allowance{.factor = 1.3, .extra_ns = 150};
    if (n == 4'096) {
        allowance.target = std::string(Ask::name) + " of 4096 tokens " +
                           std::to_string(shared_percent) + " % shared [ns]";
    }
    report(state, times, allowance);
}

/// Keys that left the caches of the core: each is asked for once before any is asked for again.
template <class Ask>
void cold(benchmark::State& state, std::size_t n, std::size_t entries) {
    Cache<Cuttable> cache;
    std::vector<Prompt> prompts = prompts_of(entries, n);
    for (const Prompt& key : prompts) {
        store(cache, key);
    }
    const std::vector<Prompt> copies = prompts;
    std::vector<std::size_t> order;
    for (std::size_t i = 0; i < entries; ++i) {
        order.push_back(i);
    }
    Random random(7);
    for (std::size_t i = entries; i > 1; --i) {
        std::swap(order[i - 1], order[random.below(static_cast<std::uint32_t>(i))]);
    }
    require(Ask::reused(cache, prompts[order[0]]) == n, "cold lookup");
    std::size_t turn = 0;
    std::size_t bound_turn = entries / 2; // far from where the lookups are
    const auto nothing = [] {};
    const Paired times = interleave(
        state, 64,
        [&](std::size_t) {
            benchmark::DoNotOptimize(Ask::reused(cache, prompts[order[turn++ % entries]]));
        },
        nothing,
        [&](std::size_t) {
            const std::size_t i = order[bound_turn++ % entries];
            benchmark::DoNotOptimize(same(prompts[i], copies[i], n));
        },
        nothing);
    report(state, times, {.factor = 1.3, .extra_ns = 150});
}

/// A conversation that goes on, one that branches off a stored key, and one that is not known.
template <class Ask>
void relation(benchmark::State& state, std::size_t n, const std::string& kind) {
    Cache<Cuttable> cache;
    for (const Prompt& key : prompts_of(100, n)) {
        store(cache, key);
    }
    Prompt prompt = prompt_of(50, n);
    std::size_t expected = n;
    if (kind == "goes on") {
        append_tokens(prompt, 1, n / 8);
    } else if (kind == "branches off") {
        prompt[n / 2] = unseen;
        expected = n / 2;
    } else {
        prompt[0] = unseen;
        expected = 0;
    }
    const Prompt copy = prompt;
    require(Ask::reused(cache, prompt) == expected, "lookup of a related prompt");
    const Paired times = interleave(
        state, [&](std::size_t) { benchmark::DoNotOptimize(Ask::reused(cache, prompt)); },
        [&](std::size_t) { benchmark::DoNotOptimize(same(prompt, copy, expected)); });
    report(state, times, {.factor = 1.3, .extra_ns = 150});
}

/// Returns: a cache of short prompts, 16 of 128 and 16 of 4,096 tokens among them; kept.
Cache<Cuttable>& cache_of(std::size_t entries) {
    static std::map<std::size_t, Cache<Cuttable>> caches;
    const auto [cache, is_new] = caches.try_emplace(entries);
    if (is_new) {
        for (std::size_t i = 0; i < 16; ++i) {
            store(cache->second, prompt_of(i, 128));
            store(cache->second, prompt_of(100 + i, 4'096));
        }
        for (std::size_t i = cache->second.size(); i < entries; ++i) {
            store(cache->second, prompt_of(1'000 + i, 64));
        }
        require(cache->second.size() == entries, "entries stored");
    }
    return cache->second;
}

/// The same few keys in a large cache and in one of a hundred entries.
template <class Ask>
void by_entries(benchmark::State& state, std::size_t n, std::size_t entries) {
    Cache<Cuttable>& small = cache_of(100);
    Cache<Cuttable>& large = cache_of(entries);
    std::vector<Prompt> prompts;
    for (std::size_t i = 0; i < 16; ++i) {
        prompts.push_back(prompt_of(n == 128 ? i : 100 + i, n));
        require(Ask::reused(large, prompts.back()) == n, "lookup among many");
        require(Ask::reused(small, prompts.back()) == n, "lookup among few");
    }
    const auto ask = [&prompts](Cache<Cuttable>& cache) {
        return [&prompts, &cache](std::size_t i) {
            benchmark::DoNotOptimize(Ask::reused(cache, prompts[i % 16]));
        };
    };
    const auto nothing = [] {};
    const Paired times = interleave(state, 128, ask(large), nothing, ask(small), nothing);
    Allowance allowance{.factor = 3};
    if (entries == 1'000'000) {
        allowance.target = std::string(Ask::name) + " of " + std::to_string(n) +
                           " tokens among 1000000 entries against 100 [ns]";
    }
    report(state, times, allowance);
}

/// Short prompts of a large cache in random order: every one is cold.
template <class Ask>
void by_entries_cold(benchmark::State& state, std::size_t entries) {
    Cache<Cuttable>& cache = cache_of(entries);
    Random random(9);
    std::vector<Prompt> prompts(64);
    static const std::vector<Prompt> copies(500'000, prompt_of(0, 64)); // 128 MB
    const auto choose = [&] {
        for (Prompt& prompt : prompts) {
            const auto i = random.below(static_cast<std::uint32_t>(entries - 32));
            prompt = prompt_of(1'000 + 32 + i, 64);
        }
    };
    choose();
    require(Ask::reused(cache, prompts[0]) == 64, "cold lookup among many");
    const Paired times = interleave(
        state, prompts.size(),
        [&](std::size_t i) { benchmark::DoNotOptimize(Ask::reused(cache, prompts[i])); }, choose,
        [&](std::size_t i) {
            const auto k = random.below(static_cast<std::uint32_t>(copies.size()));
            benchmark::DoNotOptimize(same(prompts[i], copies[k], 64));
        },
        [] {});
    report(state, times, {.factor = 1.3, .extra_ns = 150});
}

/// One entry in each of many models.
template <class Ask>
void by_models(benchmark::State& state, std::size_t models) {
    constexpr std::size_t n = 1'024;
    Cache<Cuttable> cache;
    const Prompt prompt = prompt_of(0, n);
    const Prompt copy = prompt;
    std::vector<std::string> names;
    for (std::size_t i = 0; i < models; ++i) {
        names.push_back("llama-3.2-1b-instruct/" + std::to_string(i));
        store(cache, i % 16 == 0 ? prompt : prompt_of(i, 16), names.back());
    }
    const std::string_view name = names[models / 2 / 16 * 16];
    require(Ask::reused(cache, prompt, name) == n, "lookup in one model of many");
    const Paired times = interleave(
        state, [&](std::size_t) { benchmark::DoNotOptimize(Ask::reused(cache, prompt, name)); },
        [&](std::size_t) { benchmark::DoNotOptimize(same(prompt, copy, n)); });
    report(state, times, {.factor = 1.3, .extra_ns = 150});
}

/// Nested entries: each key is a prefix of the next, and none can serve another.
template <class Ask>
void by_depth(benchmark::State& state, std::size_t depth) {
    constexpr std::size_t n = 4'096;
    Cache<Whole> cache;
    const Prompt prompt = prompt_of(0, n);
    const Prompt copy = prompt;
    for (std::size_t i = 1; i <= depth; ++i) {
        const Prompt key(prompt.begin(),
                         prompt.begin() + static_cast<std::ptrdiff_t>(i * n / depth));
        require(store(cache, key) == promptkv::Outcome::stored, "nested entry stored");
    }
    require(cache.size() == depth, "nested entries kept");
    require(Ask::reused(cache, prompt) == n, "lookup below nested entries");
    const Paired times = interleave(
        state, [&](std::size_t) { benchmark::DoNotOptimize(Ask::reused(cache, prompt)); },
        [&](std::size_t) { benchmark::DoNotOptimize(same(prompt, copy, n)); });
    report(state, times, {.factor = 1.3, .extra_ns = 150});
}

template <class Ask>
void add_lookups_by(const Effort& effort) {
    const std::string name = Ask::name;
    for (const std::size_t n : {128U, 1'024U, 4'096U, 32'768U, 131'072U}) {
        for (const std::size_t shared : {0U, 50U, 99U}) {
            add(effort, name, "shared " + std::to_string(shared) + " %", n,
                [=](benchmark::State& state) { warm<Ask>(state, n, shared); });
        }
        for (const char* kind : {"goes on", "branches off", "unknown"}) {
            add(effort, name, kind, n,
                [=](benchmark::State& state) { relation<Ask>(state, n, kind); });
        }
        // Far more than the 2 MB of a core's own cache, three times over.
        const std::size_t entries = (effort.quick ? 4'000'000U : 64'000'000U) / n;
        add(effort, name, "cold", n, [=](benchmark::State& state) {
            cold<Ask>(state, n, std::max<std::size_t>(entries, 64));
        });
    }
    for (const std::size_t entries : {100U, 1'000U, 10'000U, 100'000U, 1'000'000U}) {
        for (const std::size_t n : {128U, 4'096U}) {
            add(effort, name + "_entries", std::to_string(n) + " tokens", entries,
                [=](benchmark::State& state) { by_entries<Ask>(state, n, entries); });
        }
        add(effort, name + "_entries", "64 tokens cold", entries,
            [=](benchmark::State& state) { by_entries_cold<Ask>(state, entries); });
    }
    for (const std::size_t models : {1U, 1'000U, 100'000U}) {
        add(effort, name + "_models", "1024 tokens", models,
            [=](benchmark::State& state) { by_models<Ask>(state, models); });
    }
    for (const std::size_t depth : {1U, 16U, 256U, 4'096U}) {
        add(effort, name + "_depth", "4096 tokens", depth,
            [=](benchmark::State& state) { by_depth<Ask>(state, depth); });
    }
}

} // namespace

void add_lookups(const Effort& effort) {
    add_lookups_by<Probe>(effort);
    add_lookups_by<Lease>(effort);
}

} // namespace bench
