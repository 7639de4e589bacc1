// SPDX-License-Identifier: MIT
// try, catch and throw that also compile without exceptions.
#ifndef PROMPTKV_DETAIL_EXCEPTIONS_HPP
#define PROMPTKV_DETAIL_EXCEPTIONS_HPP

#include <promptkv/version.hpp>

#include <cstdio>
#include <cstdlib>
#include <stdexcept>

#if defined(__cpp_exceptions) || defined(_CPPUNWIND)
#define PROMPTKV_TRY try
#define PROMPTKV_CATCH_ALL catch (...)
#define PROMPTKV_RETHROW throw
#else
#define PROMPTKV_TRY if constexpr (true)
#define PROMPTKV_CATCH_ALL else
#define PROMPTKV_RETHROW static_cast<void>(0)
#endif

namespace promptkv::inline PROMPTKV_ABI::detail {

/// Throws std::length_error, or, without exceptions, prints the message and aborts.
[[noreturn]] inline void fail_length(const char* message) {
#if defined(__cpp_exceptions) || defined(_CPPUNWIND)
    throw std::length_error(message);
#else
    std::fprintf(stderr, "%s\n", message);
    std::abort();
#endif
}

} // namespace promptkv::inline PROMPTKV_ABI::detail

#endif
