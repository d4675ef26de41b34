"""The scheduler in whose job this process is, and the hosts that it gives the job: Slurm, PBS, LSF."""

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fedmpi.errors import UsageError
from fedmpi.machines.hosts import Host, expand


@dataclass(frozen=True)
class Scheduler:
    """What we know of one."""

    name: str
    """For people."""
    command: str
    """That submits a job."""
    job: str
    """Variable that is set in every job."""
    hosts: Callable[[Mapping[str, str]], list[Host]]
    """The hosts of the job with these variables, in its order, and the ranks on each."""


def scheduler(environment: Mapping[str, str] = os.environ) -> Scheduler | None:
    """The scheduler of the job that this process is in; None outside of jobs."""
    return next((known for known in SCHEDULERS.values() if known.job in environment), None)


def on_this_machine(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether ranks that are given no hosts run on this machine alone: in a scheduler's job mpirun takes its hosts."""
    job, own = scheduler(environment), os.uname().nodename.partition(".")[0]
    try:
        return job is None or {host.name.partition(".")[0] for host in job.hosts(environment)} == {own}
    except UsageError:  # it tells no hosts to us, nor to mpirun
        return True


def slurm_hosts(environment: Mapping[str, str]) -> list[Host]:
    """The hosts of this Slurm job, and the tasks on each: ``4(x2),3`` → 4, 4, 3.

    Raises
    ------
    UsageError
        Outside of a job.
    """
    names = expand(_variable(environment, "SLURM_JOB_NODELIST", "slurm"))
    tasks = _variable(environment, "SLURM_TASKS_PER_NODE", "slurm")
    counts: list[int] = []
    for part in tasks.split(","):
        found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if found is None:
            raise UsageError(f"SLURM_TASKS_PER_NODE must be like 4(x2),3, got {tasks}")
        counts += [int(found[1])] * int(found[2] or 1)
    if len(counts) != len(names):
        raise UsageError(f"SLURM_TASKS_PER_NODE must be of {len(names)} nodes, got {tasks}")
    return [Host(name, count) for name, count in zip(names, counts, strict=True)]


def pbs_hosts(environment: Mapping[str, str]) -> list[Host]:
    """The hosts of this PBS job: the file has a line for each rank (`select=2:mpiprocs=4`: two hosts, four lines each).

    Raises
    ------
    UsageError
        Outside of a job.
    """
    return _lines_of(environment, "PBS_NODEFILE", "pbs")


def lsf_hosts(environment: Mapping[str, str]) -> list[Host]:
    """The hosts of this LSF job: the file has a line for each slot.

    Raises
    ------
    UsageError
        Outside of a job.
    """
    return _lines_of(environment, "LSB_DJOB_HOSTFILE", "lsf")


def _lines_of(environment: Mapping[str, str], variable: str, flag: str) -> list[Host]:
    path = Path(_variable(environment, variable, flag))
    try:
        names = path.read_text().split()
    except OSError as error:
        raise UsageError(f"{variable} must be a file that can be read, got {path}: {error.strerror}") from None
    if not names:
        raise UsageError(f"{variable} must name a host, got none in {path}")
    return [Host(name, count) for name, count in Counter(names).items()]


def _variable(environment: Mapping[str, str], name: str, flag: str) -> str:
    if name not in environment:
        raise UsageError(f"--{flag} must be used in a job of {SCHEDULERS[flag].name}, got no {name}")
    return environment[name]


SCHEDULERS = {
    "slurm": Scheduler("Slurm", "sbatch", "SLURM_JOB_ID", slurm_hosts),
    "pbs": Scheduler("PBS", "qsub", "PBS_JOBID", pbs_hosts),
    "lsf": Scheduler("LSF", "bsub", "LSB_JOBID", lsf_hosts),
}
