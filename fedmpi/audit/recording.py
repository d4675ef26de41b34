"""A run that was made with --record-views: its options, and what each of its ranks received."""

import dataclasses
import zipfile
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedmpi.errors import UsageError
from fedmpi.runs.options import RunOptions
from fedmpi.runs.reading import Run, read_runs

P = TypeVar("P")


@dataclass(frozen=True, eq=False)
class Seen:
    """One message, as its receiver got it."""

    source: int
    kind: str
    """Name of the message's class."""
    fields: dict[str, NDArray[Any]]

    def __getitem__(self, name: str) -> NDArray[Any]:
        """A field: an array, of shape () where it was a number or text."""
        return self.fields[name]


@dataclass(frozen=True, eq=False)
class Recorded(Run):
    """A finished run, and its views."""

    @classmethod
    def read(cls, folder: Path) -> "Recorded":
        """Open a run folder.

        Raises
        ------
        UsageError
            If it is none, or was made without --record-views.
        """
        (run,) = read_runs([folder])
        for key, kind in (("system", str), ("method", str), ("ranks", int), ("seed", int)):
            if not isinstance(value := run.result.get(key), kind):
                raise UsageError(f"RUN must be the folder of a finished run, got {folder} with {key} {value!r}")
        missing = [rank for rank in range(run.result["ranks"]) if not _path(folder, rank).is_file()]
        if missing:
            raise UsageError(
                f"RUN must be made with --record-views, got {folder} without the view of rank {missing[0]}"
            )
        if ":" in (model := str(run.config.get("model", ""))):
            raise UsageError(f"RUN must be of a model by its name: nobody's code is run, got {folder} of {model}")
        if "schema" in run.config:
            raise UsageError(f"RUN must be of rows that one rank can read, to compare with, got {folder} of --own-rows")
        return cls(**vars(run))

    @property
    def system(self) -> str:
        """Name of the system."""
        return str(self.result["system"])

    @property
    def method(self) -> str:
        """Of the system."""
        return str(self.result["method"])

    @property
    def ranks(self) -> range:
        """All of them."""
        return range(self.result["ranks"])

    @property
    def seed(self) -> int:
        """Of public randomness."""
        return int(self.result["seed"])

    @cached_property
    def options(self) -> RunOptions:
        """What every system has."""
        return self.parameters(RunOptions)

    def parameters(self, cls: type[P]) -> P:
        """The run's parameters, as the dataclass of its system."""
        names = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        values = {key: tuple(v) if isinstance(v, list) else v for key, v in self.config.items() if key in names}
        return cls(**values)

    def view(self, rank: int, *kinds: str) -> list[Seen]:
        """All messages (of some kinds) that a rank received, in order."""
        return read_view(_path(self.path, rank), *kinds)


def read_view(path: Path, *kinds: str) -> list[Seen]:
    """What `Channel.save_views` wrote: all messages (of some kinds), in order.

    Raises
    ------
    UsageError
        If the file is damaged.
    """
    found: dict[str, Seen] = {}
    try:
        with np.load(path, allow_pickle=False) as file:
            for key in file.files:
                number, source, kind, name = key.split("-", 3)
                if not kinds or kind in kinds:
                    found.setdefault(number, Seen(int(source), kind, {})).fields[name] = file[key]
    except (OSError, ValueError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise UsageError(f"a view must be a whole file, got {path}: {error}") from None
    return [found[number] for number in sorted(found)]


def _path(folder: Path, rank: int) -> Path:
    return folder / "views" / f"rank-{rank}.npz"
