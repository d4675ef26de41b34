"""What a checkpoint holds, so that a run that was stopped goes on. Never noise, a mask or a key."""

from collections.abc import Mapping
from typing import Any

from fedmpi.net import Channel
from fedmpi.pbpfl.problem import Problem
from fedmpi.pbpfl.protocol import State
from fedmpi.runs import RunFolder
from fedmpi.runs.keeping import Arrays, Keeper, configuration

_ANY_PARAMS = {"method", "scaling", "gamma_range", "threshold", "ring_bits", "fraction_bits", "device"}
"""What hides weights and gradients, and changes them by no more than rounding; the loss is kept beside."""


class ModelKeeper(Keeper[State]):
    """Keeps the server's weights.

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
        values = problem.job.public_values(clients, without=_ANY_PARAMS)
        values["loss"] = "cross-entropy" if problem.params.method == "fedavg-ce" else "squared error"
        super().__init__(ch, folder, configuration(values, problem.data.X_train, problem.data.y_train), every)

    def pack(self, state: State) -> tuple[Arrays, dict[str, Any]]:
        """All of the state."""
        return {"w": state.w}, {}

    def unpack(self, arrays: Arrays, values: Mapping[str, Any]) -> State:
        """What was packed."""
        return State(values["round"], arrays["w"])
