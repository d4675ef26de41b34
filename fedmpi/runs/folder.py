"""The folder of one run: config.toml, metrics.jsonl, log.txt, and at its end the model and result.json."""

import contextlib
import fcntl
import io
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmpi.errors import FilesError, UsageError
from fedmpi.files import PRIVATE, PRIVATE_FOLDER, PUBLIC, append_line, read_file, replace_file, sweep
from fedmpi.rules import printable


class RunFolder:
    """Makes the folder with the first thing written into it: a run that is refused leaves nothing.

    A folder that it makes is its owner's alone (0700), and so are arrays in it (0600): weights tell of the rows.

    Files appear whole or not at all, but for the lines of metrics.jsonl and log.txt.

    Parameters
    ----------
    path : Path or None
        None makes ``runs/<name>-<time>``.
    name : str
        <system>-<method>.
    config : str
        Contents of config.toml.
    resumed : bool
        Go on in the folder of a run that was stopped.

    Raises
    ------
    UsageError
        If the folder holds another run already, or is none.
    FilesError
        If it can't be written to.
    """

    def __init__(self, path: Path | None, name: str, config: str, *, resumed: bool = False):
        self._lock: io.BufferedReader | None = None
        """Held for as long as this process is at work here."""
        base = path or Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
        self.path, self._config, self._begun, self._given = base, config, False, path is not None
        self.start: Callable[[], dict[str, Any]] | None = None  # a run that is refused leaves nothing
        for number in range(2, 1000):
            if path is not None or not self.path.exists():
                break
            self.path = base.with_name(f"{base.name}-{number}")
        self._resumed = resumed
        if not resumed and (self.path / "config.toml").exists():
            raise UsageError(f"--out must be a new folder, got {self.path}, which holds a run")
        if resumed and at_work(self.path):
            raise UsageError(f"--resume must name a run that has stopped, got {self.path}, where one is at work")
        there = next(folder for folder in [self.path, *self.path.absolute().parents] if folder.exists())
        if not there.is_dir():
            raise UsageError(f"--out must be a folder that can be made, got {self.path}: {there} is a file")
        if not os.access(there, os.W_OK | os.X_OK):
            raise FilesError(f"--out must be a folder that can be made, got {self.path}: {there} is not writable")

    @property
    def result(self) -> dict[str, Any] | None:
        """What the run has ended with, if it has; {} where that can't be read."""
        path = self.path / "result.json"
        if not path.exists():
            return None
        try:
            value = json.loads(read_file(path, path.stat().st_size))
        except (OSError, ValueError, RecursionError):
            value = None
        return value if isinstance(value, dict) else {}

    def go_on(self, step: int) -> None:
        """Make room for what a run that goes on after a step will write: its result will be another."""
        self.forget_metrics(step)
        if (self.path / "result.json").exists():
            (self.path / "result.json").rename(self.path / f"result-{step}.json")

    def write_json(self, name: str, value: Any) -> None:
        """Write JSON, whole or not at all."""
        self._write(name, (json.dumps(finite(value), indent=1) + "\n").encode())

    def write_lines(self, name: str, values: Iterable[Any]) -> None:
        """Write JSON, one value a line, whole or not at all."""
        self._write(name, "".join(json.dumps(value) + "\n" for value in values).encode())

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write a file that is its owner's alone, whole or not at all."""
        self._write(name, data, PRIVATE)

    def write_arrays(self, name: str, **arrays: NDArray[Any]) -> None:
        """Write an .npz that is its owner's alone, whole or not at all."""
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        self._write(name, buffer.getvalue(), PRIVATE)

    def append_metrics(self, values: dict[str, Any]) -> None:
        """Add one line to metrics.jsonl; before the first, write what is known of the run by then."""
        if self.start is not None:
            known, self.start = self.start(), None
            self.write_json("start.json", known)
        self._append("metrics.jsonl", json.dumps(finite(values)))

    def forget_metrics(self, iteration: int) -> None:
        """Drop what metrics.jsonl says of an iteration and those after it: they will be done again."""
        path = self.path / "metrics.jsonl"
        if path.exists():
            with writing(path):
                text = read_file(path, path.stat().st_size).decode(errors="replace")
            whole = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
            kept = [line for line in whole if _iteration(line) < iteration]
            write_atomically(path, "".join(kept).encode())

    def log(self, line: str) -> None:
        """Add one line, with the time, to log.txt."""
        self._append("log.txt", f"{time.strftime('%H:%M:%S')} {printable(line, 10_000)}")

    def _append(self, name: str, line: str) -> None:
        self.begin()
        with writing(self.path / name):
            append_line(self.path / name, line)

    def _write(self, name: str, data: bytes, mode: int = PUBLIC) -> None:
        self.begin()
        write_atomically(self.path / name, data, mode)

    def elsewhere(self) -> "Iterator[RunFolder]":
        """New folders for what this one does not take: where the run was started, and where temporary files are."""
        for place in (Path.cwd(), Path(tempfile.gettempdir())):
            with contextlib.suppress(OSError):
                made = Path(tempfile.mkdtemp(prefix=f"{self.path.name}-", dir=place))
                yield RunFolder(made, "", self._config)

    def release(self) -> None:
        """Say that nobody works here any more; the end of the process does that too."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def begin(self) -> Path:
        """Make the folder and its config.toml, if that has not been done."""
        if not self._begun:
            self._begun = True
            with writing(self.path):
                try:
                    self.path.parent.mkdir(parents=True, exist_ok=True)
                    self.path.mkdir(PRIVATE_FOLDER, exist_ok=self._given)
                except FileExistsError:  # of another run that began in the same second
                    self.path = self.path.with_name(f"{self.path.name}-{os.getpid()}")
                    self.path.mkdir(PRIVATE_FOLDER)
            self._claim()
            try:
                write_atomically(self.path / "config.toml", self._config.encode())
            except FilesError:
                if not self._resumed:  # it is empty, and would stand for a run
                    (self.path / "config.toml").unlink(missing_ok=True)
                raise
            with contextlib.suppress(OSError):  # a file system without locks
                self._lock = (self.path / "config.toml").open("rb")
                fcntl.flock(self._lock, fcntl.LOCK_SH)
        return self.path

    def _claim(self) -> None:
        """Of two runs that begin in one folder at once the second is refused; what a killed one left goes."""
        if self._resumed:
            sweep(self.path)
            return
        try:
            with writing(self.path / "config.toml"):
                os.close(os.open(self.path / "config.toml", os.O_CREAT | os.O_EXCL | os.O_WRONLY, PUBLIC))
        except FilesError as error:
            if not isinstance(error.__cause__, FileExistsError):
                raise
            raise UsageError(f"--out must be a new folder, got {self.path}, where another run has just begun") from None


def _iteration(line: str) -> float:
    """Of a line of metrics.jsonl; infinite of one that is none, which nobody will miss."""
    try:
        return float(json.loads(line)["iteration"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return math.inf


def at_work(run: Path) -> bool | None:
    """Whether a process is at work in the folder of a run, on whatever machine; None where that can't be known."""
    if not (run / "config.toml").is_file():
        return None
    try:
        writable = os.access(run / "config.toml", os.W_OK)  # NFS locks nothing else
        with (run / "config.toml").open("r+b" if writable else "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    return False


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the operating system refuses in the block becomes one line with the name of the file.

    Raises
    ------
    FilesError
    """
    try:
        yield
    except OSError as error:
        raise FilesError.of(error, path) from error


def warn_of_files(error: FilesError) -> None:
    """Say that a training goes on although something of it can't be written."""
    print(f"fedmpi: warning: {error}; the training goes on", file=sys.stderr, flush=True)


def write_atomically(path: Path, data: bytes, mode: int = PUBLIC) -> None:
    """Write to a temporary file beside `path`, then rename it; the umask may take from the mode.

    Raises
    ------
    FilesError
        If that can't be done.
    """
    with writing(path):
        replace_file(path, data, mode)


def finite(value: Any) -> Any:
    """The same with null in place of numbers that JSON has not: infinite ones and NaN."""
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
