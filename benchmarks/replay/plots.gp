# SPDX-License-Identifier: MIT
# Draws the plots of policies.csv and curve.csv in the current folder: a panel a trace.
set datafile separator ","
set grid
set style data linespoints
set format y "%g"
set yrange [0:1]
set logscale x 2
set key outside bottom center horizontal samplen 2 height 0.5

column_of(file, n) = system(sprintf("awk -F, 'NR > 1 && !seen[$%d]++ { print $%d }' %s", n, n, file))
rows_of(n) = (n + 2) / 3

traces = column_of("policies.csv", 1)
policies = column_of("policies.csv", 3)
rows(trace, policy) = sprintf("< awk -F, '$1 == \"%s\" && $3 == \"%s\" && $2 != \"unlimited\"' policies.csv", trace, policy)
set terminal svg size 1000,300*rows_of(words(traces)) font "sans,12" background "white"
set output "policies.svg"
set multiplot layout rows_of(words(traces)),3 title "Token hit ratio by capacity, in blocks"
do for [trace in traces] {
    set title trace noenhanced
    plot for [policy in policies] rows(trace, policy) using 2:4 title policy
}
unset multiplot

traces = column_of("curve.csv", 1)
if (words(traces) > 0) {
    points(trace) = sprintf("< awk -F, '$1 == \"%s\"' curve.csv | sort -t, -k4n", trace)
    set terminal svg size 1000,300*rows_of(words(traces)) font "sans,12" background "white"
    set output "curve.svg"
    set multiplot layout rows_of(words(traces)),3 title "LRU's hit ratio by budget, in GiB: as the cache tells and as measured"
    do for [trace in traces] {
        set title trace noenhanced
        plot points(trace) using ($4/2**30):5 with points pointtype 6 title "curve", \
             points(trace) using ($4/2**30):6 with lines title "LRU, measured", \
             points(trace) using ($4/2**30):7 with lines title "the cache, measured"
    }
    unset multiplot
}
