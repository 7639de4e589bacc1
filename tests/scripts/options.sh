#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Each script answers --help with its name and its options, and refuses what it does not know.
faults=0
fault() {
    echo "$*"
    faults=$((faults + 1))
}
for script in tests/run examples/run benchmarks/run tests/setup .cmake/scripts/docs.sh; do
    bash -n "$script" || fault "$script: not a bash script"
    help=$(bash "$script" --help) || fault "$script --help: exit code $?"
    grep -q -e "$script --help" <<<"$help" || fault "$script --help does not name itself"
    grep -q 'BUILD_DIR' "$script" || [ "$script" = tests/setup ] || fault "$script ignores BUILD_DIR"
    bash "$script" --nonsense >/dev/null 2>&1
    [ $? -eq 2 ] || fault "$script --nonsense: the exit code is not 2"
done
for script in tests/run examples/run benchmarks/run; do
    grep -q -e "$script --quick" <<<"$(bash "$script" --help)" || fault "$script has no --quick"
done
[ $faults -eq 0 ] && echo 'the scripts agree'
