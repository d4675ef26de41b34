"""Algorithm 1 on threads: exact to the bit, whatever the masks, and whoever is slow or wrong."""

import os
import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from protocol.codedml_threads import (
    HANG_SECONDS,
    by_integers,
    coded_data,
    data_of,
    prepared,
    problem,
    repeatable_seeds,
    task_of,
    test_masks,
    train_on_threads,
)

from fedmpi.codedml import dealing, protocol
from fedmpi.codedml.dealing import SEED_BYTES, CodedData, DataSeed
from fedmpi.codedml.headroom import Headroom
from fedmpi.codedml.params import Params
from fedmpi.codedml.plain import train_quantized
from fedmpi.codedml.protocol import (
    CodedGradient,
    CodedProduct,
    CodedVectors,
    CodedWeights,
    Setup,
    Stop,
    master,
    row_blocks,
    worker,
)
from fedmpi.codedml.service import serve
from fedmpi.codedml.survival import UNANSWERED
from fedmpi.codedml.training import rounding_noise
from fedmpi.core import WIDE_PRIMES, PrimeField
from fedmpi.core import field as field_module
from fedmpi.errors import HeadroomError, PeerFailed, ProtocolError, TooFewWorkers, UsageError
from fedmpi.machines.placement import Host
from fedmpi.net import Channel, costs, run_local
from fedmpi.net.costs import Report
from fedmpi.net.message import encode
from fedmpi.net.orders import Leave, dismiss

test_masks.__test__ = False  # a source of masks, not a test

WIDE = 2147483647


def exactly(params: Params, X_bar: np.ndarray, Y: np.ndarray, learning_rate: float = 0.5) -> np.ndarray:
    """The weights that integer arithmetic gives; and they must be worth comparing."""
    W = by_integers(params, prepared(params, X_bar, Y, learning_rate))[-1].W
    assert np.isfinite(W).all()
    assert (np.abs(W) > 2.0**-params.weight_bits).any(), "weights that quantize to 0 would show no error"
    return W


# -- exactness ----------------------------------------------------------------------------------------------------

CUBIC: dict[str, Any] = {"degree": 3, "data_bits": 1, "weight_bits": 3, "coefficient_bits": 8, "prime": WIDE}
SQUARE: dict[str, Any] = {"degree": 2, "fit_range": (-3.0, 5.0), "coefficient_bits": 8, "prime": WIDE}

# name: options, m, d, outputs, N
EXACT: dict[str, tuple[dict[str, Any], int, int, int, int]] = {
    "degree 1": ({"parallelization": 3, "privacy": 2}, 30, 5, 1, 13),
    "degree 1, more workers than needed": ({"parallelization": 3, "privacy": 2}, 30, 5, 1, 17),
    "degree 2": ({"parallelization": 2, "privacy": 2, **SQUARE}, 12, 4, 1, 17),
    "degree 2 on a symmetric range": ({"parallelization": 2, "privacy": 1, "degree": 2, "prime": WIDE}, 12, 4, 1, 11),
    "degree 3": ({"parallelization": 2, "privacy": 1, **CUBIC}, 12, 4, 1, 15),
    "linear": ({"parallelization": 2, "privacy": 2, "model": "linear"}, 30, 5, 1, 10),
    "four classes": ({"parallelization": 2, "privacy": 2}, 30, 5, 4, 10),
    "four classes, degree 2": ({"parallelization": 2, "privacy": 1, **SQUARE}, 12, 4, 4, 12),
    "m not divisible by K": ({"parallelization": 4, "privacy": 1}, 23, 5, 1, 13),
    "the last blocks are empty": ({"parallelization": 4, "privacy": 1}, 5, 3, 1, 13),
    "K above m": ({"parallelization": 5, "privacy": 2}, 3, 4, 1, 19),
    "one row, one column": ({"parallelization": 1, "privacy": 1}, 1, 1, 1, 4),
    "much privacy": ({"parallelization": 1, "privacy": 5}, 9, 3, 1, 16),
    "decay": ({"parallelization": 2, "privacy": 1, "decay": 0.3}, 30, 5, 1, 7),
    "no coefficient bits in a linear model": (
        {"parallelization": 2, "privacy": 1, "model": "linear", "coefficient_bits": 0},
        20,
        3,
        1,
        7,
    ),
    "2^26 - 5": ({"parallelization": 2, "privacy": 2, "prime": 67108859, "weight_bits": 7}, 30, 5, 1, 10),
    "2^31 - 1": ({"parallelization": 2, "privacy": 2, "prime": WIDE, "weight_bits": 10}, 30, 5, 1, 10),
    "one prime of 26 bits": ({"parallelization": 2, "privacy": 2, "primes": 1}, 30, 5, 1, 10),
    "two primes": ({"parallelization": 2, "privacy": 2, "primes": 2}, 30, 5, 1, 10),
    "two primes, four classes, degree 2": (
        {"parallelization": 2, "privacy": 1, **SQUARE, "prime": None, "primes": 2},
        12,
        4,
        4,
        12,
    ),
    "three primes": ({"parallelization": 2, "privacy": 2, "primes": 3}, 30, 5, 1, 10),
    "three primes and more bits than two have": (
        {"parallelization": 2, "privacy": 2, "primes": 3, "weight_bits": 40},
        30,
        5,
        1,
        10,
    ),
    "a prime without a kernel": ({"parallelization": 2, "privacy": 2, "prime": 1_000_000_007}, 30, 5, 1, 10),
}


