"""When checkpoints are written and read; what is in one is the matter of a system."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Generic, TypeVar

from numpy.typing import NDArray

from fedmpi.errors import Interrupted, ProtocolError, TooFewWorkers
from fedmpi.net import Channel
from fedmpi.runs.checkpoint import check_same, digest_of, read_checkpoint, write_checkpoint
from fedmpi.runs.folder import RunFolder

S = TypeVar("S")

Arrays = Mapping[str, NDArray[Any]]


class Keeper(ABC, Generic[S]):
    """Writes checkpoints of one run, and reads them. Never a mask, a share, a seed or a key is in one.

    Parameters
    ----------
    ch : Channel
    folder : RunFolder
    configuration : mapping
        What must stay the same, as JSON values; see `configuration`.
    every : int
        Steps between two checkpoints; 0: only when the run is stopped.
    """

    step: ClassVar[str] = "round"
    """What a run is counted in: an attribute of its states, and a word for people."""

    def __init__(self, ch: Channel, folder: RunFolder, configuration: Mapping[str, Any], every: int):
        self._ch, self._folder, self._every = ch, folder, every
        self._configuration = configuration
        self._state: S | None = None
        self._saved: S | None = None

    @abstractmethod
    def pack(self, state: S) -> tuple[Arrays, dict[str, Any]]:
        """Arrays, and JSON values beside the number of the step."""

    @abstractmethod
    def unpack(self, arrays: Arrays, values: Mapping[str, Any]) -> S:
        """What was packed."""

    def load(self) -> tuple[S, list[str]]:
        """The state to go on from, and why newer checkpoints were passed over.

        Raises
        ------
        UsageError
            If there is no whole checkpoint, or the run was begun with another configuration or data set.
        """
        arrays, values, refused = read_checkpoint(self._folder.path)
        check_same(values["configuration"], self._configuration)
        state = self._state = self._saved = self.unpack(arrays, values)
        self._folder.forget_metrics(self._number(state))
        return state, refused

    def advance(self, state: S) -> None:
        """After a step: remember its state, write it if it is time, and stop if a signal asks for that."""
        self._state = state
        if self._every and self._number(state) % self._every == 0:
            self._save(state)
        self._ch.on_pause()

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Write a checkpoint if the block is stopped by a signal, or by what others do; the error then names it."""
        try:
            yield
        except (Interrupted, TooFewWorkers, ProtocolError) as error:
            if self._state is None:
                error.args = (f"{error}; no {self.step} was done",)
            else:
                self._save(self._state)
                where = f"{self.step} {self._number(self._state)} with --resume {self._folder.path}"
                error.args = (f"{error}; go on after {where}",)
            raise

    def _save(self, state: S) -> None:
        if self._saved is not state:
            arrays, values = self.pack(state)
            values |= {self.step: self._number(state), "configuration": self._configuration}
            write_checkpoint(self._folder.begin(), self._number(state), arrays, values)
            self._saved = state

    def _number(self, state: S) -> int:
        return int(getattr(state, self.step))


def configuration(values: Mapping[str, Any], *data: NDArray[Any]) -> dict[str, Any]:
    """What must stay the same, as JSON values, with a digest of the data set's arrays."""
    same: dict[str, Any] = json.loads(json.dumps({**values, "data": digest_of(*data)}))
    return same
