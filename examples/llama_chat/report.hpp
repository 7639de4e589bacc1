// SPDX-License-Identifier: MIT
// What the example prints: a line a request and the totals, as a table or as JSON.
#ifndef PROMPTKV_EXAMPLES_REPORT_HPP
#define PROMPTKV_EXAMPLES_REPORT_HPP

#include "serve.hpp"

#include <cstddef>
#include <cstdio>
#include <span>
#include <string>
#include <vector>

#include <unistd.h>

/// A line on a terminal that shows how far the prefill is; nothing where there is no terminal.
class ProgressBar {
public:
    void show(const std::string& label, std::size_t done, std::size_t total) const {
        if (enabled_) {
            constexpr std::size_t width = 40;
            const std::size_t full = width * done / total;
            const std::string bar = std::string(full, '#') + std::string(width - full, '.');
            std::fprintf(stderr, "\r\033[K%s [%s] %zu of %zu tokens", label.c_str(), bar.c_str(),
                         done, total);
        }
    }
    void clear() const {
        if (enabled_) {
            std::fputs("\r\033[K", stderr);
        }
    }

private:
    bool enabled_ = isatty(STDERR_FILENO) == 1;
};

/// What a run is about.
struct Setup {
    std::string model;
    bool random_weights;
    double parameters;
    int threads;
    std::size_t batch_tokens;
    std::size_t requests;
    std::size_t users;
    std::size_t systems;
    std::size_t budget_bytes;
    double budget_share; // of what the conversations take
};

/// Prints a run while it goes on, and sums it up.
class Report {
public:
    /// `ways`: the names of the ways of serving: without a cache, promptkv, and perhaps others.
    Report(bool json, const Setup& setup, const std::vector<const char*>& ways)
        : json_(json), requests_(setup.requests) {
        for (const char* name : ways) {
            sums_.push_back({name});
        }
        if (json_) {
            std::printf("{\n  \"model\": \"%s\", \"parameters\": %.0f, \"threads\": %d,\n"
                        "  \"budget_bytes\": %zu, \"budget_share\": %g, \"batch_tokens\": %zu,\n"
                        "  \"requests\": [\n",
                        escaped(setup.model).c_str(), setup.parameters, setup.threads,
                        setup.budget_bytes, setup.budget_share, setup.batch_tokens);
            return;
        }
        std::printf("model    %s, %.1f M parameters, %d thread%s\n%s"
                    "work     %zu requests of %zu users on %zu system prompts\n"
                    "budget   %.2f MB: %.0f %% of what the conversations take\n\n",
                    setup.model.c_str(), setup.parameters * 1e-6, setup.threads,
                    setup.threads == 1 ? "" : "s",
                    setup.random_weights ? "         (written for this run: what it says is "
                                           "noise, what it computes is real)\n"
                                         : "",
                    setup.requests, setup.users, setup.systems,
                    static_cast<double>(setup.budget_bytes) * 1e-6, setup.budget_share * 100);
        std::printf("                      tokens             prefill, ms\n"
                    "  # user what   prompt reused match     without   with speed-up evicted\n");
    }

    /// Adds a request and what the ways did with it.
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
        const double without_ms = served[0].prefill.count() * 1e3;
        const double with_ms = with.prefill.count() * 1e3;
        if (json_) {
            std::printf("    {\"user\": \"%s\", \"kind\": \"%s\", \"prompt_tokens\": %zu, "
                        "\"reused_tokens\": %zu, \"match\": \"%s\", \"prefill_ms_without\": %.3f, "
                        "\"prefill_ms_with\": %.3f, \"speed_up\": %.2f, \"evictions\": %zu, "
                        "\"identical\": %s}%s\n",
                        user.c_str(), kind, prompt_tokens, with.restored.reused,
                        with.restored.match, without_ms, with_ms, without_ms / with_ms,
                        with.evictions, identical ? "true" : "false",
                        done_ == requests_ ? "" : ",");
        } else {
            std::printf("%3zu %-4s %-6s %6zu %6zu %-8s %8.1f %6.1f  %5.1f x %7zu%s\n", done_,
                        user.c_str(), kind, prompt_tokens, with.restored.reused,
                        with.restored.match, without_ms, with_ms, without_ms / with_ms,
                        with.evictions, identical ? "" : "  WRONG ANSWER");
        }
        std::fflush(stdout);
    }

    /// Prints the totals. Answers whether every answer was the one computed without a cache.
    [[nodiscard]] bool finish() const {
        const bool all_identical = identical_ == requests_;
        if (json_) {
            std::printf("  ],\n  \"totals\": [\n");
            for (const Sums& sum : sums_) {
                std::printf("    {\"name\": \"%s\", \"prefilled_tokens\": %zu, "
                            "\"reused_tokens\": %zu, \"evictions\": %zu, "
                            "\"prefill_s\": %.3f, \"total_s\": %.3f, \"processor_s\": %.3f}%s\n",
                            sum.name, sum.computed, sum.reused, sum.evictions, sum.prefill.count(),
                            sum.total.count(), sum.processor.count(),
                            &sum == &sums_.back() ? "" : ",");
            }
            std::printf("  ],\n  \"answers\": %zu, \"identical_answers\": %zu\n}\n", requests_,
                        identical_);
            return all_identical;
        }
        std::printf("\n                        tokens    tokens   prefill   speed    total\n"
                    "                        prefilled reused   time, s   -up      time, s  "
                    "evicted\n");
        for (const Sums& sum : sums_) {
            std::printf("%-23s %9zu %8zu %8.2f %6.1f x %8.2f %8zu\n", sum.name, sum.computed,
                        sum.reused, sum.prefill.count(), sums_[0].prefill / sum.prefill,
                        sum.total.count(), sum.evictions);
        }
        if (all_identical) {
            std::printf(
                "\nidentical answers: %zu of %zu, with every logit of their first token equal "
                "to the bit\n",
                identical_, requests_);
        } else {
            std::printf("\nWRONG ANSWERS: %zu of %zu\n", requests_ - identical_, requests_);
        }
        return all_identical;
    }

private:
    /// Of one way of serving.
    struct Sums {
        const char* name;
        std::size_t computed = 0;
        std::size_t reused = 0;
        std::size_t evictions = 0;
        Served::Seconds prefill{};
        Served::Seconds total{};
        Served::Seconds processor{};

        void add(const Served& served) {
            computed += served.computed;
            reused += served.restored.reused;
            evictions += served.evictions;
            prefill += served.prefill;
            total += served.total;
            processor += served.processor;
        }
    };

    /// For a JSON string.
    static std::string escaped(const std::string& text) {
        std::string out;
        for (const char c : text) {
            if (c == '"' || c == '\\') {
                out += '\\';
            }
            out += c;
        }
        return out;
    }

    bool json_;
    std::size_t requests_;
    std::size_t done_ = 0;
    std::size_t identical_ = 0;
    std::vector<Sums> sums_; // by way
};

#endif
