// SPDX-License-Identifier: MIT
// All that can be seen of a cache, or of its model; and in which points two of them differ.
#ifndef PROMPTKV_TESTS_CACHE_OBSERVATION_HPP
#define PROMPTKV_TESTS_CACHE_OBSERVATION_HPP

#include "cache_operations.hpp"
#include "naive_cache.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace promptkv_test {

inline constexpr std::array<const char*, 38> number_names = {
    "size",           "nbytes",           "nbytes(a)",
    "nbytes(b)",      "max_bytes",        "max_entries",
    "lookups",        "hits_exact",       "hits_shorter",
    "hits_longer",    "tokens_requested", "tokens_reused",
    "inserted",       "replaced",         "anchored",
    "absorbed",       "evicted",          "cut",
    "superseded",     "too_large",        "no_room",
    "tokens_evicted", "bytes_evicted",    "evicted_unused",
    "bytes_leased",   "peak_nbytes",      "assistants",
    "their anchors",  "their nbytes",     "their evicted",
    "users",          "their anchors",    "their nbytes",
    "their evicted",  "systems",          "their anchors",
    "their nbytes",   "their evicted"};

/// Everything that can be seen of a cache after an operation.
struct Observation {
    std::string answer;
    std::vector<NaiveCache::Removal> removals;
    std::vector<NaiveCache::Entry> entries;
    std::array<std::uint64_t, number_names.size()> numbers{};
    std::array<std::uint64_t, tier_count> cuts{}; // by tier

    /// The number of that name.
    std::uint64_t& number(std::string_view name) {
        const auto* const found = std::find(number_names.begin(), number_names.end(), name);
        return numbers.at(static_cast<std::size_t>(found - number_names.begin()));
    }

    friend bool operator==(const Observation&, const Observation&) = default;
};

/// The numbers of a cache or of its model, which spell them alike.
template <class Cache>
void count(const Cache& cache, Observation& seen) {
    const auto limits = cache.limits();
    const auto all = cache.stats();
    const auto assistant = cache.stats(Tier::assistant);
    const auto user = cache.stats(Tier::user);
    const auto system = cache.stats(Tier::system);
    seen.numbers = {cache.size(),       cache.nbytes(),       cache.nbytes("a"),
                    cache.nbytes("b"),  limits.max_bytes,     limits.max_entries,
                    all.lookups,        all.hits_exact,       all.hits_shorter,
                    all.hits_longer,    all.tokens_requested, all.tokens_reused,
                    all.inserted,       all.replaced,         all.anchored,
                    all.absorbed,       all.evicted,          all.cut,
                    all.superseded,     all.too_large,        all.no_room,
                    all.tokens_evicted, all.bytes_evicted,    all.evicted_unused,
                    all.bytes_leased,   all.peak_nbytes,      assistant.entries,
                    assistant.anchors,  assistant.nbytes,     assistant.evicted,
                    user.entries,       user.anchors,         user.nbytes,
                    user.evicted,       system.entries,       system.anchors,
                    system.nbytes,      system.evicted};
    seen.cuts = {assistant.cut, user.cut, system.cut};
}

inline std::string word(const NaiveCache::Entry& entry) {
    return word(entry.key) + " " + word(entry.tier) + " bytes=" + word(entry.bytes) +
           " id=" + std::to_string(entry.payload.id) + " holds " + word(entry.payload.tokens);
}

inline std::string word(const NaiveCache::Removal& removal) {
    return word(removal.reason) + " " + word(removal.key) + " " + word(removal.tier) +
           " bytes=" + word(removal.bytes) + " id=" + std::to_string(removal.id);
}

template <class Item>
std::string words(const std::vector<Item>& items) {
    std::string result;
    for (const Item& item : items) {
        result += "\n      " + word(item);
    }
    return result.empty() ? " nothing" : result;
}

/// In which points the cache and its model differ; "" where in none.
inline std::string difference(const Observation& cache, const Observation& model) {
    std::ostringstream out;
    if (cache.answer != model.answer) {
        out << "    the cache answers: " << cache.answer
            << "\n    the model answers: " << model.answer << '\n';
    }
    for (std::size_t i = 0; i < number_names.size(); ++i) {
        if (cache.numbers[i] != model.numbers[i]) {
            out << "    " << number_names[i] << " of the cache: " << word(cache.numbers[i])
                << ", of the model: " << word(model.numbers[i]) << '\n';
        }
    }
    for (std::size_t i = 0; i < tier_count; ++i) {
        if (cache.cuts[i] != model.cuts[i]) {
            out << "    cut in tier " << i << ": " << cache.cuts[i] << ", by the model "
                << model.cuts[i] << '\n';
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
    return word(hit.match) + (hit.match == Match::none
                                  ? ""
                                  : " " + word(hit.reused) + " " + word(hit.tier) + " id=" +
                                        std::to_string(hit.id) + " " + word(hit.payload.tokens));
}

inline std::string answer(const promptkv::Inserted& inserted) {
    return word(inserted.outcome) + " absorbed=" + word(inserted.absorbed) +
           " evicted=" + word(inserted.evicted) + " cut=" + word(inserted.cut);
}

} // namespace promptkv_test

#endif
