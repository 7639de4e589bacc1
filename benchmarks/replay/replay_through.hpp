// SPDX-License-Identifier: MIT
// replay_through: the replay protocol, the payloads and the clock, for a cache of any policy.
#ifndef PROMPTKV_REPLAY_REPLAY_THROUGH_HPP
#define PROMPTKV_REPLAY_REPLAY_THROUGH_HPP

#include "simulate.hpp"

#include <promptkv/block_kv.hpp>
#include <promptkv/cache_types.hpp>
#include <promptkv/stats.hpp>
#include <promptkv/tier.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace replay {
namespace detail {

using std::chrono::nanoseconds;
using Clock = std::chrono::steady_clock;

/// A block of KV state of which only the size is simulated.
struct Block {
    std::size_t bytes;

    [[nodiscard]] std::size_t nbytes() const noexcept { return bytes; }
};

using Blocks = promptkv::BlockKV<Block>;

/// State of a whole key. Only its size is simulated.
class Whole {
public:
    Whole(std::size_t n_blocks, std::size_t bytes_per_block) noexcept
        : n_blocks_(n_blocks), bytes_per_block_(bytes_per_block) {}

    [[nodiscard]] std::size_t nbytes() const noexcept { return n_blocks_ * bytes_per_block_; }

protected:
    std::size_t n_blocks_;
    std::size_t bytes_per_block_;
};

/// State that serves every prefix and can be cut.
class Prefix : public Whole {
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
        for (const nanoseconds lap : laps_)
            sum += lap;
        return sum;
    }

    [[nodiscard]] Latency latency() { return {percentile(50), percentile(99)}; }

private:
    [[nodiscard]] nanoseconds percentile(std::size_t percent) {
        if (laps_.empty())
            return nanoseconds{0};
        const std::size_t rank = (laps_.size() - 1) * percent / 100;
        const auto nth = laps_.begin() + static_cast<std::ptrdiff_t>(rank);
        std::nth_element(laps_.begin(), nth, laps_.end());
        return *nth;
    }

    std::vector<nanoseconds> laps_;
};

template <class Cache>
concept HasCurve = requires(const Cache& cache) { cache.hit_ratio_curve(); };

/// One replay through a `Cache`.
template <class Cache, class KV, class Token>
class Simulator {
public:
    Simulator(const Trace& trace, const Settings& settings, const Capacity& capacity)
        : trace_(trace), settings_(settings),
          bytes_per_block_(trace.block_size * settings.bytes_per_token),
          cache_(options_of(settings, capacity.bytes(bytes_per_block_))) {
        result_.policy = settings.policy;
        result_.payload = payload_of(settings);
        result_.capacity = capacity;
    }

    Result run(const Progress& progress) {
        for (const Request& request : trace_.requests) {
            replay(request);
            report_progress(progress, result_.requests);
        }
        finish();
        return result_;
    }

private:
    using Tier = promptkv::Tier;
    using InsertOptions = promptkv::InsertOptions;

    [[nodiscard]] static typename Cache::Options options_of(const Settings& settings,
                                                            std::size_t max_bytes) {
        typename Cache::Options options;
        options.max_bytes = max_bytes;
        options.max_entries = settings.max_entries;
        if (settings.policy == Policy::reference)
            options.rules = promptkv::Rules::mlx_lm;
        if constexpr (HasCurve<Cache>) {
            options.policy.curve = settings.curve;
            options.policy.guard = settings.guard;
        }
        return options;
    }

    void replay(const Request& request) {
        expand(trace_, request, ids_);
        const typename Cache::Lookup found = fetches_.measure([&]() -> typename Cache::Lookup {
            return cache_.lease_nearest(model_, ids_, {.min_remaining = 0});
        });
        result_.count(request.input_tokens, found.reused() * trace_.block_size);

        const bool is_server = settings_.insert == InsertWay::server;
        InsertOptions options{.request = found.request()};
        const std::size_t prompt = request.input_tokens / trace_.block_size;
        if (settings_.insert == InsertWay::prompt) {
            insert(prompt, Tier::assistant, options);
            return;
        }
        // a system prompt belongs to no session: others share it
        insert(request.system_tokens / trace_.block_size, Tier::system, options);
        options.session = is_server && settings_.sessions ? request.session : 0;
        insert(prompt, Tier::user, options);
        if (is_server && request.output_range_count > 0) {
            append_output(trace_, request, ids_);
            insert(ids_.size(), Tier::assistant, options);
        }
    }

