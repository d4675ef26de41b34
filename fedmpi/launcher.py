"""The mpirun line for a system, and running it."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from fedmpi.errors import UsageError

TERMINAL_VARIABLE = "FEDMPI_TERMINAL"
"""Set to 1 for the ranks where our output is a terminal; they can't tell: mpirun gives them a pseudo-terminal."""

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""A rank is one thread: more of them would fight for the cores of the other ranks."""


def find_mpirun() -> str:
    """Path of mpirun: the one installed beside this Python, else the first on the PATH.

    Raises
    ------
    UsageError
        If there is none; the message says how to get it.
    """
    beside = Path(sys.executable).parent / "mpirun"
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("mpirun")
    if found is None:
        raise UsageError('mpirun must be installed, got none: pip install "fedmpi[mpi]", or load your cluster\'s MPI')
    return found


def is_open_mpi(mpirun: str) -> bool:
    """Whether this mpirun is Open MPI's, whose flags differ from MPICH's."""
    version = subprocess.run([mpirun, "--version"], capture_output=True, text=True, check=False, timeout=60)
    return "Open MPI" in version.stdout


def mpirun_command(ranks: int, program: Sequence[str], hostfile: Path | None = None) -> tuple[list[str], list[str]]:
    """The command that starts a program on a number of ranks, and warnings for people.

    Parameters
    ----------
    ranks : int
        At least 1.
    program : sequence of str
        What every rank runs.
    hostfile : Path, optional
        Hosts and their slots; without it all ranks start on this machine.

    Returns
    -------
    command, warnings : list of str
    """
    if ranks < 1:
        raise UsageError(f"-n must be at least 1, got {ranks}")
    if hostfile is not None and not hostfile.is_file():
        raise UsageError(f"--hostfile must be a file, got {hostfile}")
    mpirun = find_mpirun()
    command, warnings = [mpirun, "-n", str(ranks)], list[str]()
    if not is_open_mpi(mpirun):
        return [*command, *(["-f", str(hostfile)] if hostfile else []), *program], warnings
    if os.geteuid() == 0:
        command.append("--allow-run-as-root")
        warnings.append("running as root: an ordinary user is safer")
    if hostfile is not None:
        command += ["--hostfile", str(hostfile)]
    else:
        # Always: Open MPI counts cores, Python counts hardware threads.
        command += ["--oversubscribe", "--bind-to", "none"]
        if ranks > (os.cpu_count() or 1):
            warnings.append(f"{ranks} ranks share {os.cpu_count()} cores: times are not those of {ranks} machines")
    command += ["--mca", "mpi_yield_when_idle", "1"]
    for name in [*ONE_THREAD, TERMINAL_VARIABLE]:
        command += ["-x", name]
    return [*command, *program], warnings


def environment() -> dict[str, str]:
    """The environment in which ranks start."""
    terminal = "1" if sys.stdout.isatty() else "0"
    return {**os.environ, **ONE_THREAD, TERMINAL_VARIABLE: terminal}


def run_ranks(ranks: int, program: Sequence[str], hostfile: Path | None = None) -> int:
    """Print the command and run it in the foreground.

    Returns
    -------
    int
        Its exit code.
    """
    command, warnings = mpirun_command(ranks, program, hostfile)
    for warning in warnings:
        print(f"fedmpi: warning: {warning}", file=sys.stderr)
    print(f"$ {shlex.join(command)}", file=sys.stderr, flush=True)
    with subprocess.Popen(command, env=environment()) as process:
        before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())  # mpirun then ends the ranks
        try:
            while True:
                try:
                    return process.wait()
                except KeyboardInterrupt:  # mpirun has got it too
                    continue
        finally:
            signal.signal(signal.SIGTERM, before)
