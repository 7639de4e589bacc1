# SPDX-License-Identifier: MIT
# Installs the headers, the CMake package and the pkg-config file, all independent of the machine.
include(CMakePackageConfigHelpers)

set(package_dir ${PROJECT_BINARY_DIR}/package)

# promptkv depends on no other package, so its exported target is the whole configuration.
install(TARGETS promptkv EXPORT promptkv)
install(
    DIRECTORY ${PROJECT_SOURCE_DIR}/include/promptkv
    DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
    FILES_MATCHING
    PATTERN "*.hpp"
)
install(
    EXPORT promptkv
    FILE promptkvConfig.cmake
    NAMESPACE promptkv::
    DESTINATION share/cmake/promptkv
)
write_basic_package_version_file(
    ${package_dir}/promptkvConfigVersion.cmake
    COMPATIBILITY SameMinorVersion
    ARCH_INDEPENDENT
)
install(FILES ${package_dir}/promptkvConfigVersion.cmake DESTINATION share/cmake/promptkv)

configure_file(${CMAKE_CURRENT_LIST_DIR}/promptkv.pc.in ${package_dir}/promptkv.pc @ONLY)
install(FILES ${package_dir}/promptkv.pc DESTINATION share/pkgconfig)

# For debuggers. natvis names types with their inline namespace.
file(STRINGS ${PROJECT_SOURCE_DIR}/include/promptkv/version.hpp abi REGEX "^#define PROMPTKV_ABI ")
string(REPLACE "#define PROMPTKV_ABI " "" ABI ${abi})
configure_file(
    ${CMAKE_CURRENT_LIST_DIR}/debugger/promptkv.natvis.in ${package_dir}/promptkv.natvis @ONLY
)
install(
    FILES ${package_dir}/promptkv.natvis ${CMAKE_CURRENT_LIST_DIR}/debugger/promptkv_gdb.py
    DESTINATION share/promptkv
)

install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION share/licenses/promptkv)
