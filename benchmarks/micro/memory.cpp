// SPDX-License-Identifier: MIT
// What the index takes: by its own account, and by that of the allocator.
//
// usage: promptkv_memory [INSERTS [FOLDER]]
// Writes FOLDER/memory.csv, FOLDER/churn.csv and FOLDER/targets-memory.csv.
#include "prompts.hpp"
#include "targets.hpp"

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <initializer_list>
#include <malloc.h>
#include <new>
#include <string>
#include <vector>

namespace {

std::size_t allocations = 0; // so far
std::size_t allocated = 0;   // bytes that the allocator has given out, its rounding up included

void* counted(void* block) {
    if (block == nullptr) {
        throw std::bad_alloc();
    }
    ++allocations;
    allocated += malloc_usable_size(block);
    return block;
}

void release(void* block) noexcept {
    allocated -= malloc_usable_size(block);
    std::free(block);
}

} // namespace

void* operator new(std::size_t size) {
    return counted(std::malloc(size));
}

void* operator new(std::size_t size, std::align_val_t alignment) {
    const auto a = static_cast<std::size_t>(alignment);
    return counted(std::aligned_alloc(a, (size + a - 1) / a * a));
}

void operator delete(void* block) noexcept {
    release(block);
}
void operator delete(void* block, std::size_t) noexcept {
    release(block);
}
void operator delete(void* block, std::align_val_t) noexcept {
    release(block);
}
void operator delete(void* block, std::size_t, std::align_val_t) noexcept {
    release(block);
}

