"""What T workers see of two exchanges an iteration: directions and residuals, modulo one prime or two.

As in `test_codedml_privacy`: fields so small that each joint value is a cell of its own, and mutations that leave the
weights as they are, which the checks must see.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from itertools import combinations, count, islice
from typing import Any

import numpy as np
import oracles
import pytest
from protocol import codedml_threads
from protocol.codedml_threads import Threads, data_of, prepared, test_masks, train_on_threads

from fedmpi.audit.statistics import least
from fedmpi.codedml import dealing
from fedmpi.codedml.params import Params
from fedmpi.codedml.precision import Precision
from fedmpi.codedml.problem import Problem
from fedmpi.codedml.protocol import CodedVectors, CodedWeights, Setup
from fedmpi.core.lagrange import LagrangeCode, lagrange_basis

test_masks.__test__ = False  # a source of masks, not a test

P, Q = 31, 37
"""The second prime is the larger one: values modulo the first are not uniform modulo it."""

ROWS, COLUMNS, ITERATIONS = 600, 400, 40
K = 2
Uniform = Callable[[tuple[int, ...]], np.ndarray]
Train = Callable[[str, int], Threads]


@cache
def data_sets() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """X̄ and Y of three data sets of one shape."""
    sparse = np.zeros((ROWS, COLUMNS), np.float32)
    sparse[np.arange(COLUMNS), np.arange(COLUMNS)] = 1
    targets = np.random.default_rng(1).integers(0, 2, (ROWS, 1)).astype(np.float64)
    full = np.full_like(sparse, 7)
    return {"sparse": (sparse, targets), "zeros": (np.zeros_like(sparse), targets), "full": (full, 1 - targets)}


def parameters(privacy: int, degree: int | None = None) -> Params:
    """Gradient descent: it always makes all its exchanges, whatever becomes of the weights in so small a field."""
    return Params(
        solver="gradient", degree=degree, parallelization=K, privacy=privacy, data_bits=0, l2=0.0,
        iterations=ITERATIONS,
    )  # fmt: skip


@contextmanager
def small(primes: tuple[int, ...]) -> Iterator[None]:
    """The fields of `primes` for every problem; `prepared` would refuse them, for nothing sensible is trained."""

    def within(params: Params, *others: Any) -> Problem:
        problem = prepared(replace(params, primes=3), *others)
        return replace(problem, precision=Precision(0, primes))

    codedml_threads.prepared = within
    try:
        yield
    finally:
        codedml_threads.prepared = prepared


def run(name: str, uniforms: list[Uniform], primes: tuple[int, ...] = (P,), privacy: int = 2) -> Threads:
    """N = R: all workers are needed, so that none ever skips an exchange."""
    workers = 2 * (K + privacy - 1) + 1
    with small(primes):
        return train_on_threads(
            parameters(privacy), *data_sets()[name], workers, learning_rate=0.1, uniform=uniforms, record_views=True
        )


def views(threads: Threads, what: str, j: int = 0) -> np.ndarray:
    """What each worker received modulo the j-th prime, shape (N, messages, elements)."""

    def wanted(message: Any) -> Any:
        matches = isinstance(message, CodedVectors) and message.transposed == (what == "residuals")
        return message.V_tilde if matches else None

    if what == "data":
        return np.array([[data_of(threads.views(rank))[j].ravel()] for rank in range(1, len(threads.channels))])
    seen = [
        [found[j].ravel() for message in threads.views(rank) if (found := wanted(message)) is not None]
        for rank in range(1, len(threads.channels))
    ]
    return np.array(seen)


KINDS = ("data", "directions", "residuals")


def whole(threads: Threads, what: str, j: int = 0) -> np.ndarray:
    return views(threads, what, j).reshape(len(threads.channels) - 1, -1)


# -- the checks ---------------------------------------------------------------------------------------------------


def check_uniform(train: Train, size: int = 2) -> None:
    """The joint view of any T workers is uniform: of the data, the directions and the residuals."""
    for seed, name in enumerate(data_sets()):
        threads = train(name, seed)
        for what in KINDS:
            seen = whole(threads, what)
            for subset in combinations(range(len(seen)), size):
                p_value = oracles.p_value_uniform(seen[list(subset)], P, P)
                assert p_value > oracles.ALARM, f"the view that workers {subset} have of {what} is not uniform"


def check_two_samples(train: Train) -> None:
    """Nothing that T workers receive tells one data set from another."""
    runs = [train(name, seed) for seed, name in enumerate(data_sets())]
    setups = {
        (m.primes.tobytes(), m.rows, m.columns, m.outputs, m.degree, m.coefficients.tobytes())
        for threads in runs
        for rank in range(1, len(threads.channels))
        for m in threads.views(rank)
        if isinstance(m, Setup)
    }
    assert len(setups) == 1, "what is public says more than the shape"
    for what in KINDS:
        seen = [whole(threads, what) for threads in runs]
        for subset in map(list, combinations(range(len(seen[0])), 2)):
            for other in seen[1:]:
                p_value = oracles.p_value_same(seen[0][subset], other[subset], P, P)
                assert p_value > oracles.ALARM, f"workers {subset} tell the data apart by {what}"


def pairs_of(threads: Threads, worker: int) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Pairs of what one worker received in two exchanges."""
    seen = {what: views(threads, what)[worker] for what in KINDS}
    directions, residuals = seen["directions"], seen["residuals"]
    for lag in (1, 2, 7):
        yield f"directions {lag} iterations apart", directions[:-lag], directions[lag:]
        yield f"residuals {lag} iterations apart", residuals[:-lag], residuals[lag:]
    n = residuals.shape[1]
    yield "residuals and the direction before", residuals, directions[:, :n]
    yield "residuals and the direction after", residuals[:-1], directions[1:, :n]
    data = seen["data"].reshape(-1, COLUMNS)
    yield "directions and rows of data", directions, data[: len(directions)]
    columns = data.T[: len(residuals)]
    yield "residuals and columns of data", residuals, columns


