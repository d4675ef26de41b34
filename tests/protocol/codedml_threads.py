"""CodedPrivateML on threads, for the tests: one training or a whole command line; and the same by integers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any

import numpy as np

from fedmpi.codedml import SYSTEM
from fedmpi.codedml.baseline import GroupSetup
from fedmpi.codedml.dealing import SEED_BYTES, CodedData, DataSeed, Share, bits_of
from fedmpi.codedml.descent import Descent, public_coefficients
from fedmpi.codedml.objective import Kind, Objective
from fedmpi.codedml.params import Params
from fedmpi.codedml.plain import train_quantized
from fedmpi.codedml.precision import Norms, choose
from fedmpi.codedml.problem import Problem
from fedmpi.codedml.protocol import Setup, master
from fedmpi.codedml.service import serve
from fedmpi.codedml.solvers import Columns, State
from fedmpi.codedml.task import Task, Training
from fedmpi.codedml.training import masks, rounding_noise
from fedmpi.codedml.transform import Transform
from fedmpi.core import DEFAULT_PRIME, PrimeField, Residues
from fedmpi.core.packing import pack
from fedmpi.crypto.random import FieldRandom, SecretStream
from fedmpi.net import Channel, run_local
from fedmpi.net.orders import dismiss

HANG_SECONDS = 30.0
"""No wait of a training that works lasts nearly as long."""

Role = Callable[[Channel], Any]


def problem(m: int, d: int, outputs: int = 1, seed: int = 0, top: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Quantized features in [-top, top], shape (m, d), and 0/1 targets, shape (m, outputs)."""
    rng = np.random.default_rng(seed)
    X_bar = rng.integers(-top, top + 1, (m, d)).astype(np.float32)
    return X_bar, rng.integers(0, 2, (m, outputs)).astype(np.float64)


def prepared(params: Params, X_bar: np.ndarray, Y: np.ndarray, learning_rate: float = 0.5) -> Problem:
    """What the master knows of features that are quantized already.

    Their last column stands for that of ones where there is one. Bits of the features that are not given are 3.
    """
    bits = 3 if params.data_bits is None else params.data_bits
    real = X_bar * 2.0**-bits
    transform = Transform.fit(real, center=False, scale="none", ones=False)
    norms = Norms.of(transform, real)
    precision = choose(params if params.data_bits is not None else replace(params, data_bits=bits), norms)
    kind: Kind = "logistic"
    if params.model == "linear":
        kind = "squared"
    elif params.softmax and Y.shape[1] > 1:
        kind = "softmax"
    features = X_bar.shape[1] - params.has_ones
    columns = Columns(norms.means[:features] * params.bias, norms.squares[:features], len(X_bar), params.bias)
    bounds = 2.0**bits * norms.row * (1 + 1e-9), 2.0**bits * norms.column * (1 + 1e-9)
    return Problem(transform, X_bar, Objective(kind, Y, params.penalty), precision, columns, *bounds, learning_rate)


class PythonIntegers:
    """The oracle of all private methods: their arithmetic in integers without any limit. Implements `Workers`."""

    def __init__(self, params: Params, problem: Problem):
        self._X = problem.X_bar.astype(np.int64).astype(object)
        self._coefficients = public_coefficients(params, problem) if params.degree else []
        self.largest = 0
        """Of all values that were decoded, in absolute value."""

    def _reals(self, values: np.ndarray, bits: int) -> np.ndarray:
        self.largest = max(self.largest, *(abs(int(value)) for value in values.ravel()))
        return np.asarray(values.astype(np.float64) * 2.0**-bits)  # from Python's int: rounded correctly, once

    def multiply(
        self, step: int, V: np.ndarray, transposed: bool, bits: int, meanwhile: Callable[[], None]
    ) -> np.ndarray:
        meanwhile()
        return self._reals((self._X.T if transposed else self._X) @ V.astype(object), bits)

    def polynomial(
        self, step: int, W_bar: np.ndarray, bits: int, whole: bool, meanwhile: Callable[[], None]
    ) -> np.ndarray:
        meanwhile()
        power = np.full((len(self._X), W_bar.shape[2]), 1, object)
        s = self._coefficients[0] * power
        for w, c in zip(W_bar, self._coefficients[1:], strict=True):
            power = power * (self._X @ w.astype(object))
            s = s + c * power
        return self._reals(self._X.T @ s, bits)


