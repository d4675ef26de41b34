"""What the server does in every system with clients: its options, the public model, and how good that is."""

import time
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax

from fedmpi.data.loading import prepared, prepared_as
from fedmpi.data.schema import Schema
from fedmpi.errors import ProtocolError, TooFewWorkers, UsageError
from fedmpi.federated.judging import judge
from fedmpi.federated.messages import stop
from fedmpi.federated.params import FederatedParams
from fedmpi.federated.rows import rows_here
from fedmpi.federated.statistics import survey
from fedmpi.learn import FlatModel, Inputs, build_model, client_rows, cores
from fedmpi.learn.evaluation import evaluate_outputs
from fedmpi.learn.inputs import divisor_of, input_shape
from fedmpi.learn.names import AUTO, IMAGES, TABLES
from fedmpi.learn.trial import try_own
from fedmpi.net import Channel
from fedmpi.runs.checkpointing import Keeper
from fedmpi.runs.options import RunOptions
from fedmpi.runs.scores import class_scores
from fedmpi.system import System
from fedmpi.training import Training

P = TypeVar("P", bound=FederatedParams)
S = TypeVar("S")
Vector = NDArray[np.float64]

FAILURES_TOLD = 20
"""In the closing lines; all of them are in result.json."""


class FederatedTraining(Training[P, S]):
    """A training of clients that live on other ranks, in rounds, on a public model."""

    may_change = frozenset({"rounds", "device"})

    flat: FlatModel
    final: dict[str, float]
    """What the last `watch` found."""
    outputs: list[NDArray[np.float64]]
    """Of each model on the test rows, at the last evaluation."""

    def __init__(self, system: System, ch: Channel, params: P, options: RunOptions):
        super().__init__(system, ch, params, options)
        self.first_host = len(system.roles) - 1
        self.clients = params.clients or ch.size - self.first_host
        ch.tolerated = range(self.first_host, ch.size)
        self.evaluate_every = options.evaluate_every

    def data_arguments(self) -> dict[str, Any]:
        """What to load: tables with scaled columns, or what tables that lie apart have in common."""
        given = self.options.scaled_load_arguments() | {"group_column": self.params.split_by}
        return given | self.options.schema_argument()

    def load(self) -> None:
        """The data set, which must have classes, and the public model as it is before any training."""
        torch.set_num_threads(1)
        self.read()
        if not self.data.classes:
            raise UsageError(f"the data set must have classes, got {self.data.name}")
        if self.options.schema is None:  # raises where a client has no row
            p, data = self.params, self.data
            client_rows(p.partition, data.y_train, self.clients, self.job.seed, p.dirichlet_alpha, data.groups)
        dtype = getattr(torch, self.params.dtype)
        shape, scale = input_shape(self.data), divisor_of(self.data)
        classes = len(self.data.classes)
        model = build_model(self.params.model, shape, classes, self.job.seed, dtype)
        self.flat = FlatModel(try_own(model, self.params.model, shape, classes).eval())
        self.test = Inputs.of(self.data.X_test, self.data.y_test, scale, dtype, shape=shape)
        self.steps = self.params.rounds or 0

    def read(self) -> None:
        """The data set, prepared: columns of a table by sums over all clients' rows, where no file says how.

        A dry run talks to nobody, and looks at the file that lies here.
        """
        options = self.options
        if options.schema is not None:
            if self.params.split_by:
                raise UsageError(f"--split-by must not be given with --schema, got {self.params.split_by}")
            schema = Schema.read(options.schema)
            self.data = schema.without_rows()
            if options.statistics is not None:
                self.data = prepared_as(self.data, options.statistics)
            elif options.dry_run:
                self.data = prepared(self.data, schema.unscaled())
        else:
            self.data = self.job.load() if options.statistics or options.dry_run else self.job.load_raw()
        self.choose_model()
        if self.data.preparation is None and not options.dry_run and (not self.data.shape or options.impute):
            with self.ch.phase("distribute"):
                preparation = survey(
                    self.ch, self.job.to_json(), self.data, impute=options.impute, first_host=self.first_host
                )
            self.data = prepared(self.data, preparation)
        self.job = replace(self.job, loaded=self.data)

    def choose_model(self) -> None:
        """The model that fits the data, where that was left open."""
        if self.params.model == AUTO:
            model = IMAGES if self.data.shape else TABLES
            self.params = replace(self.params, model=model)  # type: ignore[type-var]  # P is a dataclass
            self.job = replace(self.job, params=self.params)

    def rows_line(self) -> str:
        """The data set, for people."""
        if self.options.schema is not None:
            hosts = self.ch.size - self.first_host
            return f"rows lie apart, in the files of {hosts} hosts: {len(self.data.classes)} classes"
        dealt = f"by {self.params.split_by}" if self.params.split_by else self.params.partition
        return f"{super().rows_line()}, {len(self.data.classes)} classes, dealt out {dealt}"

    def unchanged(self) -> dict[str, Any]:
        """All parameters but those that may change, the data set's name, and the number of clients."""
        return super().unchanged() | {"clients": self.clients}

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Those of the first state's arrays."""
        return {name: array.shape for name, array in self.pack(self.first())[0].items()}

    def train(self, start: S | None, keeper: Keeper[S]) -> None:
        """All rounds, and what the model is worth at their end."""
        with self.ch.phase("distribute"):
            self.set_up()
        self.failures += [
            {"rank": rank, "reason": f"left out before the first round: {failed}"}
            for rank, failed in self.ch.departed.items()
        ]
        begun = time.perf_counter()
        self.state = self.rounds(self.first() if start is None else start, keeper)
        with self.ch.phase("evaluate"):
            self.watch(self.state, last=True)
            self.final |= self.class_scores()
        self.total_seconds = time.perf_counter() - begun
        self.finish()
        before = set(self.ch.departed)
        self.reports = stop(self.ch)
        departed = self.ch.departed.items()
        self.failures += [{"rank": rank, "reason": failed.reason} for rank, failed in departed if rank not in before]
        if self.options.schema is not None:
            self.judge()

    def judge(self) -> None:
        """Hear how good the model is on test rows that lie apart; a host that is lost now costs this, not the model."""
        away = self.ch.departed.keys() | self.ch.silent
        hosts = [rank for rank in range(self.first_host, self.ch.size) if rank not in away]
        w = np.atleast_2d(self.parameters_of(self.state))[0]
        try:
            self.final = self.final | judge(self.ch, w, len(self.data.classes), hosts)
        except (ProtocolError, TooFewWorkers) as error:
            self.failures.append({"rank": getattr(error, "rank", 0), "reason": f"no test metrics: {error}"})

    @property
    def dealt(self) -> NDArray[np.int64] | None:
        """How many rows each client has, shape (K,); None where they lie apart, and nobody knows but their hosts."""
        if self.options.schema is not None:
            return None
        return np.array([len(part) for part in rows_here(self.job, self.data, 0, 1, self.clients).values()])

    @property
    def digest(self) -> bytes:
        """Of the data set that all hosts must have; nothing where rows lie apart."""
        return b"" if self.options.schema is not None else self.data.digest

    @abstractmethod
    def set_up(self) -> None:
        """Tell the hosts what is trained."""

    @abstractmethod
    def first(self) -> S:
        """The state before the first round."""

    @abstractmethod
    def rounds(self, start: S, keeper: Keeper[S]) -> S:
        """Train."""

    def finish(self) -> None:
        """What is left to do with the clients after the last round."""

    @abstractmethod
    def parameters_of(self, state: S) -> Vector:
        """The model's parameters, shape (h,), or those of several models, shape (models, h)."""

    def watch(self, state: S, *, last: bool = False) -> None:
        """Evaluate the model of the start of a round, while the clients compute."""
        number = getattr(state, self.step)
        if number % self.evaluate_every and not last:
            return
        self.final = self.evaluate(state, cores() if last else 1)
        self.progress.step(number, self.final | self.spent(state), self.ch.meter, self.answers)

    def evaluate(self, state: S, threads: int) -> dict[str, float]:
        """Loss and accuracy on the test rows, the mean of several models; after the last round all cores are free."""
        found, self.outputs = [], list[NDArray[np.float64]]()
        if not len(self.test):
            return {}
        for parameters in np.atleast_2d(self.parameters_of(state)):
            self.flat.load(parameters)
            loss, accuracy, outputs = evaluate_outputs(self.flat.model, self.test, threads=threads)
            found.append((loss, accuracy))
            self.outputs.append(outputs)
        loss, accuracy = np.mean(found, axis=0)
        return {"test_loss": float(loss), "test_accuracy": float(accuracy)}

    def class_scores(self) -> dict[str, float]:
        """What `fedmpi.runs.scores` says of the outputs of the last evaluation, the mean of several models."""
        found = [class_scores(softmax(outputs, axis=1), self.data.y_test) for outputs in self.outputs]
        return {key: float(np.mean([scores[key] for scores in found])) for key in (found[0] if found else {})}

    def spent(self, state: S) -> dict[str, float]:
        """What the rounds until this state have cost besides; shown, and written beside how good the model is."""
        return {}

    def metrics(self) -> dict[str, Any]:
        """How good the final model is, and after how many rounds."""
        return {**self.final, "rounds": getattr(self.state, self.step)}

    def derived(self) -> dict[str, Any]:
        """The number of clients, and of the model's parameters."""
        return {"clients": self.clients, "parameters": len(self.flat)}

    def seconds(self) -> dict[str, float]:
        """Of a round, and of all."""
        return {"round": self.total_seconds / max(getattr(self.state, self.step), 1), "total": self.total_seconds}

    def model(self) -> dict[str, NDArray[Any]]:
        """The final model's parameters by name; of several models the first one's."""
        self.flat.load(np.atleast_2d(self.parameters_of(self.state))[0])
        return self.flat.arrays()

    def card(self) -> dict[str, Any]:
        """A torch model that gives probabilities."""
        return self.torch_card("softmax")

    def torch_card(self, link: str) -> dict[str, Any]:
        """A torch model on features that `learn.inputs` has brought to its scale."""
        return self.data_card() | {
            "kind": "torch",
            "link": link,
            "architecture": self.params.model,
            "input_shape": list(input_shape(self.data)),
            "outputs": len(self.data.classes) or 1,
            "dtype": self.params.dtype,
            "divisor": divisor_of(self.data),
        }

    def closing_lines(self, summary: dict[str, Any]) -> list[str]:
        """Who was lost, and how good the model is."""
        failures, metrics, seconds = summary["failures"], summary["metrics"], summary["seconds"]
        lines = [
            f"round {f['round']}: client {f['client']}: {f['reason']}" if "round" in f else str(f["reason"])
            for f in failures[:FAILURES_TOLD]
        ]
        if len(failures) > FAILURES_TOLD:
            lines.append(f"and {len(failures) - FAILURES_TOLD} more, in result.json")
        scores = [f"test MSE {metrics['test_mse']:.4f}"] if "test_mse" in metrics else []
        scores += [f"test accuracy {metrics['test_accuracy']:.4f}"] if "test_accuracy" in metrics else []
        name = " ".join([summary["method"], ", ".join(scores)]).strip()
        lines.append(f"{name}   {metrics['rounds']} rounds, {seconds['total']:.2f} s, {seconds['round']:.2f} s each")
        return lines

    def dismiss(self) -> None:
        """Send the hosts home, unless the training has."""
        if self.options.dry_run:
            super().dismiss()
