// SPDX-License-Identifier: MIT
// A stack that is too small for anything that recurses over a key, and a key that is too deep for it.
#ifndef PROMPTKV_TESTS_SMALL_STACK_HPP
#define PROMPTKV_TESTS_SMALL_STACK_HPP

#include <cstddef>
#include <exception>
#include <pthread.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define PROMPTKV_TEST_SANITIZED true
#endif
#elif defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define PROMPTKV_TEST_SANITIZED true
#endif
#ifndef PROMPTKV_TEST_SANITIZED
#define PROMPTKV_TEST_SANITIZED false
#endif

namespace promptkv_test {

/// One-token steps of a deep key. Building their chain is quadratic, so fewer where each costs more.
inline constexpr std::size_t deep = PROMPTKV_TEST_SANITIZED ? 50'000 : 200'000;

/// Runs `work` on a thread with 256 KiB of stack; what it throws is thrown here.
/// Returns: whether the thread was made.
template <class Work>
[[nodiscard]] bool on_small_stack(Work work) {
    struct Run {
        Work& work;
        std::exception_ptr thrown;
    } run{work, nullptr};
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, std::size_t{256} * 1024);
    pthread_t thread;
    const auto body = [](void* argument) -> void* {
        Run& started = *static_cast<Run*>(argument);
        try {
            started.work();
        } catch (...) {
            started.thrown = std::current_exception();
        }
        return nullptr;
    };
    const bool created = pthread_create(&thread, &attributes, body, &run) == 0;
    pthread_attr_destroy(&attributes);
    if (!created)
        return false;
    pthread_join(thread, nullptr);
    if (run.thrown)
        std::rethrow_exception(run.thrown);
    return true;
}

} // namespace promptkv_test

#endif
