// SPDX-License-Identifier: MIT
// Random: the numbers that made-up traffic is drawn from.
#ifndef PROMPTKV_REPLAY_RANDOM_HPP
#define PROMPTKV_REPLAY_RANDOM_HPP

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>

namespace replay {

/// A log-normal number of tokens: half of them below `median`, the tail the heavier the larger
/// `sigma`, none beyond `most`.
struct Length {
    double median;
    double sigma;
    double most;
};

/// Random numbers that are the same with every standard library: only the engine is from there.
class Random {
public:
    explicit Random(std::uint64_t seed) : engine_(seed) {}

    /// In [0, 1).
    double uniform() { return static_cast<double>(engine_() >> 11U) * 0x1p-53; }

    bool chance(double share) { return uniform() < share; }

    std::size_t below(std::size_t end) {
        return static_cast<std::size_t>(uniform() * static_cast<double>(end));
    }

    /// Below `end`. The first number comes about n times as often as the n-th.
    std::size_t popular(std::size_t end) {
        return static_cast<std::size_t>(std::pow(static_cast<double>(end + 1), uniform())) - 1;
    }

    /// At least 1.
    std::uint64_t length(const Length& length) {
        constexpr double two_pi = 6.283185307179586;
        const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));
        const double normal = radius * std::cos(two_pi * uniform());
        const double drawn = length.median * std::exp(length.sigma * normal);
        return static_cast<std::uint64_t>(std::clamp(drawn, 1.0, length.most));
    }

private:
    std::mt19937_64 engine_;
};

} // namespace replay

#endif
