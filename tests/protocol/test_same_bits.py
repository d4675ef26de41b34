"""Private training and the same steps in integer arithmetic end with the same bits, whatever the solver and field."""

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_digits

from fedmpi.codedml.params import Params
from fedmpi.codedml.plain import integer_product, train_quantized
from fedmpi.codedml.problem import Problem
from fedmpi.codedml.service import serve
from fedmpi.codedml.training import new_task, rounding_noise, train
from fedmpi.net import Channel, run_local
from fedmpi.net.orders import dismiss

WORKERS = 9


def trained(params: Params, problem: Problem) -> np.ndarray:
    def master(ch: Channel) -> np.ndarray:
        outcome = train(ch, new_task(params, problem, 0))
        dismiss(ch)
        return outcome.W

    result: np.ndarray = run_local([master, *[serve] * WORKERS])[0]
    return result


def problem(params: Params, classes: int) -> Problem:
    if params.model == "linear":
        X, y = load_diabetes(return_X_y=True, scaled=False)
        return Problem.prepare(params, X[:200], y[:200], 0)
    X, y = load_digits(n_class=classes, return_X_y=True)
    return Problem.prepare(params, X[:200], y[:200], classes)


WITHOUT_POLYNOMIAL: list[tuple[dict[str, Any], int]] = [
    ({}, 2),
    ({}, 4),
    ({"solver": "cg"}, 2),
    ({"solver": "nesterov"}, 2),
    ({"model": "linear"}, 0),
]
WITH_POLYNOMIAL: list[tuple[dict[str, Any], int]] = [
    ({"degree": 1}, 2),
    ({"degree": 1}, 4),
    ({"degree": 3, "parallelization": 1, "privacy": 1}, 2),
    ({"model": "linear", "degree": 1}, 0),
    ({"method": "bgw"}, 2),
    ({"method": "bh08"}, 2),
]
"""Modulo one prime of 26 bits a polynomial has no precision left, and is refused."""


@pytest.mark.parametrize(
    ("options", "classes", "primes"),
    [(*case, primes) for case in WITHOUT_POLYNOMIAL for primes in (1, 2, 3)]
    + [(*case, primes) for case in WITH_POLYNOMIAL for primes in (2, 3)],
    ids=str,
)
def test_as_in_integer_arithmetic(options: dict[str, Any], classes: int, primes: Any) -> None:
    params = Params(**options, primes=primes, iterations=6)
    data = problem(params, classes)
    W = trained(params, data)
    assert np.isfinite(W).all()
    assert np.abs(W).max() > 0
    np.testing.assert_array_equal(W, train_quantized(params, data, rounding_noise(0), workers=3))


def test_the_papers_settings_have_the_same_bits_whatever_the_field() -> None:
    results = []
    for field in ({}, {"primes": 2}, {"primes": 3}):
        params = Params(paper=True, iterations=6, **field)
        results.append(trained(params, problem(params, 2)))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_products_of_integers_of_any_size() -> None:
    rng = np.random.default_rng(0)
    X = rng.integers(-(2**20), 2**20, (30, 7)).astype(np.float32)
    V = rng.integers(-(2**45), 2**45, (7, 2)).astype(object) * 2**30 + 1
    exact = X.astype(np.int64).astype(object)
    assert integer_product(X, V).tolist() == (exact @ V).tolist()
    S = rng.integers(-(2**45), 2**45, (30, 2))
    assert integer_product(X, S, transposed=True).tolist() == (exact.T @ S.astype(object)).tolist()
    assert not integer_product(X, np.zeros((7, 1), np.int64)).any()
