# SPDX-License-Identifier: MIT
# `readme` must contain, word for word, `source` without its leading comment lines, and the output of
# `program`.
cmake_minimum_required(VERSION 3.25)

file(READ ${readme} readme_text)
file(READ ${source} source_text)
string(REGEX REPLACE "^(//[^\n]*\n)+\n*" "" source_text "${source_text}")
execute_process(COMMAND ${program} OUTPUT_VARIABLE output COMMAND_ERROR_IS_FATAL ANY)

string(FIND "${readme_text}" "${source_text}" position)
if(position EQUAL -1)
    message(FATAL_ERROR "${readme} does not contain ${source}")
endif()
string(FIND "${readme_text}" "${output}" position)
if(output STREQUAL "" OR position EQUAL -1)
    message(FATAL_ERROR "${readme} does not contain what the quick start prints:\n${output}")
endif()
