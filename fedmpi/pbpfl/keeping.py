"""Keeps the state of a run in checkpoints, so that a run that was stopped goes on. Never noise, a mask or a key."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from fedmpi.errors import Interrupted, ProtocolError, TooFewWorkers
from fedmpi.net import Channel
from fedmpi.pbpfl.problem import Problem
from fedmpi.pbpfl.protocol import State
from fedmpi.runs import RunFolder
from fedmpi.runs.checkpoint import check_same, read_checkpoint, write_checkpoint

_ANY_PARAMS = {"method", "scaling", "gamma_range", "threshold", "ring_bits", "fraction_bits", "device"}
"""What hides weights and gradients, and changes them by no more than rounding; the loss is in `configuration`."""


class Keeper:
    """Writes checkpoints of one run, and reads them.

    Parameters
    ----------
    ch : Channel
    folder : RunFolder
    problem : Problem
    clients : int
        K.
    every : int
        Rounds between two checkpoints; 0: only when the run is stopped.
    """

    def __init__(self, ch: Channel, folder: RunFolder, problem: Problem, clients: int, every: int):
        self._ch, self._folder, self._every = ch, folder, every
        self._configuration = configuration(problem, clients)
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
        self._state = self._saved = State(state["round"], arrays["w"])
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
            write_checkpoint(self._folder.begin(), state.round, {"w": state.w}, scalars)
            self._saved = state


def configuration(problem: Problem, clients: int) -> dict[str, Any]:
    """What must stay the same, as JSON values, with a digest of the training rows."""
    digest = hashlib.sha256()
    for array in (problem.data.X_train, problem.data.y_train):
        digest.update(str((array.dtype, array.shape)).encode())
        digest.update(np.ascontiguousarray(array).data)
    job = problem.job
    values = {key: value for key, value in dataclasses.asdict(job.params).items() if key not in _ANY_PARAMS}
    values |= {"clients": clients, "dataset": job.dataset, **job.data, "seed": job.seed}
    values["loss"] = "cross-entropy" if job.params.method == "fedavg-ce" else "squared error"
    values.pop("data_dir", None)
    same: dict[str, Any] = json.loads(json.dumps(values | {"data": digest.hexdigest()}))
    return same
