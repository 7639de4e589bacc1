// SPDX-License-Identifier: MIT
// ReadTimes: how long it takes to read from a store.
#ifndef PROMPTKV_DETAIL_READ_TIMES_HPP
#define PROMPTKV_DETAIL_READ_TIMES_HPP

#include <promptkv/version.hpp>

#include <algorithm>
#include <mutex>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// A line through the times of the last reads (least squares; earlier ones count less and less): what a read
/// takes whatever its size, and what each byte takes.
///
/// Thread safety: all functions.
class ReadTimes {
public:
    void add(double nbytes, double seconds) {
        constexpr double keeps = 0.9;
        const std::lock_guard lock(mutex_);
        n_ = keeps * n_ + 1;
        x_ = keeps * x_ + nbytes;
        y_ = keeps * y_ + seconds;
        xx_ = keeps * xx_ + nbytes * nbytes;
        xy_ = keeps * xy_ + nbytes * seconds;
    }

    /// The seconds that a read of so many bytes is expected to take; 0: nothing was read yet. Where all reads were
    /// of one size the least that agrees with them: a read that is made in error corrects this, one that is not
    /// made does not.
    [[nodiscard]] double seconds(double nbytes) const {
        const std::lock_guard lock(mutex_);
        if (n_ == 0)
            return 0;
        const double x = x_ / n_;
        const double y = y_ / n_;
        const double variance = xx_ / n_ - x * x;
        if (variance < 0.01 * x * x)
            return y * (std::min)(nbytes / x, 1.0);
        const double per_byte = std::clamp((xy_ / n_ - x * y) / variance, 0.0, y / x);
        return y + per_byte * (nbytes - x);
    }

private:
    mutable std::mutex mutex_;
    // sums; each read weighs 0.9 times as much as the next one
    double n_ = 0;
    double x_ = 0; // bytes
    double y_ = 0; // seconds
    double xx_ = 0;
    double xy_ = 0;
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
