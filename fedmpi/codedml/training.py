"""One training on a channel, from raw features to weights, for the command line and the estimators alike."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmpi.codedml.baseline import mpc_master
from fedmpi.codedml.calibration import temperature
from fedmpi.codedml.dealing import SEED_BYTES
from fedmpi.codedml.params import Params
from fedmpi.codedml.plain import train_plain
from fedmpi.codedml.problem import Problem
from fedmpi.codedml.protocol import master
from fedmpi.codedml.task import Observe, Task, Training, ignore
from fedmpi.codedml.transform import Quantized, RowsAnew
from fedmpi.core import WIDE_PRIMES
from fedmpi.core.lagrange import Uniform
from fedmpi.crypto.random import FieldRandom, SecretStream, fresh_seed
from fedmpi.data import FileRows
from fedmpi.net import Channel
from fedmpi.net.costs import Report


def rounding_noise(seed: int) -> Callable[[int, tuple[int, ...]], NDArray[np.float64]]:
    """The public stream of stochastic quantization, keyed by (seed, role, iteration): a run repeats to the bit."""
    role = int.from_bytes(b"codedml", "little")

    def noise(iteration: int, shape: tuple[int, ...]) -> NDArray[np.float64]:
        stream = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, role, iteration])))
        values: NDArray[np.float64] = stream.random(shape)
        return values

    return noise


def masks(params: Params, primes: tuple[int, ...], seed: int) -> tuple[Uniform, ...]:
    """Where the master's masks come from: a source for each prime."""
    if params.insecure_repeatable_masks:
        keys = [(seed + (j << 128)).to_bytes(32, "little") for j in range(len(primes))]
        return tuple(FieldRandom(p, SecretStream(key)) for p, key in zip(primes, keys, strict=True))
    return tuple(FieldRandom(p) for p in primes)


def seeds(params: Params, seed: int) -> Callable[[], bytes]:
    """Where the seeds of the workers' shares come from."""
    if not params.insecure_repeatable_masks:
        return fresh_seed
    stream = SecretStream((seed + (len(WIDE_PRIMES) << 128)).to_bytes(32, "little"))  # behind the masks' keys
    return lambda: stream.words(SEED_BYTES // 4).tobytes()


@dataclass(frozen=True, eq=False)
class Outcome:
    """Weights and what they cost."""

    W: NDArray[np.float64]
    """Shape (d, C), the intercept in the last row if there is one."""
    iterations: int
    total_seconds: float
    headroom_bits: float | None = None
    converged: bool = False
    slope: float = 1.0
    """What outputs are multiplied by before the sigmoid: see `calibration`."""
    reports: dict[int, Report] = field(default_factory=dict)
    failures: list[dict[str, Any]] = field(default_factory=list)
    """Of each worker that failed: its rank, in which iteration, and how."""


def new_task(params: Params, problem: Problem, seed: int) -> Task:
    """A training from the beginning that nobody watches; `dataclasses.replace` gives it more."""
    uniforms = masks(params, problem.precision.primes, seed)
    return Task(params, problem, rounding_noise(seed), uniforms, seed=seeds(params, seed))


def train(ch: Channel, task: Task) -> Outcome:
    """Train privately on the workers of a channel."""
    params, problem = task.params, task.problem
    begun, apart = time.perf_counter(), _apart(ch)
    training = (master if params.method == "coded" else mpc_master)(ch, task)
    total = time.perf_counter() - begun - (_apart(ch) - apart)
    state = training.state
    slope = 1.0
    if params.model == "logistic" and params.degree is not None and not params.paper:
        slope = temperature(problem.objective, problem.outputs(state.W).astype(np.float64))
    return Outcome(
        state.W,
        state.iteration,
        total,
        training.headroom_bits,
        state.converged,
        slope,
        training.reports,
        failures(ch, training),
    )


def failures(ch: Channel, training: Training) -> list[dict[str, Any]]:
    """What went wrong with workers, in the order of ranks, for result.json."""
    found = {rank: {"iteration": it, "reason": "sent a wrong share"} for rank, it in training.liars.items()}
    for rank in range(1, ch.size):
        if rank in ch.departed:
            found[rank] = {"iteration": training.departures.get(rank), "reason": ch.departed[rank].reason}
        elif rank not in training.reports:
            found[rank] = {"iteration": None, "reason": "sent no report at the end"}
    return [{"rank": rank, **found[rank]} for rank in sorted(found)]


def _apart(ch: Channel) -> float:
    """Seconds that are reported apart: offline work, which needs no data, and the workers' reports."""
    return ch.meter.seconds["offline"] + ch.meter.seconds["close"]


def train_in_the_clear(
    params: Params, problem: Problem, X: Any, observe: Observe = ignore, over: Callable[[], bool] = lambda: False
) -> Outcome:
    """Conventional training on unquantized features, by the same solver, until it is over."""
    transform, columns = problem.transform, problem.transform.columns
    if params.solver in ("lbfgs", "cg"):
        columns = len(problem.columns.means)
    if isinstance(X, FileRows):
        features: Quantized = RowsAnew(X, columns, np.float64, lambda rows: transform.apply(rows)[:, :columns])
    else:
        features = transform.apply(X)[:, :columns]
    start = time.perf_counter()
    last = 0

    def count(iteration: int, W: NDArray[np.float64]) -> None:
        nonlocal last
        last = iteration
        observe(iteration, W)

    W = train_plain(params, features, problem.objective, problem.columns, problem.learning_rate, count, over)
    return Outcome(W, last, time.perf_counter() - start)
