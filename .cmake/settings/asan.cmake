# SPDX-License-Identifier: MIT
# cmake -S . -B build/asan -C .cmake/settings/asan.cmake
# AddressSanitizer and UndefinedBehaviorSanitizer; the first report ends the program.
# Unoptimised, since g++ takes four times as long to compile this with -O1.
set(CMAKE_BUILD_TYPE Debug CACHE STRING "")
set(CMAKE_CXX_FLAGS_DEBUG
    "-g1 -D_GLIBCXX_ASSERTIONS -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all"
    CACHE STRING ""
)