def check_fresh(train: Train) -> None:
    """What a worker receives in two exchanges is jointly uniform, and so it is with its data."""
    threads = train("sparse", 0)
    for worker in range(len(threads.channels) - 1):
        for name, one, two in pairs_of(threads, worker):
            p_value = oracles.p_value_uniform(np.stack([one.ravel(), two.ravel()]), P, P)
            assert p_value > oracles.ALARM, f"{name} share their masks"


def check_primes(train: Train) -> None:
    """Modulo two primes, private against one worker: each residue is uniform, and so are both together."""
    for seed, name in enumerate(data_sets()):
        threads = train(name, seed)
        for what in KINDS:
            one, two = whole(threads, what, 0), whole(threads, what, 1)
            for worker in range(len(one)):
                assert oracles.p_value_uniform(one[worker][None], P, P) > oracles.ALARM
                assert oracles.p_value_uniform(two[worker][None], Q, Q) > oracles.ALARM
                below = two[worker] < P  # uniform there as well, given that it is there
                together = np.stack([one[worker][below], two[worker][below]])
                p_value = oracles.p_value_uniform(together, P, P)
                assert p_value > oracles.ALARM, f"the residues of {what} depend on each other"


CHECKS = {"uniform": check_uniform, "two samples": check_two_samples, "fresh": check_fresh, "primes": check_primes}


def secret(seed: int, p: int = P) -> Uniform:
    return test_masks(p, seed)


def honest(name: str, seed: int) -> Threads:
    return run(name, [secret(seed)])


def honest_primes(name: str, seed: int) -> Threads:
    return run(name, [secret(seed), secret(seed + 100, Q)], (P, Q), privacy=1)


@pytest.mark.parametrize("name", CHECKS)
def test_what_t_workers_see_of_a_training(name: str) -> None:
    CHECKS[name](honest_primes if name == "primes" else honest)


