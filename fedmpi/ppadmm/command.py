"""The primary server's run: data for the measurements, the training, how good it is, and what it leaves."""

import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from fedmpi.data.schema import Schema
from fedmpi.errors import UsageError
from fedmpi.net import Channel
from fedmpi.ppadmm.admm import Scaling, Vector
from fedmpi.ppadmm.checkpoints import RunKeeper
from fedmpi.ppadmm.metrics import centralized, mped, rmse
from fedmpi.ppadmm.params import Params
from fedmpi.ppadmm.protocol import State
from fedmpi.ppadmm.protocol import Training as Outcome
from fedmpi.ppadmm.secure_sum import participants
from fedmpi.ppadmm.service import judge, lead, prepared_by
from fedmpi.ppadmm.summary import LassoWords
from fedmpi.runs.checkpointing import Arrays, Keeper
from fedmpi.runs.options import RunOptions
from fedmpi.system import System


class LassoTraining(LassoWords):
    """PPADMM, ADMM in the clear, or DSSGD.

    S1 has no data in the protocol. Here, where one command runs all parties, it reads the data set too, to measure.
    """

    parameters, state_type = Params, State
    step = "iteration"
    answers = ("MaskedUpdate", "ClearUpdate", "SharedGradient")

    may_change = frozenset(
        {"iterations", "mask", "precompute", "rekey_every", "min_participants", "on_dropout", "deadline"}
    )
    default_dataset = "synthetic-lasso"

    outcome: Outcome
    judged: dict[str, float]
    """What the participants' own test rows say, where rows lie apart."""

    def __init__(self, system: System, ch: Channel, params: Params, options: RunOptions):
        super().__init__(system, ch, params, options)
        ch.tolerated = () if params.on_dropout == "stop" else participants(ch)

    def data_arguments(self) -> dict[str, Any]:
        """What to load: a real target, and the column that says whose a row is."""
        given = super().data_arguments() | {"regression": True, "group_column": self.params.split_by}
        return given | self.options.schema_argument()

    def load(self) -> None:
        """The data set, of which S1 needs the test rows."""
        self.steps, options = self.params.iterations, self.options
        if options.schema is None:
            self.data = self.job.load()
            return
        schema = Schema.read(options.schema)
        if schema.classes:
            raise UsageError(f"a schema must have no classes in ppadmm, got {', '.join(schema.classes)}")
        self.data = prepared_by(schema, self.job, schema.without_rows())

    def rows_line(self) -> str:
        """The data set, for people."""
        if self.options.schema is None:
            return super().rows_line()
        N, features = len(participants(self.ch)), self.data.X_train.shape[1]
        return f"rows lie apart, in the files of {N} participants: {features} features"

    def unchanged(self) -> dict[str, Any]:
        """All parameters but those that may change, the data set's name, and the number of participants."""
        return super().unchanged() | {"participants": len(participants(self.ch))}

    def digested(self) -> Sequence[Vector]:
        """Nothing: S1 has no training rows, and each participant compares its own."""
        return ()

    def keeper(self) -> RunKeeper:
        """Writes and reads S1's checkpoints, if every command line names the folder: `check` saw to that."""
        kept = (self.options.resume or self.options.out) is not None
        return RunKeeper(self.ch, self.progress.folder, self, self.options.checkpoint_every, kept=kept)

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Those of z and of dssgd's w, which has the intercept in it."""
        shared = self.params.method == "dssgd" and self.params.fit_intercept
        return {"z": (self.data.X_train.shape[1] + shared,)}

    def pack(self, state: State) -> tuple[Arrays, dict[str, Any]]:
        """What z is, and what all participants were told."""
        scaling = state.scaling
        arrays = {"z": state.z, "means": scaling.means, "scales": scaling.scales}
        values = {"rho": state.rho, "curvature": state.curvature, "dual_residual": state.dual_residual}
        return arrays, values | {"members": state.members}

    def unpack(self, arrays: Arrays, values: Mapping[str, Any]) -> State:
        """What was packed."""
        scaling, members = Scaling(arrays["means"], arrays["scales"]), tuple(values["members"])
        numbers = (values[name] for name in ("rho", "curvature", "dual_residual"))
        return State(values["iteration"], arrays["z"], members, scaling, *numbers)

    def train(self, start: State | None, keeper: Keeper[State]) -> None:
        """Train with S2 and the participants."""
        assert isinstance(keeper, RunKeeper)
        self.outcome = lead(self.ch, self.job, self.watch, start, keeper, self.digest)
        self.judged = judge(self.ch) if self.options.schema is not None else {}
        self.reports, self.failures = self.outcome.reports, self.outcome.failures
        named = {failure["rank"] for failure in self.failures}  # who died before reports nothing
        missing = [rank for rank in range(1, self.ch.size) if rank not in self.reports and rank not in named]
        self.failures += [{"rank": rank, "reason": "sent no report at the end"} for rank in missing]
        self.total_seconds = self.outcome.seconds

    @cached_property
    def lasso(self) -> tuple[Vector, float]:
        """What scikit-learn makes of all rows in one place."""
        return centralized(self.params, self.data.X_train, self.data.y_train)

    @cached_property
    def reference(self) -> Vector | None:
        """The true parameters, else those of the centralized model; None where they are not wanted."""
        if self.data.coefficients is not None:
            return self.data.coefficients
        return self.lasso[0] if self.compares else None

    @property
    def compares(self) -> bool:
        """Whether a model of all rows in one place is made too: not where they lie apart."""
        return self.options.compare and self.options.schema is None

    def clock(self) -> float:
        """Seconds since the first call, without the measuring."""
        start = self._start
        return time.perf_counter() - self.ch.meter.seconds["evaluate"] - start

    @cached_property
    def _start(self) -> float:
        return time.perf_counter() - self.ch.meter.seconds["evaluate"]

    @property
    def digest(self) -> bytes:
        """Of the data set that all participants must have; nothing where rows lie apart."""
        return self.data.digest if self.options.schema is None else b""

    def watch(self, iteration: int, coefficients: Vector, intercept: float) -> None:
        """Evaluate the model of the start of an iteration, while the participants compute."""
        seconds = self.clock()
        if iteration % self.options.evaluate_every and iteration != self.params.iterations:
            return
        metrics = self.evaluate(coefficients, intercept) | {"training_seconds": seconds}
        self.progress.step(iteration, metrics, self.ch.meter, self.answers)

    def evaluate(self, coefficients: Vector, intercept: float) -> dict[str, float]:
        """RMSE on the test rows, and MPED; nothing where S1 has no test rows."""
        if not len(self.data.y_test):
            return {}
        metrics = {"test_rmse": rmse(self.data.X_test, self.data.y_test, coefficients, intercept)}
        if self.reference is not None:
            metrics["mped"] = mped(coefficients, self.reference)
        return metrics

    def metrics(self) -> dict[str, Any]:
        """How good the model is; with --compare, beside the centralized model."""
        outcome = self.outcome
        metrics: dict[str, Any] = (
            self.evaluate(outcome.coefficients, outcome.intercept)
            | self.judged
            | {
                "nonzero": int(np.count_nonzero(outcome.coefficients)),
                "iterations": outcome.iterations,
            }
        )
        if self.params.method != "dssgd":
            metrics["converged"] = outcome.converged
        if self.compares:
            metrics["centralized"] = self.evaluate(*self.lasso)
            metrics["distance_to_centralized"] = mped(outcome.coefficients, self.lasso[0])
        return metrics

    def warnings(self, metrics: Mapping[str, Any]) -> Iterable[str]:
        """As always; but more iterations are no help where the fixed point is too coarse for the tolerance."""
        params, outcome = self.params, self.outcome
        if params.tells(outcome.rho / outcome.curvature):
            yield from super().warnings(metrics)
        else:
            fixed = ", or leave --rho at auto" if params.rho != "auto" else ""
            yield (
                f"training could not converge: updates of {params.fraction_bits} bits behind the point are too coarse "
                f"for a tolerance of {params.tolerance:g} with ρ = {outcome.rho:g}: raise --fraction-bits or "
                f"--tolerance{fixed}"
            )

    def derived(self) -> dict[str, Any]:
        """ρ at the end, and the numbers of participants."""
        N = len(participants(self.ch))
        rho = {"rho": self.outcome.rho} if hasattr(self, "outcome") else {}  # it adapts until the end
        return {**rho, "N": N, "min_participants": self.params.fewest(N)}

    def model(self) -> dict[str, Vector]:
        """In the units of the features."""
        return {"coefficients": self.outcome.coefficients, "intercept": np.array(self.outcome.intercept)}

    def card(self) -> dict[str, Any]:
        """A linear model of a value."""
        return self.data_card() | {"kind": "linear", "link": "identity"}
