"""The master's side of the command line: options, data, training, and the run's folder."""

import time
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmpi.codedml import objective
from fedmpi.codedml.faults import parse_faults
from fedmpi.codedml.keeping import WeightsKeeper
from fedmpi.codedml.params import Params
from fedmpi.codedml.precision import Norms, choose
from fedmpi.codedml.problem import Problem, fitted, targets
from fedmpi.codedml.solvers import State
from fedmpi.codedml.summary import closing_lines, heading, layout, plan
from fedmpi.codedml.training import Outcome, train, train_in_the_clear
from fedmpi.data import Dataset, load
from fedmpi.errors import UsageError
from fedmpi.net import Channel
from fedmpi.own_options import own_options
from fedmpi.runs import Progress, RunOptions, begin_run, end_run, parse
from fedmpi.runs.environment import process_age_seconds
from fedmpi.runs.placement import Apart, check_placement
from fedmpi.runs.result import costs, result

DESCRIPTION = "Logistic or linear regression on Lagrange-coded data. Rank 0 is the master, the others are workers."


def run(ch: Channel, argv: list[str]) -> None:
    """Train as the command line says, on the workers of a channel."""
    startup_seconds = process_age_seconds()
    params, options = parse(Params, argv, "fedmpi run codedml --", DESCRIPTION)
    ch.timeout_seconds = options.timeout
    check_options(params, options, argv, ch.size)
    numbers = layout(params, ch.size - 1)
    data = load_data(params, options)
    if options.dry_run:
        precision = choose(params, Norms.of(fitted(params, data.X_train), data.X_train))
        print("\n".join([heading(params, numbers, data), *plan(params, numbers, data, precision)]))
        return
    begun = time.perf_counter()
    problem = Problem.prepare(params, data.X_train, data.y_train, len(data.classes))
    quantize_seconds = time.perf_counter() - begun
    progress = begin_run("codedml", params, options, params.iterations, heading(params, numbers, data))
    if params.method != "plain":
        progress.say(problem.precision.text(problem.erased))
        for warning in problem.warnings:
            progress.say(f"WARNING: {warning}")
    if params.insecure_repeatable_masks:
        progress.say("WARNING: the masks are made from --seed: whoever knows it can read the data")
    keeper, start = WeightsKeeper(ch, progress.folder, params, options, problem), None
    if options.resume:
        start, refused = keeper.load()
        problem = replace(problem, learning_rate=keeper.learning_rate)
        progress.say("\n".join([*refused, f"going on after iteration {start.iteration}"]))
    session = Session(ch, params, options, data, problem, progress)
    check_placement(
        ch, [Apart("workers", range(1, ch.size), numbers.get("T", ch.size))], strict=options.strict_placement
    )
    with keeper.saving():
        outcome = session.train(start, keeper)
        session.finish(outcome)
        summary = session.summarize(numbers, outcome, startup_seconds, quantize_seconds)
    summary["resumed_from"] = start.iteration if start else None
    coefficients, intercepts = problem.transform.original_units(outcome.slope * outcome.W)
    model = {"coefficients": coefficients, "intercepts": intercepts, "classes": np.array(data.classes, dtype=str)}
    if len(problem.transform.clipped):  # the coefficients are those of features that are cut off there
        model |= {"lower": problem.transform.mean - problem.transform.limit}
        model |= {"upper": problem.transform.mean + problem.transform.limit}
    end_run(ch, progress.folder, options, outcome.reports, summary, closing_lines, model)


def check_options(params: Params, options: RunOptions, argv: list[str], ranks: int) -> None:
    """Refuse combinations of options before any work is done."""
    options.check_own(argv)
    if options.inject != own_options(argv).inject:
        raise UsageError("--inject must stand on the command line, where every rank sees it")
    faults = parse_faults(options.inject)
    if faults and params.method != "coded":
        raise UsageError(f"--inject must be used with --method coded, got {params.method}")
    for fault in faults:
        if fault.rank is not None and fault.rank >= ranks:
            raise UsageError(f"--inject must name ranks from 1 to {ranks - 1}, got {fault.rank}")
    if params.method == "plain" and (options.resume or options.checkpoint_every):
        raise UsageError("--resume and --checkpoint-every must be used with a private method, got --method plain")


def load_data(params: Params, options: RunOptions) -> Dataset:
    """The data set of the options; without any, two classes of digits."""
    if params.model == "linear" and options.dataset is None:
        raise UsageError("--model linear must have a --dataset with a real target, got none")
    return load(
        options.dataset or "digits",
        data_dir=options.data_dir,
        classes=options.classes or (() if options.dataset else ("4", "9")),
        max_rows=options.max_rows,
        test_fraction=options.test_fraction,
        regression=params.model == "linear",
        label_column=options.label_column,
        seed=options.seed,
    )


