"""The folder of one run: config.toml, metrics.jsonl, result.json, model.npz, log.txt."""

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmpi.errors import UsageError


class RunFolder:
    """Creates the folder and writes into it; nothing is ever half-written but the lines of running logs.

    Parameters
    ----------
    path : Path or None
        None makes ``runs/<name>-<time>``.
    name : str
        <system>-<method>.

    Raises
    ------
    UsageError
        If the folder holds another run already, or can't be written to.
    """

    def __init__(self, path: Path | None, name: str):
        base = path or Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
        self.path = base
        for number in range(2, 1000):
            if path is not None or not self.path.exists():
                break
            self.path = base.with_name(f"{base.name}-{number}")
        if (self.path / "config.toml").exists():
            raise UsageError(f"--out must be a new folder, got {self.path}, which holds a run")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--out must be a folder that can be made, got {self.path}: {error.strerror}") from None

    def write_text(self, name: str, text: str) -> None:
        """Write a file whole or not at all."""
        write_atomically(self.path / name, text.encode())

    def write_json(self, name: str, value: Any) -> None:
        """Write JSON, whole or not at all."""
        self.write_text(name, json.dumps(value, indent=1) + "\n")

    def append_metrics(self, values: dict[str, Any]) -> None:
        """Add one line to metrics.jsonl."""
        self._append("metrics.jsonl", json.dumps(values))

    def log(self, line: str) -> None:
        """Add one line, with the time, to log.txt."""
        self._append("log.txt", f"{time.strftime('%H:%M:%S')} {line}")

    def _append(self, name: str, line: str) -> None:
        with (self.path / name).open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def write_arrays(self, name: str, **arrays: NDArray[Any]) -> None:
        """Write an .npz, whole or not at all."""
        path = self.path / name
        with tempfile.NamedTemporaryFile(dir=self.path, suffix=".npz", delete=False) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        Path(file.name).replace(path)


def write_atomically(path: Path, data: bytes) -> None:
    """Write to a temporary file beside `path`, then rename it."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)
