"""The mpirun line for a system, and running it."""

import contextlib
import functools
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fedmpi.errors import UsageError
from fedmpi.machines.hosts import SSH_SECONDS, Host, assign, hostfile_text, read_hostfile, require_slots, ssh_command
from fedmpi.machines.placement import PLACES, named_places
from fedmpi.machines.schedulers import on_this_machine
from fedmpi.machines.srun import NAME as SRUN
from fedmpi.machines.srun import in_job, srun_options
from fedmpi.machines.supervision import START_SECONDS, Job, leaving_in_order
from fedmpi.net import job_folder
from fedmpi.rules import printable

TERMINAL_VARIABLE = "FEDMPI_TERMINAL"
"""Set to 1 for the ranks where our output is a terminal; they can't tell: mpirun gives them a pseudo-terminal."""

FAULT_TOLERANT_OPEN_MPI = 5
"""The first version whose jobs can outlive dead ranks (ULFM) when built as usual."""

START_ALARM = "FEDMPI_START_ALARM"
"""Seconds after which a rank ends that still waits for the others: the launcher hears nothing of other machines."""

_ALARM_SECONDS = 15

_SESSION_FOLDERS, _ALONE = "PRTE_MCA_prte_local_tmpdir_base", "OMPI_MCA_orte_tmpdir_base"
"""Where mpirun of Open MPI 5 keeps its files, and that of Open MPI 4 on all hosts; others that begin alike say it for
all hosts, and Open MPI takes but one of the two."""

_TORCH_FILES = "TORCHINDUCTOR_CACHE_DIR"
"""Where torch keeps what it compiles; it makes the folder also where it compiles nothing, as here."""

_SHARED_MEMORY, _MEMORY_FOLDER = Path("/dev/shm"), "OMPI_MCA_btl_sm_backing_directory"
"""Where ranks of one machine share memory, and what tells Open MPI a folder there."""

_SCHEDULERS = {
    "LOADL_HOSTFILE",
    "LSB_JOBID",
    "NB_PARALLEL_JOB_HOSTS",
    "PBS_NODEFILE",
    "PE_HOSTFILE",
    "QSUB_REQID",
    "SLURM_JOBID",
}
"""What Intel's mpirun looks for."""

_UNBOUND = {"I_MPI_PIN": "off"}
"""Intel MPI binds ranks to cores unless it is told: those of two jobs to the same ones."""

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""A rank is one thread: more of them would fight for the cores of the other ranks."""


def find_mpirun() -> str:
    """Path of mpirun, or mpiexec: the one installed beside this Python, else the first on the PATH.

    In a job of Slurm without either it is srun.

    Raises
    ------
    UsageError
        If there is none; the message says how to get it.
    """
    for folder in (str(Path(sys.executable).parent), None):
        for name in ("mpirun", "mpiexec"):
            if (found := shutil.which(name, path=folder)) is not None:
                return found
    if in_job() and (found := shutil.which(SRUN)) is not None:
        return found
    raise UsageError('mpirun must be installed: pip install "fedmpi[mpi]", or load your cluster\'s MPI')


def mpi_of(mpirun: str) -> str:
    """What an mpirun says of the MPI that it belongs to."""
    done = subprocess.run(
        [mpirun, "--version"], capture_output=True, text=True, check=False, timeout=60, env=os.environ | _path()
    )
    return done.stdout


def _path() -> dict[str, str]:
    """The PATH of an environment that is activated: Intel's mpirun is a script, which looks there for the rest."""
    return {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}


def open_mpi_version(mpirun: str) -> int:
    """Major version of Open MPI, 0 for another MPI, whose flags differ."""
    found = re.search(r"Open MPI\D*(\d+)", mpi_of(mpirun))
    return int(found[1]) if found else 0


