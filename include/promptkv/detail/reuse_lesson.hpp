// SPDX-License-Identifier: MIT
// ReuseLesson: how soon state of a kind is used again, learned from the uses that were seen.
#ifndef PROMPTKV_DETAIL_REUSE_LESSON_HPP
#define PROMPTKV_DETAIL_REUSE_LESSON_HPP

#include <promptkv/version.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// Learns how likely a use is after so many requests, for state of each kind, and what room is worth.
///
/// Time is counted in requests. What is learned from are intervals: each begins with a use and ends with
/// the next one, or is still open. A kind is a few features of four bits each. The hazard (the chance of
/// a use, by the requests since the last) is estimated for 16 levels, and the level of a kind is a sum
/// of weights, one for each value of a feature. Sums need hundreds of intervals where a table of all
/// combinations needs many thousands. The worth is the Gittins index: the best ratio of expected hits to
/// expected room, over all times at which one could stop waiting.
///
/// Sources: hazards by age are those of LHD (Beckmann, Chen, Cidon, NSDI 2018), which looks at one
/// horizon; the index is that of Gittins (1979).
class ReuseLesson {
public:
    static constexpr std::size_t n_ages = 40;    // half an octave of requests each
    static constexpr std::size_t n_levels = 16;  // half an octave of hazard each
    static constexpr std::size_t n_features = 6; // four bits each
    static constexpr std::uint32_t ring_size = std::uint32_t{1} << 14U;

    ReuseLesson() : ring_(ring_size) {
        for (std::size_t level = 0; level < n_levels; ++level) {
            for (std::size_t age = 0; age < n_ages; ++age)
                worth_[level][age] = 0.5F * (static_cast<float>(level) - middle) +
                                     std::log2(prior / (age_from(age) + 1));
        }
    }

    // what is seen ///////////////////////////////////////////////////////////

    /// An interval begins; returns its number, which is not 0.
    std::uint32_t begin(std::uint32_t now, std::uint32_t features) noexcept {
        ring_[seen_ % ring_size] = Interval{now, features & 0xffffffU, open};
        const std::uint32_t number = seen_;
        if (++seen_ == 0)
            seen_ = ring_size;
        return number;
    }
    /// The kind of an interval is known better now.
    void amend(std::uint32_t number, std::uint32_t features) noexcept {
        if (number != 0 && seen_ - number <= ring_size)
            ring_[number % ring_size].features = features & 0xffffffU;
    }
    /// The interval with this number ends with a use. Without effect if it is 0, or was long ago.
    void end(std::uint32_t number, std::uint32_t now) noexcept {
        Interval& interval = ring_[number % ring_size];
        if (number != 0 && seen_ - number <= ring_size && interval.age == open)
            interval.age = age_of(now - interval.time) & 0xffU;
    }

    /// Learns, if enough was seen since the last time. Now and then it takes some 0.3 ms.
    void learn(std::uint32_t now) noexcept {
        const std::uint32_t due = (std::max)(64U, (std::min)(seen_, ring_size) / 12);
        if (seen_ - learned_ < due)
            return;
        learned_ = seen_;
        refit(now);
    }

    // what is known //////////////////////////////////////////////////////////

    /// A kind's level, between 0 and n_levels - 1.
    [[nodiscard]] float level(std::uint32_t features) const noexcept {
        float level = middle;
        for (std::size_t f = 0; f < n_features; ++f)
            level += 2 * weight_[f][value(features, f)];
        return std::clamp(level, 0.0F, n_levels - 1.001F);
    }
    /// log2 of the expected hits for each token and request of room.
    [[nodiscard]] float worth(float level, std::uint32_t age) const noexcept {
        const auto low = static_cast<std::size_t>(level);
        const std::size_t bucket = age_of(age);
        const float part = level - static_cast<float>(low);
        return worth_[low][bucket] + part * (worth_[low + 1][bucket] - worth_[low][bucket]);
    }
    /// Requests between the oldest interval that is still known and `now`; 0: fewer were seen than there
    /// is room for.
    [[nodiscard]] std::uint32_t span(std::uint32_t now) const noexcept {
        return seen_ > ring_size ? now - ring_[seen_ % ring_size].time : 0;
    }
    [[nodiscard]] std::size_t nbytes() const noexcept { return ring_.size() * sizeof(Interval); }

private:
    static constexpr std::uint32_t open = 0xff;
    static constexpr float middle = float{n_levels} / 2; // the level of a kind without weights
    static constexpr float prior = 0.1F; // without data: hazard prior / (age + 1), LRU's order
    // how many intervals a guess counts for: of all kinds' hazards, of a weight, of a level's hazards
    static constexpr double trust_all = 300, trust_weight = 30, trust_level = 30;

    struct Interval {
        std::uint32_t time = 0;
        std::uint32_t features : 24 = 0;
        std::uint32_t age : 8 = open;
    };
    template <class T>
    using Ages = std::array<T, n_ages>;
    template <class T>
    using Weights = std::array<std::array<T, 16>, n_features>;
    struct Counts {
        Ages<double> uses{}, ends{};
        /// An interval that is still open ends somewhere in its bucket.
        void add(std::size_t age, bool used) noexcept {
            uses[age] += used ? 1 : 0;
            ends[age] += used ? 1 : 0.5;
            ends[age > 0 ? age - 1 : 0] += used ? 0 : 0.5;
        }
    };

