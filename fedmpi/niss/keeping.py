"""What a checkpoint holds, so that a run that was stopped goes on. Never a share, a seed or a key."""

from collections.abc import Mapping
from typing import Any

from fedmpi.data import Dataset
from fedmpi.net import Channel
from fedmpi.niss.job import Job
from fedmpi.niss.protocol import State
from fedmpi.runs import RunFolder
from fedmpi.runs.keeping import Arrays, Keeper, configuration

_ANY_PARAMS = {"shares", "accountant", "max_epsilon", "device"}
"""What changes neither the model nor what it costs in privacy."""


class ModelKeeper(Keeper[State]):
    """Keeps the model, and what was spent of every client's privacy.

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
        values = job.public_values(clients, without=_ANY_PARAMS)
        super().__init__(ch, folder, configuration(values, data.X_train, data.y_train), every)

    def pack(self, state: State) -> tuple[Arrays, dict[str, Any]]:
        """All of the state."""
        return {"w": state.w, "uploads": state.uploads}, {"noise": list(state.noise)}

    def unpack(self, arrays: Arrays, values: Mapping[str, Any]) -> State:
        """What was packed."""
        return State(values["round"], arrays["w"], arrays["uploads"], tuple(values["noise"]))
