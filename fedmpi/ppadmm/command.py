"""The primary server's side of the command line: options, data for the measurements, training, and the run's folder."""

import time
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from fedmpi.data import Dataset
from fedmpi.errors import UsageError
from fedmpi.net import Channel
from fedmpi.own_options import own_options
from fedmpi.ppadmm.admm import Vector
from fedmpi.ppadmm.keeping import RunKeeper
from fedmpi.ppadmm.metrics import centralized, mped, rmse
from fedmpi.ppadmm.params import Params
from fedmpi.ppadmm.protocol import Training
from fedmpi.ppadmm.secure_sum import participants
from fedmpi.ppadmm.service import Source, lead
from fedmpi.ppadmm.summary import closing_lines, heading, plan
from fedmpi.runs import Progress, RunOptions, begin_run, end_run, parse
from fedmpi.runs.environment import process_age_seconds
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
    check_options(params, options, argv, ch)
    source = source_of(params, options)
    data = source.load()
    if options.dry_run:
        print("\n".join([heading(params, ch, data), *plan(params, ch, data)]))
        return
    progress = begin_run("ppadmm", params, options, params.iterations, heading(params, ch, data))
    # Where the folder is named, `check_options` has seen that every rank's command line names it.
    kept = (options.resume or options.out) is not None
    keeper, start = RunKeeper(ch, progress.folder, params, options, kept=kept), None
    if options.resume:
        start, refused = keeper.load()
        progress.say("\n".join([*refused, f"going on after iteration {start.iteration}, with new keys"]))
    session = Session(ch, params, options, data, progress)
    with keeper.saying():
        training = lead(ch, params, source, session.watch, start, keeper)
    summary = session.summarize(training, startup_seconds) | {"resumed_from": start.iteration if start else None}
    model = {"coefficients": training.coefficients, "intercept": np.array(training.intercept)}
    end_run(ch, progress.folder, options, training.reports, summary, closing_lines, model)


def check_options(params: Params, options: RunOptions, argv: list[str], ch: Channel) -> None:
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
        metrics = self.evaluate(coefficients, intercept) | {"training_seconds": seconds}
        self.progress.step(iteration, metrics, self.ch.meter, ("MaskedUpdate", "ClearUpdate", "SharedGradient"))

    def evaluate(self, coefficients: Vector, intercept: float) -> dict[str, float]:
        """RMSE on the test rows, and MPED."""
        metrics = {"test_rmse": rmse(self.data.X_test, self.data.y_test, coefficients, intercept)}
        if self.reference is not None:
            metrics["mped"] = mped(coefficients, self.reference)
        return metrics

    def summarize(self, training: Training, startup_seconds: float) -> dict[str, Any]:
        """The contents of result.json; with --compare, beside the centralized model."""
        params, N = self.params, len(participants(self.ch))
        model = training.coefficients, training.intercept
        metrics: dict[str, Any] = self.evaluate(*model) | {
            "nonzero": int(np.count_nonzero(training.coefficients)),
            "iterations": training.iterations,
        }
        if params.method != "dssgd":
            metrics["converged"] = training.converged
        if self.options.compare:
            metrics["centralized"] = self.evaluate(*self.lasso)
            metrics["distance_to_centralized"] = mped(training.coefficients, self.lasso[0])
        missing = [rank for rank in range(1, self.ch.size) if rank not in training.reports]
        silent = [{"rank": rank, "reason": "sent no report at the end"} for rank in missing]
        roles = {"primary_server": 1, "auxiliary_server": 1, "participant": N}
        return result(
            "ppadmm",
            params.method,
            roles,
            params=asdict(params) | {"rho": training.rho, "N": N, "min_participants": params.fewest(N)},
            data=self.data,
            metrics=metrics,
            measured=costs(self.ch, roles, training.reports, startup=startup_seconds, total=training.seconds),
            failures=training.failures + silent,
            seed=self.options.seed,
        )
