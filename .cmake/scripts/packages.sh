# shellcheck shell=bash
# SPDX-License-Identifier: MIT
# Sourced by tests/setup and the run scripts: which Debian packages they need.

# packages_of <tests|quick|examples|benchmarks>: prints them. `quick` is what tests/run --quick needs.
packages_of() {
    case $1 in
    quick | tests)
        echo g++ cmake ninja-build pkg-config python3 catch2 libfmt-dev nlohmann-json3-dev \
            libcli11-dev liblzma-dev libbenchmark-dev libxxhash-dev libhiredis-dev libzstd-dev \
            redis-server libcpp-httplib-dev prometheus-cpp-dev prometheus meson lua5.4 doxygen gdb
        ;;&
    tests) echo clang clang-tidy clang-format-16 libclang-rt-dev llvm chromium ;;&
    examples)
        echo g++ cmake ninja-build pkg-config libfmt-dev nlohmann-json3-dev libcli11-dev liblzma-dev \
            xz-utils libxxhash-dev libhiredis-dev libcpp-httplib-dev prometheus-cpp-dev
        ;;&
    benchmarks)
        echo g++ cmake make gnuplot-nox bsdextrautils libfmt-dev libcli11-dev nlohmann-json3-dev \
            liblzma-dev
        ;;&
    quick | tests | examples) # for llama.cpp, where none is installed; npm may come from elsewhere
        command -v npm >/dev/null || echo npm
        command -v git >/dev/null || echo git
        ;;
    esac
}

# missing_packages <name...>: prints those that are absent. Nothing where there is no dpkg.
missing_packages() {
    local package
    command -v dpkg-query >/dev/null || return 0
    for package in "$@"; do
        dpkg-query -W -f '${Status}\n' "$package" 2>/dev/null | grep -q ' installed$' || echo "$package"
    done
}

# install_packages <name...>: with sudo unless it runs as root. Says what it installs, and what this system
# does not have.
install_packages() {
    local package there=() sudo=()
    [ "$(id -u)" -eq 0 ] || sudo=(sudo)
    export DEBIAN_FRONTEND=noninteractive
    "${sudo[@]}" apt-get update -qq
    for package in "$@"; do
        if apt-cache show "$package" >/dev/null 2>&1; then
            there+=("$package")
        else
            echo "not in this system: $package"
        fi
    done
    [ ${#there[@]} -gt 0 ] || return 0
    echo "missing packages, now being installed: ${there[*]}"
    "${sudo[@]}" apt-get install -y -qq --no-install-recommends "${there[@]}" >/dev/null || {
        echo "could not install: ${there[*]}"
        return 1
    }
}

# need_packages <as for packages_of>, or <name...>: root gets what is absent; others are told what to do.
need_packages() {
    local wanted=("$@") missing
    # shellcheck disable=SC2207 # a list of words
    case $1 in tests | quick | examples | benchmarks) wanted=($(packages_of "$1")) ;; esac
    # shellcheck disable=SC2207
    missing=($(missing_packages "${wanted[@]}"))
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        install_packages "${missing[@]}"
    else
        echo "missing packages: ${missing[*]}" >&2
        echo "install them; tests/setup does it on Debian and Ubuntu" >&2
        return 1
    fi
}
