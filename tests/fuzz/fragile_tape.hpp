// SPDX-License-Identifier: MIT
// FragileTape: a payload whose clones may throw, and that reports its destruction.
#ifndef PROMPTKV_TESTS_FUZZ_FRAGILE_TAPE_HPP
#define PROMPTKV_TESTS_FUZZ_FRAGILE_TAPE_HPP

#include "payloads.hpp"

#include <cstddef>
#include <functional>
#include <utility>

namespace promptkv_test {

/// Like Tape, but move-only.
class FragileTape {
public:
    static constexpr unsigned offered = can_reuse | can_clone | can_truncate;

    /// Called when a tape that holds something is destroyed.
    static inline std::function<void()> on_end;

    explicit FragileTape(Recording recording) noexcept : recording_(std::move(recording)) {}
    FragileTape(FragileTape&& other) noexcept
        : recording_(std::move(other.recording_)), empty_(std::exchange(other.empty_, true)) {}
    FragileTape& operator=(FragileTape&&) = delete;
    ~FragileTape() {
        if (!empty_ && on_end)
            on_end();
    }

    [[nodiscard]] const Recording& recording() const noexcept { return recording_; }
    [[nodiscard]] std::size_t nbytes() const noexcept { return recording_.nbytes(); }
    [[nodiscard]] std::size_t length() const noexcept { return recording_.tokens.size(); }
    [[nodiscard]] std::size_t block_tokens() const noexcept { return recording_.shape.block; }
    [[nodiscard]] std::size_t reusable_prefix(std::size_t n) const noexcept {
        return recording_.reusable_prefix(n);
    }

    [[nodiscard]] FragileTape clone_prefix(std::size_t n) const {
        FragileTape copy(recording_);
        copy.recording_.truncate(n);
        return copy;
    }

    void truncate(std::size_t n) noexcept { recording_.truncate(n); }

private:
    Recording recording_;
    bool empty_ = false;
};

} // namespace promptkv_test

#endif
