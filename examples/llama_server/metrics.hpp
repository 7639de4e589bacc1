// SPDX-License-Identifier: MIT
// What the engine counts, under the names that llama-server and vLLM use.
#ifndef PROMPTKV_EXAMPLES_LLAMA_SERVER_METRICS_HPP
#define PROMPTKV_EXAMPLES_LLAMA_SERVER_METRICS_HPP

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/registry.h>

namespace llama_server {

/// Thread safety: any; reads see each number by itself.
struct Metrics {
    using Counter = prometheus::Counter;
    using Gauge = prometheus::Gauge;
    prometheus::Registry registry;

    Counter& prompt_tokens = counter("llamacpp:prompt_tokens_total", "Prompt tokens computed.");
    Counter& prompt_seconds = counter("llamacpp:prompt_seconds_total",
                                      "Time from the start of requests to their first token.");
    Counter& prompt_tokens_cached = counter("llamacpp:prompt_tokens_cached_total",
                                            "Prompt tokens whose state came from the cache.");
    Counter& predicted_tokens = counter("llamacpp:tokens_predicted_total", "Tokens generated.");
    Counter& predicted_seconds = counter("llamacpp:tokens_predicted_seconds_total",
                                         "Time spent on answers after their first token.");
    Counter& decodes = counter("llamacpp:n_decode_total", "Batches computed.");
    Gauge& processing = gauge("llamacpp:requests_processing", "Requests in a slot.");
    Gauge& deferred = gauge("llamacpp:requests_deferred", "Requests that wait for a slot.");
    Counter& cache_queries =
        counter("vllm:prefix_cache_queries_total", "Prompt tokens that the cache was asked for.");
    Counter& cache_hits =
        counter("vllm:prefix_cache_hits_total", "Prompt tokens that the cache had.");
    Counter& cancelled =
        counter("promptkv_server_cancelled_total", "Requests whose client went away.");
    Counter& refused =
        counter("promptkv_server_refused_total", "Requests refused since too many waited.");

private:
    Counter& counter(const char* name, const char* help) {
        return prometheus::BuildCounter().Name(name).Help(help).Register(registry).Add({});
    }
    Gauge& gauge(const char* name, const char* help) {
        return prometheus::BuildGauge().Name(name).Help(help).Register(registry).Add({});
    }
};

} // namespace llama_server

#endif
