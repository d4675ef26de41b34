"""The primary server's side of the command line: options, data for the measurements, training, and the run's folder."""

import json
import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from fedmpi.data import Dataset
from fedmpi.errors import UsageError
from fedmpi.net import Channel
from fedmpi.own_options import own_options
from fedmpi.ppadmm.admm import NORMS, Vector
from fedmpi.ppadmm.keeping import RunKeeper
from fedmpi.ppadmm.metrics import centralized, mped, rmse
from fedmpi.ppadmm.params import Params
from fedmpi.ppadmm.protocol import Training
from fedmpi.ppadmm.secure_sum import AUXILIARY, participants
from fedmpi.ppadmm.service import Source, lead
from fedmpi.runs import Progress, RunFolder, RunOptions, parse, to_toml
from fedmpi.runs.environment import process_age_seconds
from fedmpi.runs.frames import frame_lines
from fedmpi.runs.result import costs, result

DESCRIPTION = (
    "Lasso, elastic net or ridge regression on the rows of many participants. Rank 0 is the primary server, rank 1 the "
    "auxiliary server, the others are participants."
)


def run(ch: Channel, argv: list[str]) -> None:
    """Train as the command line says, with the other ranks of a channel."""
    startup_seconds = process_age_seconds()
    params, options = parse(Params, argv, "fedmpi run ppadmm --", DESCRIPTION)
    ch.timeout_seconds = options.timeout
    check(params, options, argv, ch)
    source = source_of(params, options)
    data = source.load()
    if options.dry_run:
        print("\n".join([heading(params, ch, data), *plan(params, ch, data)]))
        return
    resumed = options.resume is not None
    folder = RunFolder(
        options.resume or options.out, f"ppadmm-{params.method}", to_toml(params, options), resumed=resumed
    )
    progress = Progress(folder, params.iterations, quiet=options.quiet or options.json)
    progress.say(heading(params, ch, data))
    keeper, start = RunKeeper(ch, folder, params, options, kept=own_options(argv).run is not None), None
    if resumed:
        start, refused = keeper.load()
        progress.say("\n".join([*refused, f"going on after iteration {start.iteration}, with new keys"]))
    session = Session(ch, params, options, data, progress)
    with keeper.saying():
        training = lead(ch, params, source, session.watch, start, keeper)
    ch.on_pause = lambda: None  # nothing is left to be saved
    summary = session.summarize(training, startup_seconds) | {"resumed_from": start.iteration if start else None}
    folder.write_arrays("model.npz", coefficients=training.coefficients, intercept=np.array(training.intercept))
    folder.write_lines("frames.jsonl", frame_lines(ch, training.reports))
    folder.write_json("result.json", summary)
    print(json.dumps(summary) if options.json else "\n".join([*closing_lines(summary), f"written to {folder.path}"]))


def check(params: Params, options: RunOptions, argv: list[str], ch: Channel) -> None:
    """Refuse options that this system does not have, or that contradict one another.

    Raises
    ------
    UsageError
    """
    if options.classes:
        raise UsageError(f"--classes must not be given for a regression, got {' '.join(options.classes)}")
    options.check_own(argv)
    own = own_options(argv)
    if own.run != (options.resume or options.out):
        raise UsageError("--out must stand on the command line, where every rank sees it")
    if options.checkpoint_every and own.run is None:
        raise UsageError("--checkpoint-every must be given with --out on the command line, where every rank sees it")
    if options.inject is not None:
        raise UsageError(f"--inject must not be given: this system has no faults on purpose, got {options.inject}")
    if params.deadline > options.timeout:
        raise UsageError(f"--deadline must be at most --timeout, {options.timeout:g}, got {params.deadline:g}")
    params.fewest(len(participants(ch)))


def source_of(params: Params, options: RunOptions) -> Source:
    """The data set of the options; without any, synthetic-lasso."""
    return Source(
        dataset=options.dataset or "synthetic-lasso",
        data_dir=str(options.data_dir) if options.data_dir else None,
        max_rows=options.max_rows,
        test_fraction=options.test_fraction,
        label_column=options.label_column,
        group_column=params.split_by,
        seed=options.seed,
    )


