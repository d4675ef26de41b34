"""Programs that a comparison starts under mpirun, one for each that needs its own: every rank runs the same file.

Rank 0 prints the figures as a line of JSON, which the file of the same name in `fedmpi.bench` reads.
"""
