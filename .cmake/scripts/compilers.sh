#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Compiles the library with one compiler, warnings being errors: each header alone, the headers after macros
# that others define, and a program with every kind of call, which it runs.
#   .cmake/scripts/compilers.sh COMPILER [OPTION...]   such as: clang++-16 -stdlib=libc++
#   .cmake/scripts/compilers.sh --help                 this text
# RUN names a program that runs the compiled one, such as qemu-i386. Without it a program that this machine
# cannot run makes the script fail.
# Exit code: 0 if nothing failed, 1 if something did, 2 for a wrong call.
set -u
cd "$(dirname "$0")/../.." || exit 1

case ${1:-} in
--help)
    sed -n '3,9s/^# \{0,1\}//p' .cmake/scripts/compilers.sh
    exit 0
    ;;
'' | -*)
    sed -n '3,9s/^# \{0,1\}//p' .cmake/scripts/compilers.sh >&2
    exit 2
    ;;
esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
compile() {
    "$@" -std=c++20 -I include -I tests/support \
        -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wsign-conversion -Wundef -Werror
}
step() {
    local name=$1
    shift
    if "$@"; then
        echo "ok      $name"
    else
        echo "FAILED  $name"
        failed=1
    fi
}

"$1" --version | head -n 1
for header in include/promptkv/*.hpp include/promptkv/detail/*.hpp; do
    case $header in # what needs other libraries
    */format.hpp | */second_level*.hpp | */*_store.hpp | */redis_*.hpp | */zstd_*.hpp) continue ;;
    */block_names.hpp | */block_records.hpp | */record_*.hpp | */load_plan.hpp | */write_queue.hpp | */posix_files.hpp) continue ;;
    */blocked_signal.hpp) continue ;;
    esac
    step "$header" compile "$@" -fsyntax-only -x c++ "$header"
done
step 'after macros of others' compile "$@" -fsyntax-only tests/macros/macros.cpp
step 'every kind of call' compile "$@" tests/no_exceptions/no_exceptions.cpp -o "$work/calls" &&
    [ -e "$work/calls" ] && step 'runs' ${RUN:-} "$work/calls"
exit $failed
