// SPDX-License-Identifier: MIT
// simulate: the replay protocol, the two payloads and the clock.
#include "simulate.hpp"

#include <promptkv/promptkv.hpp>

#include <algorithm>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace replay {
namespace {

using std::chrono::nanoseconds;
using Clock = std::chrono::steady_clock;

/// Only its size is simulated.
class Whole {
public:
    Whole(std::size_t n_blocks, std::size_t bytes_per_block) noexcept
        : n_blocks_(n_blocks), bytes_per_block_(bytes_per_block) {}

    [[nodiscard]] std::size_t nbytes() const noexcept { return n_blocks_ * bytes_per_block_; }

protected:
    std::size_t n_blocks_;
    std::size_t bytes_per_block_;
};

class Cuttable : public Whole {
public:
    using Whole::Whole;

    [[nodiscard]] std::size_t reusable_prefix(std::size_t n) const noexcept { return n; }
    void truncate(std::size_t n) noexcept { n_blocks_ = n; }
};

class Stopwatch {
public:
    /// Runs `operation` and notes how long it took.
    template <class Operation>
    auto measure(Operation operation) {
        const Clock::time_point start = Clock::now();
        auto result = operation();
        laps_.push_back(Clock::now() - start);
        return result;
    }

    [[nodiscard]] std::size_t count() const noexcept { return laps_.size(); }

    [[nodiscard]] nanoseconds total() const noexcept {
        nanoseconds sum{0};
        for (const nanoseconds lap : laps_) {
            sum += lap;
        }
        return sum;
    }

    [[nodiscard]] Latency latency() { return {percentile(50), percentile(99)}; }

private:
    [[nodiscard]] nanoseconds percentile(std::size_t percent) {
        if (laps_.empty()) {
            return nanoseconds{0};
        }
        const std::size_t rank = (laps_.size() - 1) * percent / 100;
        const auto nth = laps_.begin() + static_cast<std::ptrdiff_t>(rank);
        std::nth_element(laps_.begin(), nth, laps_.end());
        return *nth;
    }

    std::vector<nanoseconds> laps_;
};

template <class KV, class Token>
class Simulator {
public:
    Simulator(const Trace& trace, const Settings& settings, const Capacity& capacity)
        : trace_(trace), tiers_(settings.tiers),
          bytes_per_block_(trace.block_size * settings.bytes_per_token),
          cache_({.max_bytes = capacity.bytes(bytes_per_block_),
                  .max_entries = settings.max_entries,
                  .refresh_on_fetch = settings.refresh_on_fetch,
                  .keep_anchors = settings.keep_anchors,
                  .supersede = settings.supersede,
                  .cut_granularity = settings.cut_granularity}) {
        result_.capacity = capacity;
    }

    Result run(const Progress& progress) {
        constexpr std::size_t report_interval = 64;
        for (const Request& request : trace_.requests) {
            replay(request);
            ++result_.requests;
            if (progress != nullptr && result_.requests % report_interval == 0) {
                progress(result_.requests);
            }
        }
        finish();
        return result_;
    }

private:
    using Cache = promptkv::LRUPromptCache<KV, std::string, Token>;
    using Tier = promptkv::Tier;

    void replay(const Request& request) {
        expand(trace_, request, ids_);
        const std::size_t reused_blocks = fetches_.measure(
            [&] { return cache_.lease_nearest(model_, ids_, {.min_remaining = 0}).reused; });
        const std::uint64_t saved =
            std::min(reused_blocks * trace_.block_size, request.input_tokens);
        result_.tokens += request.input_tokens;
        result_.tokens_saved += saved;
        result_.requests_hit += saved > 0 ? 1 : 0;
        if (tiers_) {
            insert(request.system_tokens, Tier::system);
        }
        insert(request.input_tokens, tiers_ ? Tier::user : Tier::assistant);
    }

    /// Stores the whole blocks of the first `n_tokens`, if there is one.
    void insert(std::uint64_t n_tokens, Tier tier) {
        const std::size_t n_blocks = n_tokens / trace_.block_size;
        if (n_blocks == 0) {
            return;
        }
        const std::span<const Token> key = std::span<const Token>(ids_).first(n_blocks);
        KV kv(n_blocks, bytes_per_block_);
        inserts_.measure([&] { return cache_.insert(model_, key, std::move(kv), tier).outcome; });
    }

    void finish() {
        for (const Tier tier : {Tier::assistant, Tier::user, Tier::system}) {
            const auto counts = cache_.stats(tier);
            const auto index = static_cast<std::size_t>(tier);
            result_.evicted[index] = counts.evicted;
            result_.cut[index] = counts.cut;
            result_.anchors += counts.anchors;
        }
        result_.entries = cache_.size();
        result_.bytes = cache_.nbytes();
        result_.index_bytes = cache_.index_nbytes();
        result_.operations = fetches_.count() + inserts_.count();
        result_.time = fetches_.total() + inserts_.total();
        result_.fetch = fetches_.latency();
        result_.insert = inserts_.latency();
    }

    const Trace& trace_;
    bool tiers_;
    std::size_t bytes_per_block_;
    Cache cache_;
    std::string model_ = "replay";
    std::vector<Token> ids_;
    Stopwatch fetches_;
    Stopwatch inserts_;
    Result result_;
};

template <class Token>
Result simulate_as(const Trace& trace, const Settings& settings, const Capacity& capacity,
                   const Progress& progress) {
    if (settings.payload == PayloadKind::whole) {
        return Simulator<Whole, Token>(trace, settings, capacity).run(progress);
    }
    return Simulator<Cuttable, Token>(trace, settings, capacity).run(progress);
}

} // namespace

double Result::token_hit_ratio() const noexcept {
    return tokens == 0 ? 0.0 : static_cast<double>(tokens_saved) / static_cast<double>(tokens);
}

double Result::operations_per_second() const noexcept {
    const double seconds = std::chrono::duration<double>(time).count();
    return seconds > 0.0 ? static_cast<double>(operations) / seconds : 0.0;
}

Result simulate(const Trace& trace, const Settings& settings, const Capacity& capacity,
                const Progress& progress) {
    const bool fits_default_token =
        summarize(trace).largest_id < std::numeric_limits<std::int32_t>::max();
    return fits_default_token ? simulate_as<std::int32_t>(trace, settings, capacity, progress)
                              : simulate_as<std::int64_t>(trace, settings, capacity, progress);
}

} // namespace replay
