"""What T workers see of a whole training, recorded: uniform, and the same for every data set.

The field has 31 elements, so that each pair of values is a cell of its own and no dependence hides in a bucket. Each
check is shown to see the mutations that it is there for. All of them leave the weights exact to the bit: no test of
accuracy would notice.
"""

from collections.abc import Callable
from functools import cache
from itertools import combinations, count, cycle, islice
from typing import Any

import numpy as np
import oracles
import pytest
from protocol.codedml_threads import Threads, data_of, prepared, test_masks, train_on_threads

from fedmpi.codedml import dealing
from fedmpi.codedml.params import Params
from fedmpi.codedml.plain import train_quantized
from fedmpi.codedml.problem import Problem
from fedmpi.codedml.protocol import CodedWeights, Setup
from fedmpi.codedml.training import rounding_noise
from fedmpi.core import WIDE_PRIMES
from fedmpi.core.lagrange import LagrangeCode, lagrange_basis

test_masks.__test__ = False  # a source of masks, not a test

P, N = 31, 10  # what T + 1 workers see is tried with fewer
ROWS, COLUMNS, ITERATIONS = 80, 500, 30
Uniform = Callable[[tuple[int, ...]], np.ndarray]


def parameters(privacy: int = 2) -> Params:
    """K = 2, and R = 3·(T + 1) + 1 workers: all of them are needed, so that none ever skips an iteration."""
    return Params(
        paper=True, model="linear", parallelization=2, privacy=privacy, data_bits=0, weight_bits=1,
        coefficient_bits=0, prime=P, iterations=ITERATIONS,
    )  # fmt: skip


@cache
def data_sets() -> dict[str, tuple[np.ndarray, np.ndarray, float]]:
    """X̄, Y and the step size of three data sets of one shape, of which what is decoded fits in F_31."""
    sparse = np.zeros((ROWS, COLUMNS), np.float32)
    sparse[np.arange(ROWS), np.arange(ROWS)] = 1
    zeros = np.zeros_like(sparse)
    full = np.full_like(sparse, 15)
    targets = np.random.default_rng(1).choice([-2.0, 2.0], (ROWS, 1))
    return {
        "sparse": (sparse, targets, 20.0),
        "zeros": (zeros, targets, 20.0),
        "full": (full, targets, 1e-30),  # with weights that are 0 throughout
    }


def problem_of(name: str) -> Problem:
    X_bar, Y, rate = data_sets()[name]
    return prepared(parameters(), X_bar, Y, rate)


def secret(seed: int) -> Uniform:
    """The real source of masks, repeatable."""
    return test_masks(P, seed)


def workers_of(threads: Threads) -> range:
    return range(1, len(threads.channels))


def run(name: str, uniform: Uniform, privacy: int = 2, seed: Callable[[], bytes] | None = None) -> Threads:
    X_bar, Y, rate = data_sets()[name]
    params, workers = parameters(privacy), N - 3 * (2 - privacy)
    return train_on_threads(
        params, X_bar, Y, workers, learning_rate=rate, uniform=uniform, seed=seed, record_views=True
    )


def received(threads: Threads, cls: type, field: str) -> np.ndarray:
    """What each worker received of one type, shape (N, messages, elements)."""
    return np.array(
        [
            [getattr(message, field).ravel() for message in threads.views(rank) if isinstance(message, cls)]
            for rank in workers_of(threads)
        ]
    )


def data_views(threads: Threads) -> np.ndarray:
    """Shape (N, elements)."""
    return np.array([data_of(threads.views(rank)).ravel() for rank in workers_of(threads)])


def weight_views(threads: Threads) -> np.ndarray:
    """Shape (N, iterations, elements)."""
    return received(threads, CodedWeights, "W_tilde")


# -- the checks ---------------------------------------------------------------------------------------------------

Train = Callable[[str, int], Threads]


