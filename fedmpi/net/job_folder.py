"""What a launcher and the ranks of its machine tell one another, in a folder of the job.

Ranks leave there who they are when they begin, that all have come up, and rank 0 the job's exit code; the launcher why
it sends a signal. Other machines have the folder where they share files; elsewhere nothing is told.
"""

import contextlib
import math
import os
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "FEDMPI_JOB_FOLDER"
"""Names the folder, also on machines that do not have it."""

FROZEN = ("T", "t")
"""States of a process that is stopped, or traced."""

RESUME = "--resume DIR goes on from the run's last checkpoint, where there is one"
"""What people are told where rank 0 can say no more: it alone knows the folder of the run."""

NAME_BYTES = 192
"""Of what `who` gives."""

_BEGUN, _UP, _LEADER, _EXIT_CODE, _REASON, _WORD = "begun-", "up", "rank-0", "exit-code", "reason", "word"
_PATIENCE = "patience"

RANKS = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID")
"""Where launchers tell a rank which one it is."""


@dataclass(frozen=True)
class Process:
    """A process of some machine: its number alone says nothing elsewhere, nor when another process has it."""

    machine: str
    number: int
    started: str
    """By the machine's own clock; empty where there is no /proc."""

    @classmethod
    def read(cls, text: str) -> "Process | None":
        """What it said of itself; None if that is nothing."""
        try:
            number, started, machine = text.strip().split(" ", 2)
            return cls(machine, int(number), started.strip("-"))
        except ValueError:
            return None

    @property
    def is_here(self) -> bool:
        """Whether it is, or was, of this machine."""
        return self.machine == _machine()

    @property
    def state(self) -> str:
        """Of a process of this machine: "R", "S", …, "T" where it is stopped; empty where it has ended."""
        state, started = _look(self.number)
        return state if self.is_here and started == self.started and state not in "ZX" else ""

    def signal(self, number: int) -> bool:
        """Send it a signal, if it runs on this machine; whether it does."""
        if not self.state:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.number, number)
            return True
        return False


def write_begun() -> None:
    """Every rank, before it starts MPI: who it is."""
    for name in RANKS:
        if (rank := os.environ.get(name, "")).isdecimal():
            return _write(f"{_BEGUN}{rank}", _this_process())
    return None


def write_up() -> None:
    """Every rank, when it has met all the others."""
    _write(_UP, "")


def write_leader() -> None:
    """Rank 0, when it heeds signals."""
    _write(_LEADER, _this_process())


def write_patience(seconds: float) -> None:
    """Rank 0, when it knows: how long the others wait for a rank that says nothing."""
    _write(_PATIENCE, str(seconds))


def who() -> bytes:
    """What this process is, in so many bytes as every other says it in."""
    return _this_process().encode()[:NAME_BYTES].ljust(NAME_BYTES, b"\0")


def write_exit_code(code: int) -> None:
    """Rank 0, at its end: where ranks died or hang, mpirun's own exit code is a guess."""
    _write(_EXIT_CODE, str(code))


def read_begun(folder: Path) -> dict[int, Process]:
    """Rank → process, of those that have begun."""
    found = {}
    for path in folder.glob(f"{_BEGUN}*"):
        if (process := _read_process(path)) is not None:
            found[int(path.name.removeprefix(_BEGUN))] = process
    return found


def is_up(folder: Path) -> bool:
    """Whether the ranks have met."""
    return (folder / _UP).exists()


def read_leader(folder: Path) -> Process | None:
    """Rank 0, once it heeds signals."""
    return _read_process(folder / _LEADER)


def read_exit_code(folder: Path) -> int | None:
    """What rank 0 has ended the job with, if it has."""
    try:
        return int((folder / _EXIT_CODE).read_text())
    except (OSError, ValueError):
        return None


def read_patience(folder: Path) -> float:
    """How long ranks wait for one that says nothing; infinite until rank 0 has said so."""
    try:
        return float((folder / _PATIENCE).read_text())
    except (OSError, ValueError):
        return math.inf


def write_reason(folder: Path, reason: str) -> None:
    """The launcher, before it sends a signal to rank 0: what a person did."""
    (folder / _REASON).write_text(reason)


def read_reason() -> str | None:
    """Rank 0: why it was sent a signal, if the launcher has said so."""
    folder = told()
    path = folder / _REASON if folder else None
    return path.read_text() if path is not None and path.exists() else None


def take_word(folder: Path | None = None) -> bool:
    """Rank 0 or the launcher, of a job that a signal stops: whether it is the one to say so, the first that asks.

    Once a launcher ends mpirun, nobody may read what rank 0 prints.
    """
    if (folder := folder or told()) is not None:
        try:
            (folder / _WORD).touch(exist_ok=False)
        except FileExistsError:
            return False
        except OSError:  # the launcher has ended, and taken the folder with it
            return True
    return True


def told() -> Path | None:
    """The job's folder, where there is one on this machine."""
    folder = os.environ.get(VARIABLE)
    return Path(folder) if folder and Path(folder).is_dir() else None


def _write(name: str, text: str) -> None:
    if (folder := told()) is not None:
        hidden = folder / f".{name}.{os.getpid()}"
        with contextlib.suppress(FileNotFoundError):  # the launcher has ended, and taken the folder with it
            hidden.write_text(text)
            hidden.rename(folder / name)


def _this_process() -> str:
    return f"{os.getpid()} {_look(os.getpid())[1] or '-'} {_machine()}"


def _read_process(path: Path) -> Process | None:
    try:
        return Process.read(path.read_text())
    except (OSError, ValueError):
        return None


def _machine() -> str:
    """Machines may bear one name, and containers of one machine are told apart by theirs."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    with contextlib.suppress(OSError):
        return f"{os.uname().nodename} {boot.read_text().strip()}"
    return os.uname().nodename


def state_of(number: int) -> str:
    """State of a process of this machine, of whatever start; empty where it has ended."""
    return _look(number)[0]


def _look(number: int) -> tuple[str, str]:
    """State and start time of a process of this machine; the state is empty where it has ended."""
    try:
        fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
        return fields[0], fields[19]
    except (FileNotFoundError, ProcessLookupError):  # it had ended before, or has since the file was opened
        pass
    if Path("/proc/self").exists():
        return "", ""
    try:  # no /proc: macOS
        os.kill(number, 0)
    except ProcessLookupError:
        return "", ""
    return "R", ""