    /// Stores the first `n` ids, if there are any.
    void insert(std::size_t n, Tier tier, const InsertOptions& options) {
        if (n == 0)
            return;
        const std::span<const Token> key = std::span<const Token>(ids_).first(n);
        inserts_.measure([&] {
            if constexpr (std::is_same_v<KV, Blocks>)
                return extend(key, tier, options);
            else
                return cache_.insert(model_, key, KV(n, bytes_per_block_), tier, options).outcome;
        });
    }

    /// Makes only the blocks of `key` that are not stored yet.
    promptkv::Outcome extend(std::span<const Token> key, Tier tier, const InsertOptions& options) {
        const std::size_t step = settings_.block_tokens;
        const Block block{step * bytes_per_block_};
        const std::size_t nbytes = (key.size() + step - 1) / step * block.bytes;
        auto room = cache_.reserve(model_, key, nbytes, tier, options);
        if (!room)
            return room.outcome();
        Blocks kv = room.prefix().value_or(Blocks(step));
        while (kv.length() < room.tokens())
            kv.append(block, std::min(step, room.tokens() - kv.length()));
        return room.commit(std::move(kv)).outcome;
    }

    void finish() {
        for (const Tier tier : {Tier::assistant, Tier::user, Tier::system}) {
            const auto counts = cache_.stats(tier);
            const auto index = static_cast<std::size_t>(tier);
            result_.evicted[index] = counts.evicted;
            result_.cut[index] = counts.cut;
        }
        const promptkv::Stats stats = cache_.stats();
        result_.refused = stats.too_large + stats.no_room + stats.declined;
        result_.entries = cache_.size();
        result_.bytes = cache_.nbytes();
        result_.bytes_referenced = stats.bytes_referenced;
        result_.index_bytes = cache_.index_nbytes();
        result_.operations = fetches_.count() + inserts_.count();
        result_.time = fetches_.total() + inserts_.total();
        result_.fetch = fetches_.latency();
        result_.insert = inserts_.latency();
        if constexpr (HasCurve<Cache>)
            for (const auto& point : cache_.hit_ratio_curve())
                result_.curve.push_back({point.bytes, point.hit_ratio});
    }

    const Trace& trace_;
    const Settings& settings_;
    std::size_t bytes_per_block_;
    Cache cache_;
    std::string model_ = "replay";
    std::vector<Token> ids_;
    Stopwatch fetches_;
    Stopwatch inserts_;
    Result result_;
};

template <class Caches, class Token>
Result replay_tokens(const Trace& trace, const Settings& settings, const Capacity& capacity,
                     const Progress& progress) {
    switch (payload_of(settings)) {
    case PayloadKind::whole:
        return Simulator<typename Caches::template Of<Whole, Token>, Whole, Token>(trace, settings,
                                                                                   capacity)
            .run(progress);
    case PayloadKind::prefix:
        return Simulator<typename Caches::template Of<Prefix, Token>, Prefix, Token>(
                   trace, settings, capacity)
            .run(progress);
    case PayloadKind::blocks:
        break;
    }
    return Simulator<typename Caches::template Of<Blocks, Token>, Blocks, Token>(trace, settings,
                                                                                 capacity)
        .run(progress);
}

} // namespace detail

/// Replays `trace` through a `Caches::Of<KV, Token>`, whatever the policy of the settings. See `simulate`.
/// Requires: `Caches` is a class with external linkage and a name of its own.
template <class Caches>
Result replay_through(const Trace& trace, const Settings& settings, const Capacity& capacity,
                      const Progress& progress) {
    return summarize(trace).largest_id < std::numeric_limits<std::int32_t>::max()
               ? detail::replay_tokens<Caches, std::int32_t>(trace, settings, capacity, progress)
               : detail::replay_tokens<Caches, std::int64_t>(trace, settings, capacity, progress);
}

} // namespace replay

#endif
