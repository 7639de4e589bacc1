// SPDX-License-Identifier: MIT
// Whole runs of a cache beside its naive model; and what to say of one that fails.
#ifndef PROMPTKV_TESTS_CACHE_RUNS_HPP
#define PROMPTKV_TESTS_CACHE_RUNS_HPP

#include "cache_operations.hpp"
#include "cache_pair.hpp"
#include "naive_cache.hpp"

#include <promptkv/promptkv.hpp>

#include <cstddef>
#include <optional>
#include <sstream>
#include <string>
#include <utility>

namespace promptkv_test {

/// What went wrong in a run, and after how many operations.
struct Fault {
    std::size_t operations;
    std::string what;
};

template <class KV, class Cache = promptkv::LRUPromptCache<KV>>
std::optional<Fault> first_failure(const Run& run, Effort effort) {
    Pair<KV, Cache> pair(run, effort);
    for (std::size_t i = 0; i < run.operations.size(); ++i) {
        std::string what = pair.step(run.operations[i]);
        if (!what.empty())
            return Fault{i + 1, std::move(what)};
    }
    return std::nullopt;
}

template <class KV, class Cache = promptkv::LRUPromptCache<KV>>
std::optional<Fault> first_failure(const Run& run) {
    if (!first_failure<KV, Cache>(run, {.choices = 48, .beliefs = 6}))
        return std::nullopt;
    // What the cache did may be among what was not tried.
    return first_failure<KV, Cache>(run, {.choices = 4096, .beliefs = 512});
}

/// A run of as few operations as can be found that still fails.
template <class KV, class Cache = promptkv::LRUPromptCache<KV>>
Run shortened(Run run) {
    run.operations.resize(first_failure<KV, Cache>(run).value().operations);
    for (std::size_t chunk = run.operations.size() / 2; chunk > 0; chunk /= 2) {
        for (std::size_t at = 0; at + chunk <= run.operations.size();) {
            Run fewer = run;
            const auto first = fewer.operations.begin() + static_cast<std::ptrdiff_t>(at);
            fewer.operations.erase(first, first + static_cast<std::ptrdiff_t>(chunk));
            if (first_failure<KV, Cache>(fewer))
                run = std::move(fewer);
            else
                at += chunk;
        }
    }
    return run;
}

/// The story of a failure: options, operations, difference. "" where the run does not fail.
template <class KV, class Cache = promptkv::LRUPromptCache<KV>>
std::string failure_of(const Run& run) {
    if (!first_failure<KV, Cache>(run))
        return "";
    const Run minimal = shortened<KV, Cache>(run);
    const NaiveCache::Options& options = minimal.options;
    std::ostringstream out;
    out << "max_bytes=" << word(options.max_bytes) << " max_entries=" << word(options.max_entries)
        << " max_partial=" << options.max_partial
        << " remembered_tokens=" << word(options.remembered_tokens)
        << " rules=" << name(options.rules) << '\n';
    for (const Operation& operation : minimal.operations)
        out << "  " << word(operation) << '\n';
    out << first_failure<KV, Cache>(minimal).value().what;
    return out.str();
}

} // namespace promptkv_test

#endif
