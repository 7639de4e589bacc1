// SPDX-License-Identifier: MIT
// LruWatch: compares a cache with LRU caches of several sizes, request by request.
#ifndef PROMPTKV_DETAIL_LRU_WATCH_HPP
#define PROMPTKV_DETAIL_LRU_WATCH_HPP

#include <promptkv/cache_types.hpp>
#include <promptkv/detail/exceptions.hpp>
#include <promptkv/detail/lru_shadow.hpp>
#include <promptkv/detail/observed_edge.hpp>
#include <promptkv/version.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// The curve of LRU's hit ratios, and a guard: while the cache is clearly behind LRU at its own size, it
/// is to order by recency.
class LruWatch {
public:
    /// `budgets`: bytes. None: multiples of what the cache may hold.
    LruWatch(bool guards, std::vector<std::size_t> budgets)
        : guards_(guards), budgets_(std::move(budgets)),
          shadow_(1 + (budgets_.empty() ? multiples.size() : budgets_.size())) {}

    /// A request begins. `max_bytes`: what the cache may hold now.
    void begin(std::uint64_t number, std::size_t max_bytes, double tokens_per_byte) noexcept {
        if (max_bytes != max_bytes_) {
            max_bytes_ = max_bytes;
            tokens_ = 0;
            for (LruShadow::Size& size : shadow_.sizes())
                size.hits = 0;
        }
        number_ = number;
        for (std::size_t i = 0; i < shadow_.sizes().size(); ++i)
            shadow_.sizes()[i].tokens = bytes_of(i) * tokens_per_byte;
        own_hits_before_ = shadow_.sizes()[0].hits;
        PROMPTKV_TRY {
            shadow_.next_request(number);
        }
        PROMPTKV_CATCH_ALL {} // the last slot becomes a little coarser
    }
    /// The request uses the first `n` tokens of an edge of `length` tokens.
    void use(ObservedEdge& edge, std::size_t n, std::size_t length) noexcept {
        const bool is_known = edge.uses > 0;
        const std::size_t part = // the edge may have been cut within it
            is_known ? (std::min<std::size_t>)(edge.later_part(), length) : 0;
        if (part > 0)
            use_run(number_of(edge.part_last), part, (std::min)(n, part));
        if (n > part)
            use_run(is_known ? number_of(edge.last) : 0, n - part, n - part);
        if (is_known && n < length) {
            edge.part_last = static_cast<std::uint32_t>(number_);
            edge.part = static_cast<std::uint32_t>((std::max)(n, part));
        }
    }
    /// The request uses tokens that no edge has.
    void use_new(std::size_t tokens) noexcept { use_run(0, tokens, tokens); }
    /// The tokens that the last request added to its prompt.
    void add(std::size_t tokens) noexcept { shadow_.use(0, static_cast<double>(tokens), 0); }
    /// The request ends; the cache reused so many tokens.
    void end(std::size_t reused) noexcept {
        if (guards_ && max_bytes_ != unlimited)
            judge(static_cast<double>(reused) - (shadow_.sizes()[0].hits - own_hits_before_));
    }

    [[nodiscard]] bool says_recency() const noexcept { return requests_left_ > 0; }
    [[nodiscard]] std::vector<HitRatioPoint> curve() const {
        std::vector<HitRatioPoint> points;
        for (std::size_t i = 1; i < shadow_.sizes().size(); ++i) {
            const double ratio = tokens_ > 0 ? shadow_.sizes()[i].hits / tokens_ : 0;
            constexpr auto most = static_cast<double>(unlimited);
            const double bytes = bytes_of(i);
            points.push_back({bytes < most ? static_cast<std::size_t>(bytes) : unlimited, ratio});
        }
        return points;
    }
    [[nodiscard]] std::size_t nbytes() const noexcept { return shadow_.nbytes(); }

private:
    static constexpr std::array<double, 5> multiples{0.25, 0.5, 1, 2, 4};

    /// The number of a request that is known modulo 2^32; 0: it cannot be.
    [[nodiscard]] std::uint64_t number_of(std::uint32_t last) const noexcept {
        const std::uint32_t age = static_cast<std::uint32_t>(number_) - last;
        return age < number_ ? number_ - age : 0;
    }
    void use_run(std::uint64_t last, std::size_t tokens, std::size_t asked) noexcept {
        shadow_.use(last, static_cast<double>(tokens), static_cast<double>(asked));
        tokens_ += static_cast<double>(asked);
    }

    /// Of a size of the shadow; the first is the cache's own.
    [[nodiscard]] double bytes_of(std::size_t i) const noexcept {
        if (i == 0)
            return static_cast<double>(max_bytes_);
        return budgets_.empty() ? multiples[i - 1] * static_cast<double>(max_bytes_)
                                : static_cast<double>(budgets_[i - 1]);
    }

    /// `ahead`: tokens that the cache reused more than LRU for one request.
    void judge(double ahead) noexcept {
        constexpr double window = 16384, least = 200, significant = 1.5;
        constexpr std::uint32_t longest_pause = 65536;
        if (requests_left_ > 0) {
            if (--requests_left_ == 0)
                seen_ = sum_ = squares_ = 0;
            return;
        }
        constexpr double keep = 1 - 1 / window;
        seen_ = seen_ * keep + 1;
        sum_ = sum_ * keep + ahead;
        squares_ = squares_ * keep + ahead * ahead;
        const double bound = significant * std::sqrt(squares_);
        if (seen_ > least && sum_ < -bound) {
            requests_left_ = pause_;
            pause_ = (std::min)(longest_pause, 2 * pause_);
        } else if (sum_ > bound) {
            pause_ = first_pause;
        }
    }

    static constexpr std::uint32_t first_pause = 2048;

    bool guards_;
    std::vector<std::size_t> budgets_;
    LruShadow shadow_;
    std::size_t max_bytes_ = 0;
    std::uint64_t number_ = 0;
    double tokens_ = 0; // asked for
    double own_hits_before_ = 0;
    // the guard: sums that decay, and for how many requests it orders by recency
    double seen_ = 0, sum_ = 0, squares_ = 0;
    std::uint32_t requests_left_ = 0;
    std::uint32_t pause_ = first_pause;
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