def test_every_exchange_is_there_to_be_seen() -> None:
    threads = honest("sparse", 0)
    rows = ROWS // K
    shapes = {what: views(threads, what).shape[1:] for what in KINDS}
    assert shapes["directions"] == (ITERATIONS, COLUMNS)
    assert shapes["residuals"] == (ITERATIONS, rows)
    assert np.prod(shapes["data"]) == rows * COLUMNS
    assert not any(isinstance(m, CodedWeights) for m in threads.views(1))


# -- the mutations ------------------------------------------------------------------------------------------------


def is_residuals(shape: tuple[int, ...]) -> bool:
    return shape[1:] == (ROWS // K, 1)


def without(kind: Callable[[tuple[int, ...]], bool]) -> Train:
    """No masks for one kind of message."""

    def train(name: str, seed: int) -> Threads:
        source = secret(seed)
        return run(name, [lambda shape: np.zeros(shape, np.uint32) if kind(shape) else source(shape)])

    return train


def data_without_masks(name: str, seed: int) -> Threads:
    """The shares that are said to be stretched from seeds are zeros."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dealing, "stretched", lambda key, p, j, piece, shape: np.zeros(shape, np.uint32))
        return run(name, [secret(seed)])


def primes_share_a_stream(name: str, seed: int) -> Threads:
    """A worker's share modulo the second prime is stretched from the same part of the keystream."""
    stretched = dealing.stretched
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dealing, "stretched", lambda key, p, j, piece, shape: stretched(key, P, 0, piece, shape))
        return run(name, [secret(seed), secret(seed + 100, Q)], (P, Q), privacy=1)


def one_mask_too_few(name: str, seed: int) -> Threads:
    """T - 1 masks for residuals: T workers together solve for them."""
    source = secret(seed)

    def uniform(shape: tuple[int, ...]) -> np.ndarray:
        masks = source(shape)
        if is_residuals(shape):
            masks[-1] = 0
        return masks

    return run(name, [uniform])


def same_mask_again(kind: Callable[[tuple[int, ...]], bool], lag: int) -> Train:
    """Masks of one kind of message that were used some exchanges before."""

    def train(name: str, seed: int) -> Threads:
        source, kept = secret(seed), list[np.ndarray]()

        def uniform(shape: tuple[int, ...]) -> np.ndarray:
            if not kind(shape):
                return source(shape)
            kept.append(source(shape) if len(kept) < lag else kept[-lag])
            return kept[-1]

        return run(name, [uniform])

    return train


def masks_of_the_direction(name: str, seed: int) -> Threads:
    """Residuals take the masks of the direction that they answer."""
    source, last = secret(seed), [np.zeros(0, np.uint32)]

    def uniform(shape: tuple[int, ...]) -> np.ndarray:
        if is_residuals(shape):
            return np.ascontiguousarray(last[0][:, : shape[1]])
        last[0] = source(shape)
        return last[0]

    return run(name, [uniform])


def stream_started_again(name: str, seed: int) -> Threads:
    return run(name, [lambda shape: secret(seed)(shape)])


def primes_share_masks(name: str, seed: int) -> Threads:
    """The masks of the first prime, reduced modulo the second one."""
    source, last = secret(seed), [np.zeros(0, np.uint32)]

    def first(shape: tuple[int, ...]) -> np.ndarray:
        last[0] = source(shape)
        return last[0]

    return run(name, [first, lambda shape: last[0] % Q], (P, Q), privacy=1)


def primes_share_a_wide_mask(name: str, seed: int) -> Threads:
    """One mask below p·q for both primes is right: the residues are independent [Chinese remainder theorem]."""
    rng, last = np.random.default_rng(seed), [np.zeros(0, np.uint32)]

    def first(shape: tuple[int, ...]) -> np.ndarray:
        last[0] = rng.integers(0, P * Q, shape, np.uint32)
        return last[0] % P

    return run(name, [first, lambda shape: last[0] % Q], (P, Q), privacy=1)


def second_prime_unmasked(name: str, seed: int) -> Threads:
    return run(name, [secret(seed), lambda shape: np.zeros(shape, np.uint32)], (P, Q), privacy=1)


