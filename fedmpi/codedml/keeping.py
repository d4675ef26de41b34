"""What a checkpoint holds, so that a run that was stopped goes on to the same weights."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from fedmpi.codedml.params import Params
from fedmpi.codedml.problem import Problem
from fedmpi.codedml.solvers import State
from fedmpi.net import Channel
from fedmpi.runs import RunFolder, RunOptions
from fedmpi.runs.keeping import Arrays, Keeper, configuration

_ANY_PARAMS = {"parallelization", "privacy", "case", "subgroups", "byzantine", "spares", "insecure_repeatable_masks"}
"""How the work is spread over the workers: it may change, since it changes no bit of the weights."""

_SAME_OPTIONS = ("dataset", "classes", "max_rows", "test_fraction", "label_column", "seed")


class WeightsKeeper(Keeper[State]):
    """Keeps the weights and the step size.

    Parameters
    ----------
    ch : Channel
    folder : RunFolder
    params : Params
    options : RunOptions
    problem : Problem
        As it was prepared from the data set.
    """

    step = "iteration"

    def __init__(self, ch: Channel, folder: RunFolder, params: Params, options: RunOptions, problem: Problem):
        values = {key: value for key, value in dataclasses.asdict(params).items() if key not in _ANY_PARAMS}
        values |= {key: getattr(options, key) for key in _SAME_OPTIONS}
        super().__init__(
            ch, folder, configuration(values, problem.X_bar, problem.objective.Y), options.checkpoint_every
        )
        self.learning_rate = problem.learning_rate
        """The step size η of the run; once its checkpoint is loaded, that one's."""

    def pack(self, state: State) -> tuple[Arrays, dict[str, Any]]:
        """W, what the solver remembers, the headroom so far, and η."""
        arrays = {"W": state.W} | {f"solver.{name}": np.asarray(array) for name, array in state.arrays.items()}
        values = {"headroom_bits": state.headroom_bits, "converged": state.converged}
        return arrays, values | {"learning_rate": self.learning_rate}

    def unpack(self, arrays: Arrays, values: Mapping[str, Any]) -> State:
        """What was packed."""
        self.learning_rate = values["learning_rate"]
        solver = {name.removeprefix("solver."): array for name, array in arrays.items() if name != "W"}
        return State(values["iteration"], arrays["W"], values["headroom_bits"], solver, values["converged"])