    [[nodiscard]] static std::size_t value(std::uint32_t features, std::size_t feature) noexcept {
        return features >> (4 * feature) & 15U;
    }
    /// The bucket of so many requests. Of one more than these it is twice the octave, and 1 in the upper half.
    [[nodiscard]] static std::uint32_t age_of(std::uint32_t requests) noexcept {
        const std::uint64_t x = std::uint64_t{requests} + 1;
        const auto octave = static_cast<std::uint32_t>(std::bit_width(x)) - 1;
        const auto upper_half = static_cast<std::uint32_t>(2 * x >> octave & 1U);
        return std::min<std::uint32_t>(n_ages - 1, 2 * octave + upper_half);
    }
    /// The fewest requests of a bucket.
    [[nodiscard]] static float age_from(std::size_t bucket) noexcept {
        if (bucket < 3)
            return bucket < 1 ? 0.0F : 1.0F;
        return static_cast<float>(((2 + (bucket & 1)) << (bucket / 2 - 1)) - 1);
    }
    [[nodiscard]] static float width_of(std::size_t bucket) noexcept {
        return age_from(bucket + 1) - age_from(bucket);
    }
    [[nodiscard]] std::size_t age_at(const Interval& interval, std::uint32_t now) const noexcept {
        return interval.age != open ? interval.age : age_of(now - interval.time);
    }

    /// Of what lasted to a bucket, the part that ended there with a use; `guess(bucket)` counts as
    /// `trust` intervals.
    template <class Guess>
    [[nodiscard]] static Ages<double> hazards(const Counts& counts, double trust,
                                              Guess guess) noexcept {
        Ages<double> hazards{};
        double lasted = 0;
        for (std::size_t age = n_ages; age-- > 0;) {
            lasted += counts.ends[age];
            if (width_of(age) > 0)
                hazards[age] =
                    (std::min)(0.97, (counts.uses[age] + trust * guess(age)) / (lasted + trust));
        }
        return hazards;
    }

    void refit(std::uint32_t now) noexcept {
        const std::uint32_t n = (std::min)(seen_ - 1, ring_size);
        const auto for_each_interval = [&](auto f) {
            for (std::uint32_t i = 1; i <= n; ++i) {
                const Interval& interval = ring_[(seen_ - i) % ring_size];
                f(interval.features, age_at(interval, now), interval.age != open);
            }
        };
        Counts all_counts;
        for_each_interval([&](std::uint32_t /*features*/, std::size_t age, bool used) {
            all_counts.add(age, used);
        });
        const Ages<double> all = hazards(all_counts, trust_all, [](std::size_t age) {
            return (std::min)(0.5, double{prior} * width_of(age) / (age_from(age) + 1.0));
        });
        Ages<double> until{}; // the hazard gone through, to the middle of a bucket
        double sum = 0;
        for (std::size_t age = 0; age < n_ages; sum += all[age++])
            until[age] = sum + all[age] / 2;
        step_weights(for_each_interval, until);
        set_worths(all);
    }

    /// One step of iterative scaling: a weight moves towards as many uses as its values were expected to
    /// have. Counts the intervals of each level on the way, by the weights before the step.
    template <class ForEach>
    void step_weights(ForEach for_each_interval, const Ages<double>& until) noexcept {
        Weights<double> factor{}, uses{}, expected{};
        for (std::size_t f = 0; f < n_features; ++f) {
            for (std::size_t v = 0; v < 16; ++v)
                factor[f][v] = std::exp2(double{weight_[f][v]});
        }
        levels_ = {};
        for_each_interval([&](std::uint32_t features, std::size_t age, bool used) {
            double hazard = until[age];
            for (std::size_t f = 0; f < n_features; ++f)
                hazard *= factor[f][value(features, f)];
            for (std::size_t f = 0; f < n_features; ++f) {
                uses[f][value(features, f)] += used ? 1 : 0;
                expected[f][value(features, f)] += hazard;
            }
            levels_[static_cast<std::size_t>(std::lround(level(features)))].add(age, used);
        });
        for (std::size_t f = 0; f < n_features; ++f) {
            for (std::size_t v = 0; v < 16; ++v) {
                const double ratio =
                    (uses[f][v] + trust_weight) / (expected[f][v] + trust_weight * factor[f][v]);
                const auto step = static_cast<float>(std::log2(ratio)) / n_features;
                weight_[f][v] = std::clamp(weight_[f][v] + step, -4.0F, 4.0F);
            }
        }
    }

    void set_worths(const Ages<double>& all) noexcept {
        for (std::size_t level = 0; level < n_levels; ++level) {
            const double times = std::exp2(0.5 * (static_cast<double>(level) - middle));
            const Ages<double> hazard = hazards(levels_[level], trust_level, [&](std::size_t age) {
                return (std::min)(0.9, times * all[age]);
            });
            for (std::size_t from = 0; from < n_ages; ++from) {
                double alive = 1, room = 0, gain = 0, best = 0;
                for (std::size_t age = from; age < n_ages && alive > 1e-4; ++age) {
                    const double width = width_of(age), p = hazard[age];
                    if (width <= 0)
                        continue;
                    gain += alive * p;
                    room += alive * width * (1 - p / 2);
                    alive *= 1 - p;
                    best = (std::max)(best, gain / room);
                }
                worth_[level][from] = static_cast<float>(std::log2((std::max)(best, 1e-30)));
            }
        }
    }

    std::vector<Interval> ring_;
    std::uint32_t seen_ = 1; // intervals, plus 1
    std::uint32_t learned_ = 1;
    Weights<float> weight_{}; // log2 of how much likelier a use is
    std::array<Ages<float>, n_levels> worth_{};
    std::array<Counts, n_levels> levels_{};
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