def check_uniform(train: Train, size: int = 2) -> None:
    """The joint view of any T workers is uniform: of the data, and of all weights."""
    for seed, name in enumerate(data_sets()):
        threads = train(name, seed)
        data = data_views(threads)
        for views in (data, weight_views(threads).reshape(len(data), -1)):
            for subset in combinations(range(len(data)), size):
                p_value = oracles.p_value_uniform(views[list(subset)], P, P)
                assert p_value > oracles.ALARM, f"the view of workers {subset} of {name} is not uniform"


def check_two_samples(train: Train) -> None:
    """Nothing that T workers receive tells one data set from another."""
    runs = [train(name, seed) for seed, name in enumerate(data_sets())]
    setups = {
        (m.primes.tobytes(), m.rows, m.columns, m.outputs, m.degree, m.coefficients.tobytes())
        for threads in runs
        for rank in range(1, N + 1)
        for m in threads.views(rank)
        if isinstance(m, Setup)
    }
    assert len(setups) == 1, "what is public says more than the shape"
    for kind in (data_views, lambda threads: weight_views(threads).reshape(N, -1)):
        views = [kind(threads) for threads in runs]
        for subset in map(list, combinations(range(N), 2)):
            for other in views[1:]:
                p_value = oracles.p_value_same(views[0][subset], other[subset], P, P)
                assert p_value > oracles.ALARM, f"workers {subset} tell the data apart"


def check_fresh(train: Train) -> None:
    """What a worker receives in two iterations in a row, or in any two messages, is jointly uniform."""
    threads = train("sparse", 0)
    data, weights = data_views(threads), weight_views(threads)
    for worker in range(N):
        for lag in (1, 2, 7):
            pairs = np.stack([weights[worker, :-lag].ravel(), weights[worker, lag:].ravel()])
            assert oracles.p_value_uniform(pairs, P, P) > oracles.ALARM, "two iterations share their masks"
        difference = ((weights[worker, 0].astype(int) - data[worker, :COLUMNS]) % P)[None]
        assert oracles.p_value_uniform(difference, P, P) > oracles.ALARM, "weights share their masks with the data"


CHECKS = {"uniform": check_uniform, "two samples": check_two_samples, "fresh": check_fresh}


def honest(name: str, seed: int) -> Threads:
    return run(name, secret(seed))


def test_the_data_sets_make_different_trainings() -> None:
    weights = {name: train_quantized(parameters(), problem_of(name), rounding_noise(0)) for name in data_sets()}
    assert np.abs(weights["sparse"] * 2).max() >= 2
    assert not weights["zeros"].any()
    assert np.abs(weights["full"]).max() < 1e-20


@pytest.mark.parametrize("name", CHECKS)
def test_what_t_workers_see_of_a_training(name: str) -> None:
    CHECKS[name](honest)


def test_what_one_worker_sees_in_the_papers_field_is_uniform() -> None:
    params = Params(paper=True, parallelization=2, privacy=1, iterations=20)
    X_bar = np.full((40, 300), 4, np.float32)
    threads = train_on_threads(params, X_bar, np.ones((40, 1)), 7, learning_rate=0.01, record_views=True,
                               uniform=test_masks(params.prime, 3))  # fmt: skip
    for rank in range(1, 8):
        weights = [m.W_tilde.ravel() for m in threads.views(rank) if isinstance(m, CodedWeights)]
        for values in (data_of(threads.views(rank)).ravel(), np.concatenate(weights)):
            assert values.size == 6000
            assert oracles.p_value_uniform(values[None], params.prime, 256) > oracles.ALARM


# -- the mutations ------------------------------------------------------------------------------------------------


class Overlapping(LagrangeCode):
    """Behind the first T workers, points from 0, 1, …, as in the authors' later scripts: K receive a raw block."""

    first_alpha = 0

    def __init__(self, *settings: Any):
        super().__init__(*settings)
        first = self.alphas[: self.privacy]
        others = (alpha for alpha in count(self.first_alpha) if alpha not in first)
        self.alphas = (*first, *islice(others, self.workers - self.privacy))
        self.encoding_matrix = lagrange_basis(self.field, self.betas, self.alphas)


class OverlappingOnce(Overlapping):
    """One worker alone stands at the point of a block."""

    first_alpha = 1


Stretched = Callable[[bytes, int, int, int, tuple[int, ...]], np.ndarray]


