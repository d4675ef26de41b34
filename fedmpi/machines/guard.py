"""Whoever clears up where a launcher is killed: nobody can heed SIGKILL, nor the end of memory."""

import contextlib
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

SAVE_SECONDS = 30
"""How long rank 0 may take to save its work, and mpirun to end, when their launcher has been killed."""

# $1 is mpirun, $2 how long it may take, $3 the job's folder. A process number is that process only with its start time.
_SCRIPT = r"""
read -r word && exit
machine="$(uname -n) $(cat /proc/sys/kernel/random/boot_id 2> /dev/null)"
signal() {
    number= where=
    read -r number started where < "$2"
    [ "$where" = "$machine" ] || return
    [ "$(sed 's/.*) //' "/proc/$number/stat" | cut -d ' ' -f 20)" = "$started" ] && kill "$1" "$number"
}
mpirun=$1; left=$(($2 * 10)); shift 2
printf %s "the end of its launcher" > "$1/reason"
signal -TERM "$1/rank-0" || kill -TERM "-$mpirun"
while [ "$left" -gt 0 ] && kill -0 "$mpirun"; do
    [ -e "$1/exit-code" ] && [ "$left" -gt 50 ] && left=50
    sleep 0.1
    left=$((left - 1))
done
for begun in "$1"/begun-*; do signal -KILL "$begun"; done
kill -KILL "-$mpirun"
while read -r file; do rm -f -- "$file"; done < "$1/memory"
rm -rf -- "$@"
"""

_AFTERWARDS = r"""
read -r word && exit
mpirun=$1; shift
while kill -0 "$mpirun"; do sleep 1; done
rm -rf -- "$@"
"""

MEMORY = "memory"
"""File in the job's folder that names files of shared memory that nobody removes where ranks are killed."""


@contextlib.contextmanager
def guarded(mpirun: int, folders: Sequence[Path]) -> Iterator[None]:
    """For the time of a block a process waits for this one's end: then it ends the job, and removes its folders.

    Rank 0 may save its work before.

    Parameters
    ----------
    mpirun : int
        Process number of the job's mpirun, which leads its process group.
    folders : sequence of Path
        The job's first.
    """
    with _watched(_SCRIPT, mpirun, SAVE_SECONDS, *folders):
        yield


@contextlib.contextmanager
def cleared(mpirun: int, folders: Sequence[Path]) -> Iterator[None]:
    """The same for a job that goes on when its launcher has been killed: its folders are removed when mpirun ends."""
    with _watched(_AFTERWARDS, mpirun, *folders):
        yield


@contextlib.contextmanager
def _watched(script: str, *words: object) -> Iterator[None]:
    guard = subprocess.Popen(
        ["sh", "-c", script, "fedmpi", *map(str, words)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # somebody has killed it
            guard.communicate(b"done\n")
