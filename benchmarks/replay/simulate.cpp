// SPDX-License-Identifier: MIT
// simulate: the replay protocol, the payloads and the clock.
#include "simulate.hpp"

#include <promptkv/promptkv.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace replay {
namespace {

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
        : trace_(trace), settings_(settings),
          bytes_per_block_(trace.block_size * settings.bytes_per_token),
          cache_({.max_bytes = capacity.bytes(bytes_per_block_),
                  .max_entries = settings.max_entries,
                  .rules = settings.rules}) {
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
    using InsertOptions = promptkv::InsertOptions;

    void replay(const Request& request) {
        expand(trace_, request, ids_);
        const typename Cache::Lookup found = fetches_.measure([&]() -> typename Cache::Lookup {
            return cache_.lease_nearest(model_, ids_, {.min_remaining = 0});
        });
        count(request, found.reused());

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

    void count(const Request& request, std::uint64_t reused_blocks) {
        const std::uint64_t saved =
            std::min(reused_blocks * trace_.block_size, request.input_tokens);
        result_.tokens += request.input_tokens;
        result_.tokens_saved += saved;
        result_.requests_hit += saved > 0 ? 1 : 0;
    }

    /// Stores the first `n` ids, if there are any.
    void insert(std::size_t n, Tier tier, const InsertOptions& options) {
        if (n == 0) {
            return;
        }
        const std::span<const Token> key = std::span<const Token>(ids_).first(n);
        inserts_.measure([&] {
            if constexpr (std::is_same_v<KV, Blocks>) {
                return extend(key, tier, options);
            } else {
                return cache_.insert(model_, key, KV(n, bytes_per_block_), tier, options).outcome;
            }
        });
    }

    /// Makes only the blocks of `key` that are not stored yet.
    promptkv::Outcome extend(std::span<const Token> key, Tier tier, const InsertOptions& options) {
        const std::size_t step = settings_.block_tokens;
        const Block block{step * bytes_per_block_};
        const std::size_t nbytes = (key.size() + step - 1) / step * block.bytes;
        auto room = cache_.reserve(model_, key, nbytes, tier, options);
        if (!room) {
            return room.outcome();
        }
        Blocks kv = room.prefix().value_or(Blocks(step));
        while (kv.length() < room.tokens()) {
            kv.append(block, std::min(step, room.tokens() - kv.length()));
        }
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

template <class Token>
Result simulate_as(const Trace& trace, const Settings& settings, const Capacity& capacity,
                   const Progress& progress) {
    switch (settings.payload) {
    case PayloadKind::whole:
        return Simulator<Whole, Token>(trace, settings, capacity).run(progress);
    case PayloadKind::prefix:
        return Simulator<Prefix, Token>(trace, settings, capacity).run(progress);
    case PayloadKind::blocks:
        break;
    }
    return Simulator<Blocks, Token>(trace, settings, capacity).run(progress);
}

/// All payloads together, each in three tiers, must be countable in 64 bits.
void check_bytes(const Trace& trace, const TraceSummary& summary, const Settings& settings) {
    constexpr std::uint64_t most = std::uint64_t{1} << 61U;
    const std::uint64_t bytes_per_block = trace.block_size * settings.bytes_per_token;
    const std::uint64_t blocks =
        summary.total_blocks + trace.requests.size() * settings.block_tokens;
    if (blocks > most / bytes_per_block) {
        throw std::invalid_argument(
            fmt::format("{}: {} blocks of {} bytes are too many bytes to count; take fewer bytes "
                        "a token",
                        trace.name, blocks, bytes_per_block));
    }
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
    const TraceSummary summary = summarize(trace);
    check_bytes(trace, summary, settings);
    return summary.largest_id < std::numeric_limits<std::int32_t>::max()
               ? simulate_as<std::int32_t>(trace, settings, capacity, progress)
               : simulate_as<std::int64_t>(trace, settings, capacity, progress);
}

} // namespace replay
