"""Two exchanges an iteration, and bits that follow the data: the same bits as integers give, with 1 to 3 primes."""

from typing import Any

import numpy as np
import pytest
from protocol.codedml_threads import (
    HANG_SECONDS,
    by_integers,
    coded_data,
    prepared,
    problem,
    task_of,
    test_masks,
    train_on_threads,
)

from fedmpi.codedml.baseline import mpc_master
from fedmpi.codedml.params import Params
from fedmpi.codedml.protocol import CodedVectors, Setup, Stop, master
from fedmpi.codedml.service import serve
from fedmpi.codedml.solvers import State
from fedmpi.core import WIDE_PRIMES
from fedmpi.core import field as field_module
from fedmpi.errors import ProtocolError
from fedmpi.net import Channel, run_local
from fedmpi.net.costs import Report
from fedmpi.net.orders import dismiss

test_masks.__test__ = False  # a source of masks, not a test

# name: options, m, d, outputs, N
EXACT: dict[str, tuple[dict[str, Any], int, int, int, int]] = {
    "lbfgs": ({}, 40, 5, 1, 9),
    "lbfgs, more workers than needed": ({"parallelization": 3, "privacy": 2}, 40, 5, 1, 13),
    "lbfgs, three classes": ({"parallelization": 2, "privacy": 2}, 41, 5, 3, 7),
    "lbfgs, no intercept": ({"bias": False}, 40, 5, 1, 5),
    "cg": ({"solver": "cg"}, 40, 5, 1, 9),
    "cg, three classes": ({"solver": "cg"}, 40, 5, 3, 9),
    "nesterov": ({"solver": "nesterov"}, 40, 5, 1, 9),
    "gradient": ({"solver": "gradient", "decay": 0.1}, 40, 5, 1, 9),
    "gradient, averaged, three classes": ({"solver": "gradient", "average": True}, 40, 5, 3, 9),
    "linear": ({"model": "linear"}, 40, 5, 1, 9),
    "linear, gradient, ridge": ({"model": "linear", "solver": "gradient", "l2": 2.0}, 40, 5, 1, 9),
    "linear, degree 1": ({"model": "linear", "degree": 1}, 40, 5, 1, 7),
    "degree 1": ({"degree": 1}, 40, 5, 1, 10),
    "degree 1, three classes": ({"degree": 1}, 40, 5, 3, 10),
    "degree 1, lbfgs": ({"degree": 1, "solver": "lbfgs"}, 40, 5, 1, 10),
    "degree 1, nesterov": ({"degree": 1, "solver": "nesterov"}, 40, 5, 1, 10),
    "degree 3": ({"degree": 3, "parallelization": 2, "privacy": 1}, 20, 3, 1, 15),
    "degree 3, three classes": ({"degree": 3}, 20, 3, 3, 8),
    "degree 3, gradient": ({"degree": 3, "solver": "gradient"}, 20, 3, 1, 8),
    "degree 3 on a given interval": ({"degree": 3, "fit_range": (-4.0, 4.0)}, 20, 3, 1, 8),
    "m not divisible by K": ({"parallelization": 4, "privacy": 1}, 23, 5, 1, 9),
    "the last blocks are empty": ({"parallelization": 4, "privacy": 1}, 5, 3, 1, 9),
    "K above m": ({"parallelization": 5, "privacy": 2}, 3, 4, 1, 13),
    "one column": ({"parallelization": 1, "privacy": 1, "tolerance": 0.0}, 7, 1, 1, 3),
}


def instance(name: str) -> tuple[Params, np.ndarray, np.ndarray, int]:
    options, m, d, outputs, workers = EXACT[name]
    params = Params(iterations=9, data_bits=3, **options)
    X_bar, Y = problem(m, d, outputs, seed=len(name), top=8)
    if outputs > 1:
        Y = np.eye(outputs)[np.random.default_rng(1).integers(0, outputs, m)]
    if params.has_ones:
        X_bar[:, -1] = 8
    return params, X_bar, Y, workers


def wider(params: Params, primes: Any) -> Params:
    return Params(**{**vars(params), "primes": primes})


def assert_same(states: list[State], expected: list[State]) -> None:
    """All that a training goes on from, after every iteration."""
    assert [state.iteration for state in states] == [state.iteration for state in expected]
    for one, two in zip(states, expected, strict=True):
        np.testing.assert_array_equal(one.W, two.W)
        assert one.converged == two.converged
        assert one.arrays.keys() == two.arrays.keys()
        for key in two.arrays:
            np.testing.assert_array_equal(one.arrays[key], two.arrays[key], err_msg=key)


