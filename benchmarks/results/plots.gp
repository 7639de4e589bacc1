# SPDX-License-Identifier: MIT
# Draws the plots from the CSV files of the current folder.
set terminal svg size 800,560 font "sans,13" background "white"
set datafile separator ","
set key outside center bottom horizontal width 2 height 1
set grid
set logscale xy
set format x "10^{%L}"
set format y "%g"
set style data linespoints
set ylabel "nanoseconds"

# Rows of one family and series of micro.csv; column 3 is x, 4 the time, 5 and 6 its 10th and 90th
# percentile, 7 the bound, 11 what is allowed.
rows(family, series) = sprintf("< awk -F, '$1 == \"%s\" && $2 == \"%s\"' micro.csv", family, series)

set output "lookup.svg"
set title "Lookup of a stored prompt"
set xlabel "tokens" offset 0,0.3
set xrange [100:200000]
plot rows("probe", "shared 0 %") using 3:4 title "probe, warm", \
     rows("lease", "shared 0 %") using 3:4 title "lease, warm", \
     rows("probe", "shared 0 %") using 3:7 dashtype 2 linecolor 1 title "memcmp, warm", \
     rows("probe", "shared 0 %") using 3:11 with lines dashtype 3 linecolor 1 title "allowed, warm", \
     rows("probe", "cold") using 3:4 linecolor 4 title "probe, cold", \
     rows("probe", "cold") using 3:7 dashtype 2 linecolor 4 title "memcmp, cold"

set output "insert.svg"
set title "Insert"
plot rows("insert", "shared 0 %") using 3:4 title "nothing shared", \
     rows("insert", "shared 50 %") using 3:4 title "half shared", \
     rows("insert", "shared 99 %") using 3:4 title "99 % shared", \
     rows("insert", "turn") using 3:4 title "a turn: an eighth is new", \
     rows("insert", "shared 50 %") using 3:7 dashtype 2 linecolor 2 title "bound, half shared", \
     rows("insert", "shared 50 %") using 3:11 with lines dashtype 3 linecolor 2 title "allowed, half shared"

set output "entries.svg"
set title "By the number of entries"
set xlabel "entries"
set autoscale x
plot rows("probe_entries", "4096 tokens") using 3:4 title "probe, 4096 tokens, warm", \
     rows("probe_entries", "128 tokens") using 3:4 title "probe, 128 tokens, warm", \
     rows("probe_entries", "64 tokens cold") using 3:4 title "probe, 64 tokens, cold", \
     rows("insert_entries", "128 tokens full") using 3:4 title "insert and evict, 128 tokens", \
     rows("evict_entries", "64 tokens") using 3:4 linecolor 7 title "evict, 64 tokens"

set output "width.svg"
set title "Nearest longer entry, evictions going on"
set xlabel "children of the node"
plot rows("longer", "lookup") using 3:4:5:6 with yerrorlines title "lookup", \
     rows("longer", "eviction + insert + lookup") using 3:4:5:6 with yerrorlines title "eviction, insert, lookup"

set output "chains.svg"
set title "Nested entries on the path of a prompt of 4096 tokens"
set xlabel "nested entries"
plot rows("probe_depth", "4096 tokens") using 3:4 title "probe", \
     rows("lease_depth", "4096 tokens") using 3:4 title "lease", \
     rows("probe_depth", "4096 tokens") using 3:7 dashtype 2 title "memcmp"

set output "churn.svg"
set title "Memory of the index, 10,000 entries, random inserts and evictions"
unset logscale
set format x "%.0s %c"
set xlabel "inserts"
set ylabel "MB"
set yrange [0:*]
plot "churn.csv" skip 1 using 1:($2 / 1e6) with lines title "given out by the allocator", \
     "churn.csv" skip 1 using 1:($3 / 1e6) with lines title "index\\_nbytes()"

set output "baselines.svg"
set title "Chats on four system prompts, everything fits: p50"
set logscale y
set yrange [0.1:*]
set format x "%g"
unset xlabel
set ylabel "microseconds"
set style data histogram
set style histogram clustered
set style fill solid 0.8
set boxwidth 0.9
chats = "< awk -F, '$1 == \"chats: everything fits\"' baselines.csv"
plot chats using 3:xtic(2) title "lookup", "" using 5 title "insert"
