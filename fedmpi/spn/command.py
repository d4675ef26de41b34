"""The server's run: what is trained, and what it leaves."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmpi.federated.messages import setup
from fedmpi.learn import split
from fedmpi.runs.checkpointing import Keeper
from fedmpi.spn.params import Params
from fedmpi.spn.protocol import State, Watch, server
from fedmpi.spn.summary import SpnWords


class SpnTraining(SpnWords):
    """SPN, or one of its baselines."""

    parameters, state_type = Params, State
    answers = ("Changes",)

    def load(self) -> None:
        """The data set and the model; one that can't be split is refused here."""
        super().load()
        if self.params.method == "spn":
            split(self.flat.model)

    def set_up(self) -> None:
        """Tell the hosts what is trained."""
        setup(self.ch, self.job.to_json(), self.clients, digest=self.digest, dealt=self.dealt)

    def first(self) -> State:
        """The state before the first round; a standalone client has a model of its own."""
        copies = self.clients if self.params.method == "standalone" else 1
        return State(0, np.repeat(self.flat.read()[None], copies, axis=0))

    def parameters_of(self, state: State) -> NDArray[np.float64]:
        """Shape (1, h); with standalone clients (K, h)."""
        return state.G

    def rounds(self, start: State, keeper: Keeper[State]) -> State:
        """Train until the last round."""

        def after(state: State, lost: list[dict[str, Any]]) -> bool:
            self.failures += [{"round": state.round - 1, **entry} for entry in lost]
            return keeper.advance(state)

        return server(self.ch, self.params, self.clients, start, Watch(self.watch, after))
