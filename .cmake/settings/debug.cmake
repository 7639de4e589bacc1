# SPDX-License-Identifier: MIT
# cmake -S . -B build/debug -C .cmake/settings/debug.cmake
# Assertions of promptkv and of the standard library. Unoptimised: g++ takes almost twice as long to compile
# the tests with -O1.
set(CMAKE_BUILD_TYPE Debug CACHE STRING "")
set(CMAKE_CXX_FLAGS_DEBUG "-g1 -D_GLIBCXX_ASSERTIONS" CACHE STRING "")
