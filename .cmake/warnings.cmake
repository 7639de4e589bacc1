# SPDX-License-Identifier: MIT
# The warnings of this project's own programs; never part of the library target.
# -DCMAKE_COMPILE_WARNING_AS_ERROR=ON makes them errors.
add_library(promptkv_warnings INTERFACE)
if(MSVC)
    target_compile_options(promptkv_warnings INTERFACE /W4 /permissive- /Zc:__cplusplus /utf-8)
else()
    target_compile_options(
        promptkv_warnings
        INTERFACE
            -Wall
            -Wextra
            -Wpedantic
            -Wconversion
            -Wshadow
            $<$<CXX_COMPILER_ID:Clang,AppleClang>:-Wsign-conversion>
    )
endif()
