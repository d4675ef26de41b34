"""Where rank 0 leaves its process number and the job's exit code, if a launcher on its machine wants to know them."""

import os
from pathlib import Path

VARIABLE = "FEDMPI_JOB_FOLDER"
"""Names the folder; Open MPI gives it to the ranks of the launcher's own machine only."""

_PID, _EXIT_CODE = "pid", "exit-code"


def write_pid() -> None:
    """Rank 0, at its start."""
    _write(_PID, os.getpid())


def write_exit_code(code: int) -> None:
    """Rank 0, at its end: where ranks died or hang, mpirun's own exit code is a guess."""
    _write(_EXIT_CODE, code)


def read_pid(folder: Path) -> int | None:
    """Process number of rank 0, if it is known."""
    return _read(folder / _PID)


def read_exit_code(folder: Path) -> int | None:
    """What rank 0 has ended the job with, if it has."""
    return _read(folder / _EXIT_CODE)


def _write(name: str, value: int) -> None:
    if (folder := os.environ.get(VARIABLE)) is not None:
        Path(folder, f".{name}").write_text(str(value))
        Path(folder, f".{name}").rename(Path(folder, name))


def _read(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