def shares(name: str, seed: int, change: Callable[[Stretched], Stretched], *seeds: bytes) -> Threads:
    """The first T workers' shares of the data are not what their seeds say, but what a mutation makes of them."""
    kept = cycle(seeds)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dealing, "stretched", change(dealing.stretched))
        return run(name, secret(seed), seed=(lambda: next(kept)) if seeds else None)


def zero_shares(name: str, seed: int) -> Threads:
    return shares(name, seed, lambda stretched: lambda key, p, j, piece, shape: np.zeros(shape, np.uint32))


def one_seed_too_few(name: str, seed: int) -> Threads:
    """The last of T workers has a share that everybody knows: with it T others solve for the data."""
    known = bytes(32)

    def change(stretched: Stretched) -> Stretched:
        def mutant(key: bytes, p: int, j: int, piece: int, shape: tuple[int, ...]) -> np.ndarray:
            return np.zeros(shape, np.uint32) if key == known else stretched(key, p, j, piece, shape)

        return mutant

    return shares(name, seed, change, seed.to_bytes(32, "big") if seed else bytes(31) + b"!", known)


def the_same_seed_twice(name: str, seed: int) -> Threads:
    return shares(name, seed, lambda stretched: stretched, seed.to_bytes(32, "big"))


def the_same_stream_for_every_row(name: str, seed: int) -> Threads:
    def change(stretched: Stretched) -> Stretched:
        return lambda key, p, j, piece, shape: np.broadcast_to(stretched(key, p, j, 0, (1, *shape[1:])), shape).copy()

    return shares(name, seed, change)


def zero_masks(name: str, seed: int) -> Threads:
    return run(name, lambda shape: np.zeros(shape, np.uint32))


def one_mask_too_few(name: str, seed: int) -> Threads:
    """T - 1 masks: T workers together solve for the weights."""
    source = secret(seed)

    def uniform(shape: tuple[int, ...]) -> np.ndarray:
        masks = source(shape)
        masks[-1] = 0
        return masks

    return run(name, uniform)


def equal_masks(name: str, seed: int) -> Threads:
    """One mask T times."""
    source = secret(seed)
    return run(name, lambda shape: np.ascontiguousarray(np.broadcast_to(source((1, *shape[1:])), shape)))


def stream_started_again(name: str, seed: int) -> Threads:
    """Every encoding takes its masks from the start of the same stream."""
    return run(name, lambda shape: secret(seed)(shape))


def masks_of_the_first_iteration(name: str, seed: int) -> Threads:
    """Fresh for the first weights; kept from then on."""
    source = secret(seed)
    kept: dict[tuple[int, ...], np.ndarray] = {}
    return run(name, lambda shape: kept.setdefault(shape, source(shape)) if shape not in kept else kept[shape])


def masks_of_every_second_iteration(name: str, seed: int) -> Threads:
    """Each iteration takes the masks of the one before the last."""
    source = secret(seed)
    kept: list[np.ndarray] = []

    def uniform(shape: tuple[int, ...]) -> np.ndarray:
        kept.append(source(shape) if len(kept) < 2 else kept[-2])
        return kept[-1]

    return run(name, uniform)


def shares_of_the_data(name: str, seed: int) -> Threads:
    """The first weights are shared by a polynomial through the first row of the first T workers' data."""
    encode_repeated, rows = LagrangeCode.encode_repeated, dict[bytes, np.ndarray]()

    def change(stretched: Stretched) -> Stretched:
        def noting(key: bytes, p: int, j: int, piece: int, shape: tuple[int, ...]) -> np.ndarray:
            drawn = stretched(key, p, j, piece, shape)
            rows.setdefault(key, drawn[0])
            return drawn

        return noting

    def again(code: LagrangeCode, block: np.ndarray, uniform: Uniform) -> np.ndarray:
        if not rows.keys() >= {*keys}:  # they are drawn while the data go out
            return encode_repeated(code, block, uniform)
        first = [rows.pop(key).reshape(block.shape) for key in keys]
        known = [*[block] * code.parallelization, *first]
        return np.concatenate([first, code.field.matmul(code.completion, known)])

    keys = [bytes([seed, k]) * 16 for k in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LagrangeCode, "encode_repeated", again)
        return shares(name, seed, change, *keys)


