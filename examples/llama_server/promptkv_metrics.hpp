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
#include <cstddef>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace promptkv_metrics {

using Families = std::vector<prometheus::MetricFamily>;
using Labels = std::vector<prometheus::ClientMetric::Label>;

/// Adds a value to the family of this name, which is made where there is none.
template <class Number>
void add(Families& to, prometheus::MetricType type, std::string_view name, std::string_view help,
         Labels labels, Number value) {
    auto family = std::ranges::find(to, name, &prometheus::MetricFamily::name);
    if (family == to.end()) {
        family = to.insert(to.end(), {std::string(name), std::string(help), type, {}});
    }
    prometheus::ClientMetric metric;
    metric.label = std::move(labels);
    (type == prometheus::MetricType::Counter ? metric.counter.value : metric.gauge.value) =
        static_cast<double>(value);
    family->metric.push_back(std::move(metric));
}

/// The counters and gauges of a cache whose tiers have names.
/// Complexity: O(all blocks and tokens), under the cache's lock, for `promptkv_blocks`.
template <class KV, class Model, class Token, class TierEnum, class Policy, class Mutex>
[[nodiscard]] Families
collect(const promptkv::BasicPromptCache<KV, Model, Token, TierEnum, Policy, Mutex>& cache) {
    using prometheus::MetricType;
    using Row = std::pair<const char*, std::uint64_t>;
    Families out;
    const auto counters = [&](const char* name, const char* help, const char* label,
                              std::initializer_list<Row> rows) {
        for (const auto& [value, count] : rows) {
            add(out, MetricType::Counter, name, help, {{label, value}}, count);
        }
    };
    const auto counter = [&](const char* name, const char* help, std::uint64_t value) {
        add(out, MetricType::Counter, name, help, {}, value);
    };
    const auto gauge = [&](const char* name, const char* help, std::size_t value) {
        add(out, MetricType::Gauge, name, help, {}, value);
    };

    const promptkv::Stats s = cache.stats();
    counters("promptkv_lookups_total", "Lookups, by what they found.", "result",
             {{"exact", s.hits_exact},
              {"shorter", s.hits_shorter},
              {"longer", s.hits_longer},
              {"nothing_shared", s.missed_nothing_shared},
              {"evicted", s.missed_evicted},
              {"not_cuttable", s.missed_not_cuttable},
              {"needs_last_token", s.missed_needs_last_token},
              {"leased", s.missed_leased},
              {"below_min_reuse", s.missed_below_min_reuse}});
    counter("promptkv_requested_tokens_total", "Tokens of all prompts that were looked up.",
            s.tokens_requested);
    counter("promptkv_reused_tokens_total", "Tokens whose state was handed back.", s.tokens_reused);
    counters("promptkv_inserts_total", "Inserts that were kept or not needed, by outcome.",
             "outcome", {{"stored", s.stored}, {"replaced", s.replaced}, {"present", s.present}});
    counters("promptkv_refusals_total", "Inserts that were refused, by reason.", "reason",
             {{"declined", s.declined},
              {"cancelled", s.cancelled},
              {"too_large", s.too_large},
              {"no_room", s.no_room}});
    counters("promptkv_removals_total", "Entries that left, and tails that were cut, by reason.",
             "reason",
             {{"evicted", s.evicted},
              {"cut", s.cut},
              {"absorbed", s.absorbed},
              {"replaced", s.replaced},
              {"erased", s.erased},
              {"taken", s.taken},
              {"cleared", s.cleared}});
    counter("promptkv_evicted_unused_total", "Evicted entries that nothing ever used.",
            s.evicted_unused);
    counter("promptkv_evicted_tokens_total", "Tokens of evicted entries and cut tails.",
            s.tokens_evicted);
    counter("promptkv_evicted_bytes_total", "Bytes that evictions freed.", s.bytes_evicted);
    counters("promptkv_demotions_total", "Entries made the next victims of their tier, by reason.",
             "reason", {{"superseded", s.superseded}, {"session", s.demoted}});

    for (std::size_t i = 0; i < promptkv::tier_traits<TierEnum>::count; ++i) {
        const auto tier = static_cast<TierEnum>(i);
        const promptkv::TierStats t = cache.stats(tier);
        const Labels labels = {{"tier", std::string(name(tier))}};
        add(out, MetricType::Gauge, "promptkv_entries", "Entries.", labels, t.entries);
        add(out, MetricType::Gauge, "promptkv_tier_referenced_bytes",
            "Bytes that the entries of a tier refer to; a shared block counts for each.", labels,
            t.nbytes);
        add(out, MetricType::Counter, "promptkv_tier_hits_total", "Lookups that a tier served.",
            labels, t.hits);
        add(out, MetricType::Counter, "promptkv_tier_reused_tokens_total",
            "Tokens handed back by entries of a tier.", labels, t.tokens_reused);
        add(out, MetricType::Counter, "promptkv_tier_evictions_total",
            "Entries of a tier that were evicted or cut.", labels, t.evicted + t.cut);
    }

    gauge("promptkv_bytes", "Bytes held; a shared block counts once.", cache.nbytes());
    gauge("promptkv_limit_bytes", "The budget.", cache.limits().max_bytes);
    gauge("promptkv_referenced_bytes",
          "Bytes that entries refer to; a shared block counts for each.", s.bytes_referenced);
    gauge("promptkv_leased_bytes", "Bytes of payloads that are being read.", s.bytes_leased);
    gauge("promptkv_reserved_bytes", "Bytes held for payloads that are being made.",
          s.bytes_reserved);
    gauge("promptkv_peak_bytes", "The most bytes ever held.", s.peak_nbytes);
    gauge("promptkv_index_bytes", "Bytes of the index, beside the budget.", cache.index_nbytes());

    if constexpr (promptkv::BlockPayload<KV>) {
        std::size_t references = 0;
        double blocks = 0; // each holder of a block adds its share
        cache.for_each([&](const auto& entry) {
            promptkv::kv_traits<KV>::for_each_block(
                entry.kv, 0, [&](const promptkv::BlockUse& use, std::size_t, bool) {
                    ++references;
                    blocks += 1.0 / std::max(1U, use.count());
                });
        });
        gauge("promptkv_blocks", "Blocks of all entries; a shared block counts once.",
              static_cast<std::size_t>(blocks + 0.5));
        gauge("promptkv_block_references", "Blocks of all entries; a shared block counts for each.",
              references);
    }
    return out;
}

