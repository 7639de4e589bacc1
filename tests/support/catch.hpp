// SPDX-License-Identifier: MIT
// Catch2, whichever is installed: version 3, else 2.13. The only way in which tests include it.
#ifndef PROMPTKV_TESTS_SUPPORT_CATCH_HPP
#define PROMPTKV_TESTS_SUPPORT_CATCH_HPP

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
#else
#include <catch2/catch.hpp>
#endif

#endif
