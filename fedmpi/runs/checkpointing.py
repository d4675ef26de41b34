"""When checkpoints are written and read; what is in one is the matter of a system."""

import contextlib
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedmpi.errors import FilesError, Interrupted, ProtocolError, TooFewWorkers
from fedmpi.net import Channel
from fedmpi.runs.checkpoint import check_same, digest_of, read_checkpoint, write_checkpoint
from fedmpi.runs.folder import RunFolder, warn_of_files

S = TypeVar("S")

Arrays = Mapping[str, NDArray[Any]]


class Packing(Protocol[S]):
    """What a system says of its checkpoints. Never a mask, a share, a seed or a key is in one."""

    @property
    def step(self) -> str:
        """What a run is counted in: an attribute of its states, and a word for people."""

    @property
    def stopping(self) -> bool:
        """Whether somebody has asked for the training to end with this step."""

    @property
    def layouts(self) -> list[dict[str, int]]:
        """How the ranks are used; a checkpoint gives back what held before."""

    def unchanged(self) -> dict[str, Any]:
        """Options that must stay the same, as JSON values."""

    def digested(self) -> Sequence[Any]:
        """Data that must stay the same."""

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Of arrays that every state has, as far as they are known."""

    def pack(self, state: S) -> tuple[Arrays, dict[str, Any]]:
        """Arrays, and JSON values beside the number of the step."""

    def unpack(self, arrays: Arrays, values: Mapping[str, Any]) -> S:
        """What was packed."""


ENDED = "ended: "
"""So begins the last line of log.txt, where a run was stopped."""


class Keeper(Generic[S]):
    """Writes checkpoints of one run, and reads them.

    Parameters
    ----------
    ch : Channel
    folder : RunFolder
    packing : Packing
        What is in a checkpoint, and what must stay the same.
    every : int
        Steps between two checkpoints; 0: only when the run is stopped.
    """

    def __init__(self, ch: Channel, folder: RunFolder, packing: Packing[S], every: int):
        self._ch, self._folder, self._packing, self._every = ch, folder, packing, every
        same = {**packing.unchanged(), "data": digest_of(*packing.digested())}
        self._configuration: dict[str, Any] = json.loads(json.dumps(same))  # as a checkpoint gives it back
        self._state: S | None = None
        self._saved: S | None = None

    def load(self) -> tuple[S, list[str]]:
        """The state to go on from, and why newer checkpoints were passed over.

        Raises
        ------
        UsageError
            If there is no whole checkpoint, or the run was begun with another configuration or data set.
        """
        arrays, values, refused = read_checkpoint(self._folder.path, check=self._check)
        check_same(values["configuration"], self._configuration)
        self._packing.layouts[:] = values.get("layouts", self._packing.layouts)
        state = self._state = self._saved = self._packing.unpack(arrays, values)
        return state, refused

    def _check(self, arrays: Arrays, values: Mapping[str, Any]) -> None:
        """Refuse what no run of this kind has written.

        Raises
        ------
        ValueError
        """
        if not isinstance(values.get("configuration"), dict):
            raise ValueError("it has no configuration")
        number = values.get(self._packing.step)
        if not isinstance(number, int) or number < 0:
            raise ValueError(f"its {self._packing.step} is not a number")
        if values["configuration"] != self._configuration:
            return  # `check_same` says how it differs
        for name, shape in self._packing.shapes().items():
            if name not in arrays or arrays[name].shape != shape:
                got = f"shape {arrays[name].shape}" if name in arrays else "none"
                raise ValueError(f"{name} must be of shape {shape}, got {got}")
            if not np.isfinite(arrays[name]).all():
                raise ValueError(f"{name} is not finite")
        try:
            self._packing.unpack(arrays, values)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"it lacks a part of a state: {error!r}") from None

    def advance(self, state: S) -> bool:
        """After a step: remember its state, write it if it is time, and stop if a signal asks for that.

        Returns
        -------
        bool
            Whether this step is to be the last, since a callback has asked for that.
        """
        self._state = state
        if self._every and self._number(state) % self._every == 0:
            self._try(state)
        self._ch.on_pause()
        return self._packing.stopping

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Write a checkpoint if the block is stopped by a signal, or by what others do; the error then names it.

        Raises
        ------
        FilesError
            If it can't be written, with what has stopped the block.
        """
        try:
            yield
        except (Interrupted, TooFewWorkers, ProtocolError) as error:
            try:
                self.save_last()
            except FilesError as refused:
                raise FilesError(f"{refused}; no checkpoint was written when the run ended: {error}") from error
            if self._saved is None:
                error.args = (f"{error}; {self.nothing_saved}",)
            else:
                folder = shlex.quote(str(self._folder.path))
                where = f"{self._packing.step} {self._number(self._saved)} with --resume {folder}"
                error.args = (f"{error}; go on after {where}",)
            with contextlib.suppress(FilesError):
                self._folder.log(f"{ENDED}{error}")
            raise

    def save_last(self) -> None:
        """Write the last state, if there is one that was not written yet."""
        if self._state is not None:
            self._save(self._state)

    def save_at_the_end(self) -> None:
        """The same after the last step; a run that has ended can do without."""
        try:
            self.save_last()
        except FilesError as error:
            warn_of_files(error)

    @property
    def nothing_saved(self) -> str:
        """Why there is nothing to go on from, for people."""
        return f"no {self._packing.step} was done"

    def _try(self, state: S) -> None:
        """Write a state; where that can't be done the training goes on, and what was written before stays."""
        try:
            self._save(state)
        except FilesError as error:
            warn_of_files(error)

    def _save(self, state: S) -> None:
        if self._saved is not state:
            arrays, values = self._packing.pack(state)
            values |= {self._packing.step: self._number(state), "configuration": self._configuration}
            values["layouts"] = self._packing.layouts
            write_checkpoint(self._folder.begin(), self._number(state), arrays, values)
            self._saved = state

    def _number(self, state: S) -> int:
        return int(getattr(state, self._packing.step))