/// The counters of a second level (promptkv/second_level.hpp).
template <class SecondLevelStats>
    requires requires(const SecondLevelStats& s) { s.dropped_queue_full; }
[[nodiscard]] Families collect(const SecondLevelStats& s) {
    using prometheus::MetricType;
    Families out;
    const auto counter = [&](const char* name, const char* help, std::uint64_t value,
                             Labels labels = {}) {
        add(out, MetricType::Counter, name, help, std::move(labels), value);
    };
    counter("promptkv_second_level_written_total", "Records written.", s.written);
    counter("promptkv_second_level_written_bytes_total", "Bytes written.", s.bytes_written);
    const char* const dropped = "promptkv_second_level_dropped_total";
    const char* const why = "Records that were not written, by reason.";
    counter(dropped, why, s.dropped_queue_full, {{"reason", "queue_full"}});
    counter(dropped, why, s.dropped_too_short, {{"reason", "too_short"}});
    counter(dropped, why, s.dropped_erased, {{"reason", "erased"}});
    counter(dropped, why, s.dropped_no_payload, {{"reason", "no_payload"}});
    counter(dropped, why, s.refused_full, {{"reason", "store_full"}});
    counter(dropped, why, s.refused_failed, {{"reason", "store_failed"}});
    counter("promptkv_second_level_loads_total", "Loads.", s.loads);
    counter("promptkv_second_level_loaded_tokens_total", "Tokens loaded.", s.tokens_loaded);
    counter("promptkv_second_level_loaded_bytes_total", "Bytes loaded.", s.bytes_loaded);
    add(out, MetricType::Gauge, "promptkv_second_level_waiting_bytes",
        "Bytes that wait to be written.", {}, s.bytes_waiting);
    return out;
}

} // namespace promptkv_metrics

#endif
