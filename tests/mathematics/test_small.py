"""Products with matrices of 8-bit integers, compiled and numpy, against Python's integers."""

from collections.abc import Iterator

import numpy as np
import pytest

from fedmpi.core import small


@pytest.fixture(params=["kernel", "numpy"], autouse=True, scope="module")
def twin(request: pytest.FixtureRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "numpy":
            patch.setattr(small, "compiled", None)
        elif small.compiled is None:
            pytest.skip("no compiler was there")
        yield


def matrix(m: int, d: int) -> np.ndarray:
    X = np.random.default_rng(m + d).integers(-128, 128, (m, d)).astype(np.int8)
    X[:1], X[1:2] = -128, 127
    return X


@pytest.mark.parametrize("largest", [1, 2**14 - 1, 2**14, 2**15, 2**32])
@pytest.mark.parametrize(("m", "d", "n", "C"), [(17, 1300, 1300, 2), (1, 513, 512, 1), (33, 20, 19, 3), (0, 4, 4, 1)])
def test_products_are_exact(m: int, d: int, n: int, C: int, largest: int) -> None:
    """All digits at their ends too, where sums of 32 bits are the nearest to running over."""
    X, V = matrix(m, d), np.random.default_rng(largest).integers(-largest, largest + 1, (n, C))
    for values in (V, np.full((n, C), largest), np.full((n, C), -largest)):
        expected = X[:, :n].astype(object) @ values.astype(object)
        np.testing.assert_array_equal(small.product(X, values), expected.astype(np.float64).reshape(m, C))


@pytest.mark.parametrize("size", [1e-300, 1.0, 1e300])
def test_weights_that_are_no_integers_keep_44_bits(size: float) -> None:
    X, W = matrix(30, 700), np.random.default_rng(0).normal(size=(699, 2)) * [size, size / 1e3]
    W[:3, 1] = 0
    error = np.abs(small.real_product(X, W) - X[:, :699].astype(np.float64) @ W)
    l1 = np.abs(X.astype(int)).sum(axis=1)[:, None]
    assert (error <= l1 * 2.0**-44 * np.abs(W).max(axis=0)).all()
    np.testing.assert_array_equal(small.real_product(X, 0 * W), 0)
    assert np.isnan(small.real_product(X, np.full((700, 1), np.inf))).all()


@pytest.mark.parametrize("m", [0, 5, 8, 29])
def test_sums_over_rows_are_those_of_float64(m: int) -> None:
    X, s = matrix(m, 77), np.random.default_rng(1).normal(size=m).astype(np.float32)
    expected = X.T.astype(np.float64) @ s.astype(np.float64)
    np.testing.assert_allclose(small.transposed_product(X, s), expected, rtol=1e-5, atol=1e-3)
