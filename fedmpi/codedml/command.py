"""The master's side of the command line: options, data, training, and the run's folder."""

import json
import time
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmpi.codedml import objective
from fedmpi.codedml.descent import State
from fedmpi.codedml.faults import parse_faults
from fedmpi.codedml.keeping import WeightsKeeper
from fedmpi.codedml.params import Params
from fedmpi.codedml.training import Outcome, Problem, train, train_in_the_clear
from fedmpi.codedml.transform import row_chunks
from fedmpi.data import Dataset, load
from fedmpi.errors import UsageError
from fedmpi.net import Channel
from fedmpi.own_options import own_options
from fedmpi.runs import Progress, RunFolder, RunOptions, parse, to_toml
from fedmpi.runs.environment import process_age_seconds
from fedmpi.runs.frames import frame_lines
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
    resumed = options.resume is not None
    folder = RunFolder(
        options.resume or options.out, f"codedml-{params.method}", to_toml(params, options), resumed=resumed
    )
    progress = Progress(folder, params.iterations, quiet=options.quiet or options.json)
    progress.say(heading(params, numbers, data))
    if params.insecure_repeatable_masks:
        progress.say("WARNING: the masks are made from --seed: whoever knows it can read the data")
    keeper, start = WeightsKeeper(ch, folder, params, options, problem), None
    if resumed:
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
    ch.on_pause = lambda: None  # nothing is left to be saved
    coefficients, intercepts = problem.transform.original_units(outcome.W)
    classes = np.array(data.classes, dtype=str)
    folder.write_arrays("model.npz", coefficients=coefficients, intercepts=intercepts, classes=classes)
    folder.write_lines("frames.jsonl", frame_lines(ch, outcome.reports))
    folder.write_json("result.json", summary)
    print(json.dumps(summary) if options.json else "\n".join([*closing_lines(summary), f"written to {folder.path}"]))


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
        meter = self.ch.meter
        self.progress.step(
            iteration,
            self.evaluate(W, quantized=self.params.method != "plain"),
            sent_bytes=meter.bytes_sent.total(),
            answers=meter.messages_received["CodedGradient"] + meter.messages_received["SharedGradient"],
            late=meter.late,
        )

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
        roles = {"master": 1, "worker": self.ch.size - 1}
        summary = result("codedml", params.method, roles, self.options.seed)
        summary |= costs(self.ch, "worker", list(outcome.reports.values()), ("communicate", "wait"))
        total = quantize_seconds + outcome.total_seconds
        summary["seconds"] |= {"startup": startup_seconds, "quantize": quantize_seconds, "total": total}
        summary["failures"] = outcome.failures
        summary["environment"]["kernels"] = "compiled" if params.field.compiled else "numpy"
        summary["params"] = resolved(params, problem) | numbers
        summary["dataset"] = {
            "name": self.data.name,
            "m": len(self.data.X_train),
            "d": problem.transform.columns,
            "classes": list(self.data.classes),
        }
        summary["metrics"] = dict(self.evaluate(outcome.W, quantized=params.method != "plain"))
        if outcome.headroom_bits is not None:
            summary["metrics"]["headroom_bits"] = outcome.headroom_bits
        if params.method != "plain" and self.options.compare:
            plain = train_in_the_clear(params, problem, self.data.X_train, lambda it, W: self.ch.on_pause())
            summary["metrics"]["plain"] = self.evaluate(plain.W, quantized=False)
            summary["seconds"]["plain"] = plain.total_seconds
        return summary


def resolved(params: Params, problem: Problem) -> dict[str, Any]:
    """The parameters that a run came down to."""
    return {
        "model": params.model,
        "degree": params.degree,
        "data_bits": params.data_bits,
        "weight_bits": params.weight_bits,
        "coefficient_bits": params.coefficient_bits,
        "coefficients": params.coefficients,
        "prime": params.prime,
        "iterations": params.iterations,
        "learning_rate": problem.learning_rate,
        "decay": params.decay,
        "scale": problem.transform.scale,
        "center": params.center,
        "bias": params.bias,
    }


def layout(params: Params, workers: int) -> dict[str, int]:
    """How the workers are used: N, T, and K and R of the code, or G groups."""
    if params.method == "plain":
        return {}
    if params.method == "coded":
        code = params.code(workers)
        return {"N": workers, "T": code.privacy, "K": code.parallelization, "R": code.recovery_threshold}
    T, groups = params.groups(workers)
    return {"N": workers, "T": T, "G": len(groups)}


def heading(params: Params, numbers: dict[str, int], data: Dataset) -> str:
    """What is about to run, for people."""
    what = (
        f"{data.name}: {len(data.X_train)} training and {len(data.X_test)} test rows, "
        f"{data.X_train.shape[1]} features, {' '.join(['classes', *data.classes]) if data.classes else 'regression'}"
    )
    if params.method == "plain":
        return f"plain training on the master: not private\n{what}"
    private = f"private against any T={numbers['T']} of them"
    if params.method == "coded":
        return (
            f"CodedPrivateML with N={numbers['N']} workers: K={numbers['K']} blocks, {private}, "
            f"decoded from the fastest R={numbers['R']}\n{what}"
        )
    return f"{params.method.upper()} with N={numbers['N']} workers in G={numbers['G']} groups, {private}\n{what}"


def plan(params: Params, numbers: dict[str, int], data: Dataset) -> list[str]:
    """The roles and the bytes of arrays that a run would exchange with the master, for --dry-run."""
    if params.method == "plain":
        return []
    outputs = 1 if len(data.classes) <= 2 else len(data.classes)
    columns = data.X_train.shape[1] + params.bias
    rows = -(-len(data.X_train) // numbers.get("K", numbers.get("G", 1)))
    down, up = 4 * columns * params.degree * outputs, 4 * columns * outputs
    return [
        f"rank 0: master, sees everything; ranks 1 to {numbers['N']}: workers, see uniform field elements",
        f"once: {4 * rows * columns:,} bytes of data to each worker",
        f"each of {params.iterations} iterations: {down:,} bytes to and {up:,} bytes from each worker",
    ]


def closing_lines(summary: dict[str, Any]) -> list[str]:
    """The end of a run, for people."""
    metrics, seconds = summary["metrics"], summary["seconds"]
    score = "test_r2" if summary["params"]["model"] == "linear" else "test_accuracy"
    name = "test R²" if score == "test_r2" else "test accuracy"
    lines = []
    for failure in summary["failures"]:
        when = "" if failure["iteration"] is None else f"iteration {failure['iteration']}: "
        lines.append(f"{when}worker (rank {failure['rank']}) {failure['reason']}")
    lines += [f"{summary['method']:<6} {name} {metrics[score]:.4f}   {seconds['total']:.2f} s"]
    if "plain" in metrics:
        lines.append(f"plain  {name} {metrics['plain'][score]:.4f}   {seconds['plain']:.2f} s (not private)")
    if "headroom_bits" in metrics:
        sent = summary["bytes"]["sent"]["master"] / 1e6
        lines.append(f"headroom {metrics['headroom_bits']:.1f} bits, {sent:.1f} MB sent by the master")
    return lines
