"""The master's side of the command line: options, data, training, and the run's folder."""

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmpi.codedml import objective
from fedmpi.codedml.params import Params
from fedmpi.codedml.training import Outcome, Problem, train, train_in_the_clear
from fedmpi.core import LagrangeCode
from fedmpi.data import Dataset, load
from fedmpi.net import Channel
from fedmpi.runs import Progress, RunFolder, RunOptions, parse, to_toml
from fedmpi.runs.environment import process_age_seconds
from fedmpi.runs.result import costs, result

DESCRIPTION = "Logistic or linear regression on Lagrange-coded data. Rank 0 is the master, the others are workers."


def run(ch: Channel, argv: list[str]) -> None:
    """Train as the command line says, on the workers of a channel."""
    startup_seconds = process_age_seconds()
    params, options = parse(Params, argv, "fedmpi run codedml --", DESCRIPTION)
    ch.timeout_seconds = options.timeout
    workers = ch.size - 1
    code = params.code(workers) if params.method == "coded" else None
    data = load_data(params, options)
    if options.dry_run:
        print("\n".join([heading(code, data), *plan(params, code, data)]))
        return
    problem = Problem.prepare(params, data.X_train, data.y_train, len(data.classes))
    folder = RunFolder(options.out, f"codedml-{params.method}")
    progress = Progress(folder, params.iterations, quiet=options.quiet or options.json)
    progress.say(heading(code, data))
    if params.insecure_repeatable_masks:
        progress.say("WARNING: the masks are made from --seed: whoever knows it can read the data")
    session = Session(ch, params, options, data, problem, progress)
    outcome = session.train(code)
    summary = session.summarize(code, outcome, startup_seconds)
    coefficients, intercepts = problem.transform.original_units(outcome.W)
    classes = np.array(data.classes, dtype=str)
    folder.write_arrays("model.npz", coefficients=coefficients, intercepts=intercepts, classes=classes)
    folder.write_text("config.toml", to_toml(params, options))
    folder.write_json("result.json", summary)
    print(json.dumps(summary) if options.json else "\n".join([*closing_lines(summary), f"written to {folder.path}"]))


def load_data(params: Params, options: RunOptions) -> Dataset:
    """The data set of the options; without any, two classes of digits."""
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

    def train(self, code: LagrangeCode | None) -> Outcome:
        """Train on the workers, or with --method plain on the master."""
        if code is None:
            return train_in_the_clear(self.params, self.problem, self.data.X_train, self.watch)
        return train(self.ch, self.params, self.problem, self.options.seed, self.watch)

    def watch(self, iteration: int, W: NDArray[np.float64]) -> None:
        """Evaluate the weights of the start of an iteration, while the workers compute on them."""
        if iteration % self.options.evaluate_every and iteration != self.params.iterations:
            return
        meter = self.ch.meter
        self.progress.step(
            iteration,
            self.evaluate(W),
            sent_bytes=meter.bytes_sent.total(),
            answers=meter.messages_received["CodedGradient"],
            late=meter.late,
        )

    def evaluate(self, W: NDArray[np.float64]) -> dict[str, float]:
        """Loss on the training rows; accuracy or R² on the training and the test rows."""
        z, z_test = self.problem.outputs(W, self.params.data_bits), self.X_test @ W
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

    def summarize(self, code: LagrangeCode | None, outcome: Outcome, startup_seconds: float) -> dict[str, Any]:
        """The contents of result.json; with --compare, after a training in the clear."""
        params, problem = self.params, self.problem
        roles = {"master": 1, "worker": self.ch.size - 1}
        summary = result("codedml", params.method, roles, self.options.seed)
        summary |= costs(self.ch, "worker", list(outcome.reports.values()), ("communicate", "wait"))
        summary["seconds"] |= {"startup": startup_seconds, "total": outcome.total_seconds}
        summary["environment"]["kernels"] = "compiled" if params.field.compiled else "numpy"
        summary["params"] = resolved(params, problem, code)
        summary["dataset"] = {
            "name": self.data.name,
            "m": len(self.data.X_train),
            "d": problem.transform.columns,
            "classes": list(self.data.classes),
        }
        summary["metrics"] = dict(self.evaluate(outcome.W))
        if outcome.headroom_bits is not None:
            summary["metrics"]["headroom_bits"] = outcome.headroom_bits
        if code is not None and self.options.compare:
            plain = train_in_the_clear(params, problem, self.data.X_train)
            summary["metrics"]["plain"] = self.evaluate(plain.W)
            summary["seconds"]["plain"] = plain.total_seconds
        return summary


def resolved(params: Params, problem: Problem, code: LagrangeCode | None) -> dict[str, Any]:
    """The parameters that a run came down to."""
    values: dict[str, Any] = {
        "model": params.model,
        "degree": params.degree,
        "data_bits": params.data_bits,
        "weight_bits": params.weight_bits,
        "coefficient_bits": params.coefficient_bits,
        "prime": params.prime,
        "iterations": params.iterations,
        "learning_rate": problem.learning_rate,
        "decay": params.decay,
        "scale": problem.transform.scale,
        "center": params.center,
        "bias": params.bias,
    }
    if code is not None:
        values["coefficients"] = params.coefficients
        values |= {
            "K": code.parallelization,
            "T": code.privacy,
            "N": code.workers,
            "R": code.recovery_threshold,
        }
    return values


def heading(code: LagrangeCode | None, data: Dataset) -> str:
    """What is about to run, for people."""
    what = (
        f"{data.name}: {len(data.X_train)} training and {len(data.X_test)} test rows, "
        f"{data.X_train.shape[1]} features, {' '.join(['classes', *data.classes]) if data.classes else 'regression'}"
    )
    if code is None:
        return f"plain training on the master: not private\n{what}"
    return (
        f"CodedPrivateML with N={code.workers} workers: K={code.parallelization} blocks, private against any "
        f"T={code.privacy} of them, decoded from the fastest R={code.recovery_threshold}\n{what}"
    )


def plan(params: Params, code: LagrangeCode | None, data: Dataset) -> list[str]:
    """The roles and the bytes of arrays that a run would send, for --dry-run."""
    if code is None:
        return []
    outputs = 1 if len(data.classes) <= 2 else len(data.classes)
    columns = data.X_train.shape[1] + params.bias
    rows = -(-len(data.X_train) // code.parallelization)
    down, up = 4 * columns * params.degree * outputs, 4 * columns * outputs
    return [
        f"rank 0: master, sees everything; ranks 1 to {code.workers}: workers, see uniform field elements",
        f"once: {4 * rows * columns:,} bytes of coded data to each worker",
        f"each of {params.iterations} iterations: {down:,} bytes to and {up:,} bytes from each worker",
    ]


def closing_lines(summary: dict[str, Any]) -> list[str]:
    """The end of a run, for people."""
    metrics, seconds = summary["metrics"], summary["seconds"]
    score = "test_r2" if summary["params"]["model"] == "linear" else "test_accuracy"
    name = "test R²" if score == "test_r2" else "test accuracy"
    lines = [f"{summary['method']:<6} {name} {metrics[score]:.4f}   {seconds['total']:.2f} s"]
    if "plain" in metrics:
        lines.append(f"plain  {name} {metrics['plain'][score]:.4f}   {seconds['plain']:.2f} s (not private)")
    if "headroom_bits" in metrics:
        sent = summary["bytes"]["sent"]["master"] / 1e6
        lines.append(f"headroom {metrics['headroom_bits']:.1f} bits, {sent:.1f} MB sent by the master")
    return lines
