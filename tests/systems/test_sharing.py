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


@pytest.mark.parametrize("fraction", [0.05, 0.3, 1.0])
def test_the_largest_changes_are_shared(fraction: float) -> None:
    change = np.random.default_rng(0).normal(size=1001)
    shared = largest(change, fraction)
    sent = shared != 0
    assert sent.sum() == int(np.ceil(fraction * 1001))
    assert (shared[sent] == change[sent]).all()
    assert fraction == 1 or np.abs(change[sent]).min() >= np.abs(change[~sent]).max()


def test_ties_go_to_the_first() -> None:
    assert largest(np.ones(10), 0.3).tolist() == [1, 1, 1, 0, 0, 0, 0, 0, 0, 0]
