#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Prints which lines and branches of the headers the tests of a build folder ran, and fails below 95 %
# of the lines or 86 % of the branches. The build is clang++'s, with .cmake/settings/coverage.cmake; the
# tests ran with LLVM_PROFILE_FILE=<build folder>/profiles/%m.profraw.
#   .cmake/scripts/coverage.sh <build folder>
#
# What any instantiation of a template runs is run. Assertions are not counted, nor the line after one,
# for which clang 14 counts nothing.
set -eu -o pipefail
cd "$(dirname "$0")/../.."
tool() { clang++ -print-prog-name="llvm-$1"; }

"$(tool profdata)" merge -sparse "$1"/profiles/*.profraw -o "$1/profiles/all.profdata"
objects=()
for program in "$1"/tests/*; do
    [ -f "$program" ] && [ -x "$program" ] && objects+=(-object "$program")
done
"$(tool cov)" show "${objects[@]:1}" -instr-profile "$1/profiles/all.profdata" \
    --show-branches=count --show-instantiations=0 "$PWD/include" 2>"$1/profiles/warnings" |
    awk -F '|' '
        /^\/.*:$/ { # a file
            file = $0
            sub(/^.*\/include\//, "", file)
            sub(/:$/, "", file)
            next
        }
        /^ *[0-9]+\|/ { # a line: its number, how often it ran, its text
            line = $1 + 0
            text = substr($0, index($0, "|") + 1)
            sub(/^[^|]*\|/, "", text)
            place = file ":" line
            text_of[place] = text
            after_assertion = asserts
            asserts = text ~ /PROMPTKV_ASSERT\(/
            if ($2 ~ /[0-9]/ && !asserts && !after_assertion) {
                lines[place] = 1
                if ($2 !~ /^ *0$/)
                    ran[place] = 1
            }
            next
        }
        /Branch \([0-9]+:[0-9]+\): \[True: / {
            match($0, /\([0-9]+:[0-9]+\)/)
            at = substr($0, RSTART + 1, RLENGTH - 2)
            split(at, parts, ":")
            place = file ":" parts[1]
            if (asserts)
                next
            at = file ":" at
            branches[at, "true"] = branches[at, "false"] = place
            if ($0 !~ /True: 0,/)
                taken[at, "true"] = 1
            if ($0 !~ /False: 0\]/)
                taken[at, "false"] = 1
        }
        function percent(part, whole) { return whole > 0 ? 100 * part / whole : 0 }
        END {
            for (place in lines) {
                ++n_lines
                if (place in ran)
                    ++n_ran
                else
                    print "never run:   " place ": " text_of[place] | "sort -V"
            }
            for (key in branches) {
                ++n_branches
                split(key, parts, SUBSEP)
                if (key in taken)
                    ++n_taken
                else if (branches[key] in ran)
                    print "never " parts[2] ": " parts[1] ": " text_of[branches[key]] | "sort -V"
            }
            close("sort -V")
            printf "lines %.1f %% (%d of %d), branches %.1f %% (%d of %d)\n",
                percent(n_ran, n_lines), n_ran, n_lines,
                percent(n_taken, n_branches), n_taken, n_branches
            exit percent(n_ran, n_lines) < 95 || percent(n_taken, n_branches) < 86
        }'
