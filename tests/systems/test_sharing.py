"""Noise and selection of the baselines against their definitions."""

import numpy as np
import pytest
from scipy import stats

from fedmpi.crypto.random import SecretStream
from fedmpi.spn.sharing import largest, noise

KEY = bytes(range(32))


@pytest.mark.parametrize(("kind", "law"), [("gaussian", stats.norm), ("laplace", stats.laplace)])
def test_noise_has_its_distribution(kind: str, law: stats.rv_continuous) -> None:
    x = noise(SecretStream(KEY), 200_000, 0.5, kind)  # type: ignore[arg-type]
    assert stats.kstest(x, law(scale=0.5).cdf).pvalue > 1e-3
    assert stats.kstest(x, law(scale=0.51).cdf).pvalue < 1e-3  # the test sees an error of 2 %
    assert abs(np.corrcoef(x[:-1], x[1:])[0, 1]) < 0.01
    assert np.isfinite(x).all()


def test_noise_is_fresh() -> None:
    assert (noise(SecretStream(), 100, 1.0) != noise(SecretStream(), 100, 1.0)).all()


@pytest.mark.parametrize("fraction", [1e-4, 0.05, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("kind", ["normal", "few are not zero", "two sizes", "in order", "all equal"])
def test_the_largest_changes_are_shared_and_ties_go_to_the_first(kind: str, fraction: float) -> None:
    """As sorting them all would tell; in steps of a part, and from a sample that says how large they are."""
    rng, h = np.random.default_rng(0), 150_001
    change = {
        "normal": rng.normal(size=h),
        "few are not zero": np.where(rng.random(h) < 1e-3, rng.normal(size=h), 0.0),
        "two sizes": np.where(rng.random(h) < 0.9, np.sign(rng.normal(size=h)), rng.normal(size=h)),
        "in order": np.arange(h) - 0.0,
        "all equal": np.ones(h),
    }[kind]
    count = int(np.ceil(fraction * h - 1e-9))
    expected = np.zeros(h)
    first = np.argsort(-np.abs(change), kind="stable")[:count]
    expected[first] = change[first]
    np.testing.assert_array_equal(largest(change, fraction), expected)


@pytest.mark.parametrize("broken", [1, 1001])
def test_a_change_that_is_no_number_is_not_hidden(broken: int) -> None:
    """The server refuses it: training has diverged."""
    change = np.random.default_rng(0).normal(size=1001)
    change[:broken] = np.nan
    assert np.isnan(largest(change, 0.05)).sum() == broken