@pytest.mark.parametrize("kernels", ["compiled", "numpy"])
@pytest.mark.parametrize("name", EXACT)
def test_weights_are_those_of_integer_arithmetic_to_the_bit(
    name: str, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kernels == "numpy":
        monkeypatch.setattr(field_module, "_compiled", None)
    options, m, d, outputs, workers = EXACT[name]
    params = Params(paper=True, iterations=12, **options)
    assert PrimeField(params.prime or WIDE_PRIMES[0]).compiled <= (kernels == "compiled")
    X_bar, Y = problem(m, d, outputs, seed=len(name), top=2 if params.degree == 3 else 4)
    threads = train_on_threads(params, X_bar, Y, workers)
    np.testing.assert_array_equal(threads.W, exactly(params, X_bar, Y))
    assert threads.W.shape == (d, outputs)
    assert threads.training.headroom_bits > 0


def test_all_these_settings_are_different_trainings() -> None:
    """The table above would prove little if its options had no effect."""
    X_bar, Y = problem(12, 4, top=2)
    weights = set()
    for options in ({}, SQUARE, CUBIC, {"decay": 0.3}, {"model": "linear"}, {"weight_bits": 7}, {"data_bits": 1}):
        weights.add(exactly(Params(paper=True, iterations=12, **options), X_bar, Y).tobytes())
    assert len(weights) == 7


@pytest.mark.parametrize("chunk_bytes", [1, 400, 4096])
def test_data_that_travel_in_pieces_give_the_same_weights(chunk_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dealing, "CHUNK_BYTES", chunk_bytes)
    params = Params(paper=True, parallelization=4, privacy=1, iterations=6)
    X_bar, Y = problem(23, 5)
    threads = train_on_threads(params, X_bar, Y, 13)
    np.testing.assert_array_equal(threads.W, exactly(params, X_bar, Y))
    pieces = {1: 6, 400: 6, 4096: 1}[chunk_bytes]  # 6 rows in a block; one row for 13 workers takes 260 bytes
    assert threads.channels[1].meter.messages_received["DataSeed"] == 1
    assert threads.channels[2].meter.messages_received["CodedData"] == pieces


def test_the_masks_do_not_show_in_the_weights() -> None:
    params = Params(paper=True, parallelization=3, privacy=2, iterations=8)
    X_bar, Y = problem(31, 6, 2)
    sources: list[Any] = [test_masks(params.prime, seed) for seed in (1, 2)]
    sources.append(lambda shape: np.zeros(shape, np.uint32))
    seeds = [repeatable_seeds(1), repeatable_seeds(2), lambda: bytes(32)]
    runs = [
        train_on_threads(params, X_bar, Y, 13, uniform=u, seed=s, record_views=True)
        for u, s in zip(sources, seeds, strict=True)
    ]
    for run in runs:
        np.testing.assert_array_equal(run.W, exactly(params, X_bar, Y))
    for rank in (1, 3):
        seen = {data_of(run.views(rank)).tobytes() for run in runs}
        assert len(seen) == 3, "the masks must have been different"
        seen = {next(m.W_tilde.tobytes() for m in run.views(rank) if isinstance(m, CodedWeights)) for run in runs}
        assert len(seen) == 3, "the masks must have been different"


def test_the_rounding_noise_is_repeatable_and_its_seed_matters() -> None:
    params = Params(paper=True, parallelization=1, privacy=1, iterations=8)
    X_bar, Y = problem(20, 3)
    weights = [train_on_threads(params, X_bar, Y, 4, noise=rounding_noise(seed)).W for seed in (3, 3, 4)]
    np.testing.assert_array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[0], weights[2])


def test_observers_see_the_weights_of_every_iteration() -> None:
    params = Params(paper=True, parallelization=1, privacy=1, iterations=5)
    X_bar, Y = problem(20, 3)
    seen: list[tuple[int, np.ndarray]] = []
    threads = train_on_threads(params, X_bar, Y, 4, observe=lambda it, W: seen.append((it, W.copy())))
    assert [it for it, _ in seen] == [0, 1, 2, 3, 4, 5]
    assert not seen[0][1].any()
    np.testing.assert_array_equal(seen[-1][1], threads.W)
    for it, W in seen[1:]:
        shorter = Params(paper=True, parallelization=1, privacy=1, iterations=it)
        np.testing.assert_array_equal(W, train_quantized(shorter, prepared(shorter, X_bar, Y), rounding_noise(0)))