@dataclass(frozen=True)
class Session:
    """One training from the command line, and what is needed to watch it.

    S1 has no data in the protocol. Here, where one command runs all parties, it reads the data set too, to measure.
    """

    ch: Channel
    params: Params
    options: RunOptions
    data: Dataset
    progress: Progress

    @cached_property
    def lasso(self) -> tuple[Vector, float]:
        """What scikit-learn makes of all rows in one place."""
        return centralized(self.params, self.data.X_train, self.data.y_train)

    @cached_property
    def reference(self) -> Vector | None:
        """The true parameters, else those of the centralized model; None where they are not wanted."""
        if self.data.coefficients is not None:
            return self.data.coefficients
        return self.lasso[0] if self.options.compare else None

    def clock(self) -> float:
        """Seconds since the first call, without the measuring."""
        start = self._start
        return time.perf_counter() - self.ch.meter.seconds["evaluate"] - start

    @cached_property
    def _start(self) -> float:
        return time.perf_counter() - self.ch.meter.seconds["evaluate"]

    def watch(self, iteration: int, coefficients: Vector, intercept: float) -> None:
        """Evaluate the model of the start of an iteration, while the participants compute."""
        seconds = self.clock()
        if iteration % self.options.evaluate_every and iteration != self.params.iterations:
            return
        meter = self.ch.meter
        self.progress.step(
            iteration,
            self.evaluate(coefficients, intercept) | {"training_seconds": seconds},
            sent_bytes=meter.bytes_sent.total(),
            answers=sum(meter.messages_received[name] for name in ("MaskedUpdate", "ClearUpdate", "SharedGradient")),
            late=meter.late,
        )

    def evaluate(self, coefficients: Vector, intercept: float) -> dict[str, float]:
        """RMSE on the test rows, and MPED."""
        metrics = {"test_rmse": rmse(self.data.X_test, self.data.y_test, coefficients, intercept)}
        if self.reference is not None:
            metrics["mped"] = mped(coefficients, self.reference)
        return metrics

    def summarize(self, training: Training, startup_seconds: float) -> dict[str, Any]:
        """The contents of result.json; with --compare, beside the centralized model."""
        params, N = self.params, len(participants(self.ch))
        roles = {"primary_server": 1, "auxiliary_server": 1, "participant": N}
        summary = result("ppadmm", params.method, roles, self.options.seed)
        others = [report for rank, report in training.reports.items() if rank != AUXILIARY]
        summary |= costs(self.ch, "participant", others, ("communicate", "wait"))
        summary["seconds"] |= {"startup": startup_seconds, "total": training.seconds}
        missing = [rank for rank in range(1, self.ch.size) if rank not in training.reports]
        silent = [{"rank": rank, "reason": "sent no report at the end"} for rank in missing]
        summary["failures"] = training.failures + silent
        summary["params"] = resolved(params, training) | {"N": N, "min_participants": params.fewest(N)}
        columns = self.data.X_train.shape[1]
        summary["dataset"] = {"name": self.data.name, "m": len(self.data.X_train), "d": columns}
        model = training.coefficients, training.intercept
        summary["metrics"] = self.evaluate(*model) | {"nonzero": int(np.count_nonzero(training.coefficients))}
        if params.method != "dssgd":
            summary["metrics"]["converged"] = training.converged
        if self.options.compare:
            summary["metrics"]["centralized"] = self.evaluate(*self.lasso)
            summary["metrics"]["distance_to_centralized"] = mped(training.coefficients, self.lasso[0])
        return summary


def resolved(params: Params, training: Training) -> dict[str, Any]:
    """The parameters that a run came down to."""
    common = {"iterations": training.iterations, "penalty": params.penalty, "l1_ratio": params.l1_ratio}
    if params.method == "dssgd":
        names = ("iterations", "epsilon", "share_fraction", "coordinate_clip", "learning_rate")
        return {name: getattr(params, name) for name in names}
    common |= {"rho": training.rho, "fit_intercept": params.fit_intercept, "standardize": params.standardize}
    if params.method == "admm":
        return common
    names = ("fraction_bits", "mask", "precompute", "rekey_every", "on_dropout")
    return common | {name: getattr(params, name) for name in names}


def heading(params: Params, ch: Channel, data: Dataset) -> str:
    """What is about to run, for people."""
    N = len(participants(ch))
    what = (
        f"{data.name}: {len(data.X_train)} training and {len(data.X_test)} test rows, {data.X_train.shape[1]} features"
    )
    how = {
        "ppadmm": f"PPADMM with N={N} participants: S1 sees sums of at least {params.fewest(N)} of them, S2 no update",
        "admm": f"ADMM with N={N} participants, in the clear: not private",
        "dssgd": f"DSSGD with N={N} participants, ε = {params.epsilon:g} each iteration",
    }
    return f"{how[params.method]}\n{what}"


def plan(params: Params, ch: Channel, data: Dataset) -> list[str]:
    """The roles and the bytes of arrays that a run would exchange, for --dry-run."""
    d, N = data.X_train.shape[1], len(participants(ch))
    up = {"ppadmm": 8 * (d + 2 * NORMS), "admm": 8 * (d + NORMS)}.get(params.method, 0)
    lines = [
        "rank 0: primary server S1, sees the sums and the model",
        "rank 1: auxiliary server S2, sees who takes part" if params.method == "ppadmm" else "rank 1: idle",
        f"ranks 2 to {N + 1}: participants, see their rows and the model",
    ]
    if params.method == "dssgd":
        total = params.epsilon * params.iterations
        return [*lines, f"each of {params.iterations} iterations costs ε = {params.epsilon:g}, all of them {total:g}"]
    lines.append(f"each of at most {params.iterations} iterations: {8 * d:,} bytes to and {up:,} from each participant")
    if params.method == "ppadmm":
        lines.append(f"and {up:,} bytes from S2 to S1")
    return lines


def closing_lines(summary: dict[str, Any]) -> list[str]:
    """The end of a run, for people."""
    metrics, seconds = summary["metrics"], summary["seconds"]

    def line(name: str, values: dict[str, float], rest: str) -> str:
        distance = f"   MPED {values['mped']:.4g}" if "mped" in values else ""
        return f"{name:<11} test RMSE {values['test_rmse']:.4f}{distance}   {rest}"

    rest = f"{summary['params']['iterations']} iterations   {seconds['total']:.2f} s"
    lines = [line(summary["method"], metrics, rest)]
    if "centralized" in metrics:
        lines.append(line("centralized", metrics["centralized"], f"distance {metrics['distance_to_centralized']:.2e}"))
    lines += [f"rank {failure['rank']}: {failure['reason']}" for failure in summary["failures"]]
    return lines
