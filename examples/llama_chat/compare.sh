#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Measures promptkv against llama-server's policy at several budgets, and draws the plot.
#
# usage: compare.sh PROGRAM OUT [options of llama_chat]
#   PROGRAM  the built llama_chat
#   OUT      where the results go: OUT.csv and OUT.svg
set -euo pipefail

if [ $# -lt 2 ]; then
    sed -n '5,7s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
program=$1
out=$2
shift 2
mkdir -p "$(dirname "$out")"

{
    echo 'budget_share,name,prefilled_tokens,reused_tokens,prefill_s,total_s,evictions'
    for budget in 0.2 0.3 0.4 0.5 0.6 0.8 1.0 1.2; do
        echo "budget $budget" >&2
        # One object a line in "totals"; a wrong answer ends this script with the program's exit code.
        "$program" --json --budget $budget "$@" >"$out.json"
        sed -n 's/^ *{"name": "\(.*\)", "prefilled_tokens": \(.*\), "reused_tokens": \(.*\), "prefill_s": \(.*\), "total_s": \(.*\), "evictions": \([0-9]*\)}.*/'$budget',\1,\2,\3,\4,\5,\6/p' \
            "$out.json"
    done
} >"$out.csv"
rm "$out.json"

gnuplot -e "out='$out'" - <<'PLOT'
set terminal svg size 800,420 font "sans,13" background "white"
set output out.".svg"
set datafile separator ","
set key outside center bottom horizontal width 2
set grid
set yrange [0:*]
set xlabel "budget, as a share of what the conversations take"
set style data linespoints
rows(name) = sprintf("< awk -F, '$2 == \"%s\"' %s.csv", name, out)
set multiplot layout 1,2
set title "Tokens prefilled"
plot rows("without a cache") using 1:3 dashtype 2 linecolor rgb "gray40" title "without a cache", \
     rows("llama-server's policy") using 1:3 title "llama-server's policy", \
     rows("promptkv") using 1:3 title "promptkv"
set title "Time to the first token, seconds in all"
plot rows("without a cache") using 1:5 dashtype 2 linecolor rgb "gray40" title "without a cache", \
     rows("llama-server's policy") using 1:5 title "llama-server's policy", \
     rows("promptkv") using 1:5 title "promptkv"
PLOT
