// SPDX-License-Identifier: MIT
// BlockedSignal: a write that fails is an answer and not a signal. Needs POSIX.
#ifndef PROMPTKV_DETAIL_BLOCKED_SIGNAL_HPP
#define PROMPTKV_DETAIL_BLOCKED_SIGNAL_HPP

#include <promptkv/version.hpp>

#include <cerrno>
#include <ctime>

#include <csignal>

namespace promptkv::inline PROMPTKV_ABI::detail {

/// While it lives, this thread's writes do not raise the signal, whose default ends the program: SIGPIPE where
/// the other side has closed, SIGXFSZ where a file would be too large. macOS sends these to the process, and so
/// maybe to another thread: there it is no more than an attempt. Keeps errno.
class BlockedSignal {
public:
    explicit BlockedSignal(int number) noexcept
        : number_(number), was_pending_(is_pending(number)) {
        sigemptyset(&signal_);
        sigaddset(&signal_, number);
        ::pthread_sigmask(SIG_BLOCK, &signal_, &before_);
    }
    BlockedSignal(const BlockedSignal&) = delete;
    BlockedSignal& operator=(const BlockedSignal&) = delete;
    ~BlockedSignal() {
        const int error = errno;
        if (!was_pending_ && is_pending(number_)) {
#ifdef __APPLE__ // it has no sigtimedwait
            int taken = 0;
            ::sigwait(&signal_, &taken);
#else
            const timespec at_once{};
            while (::sigtimedwait(&signal_, nullptr, &at_once) < 0 && errno == EINTR) {
            }
#endif
        }
        ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
        errno = error;
    }

private:
    [[nodiscard]] static bool is_pending(int number) noexcept {
        sigset_t pending;
        sigemptyset(&pending);
        ::sigpending(&pending);
        return sigismember(&pending, number) == 1;
    }

    const int number_;
    const bool was_pending_; // it is another's
    sigset_t signal_;
    sigset_t before_;
};

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
