"""One training on a channel, from raw features to weights, for the command line and the estimator alike."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmpi.codedml.baseline import mpc_master
from fedmpi.codedml.descent import State
from fedmpi.codedml.objective import largest_eigenvalue
from fedmpi.codedml.params import Params
from fedmpi.codedml.plain import train_plain
from fedmpi.codedml.protocol import Training, master
from fedmpi.codedml.transform import Transform
from fedmpi.core import FieldArray
from fedmpi.core.quantize import Reals
from fedmpi.crypto.random import FieldRandom, SecretStream
from fedmpi.errors import UsageError
from fedmpi.net import Channel
from fedmpi.net.report import Report

Observe = Callable[[int, NDArray[np.float64]], None]


def ignore(iteration: int, W: NDArray[np.float64]) -> None:
    """Observe nothing."""


@dataclass(frozen=True, eq=False)
class Problem:
    """A data set as the protocol wants it."""

    transform: Transform
    X_bar: Reals
    """Quantized features, signed integers, shape (m, d)."""
    Y: NDArray[np.float64]
    """Targets, shape (m, C)."""
    learning_rate: float
    """η."""

    @classmethod
    def prepare(cls, params: Params, X: NDArray[Any], y: NDArray[Any], n_classes: int) -> "Problem":
        """Scale and quantize (line 1 of Algorithm 1), and choose the step size.

        Parameters
        ----------
        X : array, shape (m, features)
        y : array, shape (m,)
            Classes 0 … n_classes-1, or real targets for a linear model (n_classes = 0).
        """
        if params.model == "logistic" and n_classes < 2:
            raise UsageError(f"a logistic model must have two classes or more, got {n_classes}")
        transform = Transform.fit(X, center=params.center, scale=params.scale, bias=params.bias)
        X_bar = transform.quantized(X, params.data_bits, params.prime)
        eigenvalue = largest_eigenvalue(X_bar) * 4.0**-params.data_bits
        return cls(transform, X_bar, targets(y, n_classes), params.step(eigenvalue, len(X)))

    def outputs(self, W: NDArray[np.float64], bits: int) -> NDArray[Any]:
        """Z = X̄W on the training rows, in real units, shape (m, C)."""
        z: NDArray[Any] = self.X_bar @ W.astype(self.X_bar.dtype)
        z *= 2.0**-bits
        return z


def targets(y: NDArray[Any], n_classes: int) -> NDArray[np.float64]:
    """0/1 columns: one for two classes, one per class (one against the rest) for more; reals stay."""
    if n_classes > 2:
        y = y[:, None] == np.arange(n_classes)
    Y: NDArray[np.float64] = y.astype(np.float64)
    return Y if Y.ndim == 2 else Y.reshape(-1, 1)


def rounding_noise(seed: int) -> Callable[[int, tuple[int, ...]], NDArray[np.float64]]:
    """The public stream of stochastic quantization, keyed by (seed, role, iteration): a run repeats to the bit."""
    role = int.from_bytes(b"codedml", "little")

    def noise(iteration: int, shape: tuple[int, ...]) -> NDArray[np.float64]:
        stream = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, role, iteration])))
        values: NDArray[np.float64] = stream.random(shape)
        return values

    return noise


def masks(params: Params, seed: int) -> Callable[[tuple[int, ...]], FieldArray]:
    """Where the master's masks come from."""
    if params.insecure_repeatable_masks:
        return FieldRandom(params.prime, SecretStream(seed.to_bytes(32, "little")))
    return FieldRandom(params.prime)


@dataclass(frozen=True, eq=False)
class Outcome:
    """Weights and what they cost."""

    W: NDArray[np.float64]
    """Shape (d, C)."""
    total_seconds: float
    headroom_bits: float | None = None
    reports: dict[int, Report] = field(default_factory=dict)
    failures: list[dict[str, Any]] = field(default_factory=list)
    """Of each worker that failed: its rank, in which iteration, and how."""


def train(
    ch: Channel,
    params: Params,
    problem: Problem,
    seed: int,
    observe: Observe = ignore,
    start: State | None = None,
    advance: Callable[[State], None] = lambda state: None,
) -> Outcome:
    """Train privately on the workers of a channel, from the beginning or from a state of an earlier run."""
    begun, apart = time.perf_counter(), _apart(ch)
    role = master if params.method == "coded" else mpc_master
    training = role(
        ch,
        params,
        problem.X_bar,
        problem.Y,
        problem.learning_rate,
        rounding_noise(seed),
        masks(params, seed),
        observe,
        start,
        advance,
    )
    total = time.perf_counter() - begun - (_apart(ch) - apart)
    return Outcome(training.W, total, training.headroom_bits, training.reports, failures(ch, training))


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


def train_in_the_clear(params: Params, problem: Problem, X: NDArray[Any], observe: Observe = ignore) -> Outcome:
    """Conventional training on unquantized features, with the same step size."""
    features = problem.transform.apply(X)
    start = time.perf_counter()
    W = train_plain(params, features, problem.Y, problem.learning_rate, observe)
    return Outcome(W, time.perf_counter() - start)
