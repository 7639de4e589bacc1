# SPDX-License-Identifier: MIT
# all_verify_interface_header_sets compiles each header alone; format.hpp only where fmt is.
if(CMAKE_VERSION VERSION_LESS 3.24)
    return()
endif()
set(format_header ${PROJECT_SOURCE_DIR}/include/promptkv/format.hpp)
file(GLOB_RECURSE core_headers CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/include/promptkv/*.hpp)
list(REMOVE_ITEM core_headers ${format_header})

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
find_package(fmt QUIET)
if(fmt_FOUND)
    promptkv_verify_headers(promptkv_format_header "promptkv;fmt::fmt" ${format_header})
endif()
