# SPDX-License-Identifier: MIT
set(archive "promptkv-${VERSION}.tar.gz")
vcpkg_download_distfile(
    ARCHIVE
    URLS "https://github.com/promptkv/promptkv/releases/download/v${VERSION}/${archive}"
    FILENAME "${archive}"
    SHA512 @SHA512@
)
vcpkg_extract_source_archive(SOURCE_PATH ARCHIVE "${ARCHIVE}")

set(VCPKG_BUILD_TYPE release) # header-only: nothing differs in a debug build
vcpkg_cmake_configure(
    SOURCE_PATH "${SOURCE_PATH}"
    OPTIONS
        -DPROMPTKV_BUILD_TESTS=OFF
        -DPROMPTKV_BUILD_EXAMPLES=OFF
        -DPROMPTKV_BUILD_BENCHMARKS=OFF
)
vcpkg_cmake_install()
vcpkg_cmake_config_fixup(CONFIG_PATH share/cmake/promptkv)
file(REMOVE_RECURSE "${CURRENT_PACKAGES_DIR}/lib" "${CURRENT_PACKAGES_DIR}/share/licenses")

vcpkg_install_copyright(FILE_LIST "${SOURCE_PATH}/LICENSE")
file(INSTALL "${CMAKE_CURRENT_LIST_DIR}/usage" DESTINATION "${CURRENT_PACKAGES_DIR}/share/${PORT}")
