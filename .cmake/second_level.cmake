# SPDX-License-Identifier: MIT
# Makes the targets that the optional headers need, as far as their libraries are found:
#   promptkv_second_level   second_level.hpp, file_store.hpp    libxxhash, threads
#   promptkv_redis          redis_store.hpp                     hiredis as well
#   promptkv_zstd           zstd_codec.hpp                      libzstd as well
include_guard(GLOBAL)

find_package(PkgConfig QUIET)
find_package(Threads QUIET)

# Makes <target> of <base> and the pkg-config package <package>.
function(promptkv_add_library target base package)
    if(PKG_CONFIG_FOUND AND TARGET ${base})
        pkg_check_modules(${target}_pc QUIET IMPORTED_TARGET GLOBAL ${package})
    endif()
    if(${target}_pc_FOUND)
        add_library(${target} INTERFACE)
        target_link_libraries(${target} INTERFACE ${base} PkgConfig::${target}_pc)
    else()
        message(STATUS "promptkv: what needs ${package} is left out, it was not found")
    endif()
endfunction()

promptkv_add_library(promptkv_second_level promptkv libxxhash)
promptkv_add_library(promptkv_redis promptkv_second_level hiredis)
promptkv_add_library(promptkv_zstd promptkv_second_level libzstd)
if(TARGET promptkv_second_level)
    target_link_libraries(promptkv_second_level INTERFACE Threads::Threads)
endif()
