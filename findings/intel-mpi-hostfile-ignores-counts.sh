#!/usr/bin/env bash
# Intel MPI 2021.18.1: in a file of hosts that is given with `-f` or `-hostfile` the counts ("host:3") are read and then
# ignored: ranks are dealt out by the number of cores of each host. No warning. The same file given with `-machinefile`
# is heeded, and so it is with `-f` by MPICH 5.0.2, whose Hydra Intel's launcher is descended from, and whose manual
# writes `-f` for such files. (Open MPI heeds its own form, "slots=3", with `--hostfile`.)
#
# Whoever moves a job from one MPI to another meets it: a rank that was to have a machine for itself shares one, or a
# host with two cores and little memory gets as many ranks as it has cores. Where two roles must not see one another's
# memory, they are on one machine, and nothing says so.
# What to do: `-machinefile` for both, or `-ppn` where all hosts get as many.
#
# Seen, with 4 ranks and two names of this machine, as "how many ranks share my host" for the ranks 0 to 3 (2 cores):
#                        host:3, host:1   host:1, host:3
#   MPICH -f             3 3 3 1          1 3 3 3
#   Intel -machinefile   3 3 3 1          1 3 3 3
#   Intel -f             2 2 2 2          2 2 2 2
#   Intel -hostfile      2 2 2 2          2 2 2 2
# Exits with 1 if any of this has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --prefix "$folder/intel" --no-deps impi-rt==2021.18.1
"$folder/venv/bin/pip" install -q --prefix "$folder/mpich" --no-deps mpich==5.0.2
printf 'localhost:3\n127.0.0.1:1\n' >"$folder/3,1"
printf 'localhost:1\n127.0.0.1:3\n' >"$folder/1,3"

shared() { # launcher, options, file: how many ranks share the host of each rank
    # shellcheck disable=SC2016  # the ranks' shells expand it
    timeout 60 "$@" -n 4 sh -c 'echo "$PMI_RANK $MPI_LOCALNRANKS"' | sort -n | cut -d' ' -f2 | paste -sd' '
}
intel=("$folder/intel/bin/mpiexec.hydra" -bootstrap fork)
mpich=("$folder/mpich/bin/mpiexec" -launcher fork)
wanted="3 3 3 1, 1 3 3 3"
both() { echo "$(shared "$@" "$folder/3,1"), $(shared "$@" "$folder/1,3")"; }

changed=0
check() { # name, whether counts are heeded, command
    found=$(both "${@:3}")
    printf '%-20s %s\n' "$1" "$found"
    heeded=no && [ "$found" = "$wanted" ] && heeded=yes
    [ "$heeded" = "$2" ] || changed=1
}
check 'MPICH -f' yes "${mpich[@]}" -f
check 'Intel -machinefile' yes "${intel[@]}" -machinefile
check 'Intel -f' no "${intel[@]}" -f
check 'Intel -hostfile' no "${intel[@]}" -hostfile
[ "$changed" = 0 ] || { echo 'the behaviour has changed'; exit 1; }