# 26 bits are too few for a polynomial of degree 3.
@pytest.mark.parametrize(("name", "primes"), [(n, q) for n in EXACT for q in (1, 2, 3) if q > 1 or "degree 3" not in n])
def test_every_state_is_that_of_integer_arithmetic_to_the_bit(name: str, primes: Any) -> None:
    params, X_bar, Y, workers = instance(name)
    params = wider(params, primes)
    expected = by_integers(params, prepared(params, X_bar, Y))
    assert len(expected) > 2
    assert np.isfinite(expected[-1].W).all()
    assert np.abs(expected[-1].W).max() > 0.01
    states: list[State] = []
    threads = train_on_threads(params, X_bar, Y, workers, advance=states.append)
    assert_same(states, expected)
    np.testing.assert_array_equal(threads.W, expected[-1].W)
    assert threads.training.headroom_bits >= 0


@pytest.mark.parametrize("name", ["lbfgs, three classes", "degree 1"])
def test_without_compiled_kernels_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(field_module, "_compiled", None)
    params, X_bar, Y, workers = instance(name)
    expected = by_integers(params, prepared(params, X_bar, Y))
    np.testing.assert_array_equal(train_on_threads(params, X_bar, Y, workers).W, expected[-1].W)


def test_all_these_settings_are_different_trainings() -> None:
    """The table above would prove little if its options had no effect."""
    shape = (40, 5, 1)
    single = [name for name, row in EXACT.items() if row[1:4] == shape and "workers" not in name]
    weights = set()
    for name in single:
        params = instance(name)[0]
        _, X_bar, Y, _ = instance("lbfgs")
        weights.add(by_integers(params, prepared(params, X_bar, Y))[-1].W.tobytes())
    assert len(weights) == len(single)


def test_the_masks_and_who_answers_do_not_show_in_the_weights() -> None:
    params, X_bar, Y, workers = instance("lbfgs, more workers than needed")
    p = prepared(params, X_bar, Y).precision.primes[0]
    sources: list[Any] = [test_masks(p, 1), test_masks(p, 2), lambda shape: np.zeros(shape, np.uint32)]
    runs = [train_on_threads(params, X_bar, Y, n, uniform=u) for n in (9, workers) for u in sources]
    assert len({run.W.tobytes() for run in runs}) == 1


def test_an_iteration_counts_two_exchanges() -> None:
    params, X_bar, Y, _ = instance("lbfgs")
    seen: list[int] = []
    threads = train_on_threads(params, X_bar, Y, 9, observe=lambda it, W: seen.append(it))
    done = threads.training.state.iteration
    assert seen == list(range(done + 1))
    sent = threads.channels[0].meter.messages_sent["CodedVectors"]
    # Where the tolerance ends the search, the gradient that says so was asked for in vain.
    assert sent == 9 * (2 * done + (threads.training.state.converged and done < params.iterations))


def test_a_training_that_converged_stops_early_and_a_tolerance_of_0_does_not() -> None:
    _, X_bar, Y, _ = instance("lbfgs")
    early = train_on_threads(Params(iterations=40, data_bits=3), X_bar, Y, 9).training.state
    assert early.converged
    assert early.iteration < 20
    late = train_on_threads(Params(iterations=12, data_bits=3, tolerance=0.0), X_bar, Y, 9).training.state
    assert late.iteration == 12


# -- one training after another -----------------------------------------------------------------------------------


def in_a_row(
    trainings: list[tuple[Params, np.ndarray, np.ndarray]], workers: int, keep: list[bool] | None = None
) -> tuple[list[np.ndarray], list[int], Channel]:
    """The weights of trainings on one channel, how often each sent data, and the channel."""

    def lead(ch: Channel) -> tuple[list[np.ndarray], list[int], Channel]:
        weights, sent = [], []
        for number, (params, X_bar, Y) in enumerate(trainings):
            before = ch.meter.messages_sent["CodedData"]
            task = task_of(params, prepared(params, X_bar, Y), keep=keep is None or keep[number])
            weights.append(master(ch, task).W)
            sent.append(ch.meter.messages_sent["CodedData"] - before)
        dismiss(ch)
        return weights, sent, ch

    return run_local([lead] + [serve] * workers, timeout_seconds=HANG_SECONDS)[0]


def assert_exact(weights: list[np.ndarray], trainings: list[tuple[Params, np.ndarray, np.ndarray]]) -> None:
    for W, (params, X_bar, Y) in zip(weights, trainings, strict=True):
        np.testing.assert_array_equal(W, by_integers(params, prepared(params, X_bar, Y))[-1].W)


