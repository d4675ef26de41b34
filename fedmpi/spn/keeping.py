"""What a checkpoint holds: the public model. No secret is in one: clients then draw new ones."""

from collections.abc import Mapping
from typing import Any

from fedmpi.data import Dataset
from fedmpi.net import Channel
from fedmpi.runs import RunFolder
from fedmpi.runs.keeping import Arrays, Keeper, configuration
from fedmpi.spn.job import Job
from fedmpi.spn.protocol import State


class ModelKeeper(Keeper[State]):
    """Keeps the public model.

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
        values = job.public_values(clients, without={"device"})
        super().__init__(ch, folder, configuration(values, data.X_train, data.y_train), every)

    def pack(self, state: State) -> tuple[Arrays, dict[str, Any]]:
        """All of the state."""
        return {"G": state.G}, {}

    def unpack(self, arrays: Arrays, values: Mapping[str, Any]) -> State:
        """What was packed."""
        return State(values["round"], arrays["G"])