def by_integers(params: Params, problem: Problem, noise: Callable[..., Any] | None = None) -> list[State]:
    """The states of a training whose workers are Python's integers; `train_quantized` agrees, as far as it is exact."""
    whole = [slice(0, len(problem.X_bar))]
    noise = rounding_noise(0) if noise is None else noise
    descent, workers = Descent(params, problem, noise, whole, lambda it, W: None), PythonIntegers(params, problem)
    states = list(descent.states(workers, descent.beginning))
    if workers.largest < 2**53:
        np.testing.assert_array_equal(train_quantized(params, problem, noise), states[-1].W)
    return states


def test_masks(p: int, seed: int) -> FieldRandom:
    """The real generator under a key that repeats."""
    return FieldRandom(p, SecretStream(seed.to_bytes(32, "big")))


def repeatable_seeds(*key: Any) -> Callable[[], bytes]:
    """Seeds of the workers' shares that repeat for the same key."""
    stream = SecretStream(blake2b(repr(key).encode(), digest_size=32).digest())
    return lambda: stream.words(SEED_BYTES // 4).tobytes()


def coded_data(X: np.ndarray, *primes: int) -> CodedData:
    """Rows of X̃_i, shape (q, rows, d), as the master sends them; 2^25 - 39 if no primes are given."""
    fields = [PrimeField(p) for p in primes or (DEFAULT_PRIME,)]
    return CodedData(X.shape[1], np.concatenate([pack(x, bits_of(f)) for x, f in zip(X, fields, strict=True)]))


def data_of(messages: Sequence[Any]) -> np.ndarray:
    """The X̃_i of the first training that a worker's messages are from, shape (q, rows, d)."""
    setup = next(m for m in messages if isinstance(m, Setup | GroupSetup))
    share = Share(Residues(setup.primes.tolist()), setup.rows, setup.columns)
    for message in messages:
        if isinstance(message, CodedData | DataSeed) and not share.complete:
            share.take(message)
    assert share.complete
    return share.X


@dataclass
class Threads:
    """What a training left behind."""

    training: Training
    channels: dict[int, Channel] = field(default_factory=dict)

    @property
    def W(self) -> np.ndarray:
        """The weights."""
        return self.training.W

    def views(self, rank: int) -> list[Any]:
        """Every message that a rank received, in order (needs record_views=True)."""
        return [message for _, message in self.channels[rank]._views]


def train_on_threads(
    params: Params,
    X_bar: np.ndarray,
    Y: np.ndarray,
    workers: int,
    *,
    learning_rate: float = 0.5,
    noise: Callable[..., Any] | None = None,
    uniform: Callable[..., Any] | Sequence[Callable[..., Any]] | None = None,
    seed: Callable[[], bytes] | None = None,
    observe: Callable[..., Any] = lambda iteration, W: None,
    start: State | None = None,
    advance: Callable[[State], None] = lambda state: None,
    roles: Mapping[int, Role] | None = None,
    on_master: Callable[[Channel], None] = lambda ch: None,
    **options: Any,
) -> Threads:
    """Train with `workers` threads; `roles` replaces single workers, by rank, and `uniform` the masks, by prime.

    The seeds of shares repeat with the data, unless others are given.
    """
    channels: dict[int, Channel] = {}
    task = task_of(params, prepared(params, X_bar, Y, learning_rate), noise, uniform, observe, start, advance)
    task = replace(task, seed=seed or repeatable_seeds(X_bar.tobytes(), Y.tobytes()))

    def keeping(role: Role) -> Role:
        def play(ch: Channel) -> Any:
            channels[ch.rank] = ch
            return role(ch)

        return play

    def lead(ch: Channel) -> Training:
        on_master(ch)
        training = master(ch, task)
        dismiss(ch)
        return training

    others = [(roles or {}).get(rank, serve) for rank in range(1, workers + 1)]
    results = run_local([keeping(role) for role in [lead, *others]], **{"timeout_seconds": HANG_SECONDS, **options})
    return Threads(results[0], channels)


def task_of(
    params: Params,
    problem: Problem,
    noise: Callable[..., Any] | None = None,
    uniform: Callable[..., Any] | Sequence[Callable[..., Any]] | None = None,
    *others: Any,
    keep: bool = False,
) -> Task:
    """One training, with the noise of seed 0 and secret masks unless others are given."""
    if uniform is None:
        uniform = masks(params, problem.precision.primes, 0)
    uniforms = (uniform,) if callable(uniform) else tuple(uniform)
    return Task(params, problem, rounding_noise(0) if noise is None else noise, uniforms, *others, keep=keep)


def command_on_threads(workers: int, *argv: Any, **options: Any) -> None:
    """``python -m fedmpi.codedml``, with threads for workers."""

    def lead(ch: Channel) -> None:
        SYSTEM.lead(ch, [str(argument) for argument in argv])

    run_local([lead] + [serve] * workers, timeout_seconds=HANG_SECONDS, **options)
