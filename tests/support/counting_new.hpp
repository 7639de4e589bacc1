// SPDX-License-Identifier: MIT
// The allocations of this executable: counted, summed up, and made to fail.
//
// One source of the executable includes replace_new.hpp, which puts the counters in.
#ifndef PROMPTKV_TESTS_COUNTING_NEW_HPP
#define PROMPTKV_TESTS_COUNTING_NEW_HPP

#include <atomic>
#include <cstddef>
#include <limits>

namespace promptkv_test {

inline constexpr std::size_t never = std::numeric_limits<std::size_t>::max();

/// Calls of operator new by this thread so far.
inline thread_local std::size_t allocations = 0;

/// Bytes that operator new gave out to this thread so far.
inline thread_local std::size_t allocated_bytes = 0;

/// Bytes that operator new gave out and operator delete has not taken back, of all threads.
inline std::atomic<std::size_t> live_bytes = 0;

/// Blocks that operator new gave out and operator delete has not taken back, of all threads.
inline std::atomic<std::size_t> live_blocks = 0;

/// How the allocations of this thread fail.
struct Failure {
    std::size_t skip = never; // allocations that still succeed
    bool lasting = false;     // whether those after the first failing one fail too
    bool struck = false;      // whether one has failed
};
inline thread_local Failure failure;

/// To be asked by operator new: whether this allocation is to fail.
inline bool fails_now() noexcept {
    if (failure.skip == never)
        return false;
    if (failure.skip > 0) {
        --failure.skip;
        return false;
    }
    failure.struck = true;
    if (!failure.lasting)
        failure.skip = never;
    return true;
}

/// While it lives, the allocation of this thread that comes after `skip` others fails;
/// a `lasting` one goes on failing.
class FailingNew {
public:
    explicit FailingNew(std::size_t skip, bool lasting = false) noexcept {
        failure = {skip, lasting, false};
    }
    ~FailingNew() { failure = {}; }
    FailingNew(const FailingNew&) = delete;
    FailingNew& operator=(const FailingNew&) = delete;

    /// Ends it early, and tells whether an allocation has failed.
    bool stop() noexcept {
        const bool struck = failure.struck;
        failure = {};
        return struck;
    }
};

/// While it lives, no allocation of this thread is made to fail, nor counted as one that could be.
class SparedNew {
public:
    SparedNew() noexcept { failure = {}; }
    ~SparedNew() { failure = before_; }
    SparedNew(const SparedNew&) = delete;
    SparedNew& operator=(const SparedNew&) = delete;

private:
    Failure before_ = failure;
};

} // namespace promptkv_test

#endif