namespace {

using bench::append_tokens;
using bench::Cache;
using bench::compare;
using bench::Cuttable;
using bench::median;
using bench::model;
using bench::Prompt;
using bench::prompt_of;
using bench::Random;
using bench::store;
using bench::Token;
using bench::unseen;

/// `entries` keys of `n` tokens, the first `shared_percent` of them common to all.
void fill(std::size_t entries, std::size_t n, std::size_t shared_percent, std::ofstream& csv,
          std::ofstream& targets) {
    const std::size_t shared = n * shared_percent / 100;
    const std::size_t before = allocated;
    Cache<Cuttable> cache;
    for (std::size_t i = 0; i < entries; ++i) {
        store(cache, prompt_of(i, n, shared));
    }
    const auto bytes = static_cast<double>(allocated - before);
    const auto tokens = static_cast<double>(shared + entries * (n - shared));
    const double bytes_an_entry =
        (bytes - tokens * sizeof(Token)) / static_cast<double>(entries); // beyond the tokens
    const auto counted_bytes = static_cast<double>(cache.index_nbytes());
    csv << shared_percent << ',' << n << ',' << entries << ',' << tokens << ',' << bytes << ','
        << counted_bytes << ',' << bytes / tokens << ',' << bytes_an_entry << '\n';
    std::printf("%5zu %% %8zu %8zu %14.3f %14.1f %22.3f\n", shared_percent, n, entries,
                bytes / tokens, bytes_an_entry, counted_bytes / bytes);
    targets << compare("index of keys of " + std::to_string(n) + " tokens " +
                           std::to_string(shared_percent) + " % shared [bytes]",
                       {bytes}, {4.2 * tokens + 300 * static_cast<double>(entries)});
}

/// Random inserts into a full cache, each of which evicts: new keys, keys that branch off known ones,
/// beginnings of known ones, in all tiers.
void churn(std::size_t inserts, std::ofstream& csv, std::ofstream& targets) {
    constexpr std::size_t entries = 10'000;
    Random random(11);
    std::vector<Prompt> recent(1'000);
    for (Prompt& prompt : recent) {
        prompt.reserve(256);
    }
    Prompt prompt;
    prompt.reserve(256);
    const std::size_t before = allocated;
    Cache<Cuttable> cache({.max_entries = entries});
    std::vector<double> early; // bytes in the second tenth of the inserts
    std::vector<double> late;  // and in the last
    early.reserve(64);
    late.reserve(64);
    const std::size_t aside = allocated - before;
    for (std::size_t i = 1; i <= inserts; ++i) {
        const Prompt& known = recent[random.below(1'000)];
        const std::uint32_t kind = random.below(16);
        prompt.clear();
        if (kind < 8 && !known.empty()) {
            const auto length = random.below(static_cast<std::uint32_t>(known.size())) + 1;
            prompt.assign(known.begin(), known.begin() + length);
        }
        if (kind > 0) {
            append_tokens(prompt, random.next(), 1 + random.below(64));
        }
        prompt.resize(std::min<std::size_t>(prompt.size(), 256));
        const auto tier = static_cast<promptkv::Tier>(kind < 12 ? 0 : kind < 14 ? 1 : 2);
        cache.insert(model, prompt, Cuttable(prompt.size()), tier);
        recent[random.below(1'000)] = prompt;
        if (i % (inserts / 200) == 0) {
            const auto bytes = static_cast<double>(allocated - before - aside);
            csv << i << ',' << bytes << ',' << cache.index_nbytes() << ',' << cache.size() << '\n';
            if (i > inserts / 10 && i <= inserts / 5) {
                early.push_back(bytes);
            } else if (i > inserts - inserts / 10) {
                late.push_back(bytes);
            }
        }
    }
    if (cache.size() != entries || !cache.check_invariants()) {
        std::fprintf(stderr, "wrong result: the cache after the inserts\n");
        std::exit(EXIT_FAILURE);
    }
    std::printf("\n%zu inserts into %zu entries: %.0f bytes early, %.0f bytes late\n", inserts,
                entries, median(early), median(late));
    targets << compare("index after " + std::to_string(inserts) + " inserts and evictions [bytes]",
                       {median(late)}, {1.02 * median(early)});
}

/// Lookups of every kind, between which nothing may be allocated.
void lookups(std::ofstream& targets) {
    Cache<Cuttable> cache;
    for (std::size_t i = 0; i < 100; ++i) {
        store(cache, prompt_of(i, 4'096, 2'048));
    }
    Prompt branch = prompt_of(0, 4'096, 2'048);
    branch[3'000] = unseen;
    Prompt longer = prompt_of(1, 4'096, 2'048);
    longer.push_back(unseen);
    const Prompt unknown = prompt_of(1'000, 4'096);
    const Prompt exact = prompt_of(2, 4'096, 2'048);
    const std::size_t before = allocations;
    std::size_t reused = 0;
    for (const Prompt* prompt :
         std::initializer_list<const Prompt*>{&branch, &longer, &unknown, &exact}) {
        for (int i = 0; i < 1'000; ++i) {
            reused += cache.probe(model, *prompt).reused;
            reused += cache.lease_nearest(model, *prompt).reused;
        }
    }
    if (reused != std::size_t{2'000} * (3'000 + 4'096 + 0 + 4'095)) {
        std::fprintf(stderr, "wrong result: lookups\n");
        std::exit(EXIT_FAILURE);
    }
    const auto made = static_cast<double>(allocations - before);
    targets << compare("allocations of 4000 probes and 4000 leases", {made}, {0});
}

} // namespace

int main(int argc, char** argv) {
    const std::size_t inserts = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 10'000'000;
    const std::string folder = argc > 2 ? argv[2] : ".";
    std::ofstream targets(folder + "/targets-memory.csv");
    std::ofstream csv(folder + "/memory.csv");
    csv << "shared_percent,n,entries,tokens,allocated,index_nbytes,bytes_per_token,"
           "bytes_per_entry_beyond_tokens\n";
    std::printf("%7s %8s %8s %14s %14s %22s\n", "shared", "tokens", "entries", "bytes/token",
                "rest/entry", "index_nbytes/allocated");
    for (const std::size_t shared : {0U, 50U, 99U}) {
        for (const std::size_t n : {128U, 1'024U, 4'096U}) {
            fill(10'000, n, shared, csv, targets);
        }
    }
    lookups(targets);
    std::ofstream churn_csv(folder + "/churn.csv");
    churn_csv << "inserts,allocated,index_nbytes,entries\n";
    churn(inserts < 1'000 ? 1'000 : inserts, churn_csv, targets);
    return EXIT_SUCCESS;
}
