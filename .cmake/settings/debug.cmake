# SPDX-License-Identifier: MIT
# cmake -S . -B build/debug -C .cmake/settings/debug.cmake
# Assertions of promptkv and of the standard library, at a speed that a large test can bear.
set(CMAKE_BUILD_TYPE Debug CACHE STRING "")
set(CMAKE_CXX_FLAGS_DEBUG "-O1 -g1 -D_GLIBCXX_ASSERTIONS" CACHE STRING "")
set(CMAKE_EXPORT_COMPILE_COMMANDS ON CACHE BOOL "")
