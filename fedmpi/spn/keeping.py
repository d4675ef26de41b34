"""Keeps the public model of a run in checkpoints. No secret is in one: clients then draw new ones."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fedmpi.data import Dataset
from fedmpi.errors import Interrupted, ProtocolError, TooFewWorkers
from fedmpi.net import Channel
from fedmpi.runs import RunFolder
from fedmpi.runs.checkpoint import check_same, read_checkpoint, write_checkpoint
from fedmpi.spn.job import Job
from fedmpi.spn.protocol import State


class Keeper:
    """Writes checkpoints of one run, and reads them.

    Parameters
    ----------
    ch : Channel
    folder : RunFolder
    job : Job
    clients : int
        K.
    data : Dataset
    every : int
        Rounds between two checkpoints; 0: only when the run is stopped.
    """

    def __init__(self, ch: Channel, folder: RunFolder, job: Job, clients: int, data: Dataset, every: int):
        self._ch, self._folder, self._every = ch, folder, every
        self._configuration = configuration(job, clients, data)
        self._state: State | None = None
        self._saved: State | None = None

    def load(self) -> tuple[State, list[str]]:
        """The state to go on from, and why newer checkpoints were passed over.

        Raises
        ------
        UsageError
            If there is no whole checkpoint, or the run was begun with another configuration or data set.
        """
        arrays, state, refused = read_checkpoint(self._folder.path)
        check_same(state["configuration"], self._configuration)
        self._state = self._saved = State(state["round"], arrays["G"])
        self._folder.forget_metrics(self._state.round)
        return self._state, refused

    def advance(self, state: State) -> None:
        """After a round: remember its state, write it if it is time, and stop if a signal asks for that."""
        self._state = state
        if self._every and state.round % self._every == 0:
            self._save(state)
        self._ch.on_pause()

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Write a checkpoint if the block is stopped by a signal, or by what others do; the error then names it."""
        try:
            yield
        except (Interrupted, TooFewWorkers, ProtocolError) as error:
            if self._state is None:
                error.args = (f"{error}; no round was done",)
            else:
                self._save(self._state)
                error.args = (f"{error}; go on after round {self._state.round} with --resume {self._folder.path}",)
            raise

    def _save(self, state: State) -> None:
        if self._saved is not state:
            scalars = {"round": state.round, "configuration": self._configuration}
            write_checkpoint(self._folder.begin(), state.round, {"G": state.G}, scalars)
            self._saved = state


def configuration(job: Job, clients: int, data: Dataset) -> dict[str, Any]:
    """What must stay the same, as JSON values, with a digest of the training rows."""
    total = hashlib.sha256()
    for array in (data.X_train, data.y_train):
        total.update(str((array.dtype, array.shape)).encode())
        total.update(array.data)
    values = dataclasses.asdict(job.params) | {"clients": clients, "dataset": job.dataset, **job.data, "seed": job.seed}
    for name in ("data_dir", "device"):
        values.pop(name, None)
    same: dict[str, Any] = json.loads(json.dumps(values | {"data": total.hexdigest()}))
    return same
