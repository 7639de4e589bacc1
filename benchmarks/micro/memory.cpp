// SPDX-License-Identifier: MIT
// The memory of the index, as the allocator and as index_nbytes() say, and the allocations of lookups.
//
// usage: promptkv_memory [INSERTS [FOLDER]]
// Writes FOLDER/memory.csv and FOLDER/targets-memory.csv.
#include "prompts.hpp"
#include "targets.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <initializer_list>
#include <iomanip>
#include <malloc.h>
#include <new>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace {

std::size_t allocations = 0; // so far
std::size_t allocated = 0;   // bytes that the allocator has given out, its rounding up included

void* counted(void* block) {
    if (block == nullptr)
        throw std::bad_alloc();
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
using bench::in_blocks;
using bench::InBlocks;
using bench::model;
using bench::Prompt;
using bench::prompt_of;
using bench::Random;
using bench::store;
using bench::Token;
using bench::unseen;

/// Ends the program with a message unless `right`.
void require(bool right, const char* what) {
    if (!right) {
        std::fprintf(stderr, "wrong result: %s\n", what);
        std::exit(EXIT_FAILURE);
    }
}

/// Writes the rows of memory.csv and of the targets.
class Report {
public:
    explicit Report(const std::string& folder)
        : csv_(folder + "/memory.csv"), targets_(folder + "/targets-memory.csv") {
        csv_ << "keys,entries,tokens,allocated,index_nbytes,bytes_per_token,"
                "bytes_per_entry_beyond_tokens\n";
        std::printf("%-40s %8s %12s %14s %22s\n", "keys", "entries", "bytes/token", "rest/entry",
                    "index_nbytes/allocated");
    }

    /// `tokens` are distinct: a token that several keys share counts once. `bytes`: from the allocator.
    void index(const std::string& keys, std::size_t entries, std::size_t tokens, std::size_t bytes,
               std::size_t index_nbytes, bool is_target = true) {
        const auto n = static_cast<double>(tokens);
        const auto e = static_cast<double>(entries);
        const auto allocated_bytes = static_cast<double>(bytes);
        const double rest = (allocated_bytes - n * sizeof(Token)) / e;
        csv_ << keys << ',' << entries << ',' << tokens << ',' << bytes << ',' << index_nbytes
             << ',' << std::setprecision(4) << allocated_bytes / n << ',' << rest << '\n';
        std::printf("%-40s %8zu %12.3f %14.1f %22.3f\n", keys.c_str(), entries, allocated_bytes / n,
                    rest, static_cast<double>(index_nbytes) / allocated_bytes);
        if (is_target) {
            targets_ << compare("index of " + keys + " [bytes]", {allocated_bytes},
                                {4.2 * n + 300 * e});
        }
    }

    /// A target of 0.
    void none(const std::string& what, std::size_t n) {
        targets_ << compare(what, {static_cast<double>(n)}, {0});
    }

private:
    std::ofstream csv_;
    std::ofstream targets_;
};

/// `entries` keys of `n` tokens, the first `shared_percent` of them common to all.
void fill(std::size_t entries, std::size_t n, std::size_t shared_percent, Report& report) {
    const std::size_t shared = n * shared_percent / 100;
    const std::size_t before = allocated;
    Cache<Cuttable> cache;
    for (std::size_t i = 0; i < entries; ++i)
        store(cache, prompt_of(i, n, shared));
    require(cache.size() == entries, "entries stored");
    report.index(
        "keys of " + std::to_string(n) + " tokens " + std::to_string(shared_percent) + " % shared",
        entries, shared + entries * (n - shared), allocated - before, cache.index_nbytes());
}

/// Keys that a hostile client chooses: each branches off one long key at another token, one token long.
void comb(std::size_t entries, Report& report) {
    const std::size_t before = allocated;
    Prompt stem = prompt_of(0, entries);
    const std::size_t aside = allocated - before;
    Cache<Cuttable> cache;
    store(cache, stem);
    for (std::size_t i = 1; i < entries; ++i) {
        const Token next = stem[i];
        stem[i] = unseen;
        cache.insert(model, std::span(stem).first(i + 1), Cuttable(i + 1), promptkv::Tier::user);
        stem[i] = next;
    }
    require(cache.size() == entries, "hostile keys stored");
    report.index("hostile keys one token off another", entries, 2 * entries - 1,
                 allocated - before - aside, cache.index_nbytes(), false);
}

/// Returns: the tokens of a trie of these keys.
std::size_t distinct_tokens(std::vector<Prompt> keys) {
    std::sort(keys.begin(), keys.end());
    std::size_t tokens = 0;
    const Prompt none;
    const Prompt* previous = &none;
    for (const Prompt& key : keys) {
        const auto differ =
            std::mismatch(key.begin(), key.end(), previous->begin(), previous->end());
        tokens += static_cast<std::size_t>(key.end() - differ.first);
        previous = &key;
    }
    return tokens;
}

/// Random inserts into a full cache, in all tiers: new keys, keys that branch off known ones, and
/// prefixes of known ones. Each evicts an entry.
void churn(std::size_t inserts, Report& report) {
    constexpr std::size_t entries = 10'000;
    Random random(11);
    std::vector<Prompt> recent(1'000);
    for (Prompt& prompt : recent)
        prompt.reserve(256);
    Prompt prompt;
    prompt.reserve(512);
    const std::size_t before = allocated;
    Cache<Cuttable> cache({.max_entries = entries});
    for (std::size_t i = 1; i <= inserts; ++i) {
        const Prompt& known = recent[random.below(1'000)];
        const std::uint32_t kind = random.below(16);
        prompt.clear();
        if (kind < 8 && !known.empty()) {
            const auto length = random.below(static_cast<std::uint32_t>(known.size())) + 1;
            prompt.assign(known.begin(), known.begin() + length);
        }
        if (kind > 0)
            append_tokens(prompt, random.next(), 1 + random.below(64));
        prompt.resize(std::min<std::size_t>(prompt.size(), 256));
        const auto tier = static_cast<promptkv::Tier>(kind < 12 ? 0 : kind < 14 ? 1 : 2);
        cache.insert(model, prompt, Cuttable(prompt.size()), tier);
        recent[random.below(1'000)] = prompt; // within its capacity
    }
    const std::size_t bytes = allocated - before;
    require(cache.size() == entries && cache.check_invariants(), "the cache after the inserts");
    std::vector<Prompt> keys;
    cache.for_each(
        [&](const auto& entry) { keys.emplace_back(entry.tokens.begin(), entry.tokens.end()); });
    report.index("keys after " + std::to_string(inserts) + " inserts and evictions", entries,
                 distinct_tokens(std::move(keys)), bytes, cache.index_nbytes());
}

/// Lookups of every kind, during which nothing may be allocated.
template <class KV, class MakeKV>
void lookups(const std::string& payloads, MakeKV make, Report& report) {
    constexpr std::size_t n = 4'096;
    Cache<KV> cache;
    for (std::size_t i = 0; i < 100; ++i)
        store(cache, prompt_of(i, n, n / 2), make(n));
    Prompt branch = prompt_of(0, n, n / 2);
    branch[3'000] = unseen;
    Prompt longer = prompt_of(1, n, n / 2);
    longer.push_back(unseen);
    const Prompt unknown = prompt_of(1'000, n);
    const Prompt exact = prompt_of(2, n, n / 2);
    const std::size_t before = allocations;
    std::size_t reused = 0;
    for (const Prompt* prompt :
         std::initializer_list<const Prompt*>{&branch, &longer, &unknown, &exact}) {
        for (int i = 0; i < 1'000; ++i) {
            reused += cache.probe(model, *prompt).reused();
            reused += cache.lease_nearest(model, *prompt).reused();
        }
    }
    const std::size_t made = allocations - before;
    require(reused == std::size_t{2'000} * (3'000 + n + 0 + n - 1), "lookups");
    report.none("allocations of 4000 probes and 4000 leases " + payloads, made);
}

} // namespace

int main(int argc, char** argv) {
    const std::size_t inserts = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 10'000'000;
    Report report(argc > 2 ? argv[2] : ".");
    for (const std::size_t shared : {0U, 50U, 99U}) {
        for (const std::size_t n : {128U, 1'024U, 4'096U})
            fill(10'000, n, shared, report);
    }
    comb(10'000, report);
    churn(std::max<std::size_t>(inserts, 100'000), report);
    lookups<Cuttable>(
        "without state", [](std::size_t n) { return Cuttable(n); }, report);
    lookups<InBlocks>(
        "of blocks", [](std::size_t n) { return in_blocks(n, 64); }, report);
    return EXIT_SUCCESS;
}
