// SPDX-License-Identifier: MIT
// ProgressBar: one line on a terminal, rewritten as the work goes on.
#ifndef PROMPTKV_REPLAY_PROGRESS_HPP
#define PROMPTKV_REPLAY_PROGRESS_HPP

#include <chrono>
#include <cstddef>
#include <string>

namespace replay {

/// Draws on standard error, ten times a second at most, and wipes its line at the end. Draws
/// nothing where standard error is no terminal.
class ProgressBar {
public:
    /// `enabled` = false draws nothing on a terminal either.
    ProgressBar(std::string label, std::size_t total, bool enabled);
    ~ProgressBar();

    ProgressBar(const ProgressBar&) = delete;
    ProgressBar& operator=(const ProgressBar&) = delete;

    void update(std::size_t done);

private:
    std::string label_;
    std::size_t total_;
    bool enabled_;
    bool drawn_ = false;
    std::chrono::steady_clock::time_point next_draw_;
};

} // namespace replay

#endif
