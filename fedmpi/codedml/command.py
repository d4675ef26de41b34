"""The master's run: the data, the training, how good it is, and what it leaves."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmpi.codedml.layout import layout
from fedmpi.codedml.metrics import Metrics
from fedmpi.codedml.params import Params
from fedmpi.codedml.problem import Problem
from fedmpi.codedml.room import check_room
from fedmpi.codedml.solvers import State
from fedmpi.codedml.summary import CodedWords
from fedmpi.codedml.training import Outcome, new_task, train, train_in_the_clear
from fedmpi.machines.placement import Apart, Host
from fedmpi.runs.checkpointing import Arrays, Keeper

IN_MEMORY_BYTES = 256 << 20
"""The rows of larger .npy files stay there, and those of LIBSVM files that are larger when dense stay sparse."""

MOST_LOST = 0.02
"""Of accuracy or R², between training in the clear and in private, without a warning."""


class CodedTraining(CodedWords):
    """CodedPrivateML, BGW or BH08, or training in the clear."""

    parameters, state_type = Params, State
    step = "iteration"
    answers = ("CodedGradient", "CodedProduct", "SharedGradient")

    # How the work is spread over the workers changes no bit of the weights.
    may_change = frozenset({"parallelization", "privacy", "case", "subgroups", "byzantine", "spares", "iterations"})

    problem: Problem
    outcome: Outcome
    quantize_seconds: float

    def data_arguments(self) -> dict[str, Any]:
        """What to load; without a data set two classes of digits, with --model linear a real target."""
        linear, named = self.params.model == "linear", self.options.dataset is not None
        given = super().data_arguments() | {"regression": linear, "in_memory_bytes": IN_MEMORY_BYTES}
        return given if given["classes"] or named else given | {"classes": ["4", "9"]}

    def load(self) -> None:
        """The data set, and how the workers are used."""
        self.numbers = layout(self.params, self.ch.size - 1)
        self.data, self.steps = self.job.load(), self.params.iterations

    def prepare(self) -> None:
        """Scale and quantize the data."""
        begun, data = time.perf_counter(), self.data
        weights = None
        if self.options.class_weight:
            from sklearn.utils import compute_sample_weight

            weights = compute_sample_weight(self.options.class_weight, data.y_train)
        self.problem = Problem.prepare(self.params, data.X_train, data.y_train, len(data.classes), weights)
        self.quantize_seconds = time.perf_counter() - begun

    def remarks(self) -> Iterable[str]:
        """The field and the bits that follow from the data, and what to beware of."""
        if self.params.method != "plain":
            yield self.problem.precision.text(self.problem.erased)
            for warning in self.problem.warnings:
                yield f"WARNING: {warning}"
        if self.params.insecure_repeatable_masks:
            yield "WARNING: the masks are made from --seed: whoever knows it can read the data"

    def apart(self) -> Sequence[Apart]:
        """At most T workers may share a machine."""
        return (Apart("workers", range(1, self.ch.size), self.numbers.get("T", self.ch.size)),)

    def check_machines(self, hosts: Mapping[int, Host]) -> None:
        """Refuse shares of the data that the workers' machines have no room for, before any is sent."""
        check_room(self.params, self.problem.X_bar.shape, len(self.problem.precision.primes), self.numbers, hosts)

    def unchanged(self) -> dict[str, Any]:
        """All but what may change. The seed of a run is public, and must not become that of its masks."""
        values = super().unchanged()
        if not self.params.insecure_repeatable_masks:
            del values["insecure_repeatable_masks"]
        return values

    def digested(self) -> Sequence[Any]:
        """The data as they were quantized."""
        return self.problem.X_bar, self.problem.objective.Y

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """That of W."""
        return {"W": (self.problem.weight_rows, self.problem.objective.Y.shape[1])}

    def pack(self, state: State) -> tuple[Arrays, dict[str, Any]]:
        """W, what the solver remembers, the headroom so far, and the step size η."""
        arrays = {"W": state.W} | {f"solver.{name}": np.asarray(array) for name, array in state.arrays.items()}
        values = {"headroom_bits": state.headroom_bits, "converged": state.converged}
        return arrays, values | {"learning_rate": self.problem.learning_rate}

    def unpack(self, arrays: Arrays, values: Mapping[str, Any]) -> State:
        """What was packed; the run goes on with the step size that it began with."""
        self.problem = replace(self.problem, learning_rate=values["learning_rate"])
        solver = {name.removeprefix("solver."): array for name, array in arrays.items() if name != "W"}
        return State(values["iteration"], arrays["W"], values["headroom_bits"], solver, values["converged"])

    def train(self, start: State | None, keeper: Keeper[State]) -> None:
        """Train on the workers, or with --method plain on the master."""
        if self.params.method == "plain":
            self.outcome = train_in_the_clear(
                self.params, self.problem, self.data.X_train, self.watch, lambda: self.stopping
            )
        else:
            task = new_task(self.params, self.problem, self.options.seed)
            task = replace(task, observe=self.watch, start=start, advance=keeper.advance)
            self.outcome = train(self.ch, task)
        self.reports, self.failures = self.outcome.reports, self.outcome.failures
        self.finish(self.outcome)

    @cached_property
    def judge(self) -> Metrics:
        """Says how good weights are."""
        return Metrics(self.params, self.problem, self.data)

    def watch(self, iteration: int, W: NDArray[np.float64]) -> None:
        """Evaluate the weights of the start of an iteration, while the workers compute on them."""
        if iteration % self.options.evaluate_every == 0 or iteration == self.params.iterations:
            self.record(iteration, W)

    def finish(self, outcome: Outcome) -> None:
        """Evaluate and show the last weights, unless that has been done: training may have ended early."""
        if outcome.iterations % self.options.evaluate_every and outcome.iterations != self.params.iterations:
            self.record(outcome.iterations, outcome.W)
        self.progress.end()

    def record(self, iteration: int, W: NDArray[np.float64]) -> None:
        """Write and show how good the weights are."""
        metrics = self.judge.of(W, quantized=self.params.method != "plain")
        self.progress.step(iteration, metrics, self.ch.meter, self.answers)

    def metrics(self) -> dict[str, Any]:
        """How good the weights are; with --compare, after a training in the clear."""
        params, problem, outcome = self.params, self.problem, self.outcome
        metrics: dict[str, Any] = dict(self.judge.of(outcome.W, quantized=params.method != "plain"))
        metrics |= self.judge.at_the_end(outcome.slope * outcome.W)
        if outcome.headroom_bits is not None:
            metrics["headroom_bits"] = outcome.headroom_bits
        if params.method != "plain" and self.options.compare:
            plain = train_in_the_clear(params, problem, self.data.X_train, lambda it, W: self.ch.on_pause())
            metrics["plain"] = self.judge.of(plain.W, quantized=False) | self.judge.at_the_end(plain.W)
            metrics["plain"]["iterations"] = plain.iterations
            self.ch.meter.seconds["plain"] = plain.total_seconds
        return metrics | {"iterations": outcome.iterations, "converged": outcome.converged}

    @property
    def should_converge(self) -> bool:
        """First-order solvers take the steps that they are told to."""
        return self.params.solver in ("lbfgs", "cg") and self.params.tolerance != 0

    def warnings(self, metrics: Mapping[str, Any]) -> Iterable[str]:
        """Also where hiding the data has cost more than it should."""
        yield from super().warnings(metrics)
        if self.params.method != "plain":
            yield from self.problem.warnings
        score = "test_r2" if self.params.model == "linear" else "test_accuracy"
        lost = metrics["plain"][score] - metrics[score] if score in metrics.get("plain", {}) else 0.0
        if lost > MOST_LOST:
            yield f"the private model's {score.replace('_', ' ')} is {lost:.4f} below that of training in the clear"

    def layout(self) -> dict[str, int]:
        """Ranks, and N, T, K and R, or groups."""
        return super().layout() | self.numbers

    def derived(self) -> dict[str, Any]:
        """Parameters that follow from those given, from the data, and from the number of workers."""
        problem = self.problem
        return {
            "learning_rate": problem.learning_rate,
            "data_bits": problem.precision.data_bits,
            "primes": list(problem.precision.primes),
            "rounding": problem.precision.rounding,
            "erased": asdict(problem.erased) if problem.erased else None,
            "coefficients": self.params.coefficients if self.params.fixed_bits else None,
            **self.numbers,
        }

    def seconds(self) -> dict[str, float]:
        """Of preparing the data, and of all."""
        quantize = self.quantize_seconds
        return {"quantize": quantize, "total": quantize + self.outcome.total_seconds}

    def summarize(self, startup_seconds: float) -> dict[str, Any]:
        """The contents of result.json, with the kernels that computed."""
        summary = super().summarize(startup_seconds)
        compiled = self.problem.precision.residues.fields[0].compiled
        summary["environment"]["kernels"] = "compiled" if compiled else "numpy"
        return summary

    def model(self) -> dict[str, NDArray[Any]]:
        """Weights in the units of the features, and the names of the classes."""
        transform, outcome = self.problem.transform, self.outcome
        coefficients, intercepts = transform.original_units(outcome.slope * outcome.W)
        classes = np.array(self.data.classes, dtype=str)
        model = {"coefficients": coefficients, "intercepts": intercepts, "classes": classes}
        if len(transform.clipped):  # the coefficients are those of features that are cut off there
            model |= {"lower": transform.mean - transform.limit, "upper": transform.mean + transform.limit}
        return model

    def card(self) -> dict[str, Any]:
        """A linear model."""
        classes = self.data.classes
        kinds = {
            "squared": "identity",
            "softmax": "softmax",
            "logistic": "sigmoid" if len(classes) == 2 else "sigmoids",
        }
        link = kinds[self.problem.objective.kind] if classes else "identity"
        return self.data_card() | {"kind": "linear", "link": link}
