"""The master's side of the command line: options, data, training, and the run's folder."""

import time
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmpi.codedml import objective
from fedmpi.codedml.descent import State
from fedmpi.codedml.faults import parse_faults
from fedmpi.codedml.keeping import WeightsKeeper
from fedmpi.codedml.params import Params
from fedmpi.codedml.summary import closing_lines, heading, layout, plan
from fedmpi.codedml.training import Outcome, Problem, train, train_in_the_clear
from fedmpi.codedml.transform import row_chunks
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
        print("\n".join([heading(params, numbers, data), *plan(params, numbers, data)]))
        return
    begun = time.perf_counter()
    problem = Problem.prepare(params, data.X_train, data.y_train, len(data.classes))
    quantize_seconds = time.perf_counter() - begun
    progress = begin_run("codedml", params, options, params.iterations, heading(params, numbers, data))
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
        summary = session.summarize(numbers, outcome, startup_seconds, quantize_seconds)
    summary["resumed_from"] = start.iteration if start else None
    coefficients, intercepts = problem.transform.original_units(outcome.W)
    model = {"coefficients": coefficients, "intercepts": intercepts, "classes": np.array(data.classes, dtype=str)}
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

    @cached_property
    def X_test(self) -> NDArray[np.float64]:
        """Transformed test rows; not quantized, as a user's rows would not be."""
        return self.problem.transform.apply(self.data.X_test)

    def train(self, start: State | None, keeper: WeightsKeeper) -> Outcome:
        """Train on the workers, or with --method plain on the master."""
        if self.params.method == "plain":
            return train_in_the_clear(self.params, self.problem, self.data.X_train, self.watch)
        return train(self.ch, self.params, self.problem, self.options.seed, self.watch, start, keeper.advance)

    def watch(self, iteration: int, W: NDArray[np.float64]) -> None:
        """Evaluate the weights of the start of an iteration, while the workers compute on them."""
        if iteration % self.options.evaluate_every and iteration != self.params.iterations:
            return
        metrics = self.evaluate(W, quantized=self.params.method != "plain")
        self.progress.step(iteration, metrics, self.ch.meter, ("CodedGradient", "SharedGradient"))

    def evaluate(self, W: NDArray[np.float64], *, quantized: bool) -> dict[str, float]:
        """Loss on the training rows, as they were trained on; accuracy or R² on the training and the test rows."""
        z = self.problem.outputs(W, self.params.data_bits) if quantized else self.unquantized_outputs(W)
        z_test = self.X_test @ W
        if self.params.model == "linear":
            return {
                "train_loss": objective.squared_error(z, self.problem.Y),
                "train_r2": objective.r2_score(z, self.data.y_train),
                "test_r2": objective.r2_score(z_test, self.data.y_test),
            }
        return {
            "train_loss": objective.cross_entropy(z, self.problem.Y),
            "train_accuracy": objective.accuracy(z, self.data.y_train),
            "test_accuracy": objective.accuracy(z_test, self.data.y_test),
        }

    def unquantized_outputs(self, W: NDArray[np.float64]) -> NDArray[np.float64]:
        """XW on the training rows before quantization, shape (m, C)."""
        X, transform = self.data.X_train, self.problem.transform
        return np.concatenate([transform.apply(X[part]) @ W for part in row_chunks(len(X), transform.columns)])

    def summarize(
        self, numbers: dict[str, int], outcome: Outcome, startup_seconds: float, quantize_seconds: float
    ) -> dict[str, Any]:
        """The contents of result.json; with --compare, after a training in the clear."""
        params, problem = self.params, self.problem
        metrics: dict[str, Any] = dict(self.evaluate(outcome.W, quantized=params.method != "plain"))
        if outcome.headroom_bits is not None:
            metrics["headroom_bits"] = outcome.headroom_bits
        if params.method != "plain" and self.options.compare:
            plain = train_in_the_clear(params, problem, self.data.X_train, lambda it, W: self.ch.on_pause())
            metrics["plain"] = self.evaluate(plain.W, quantized=False)
            self.ch.meter.seconds["plain"] = plain.total_seconds
        roles = {"master": 1, "worker": self.ch.size - 1}
        summary = result(
            "codedml",
            params.method,
            roles,
            params=asdict(params)
            | {"learning_rate": problem.learning_rate, "scale": problem.transform.scale}
            | {"coefficients": params.coefficients}
            | numbers,
            data=self.data,
            metrics=metrics | {"iterations": params.iterations},
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
        summary["environment"]["kernels"] = "compiled" if params.field.compiled else "numpy"
        return summary
