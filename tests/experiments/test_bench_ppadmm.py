"""`fedmpi bench ppadmm` times the real thing: sums under masks are sums, and the ranks' program ends with figures."""

import json

import numpy as np
import pytest

from fedmpi.bench.ppadmm import under_masks
from fedmpi.bench.ranks.ppadmm import Turns, figures
from fedmpi.cli import main
from fedmpi.crypto.masks import KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_timed_is_the_secure_sum(kind):
    rng = np.random.default_rng(0)
    vectors = [(rng.normal(size=5), rng.random(3)) for _ in range(4)]
    total, norms = under_masks(vectors, kind, [bytes([i]) * 32 for i in range(4)], 5)
    np.testing.assert_allclose(total, np.sum([v for v, _ in vectors], axis=0), atol=2.0**-38)
    np.testing.assert_allclose(norms, np.sum([n for _, n in vectors], axis=0), atol=2.0**-48)


def test_the_ratio_is_that_of_one_turn():
    turns, base = Turns([6.0, 1.0, 9.0], [2.0, 2.0, 2.0]), Turns([2.0, 1.0, 3.0], [1.0] * 3)
    assert figures(turns, base) == {"wall_ms": 1e3, "wall_ratio": 3.0, "cpu_ms": 2e3, "cpu_ratio": 2.0}


def test_all_figures_of_a_small_run(capsys):
    assert main(["bench", "ppadmm", "--participants", "2", "--rows", "6", "--columns", "10", "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["masks"].keys() == {*KINDS, "sha256 by single calls"}
    assert all(rate > 0 for rate in measured["masks"].values())
    assert measured["admm, work"]["cpu_ratio"] == measured["admm"]["cpu_ratio"] == 1.0
    for name in (*(f"{kind}, work" for kind in KINDS), *KINDS, "sha256 precomputed"):
        assert measured[name].keys() >= {"cpu_ms", "cpu_ratio"}, name
    assert main(["bench", "ppadmm", "--participants", "1"]) == 2
