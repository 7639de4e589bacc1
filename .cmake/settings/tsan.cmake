# SPDX-License-Identifier: MIT
# cmake -S . -B build/tsan -C .cmake/settings/tsan.cmake
# ThreadSanitizer; meant for tests/threads.
set(CMAKE_BUILD_TYPE Debug CACHE STRING "")
set(CMAKE_CXX_FLAGS_DEBUG "-O1 -g1 -D_GLIBCXX_ASSERTIONS -fsanitize=thread" CACHE STRING "")
