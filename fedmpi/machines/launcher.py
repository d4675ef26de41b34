"""The mpirun line for a system, and running it."""

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fedmpi.errors import PeerFailed, UsageError
from fedmpi.machines.hosts import SSH_SECONDS, assign, read_hostfile, require_slots, ssh_command
from fedmpi.net import job_folder

TERMINAL_VARIABLE = "FEDMPI_TERMINAL"
"""Set to 1 for the ranks where our output is a terminal; they can't tell: mpirun gives them a pseudo-terminal."""

FAULT_TOLERANT_OPEN_MPI = 5
"""The first version whose jobs can outlive dead ranks (ULFM) when built as usual."""

END_SECONDS = 5.0
"""How long mpirun may go on when rank 0 has ended the job: it waits for ever for ranks that hang."""

_POLL_SECONDS = 0.1

_SESSION_FOLDERS = "PRTE_MCA_prte_local_tmpdir_base"
"""Where mpirun keeps its files; another variable says it for all hosts, and Open MPI takes but one of the two."""

_HOST_FAILED = 255
"""Open MPI's exit code where it could not start, or has lost, its daemon on a host."""

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


def open_mpi_version(mpirun: str) -> int:
    """Major version of Open MPI, 0 for another MPI, whose flags differ."""
    version = subprocess.run([mpirun, "--version"], capture_output=True, text=True, check=False, timeout=60)
    found = re.search(r"Open MPI\D*(\d+)", version.stdout)
    return int(found[1]) if found else 0


def mpirun_command(
    ranks: int,
    program: Sequence[str],
    hostfile: Path | None = None,
    *,
    interface: str | None = None,
    tolerate_failures: bool = False,
    rank_map: Path | None = None,
) -> tuple[list[str], list[str]]:
    """The command that starts a program on a number of ranks, and warnings for people.

    Parameters
    ----------
    ranks : int
        At least 1.
    program : sequence of str
        What every rank runs.
    hostfile : Path, optional
        Hosts and their slots; without it all ranks start on this machine.
    interface : str, optional
        The network between the hosts: a name (eth0), or for Open MPI a subnet (10.0.0.0/16).
    tolerate_failures : bool
        Let the job outlive ranks that die, where this MPI can: Open MPI 5 and newer.
    rank_map : Path, optional
        One line for each rank, with its host; in place of the hostfile's order.

    Returns
    -------
    command, warnings : list of str
    """
    if ranks < 1:
        raise UsageError(f"-n must be at least 1, got {ranks}")
    if hostfile is not None:
        require_slots(read_hostfile(hostfile), ranks)
    mpirun = find_mpirun()
    command, warnings = [mpirun, "-n", str(ranks)], list[str]()
    version = open_mpi_version(mpirun)
    if tolerate_failures and version < FAULT_TOLERANT_OPEN_MPI:
        warnings.append(f"a rank that dies ends the job: only Open MPI {FAULT_TOLERANT_OPEN_MPI} and newer go on")
    if not version:
        command += ["-f", str(rank_map or hostfile)] if hostfile else []
        return [*command, *(["-iface", interface] if interface else []), *program], warnings
    if os.geteuid() == 0:
        command.append("--allow-run-as-root")
        warnings.append("running as root: an ordinary user is safer")
    # Never bound: Open MPI counts cores, Python and the vendors of clouds count hardware threads.
    command += ["--bind-to", "none"]
    if rank_map is not None:
        command += ["--hostfile", str(rank_map), "--map-by", "seq"]
    elif hostfile is not None:
        command += ["--hostfile", str(hostfile)]
    else:
        command.append("--oversubscribe")
        if ranks > (os.cpu_count() or 1):
            warnings.append(f"{ranks} ranks share {os.cpu_count()} cores: times are not those of {ranks} machines")
    if interface is not None:
        daemons = ["--prtemca", "prte_if_include"] if version >= 5 else ["--mca", "oob_tcp_if_include"]
        command += ["--mca", "btl_tcp_if_include", interface, *daemons, interface]
    command += ["--mca", "mpi_yield_when_idle", "1"]
    if tolerate_failures and version >= FAULT_TOLERANT_OPEN_MPI:
        command += ["--with-ft", "ulfm"]
    for name in [*ONE_THREAD, TERMINAL_VARIABLE]:
        command += ["-x", name]
    return [*command, *program], warnings


@contextlib.contextmanager
def environment() -> Iterator[dict[str, str]]:
    """The environment in which the ranks of one job start, with the job's folder, which goes at its end.

    mpirun's own files are there too, unless the user has named a place. Open MPI calls them by the process number of
    mpirun, and starts no rank where a killed one has left some of the same number.
    """
    terminal = "1" if sys.stdout.isatty() else "0"
    with tempfile.TemporaryDirectory(prefix="fedmpi-", ignore_cleanup_errors=True) as folder:
        named = any(name.startswith("PRTE_MCA_") and name.endswith("tmpdir_base") for name in os.environ)
        session = {} if named else {_SESSION_FOLDERS: folder}
        yield {**os.environ, **ONE_THREAD, **session, TERMINAL_VARIABLE: terminal, job_folder.VARIABLE: folder}


