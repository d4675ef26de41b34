"""The tracker's arithmetic: everybody sends and receives exactly v, and the noise that stays is what it says."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmpi.crypto.random import permutation
from fedmpi.niss.assignment import assign, share_count


@given(st.integers(1, 40), st.integers(1, 50))
def test_everybody_sends_and_receives_exactly_v(m: int, v: int) -> None:
    clients = [7 * k + 1 for k in range(m)]
    got = assign([clients], dict.fromkeys(clients, v), permutation)
    expected = min(v, m - 1)
    assert got.counts == dict.fromkeys(clients, expected)
    assert Counter(a for a, _ in got.edges) == Counter(dict.fromkeys(clients, expected)) - Counter()
    assert Counter(b for _, b in got.edges) == Counter(a for a, _ in got.edges)
    assert len(set(got.edges)) == len(got.edges)
    assert all(a != b for a, b in got.edges)


def test_neighbours_are_random_and_the_largest_wish_counts() -> None:
    clients = list(range(6))
    seen = {frozenset(assign([clients], dict.fromkeys(clients, 1), permutation).edges) for _ in range(50)}
    assert len(seen) > 20
    assert set(assign([clients], {0: 3} | dict.fromkeys(range(1, 6), 1), permutation).counts.values()) == {3}
    partners = Counter(
        b for _ in range(600) for a, b in assign([clients], dict.fromkeys(clients, 1), permutation).edges if a == 0
    )
    assert set(partners) == set(range(1, 6))
    assert min(partners.values()) > 60


def test_coalitions_do_not_mix() -> None:
    got = assign([[0, 2, 4], [1], [3, 5]], dict.fromkeys(range(6), 2), permutation)
    assert got.counts == {0: 2, 2: 2, 4: 2, 1: 0, 3: 1, 5: 1}
    groups = {0: 0, 2: 0, 4: 0, 1: 1, 3: 2, 5: 2}
    assert all(groups[a] == groups[b] for a, b in got.edges)
    assert assign([], {}, permutation).edges == []


@pytest.mark.parametrize("tau2", [0.0, 0.4])
@pytest.mark.parametrize("missing", [(), (2,), (1, 3, 4), (0, 1, 2, 3, 4, 5)])
def test_leftover_is_the_variance_of_what_does_not_cancel(tau2: float, missing: tuple[int, ...]) -> None:
    """Against a simulation of every share, for clients with noise of different variance."""
    rng = np.random.default_rng(0)
    variances = {k: 0.5 + k for k in range(6)}
    got = assign([list(range(5)), [5]], dict.fromkeys(range(6), 3), permutation)
    arrived = [k for k in range(6) if k not in missing]
    h = 200_000
    total = np.zeros(h)
    for a, b in got.edges:
        n = rng.normal(0, np.sqrt(variances[a] / got.counts[a]), h)
        total += n * (a in arrived)
        total -= rng.normal(1, np.sqrt(tau2), h) * n * (b in arrived)
    if 5 in arrived:
        total += rng.normal(0, np.sqrt(variances[5]), h)
    assert total.var() == pytest.approx(got.leftover(variances, arrived, tau2), rel=0.03)


def test_the_number_of_shares() -> None:
    assert [share_count(x, 0.01) for x in (0.0, 0.005, 0.01, 0.011, 0.09)] == [1, 1, 1, 2, 9]
    assert share_count(5.0, 0.01, fixed=3) == 3
