"""Checkpoints: what a run goes on from after it was stopped.

One checkpoint is an .npz of arrays with a JSON member "state" (scalars, and the configuration), and beside it a file
with its SHA-256. Both appear whole, the digest last: a checkpoint without its digest was never finished. No mask
and no key is ever in one.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmpi.errors import FilesError, UsageError
from fedmpi.files import PRIVATE, PRIVATE_FOLDER, own_folder, read_file, sweep
from fedmpi.runs.folder import write_atomically, writing

FOLDER = "checkpoints"

_ROWS = 1024
"""Rows of which a digest is taken at a time: not all of them need be in memory."""

_KEPT = 3
"""Checkpoints that are kept: those before are there for when the last one can't be read."""


def write_checkpoint(run: Path, iteration: int, arrays: Mapping[str, NDArray[Any]], state: Mapping[str, Any]) -> Path:
    """Write checkpoints/<iteration>.npz in a run's folder, and remove those before the last.

    Parameters
    ----------
    run : Path
        The run's folder; it exists.
    arrays : mapping
        Name → array; "state" is taken.
    state : mapping
        JSON values: scalars, and the configuration that `check_same` compares.
    """
    folder = run / FOLDER
    with writing(folder):
        own_folder(folder, PRIVATE_FOLDER)
    sweep(folder)
    buffer = io.BytesIO()
    text = np.frombuffer(json.dumps(state).encode(), np.uint8)
    np.savez(buffer, state=text, **arrays)  # type: ignore[arg-type]
    path = folder / f"{iteration:06d}.npz"
    with writing(_digest_path(path)):
        _digest_path(path).unlink(missing_ok=True)
    write_atomically(path, buffer.getvalue(), PRIVATE)
    try:
        write_atomically(_digest_path(path), f"{hashlib.sha256(buffer.getvalue()).hexdigest()}  {path.name}\n".encode())
    except FilesError:
        path.unlink(missing_ok=True)
        raise
    there = sorted(folder.glob("*.npz"), key=_step)
    unfinished = [one for one in there if not _digest_path(one).exists()]
    with writing(folder):
        for old in [*there[:-_KEPT], *unfinished]:
            _digest_path(old).unlink(missing_ok=True)
            old.unlink(missing_ok=True)
    return path


def read_checkpoint(
    run: Path,
    up_to: int | None = None,
    check: Callable[[Mapping[str, NDArray[Any]], Mapping[str, Any]], None] = lambda arrays, state: None,
) -> tuple[dict[str, NDArray[Any]], dict[str, Any], list[str]]:
    """The newest checkpoint of a run that is whole, and that holds what one of it can hold.

    Parameters
    ----------
    run : Path
    up_to : int, optional
        The last iteration that will do.
    check : callable, optional
        (arrays, state) → None: raises ValueError where a run can't go on from these.

    Returns
    -------
    arrays, state
        As they were written.
    refused : list of str
        Why newer ones were passed over, for people.

    Raises
    ------
    UsageError
        If there is none.
    """
    refused: list[str] = []
    for path in sorted((run / FOLDER).glob("*.npz"), key=_step, reverse=True):
        if up_to is not None and _step(path) > up_to:
            continue
        try:
            arrays, state = _read(path)
            check(arrays, state)
            return arrays, state, refused
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, RecursionError) as error:
            refused.append(f"{path} is refused: {error}")
    reason = "; ".join(refused) or "none"
    raise UsageError(f"--resume must name the folder of a run that holds a whole checkpoint, got {run}: {reason}")


def holds_checkpoint(run: Path) -> bool:
    """Whether there is a whole checkpoint to go on from."""
    try:
        read_checkpoint(run)
    except UsageError:
        return False
    return True


def digest_of(*arrays: Any) -> str:
    """SHA-256 of arrays, or of what gives their rows, of their types and shapes, in hexadecimal."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(str((array.dtype, array.shape)).encode())
        for start in range(0, len(array), _ROWS):
            digest.update(np.ascontiguousarray(array[start : start + _ROWS]).data)
    return digest.hexdigest()


def check_same(saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on with another configuration or data set.

    Raises
    ------
    UsageError
        Naming the first key that differs.
    """
    for key in sorted(saved.keys() | now.keys(), key=lambda key: (key == "data", key)):  # an option says more
        before, after = saved.get(key), now.get(key)
        if before != after:
            if key == "seed" and any(value for name, value in saved.items() if name.startswith("insecure")):
                raise UsageError("--resume must keep seed as the run began, whose masks are made from it, got another")
            raise UsageError(f"--resume must keep {key} as the run began, {before!r}, got {after!r}")


def _read(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    data = read_file(path, path.stat().st_size)
    if not _digest_path(path).exists():
        raise ValueError("it has no digest, so its writing was cut short")
    if hashlib.sha256(data).hexdigest() != (read_file(_digest_path(path), 200).decode().split(maxsplit=1) or [""])[0]:
        raise ValueError("its SHA-256 is not the one beside it")
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    if "state" not in arrays:
        raise ValueError("it has no state")
    state = json.loads(arrays.pop("state").tobytes())
    if not isinstance(state, dict):
        raise ValueError("its state is not an object")
    if wrong := [name for name, array in arrays.items() if array.dtype.kind not in "biuf" or np.isnan(array).any()]:
        raise ValueError(f"{wrong[0]} holds what is not a number")
    return arrays, state


def _digest_path(path: Path) -> Path:
    return path.with_suffix(".npz.sha256")


def _step(path: Path) -> int:
    return int(path.stem) if path.stem.isdecimal() else -1
