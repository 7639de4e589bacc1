# SPDX-License-Identifier: MIT
# cmake -S . -B build/coverage -C .cmake/settings/coverage.cmake -D CMAKE_CXX_COMPILER=clang++
# Counts what runs (.cmake/scripts/coverage.sh), under AddressSanitizer and UndefinedBehaviorSanitizer.
include(${CMAKE_CURRENT_LIST_DIR}/asan.cmake)
string(APPEND CMAKE_CXX_FLAGS_DEBUG " -fprofile-instr-generate -fcoverage-mapping")
set(CMAKE_CXX_FLAGS_DEBUG "${CMAKE_CXX_FLAGS_DEBUG}" CACHE STRING "" FORCE)
