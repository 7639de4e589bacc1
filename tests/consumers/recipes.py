# SPDX-License-Identifier: MIT
"""Runs one recipe of .cmake/packaging as its user does.

    recipes.py RECIPE --release FOLDER --work FOLDER --compiler CXX --main FILE

FOLDER of --release is what `release.py make` wrote. The exit code is 77 if the recipe's tool is absent.
"""

import argparse
import ast
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGING = ROOT / ".cmake/packaging"
SKIPPED = 77


def run(*command, **options):
    print("$", *command, flush=True)
    subprocess.run([str(word) for word in command], check=True, **options)


def need(*programs):
    for program in programs:
        if not shutil.which(program):
            print(f"skipped: {program} is not installed")
            sys.exit(SKIPPED)


def expect(holds, what):
    if not holds:
        sys.exit(f"does not hold: {what}")


class Recipe:
    def __init__(self, given):
        self.release, self.work = given.release.resolve(), given.work.resolve()
        self.compiler, self.main = given.compiler, given.main.resolve()
        self.archive = next(self.release.glob("promptkv-*.tar.gz"))
        self.version = self.archive.name[len("promptkv-") : -len(".tar.gz")]
        self.sha256 = hashlib.sha256(self.archive.read_bytes()).hexdigest()
        self.recipes = self.release / "recipes"
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)

    def compile(self, *options):
        run(*self.compiler.split(), "-std=c++20", *options, "-o", self.work / "consumer")
        run(self.work / "consumer")

    def cmake(self, source, *options):
        run("cmake", "-S", source, "-B", self.work / "build", f"-DCMAKE_CXX_COMPILER={self.compiler}", *options)
        run("cmake", "--build", self.work / "build")
        run(self.work / "build/consumer")

    # Recipes that need a compiler, and CMake.

    def copy(self):
        shutil.copytree(ROOT / "include/promptkv", self.work / "third_party/promptkv")
        self.compile("-I", self.work / "third_party", self.main)

    def single_header(self):
        """The header alone serves; it may stand beside the parts, and in two sources of a program."""
        (self.work / "promptkv").mkdir()
        shutil.copy(self.release / "promptkv.hpp", self.work / "promptkv")
        second = self.work / "second.cpp"
        second.write_text(
            "#include <promptkv/promptkv.hpp>\n"
            f'#include "{ROOT.as_posix()}/include/promptkv/tier.hpp"\n'
            "using Cache = promptkv::ConcurrentPromptCache<promptkv::BlockKV<int>>;\n"
            'static_assert(name(promptkv::Tier::user) == "user");\n'
        )
        warnings = ("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror")
        self.compile("-I", self.work, *warnings, self.main, second)

    def fetch_content(self):
        self.cmake(
            self.recipes / "fetch_content",
            f"-DPROMPTKV_URL={self.archive.as_uri()}",
            f"-DPROMPTKV_SHA256={self.sha256}",
            f"-DMAIN={self.main}",
        )

    def cpm(self):
        """With CPM.cmake where the environment's CPM says it is."""
        if not os.environ.get("CPM"):
            print("skipped: CPM, the path of a CPM.cmake, is not set")
            sys.exit(SKIPPED)
        self.cmake(
            self.recipes / "cpm",
            f"-DCPM={os.environ['CPM']}",
            f"-DPROMPTKV_URL={self.archive.as_uri()}",
            f"-DPROMPTKV_SHA256={self.sha256}",
            f"-DVERSION={self.version}",
            f"-DMAIN={self.main}",
        )

    # Recipes that need a tool of their own.

    def meson(self):
        need("meson", "ninja")
        meson, project = self.recipes / "meson", self.work / "project"
        shutil.copytree(meson / "packagefiles", project / "subprojects/packagefiles")
        shutil.copy(meson / "meson.build", project)
        shutil.copy(self.main, project / "main.cpp")
        shutil.copy(meson / "promptkv.wrap", project / "subprojects")
        (project / "subprojects/packagecache").mkdir()
        shutil.copy(self.archive, project / "subprojects/packagecache")  # instead of a download
        environment = {**os.environ, "CXX": self.compiler}
        run("meson", "setup", self.work / "build", project, env=environment)
        run("meson", "test", "-C", self.work / "build")

    def conan(self):
        need("conan")
        environment = {**os.environ, "CONAN_HOME": str(self.work / "home"), "CXX": self.compiler}
        run("conan", "profile", "detect", env=environment)
        run(
            "conan", "create", PACKAGING / "conan", "-s", "compiler.cppstd=20", "-s", "build_type=Debug",
            "-c", f"tools.cmake.cmake_layout:test_folder={self.work / 'test'}", env=environment,
        )  # fmt: skip

    def vcpkg(self):
        need("vcpkg")
        downloads, installed = self.work / "downloads", self.work / "installed"
        downloads.mkdir()
        shutil.copy(self.archive, downloads)
        run(
            "vcpkg", "install", "promptkv", f"--overlay-ports={self.recipes / 'vcpkg'}",
            f"--x-install-root={installed}", f"--downloads-root={downloads}",
        )  # fmt: skip
        package = next(installed.glob("*/share/promptkv"))  # below the name of the system
        self.cmake(ROOT / "tests/consumers/find_package", f"-Dpromptkv_DIR={package}", f"-DREQUEST={self.version}")

    def xrepo(self):
        need("xmake")
        project = self.work / "project"
        project.mkdir()
        shutil.copy(self.main, project)
        (project / "xmake.lua").write_text(
            f'add_repositories("promptkv {(self.recipes / "xrepo").as_posix()}")\n'
            'add_requires("promptkv")\n'
            'target("consumer", {kind = "binary", languages = "c++20", files = "main.cpp", packages = "promptkv"})\n'
        )
        options = {"cwd": project, "env": {**os.environ, "XMAKE_ROOT": "y", "XMAKE_GLOBALDIR": str(self.work / "home")}}
        # The archive is found in place of a download, and no other repository is asked.
        run("xmake", "global", f"--pkg_searchdirs={self.release}", "--network=private", **options)
        run("xmake", "config", "--yes", **options)
        run("xmake", "build", **options)
        run("xmake", "run", **options)

    def bazel(self):
        """As a module from Bazel 7 on, else in WORKSPACE. Debian's Bazel is old, and says no number."""
        need("bazel")
        said = subprocess.run(["bazel", "--version"], check=True, capture_output=True, text=True).stdout
        number = re.match(r"bazel (\d+)", said)
        registries = []
        if number and int(number[1]) >= 7:
            registries = [f"--registry={(self.recipes / 'bazel').as_uri()}", "--registry=https://bcr.bazel.build"]
            (self.work / "MODULE.bazel").write_text(
                f'bazel_dep(name = "promptkv", version = "{self.version}")\n'
                'bazel_dep(name = "rules_cc", version = "0.1.1")\n'
            )
        else:
            shutil.copy(self.recipes / "bazel/WORKSPACE", self.work)
        (self.work / "BUILD.bazel").write_text(
            'load("@rules_cc//cc:defs.bzl", "cc_binary")\n'
            'cc_binary(name = "consumer", srcs = ["main.cpp"], deps = ["@promptkv"])\n'
        )
        shutil.copy(self.main, self.work)
        run(
            "bazel", "--max_idle_secs=1", "run", "//:consumer", *registries, "--cxxopt=-std=c++20",
            f"--distdir={self.release}",  # instead of a download
            cwd=self.work,
        )  # fmt: skip

    def module(self):
        """By the compiler's own options: CMake knows modules from 3.28 on, and Debian 12 has 3.25."""
        found = [name for name in ("clang++-19", "clang++-18", "clang++-17", "clang++-16") if shutil.which(name)]
        if not found:
            print("skipped: no clang++ of version 16 or newer is installed")
            sys.exit(SKIPPED)
        # clang 16 refuses the <compare> of libstdc++ 12 in a module, but not libc++.
        options = ["-std=c++20", "-I", ROOT / "include"]
        options += ["-stdlib=libc++"] if found[0] == "clang++-16" else []
        source, built = PACKAGING / "module", self.work / "promptkv.pcm"
        run(found[0], *options, "--precompile", source / "promptkv.cppm", "-o", built)
        run(
            found[0], *options, f"-fmodule-file=promptkv={built}", source / "main.cpp", built,
            "-o", self.work / "consumer",
        )  # fmt: skip
        run(self.work / "consumer")

    # What can be checked of all recipes without their tools.

    def form(self):
        self.check_module_names()
        self.check_conan()
        self.check_vcpkg()
        self.check_xrepo()
        self.check_bazel()
        self.check_sums()
        unfilled = [str(p) for p in self.recipes.rglob("*") if p.is_file() and re.search("@[A-Z0-9_]+@", p.read_text())]
        expect(not unfilled, f"each place of the recipes is filled in: {unfilled}")
        print("the recipes have the right form")

    def check_module_names(self):
        """Each name that a public header declares outside of detail is exported, or is a macro."""
        declared = set()
        for header in (ROOT / "include/promptkv").glob("*.hpp"):
            if header.name == "format.hpp" or not self.is_in_single_header(header):
                continue
            text = re.sub(r"^namespace detail \{.*?^\} // namespace detail", "", header.read_text(), flags=re.M | re.S)
            for pattern in (
                r"^(?:class|struct|enum class) (\w+)(?: final)?(?: :.*)?(?: \{|;)",
                r"^(?:concept|using|inline constexpr [\w:]+) (\w+) =",
                r"^(?:\[\[nodiscard\]\] )?(?:constexpr )?(?:void|std::\w+) (\w+)\(",
            ):
                declared |= set(re.findall(pattern, text, re.M))
        exported = set(re.findall(r"^using promptkv::(\w+);", (PACKAGING / "module/promptkv.cppm").read_text(), re.M))
        expect(declared - exported == set(), f"promptkv.cppm exports {sorted(declared - exported)}")
        expect(exported - declared == set(), f"a header declares {sorted(exported - declared)}")

    def is_in_single_header(self, header):
        return f"\n// promptkv/{header.name} " in (self.release / "promptkv.hpp").read_text()

    def check_conan(self):
        tree = ast.parse((PACKAGING / "conan/conanfile.py").read_text())
        recipe = next(node for node in tree.body if isinstance(node, ast.ClassDef))
        names = {target.id for node in recipe.body if isinstance(node, ast.Assign) for target in node.targets}
        functions = {node.name for node in recipe.body if isinstance(node, ast.FunctionDef)}
        expect({"name", "license", "package_type"} <= names, "conanfile.py names the package")
        expect({"set_version", "package", "package_info"} <= functions, "conanfile.py makes a package")
        ast.parse((PACKAGING / "conan/test_package/conanfile.py").read_text())

    def check_vcpkg(self):
        """Runs the port file in CMake, with stand-ins for the functions that vcpkg gives it."""
        port = json.loads((self.recipes / "vcpkg/promptkv/vcpkg.json").read_text())
        expect(port["version"] == self.version and port["license"] == "MIT", "vcpkg.json")
        stand_ins = self.work / "stand_ins.cmake"
        stand_ins.write_text(
            f"""
            set(PORT promptkv)
            set(VERSION {self.version})
            set(CURRENT_PACKAGES_DIR {self.work.as_posix()}/packages)
            function(vcpkg_download_distfile result)
                cmake_parse_arguments(PARSE_ARGV 1 arg "" "URLS;FILENAME;SHA512" "")
                file(SHA512 {self.release.as_posix()}/${{arg_FILENAME}} sum)
                if(NOT sum STREQUAL arg_SHA512)
                    message(FATAL_ERROR "the checksum is ${{sum}}")
                endif()
                set(${{result}} {self.release.as_posix()}/${{arg_FILENAME}} PARENT_SCOPE)
            endfunction()
            function(vcpkg_extract_source_archive result)
                cmake_parse_arguments(PARSE_ARGV 1 arg "" "ARCHIVE" "")
                file(ARCHIVE_EXTRACT INPUT ${{arg_ARCHIVE}} DESTINATION {self.work.as_posix()}/source)
                set(${{result}} {self.work.as_posix()}/source/promptkv-${{VERSION}} PARENT_SCOPE)
            endfunction()
            function(vcpkg_cmake_configure)
                cmake_parse_arguments(PARSE_ARGV 0 arg "" "SOURCE_PATH" "OPTIONS")
                execute_process(
                    COMMAND ${{CMAKE_COMMAND}} -S ${{arg_SOURCE_PATH}} -B {self.work.as_posix()}/build
                        -DCMAKE_INSTALL_PREFIX=${{CURRENT_PACKAGES_DIR}} -DCMAKE_CXX_COMPILER={self.compiler}
                        ${{arg_OPTIONS}}
                    COMMAND_ERROR_IS_FATAL ANY)
            endfunction()
            function(vcpkg_cmake_install)
                execute_process(
                    COMMAND ${{CMAKE_COMMAND}} --install {self.work.as_posix()}/build
                    COMMAND_ERROR_IS_FATAL ANY)
            endfunction()
            function(vcpkg_cmake_config_fixup)
                cmake_parse_arguments(PARSE_ARGV 0 arg "" "CONFIG_PATH" "")
                file(COPY ${{CURRENT_PACKAGES_DIR}}/${{arg_CONFIG_PATH}}/
                    DESTINATION ${{CURRENT_PACKAGES_DIR}}/share/${{PORT}})
                file(REMOVE_RECURSE ${{CURRENT_PACKAGES_DIR}}/${{arg_CONFIG_PATH}})
            endfunction()
            function(vcpkg_install_copyright)
                cmake_parse_arguments(PARSE_ARGV 0 arg "" "" "FILE_LIST")
                file(INSTALL ${{arg_FILE_LIST}} DESTINATION ${{CURRENT_PACKAGES_DIR}}/share/${{PORT}})
            endfunction()
            include({(self.recipes / "vcpkg/promptkv/portfile.cmake").as_posix()})
            """
        )
        run("cmake", "-P", stand_ins)
        packages = self.work / "packages"
        for name in ("include/promptkv/promptkv.hpp", "share/promptkv/promptkvConfig.cmake", "share/promptkv/usage"):
            expect((packages / name).is_file(), f"the port installs {name}")

    def check_xrepo(self):
        """Runs the recipe in Lua, with stand-ins for the functions that xmake gives it."""
        lua = shutil.which("lua5.4") or shutil.which("lua")
        if not lua:
            print("not checked, since Lua is not installed: xmake.lua")
            return
        recipe = self.recipes / "xrepo/packages/p/promptkv/xmake.lua"
        program = """
            local called = {}
            local stand_ins = setmetatable({}, {__index = function(_, name)
                return function(...) called[name] = {...} end
            end})
            assert(loadfile(arg[1], "t", stand_ins))()
            assert(called.package[1] == "promptkv" and called.set_license[1] == "MIT")
            assert(called.add_versions[1] == arg[2] and called.add_versions[2] == arg[3])
            assert(type(called.on_install[1]) == "function" and type(called.on_test[1]) == "function")
        """
        run(lua, "-", recipe, self.version, self.sha256, input=program.encode())

    def check_bazel(self):
        """The files are of the part of Starlark that is also Python: they run with stand-ins."""
        folder = self.recipes / "bazel/modules/promptkv" / self.version
        files = tarfile.open(self.archive)
        called = {}

        def call(name):
            return lambda *_, **arguments: called.update({name: arguments})

        exec((folder / "MODULE.bazel").read_text(), {"module": call("module"), "bazel_dep": call("bazel_dep")})
        expect(called["module"]["version"] == self.version, "the version of MODULE.bazel")
        module = files.extractfile(f"promptkv-{self.version}/MODULE.bazel").read()
        expect(module == (folder / "MODULE.bazel").read_bytes(), "the MODULE.bazel of the archive is the registry's")
        found = []
        build = {
            "load": lambda *_: None,
            "glob": lambda patterns: found.extend(path for p in patterns for path in ROOT.glob(p)),
            "cc_library": call("cc_library"),
        }
        exec(files.extractfile(f"promptkv-{self.version}/BUILD.bazel").read(), build)
        headers = list((ROOT / "include/promptkv").rglob("*.hpp"))
        expect(sorted(found) == sorted(headers), "BUILD.bazel lists each header")
        source = json.loads((folder / "source.json").read_text())
        expect(source["url"].endswith(self.archive.name), "the address in source.json")
        load = {"load": lambda *_: None, "http_archive": call("http_archive")}
        exec((self.recipes / "bazel/WORKSPACE").read_text(), load)
        expect(called["http_archive"]["sha256"] == self.sha256, "the sum in WORKSPACE")
        expect(called["http_archive"]["url"] == source["url"], "the address in WORKSPACE")

    def check_sums(self):
        for line in (self.release / "SHA256SUMS").read_text().splitlines():
            expected, name = line.split("  ")
            expect(hashlib.sha256((self.release / name).read_bytes()).hexdigest() == expected, f"the sum of {name}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe")
    for name in ("release", "work", "main"):
        parser.add_argument(f"--{name}", type=pathlib.Path, required=True)
    parser.add_argument("--compiler", required=True)
    given = parser.parse_args()
    getattr(Recipe(given), given.recipe)()


if __name__ == "__main__":
    main()
