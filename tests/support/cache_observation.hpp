// SPDX-License-Identifier: MIT
// All that can be seen of a cache, or of its model; and the points in which two of them differ.
#ifndef PROMPTKV_TESTS_CACHE_OBSERVATION_HPP
#define PROMPTKV_TESTS_CACHE_OBSERVATION_HPP

#include "cache_operations.hpp"
#include "naive_cache.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace promptkv_test {

/// Everything that can be seen of a cache after an operation.
struct Observation {
    std::string answer;
    std::vector<NaiveCache::Removal> removals;
    std::vector<NaiveCache::Shown> entries; // in the order of for_each
    std::vector<std::pair<std::string, std::uint64_t>> numbers;

    friend bool operator==(const Observation&, const Observation&) = default;
};

/// The numbers of a cache or of its model, which have the same functions.
template <class Cache>
void count(const Cache& cache, Observation& seen) {
    const auto limits = cache.limits();
    seen.numbers = {{"size", cache.size()},
                    {"nbytes", cache.nbytes()},
                    {"nbytes(a)", cache.nbytes("a")},
                    {"nbytes(b)", cache.nbytes("b")},
                    {"evictable_nbytes", cache.evictable_nbytes()},
                    {"max_bytes", limits.max_bytes},
                    {"max_entries", limits.max_entries}};
    for_each_counter(cache.stats(), [&seen](std::string_view name, std::uint64_t value) {
        seen.numbers.emplace_back(name, value);
    });
    for (const Tier tier : {Tier::assistant, Tier::user, Tier::system}) {
        for_each_counter(cache.stats(tier), [&](std::string_view name, std::uint64_t value) {
            seen.numbers.emplace_back(std::string(promptkv::name(tier)) + " " + std::string(name),
                                      value);
        });
    }
}

inline std::string word(const NaiveKV& kv) {
    std::string line = word(kv.tokens) + " id=" + std::to_string(kv.id);
    if (kv.can(has_blocks)) {
        line += " blocks";
        for (const NaiveBlock& block : kv.blocks)
            line += " " + std::to_string(block.id) + ":" + word(block.bytes);
    }
    return line;
}

inline std::string word(const NaiveCache::Shown& entry) {
    return word(entry.key) + " " + std::string(name(entry.tier)) + " bytes=" + word(entry.bytes) +
           " holds " + word(entry.kv);
}

inline std::string word(const NaiveCache::Removal& removal) {
    return std::string(name(removal.reason)) + " " + word(removal.key) + " " +
           std::string(name(removal.tier)) + " kept=" + word(removal.kept_tokens) +
           " bytes=" + word(removal.bytes) + (removal.offered ? " offered" : "");
}

template <class Item>
std::string words(const std::vector<Item>& items) {
    std::string result;
    for (const Item& item : items)
        result += "\n      " + word(item);
    return result.empty() ? " nothing" : result;
}

/// The points in which the cache and its model differ; "" where there are none.
inline std::string difference(const Observation& cache, const Observation& model) {
    std::ostringstream out;
    if (cache.answer != model.answer) {
        out << "    the cache answers: " << cache.answer
            << "\n    the model answers: " << model.answer << '\n';
    }
    for (std::size_t i = 0; i < std::min(cache.numbers.size(), model.numbers.size()); ++i) {
        if (cache.numbers[i] != model.numbers[i]) {
            out << "    " << cache.numbers[i].first
                << " of the cache: " << word(cache.numbers[i].second)
                << ", of the model: " << word(model.numbers[i].second) << '\n';
        }
    }
    if (cache.entries != model.entries) {
        out << "    the cache holds:" << words(cache.entries)
            << "\n    the model holds:" << words(model.entries) << '\n';
    }
    if (cache.removals != model.removals) {
        out << "    the cache removed:" << words(cache.removals)
            << "\n    the model removed:" << words(model.removals) << '\n';
    }
    return out.str();
}

inline std::string answer(const NaiveCache::Hit& hit) {
    std::string line = std::string(name(hit.match)) + " matched=" + word(hit.matched) +
                       " request=" + word(hit.request);
    if (hit.match == Match::none)
        return line + " miss=" + std::string(name(hit.miss));
    line += " reused=" + word(hit.reused) + " of " + word(hit.entry_tokens) + " " +
            std::string(name(hit.tier));
    return hit.kv.abilities == 0 ? line : line + " " + word(hit.kv);
}

inline std::string answer(const promptkv::Inserted& inserted) {
    return std::string(name(inserted.outcome)) + " tokens=" + word(inserted.tokens) +
           " absorbed=" + word(inserted.absorbed) + " evicted=" + word(inserted.evicted) +
           " cut=" + word(inserted.cut);
}

} // namespace promptkv_test

#endif