def points(code: type[LagrangeCode]) -> Callable[[pytest.MonkeyPatch], Train]:
    def mutate(monkeypatch: pytest.MonkeyPatch) -> Train:
        monkeypatch.setattr("fedmpi.codedml.params.LagrangeCode", code)
        return honest

    return mutate


def source(train: Train) -> Callable[[pytest.MonkeyPatch], Train]:
    return lambda monkeypatch: train


MUTATIONS: dict[str, tuple[Callable[[pytest.MonkeyPatch], Train], set[str]]] = {
    "no shares but zeros": (source(zero_shares), {"uniform", "two samples"}),
    "one seed too few": (source(one_seed_too_few), {"uniform", "two samples"}),
    "the same seed twice": (source(the_same_seed_twice), {"uniform", "two samples"}),
    "the same stream for every row": (source(the_same_stream_for_every_row), {"uniform"}),
    "zero masks": (source(zero_masks), {"uniform", "two samples", "fresh"}),
    "T - 1 masks": (source(one_mask_too_few), {"uniform", "two samples"}),
    "equal masks": (source(equal_masks), {"uniform", "two samples"}),
    "a stream started again": (source(stream_started_again), {"fresh"}),
    "masks of the first iteration": (source(masks_of_the_first_iteration), {"fresh"}),
    "masks of every second iteration": (source(masks_of_every_second_iteration), {"fresh"}),
    "shares of the data": (source(shares_of_the_data), {"fresh"}),
    "overlapping points": (points(Overlapping), {"uniform", "two samples", "fresh"}),
    "one overlapping point": (points(OverlappingOnce), {"uniform", "two samples", "fresh"}),
}


@pytest.mark.parametrize(
    ("mutation", "check"),
    [(mutation, check) for mutation, (_, checks) in MUTATIONS.items() for check in sorted(checks)],
)
def test_the_checks_see_every_mutation(mutation: str, check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    train = MUTATIONS[mutation][0](monkeypatch)
    with pytest.raises(AssertionError):
        CHECKS[check](train)


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_no_mutation_shows_in_the_weights(mutation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = MUTATIONS[mutation][0](monkeypatch)("sparse", 0)
    np.testing.assert_array_equal(threads.W, train_quantized(parameters(), problem_of("sparse"), rounding_noise(0)))


def test_t_plus_one_workers_do_learn_something() -> None:
    """The positive control: private against one worker, seen by two."""
    with pytest.raises(AssertionError):
        check_uniform(lambda name, seed: run(name, secret(seed), privacy=1))
    check_uniform(lambda name, seed: run(name, secret(seed), privacy=1), size=1)


def test_the_default_masks_are_secret_and_fresh() -> None:
    """Without --insecure-repeatable-masks, two runs of the same seed share nothing."""
    from fedmpi.codedml.training import masks, seeds

    params, primes = parameters(), (31, 37)
    one, two = ([uniform((2, 4000)) for uniform in masks(params, primes, 0)] for _ in range(2))
    for j in range(2):
        assert (one[j] == two[j]).mean() < 0.1
    assert (one[0] == one[1]).mean() < 0.1
    insecure = Params(insecure_repeatable_masks=True)
    first, again, other = (masks(insecure, WIDE_PRIMES[:2], seed) for seed in (5, 5, 6))
    for j in range(2):
        values = first[j]((3, 4))
        np.testing.assert_array_equal(values, again[j]((3, 4)))
        assert not np.array_equal(values, other[j]((3, 4)))
    assert seeds(params, 0)() != seeds(params, 0)()
    assert [s := seeds(insecure, 5), s(), s()][1:] == [s := seeds(insecure, 5), s(), s()][1:]
    assert s() != s()
    assert seeds(insecure, 6)() != seeds(insecure, 5)()
    first, again = masks(insecure, (31, 31), 5)
    assert not np.array_equal(first((3, 40)), again((3, 40))), "each prime has a stream of its own"
