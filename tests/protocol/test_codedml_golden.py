"""With --paper the weights are those of the version before the sigmoid itself, precision and solvers: to the bit.

The digests were made by that version. Where one changes, so does every result that somebody published with it.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from protocol.codedml_threads import HANG_SECONDS, command_on_threads

from fedmpi.codedml.params import Params
from fedmpi.codedml.problem import Problem
from fedmpi.codedml.service import serve
from fedmpi.codedml.training import new_task, train
from fedmpi.net import Channel, run_local
from fedmpi.net.orders import dismiss

WIDE = 2147483647
CUBIC: dict[str, Any] = {"degree": 3, "data_bits": 1, "weight_bits": 3, "coefficient_bits": 8, "prime": WIDE}
SQUARE: dict[str, Any] = {
    "degree": 2, "fit_range": (-3.0, 5.0), "coefficient_bits": 8, "weight_bits": 4, "prime": WIDE,
}  # fmt: skip

# name: options, classes, the first 32 digits of the SHA-256 of the weights in float64
GOLDEN: dict[str, tuple[dict[str, Any], int, str]] = {
    "two classes": ({}, 2, "9a94c5e4da9247f2e63b1c88fddafda9"),
    "three classes": ({}, 3, "e5c02a65501062ca89ed458378f006bc"),
    "degree 2": (SQUARE, 2, "7fa55fee7fbb3d0cfb2977241525f7d6"),
    "degree 3": (CUBIC, 2, "4c87b83c6ca94e7231c14b0f23024312"),
    "degree 3, three classes": (CUBIC, 3, "c5a0c4d3c5da034e239c99f0719d6606"),
    "linear": ({"model": "linear"}, 0, "7e684451c09d45143cf0f1f3cc328af3"),
    "centred, with decay": ({"center": True, "decay": 0.3}, 2, "fbe8a0ea690fa8d2af4229e59415bfbe"),
    "no intercept, scaled by a number": (
        {"bias": False, "scale": "8", "learning_rate": "1/L"}, 2, "2adcc15d1192ab208282a09c640063dc",
    ),
}  # fmt: skip


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:32]


def features(classes: int) -> tuple[np.ndarray, np.ndarray]:
    X = np.random.default_rng(42).integers(0, 17, (40, 6)).astype(float)
    return X, np.arange(40) % classes if classes else X @ np.arange(6) / 64


def trained(params: Params, classes: int) -> np.ndarray:
    problem = Problem.prepare(params, *features(classes), classes)

    def lead(ch: Channel) -> np.ndarray:
        W = train(ch, new_task(params, problem, 5)).W
        dismiss(ch)
        return W

    workers = 2 * (2 * params.degree + 1) + 1 if params.method == "coded" else 9
    return run_local([lead] + [serve] * workers, timeout_seconds=HANG_SECONDS)[0]


@pytest.mark.parametrize("name", GOLDEN)
def test_the_papers_weights_are_those_of_the_version_before(name: str) -> None:
    options, classes, expected = GOLDEN[name]
    params = Params(paper=True, parallelization=2, privacy=1, iterations=12, **options)
    assert digest(trained(params, classes)) == expected


@pytest.mark.parametrize("name", ["three classes", "degree 3"])
@pytest.mark.parametrize("method", ["bgw", "bh08"])
def test_so_are_those_of_the_baselines(method: Any, name: str) -> None:
    options, classes, expected = GOLDEN[name]
    assert digest(trained(Params(method, paper=True, iterations=12, **options), classes)) == expected


@pytest.mark.parametrize("primes", [2, 3])
@pytest.mark.parametrize("name", ["two classes", "three classes", "degree 3", "linear"])
def test_more_primes_change_no_bit_of_them(name: str, primes: Any) -> None:
    options, classes, expected = GOLDEN[name]
    wider = {**options, "prime": None, "primes": primes}
    params = Params(paper=True, parallelization=2, privacy=1, iterations=12, **wider)
    assert digest(trained(params, classes)) == expected


@pytest.mark.parametrize(
    ("options", "coefficients", "intercepts"),
    [
        ([], "3deef6e0d3c473d5e5a5f37cca00d7ee", "5003a0f7e2330b694df657de7b4d024b"),
        (["--classes", 3, 8, 5, "--dataset", "digits"], "609c46fb4315413d5f0771c5e4d67609",
         "be0e71288ae2c69514a0c6a89e7875d4"),
    ],
)  # fmt: skip
def test_the_command_writes_the_same_model(
    options: list[Any], coefficients: str, intercepts: str, tmp_path: Path
) -> None:
    quiet = ["--quiet", "--no-compare", "--out", tmp_path / "run"]
    command_on_threads(10, "--paper", "--iterations", 12, "--seed", 4, *options, *quiet)
    with np.load(tmp_path / "run" / "model.npz") as model:
        assert (digest(model["coefficients"]), digest(model["intercepts"])) == (coefficients, intercepts)
