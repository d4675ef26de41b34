"""The ranks of this machine as its processes: a launcher, or its daemon, is the parent of all of them."""

import contextlib
import os
import signal
from collections.abc import Collection, Sequence
from pathlib import Path

from fedmpi.net.job_folder import RANKS, state_of


def children(parent: int) -> list[int]:
    """Process numbers of a process's children; none where the operating system has no /proc."""
    found = []
    for listed in Path("/proc").glob(f"{parent}/task/*/children"):
        with contextlib.suppress(OSError):  # it has ended
            found += [int(pid) for pid in listed.read_text().split()]
    return found


def ranks_of(processes: Sequence[int], inherited: Collection[str] = ()) -> dict[int, int]:
    """Process → rank, of those that are ranks of an MPI job.

    Parameters
    ----------
    inherited : collection of str
        Variables that say nothing here: processes that are no ranks have them too. A job script of Slurm has
        SLURM_PROCID, and so has what mpirun starts from it, as ssh.
    """
    found = {}
    for pid in processes:
        with contextlib.suppress(OSError):  # it has ended
            words = (word.partition(b"=") for word in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
            told = {name.decode(errors="replace"): value for name, _, value in words if value.isdigit()}
            ranks = [int(told[name]) for name in RANKS if name in told and name not in inherited]
            if ranks:
                found[pid] = ranks[0]
    return found


def siblings() -> list[int]:
    """Process numbers of the ranks of this machine, with this one; this one alone where others can't be seen."""
    own = os.getpid()
    return [own, *(pid for pid in ranks_of(children(os.getppid())) if pid != own)]


def wake_the_frozen() -> list[int]:
    """Let ranks of this machine go on that somebody has stopped: at the end of a job they leave as all others do.

    Otherwise MPI_Abort alone could end them, with its banner, as it ends those of other machines.

    Returns
    -------
    list of int
        The ranks that were stopped.
    """
    woken = []
    for pid, rank in ranks_of(children(os.getppid())).items():
        with contextlib.suppress(OSError):  # it has ended
            if state_of(pid) == "T":
                os.kill(pid, signal.SIGCONT)
                woken.append(rank)
    return sorted(woken)
