// SPDX-License-Identifier: MIT
// What the engine counts, under the names that llama-server and vLLM use.
#ifndef PROMPTKV_EXAMPLES_LLAMA_SERVER_METRICS_HPP
#define PROMPTKV_EXAMPLES_LLAMA_SERVER_METRICS_HPP

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <string>

namespace llama_server {

/// Thread safety: any; reads see each number by itself.
struct Metrics {
    prometheus::Registry registry;

    prometheus::Counter& prompt_tokens =
        counter("llamacpp:prompt_tokens_total", "Prompt tokens computed.");
    prometheus::Counter& prompt_seconds = counter(
        "llamacpp:prompt_seconds_total", "Time from the start of requests to their first token.");
    prometheus::Counter& prompt_tokens_cached = counter(
        "llamacpp:prompt_tokens_cached_total", "Prompt tokens whose state came from the cache.");
    prometheus::Counter& predicted_tokens =
        counter("llamacpp:tokens_predicted_total", "Tokens generated.");
    prometheus::Counter& predicted_seconds =
        counter("llamacpp:tokens_predicted_seconds_total",
                "Time spent on answers after their first token.");
    prometheus::Counter& decodes = counter("llamacpp:n_decode_total", "Batches computed.");
    prometheus::Gauge& processing = gauge("llamacpp:requests_processing", "Requests in a slot.");
    prometheus::Gauge& deferred =
        gauge("llamacpp:requests_deferred", "Requests that wait for a slot.");
    prometheus::Counter& cache_queries =
        counter("vllm:prefix_cache_queries_total", "Prompt tokens that the cache was asked for.");
    prometheus::Counter& cache_hits =
        counter("vllm:prefix_cache_hits_total", "Prompt tokens that the cache had.");
    prometheus::Histogram& first_token =
        prometheus::BuildHistogram()
            .Name("vllm:time_to_first_token_seconds")
            .Help("From the arrival of a request to its first token.")
            .Register(registry)
            .Add({},
                 prometheus::Histogram::BucketBoundaries{0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08,
                                                         0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10});
    prometheus::Counter& cancelled =
        counter("promptkv_server_cancelled_total", "Requests whose client went away.");
    prometheus::Counter& refused =
        counter("promptkv_server_refused_total", "Requests refused since too many waited.");

private:
    prometheus::Counter& counter(const std::string& name, const std::string& help) {
        return prometheus::BuildCounter().Name(name).Help(help).Register(registry).Add({});
    }
    prometheus::Gauge& gauge(const std::string& name, const std::string& help) {
        return prometheus::BuildGauge().Name(name).Help(help).Register(registry).Add({});
    }
};

} // namespace llama_server

#endif
