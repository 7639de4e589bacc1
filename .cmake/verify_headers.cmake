# SPDX-License-Identifier: MIT
# all_verify_interface_header_sets compiles each header alone; the optional ones only where their library is.
if(CMAKE_VERSION VERSION_LESS 3.24)
    return()
endif()
set(format_header ${PROJECT_SOURCE_DIR}/include/promptkv/format.hpp)
file(GLOB_RECURSE core_headers CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/include/promptkv/*.hpp)
set(redis_headers ${core_headers})
set(zstd_headers ${core_headers})
set(second_level_headers ${core_headers})
list(FILTER redis_headers INCLUDE REGEX "/redis_")
list(FILTER zstd_headers INCLUDE REGEX "/zstd_")
list(FILTER second_level_headers INCLUDE REGEX
    "/(second_level|file_store|block_store|block_names|block_records|load_plan|record_|write_queue|read_times|posix_files|blocked_signal)"
)
list(REMOVE_ITEM core_headers
    ${format_header} ${redis_headers} ${zstd_headers} ${second_level_headers}
)

# Makes a target that compiles the headers that follow, with a library.
function(promptkv_verify_headers name library)
    add_library(${name} INTERFACE)
    target_link_libraries(${name} INTERFACE ${library})
    target_sources(
        ${name}
        INTERFACE FILE_SET HEADERS BASE_DIRS ${PROJECT_SOURCE_DIR}/include FILES ${ARGN}
    )
    set_target_properties(${name} PROPERTIES VERIFY_INTERFACE_HEADER_SETS ON)
endfunction()

promptkv_verify_headers(promptkv_core_headers promptkv ${core_headers})
foreach(part IN ITEMS second_level redis zstd)
    if(TARGET promptkv_${part})
        promptkv_verify_headers(promptkv_${part}_header promptkv_${part} ${${part}_headers})
    endif()
endforeach()
find_package(fmt QUIET)
if(fmt_FOUND)
    promptkv_verify_headers(promptkv_format_header "promptkv;fmt::fmt" ${format_header})
endif()