def test_a_second_training_on_the_same_rows_sends_no_data() -> None:
    X_bar, Y = problem(40, 5, top=8)
    other = X_bar.copy()
    other[17, 3] -= 1
    code: dict[str, Any] = {"parallelization": 2, "privacy": 1, "data_bits": 3, "iterations": 5}
    trainings = [
        (Params(**code), X_bar, Y),
        (Params(**code, l2=7.0), X_bar, Y),
        (Params(**code, solver="cg"), X_bar, 1 - Y),
        (Params(**code), other, Y),  # one entry is another
        (Params(**code), X_bar, Y),
        (Params(**code, primes=2), X_bar, Y),
        (Params(**code, primes=2, degree=1), X_bar, Y),  # the exchange may change
        (Params(**{**code, "privacy": 2}, primes=2), X_bar, Y),
        (Params(**{**code, "privacy": 2}, primes=2), X_bar[:39], Y[:39]),
        (Params(**{**code, "privacy": 2}, primes=2), X_bar[:, :4], Y),
    ]
    weights, sent, _ = in_a_row(trainings, 9)
    assert [count > 0 for count in sent] == [True, False, False, True, True, True, False, True, True, True]
    assert_exact(weights, trainings)


def test_without_keep_every_training_sends_its_data_and_none_is_taken_for_another() -> None:
    X_bar, Y = problem(40, 5, top=8)
    other = problem(40, 5, top=8, seed=1)[0]
    params = Params(parallelization=2, privacy=1, data_bits=3, iterations=4)
    trainings = [(params, X_bar, Y), (params, X_bar, Y), (params, other, Y), (params, X_bar, Y), (params, X_bar, Y)]
    weights, sent, _ = in_a_row(trainings, 7, keep=[True, False, False, True, True])
    assert [count > 0 for count in sent] == [True, True, True, True, False]
    assert_exact(weights, trainings)


def test_data_that_a_baseline_took_the_place_of_are_sent_again() -> None:
    X_bar, Y = problem(40, 5, top=8)
    params = Params(parallelization=2, privacy=1, data_bits=3, iterations=4)

    def lead(ch: Channel) -> int:
        master(ch, task_of(params, prepared(params, X_bar, Y), keep=True))
        bgw = Params("bgw", iterations=2, data_bits=3)
        mpc_master(ch, task_of(bgw, prepared(bgw, X_bar, Y)))
        before = ch.meter.messages_sent["CodedData"]
        again = master(ch, task_of(params, prepared(params, X_bar, Y), keep=True))
        np.testing.assert_array_equal(again.W, by_integers(params, prepared(params, X_bar, Y))[-1].W)
        dismiss(ch)
        return ch.meter.messages_sent["CodedData"] - before

    assert run_local([lead] + [serve] * 9, timeout_seconds=HANG_SECONDS)[0] > 0


def test_the_masks_of_vectors_are_new_in_every_training_on_the_same_data() -> None:
    """What a worker gets of the same first direction: another share each time."""
    X_bar, Y = problem(40, 5, top=8)
    params = Params(parallelization=2, privacy=1, data_bits=3, iterations=3)
    shares: list[list[bytes]] = [[], []]

    def watching(ch: Channel) -> None:
        serve(ch)
        for _, message in ch._views:
            if isinstance(message, CodedVectors):
                shares[message.training > 0].append(message.V_tilde.tobytes())

    def lead(ch: Channel) -> None:
        for _ in range(2):
            master(ch, task_of(params, prepared(params, X_bar, Y), keep=True))
        dismiss(ch)

    run_local([lead, watching] + [serve] * 6, timeout_seconds=HANG_SECONDS, record_views=True)
    assert len(shares[0]) == len(shares[1]) > 2
    assert not set(shares[0]) & set(shares[1])


@pytest.mark.parametrize(("rows", "columns", "q"), [(3, 3, 1), (4, 2, 1), (4, 3, 2)])
def test_a_worker_that_is_told_again_for_data_of_another_shape_refuses_in_one_line(
    rows: int, columns: int, q: int
) -> None:
    def setup(again: bool, rows: int, columns: int, q: int) -> Setup:
        primes = np.array(WIDE_PRIMES[:q], np.uint32)
        return Setup(0, 60.0, rows, columns, 1, 0, again, primes, np.zeros((q, 0), np.uint32))

    def lead(ch: Channel) -> None:
        ch.send(1, setup(False, 4, 3, 1))
        ch.send(1, coded_data(np.ones((1, 4, 3), np.uint32), WIDE_PRIMES[0]))
        ch.send(1, Stop())
        ch.recv(1, Report)
        ch.send(1, setup(True, rows, columns, q))
        ch.recv(1, Report)

    with pytest.raises(ProtocolError, match="Setup must name data that this worker holds, got another") as error:
        run_local([lead, serve], timeout_seconds=HANG_SECONDS)
    assert "\n" not in str(error.value)
