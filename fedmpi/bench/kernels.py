"""The C kernels and the random stream beside plain numpy, in one process and one thread."""

from functools import partial
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from fedmpi.bench.timing import fastest
from fedmpi.core import DEFAULT_PRIME, WIDE_PRIMES, FieldArray, PrimeField
from fedmpi.crypto.random import FieldRandom


def measure() -> dict[str, Any]:
    """Gradient and encoding kernels against numpy, and the rate of the random stream; one thread."""
    field = PrimeField()
    uniform = FieldRandom(field.p)
    X, w = uniform((3000, 5000)), uniform((5000, 1, 1))
    coefficients = uniform((2,))
    X_real, w_real = np.random.default_rng(0).random((3000, 5000)), np.random.default_rng(1).random(5000)
    matrix, blocks = uniform((50, 17)), uniform((17, 375, 5000))
    matrix_int, blocks_int = matrix.astype(np.int64), blocks.reshape(17, -1).astype(np.int64)
    with threadpool_limits(1):
        gradient, floating = fastest(
            lambda: field.gradient(X, w, coefficients), lambda: X_real.T @ (X_real @ w_real), rounds=30
        )
        encode, integers = fastest(
            lambda: field.matmul(matrix, blocks), lambda: matrix_int @ blocks_int % field.p, rounds=3
        )
        (drawn,) = fastest(lambda: uniform((10_000_000,)))
    return {
        "compiled": field.compiled,
        "gradient": {"speedup": floating / gradient, "seconds": gradient, "float64_seconds": floating},
        "encode": {"speedup": integers / encode, "seconds": encode, "int64_seconds": integers},
        "random": {"elements_per_second": 10_000_000 / drawn},
        **wide_field(),
    }


def wide_field(rows: int = 3000, columns: int = 5000, rounds: int = 20) -> dict[str, Any]:
    """A worker's work modulo two and three primes of 26 bits, against one of 25 bits and 2^31 - 1; one thread.

    `gradient`: with a polynomial. `products`: with X and Xᵀ, without one. `bytes`: of the coded data.
    """
    sets: dict[str, tuple[int, ...]] = {
        "25 bits": (DEFAULT_PRIME,),
        "2^31-1": (2**31 - 1,),
        "two": WIDE_PRIMES[:2],
        "three": WIDE_PRIMES,
    }
    held: dict[int, tuple[PrimeField, FieldArray, FieldArray, FieldArray, FieldArray]] = {}
    for p in {p for primes in sets.values() for p in primes}:
        uniform = FieldRandom(p)
        held[p] = PrimeField(p), uniform((rows, columns)), uniform((columns, 1)), uniform((rows, 1)), uniform((2,))

    def gradient(primes: tuple[int, ...]) -> None:
        for field, X, w, _, coefficients in map(held.__getitem__, primes):
            field.gradient(X, w[:, None], coefficients)

    def products(primes: tuple[int, ...]) -> None:
        for field, X, w, s, _ in map(held.__getitem__, primes):
            field.product(X, w)
            field.transposed_product(X, s)

    figures: dict[str, Any] = {}
    with threadpool_limits(1):
        for name, work in (("gradient", gradient), ("products", products)):
            one, large, two, three = fastest(*(partial(work, primes) for primes in sets.values()), rounds=rounds)
            ratios = {"two / 25 bits": two / one, "two / 2^31-1": two / large, "three / 25 bits": three / one}
            figures[f"{name}, several primes"] = {**ratios, "seconds": two}
    size = {name: sum(held[p][1].nbytes for p in primes) for name, primes in sets.items()}
    figures["bytes, several primes"] = {
        f"{many} / {one}": size[many] / size[one]
        for many, one in (("two", "25 bits"), ("two", "2^31-1"), ("three", "25 bits"))
    }
    return figures