class Overlapping(LagrangeCode):
    """Behind the first T workers, points from 0, 1, …, as in the authors' later scripts: K receive a raw block."""

    def __init__(self, *settings: Any):
        super().__init__(*settings)
        first = self.alphas[: self.privacy]
        others = (alpha for alpha in count() if alpha not in first)
        self.alphas = (*first, *islice(others, self.workers - self.privacy))
        self.encoding_matrix = lagrange_basis(self.field, self.betas, self.alphas)


MUTATIONS: dict[str, tuple[Train, set[str]]] = {
    "vectors without masks": (without(lambda shape: True), {"uniform", "two samples", "fresh"}),
    "residuals without masks": (without(is_residuals), {"uniform", "two samples", "fresh"}),
    "directions without masks": (
        without(lambda shape: not is_residuals(shape)),
        {"uniform", "fresh"},
    ),
    "data without masks": (data_without_masks, {"uniform", "two samples"}),
    "a stream of the first prime for the second": (primes_share_a_stream, {"primes"}),
    "T - 1 masks for residuals": (one_mask_too_few, {"uniform"}),
    "the same masks for all residuals": (same_mask_again(is_residuals, 1), {"fresh"}),
    "the masks of residuals of the last but one iteration": (same_mask_again(is_residuals, 2), {"fresh"}),
    "the same masks for all directions": (same_mask_again(lambda s: s[1:] == (COLUMNS, 1), 1), {"fresh"}),
    "the masks of the direction for its residuals": (masks_of_the_direction, {"fresh"}),
    "a stream started again": (stream_started_again, {"fresh"}),
    "masks of the first prime for the second": (primes_share_masks, {"primes"}),
    "no masks for the second prime": (second_prime_unmasked, {"primes"}),
}


@pytest.mark.parametrize(
    ("mutation", "check"),
    [(mutation, check) for mutation, (_, checks) in MUTATIONS.items() for check in sorted(checks)],
)
def test_the_checks_see_every_mutation(mutation: str, check: str) -> None:
    with pytest.raises(AssertionError):
        CHECKS[check](MUTATIONS[mutation][0])


@pytest.mark.parametrize("check", ["uniform", "two samples"])
def test_the_checks_see_overlapping_points(check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedmpi.codedml.params.LagrangeCode", Overlapping)
    with pytest.raises(AssertionError):
        CHECKS[check](honest)


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_no_mutation_shows_in_the_weights(mutation: str) -> None:
    primes = "prime" in mutation
    expected = (honest_primes if primes else honest)("sparse", 7).W
    np.testing.assert_array_equal(MUTATIONS[mutation][0]("sparse", 0).W, expected)


def test_residues_of_one_wide_mask_pass_the_check() -> None:
    """The negative control: the check of primes sees dependence, and nothing else."""
    check_primes(primes_share_a_wide_mask)


def test_t_plus_one_workers_do_learn_something() -> None:
    """The positive control: private against one worker, seen by two."""
    with pytest.raises(AssertionError):
        check_uniform(lambda name, seed: run(name, [secret(seed)], privacy=1))
    check_uniform(lambda name, seed: run(name, [secret(seed)], privacy=1), size=1)


@pytest.mark.parametrize("primes", [1, 2, 3])
def test_what_one_worker_sees_in_the_default_fields_is_uniform(primes: Any) -> None:
    params = Params(parallelization=2, privacy=1, iterations=10, data_bits=3, tolerance=0.0, primes=primes)
    X_bar = np.full((400, 300), 4, np.float32)
    Y = np.random.default_rng(0).integers(0, 2, (400, 1)).astype(float)
    threads = train_on_threads(params, X_bar, Y, 5, record_views=True)
    p_values = []
    for rank in range(1, 6):
        for j in range(primes):
            for what in KINDS:
                values = views(threads, what, j)[rank - 1].ravel()
                assert values.size >= 1000
                p_values.append(oracles.p_value_uniform(values[None], 2**26, 64))
    assert least(p_values) > oracles.ALARM
