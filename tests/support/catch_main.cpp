// SPDX-License-Identifier: MIT
// main() of the tests, for Catch2 2.13; version 3 brings one in a library.
#define CATCH_CONFIG_MAIN
#include <catch2/catch.hpp>
