# SPDX-License-Identifier: MIT
# Conan 2: from a clone, `conan create .cmake/packaging/conan -s compiler.cppstd=20`; then require promptkv/<version>.
import os
import re

from conan import ConanFile
from conan.tools.build import check_min_cppstd
from conan.tools.cmake import CMake, CMakeToolchain, cmake_layout
from conan.tools.files import copy, load, rmdir

ROOT = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", ".."))
FILES = ("CMakeLists.txt", "LICENSE", "include/*", ".cmake/*.cmake", ".cmake/*.in", ".cmake/debugger/*")


class PromptkvConan(ConanFile):
    name = "promptkv"
    description = "Prompt KV cache for C++ inference engines"
    license = "MIT"
    homepage = "https://github.com/promptkv/promptkv"
    url = homepage
    topics = ("llm", "inference", "kv-cache", "prompt-cache", "header-only")
    package_type = "header-library"
    settings = "os", "arch", "compiler", "build_type"
    no_copy_source = True

    def set_version(self):
        text = load(self, os.path.join(ROOT, "include", "promptkv", "version.hpp"))
        self.version = ".".join(re.findall(r"define PROMPTKV_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)", text))

    def export_sources(self):
        for pattern in FILES:
            copy(self, pattern, ROOT, self.export_sources_folder)

    def layout(self):
        cmake_layout(self)

    def validate(self):
        check_min_cppstd(self, 20)

    def package_id(self):
        self.info.clear()

    def generate(self):
        toolchain = CMakeToolchain(self)
        for part in ("TESTS", "EXAMPLES", "BENCHMARKS"):
            toolchain.variables["PROMPTKV_BUILD_" + part] = False
        toolchain.generate()

    def package(self):
        cmake = CMake(self)
        cmake.configure()
        cmake.install()
        copy(self, "LICENSE", self.source_folder, os.path.join(self.package_folder, "licenses"))
        for part in ("cmake", "licenses", "pkgconfig"):
            rmdir(self, os.path.join(self.package_folder, "share", part))  # Conan makes its own

    def package_info(self):
        self.cpp_info.set_property("cmake_file_name", "promptkv")
        self.cpp_info.set_property("cmake_target_name", "promptkv::promptkv")
        self.cpp_info.set_property("pkg_config_name", "promptkv")
        self.cpp_info.bindirs = []
        self.cpp_info.libdirs = []
