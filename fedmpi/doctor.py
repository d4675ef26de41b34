"""What works on this machine, what is missing, and how to get it."""

import importlib.metadata
import importlib.util
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fedmpi import __version__
from fedmpi.core.field import kernels_are_compiled
from fedmpi.data import catalogue
from fedmpi.errors import UsageError
from fedmpi.launcher import environment, find_mpirun, mpirun_command

_HELLO = (
    "from mpi4py import MPI; c = MPI.COMM_WORLD; "
    "print(c.allreduce(1), MPI.Get_library_version().split(',')[0]) if c.rank == 0 else c.allreduce(1)"
)
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
    for name, extra in (("pooch", "data"), ("matplotlib", "report")):
        present = importlib.util.find_spec(name) is not None
        text = (
            f"{name} {importlib.metadata.version(name)}"
            if present
            else f'{name} missing: pip install "fedmpi[{extra}]"'
        )
        yield Check(f"[{extra}]", present, text, optional=True)
    for entry in catalogue(data_dir):
        text = (
            f"{entry.name}: {entry.where}" if entry.present else f"{entry.name} missing: fedmpi data fetch {entry.name}"
        )
        yield Check("data", entry.present, text, optional=True)


def _mpi() -> Iterator[Check]:
    try:
        mpirun = find_mpirun()
    except UsageError as error:
        yield Check("mpirun", False, str(error))
        return
    yield Check("mpirun", True, mpirun)
    command, _ = mpirun_command(2, [sys.executable, "-c", _HELLO])
    try:
        hello = subprocess.run(
            command, env=environment(), capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        yield Check("ranks", False, f"2 ranks must start within {_SECONDS} s, and did not: {' '.join(command)}")
        return
    count, _, library = hello.stdout.strip().partition(" ")
    if hello.returncode == 0 and count == "2":
        yield Check("ranks", True, f"2 ranks start and talk, {library}")
    else:
        reason = (hello.stderr.strip().splitlines() or [f"exit code {hello.returncode}, said {hello.stdout!r}"])[-1]
        hint = "mpirun and mpi4py may be of different MPIs" if count == "1" else reason
        yield Check("ranks", False, f"2 ranks must start and talk, and do not: {hint}")


def _memory() -> Check:
    cores = os.cpu_count() or 1
    try:
        gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    except (ValueError, OSError):
        return Check("memory", False, f"unknown, {cores} cores", optional=True)
    return Check("memory", True, f"{gib:.1f} GiB, {cores} cores: room for about {int(gib / 0.08)} idle ranks")
