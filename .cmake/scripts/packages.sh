# SPDX-License-Identifier: MIT
# Sourced by tests/setup, tests/run, examples/run and benchmarks/run: which Debian packages they need.

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
            xz-utils libxxhash-dev libhiredis-dev
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

# need_packages <as for packages_of>: root gets what is absent; others are told the command.
need_packages() {
    local missing
    # shellcheck disable=SC2046 # a list of words
    missing=$(missing_packages $(packages_of "$1"))
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        tests/setup "$1"
    else
        echo "missing packages:" $missing >&2
        echo "install them, or run: tests/setup $1" >&2
        return 1
    fi
}
