// SPDX-License-Identifier: MIT
// ProgressBar: drawing.
#include "progress.hpp"

#include <fmt/format.h>

#include <unistd.h>

#include <cstdio>
#include <utility>

namespace replay {

ProgressBar::ProgressBar(std::string label, std::size_t total, bool enabled)
    : label_(std::move(label)), total_(total), enabled_(enabled && isatty(STDERR_FILENO) == 1),
      next_draw_(std::chrono::steady_clock::now()) {}

ProgressBar::~ProgressBar() {
    if (drawn_)
        std::fputs("\r\x1b[K", stderr);
}

void ProgressBar::update(std::size_t done) {
    constexpr std::size_t width = 30;
    constexpr std::chrono::milliseconds interval{100};
    if (!enabled_)
        return;
    const auto now = std::chrono::steady_clock::now();
    if (now < next_draw_)
        return;
    next_draw_ = now + interval;
    drawn_ = true;
    const std::size_t filled = width * done / total_;
    const std::string line = fmt::format("\r{} [{:#<{}}{:.<{}}] {:3}%\x1b[K", label_, "", filled,
                                         "", width - filled, 100 * done / total_);
    std::fputs(line.c_str(), stderr);
}

} // namespace replay