@pytest.mark.parametrize(("rows", "parallelization"), [(12, 3), (13, 3), (3, 5), (1, 1), (5, 4), (100, 7)])
def test_blocks_cover_every_row_once(rows: int, parallelization: int) -> None:
    blocks = row_blocks(rows, parallelization)
    assert len(blocks) == parallelization
    covered = np.concatenate([np.arange(rows)[block] for block in blocks])
    np.testing.assert_array_equal(covered, np.arange(rows))
    assert {block.stop - block.start for block in blocks} == {-(-rows // parallelization)}


@pytest.mark.filterwarnings("error")
def test_weights_that_become_infinite_are_an_error_and_nothing_else_is_said() -> None:
    params = Params(paper=True, parallelization=1, privacy=1, iterations=50)
    X_bar, Y = problem(20, 3)
    with pytest.raises(UsageError, match="lower") as error:
        train_on_threads(params, X_bar, Y, 4, learning_rate=1e300)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("kernels", ["compiled", "numpy"])
def test_quantized_weights_beyond_p_are_exact_too(sign: int, kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is decoded fits in F_p: that is all the exactness may rest on, though the weights themselves do not fit.

    Both columns are nearly the same, so that large weights of opposite signs nearly cancel.
    """
    if kernels == "numpy":
        monkeypatch.setattr(field_module, "_compiled", None)
    params = Params(
        "coded", "linear", 1, 1, paper=True, iterations=400, data_bits=0, weight_bits=10, coefficient_bits=0
    )
    X_bar = np.array([[1, 1], [1, 2]], np.float32)
    Y = sign * (X_bar @ np.array([[50000.0], [-31000.0]]))
    expected = exactly(params, X_bar, Y, 0.29)
    assert np.abs(expected * 2.0**params.weight_bits).max() > params.prime
    np.testing.assert_array_equal(train_on_threads(params, X_bar, Y, 4, learning_rate=0.29).W, expected)


# -- headroom -----------------------------------------------------------------------------------------------------


def test_without_the_check_of_headroom_the_weights_would_be_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutation that the check is there for: skipped, the training ends with weights that look like any others."""
    options: dict[str, Any] = {"parallelization": 2, "privacy": 1, "iterations": 12, "weight_bits": 10}
    X_bar, Y = problem(200, 5, seed=3)
    X_bar[:, 0] = 4
    Y[:] = X_bar[:, 1:2] > 0
    narrow, wide = Params(paper=True, prime=1_000_003, **options), Params(paper=True, prime=WIDE, **options)
    with pytest.raises(HeadroomError, match=r"decoded values must be below p/2 = 500002, got \d+ in iteration \d+"):
        train_on_threads(narrow, X_bar, Y, 7)
    expected = exactly(wide, X_bar, Y)
    np.testing.assert_array_equal(train_on_threads(wide, X_bar, Y, 7).W, expected)
    monkeypatch.setattr("fedmpi.codedml.headroom.Headroom.check", lambda self, W_bar, iteration, **_: 1)
    unchecked = train_on_threads(narrow, X_bar, Y, 7).W
    assert np.isfinite(unchecked).all()
    assert np.abs(unchecked - expected).max() > 0.1


@pytest.mark.parametrize("primes", [1, 2])
def test_where_only_the_sums_of_blocks_fit_they_are_added_up_as_integers(
    primes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the mutation that decodes the sum over all rows at once, which wraps around."""
    options: dict[str, Any] = {"iterations": 12, "weight_bits": {1: 16, 2: 42}[primes]}
    X_bar, Y = problem(200, 5, seed=3)
    X_bar[:, 0] = 4
    Y[:] = X_bar[:, 1:2] > 0
    alone = Params(paper=True, primes=primes, parallelization=1, privacy=1, **options)
    params = Params(paper=True, primes=primes, parallelization=8, privacy=1, **options)
    with pytest.raises(HeadroomError):
        train_on_threads(alone, X_bar, Y, 4)
    expected = exactly(Params(paper=True, primes=3, **options), X_bar, Y)
    check, runs = Headroom.check, set()

    def checked(self: Headroom, *arguments: Any, **options: Any) -> int:
        needed = check(self, *arguments, **options)
        runs.add(needed)
        return needed

    monkeypatch.setattr("fedmpi.codedml.headroom.Headroom.check", checked)
    np.testing.assert_array_equal(train_on_threads(params, X_bar, Y, 25).W, expected)
    assert any(1 < count < 8 for count in runs), "as few runs of blocks as fit"
    monkeypatch.setattr("fedmpi.codedml.headroom.Headroom.check", lambda self, W_bar, iteration, **_: 1)
    assert np.abs(train_on_threads(params, X_bar, Y, 25).W - expected).max() > 0.01


# -- stragglers ---------------------------------------------------------------------------------------------------


class Held:
    """A worker that reads no weights before `release` is set, and notes which ones it reads."""

    def __init__(self) -> None:
        self.release, self.answered = threading.Event(), threading.Event()
        self.iterations: list[int] = []
        self.skipped = 0

    def __call__(self, ch: Channel) -> None:
        receive, send = ch.recv_latest, ch.send

        def recv_latest(source: int, cls: Any, **options: Any) -> Any:
            if cls is CodedWeights:
                assert self.release.wait(HANG_SECONDS)
            message = receive(source, cls, **options)
            if isinstance(message, CodedWeights):
                self.iterations.append(message.iteration)
            return message

        def answer(dest: int, message: Any) -> None:
            send(dest, message)
            if isinstance(message, CodedGradient):
                self.answered.set()

        ch.recv_latest, ch.send = recv_latest, answer  # type: ignore[method-assign]
        serve(ch)
        self.skipped = ch.meter.late


def when_sent(ch: Channel, cls: type, dest: int, act: Any) -> None:
    """Have a channel act after it has sent a message of some type to somebody."""
    send = ch.send

    def sending(to: int, message: Any) -> None:
        send(to, message)
        if to == dest and isinstance(message, cls):
            act()

    ch.send = sending  # type: ignore[method-assign]


def test_a_worker_that_never_answers_costs_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "REPORT_SECONDS", 0.2)
    params = Params(paper=True, parallelization=2, privacy=1, iterations=3)
    X_bar, Y = problem(20, 4)
    held = Held()  # R = 7 of N = 9; it wakes when the training is over

    def wake(ch: Channel) -> None:
        when_sent(ch, Leave, 2, held.release.set)

    threads = train_on_threads(params, X_bar, Y, 9, roles={2: held}, on_master=wake)
    np.testing.assert_array_equal(threads.W, exactly(params, X_bar, Y))
    assert sorted(threads.training.reports) == [1, 3, 4, 5, 6, 7, 8, 9]


def test_a_worker_that_sleeps_through_the_training_does_not_hold_it_up() -> None:
    params = Params(paper=True, parallelization=2, privacy=1, iterations=8)
    X_bar, Y = problem(20, 4)
    held = {2: Held(), 5: Held()}  # R = 7 of N = 9

    def wake(ch: Channel) -> None:
        for rank, worker_held in held.items():
            when_sent(ch, Stop, rank, worker_held.release.set)

    threads = train_on_threads(params, X_bar, Y, 9, roles=held, on_master=wake)
    np.testing.assert_array_equal(threads.W, exactly(params, X_bar, Y))
    assert [h.iterations for h in held.values()] == [[], []]
    assert sorted(threads.training.reports) == list(range(1, 10)), "they report, late as they are"
    assert threads.channels[0].meter.messages_received["CodedGradient"] == 7 * 8


def test_a_worker_that_falls_behind_skips_to_the_newest_weights() -> None:
    params = Params(paper=True, parallelization=2, privacy=1, iterations=10)
    X_bar, Y = problem(20, 4)
    slow = Held()

    def observe(iteration: int, W: np.ndarray) -> None:
        if iteration == 6:  # its weights have been sent, as have those before
            slow.release.set()
            assert slow.answered.wait(HANG_SECONDS)

    threads = train_on_threads(params, X_bar, Y, 8, roles={3: slow}, observe=observe)
    np.testing.assert_array_equal(threads.W, exactly(params, X_bar, Y))
    # It has got no more than it may leave unanswered, and then only the newest: that of iteration 6, or what came while
    # it was getting there.
    assert slow.iterations[0] == UNANSWERED - 1
    assert slow.iterations[1] >= 6
    assert slow.iterations == sorted(set(slow.iterations))
    assert slow.skipped >= UNANSWERED - 1


@pytest.mark.parametrize("seed", range(4))
def test_any_workers_that_answer_first_give_the_same_weights(seed: int) -> None:
    """R = 7 of N = 11 answer; which, changes with the seed."""
    params = Params(paper=True, parallelization=2, privacy=1, iterations=4)
    X_bar, Y = problem(20, 4)
    chosen = np.random.default_rng(seed).permutation(np.arange(1, 12))[:4].tolist()
    held = {rank: Held() for rank in chosen}

    def wake(ch: Channel) -> None:
        for rank, worker_held in held.items():
            when_sent(ch, Stop, rank, worker_held.release.set)

    threads = train_on_threads(params, X_bar, Y, 11, roles=held, on_master=wake)
    np.testing.assert_array_equal(threads.W, exactly(params, X_bar, Y))


def twice(ch: Channel) -> None:
    """A worker that answers twice, the second time with nonsense."""
    send = ch.send

    def answer(dest: int, message: Any) -> None:
        send(dest, message)
        if isinstance(message, CodedGradient):
            send(dest, CodedGradient(message.training, message.iteration, np.zeros_like(message.gradient)))

    ch.send = answer  # type: ignore[method-assign]
    serve(ch)


def test_second_answers_are_dropped_and_counted() -> None:
    params = Params(paper=True, parallelization=2, privacy=1, iterations=9)
    X_bar, Y = problem(20, 4)
    threads = train_on_threads(params, X_bar, Y, 7, roles={4: twice})  # N = R: the master needs everybody's answer
    np.testing.assert_array_equal(threads.W, exactly(params, X_bar, Y))
    assert threads.channels[0].meter.late == 8  # the very last one is never looked at
    assert threads.channels[0].meter.messages_received["CodedGradient"] == 7 * 9 + 8


def test_a_late_answer_is_counted_and_changes_nothing() -> None:
    params = Params(paper=True, parallelization=2, privacy=1, iterations=9)
    X_bar, Y = problem(20, 4)
    answered = threading.Event()

    def stale(ch: Channel) -> None:
        """Answers the first weights only, when the second ones are on their way."""
        send = ch.send

        def answer(dest: int, message: Any) -> None:
            if isinstance(message, CodedGradient):
                if message.iteration != 0:
                    return
                assert second.wait(HANG_SECONDS)
                message = CodedGradient(message.training, 0, np.ones_like(message.gradient))
            send(dest, message)
            if isinstance(message, CodedGradient):
                answered.set()

        ch.send = answer  # type: ignore[method-assign]
        serve(ch)

    second = threading.Event()

    def observe(iteration: int, W: np.ndarray) -> None:
        if iteration == 1:
            second.set()
            assert answered.wait(HANG_SECONDS)

    threads = train_on_threads(params, X_bar, Y, 8, roles={6: stale}, observe=observe)
    np.testing.assert_array_equal(threads.W, exactly(params, X_bar, Y))
    assert threads.channels[0].meter.late >= 1


# -- one training after another -----------------------------------------------------------------------------------


def late_with_the_last(release: threading.Event, iterations: int) -> Any:
    """A worker that gives its last answer of the first training only when nobody waits for it any more."""

    def role(ch: Channel) -> None:
        send = ch.send

        def answer(dest: int, message: Any) -> None:
            if isinstance(message, CodedGradient) and message.iteration == iterations - 1:
                assert release.wait(HANG_SECONDS)
            send(dest, message)

        ch.send = answer  # type: ignore[method-assign]
        serve(ch)

    return role


def in_a_row(
    params: Params, problems: list[tuple[np.ndarray, np.ndarray]], roles: list[Any], after_first: Any, on_master: Any
) -> list[np.ndarray]:
    def lead(ch: Channel) -> list[np.ndarray]:
        on_master(ch)
        weights = []
        for number, (X_bar, Y) in enumerate(problems):

            def observe(iteration: int, W: np.ndarray, first: bool = number == 0) -> None:
                if first and iteration == params.iterations:
                    after_first()

            weights.append(master(ch, task_of(params, prepared(params, X_bar, Y), None, None, observe)).W)
        dismiss(ch)
        return weights

    return run_local([lead, *roles], timeout_seconds=HANG_SECONDS)[0]


@pytest.mark.parametrize("columns", [4, 5])
@pytest.mark.parametrize("iterations", [1, 3])
def test_an_answer_that_comes_after_its_training_does_not_disturb_the_next(iterations: int, columns: int) -> None:
    params = Params(paper=True, parallelization=2, privacy=1, iterations=iterations)
    problems = [problem(20, 4), problem(20, columns, seed=1)]
    release = threading.Event()
    roles = [late_with_the_last(release, iterations)] + [serve] * 7  # R = 7 of N = 8
    weights = in_a_row(params, problems, roles, release.set, lambda ch: None)
    for W, (X_bar, Y) in zip(weights, problems, strict=True):
        np.testing.assert_array_equal(W, train_quantized(params, prepared(params, X_bar, Y), rounding_noise(0)))


@pytest.mark.parametrize("columns", [4, 5])
def test_weights_that_a_worker_never_read_do_not_disturb_the_next_training(columns: int) -> None:
    params = Params(paper=True, parallelization=2, privacy=1, iterations=3)
    problems = [problem(20, 4), problem(20, columns, seed=1)]
    slow = Held()
    roles = [slow] + [serve] * 7
    weights = in_a_row(params, problems, roles, lambda: None, lambda ch: when_sent(ch, Stop, 1, slow.release.set))
    for W, (X_bar, Y) in zip(weights, problems, strict=True):
        np.testing.assert_array_equal(W, train_quantized(params, prepared(params, X_bar, Y), rounding_noise(0)))


# -- workers that fail or break the protocol ----------------------------------------------------------------------


def ends_of(roles: list[Any], **options: Any) -> list[BaseException | None]:
    """The exception that each rank ended with."""
    ends: list[BaseException | None] = [None] * len(roles)

    def watching(role: Any) -> Any:
        def play(ch: Channel) -> Any:
            try:
                return role(ch)
            except BaseException as error:
                ends[ch.rank] = error
                raise

        return play

    with pytest.raises(Exception):  # noqa: B017  # which one is the subject of the callers
        run_local([watching(role) for role in roles], **{"timeout_seconds": HANG_SECONDS, **options})
    return ends


def leading(params: Params, X_bar: np.ndarray, Y: np.ndarray) -> Any:
    def lead(ch: Channel) -> None:
        master(ch, task_of(params, prepared(params, X_bar, Y)))
        dismiss(ch)

    return lead


def answering(change: Any) -> Any:
    """A worker whose gradients are changed on their way."""

    def role(ch: Channel) -> None:
        send = ch.send

        def answer(dest: int, message: Any) -> None:
            send(dest, change(message) if isinstance(message, CodedGradient) else message)

        ch.send = answer  # type: ignore[method-assign]
        serve(ch)

    return role


def raising(message: CodedGradient) -> CodedGradient:
    if message.iteration == 2:
        raise RuntimeError("out of order")
    return message


def test_a_worker_that_raises_ends_the_training_where_it_is_needed() -> None:
    params = Params(paper=True, parallelization=2, privacy=1, iterations=6)
    roles = [leading(params, *problem(20, 4))] + [serve] * 7  # R = 7
    roles[3] = answering(raising)
    ends = ends_of(roles)
    assert isinstance(ends[3], RuntimeError)
    assert isinstance(ends[0], TooFewWorkers)
    assert ends[0].exit_code == 3
    assert str(ends[0]).startswith(
        "iteration 2: CodedGradient must come from 7 of 7 ranks, got 6: "
        "worker (rank 3) failed: RuntimeError: out of order ("
    )
    for end in (ends[rank] for rank in range(1, 8) if rank != 3):
        assert isinstance(end, PeerFailed)
        assert str(end) == f"master (rank 0) failed: {ends[0]}"


def test_a_worker_that_raises_is_done_without_where_others_are_enough() -> None:
    params = Params(paper=True, parallelization=2, privacy=1, iterations=6)
    X_bar, Y = problem(20, 4)
    trainings: list[Any] = []

    def lead(ch: Channel) -> None:
        def observe(iteration: int, W: np.ndarray) -> None:
            if iteration == 2:
                with pytest.raises(PeerFailed):  # before the others have finished without it
                    ch.recv(3, Leave)

        trainings.append(master(ch, task_of(params, prepared(params, X_bar, Y), None, None, observe)))
        trainings.append(ch.departed[3])
        dismiss(ch)

    roles = [lead] + [serve] * 9
    roles[3] = answering(raising)
    ends = ends_of(roles)
    assert [rank for rank, end in enumerate(ends) if end is not None] == [3]
    training, departed = trainings
    np.testing.assert_array_equal(training.W, exactly(params, X_bar, Y))
    assert training.departures == {3: 2} or training.departures == {3: 3}  # noticed then or in the next iteration
    assert "RuntimeError: out of order" in departed.reason


P = Params(paper=True).prime
HOSTILE: dict[str, tuple[Any, str]] = {
    "p itself": (
        lambda m: CodedGradient(m.training, m.iteration, np.full_like(m.gradient, P)),
        f"worker (rank 3) sent field elements that must be below {P}, got {P}",
    ),
    "one value of 2^32 - 1": (
        lambda m: CodedGradient(
            m.training, m.iteration, np.where(np.arange(4)[None, :, None] == 2, 2**32 - 1, m.gradient).astype("u4")
        ),
        f"worker (rank 3) sent field elements that must be below {P}, got {2**32 - 1}",
    ),
    "too many rows": (
        lambda m: CodedGradient(m.training, m.iteration, np.zeros((1, 5, 1), np.uint32)),
        "CodedGradient.gradient from rank 3 must have shape (1, 4, 1), got (1, 5, 1)",
    ),
    "a transposed gradient": (
        lambda m: CodedGradient(m.training, m.iteration, np.zeros((1, 1, 4), np.uint32)),
        "CodedGradient.gradient from rank 3 must have shape (1, 4, 1), got (1, 1, 4)",
    ),
    "residues of two primes": (
        lambda m: CodedGradient(m.training, m.iteration, np.zeros((2, 4, 1), np.uint32)),
        "CodedGradient.gradient from rank 3 must have shape (1, 4, 1), got (2, 4, 1)",
    ),
    "no values": (
        lambda m: CodedGradient(m.training, m.iteration, np.zeros((1, 0, 1), np.uint32)),
        "CodedGradient.gradient from rank 3 must have shape (1, 4, 1), got (1, 0, 1)",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_wrong_answer_is_refused_and_its_sender_named(name: str) -> None:
    change, message = HOSTILE[name]
    params = Params(paper=True, parallelization=2, privacy=1, iterations=3)
    roles = [leading(params, *problem(20, 4))] + [serve] * 7
    roles[3] = answering(change)
    ends = ends_of(roles)
    assert isinstance(ends[0], TooFewWorkers)
    assert str(ends[0]).endswith(message)
    assert "got 6: worker (rank 3) " in str(ends[0])
    for end in ends[1:]:
        assert isinstance(end, PeerFailed)
        assert str(end) == f"master (rank 0) failed: {ends[0]}"


@pytest.mark.parametrize("name", HOSTILE)
def test_a_worker_with_a_wrong_answer_is_done_without_where_others_are_enough(name: str) -> None:
    params = Params(paper=True, parallelization=2, privacy=1, iterations=3)
    X_bar, Y = problem(20, 4)
    threads = train_on_threads(params, X_bar, Y, 8, roles={3: answering(HOSTILE[name][0])})
    np.testing.assert_array_equal(threads.W, exactly(params, X_bar, Y))


@pytest.mark.parametrize("shift", [1, -1, 1000])
def test_a_worker_that_always_answers_another_iteration_is_named_at_the_deadline(shift: int) -> None:
    params = Params(paper=True, parallelization=2, privacy=1, iterations=3)
    lead = leading(params, *problem(20, 4))

    def impatient(ch: Channel) -> None:
        ch.timeout_seconds = 0.5
        lead(ch)

    roles = [impatient] + [serve] * 7
    roles[3] = answering(lambda m: CodedGradient(m.training, m.iteration + shift, m.gradient))
    ends = ends_of(roles)
    assert isinstance(ends[0], TooFewWorkers)
    assert str(ends[0]).endswith("got 6: worker (rank 3) sent no CodedGradient for 0.5 s")


def test_the_worker_that_is_silent_is_named_where_all_wait_equally_long() -> None:
    """The others have waited for the master before it waits for the last of them: they must not be the first to end."""

    def silent(ch: Channel) -> None:
        ch.timeout_seconds = HANG_SECONDS
        send, never = ch.send, threading.Event()

        def answer(dest: int, message: Any) -> None:
            if isinstance(message, CodedGradient):
                never.wait(0.4)  # the others' answers are there, and this one is of no use
                message = CodedGradient(message.training, -1, message.gradient)
            send(dest, message)

        ch.send = answer  # type: ignore[method-assign]
        serve(ch)

    params = Params(paper=True, parallelization=2, privacy=1, iterations=3)
    roles = [leading(params, *problem(20, 4))] + [serve] * 7
    roles[3] = silent
    ends = ends_of(roles, timeout_seconds=1.0)
    assert str(ends[0]).endswith("got 6: worker (rank 3) sent no CodedGradient for 1 s")


def test_answers_to_another_iteration_are_dropped_where_others_are_enough() -> None:
    params = Params(paper=True, parallelization=2, privacy=1, iterations=6)
    X_bar, Y = problem(20, 4)
    wrong = answering(lambda m: CodedGradient(m.training, m.iteration + 1000, np.zeros_like(m.gradient)))
    threads = train_on_threads(params, X_bar, Y, 8, roles={3: wrong})
    np.testing.assert_array_equal(threads.W, exactly(params, X_bar, Y))


def test_an_answer_of_another_type_is_refused() -> None:
    def impostor(ch: Channel) -> None:
        class Other(protocol.Message, tag=CodedGradient.tag):
            gradient: protocol.UInt32

        ch.recv(0, Setup)
        ch.send(0, Other(np.zeros((1, 4, 1), np.uint32)))
        ch.recv(0, Leave)

    params = Params(paper=True, parallelization=2, privacy=1, iterations=3)
    roles = [leading(params, *problem(20, 4))] + [serve] * 7
    roles[3] = impostor
    ends = ends_of(roles)
    assert isinstance(ends[0], TooFewWorkers)
    assert "CodedGradient from rank 3 must have tag 4 and schema" in str(ends[0])


# -- a master that breaks the protocol ----------------------------------------------------------------------------


def setup(
    rows: int = 4, columns: int = 3, outputs: int = 1, degree: int = 1, primes: tuple[int, ...] = (P,), **others: Any
) -> Setup:
    coefficients = others.get("coefficients", [[5, 7][: degree + 1]] * len(primes) if degree else [[]] * len(primes))
    public = np.array(primes, np.uint32), np.array(coefficients, np.uint32)
    return Setup(0, 60.0, rows, columns, outputs, degree, others.get("again", False), *public)


def filled(value: int, *shape: int) -> np.ndarray:
    return np.full(shape, value, np.uint32)


DATA = coded_data(filled(1, 1, 4, 3))
WRONG_MASTER: dict[str, tuple[list[Any], str]] = {
    "no rows": ([setup(rows=0)], "Setup.rows from rank 0 must be from 1 to "),
    "no outputs": ([setup(outputs=0)], "Setup.outputs from rank 0 must be from 1 to "),
    "negative columns": ([setup(columns=-3)], "Setup.columns from rank 0 must be from 1 to "),
    "a negative degree": ([setup(degree=-1)], "Setup.degree from rank 0 must be from 0 to "),
    "a constant polynomial": ([setup(coefficients=[[5]])], "Setup must hold 1 + 1 coefficients, got (1, 1)"),
    "coefficients without a degree": ([setup(degree=0, coefficients=[[5]])], "Setup must hold 0 + 1 coefficients"),
    "coefficients of one prime of two": (
        [setup(primes=WIDE_PRIMES[:2], coefficients=[[5, 7]])], "field elements from rank 0 must be below",
    ),
    "a coefficient above p": ([setup(coefficients=[[5, P]])], f"rank 0 must be below {P}, got {P}"),
    "no field": ([setup(primes=(P + 2,))], "the modulus must be prime, got 33554395 = 5·7·277·3461"),
    "no primes": ([setup(primes=(), coefficients=[])], "primes must be one to three"),
    "four primes": ([setup(primes=(3, 5, 7, 11))], "primes must be one to three"),
    "one prime twice": ([setup(primes=(P, P))], "primes must be one to three different ones"),
    "primes whose product is too large": (
        [setup(primes=(WIDE, P, 2**26 - 5))], "the product of the primes must be below 2^78",
    ),
    "too many rows of data": ([setup(), coded_data(filled(1, 1, 5, 3))], "CodedData must hold 1 to 4 rows, got 5"),
    "too many rows in two pieces": (
        [setup(), coded_data(filled(1, 1, 3, 3)), DATA], "CodedData must hold 1 to 1 rows, got 4",
    ),
    "an empty piece": ([setup(), coded_data(filled(1, 1, 0, 3))], "CodedData.rows from rank 0 must be from 1 to "),
    "other columns": (
        [setup(), coded_data(filled(1, 1, 4, 2))], "CodedData of 4 rows must have 10 words, got (7,)",
    ),
    "data of one prime of two": (
        [setup(primes=WIDE_PRIMES[:2]), DATA], "CodedData of 4 rows must have 20 words, got (10,)",
    ),
    "data of two dimensions": (
        [setup(), CodedData(4, filled(1, 2, 5))], "CodedData.X_tilde from rank 0 must have shape (any), got (2, 5)",
    ),
    "bits behind the data": (
        [setup(), CodedData(4, filled(2**32 - 1, 10))], "the bits behind packed numbers must be 0, got 0xfff",
    ),
    "data above p": ([setup(), coded_data(filled(P, 1, 4, 3))], f"rank 0 must be below {P}, got {P}"),
    "data above the second prime": (
        [setup(primes=WIDE_PRIMES[:2]), coded_data(filled(WIDE_PRIMES[1], 2, 4, 3), *WIDE_PRIMES[:2])],
        f"rank 0 must be below {WIDE_PRIMES[1]}, got {WIDE_PRIMES[1]}",
    ),
    "a short seed": (
        [setup(), DataSeed(4, np.zeros(16, np.uint8))], "DataSeed.seed from rank 0 must have shape (32), got (16)",
    ),
    "a seed without a step": (
        [setup(), DataSeed(0, np.zeros(32, np.uint8))], "DataSeed.step from rank 0 must be from 1 to ",
    ),
    "a seed behind data": (
        [setup(), coded_data(filled(1, 1, 3, 3)), DataSeed(4, np.zeros(32, np.uint8))], "DataSeed must come alone",
    ),
    "data that were never sent": ([setup(again=True)], "Setup must name data that this worker holds, got another"),
    "weights of another degree": (
        [setup(), DATA, CodedWeights(0, 0, filled(1, 1, 3, 2, 1))],
        "CodedWeights.W_tilde from rank 0 must have shape (1, 3, 1, 1), got (1, 3, 2, 1)",
    ),
    "weights above p": (
        [setup(), DATA, CodedWeights(0, 0, filled(P + 1, 1, 3, 1, 1))],
        f"field elements from rank 0 must be below {P}, got {P + 1}",
    ),
    "a vector of another length": (
        [setup(degree=0), DATA, CodedVectors(0, 0, False, filled(1, 1, 4, 1))],
        "CodedVectors must fit the data of shape (1, 4, 3), got (1, 4, 1)",
    ),
    "residuals of another length": (
        [setup(degree=0), DATA, CodedVectors(0, 1, True, filled(1, 1, 3, 1))],
        "CodedVectors must fit the data of shape (1, 4, 3), got (1, 3, 1)",
    ),
    "a vector of two primes": (
        [setup(degree=0), DATA, CodedVectors(0, 0, False, filled(1, 2, 3, 1))],
        "CodedVectors.V_tilde from rank 0 must have shape (1, any, 1), got (2, 3, 1)",
    ),
    "vectors above p": (
        [setup(degree=0), DATA, CodedVectors(0, 0, False, filled(P, 1, 3, 1))],
        f"field elements from rank 0 must be below {P}, got {P}",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_MASTER)
def test_a_worker_refuses_what_breaks_the_protocol(name: str) -> None:
    messages, text = WRONG_MASTER[name]

    def lead(ch: Channel) -> None:
        for message in messages:
            ch.send(1, message)
        ch.recv(1, Report)

    ends = ends_of([lead, serve])
    assert isinstance(ends[1], ProtocolError | UsageError)
    assert not isinstance(ends[1], PeerFailed)
    assert text in str(ends[1])
    assert str(ends[0]) == f"worker (rank 1) failed: {ends[1]}"


def test_a_setup_that_asks_for_more_memory_than_there_is_is_refused() -> None:
    def lead(ch: Channel) -> None:
        ch.send(1, setup(rows=1 << 40, columns=1 << 20))
        ch.recv(1, Report)

    ends = ends_of([lead, serve])
    assert str(ends[0]).startswith("worker (rank 1) failed: ")


def test_a_worker_answers_with_the_polynomial_of_the_setup() -> None:
    X = np.arange(12, dtype=np.uint32).reshape(1, 4, 3)
    W = np.array([1, 2, 3], np.uint32).reshape(1, 3, 1, 1)

    def lead(ch: Channel) -> tuple[CodedGradient, Report]:
        for message in (coded_data(X[:, :1]), coded_data(X[:, 1:]), CodedWeights(0, 7, W)):
            ch.send(1, message)
        answer = ch.recv(1, CodedGradient)
        ch.send(1, Stop())
        return answer, ch.recv(1, Report)

    (answer, report), held = run_local([lead, lambda ch: worker(ch, setup())], timeout_seconds=HANG_SECONDS)
    z = X[0].astype(int) @ W[0, :, 0].astype(int)
    assert answer.iteration == 7
    np.testing.assert_array_equal(answer.gradient[0], X[0].astype(int).T @ (5 + 7 * z) % P)
    np.testing.assert_array_equal(held, X)
    assert report.bytes_received > 25 * 12 / 8 + 4 * 3


def test_without_a_polynomial_a_worker_multiplies_for_each_prime_apart() -> None:
    primes = np.array(WIDE_PRIMES[:2], object)
    rng = np.random.default_rng(0)
    X, down, back = (rng.integers(0, WIDE_PRIMES[1], (2, *s), np.uint32) for s in ((4, 3), (3, 2), (4, 2)))

    def lead(ch: Channel) -> list[np.ndarray]:
        products = []
        data = coded_data(X, *WIDE_PRIMES[:2])
        for message in (data, CodedVectors(0, 4, False, down), CodedVectors(0, 5, True, back)):
            ch.send(1, message)
            if isinstance(message, CodedVectors):
                answer = ch.recv(1, CodedProduct)
                assert answer.iteration == message.iteration
                products.append(answer.product)
        ch.send(1, Stop())
        ch.recv(1, Report)
        return products

    public = setup(degree=0, outputs=2, primes=WIDE_PRIMES[:2])
    forward, backward = run_local([lead, lambda ch: worker(ch, public)], timeout_seconds=HANG_SECONDS)[0]
    for j, p in enumerate(primes):
        np.testing.assert_array_equal(forward[j], X[j].astype(object) @ down[j].astype(object) % p)
        np.testing.assert_array_equal(backward[j], X[j].astype(object).T @ back[j].astype(object) % p)


# -- workers that take nothing at first ---------------------------------------------------------------------------


@dataclass
class Full:
    """Ranks to which, as the master sees it, too much is on the way."""

    ranks: set[int]
    sent: list[int] = field(default_factory=list)
    """To whom a piece was sent."""

    def watch(self, ch: Channel) -> None:
        ch.transport.outstanding_bytes = lambda dest=None: (1 << 40) * (dest in self.ranks)  # type: ignore[method-assign]
        post = ch.transport.post

        def noting(dest: int, tag: int, *others: Any) -> None:
            if tag == CodedData.tag:
                self.sent.append(dest)
            post(dest, tag, *others)

        ch.transport.post = noting  # type: ignore[method-assign]


def late(monkeypatch: pytest.MonkeyPatch, until: int | None, **options: Any) -> tuple[Any, Full]:
    """A training of 8 iterations with R = 10 of 11 workers, in pieces of a row; worker 7 has no room at first."""
    monkeypatch.setattr(dealing, "CHUNK_BYTES", 1)
    monkeypatch.setattr(dealing, "LINGER_SECONDS", 0.01)
    params = Params(paper=True, parallelization=3, privacy=1, iterations=12, **options)
    X_bar, Y = problem(9, 4)
    full = Full({7})

    def observe(iteration: int, W: np.ndarray) -> None:
        if iteration == until:
            full.ranks.clear()

    threads = train_on_threads(params, X_bar, Y, 11, observe=observe, on_master=full.watch)
    np.testing.assert_array_equal(threads.W, exactly(params, X_bar, Y))
    return threads, full


def test_a_worker_that_takes_nothing_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    threads, full = late(monkeypatch, None)
    assert {rank: full.sent.count(rank) for rank in range(1, 12)} == {1: 0, 7: 0} | {
        rank: 3 for rank in range(2, 12) if rank != 7
    }
    assert 7 not in threads.channels[0].departed
    assert threads.channels[7].meter.messages_sent["CodedGradient"] == 0
    assert set(threads.training.reports) == set(range(1, 12)), "it heard that the training was over"


def test_a_worker_that_has_room_again_joins_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    threads, full = late(monkeypatch, 2)
    assert full.sent.count(7) == 3, "a piece in each of three iterations"
    assert full.sent[-3:] == [7, 7, 7]
    assert threads.channels[7].meter.messages_sent["CodedGradient"] > 0
    honest = data_of(train_on_threads(
        Params(paper=True, parallelization=3, privacy=1, iterations=12), *problem(9, 4), 11, record_views=True
    ).views(7))  # fmt: skip
    assert honest.shape == (1, 3, 4)


def test_without_a_spare_the_training_waits_for_the_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of eleven workers have no room, and R = 10: one of the two is waited for."""
    monkeypatch.setattr(dealing, "CHUNK_BYTES", 1)
    monkeypatch.setattr(dealing, "LINGER_SECONDS", 0.01)
    params, full = Params(paper=True, parallelization=3, privacy=1, iterations=3), Full({6, 7})

    def relieved(ch: Channel) -> None:
        full.watch(ch)
        threading.Timer(0.3, full.ranks.discard, [6]).start()

    X_bar, Y = problem(9, 4)
    threads = train_on_threads(params, X_bar, Y, 11, on_master=relieved)
    np.testing.assert_array_equal(threads.W, exactly(params, X_bar, Y))
    assert (full.sent.count(6), full.sent.count(7)) == (3, 0)


def test_data_that_somebody_has_not_got_are_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dealing, "CHUNK_BYTES", 1)
    monkeypatch.setattr(dealing, "LINGER_SECONDS", 0.01)
    params, full = Params(paper=True, parallelization=3, privacy=1, iterations=3), Full({7})
    X_bar, Y = problem(9, 4)

    def lead(ch: Channel) -> list[int]:
        full.watch(ch)
        sent = []
        for _ in range(3):
            W = master(ch, task_of(params, prepared(params, X_bar, Y), keep=True)).W
            np.testing.assert_array_equal(W, exactly(params, X_bar, Y))
            sent.append(len(full.sent))
            full.ranks.clear()
        dismiss(ch)
        return sent

    sent = run_local([lead] + [serve] * 11, timeout_seconds=HANG_SECONDS)[0]
    assert sent == [27, 57, 57]


# -- bytes --------------------------------------------------------------------------------------------------------


def header_bytes(message: Any) -> int:
    return len(encode(message)[0])


def wire(message: Any) -> int:
    return header_bytes(message) + sum(array.nbytes for array in encode(message)[1])


@pytest.mark.parametrize(("degree", "outputs"), [(1, 1), (2, 1), (1, 3)])
def test_bytes_sent_are_those_of_the_papers_table(degree: int, outputs: int) -> None:
    """Table I: each worker gets its part of the data once, md/K elements, and dr elements per iteration; it sends d.

    25 bits per element of data, and a seed in place of all for T workers; else four bytes per element, C outputs
    instead of one, and a header for each message.
    """
    m, d, workers, iterations = 23, 5, 16 if degree == 2 else 10, 6  # N = R: nobody falls behind
    options = SQUARE if degree == 2 else {}
    params = Params(paper=True, parallelization=2, privacy=2, iterations=iterations, **options)
    rows = 12  # m/K, rounded up
    threads = train_on_threads(params, *problem(m, d, outputs), workers)
    data = wire(coded_data(filled(0, 1, rows, d), params.prime or P))
    weights = wire(CodedWeights(0, 0, filled(0, 1, d, degree, outputs)))
    gradient = wire(CodedGradient(0, 0, filled(0, 1, d, outputs)))
    public = wire(setup(rows, d, outputs, degree, coefficients=filled(0, 1, degree + 1)))
    sent = threads.channels[0].meter.bytes_sent
    assert dict(sent) == {
        "Setup": workers * public,
        "CodedData": (workers - 2) * data,
        "DataSeed": 2 * wire(DataSeed(1, np.zeros(SEED_BYTES, np.uint8))),
        "CodedWeights": workers * iterations * weights,
        "Stop": workers * wire(Stop()),
        "Leave": workers * wire(Leave()),
    }
    received = threads.channels[0].meter
    needed = params.code(workers).recovery_threshold
    answers = received.messages_received["CodedGradient"]
    assert iterations * needed <= answers <= iterations * workers
    assert received.bytes_received["CodedGradient"] == answers * gradient
    for rank, report in threads.training.reports.items():
        meter = threads.channels[rank].meter
        computed = meter.messages_sent["CodedGradient"]
        assert meter.bytes_sent["CodedGradient"] == computed * gradient
        assert report.bytes_sent == header_bytes(Host(os.uname().nodename, 0)) + computed * gradient
        assert meter.bytes_received["CodedData"] == (data if rank > 2 else 0)
    assert sum(header_bytes(m) for m in (setup(), DATA, Stop())) < 150, "headers are small change"
