# SPDX-License-Identifier: MIT
# Compiles `case` with REJECT=0, which must succeed, and with REJECT=1, which must fail with a
# message that matches the regular expression in its first line, `// expect: <regular expression>`.
cmake_minimum_required(VERSION 3.25)

file(STRINGS ${case} first_line LIMIT_COUNT 1)
if(NOT first_line MATCHES "^// expect: (.+)$")
    message(FATAL_ERROR "the first line of ${case} says nothing to expect")
endif()
set(expected "${CMAKE_MATCH_1}")

foreach(reject IN ITEMS 0 1)
    execute_process(
        COMMAND
            ${CMAKE_COMMAND} -E env LC_ALL=C ${compiler} -std=c++20 -fsyntax-only -I${include}
            -DREJECT=${reject} ${case}
        RESULT_VARIABLE status_${reject}
        OUTPUT_VARIABLE output_${reject}
        ERROR_VARIABLE output_${reject}
    )
endforeach()
string(REPLACE "${case}" "" output_1 "${output_1}") # the file's name is no message

if(NOT status_0 EQUAL 0)
    message(FATAL_ERROR "REJECT=0 does not compile:\n${output_0}")
elseif(status_1 EQUAL 0)
    message(FATAL_ERROR "REJECT=1 compiles")
elseif(NOT output_1 MATCHES "${expected}")
    message(FATAL_ERROR "REJECT=1 fails, but not with \"${expected}\":\n${output_1}")
endif()
