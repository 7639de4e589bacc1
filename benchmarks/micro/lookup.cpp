// SPDX-License-Identifier: MIT
// Lookups against `memcmp` of the same tokens: by length, entries, models and depth, warm and cold.
#include "interleave.hpp"
#include "prompts.hpp"

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace bench {
namespace {

/// Allowed for a lookup, with `memcmp` of the tokens as the bound.
Allowance of_memcmp(std::string target = {}) {
    return {.factor = 1.1, .extra_ns = 100, .target = std::move(target)};
}

struct Probe {
    static constexpr const char* name = "probe";
    template <class KV>
    static std::size_t reused(Cache<KV>& cache, const Prompt& prompt, std::string_view in = model) {
        return cache.probe(in, prompt, {.min_remaining = 0}).reused();
    }
};

struct Lease {
    static constexpr const char* name = "lease";
    template <class KV>
    static std::size_t reused(Cache<KV>& cache, const Prompt& prompt, std::string_view in = model) {
        return cache.lease_nearest(in, prompt, {.min_remaining = 0}).reused();
    }
};

/// A stored key, asked for again and again, among a hundred that share some of it.
template <class Ask>
void warm(Run& run, std::size_t n, std::size_t shared_percent) {
    Cache<Cuttable> cache;
    for (const Prompt& key : prompts_of(100, n, n * shared_percent / 100))
        store(cache, key);
    const Prompt prompt = prompt_of(50, n, n * shared_percent / 100);
    const Prompt copy = prompt;
    require(Ask::reused(cache, prompt) == n, "warm lookup");
    const Paired times = interleave(
        run, [&](std::size_t) { use(Ask::reused(cache, prompt)); },
        [&](std::size_t) { use(same(prompt, copy, n)); });
    std::string target;
    if (n == 4'096) {
        target = std::string(Ask::name) + " of 4096 tokens " + std::to_string(shared_percent) +
                 " % shared [ns]";
    }
    report(run, times, of_memcmp(target));
}

/// The same with payloads of blocks, half of them shared by all entries.
template <class Ask>
void warm_blocks(Run& run, std::size_t n, std::size_t block_tokens) {
    Cache<InBlocks> cache;
    for (const Prompt& key : prompts_of(100, n, n / 2))
        store(cache, key, in_blocks(n, block_tokens));
    require(cache.nbytes() == n / 2 + 100 * (n - n / 2), "blocks shared");
    const Prompt prompt = prompt_of(50, n, n / 2);
    const Prompt copy = prompt;
    require(Ask::reused(cache, prompt) == n, "warm lookup of blocks");
    const Paired times = interleave(
        run, [&](std::size_t) { use(Ask::reused(cache, prompt)); },
        [&](std::size_t) { use(same(prompt, copy, n)); });
    report(run, times,
           of_memcmp(std::string(Ask::name) + " of " + std::to_string(n) + " tokens in blocks of " +
                     std::to_string(block_tokens) + " [ns]"));
}

/// Keys that have left the core's caches: all others are asked for before one is asked for again.
template <class Ask>
void cold(Run& run, std::size_t n, std::size_t entries) {
    Cache<Cuttable> cache;
    std::vector<Prompt> prompts = prompts_of(entries, n);
    for (const Prompt& key : prompts)
        store(cache, key);
    const std::vector<Prompt> copies = prompts;
    std::vector<std::size_t> order;
    for (std::size_t i = 0; i < entries; ++i)
        order.push_back(i);
    Random random(7);
    for (std::size_t i = entries; i > 1; --i)
        std::swap(order[i - 1], order[random.below(static_cast<std::uint32_t>(i))]);
    require(Ask::reused(cache, prompts[order[0]]) == n, "cold lookup");
    std::size_t turn = 0;
    std::size_t bound_turn = entries / 2; // far from the prompts of the lookups
    const auto nothing = [] {};
    const Paired times = interleave(
        run, 64, [&](std::size_t) { use(Ask::reused(cache, prompts[order[turn++ % entries]])); },
        nothing,
        [&](std::size_t) {
            const std::size_t i = order[bound_turn++ % entries];
            use(same(prompts[i], copies[i], n));
        },
        nothing);
    report(run, times, of_memcmp());
}

/// A prompt that continues a stored key, one that branches off a stored key, and an unknown one.
template <class Ask>
void relation(Run& run, std::size_t n, const std::string& kind) {
    Cache<Cuttable> cache;
    for (const Prompt& key : prompts_of(100, n))
        store(cache, key);
    Prompt prompt = prompt_of(50, n);
    std::size_t expected = n;
    if (kind == "continues") {
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
        run, [&](std::size_t) { use(Ask::reused(cache, prompt)); },
        [&](std::size_t) { use(same(prompt, copy, expected)); });
    report(run, times, of_memcmp());
}

/// Returns: a cache of short prompts, 16 of 128 and 16 of 4,096 tokens among them.
Cache<Cuttable> cache_of(std::size_t entries) {
    Cache<Cuttable> cache;
    for (std::size_t i = 0; i < 16; ++i) {
        store(cache, prompt_of(i, 128));
        store(cache, prompt_of(100 + i, 4'096));
    }
    for (std::size_t i = cache.size(); i < entries; ++i)
        store(cache, prompt_of(1'000 + i, 64));
    require(cache.size() == entries, "entries stored");
    return cache;
}

/// The same few keys in a large cache and in one of a hundred entries.
template <class Ask>
void by_entries(Run& run, std::size_t n, std::size_t entries) {
    Cache<Cuttable> small = cache_of(100);
    Cache<Cuttable> large = cache_of(entries);
    std::vector<Prompt> prompts;
    for (std::size_t i = 0; i < 16; ++i) {
        prompts.push_back(prompt_of(n == 128 ? i : 100 + i, n));
        require(Ask::reused(large, prompts.back()) == n, "lookup among many");
        require(Ask::reused(small, prompts.back()) == n, "lookup among few");
    }
    const auto ask = [&prompts](Cache<Cuttable>& cache) {
        return [&prompts, &cache](std::size_t i) { use(Ask::reused(cache, prompts[i % 16])); };
    };
    const auto nothing = [] {};
    const Paired times = interleave(run, 128, ask(large), nothing, ask(small), nothing);
    Allowance allowance{.factor = 3};
    if (entries == 1'000'000) {
        allowance.target = std::string(Ask::name) + " of " + std::to_string(n) +
                           " tokens among 1000000 entries against 100 [ns]";
    }
    report(run, times, allowance);
}

/// Short prompts of a large cache in random order: every one is cold.
template <class Ask>
void by_entries_cold(Run& run, std::size_t entries) {
    Cache<Cuttable> cache = cache_of(entries);
    Random random(9);
    std::vector<Prompt> prompts(64);
    const std::vector<Prompt> copies(500'000, prompt_of(0, 64)); // 128 MB
    const auto choose = [&] {
        for (Prompt& prompt : prompts) {
            const auto i = random.below(static_cast<std::uint32_t>(entries - 32));
            prompt = prompt_of(1'000 + 32 + i, 64);
        }
    };
    choose();
    require(Ask::reused(cache, prompts[0]) == 64, "cold lookup among many");
    const Paired times = interleave(
        run, prompts.size(), [&](std::size_t i) { use(Ask::reused(cache, prompts[i])); }, choose,
        [&](std::size_t i) {
            const auto k = random.below(static_cast<std::uint32_t>(copies.size()));
            use(same(prompts[i], copies[k], 64));
        },
        [] {});
    report(run, times, of_memcmp());
}

std::vector<std::string> model_names(std::size_t count) {
    std::vector<std::string> names;
    for (std::size_t i = 0; i < count; ++i)
        names.push_back("llama-3.2-1b-instruct/" + std::to_string(i));
    return names;
}

/// One entry in each of many models.
template <class Ask>
void by_models(Run& run, std::size_t models) {
    constexpr std::size_t n = 1'024;
    Cache<Cuttable> cache;
    const Prompt prompt = prompt_of(0, n);
    const Prompt copy = prompt;
    const std::vector<std::string> names = model_names(models);
    const std::string_view name = names[models / 2];
    for (std::size_t i = 0; i < models; ++i)
        store(cache, names[i] == name ? prompt : prompt_of(1 + i, 16), names[i]);
    require(Ask::reused(cache, prompt, name) == n, "lookup in one model of many");
    const Paired times = interleave(
        run, [&](std::size_t) { use(Ask::reused(cache, prompt, name)); },
        [&](std::size_t) { use(same(prompt, copy, n)); });
    report(run, times, of_memcmp());
}

/// A miss while all other models hold the prompt, against one while they hold something else.
template <class Ask>
void miss(Run& run, std::size_t n, std::size_t models) {
    Cache<Cuttable> held;
    Cache<Cuttable> not_held;
    const Prompt prompt = prompt_of(0, n);
    for (Cache<Cuttable>* cache : {&held, &not_held})
        store(*cache, prompt_of(1, n));
    for (const std::string& name : model_names(models)) {
        store(held, prompt, name);
        store(not_held, prompt_of(2, n), name);
    }
    require(held.size() == 1 + models && not_held.size() == 1 + models, "entries stored");
    require(Ask::reused(held, prompt) == 0 && Ask::reused(not_held, prompt) == 0, "miss");
    const Paired times = interleave(
        run, [&](std::size_t) { use(Ask::reused(held, prompt)); },
        [&](std::size_t) { use(Ask::reused(not_held, prompt)); });
    // Both do the same work: 2 ns and a tenth are for what the placement in memory changes.
    report(run, times,
           {.factor = 1.1,
            .extra_ns = 2,
            .target = std::string(Ask::name) + " that misses while " + std::to_string(models) +
                      " other models hold the prompt or not [ns]"});
}

/// Nested entries: each key is a prefix of the next, and no entry can serve another key.
template <class Ask>
void by_depth(Run& run, std::size_t depth) {
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
        run, [&](std::size_t) { use(Ask::reused(cache, prompt)); },
        [&](std::size_t) { use(same(prompt, copy, n)); });
    report(run, times, of_memcmp());
}

template <class Ask>
void add_lookups_by(Cases& cases) {
    const std::string name = Ask::name;
    for (const std::size_t n : {128U, 1'024U, 4'096U, 32'768U, 131'072U}) {
        add(cases, name, "warm", n, [=](Run& run) { warm<Ask>(run, n, 0); });
        add(cases, name, "cold", n, [=](Run& run) {
            // Far more than the 2 MB of a core's own cache, three times over.
            const std::size_t entries = (run.quick ? 4'000'000U : 64'000'000U) / n;
            cold<Ask>(run, n, std::max<std::size_t>(entries, 64));
        });
    }
    constexpr std::size_t n_tokens = 4'096;
    for (const std::size_t shared : {50U, 99U}) {
        add(cases, name, "shared " + std::to_string(shared) + " %", n_tokens,
            [=](Run& run) { warm<Ask>(run, n_tokens, shared); });
    }
    for (const char* kind : {"continues", "branches off", "unknown"})
        add(cases, name, kind, n_tokens, [=](Run& run) { relation<Ask>(run, n_tokens, kind); });
    add(cases, name, "blocks of 16", n_tokens,
        [=](Run& run) { warm_blocks<Ask>(run, n_tokens, 16); });
    for (const std::size_t entries : {100U, 10'000U, 1'000'000U}) {
        for (const std::size_t n : {128U, 4'096U}) {
            add(cases, name + "_entries", std::to_string(n) + " tokens", entries,
                [=](Run& run) { by_entries<Ask>(run, n, entries); });
        }
        add(cases, name + "_entries", "64 tokens cold", entries,
            [=](Run& run) { by_entries_cold<Ask>(run, entries); });
    }
    for (const std::size_t models : {1U, 1'000U, 100'000U}) {
        add(cases, name + "_models", "1024 tokens", models,
            [=](Run& run) { by_models<Ask>(run, models); });
    }
    add(cases, name + "_miss", "4096 tokens", 1'000,
        [=](Run& run) { miss<Ask>(run, n_tokens, 1'000); });
    for (const std::size_t depth : {1U, 64U, 4'096U}) {
        add(cases, name + "_depth", "4096 tokens", depth,
            [=](Run& run) { by_depth<Ask>(run, depth); });
    }
}

} // namespace

void add_lookups(Cases& cases) {
    add_lookups_by<Probe>(cases);
    add_lookups_by<Lease>(cases);
}

} // namespace bench