def mpirun_command(
    ranks: int,
    program: Sequence[str],
    hostfile: Path | None = None,
    *,
    interface: str | None = None,
    tolerate_failures: bool = False,
    places: Sequence[str] = (),
    folder: Path | None = None,
) -> tuple[list[str], list[str]]:
    """The command that starts a program on a number of ranks, and warnings for people.

    Parameters
    ----------
    ranks : int
        At least 1.
    program : sequence of str
        What every rank runs.
    hostfile : Path, optional
        Hosts and their slots (`read_hostfile`). Default: this machine, or those of a scheduler's job.
    interface : str, optional
        The network between the hosts: a name (eth0), or for Open MPI a subnet (10.0.0.0/16).
    tolerate_failures : bool
        Let the job outlive ranks that die, where this MPI can: Open MPI 5 and newer.
    places : sequence of str
        The host of each rank, in place of the hostfile's order.
    folder : Path, optional
        The job's, for the hosts in the form that this mpirun reads; needed with a hostfile.

    Returns
    -------
    command, warnings : list of str
    """
    if ranks < 1:
        raise UsageError(f"-n must be at least 1, got {ranks}")
    hosts = read_hostfile(hostfile) if hostfile is not None else []
    if hosts:
        require_slots(hosts, ranks)
    mpirun = find_mpirun()
    by_srun = Path(mpirun).name == SRUN
    version = 0 if by_srun else open_mpi_version(mpirun)
    warnings = list[str]()
    if tolerate_failures and version < FAULT_TOLERANT_OPEN_MPI:
        warnings.append(
            f"a rank that dies ends the job: only the mpirun of Open MPI {FAULT_TOLERANT_OPEN_MPI} and newer goes on"
        )
    if not hosts and ranks > (os.cpu_count() or 1):
        warnings.append(f"{ranks} ranks share {os.cpu_count()} cores: times are not those of {ranks} machines")
    if by_srun:
        each = places or (assign(ranks, hosts, {}) if hosts else [])
        return [mpirun, *srun_options(ranks, each, folder, interface), *program], warnings
    command = [mpirun if version else _behind_script(mpirun), "-n", str(ranks)]
    written = _write_hosts(folder, [Host(name) for name in places] or hosts, hydra=not version) if hosts else []
    if version:
        command += _open_mpi_options(version, bool(hosts), interface, tolerate_failures)
        if os.geteuid() == 0:
            warnings.append("running as root: an ordinary user is safer")
        command += [*(["--hostfile"] if written else []), *written, *(["--map-by", "seq"] if places else [])]
    else:
        if interface is not None and "/" in interface:
            raise UsageError(f"--interface must be a name such as eth0: only Open MPI knows networks, got {interface}")
        command += ["-iface", interface, "-genv", "FI_TCP_IFACE", interface] if interface else []
        command += [*(["-machinefile"] if written else []), *written]  # Intel heeds counts and order in no other form
    return [*command, *program], warnings


def _behind_script(mpirun: str) -> str:
    """Hydra itself: Intel's mpirun is a script, without which its job runs on, and which heeds no signal.

    It tells Hydra what schedulers say and where the rest of Intel's is, so it stays where it has something to say.
    """
    hydra = Path(mpirun).with_name("mpiexec.hydra")
    found = "I_MPI_ROOT" in os.environ or not (hydra.parents[1] / "env" / "vars.sh").exists()
    return str(hydra) if hydra.exists() and found and not _SCHEDULERS & os.environ.keys() else mpirun


def _write_hosts(folder: Path | None, hosts: Sequence[Host], *, hydra: bool) -> list[str]:
    """The file of the job's hosts, written for this mpirun."""
    if folder is None:
        raise ValueError("hosts are written to the job's folder, got none")
    path = folder / "hosts"
    path.write_text(hostfile_text(hosts, mpich=hydra))
    return [str(path)]


def _open_mpi_options(version: int, hosts: bool, interface: str | None, tolerate_failures: bool) -> list[str]:
    # Never bound: Open MPI counts cores, Python and the vendors of clouds count hardware threads.
    options = [*(["--allow-run-as-root"] if os.geteuid() == 0 else []), "--bind-to", "none"]
    if not hosts:
        options.append("--oversubscribe")
    if interface is not None:
        daemons = ["--prtemca", "prte_if_include"] if version >= 5 else ["--mca", "oob_tcp_if_include"]
        options += ["--mca", "btl_tcp_if_include", interface, *daemons, interface]
    options += ["--mca", "mpi_yield_when_idle", "1"]
    if tolerate_failures and version >= FAULT_TOLERANT_OPEN_MPI:
        options += ["--with-ft", "ulfm"]
    for name in [*ONE_THREAD, TERMINAL_VARIABLE, START_ALARM, PLACES, job_folder.VARIABLE]:
        options += ["-x", name]
    return options


