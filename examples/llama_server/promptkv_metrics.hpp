// SPDX-License-Identifier: MIT
// What a prompt cache counts, as metrics of prometheus-cpp. Take this header with you: it needs promptkv
// and prometheus-cpp-core alone.
//
//     class Exporter : public prometheus::Collectable {
//         std::vector<prometheus::MetricFamily> Collect() const override {
//             return promptkv_metrics::collect(cache);
//         }
//     };
#ifndef PROMPTKV_METRICS_HPP
#define PROMPTKV_METRICS_HPP

#include <promptkv/lru_prompt_cache.hpp>

#include <prometheus/client_metric.h>
#include <prometheus/metric_family.h>
#include <prometheus/metric_type.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace promptkv_metrics {

using Families = std::vector<prometheus::MetricFamily>;
using Labels = std::vector<prometheus::ClientMetric::Label>;

/// Adds a value to the family of this name, which is made where there is none: a counter if the name ends
/// with "_total", else a gauge.
template <class Number>
void add(Families& to, const std::string& name, const std::string& help, const Number& value,
         const Labels& labels = {}) {
    const bool counts = name.ends_with("_total");
    auto family = std::ranges::find(to, name, &prometheus::MetricFamily::name);
    if (family == to.end()) {
        using enum prometheus::MetricType;
        family = to.insert(to.end(), {name, help, counts ? Counter : Gauge, {}});
    }
    prometheus::ClientMetric& metric = family->metric.emplace_back();
    metric.label = labels;
    (counts ? metric.counter.value : metric.gauge.value) = static_cast<double>(value);
}

/// Adds what for_each_counter(stats, f) tells, under the names that it gives: those of promptkv::Stats,
/// TierStats or SecondLevelStats, where each is explained.
template <class Stats>
void add_all(Families& to, const std::string& prefix, const Stats& stats,
             const Labels& labels = {}) {
    constexpr std::array<std::string_view, 8> gauges = {
        "entries",        "nbytes",      "bytes_referenced", "bytes_leased",
        "bytes_reserved", "peak_nbytes", "bytes_waiting",    "bytes_per_second"};
    for_each_counter(stats, [&](std::string_view counter, auto value) {
        const bool grows = std::ranges::find(gauges, counter) == gauges.end();
        add(to, prefix + std::string(counter) + (grows ? "_total" : ""),
            "promptkv: " + std::string(counter) + ", as its statistics have it.", value, labels);
    });
}

/// The counters and gauges of a cache whose tiers have names.
/// Complexity: O(all blocks and tokens), under the cache's lock, for `promptkv_blocks`.
template <class KV, class Model, class Token, class TierEnum, class Policy, class Mutex>
[[nodiscard]] Families
collect(const promptkv::BasicPromptCache<KV, Model, Token, TierEnum, Policy, Mutex>& cache) {
    Families to;
    add_all(to, "promptkv_", cache.stats());
    for (std::size_t i = 0; i < promptkv::tier_traits<TierEnum>::count; ++i) {
        const auto tier = static_cast<TierEnum>(i);
        add_all(to, "promptkv_tier_", cache.stats(tier), {{"tier", std::string(name(tier))}});
    }
    add(to, "promptkv_entries", "Entries.", cache.size());
    add(to, "promptkv_bytes", "Bytes held; a shared block counts once.", cache.nbytes());
    add(to, "promptkv_limit_bytes", "The budget.", cache.limits().max_bytes);
    add(to, "promptkv_index_bytes", "Bytes of the index, beside the budget.", cache.index_nbytes());
    if constexpr (promptkv::BlockPayload<KV>) {
        double blocks = 0; // each holder of a block adds its share
        cache.for_each([&](const auto& entry) {
            promptkv::kv_traits<KV>::for_each_block(
                entry.kv, 0, [&](const promptkv::BlockUse& use, std::size_t, bool) {
                    blocks += 1.0 / std::max(1U, use.count());
                });
        });
        add(to, "promptkv_blocks", "Blocks of all entries; a shared block counts once.",
            std::round(blocks));
    }
    return to;
}

} // namespace promptkv_metrics

#endif