@dataclass(frozen=True)
class Session:
    """One training from the command line, and what is needed to watch it."""

    ch: Channel
    params: Params
    options: RunOptions
    data: Dataset
    problem: Problem
    progress: Progress

    def train(self, start: State | None, keeper: WeightsKeeper) -> Outcome:
        """Train on the workers, or with --method plain on the master."""
        if self.params.method == "plain":
            return train_in_the_clear(self.params, self.problem, self.data.X_train, self.watch)
        return train(self.ch, self.params, self.problem, self.options.seed, self.watch, start, keeper.advance)

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
        metrics = self.evaluate(W, quantized=self.params.method != "plain")
        self.progress.step(iteration, metrics, self.ch.meter, ("CodedGradient", "CodedProduct", "SharedGradient"))

    def evaluate(self, W: NDArray[np.float64], *, quantized: bool) -> dict[str, float]:
        """Loss on the training rows, as they were trained on; accuracy or R² on the training and the test rows."""
        z = self.problem.outputs(W) if quantized else self.problem.transform.outputs(self.data.X_train, W)
        z_test = self.test_outputs(W)
        loss = self.problem.objective.loss(z.astype(np.float64)) / self.problem.objective.total_weight
        if self.params.model == "linear":
            return {
                "train_loss": loss,
                "train_r2": objective.r2_score(z, self.data.y_train),
                "test_r2": objective.r2_score(z_test, self.data.y_test),
            }
        return {
            "train_loss": loss,
            "train_accuracy": objective.accuracy(z, self.data.y_train),
            "test_accuracy": objective.accuracy(z_test, self.data.y_test),
        }

    def test_loss(self, W: NDArray[np.float64]) -> dict[str, float]:
        """Mean cross-entropy on the test rows, in nats; nothing for a linear model."""
        if self.params.model == "linear":
            return {}
        Y = targets(self.data.y_test, len(self.data.classes))
        unpenalized = objective.Objective(self.problem.objective.kind, Y)
        return {"test_loss": unpenalized.loss(self.test_outputs(W)) / max(len(Y), 1)}

    @cached_property
    def X_test(self) -> NDArray[np.float64]:
        """Transformed test rows; not quantized, as a user's rows would not be."""
        return self.problem.transform.apply(self.data.X_test)

    def test_outputs(self, W: NDArray[np.float64]) -> NDArray[np.float64]:
        """XW on the test rows, shape (rows, C)."""
        columns = self.X_test.shape[1]
        z: NDArray[np.float64] = self.X_test @ W[:columns]
        return z + W[columns] if len(W) > columns else z

    def summarize(
        self, numbers: dict[str, int], outcome: Outcome, startup_seconds: float, quantize_seconds: float
    ) -> dict[str, Any]:
        """The contents of result.json; with --compare, after a training in the clear."""
        params, problem = self.params, self.problem
        metrics: dict[str, Any] = dict(self.evaluate(outcome.W, quantized=params.method != "plain"))
        metrics |= self.test_loss(outcome.slope * outcome.W)
        if outcome.headroom_bits is not None:
            metrics["headroom_bits"] = outcome.headroom_bits
        if params.method != "plain" and self.options.compare:
            plain = train_in_the_clear(params, problem, self.data.X_train, lambda it, W: self.ch.on_pause())
            metrics["plain"] = self.evaluate(plain.W, quantized=False) | self.test_loss(plain.W)
            metrics["plain"]["iterations"] = plain.iterations
            self.ch.meter.seconds["plain"] = plain.total_seconds
        roles = {"master": 1, "worker": self.ch.size - 1}
        summary = result(
            "codedml",
            params.method,
            roles,
            params=asdict(params)
            | {"learning_rate": problem.learning_rate, "data_bits": problem.precision.data_bits}
            | {"primes": list(problem.precision.primes), "rounding": problem.precision.rounding}
            | {"erased": asdict(problem.erased) if problem.erased else None}
            | {"coefficients": params.coefficients if params.fixed_bits else None}
            | numbers,
            data=self.data,
            metrics=metrics | {"iterations": outcome.iterations, "converged": outcome.converged},
            measured=costs(
                self.ch,
                roles,
                outcome.reports,
                quantize=quantize_seconds,
                startup=startup_seconds,
                total=quantize_seconds + outcome.total_seconds,
            ),
            failures=outcome.failures,
            seed=self.options.seed,
        )
        summary["environment"]["kernels"] = "compiled" if problem.precision.residues.fields[0].compiled else "numpy"
        return summary
