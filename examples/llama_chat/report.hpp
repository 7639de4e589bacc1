// SPDX-License-Identifier: MIT
// The output of the example: a line a request and the totals, as a table or as JSON.
#ifndef PROMPTKV_EXAMPLES_LLAMA_REPORT_HPP
#define PROMPTKV_EXAMPLES_LLAMA_REPORT_HPP

#include "serve.hpp"

#include <cstddef>
#include <cstdio>
#include <span>
#include <string>
#include <vector>

/// Prints a run while it goes on, and sums it up.
class Report {
public:
    /// `ways`: the names of the ways of serving: without a cache, promptkv, and perhaps others.
    /// `with_store`: whether the second one has a store below memory.
    Report(bool json, std::size_t requests, const std::vector<const char*>& ways,
           bool with_store = false)
        : json_(json), with_store_(with_store), requests_(requests), names_(ways),
          sums_(ways.size()) {}

    void begin(const std::string& model, double parameters, std::size_t budget_bytes,
               double budget_share) const {
        std::printf(json_ ? "{\n  \"model\": \"%s\", \"parameters\": %.0f,\n"
                            "  \"budget_bytes\": %.0f, \"budget_share\": %g,\n  \"requests\": [\n"
                          : "model    %s, %.0f parameters\n"
                            "budget   %.0f bytes: %g of the bytes of all conversations\n\n",
                    model.c_str(), parameters, static_cast<double>(budget_bytes), budget_share);
        if (!json_) {
            std::printf(
                "                      tokens             prefill, ms\n"
                "  # user what   prompt reused match     without   with speed-up evicted\n");
        }
    }

    /// Adds a request, served in each of the ways.
    void add(const std::string& user, const char* kind, std::size_t prompt_tokens,
             std::span<const Served> served) {
        bool identical = true;
        for (std::size_t way = 0; way < served.size(); ++way) {
            sums_[way].add(served[way]);
            identical = identical && served[way].same_answer(served[0]);
        }
        identical_ += identical ? 1 : 0;
        ++done_;

        const Served& with = served[1];
        const std::string match(with.restored.match);
        const double without_ms = served[0].prefill.count() * 1e3;
        const double with_ms = with.prefill.count() * 1e3;
        if (json_) {
            std::printf("    {\"user\": \"%s\", \"kind\": \"%s\", \"prompt_tokens\": %zu, "
                        "\"reused_tokens\": %zu, \"match\": \"%s\", \"prefill_ms_without\": %.3f, "
                        "\"prefill_ms_with\": %.3f, \"evictions\": %zu, \"identical\": %s}%s\n",
                        user.c_str(), kind, prompt_tokens, with.restored.reused, match.c_str(),
                        without_ms, with_ms, with.evictions, identical ? "true" : "false",
                        done_ == requests_ ? "" : ",");
        } else {
            std::printf("%3zu %-4s %-6s %6zu %6zu %-8s %8.1f %6.1f  %5.1f x %7zu%s\n", done_,
                        user.c_str(), kind, prompt_tokens, with.restored.reused, match.c_str(),
                        without_ms, with_ms, without_ms / with_ms, with.evictions,
                        identical ? "" : "  WRONG ANSWER");
        }
        std::fflush(stdout);
    }

    /// Prints the totals. Answers whether every answer was the one computed without a cache.
    [[nodiscard]] bool finish() const {
        std::fputs(json_ ? "  ],\n  \"totals\": [\n"
                         : "\n                        tokens    tokens   prefill   speed    total\n"
                           "                        prefilled reused   time, s   -up      time, s  "
                           "evicted\n",
                   stdout);
        for (std::size_t way = 0; way < sums_.size(); ++way) {
            const Served& sum = sums_[way];
            if (json_) {
                std::printf("    {\"name\": \"%s\", \"prefilled_tokens\": %zu, "
                            "\"reused_tokens\": %zu, \"from_store_tokens\": %zu, "
                            "\"evictions\": %zu, \"prefill_s\": %.3f, "
                            "\"total_s\": %.3f, \"processor_s\": %.3f}%s\n",
                            names_[way], sum.computed, sum.restored.reused, sum.restored.from_store,
                            sum.evictions, sum.prefill.count(), sum.total.count(),
                            sum.processor.count(), way + 1 == sums_.size() ? "" : ",");
            } else {
                std::printf("%-23s %9zu %8zu %8.2f %6.1f x %8.2f %8zu\n", names_[way], sum.computed,
                            sum.restored.reused, sum.prefill.count(),
                            sums_[0].prefill / sum.prefill, sum.total.count(), sum.evictions);
            }
        }
        if (with_store_ && !json_)
            finish_store();
        std::printf(json_
                        ? "  ],\n  \"identical_answers\": %zu, \"answers\": %zu\n}\n"
                        : "\nidentical answers: %zu of %zu (all logits of the first token, to the "
                          "bit, and the text)\n",
                    identical_, requests_);
        return identical_ == requests_;
    }

private:
    /// Where the state came from, and how long a request waited for its first token.
    void finish_store() const {
        std::fputs("\n                        tokens    from      from the  first token\n"
                   "                        prefilled memory    store     after, ms\n",
                   stdout);
        for (std::size_t way = 0; way < sums_.size(); ++way) {
            const Served& sum = sums_[way];
            std::printf("%-23s %9zu %8zu %9zu %11.1f\n", names_[way], sum.computed,
                        sum.restored.reused - sum.restored.from_store, sum.restored.from_store,
                        sum.prefill.count() * 1e3 / static_cast<double>(requests_));
        }
    }

    bool json_;
    bool with_store_;
    std::size_t requests_;
    std::size_t done_ = 0;
    std::size_t identical_ = 0;
    std::vector<const char*> names_;
    std::vector<Served> sums_; // by way
};

#endif
