"""Speed, as ratios within one run: a file for each comparison that `fedmpi bench` offers, with a function `measure`.

Beside them, `ranks` has the programs that some of them start under mpirun, and `peers` other people's programs for the
same work. `rates` and `projection` are the cost model of `fedmpi project`: how long machines of one's own would take.
"""
