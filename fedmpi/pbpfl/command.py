"""The server's run: what is trained, and what it leaves."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedmpi.crypto.reals import UnitRandom
from fedmpi.errors import UsageError
from fedmpi.learn import FlatModel
from fedmpi.learn.trial import try_own
from fedmpi.pbpfl.lemmas import check_lemmas
from fedmpi.pbpfl.params import Params
from fedmpi.pbpfl.problem import Part, Problem, evaluate, outputs_of
from fedmpi.pbpfl.protocol import State, Task, Watch, finish, server, setup
from fedmpi.pbpfl.summary import PbpflWords
from fedmpi.runs.checkpointing import Keeper
from fedmpi.runs.scores import class_scores

EVALUATIONS = 100
"""Of a run, at most."""


class PbpflTraining(PbpflWords):
    """PBPFL, masked or not, or FedAvg."""

    parameters, state_type = Params, State
    answers = ("Terms", "Masked")
    # What hides weights and gradients changes them by no more than rounding; the loss is kept beside.
    may_change = frozenset(
        {"method", "scaling", "gamma_range", "threshold", "ring_bits", "fraction_bits"}
        | {"rounds", "total_epochs", "device"}
    )

    task: Task

    def data_arguments(self) -> dict[str, Any]:
        """What to load: targets are numbers where there are no classes."""
        value = self.options.schema is None and self.params.wants_value(self.options.dataset or self.default_dataset)
        return super().data_arguments() | {"regression": value}

    def load(self) -> None:
        """The data set, which may have a value to predict in place of classes, and the model with its structure."""
        torch.set_num_threads(1)
        self.read()
        self.problem = Problem(self.job)
        model = self.problem.model()
        try_own(model, self.params.model, self.problem.input_shape, self.problem.outputs)
        self.structure = self.problem.structure()
        if self.params.perturbed and ":" in self.params.model:
            check_lemmas(self.problem.as_made(), self.problem.input_shape)
        self.flat = FlatModel(model.eval())
        self.validation, self.test_part = self.problem.held_out()
        if self.options.schema is not None:
            if self.params.rounds is None:
                raise UsageError("--rounds must be given where rows lie apart and their number is not known, got none")
            self.steps = self.params.rounds
        else:
            self.steps = self.params.total_rounds(max(map(len, self.problem.clients(self.clients))))
        self.evaluate_every = max(self.options.evaluate_every, -(-self.steps // EVALUATIONS))

    def unchanged(self) -> dict[str, Any]:
        """All parameters but those that may change, the loss, and the data set."""
        loss = "cross-entropy" if self.params.method == "fedavg-ce" else "squared error"
        return super().unchanged() | {"loss": loss}

    def set_up(self) -> None:
        """Tell the hosts what is trained."""
        job, last = self.job.to_json(), self.structure.last.name
        federation = setup(self.ch, job, last, self.clients, self.digest, self.dealt)
        self.task = Task(self.params, self.structure, federation, UnitRandom(), self.problem.trained())

    def first(self) -> State:
        """The state before the first round."""
        return State(0, self.flat.read())

    def parameters_of(self, state: State) -> NDArray[np.float64]:
        """Shape (h,)."""
        return state.w

    def rounds(self, start: State, keeper: Keeper[State]) -> State:
        """Train until the last round."""

        def lost(round_: int, client: int) -> None:
            homes = self.task.fed.homes
            gone = next((error for host, error in self.ch.departed.items() if client in homes[host]), None)
            reason = "sent no gradient" if gone is None else str(gone)
            self.failures.append({"round": round_, "client": client, "reason": reason})

        watch = Watch(self.watch, keeper.advance, lost)
        return server(self.ch, self.task, start, watch)

    def finish(self) -> None:
        """Hear how good the final model is in the clients' hands."""
        self.use = finish(self.ch, self.task, self.state.w)
        if "clients_mse" in self.use:
            self.use["clients_mse"] *= self.problem.target_scale**2

    def evaluate(self, state: State, threads: int) -> dict[str, float]:
        """How good the model is on the validation rows; `threads` are those of the process."""
        return self.score(state, self.validation, "validation")

    def score(self, state: State, part: Part, name: str) -> dict[str, float]:
        """Mean squared error, without the ½, and where there are classes accuracy; nothing without rows."""
        if not len(part):
            return {}
        self.flat.load(state.w)
        errors, right = evaluate(self.flat.model, part)
        mse = {f"{name}_mse": errors / part.targets.numel() * self.problem.target_scale**2}
        return mse if part.labels is None else mse | {f"{name}_accuracy": right / len(part)}

    def metrics(self) -> dict[str, Any]:
        """How good the final model is on the rows for testing, those for validation, and the clients' own."""
        found: dict[str, Any] = self.score(self.state, self.test_part, "test")
        if self.test_part.labels is not None and len(self.test_part):
            outputs = outputs_of(self.flat.model, self.test_part).double().numpy()
            found |= class_scores(outputs, self.test_part.labels.numpy())
        found |= self.final | self.use
        if not self.data.classes:
            found.pop("clients_accuracy", None)
        return found | {"rounds": self.state.round, "communication": self.communication()}

    @property
    def tested(self) -> NDArray[Any]:
        """Of the rows for testing, without those for validation."""
        part = self.test_part
        return self.data.y_test if part.labels is None else part.labels.numpy()

    def class_scores(self) -> dict[str, float]:
        """Nothing of the validation rows: `metrics` has those of the rows for testing."""
        return {}

    def model(self) -> dict[str, NDArray[Any]]:
        """The final model's parameters by name; its last layer gives a value in its own units."""
        arrays, last = super().model(), self.structure.last.name
        weight, bias = f"{last}.weight", f"{last}.bias"
        arrays[weight] = arrays[weight] * self.problem.target_scale
        if bias in arrays:
            arrays[bias] = arrays[bias] * self.problem.target_scale + self.problem.target_mean
        return arrays

    def card(self) -> dict[str, Any]:
        """A torch model; one that was trained on squared errors gives scores or a value, and no probabilities."""
        link = "softmax" if self.params.method == "fedavg-ce" else "scores" if self.data.classes else "identity"
        return self.torch_card(link)
