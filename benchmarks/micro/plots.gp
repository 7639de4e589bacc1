# SPDX-License-Identifier: MIT
# Draws the three plots of the README from micro.csv in the current folder.
set terminal svg size 800,560 font "sans,13" background "white"
set datafile separator ","
set key outside center bottom horizontal width 2 height 1
set grid
set logscale xy
set format x "10^{%L}"
set format y "%g"
set style data linespoints
set ylabel "nanoseconds"

# Rows of one family and series. Column 3 is x, 4 the time, 7 the bound, 8 what is allowed.
rows(family, series) = sprintf("< awk -F, '$1 == \"%s\" && $2 == \"%s\"' micro.csv", family, series)

set output "lookup.svg"
set title "Lookup of a stored prompt"
set xlabel "tokens" offset 0,0.3
set xrange [100:200000]
plot rows("probe", "warm") using 3:4 title "probe, warm", \
     rows("lease", "warm") using 3:4 title "lease, warm", \
     rows("probe", "warm") using 3:7 dashtype 2 linecolor 1 title "memcmp, warm", \
     rows("probe", "warm") using 3:8 with lines dashtype 3 linecolor 1 title "allowed, warm", \
     rows("probe", "cold") using 3:4 linecolor 4 title "probe, cold", \
     rows("probe", "cold") using 3:7 dashtype 2 linecolor 4 title "memcmp, cold"

set output "insert.svg"
set title "Insert of a prompt that shares half of its tokens"
plot rows("insert", "shared 50 %") using 3:4 title "no state", \
     rows("insert", "blocks of 64") using 3:4 title "blocks of 64", \
     rows("insert", "blocks of 16") using 3:4 title "blocks of 16", \
     rows("insert", "shared 50 %") using 3:7 dashtype 2 linecolor 1 title "memcmp + malloc + memcpy", \
     rows("insert", "shared 50 %") using 3:8 with lines dashtype 3 linecolor 1 title "allowed, no state", \
     rows("insert", "blocks of 16") using 3:8 with lines dashtype 3 linecolor 3 title "allowed, blocks of 16"

set output "entries.svg"
set title "By the number of entries"
set xlabel "entries"
set autoscale x
plot rows("probe_entries", "4096 tokens") using 3:4 title "probe, 4096 tokens, warm", \
     rows("probe_entries", "128 tokens") using 3:4 title "probe, 128 tokens, warm", \
     rows("probe_entries", "64 tokens cold") using 3:4 title "probe, 64 tokens, cold", \
     rows("insert_entries", "128 tokens full") using 3:4 title "insert and evict, 128 tokens", \
     rows("evict_entries", "64 tokens") using 3:4 linecolor 7 title "evict, 64 tokens"
