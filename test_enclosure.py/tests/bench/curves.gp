# Draws how a job's latency grows: gnuplot -e "folder='…'" -e "picture='….png'" curves.gp
set terminal pngcairo size 1200,420 font "DejaVu Sans,11" background rgb "white"
set output picture
set multiplot layout 1,3 margins 0.07,0.985,0.15,0.86 spacing 0.045,0.1 \
    title "NOP, submit to result: the latency of one job" font ",13"
set logscale xy
set format x "10^{%T}"
set yrange [10:1000000]
set grid ytics lc rgb "#dddddd"
set border 3
set tics nomirror out
set key top left reverse Left samplen 2
set style line 1 lc rgb "#1f5fa8" lw 2 pt 7 ps 0.9
set style line 2 lc rgb "#c0562a" lw 2 pt 5 ps 0.9
set ylabel "microseconds"
set xlabel "VMs configured"
plot folder."/vms.dat" using 1:2 title "p50" with linespoints ls 1, \
     folder."/vms.dat" using 1:3 title "p99" with linespoints ls 2
unset ylabel
set xlabel "jobs that wait in the same pool"
plot folder."/queue.dat" using 1:2 notitle with linespoints ls 1, \
     folder."/queue.dat" using 1:3 notitle with linespoints ls 2
set logscale x 2
set format x "%.0f"
set xlabel "clients at once, each with its own VM"
plot folder."/writers.dat" using 1:2 notitle with linespoints ls 1, \
     folder."/writers.dat" using 1:3 notitle with linespoints ls 2