def run_ranks(
    ranks: int,
    program: Sequence[str],
    hostfile: Path | None = None,
    *,
    interface: str | None = None,
    tolerate_failures: bool = False,
    places: Mapping[int, str] | None = None,
) -> int:
    """Print the command and run it in the foreground.

    SIGTERM, SIGUSR1 and Ctrl-C go to rank 0, which ends the job when it has saved its work; given once more, or where
    rank 0 is not on this machine, to mpirun.

    Parameters
    ----------
    places : mapping, optional
        Rank → host of the hostfile that it must run on.

    Returns
    -------
    int
        The exit code of rank 0; where it is not known, mpirun's.
    """
    with environment() as variables:
        folder = Path(variables[job_folder.VARIABLE])
        rank_map = write_rank_map(folder / "rank-map", ranks, hostfile, places) if places else None
        command, warnings = mpirun_command(
            ranks,
            program,
            hostfile,
            interface=interface,
            tolerate_failures=tolerate_failures,
            rank_map=rank_map,
        )
        for warning in warnings:
            print(f"fedmpi: warning: {warning}", file=sys.stderr)
        print(f"$ {shlex.join(command)}", file=sys.stderr, flush=True)
        process: subprocess.Popen[bytes] | None = None
        received: list[int] = []
        early: list[int] = []  # while mpirun is being started

        def forward(number: int, _: object) -> None:
            received.append(number)
            if process is None:
                early.append(number)
            elif received.count(number) > 1 or not signal_rank_0(folder, number):
                process.terminate()

        before = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
        try:
            process = subprocess.Popen(
                command,
                env=variables,
                stdin=subprocess.DEVNULL,
                process_group=0,  # Ctrl-C is for the launcher alone
            )
            if early and not signal_rank_0(folder, early[0]):
                process.terminate()
            code = wait_for_job(process, folder)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        said = job_folder.read_exit_code(folder)
        if said is None and not received and end_orphan(folder):
            reason = f"got its end with exit code {code}: it may have lost a host, or the ssh to it"
            print(f"fedmpi: error: mpirun must last as long as the job, {reason}", file=sys.stderr)
            return PeerFailed.exit_code
    if said is not None:
        return said
    if code == _HOST_FAILED and hostfile and not received and (blame := unreachable_host(hostfile)):
        print(f"fedmpi: error: every host of {hostfile} must be reached by ssh, got {blame}", file=sys.stderr)
        return PeerFailed.exit_code
    return 128 + received[0] if code and received else code


def unreachable_host(hostfile: Path) -> str | None:
    """The first host of a hostfile that ssh can't log in to, with the reason; this machine is not asked."""
    for host in read_hostfile(hostfile):
        if host.name in ("localhost", os.uname().nodename):
            continue
        ssh = ssh_command(host.name, "true")
        try:
            done = subprocess.run(ssh, capture_output=True, text=True, check=False, timeout=2 * SSH_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{host.name}: {error}"
        if done.returncode:
            return f"{host.name}: {(done.stderr.strip().splitlines() or [f'exit code {done.returncode}'])[-1]}"
    return None


def write_rank_map(path: Path, ranks: int, hostfile: Path | None, places: Mapping[int, str]) -> Path:
    """Write the host of every rank, one a line."""
    if hostfile is None:
        raise UsageError("--place must be used with --hostfile, got none")
    path.write_text("".join(f"{host}\n" for host in assign(ranks, read_hostfile(hostfile), places)))
    return path


def signal_rank_0(folder: Path, number: int) -> bool:
    """Send a signal (SIGTERM for SIGINT) to rank 0, if it runs on this machine."""
    pid = job_folder.read_pid(folder)
    if pid is None:
        return False
    try:
        os.kill(pid, signal.SIGTERM if number == signal.SIGINT else number)
    except ProcessLookupError:
        return False
    return True


def end_orphan(folder: Path) -> bool:
    """End rank 0 if it runs on although mpirun has ended, with time to save its work; whether it did."""
    end = time.monotonic() + END_SECONDS
    orphaned = signal_rank_0(folder, signal.SIGTERM)
    while time.monotonic() < end and job_folder.read_exit_code(folder) is None and signal_rank_0(folder, 0):
        time.sleep(_POLL_SECONDS)
    signal_rank_0(folder, signal.SIGKILL)
    return orphaned


def wait_for_job(process: subprocess.Popen[bytes], folder: Path) -> int:
    """Wait for mpirun, but not long for one that does not end although rank 0 has ended the job; its exit code."""
    while process.poll() is None and job_folder.read_exit_code(folder) is None:
        time.sleep(_POLL_SECONDS)
    try:
        return process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        for pid in children(process.pid):  # ranks that hang, and ssh to hosts that do not answer
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.kill()
    return process.wait()


def children(parent: int) -> list[int]:
    """Process numbers of a process's children; none where the operating system has no /proc."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(stat.parent.name))
    return found
