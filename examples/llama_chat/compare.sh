#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Measures promptkv against llama-server's policy at several budgets, and draws the plot: of the time
# that the processor took, which other programs disturb less.
#
# usage: compare.sh PROGRAM OUT [options of llama_chat]
#   PROGRAM  the built llama_chat
#   OUT      where the results go: OUT.csv and OUT.svg
set -euo pipefail

if [ $# -lt 2 ]; then
    sed -n '6,8s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
program=$1
out=$2
shift 2
mkdir -p "$(dirname "$out")"

{
    echo 'budget_share,name,prefilled_tokens,reused_tokens,evictions,processor_s'
    for budget in 0.1 0.2 0.3 0.4 0.5 0.6 0.8 1.0; do
        echo "budget $budget" >&2
        # The totals, an object a line; a wrong answer ends this script. The processor's time, without those of
        # the clock.
        "$program" --json --budget $budget "$@" |
            sed -nE 's/.*"name": "([^"]*)", .*"prefilled_tokens": ([0-9]+), "reused_tokens": ([0-9]+),.*"evictions": ([0-9]+),.*"processor_s": ([0-9.]+).*/'$budget',\1,\2,\3,\4,\5/p'
    done
} >"$out.csv"

gnuplot -e "csv='$out.csv'; svg='$out.svg'" - <<'PLOT'
set terminal svg size 840,360 font "sans,13" background "white"
set output svg
set datafile separator ","
set key top right
set grid
set xrange [0.05:1.05]
set yrange [0:120]
set format y "%g %%"
set xlabel "budget: share of the bytes of all conversations"
set style data linespoints
set style line 1 linewidth 2 pointtype 5 linecolor rgb "#d95f02"
set style line 2 linewidth 2 pointtype 7 linecolor rgb "#1b6ca8"
# A column relative to the row without a cache, which is the first of each budget.
rows(name, column) = sprintf("< awk -F, '$2 ~ /without/ { base = $%d } $2 ~ /%s/ { print $1 \",\" 100 * $%d / base }' %s", column, name, column, csv)
set multiplot layout 1,2
set title "Tokens prefilled, of those without a cache"
plot rows("server", 3) linestyle 1 title "llama-server's policy", rows("promptkv", 3) linestyle 2 title "promptkv"
set title "Processor time, of that without a cache"
plot rows("server", 6) linestyle 1 title "llama-server's policy", rows("promptkv", 6) linestyle 2 title "promptkv"
PLOT