@contextlib.contextmanager
def environment(*, alone: bool = True) -> Iterator[dict[str, str]]:
    """The environment in which the ranks of one job start, with the job's folder, which goes at its end.

    mpirun's own files are there too, unless the user has named a place. Open MPI calls them by the process number of
    mpirun, and starts no rank where a killed one has left some of the same number. If all ranks run on this machine
    (`alone`), the memory that they share has a folder that goes as well: a killed rank leaves its own behind.
    """
    terminal = "1" if sys.stdout.isatty() else "0"
    with tempfile.TemporaryDirectory(prefix="fedmpi-", ignore_cleanup_errors=True) as folder:
        named = [name for name in os.environ if name.endswith("tmpdir_base")]
        wanted = [("PRTE_MCA_", _SESSION_FOLDERS), *([("OMPI_MCA_orte_", _ALONE)] if alone else [])]
        session = {name: folder for begin, name in wanted if not any(other.startswith(begin) for other in named)}
        with shared_memory(alone) as memory:
            yield {
                **_UNBOUND,
                **os.environ,
                **_path(),
                **ONE_THREAD,
                **session,
                _TORCH_FILES: os.environ.get(_TORCH_FILES, folder),
                **memory,
                TERMINAL_VARIABLE: terminal,
                START_ALARM: "0",
                PLACES: "",
                job_folder.VARIABLE: folder,
            }


def folders_of(variables: Mapping[str, str]) -> list[Path]:
    """The folders that `environment` has made: the job's, and that of shared memory, if there is one."""
    memory = {_MEMORY_FOLDER} & variables.keys() - os.environ.keys()
    return [Path(variables[name]) for name in (job_folder.VARIABLE, *memory)]


@contextlib.contextmanager
def shared_memory(wanted: bool) -> Iterator[dict[str, str]]:
    """A folder for the memory that Open MPI's ranks share, where there is room for one and the user names none."""
    if not wanted or _MEMORY_FOLDER in os.environ or not os.access(_SHARED_MEMORY, os.W_OK):
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="fedmpi-", dir=_SHARED_MEMORY, ignore_cleanup_errors=True) as folder:
        yield {_MEMORY_FOLDER: folder}


def run_ranks(
    ranks: int,
    program: Sequence[str],
    hostfile: Path | None = None,
    *,
    interface: str | None = None,
    tolerate_failures: bool = False,
    places: Mapping[int, str] | None = None,
    start_timeout: float = START_SECONDS,
) -> int:
    """Print the command and run it in the foreground.

    SIGTERM, SIGUSR1, SIGHUP, SIGQUIT and Ctrl-C go to rank 0, which ends the job when it has saved its work; given once
    more, or before rank 0 is there, to mpirun.

    Parameters
    ----------
    places : mapping, optional
        Rank → host of the hostfile that it must run on.
    start_timeout : float
        Seconds until all ranks must have come up.

    Returns
    -------
    int
        The exit code of the job: rank 0's, unless it has died.

    Raises
    ------
    UsageError
    """
    if not 0 < start_timeout < math.inf:
        raise UsageError(f"--start-timeout must be a positive number of seconds, got {start_timeout:g}")
    with leaving_in_order(), environment(alone=hostfile is None and on_this_machine()) as variables:
        folder = Path(variables[job_folder.VARIABLE])
        order = _order(ranks, hostfile, places) if places else []
        command, warnings = mpirun_command(
            ranks,
            program,
            hostfile,
            interface=interface,
            tolerate_failures=tolerate_failures,
            places=order,
            folder=folder,
        )
        for warning in warnings:
            print(f"fedmpi: warning: {printable(warning)}", file=sys.stderr)
        print(f"$ {shlex.join(command)}", file=sys.stderr, flush=True)
        job = Job(
            folder,
            ranks,
            start_timeout=start_timeout,
            blame=functools.partial(blame, hostfile) if hostfile else None,
            folders=folders_of(variables)[1:],
        )
        alarm = {START_ALARM: str(math.ceil(start_timeout) + _ALARM_SECONDS)}
        return job.run(command, variables | alarm | {PLACES: named_places(places or {})})


def blame(hostfile: Path) -> str | None:
    """What is wrong with a host that ssh can't log in to, if there is one."""
    found = unreachable_host(hostfile)
    return f"every host of {hostfile} must be reached by ssh, got {found}" if found else None


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


def _order(ranks: int, hostfile: Path | None, places: Mapping[int, str]) -> list[str]:
    """The host of every rank."""
    if hostfile is None:
        raise UsageError("--place must be used with --hostfile, got none")
    return assign(ranks, read_hostfile(hostfile), places)
