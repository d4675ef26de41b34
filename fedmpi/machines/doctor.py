"""What works on this machine, what is missing, and how to get it."""

import importlib.metadata
import importlib.util
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fedmpi.core.field import kernels_are_compiled
from fedmpi.data import catalogue
from fedmpi.errors import UsageError
from fedmpi.machines.launcher import (
    FAULT_TOLERANT_OPEN_MPI,
    environment,
    find_mpirun,
    mpi_of,
    mpirun_command,
    open_mpi_version,
)
from fedmpi.machines.srun import NAME as SRUN
from fedmpi.machines.srun import kind_of, loaded_mpi
from fedmpi.machines.surroundings import findings
from fedmpi.version import __version__

_LIBRARY = "print(' '.join(MPI.Get_library_version().strip(chr(0)).split(',')[0].splitlines()[0].split()))"
_HELLO = (
    f"from mpi4py import MPI; c = MPI.COMM_WORLD; n = c.allreduce(1); c.rank or print(n, end=' '); c.rank or {_LIBRARY}"
)
_DEATH = """
import os, signal
from fedmpi.net import Message
from fedmpi.net.mpi import job

class Alive(Message, tag=1):
    pass

with job(timeout_seconds=20) as ch:
    ch.tolerated = (1, 2)
    if ch.rank == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    if ch.rank == 1:
        ch.recv(0, Alive)
        ch.send(0, Alive())
    if ch.rank == 0:
        ch.gather_within(10, (2,), Alive)
        ch.send(1, Alive())
        ch.recv(1, Alive)
        print("lost", *ch.departed, flush=True)
"""
_SECONDS = 60


@dataclass(frozen=True)
class Check:
    """One line of the doctor's report."""

    name: str
    ok: bool
    text: str
    optional: bool = False


def examine(data_dir: Path | None = None) -> Iterator[Check]:
    """Look at everything that a run needs."""
    yield Check("fedmpi", True, f"{__version__}, Python {platform.python_version()}, {platform.machine()}")
    yield from _mpi()
    compiled = kernels_are_compiled()
    advice = "compiled" if compiled else "numpy twin, many times slower: install a C compiler, then reinstall fedmpi"
    yield Check("kernels", compiled, advice, optional=True)
    yield _memory()
    for name, ok, text in findings():
        yield Check(name, ok, text, optional=True)
    for name, extra in (("pooch", "data"), ("pyarrow", "data"), ("matplotlib", "report")):
        present = importlib.util.find_spec(name) is not None
        text = (
            f"{name} {importlib.metadata.version(name)}"
            if present
            else f'{name} missing: pip install "fedmpi[{extra}]"'
        )
        yield Check(f"[{extra}]", present, text, optional=True)
    for entry in catalogue(data_dir):
        advice = f"put it by hand into {entry.where}" if entry.by_hand else f"fedmpi data fetch {entry.name}"
        text = f"{entry.name}: {entry.where}" if entry.present else f"{entry.name} missing: {advice}"
        yield Check("data", entry.present, text, optional=True)


def _mpi() -> Iterator[Check]:
    try:
        mpirun = find_mpirun()
    except UsageError as error:
        yield Check("mpirun", False, str(error))
        return
    yield Check("mpirun", True, mpirun)
    hello = _try_ranks(2, _HELLO)
    count, _, library = hello.stdout.strip().partition(" ")
    works = hello.returncode == 0 and count == "2"
    if works:
        yield Check("ranks", True, f"2 ranks start and talk, {library}")
        yield _survival(mpirun)
    else:
        hint = _mixed(mpirun) or ("each rank is alone" if count == "1" else _reason(hello))
        yield Check("ranks", False, f"2 ranks must start and talk, and do not: {hint}")


def _mixed(mpirun: str) -> str | None:
    """What to do where mpi4py loads another MPI than the one of mpirun."""
    library, starter = loaded_mpi(), kind_of(mpi_of(mpirun))
    if not (library and starter) or library == starter:
        return None
    return f"mpi4py loads {library}, and {mpirun} is of {starter}: uninstall one of the two"


def _survival(mpirun: str) -> Check:
    """Kill one of three ranks, and see whether the other two can go on."""
    if (version := open_mpi_version(mpirun)) < FAULT_TOLERANT_OPEN_MPI:
        found = f"Open MPI {version}" if version else SRUN if Path(mpirun).name == SRUN else "another MPI"
        text = f"a rank that dies ends the job: Open MPI {FAULT_TOLERANT_OPEN_MPI} or newer goes on, this is {found}"
        return Check("survival", False, text, optional=True)
    death = _try_ranks(3, _DEATH, tolerate_failures=True)
    if death.stdout.split() == ["lost", "2"]:
        return Check("survival", True, "a job outlives a killed rank (ULFM)", optional=True)
    text = f"a rank that dies ends the job: one of 3 was killed, and mpirun ended with {death.returncode}"
    return Check("survival", False, text, optional=True)


def _try_ranks(ranks: int, code: str, *, tolerate_failures: bool = False) -> subprocess.CompletedProcess[str]:
    """Run Python code on some ranks; one that hangs ends with the exit code of `timeout`."""
    command, _ = mpirun_command(ranks, [sys.executable, "-c", code], tolerate_failures=tolerate_failures)
    try:
        with environment() as variables:
            return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        said = f"they must start within {_SECONDS} s, and did not: {shlex.join(command[:-1])} …"
        return subprocess.CompletedProcess(command, 124, "", said)


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip(" -=*")]
    return (lines or [f"exit code {done.returncode}, said {done.stdout!r}"])[-1]


def _memory() -> Check:
    cores = os.cpu_count() or 1
    try:
        gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    except (ValueError, OSError):
        return Check("memory", False, f"unknown, {cores} cores", optional=True)
    return Check("memory", True, f"{gib:.1f} GiB, {cores} cores: room for about {int(gib / 0.08)} idle ranks")
