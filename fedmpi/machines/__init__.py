"""Where ranks run: the launcher of mpirun, hostfiles, placement, the distribution of keys, and the doctor.

What is here knows machines and processes, and nothing of a protocol. A cluster's first steps are `hosts` and
`launcher`; what can go wrong on one is looked for by `doctor` and `network`.
"""
