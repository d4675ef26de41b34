"""Keeps the state of a run in checkpoints, so that a run that was stopped goes on to the same weights."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from fedmpi.codedml.descent import State
from fedmpi.codedml.params import Params
from fedmpi.codedml.training import Problem
from fedmpi.errors import Interrupted, ProtocolError, TooFewWorkers
from fedmpi.net import Channel
from fedmpi.runs import RunFolder, RunOptions
from fedmpi.runs.checkpoint import check_same, read_checkpoint, write_checkpoint

_ANY_PARAMS = {"parallelization", "privacy", "case", "subgroups", "byzantine", "spares", "insecure_repeatable_masks"}
"""How the work is spread over the workers: it may change, since it changes no bit of the weights."""

_SAME_OPTIONS = ("dataset", "classes", "max_rows", "test_fraction", "label_column", "seed")


class Keeper:
    """Writes checkpoints of one run, and reads them.

    Parameters
    ----------
    ch : Channel
    folder : RunFolder
    params : Params
    options : RunOptions
    problem : Problem
        As it was prepared from the data set.
    """

    def __init__(self, ch: Channel, folder: RunFolder, params: Params, options: RunOptions, problem: Problem):
        self._ch, self._folder, self._every = ch, folder, options.checkpoint_every
        self._configuration = configuration(params, options, problem)
        self._learning_rate = problem.learning_rate
        self._state: State | None = None
        self._saved: State | None = None

    def load(self) -> tuple[State, float, list[str]]:
        """The state to go on from, the step size η of the run, and why newer checkpoints were passed over.

        Raises
        ------
        UsageError
            If there is no whole checkpoint, or the run was begun with another configuration or data set.
        """
        arrays, state, refused = read_checkpoint(self._folder.path)
        check_same(state["configuration"], self._configuration)
        self._learning_rate = state["learning_rate"]
        self._state = self._saved = State(state["iteration"], arrays["W"], state["headroom_bits"])
        self._folder.forget_metrics(self._state.iteration)
        return self._state, self._learning_rate, refused

    def advance(self, state: State) -> None:
        """After an iteration: remember its state, write it if it is time, and stop if a signal asks for that."""
        self._state = state
        if self._every and state.iteration % self._every == 0:
            self._save(state)
        self._ch.on_pause()

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Write a checkpoint if the block is stopped by a signal, or by what workers do; the error then names it."""
        try:
            yield
        except (Interrupted, TooFewWorkers, ProtocolError) as error:
            if self._state is None:
                error.args = (f"{error}; no iteration was done",)
            else:
                self._save(self._state)
                error.args = (
                    f"{error}; go on after iteration {self._state.iteration} with --resume {self._folder.path}",
                )
            raise

    def _save(self, state: State) -> None:
        if self._saved is not state:
            scalars = {
                "iteration": state.iteration,
                "headroom_bits": state.headroom_bits,
                "learning_rate": self._learning_rate,
                "configuration": self._configuration,
            }
            write_checkpoint(self._folder.begin(), state.iteration, {"W": state.W}, scalars)
            self._saved = state


def configuration(params: Params, options: RunOptions, problem: Problem) -> dict[str, Any]:
    """What must stay the same for the same weights, as JSON values, with a digest of the quantized data."""
    digest = hashlib.sha256()
    for array in (problem.X_bar, problem.Y):
        digest.update(str((array.dtype, array.shape)).encode())
        digest.update(np.ascontiguousarray(array).data)
    values = {key: value for key, value in dataclasses.asdict(params).items() if key not in _ANY_PARAMS}
    values |= {key: getattr(options, key) for key in _SAME_OPTIONS}
    same: dict[str, Any] = json.loads(json.dumps(values | {"data": digest.hexdigest()}))
    return same
