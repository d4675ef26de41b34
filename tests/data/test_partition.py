"""Partitions: every row has one owner, every client a row, and the kinds differ as they should."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmpi.data.partition import PARTITIONS, dirichlet, iid, label_shards
from fedmpi.errors import UsageError

Y = np.random.default_rng(0).integers(0, 10, 6000)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("kind", PARTITIONS)
@pytest.mark.parametrize("clients", [1, 7, 100])
def test_every_row_has_one_owner_and_every_client_a_row(kind: str, clients: int) -> None:
    parts = PARTITIONS[kind](Y, clients, rng(), 0.5)
    assert len(parts) == clients
    assert min(map(len, parts)) > 0
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(Y)))


@pytest.mark.parametrize("kind", PARTITIONS)
def test_a_partition_depends_on_its_generator_alone(kind: str) -> None:
    one, two, other = (PARTITIONS[kind](Y, 20, rng(seed), 0.5) for seed in (3, 3, 4))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)
    assert any(not np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def labels_per_client(parts: list[np.ndarray]) -> float:
    return float(np.mean([len(np.unique(Y[part])) for part in parts]))


def test_kinds_differ_in_how_many_labels_a_client_has() -> None:
    assert labels_per_client(iid(Y, 100, rng())) > 9
    assert labels_per_client(label_shards(Y, 100, rng())) < 4
    assert labels_per_client(label_shards(Y, 100, rng(), per_client=1)) < 2.2
    assert labels_per_client(dirichlet(Y, 100, rng(), 0.1)) < labels_per_client(dirichlet(Y, 100, rng(), 10)) - 2
    assert labels_per_client(dirichlet(Y, 100, rng(), 1e4)) > 9


@given(st.integers(1, 50), st.integers(0, 200))
def test_iid_sizes_differ_by_one_at_most(clients: int, more: int) -> None:
    sizes = [len(part) for part in iid(np.zeros(clients + more, np.int64), clients, rng())]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("kind", PARTITIONS)
def test_more_clients_than_rows_are_refused(kind: str) -> None:
    with pytest.raises(UsageError, match=r"must have a row, got 5 rows for \d+"):
        PARTITIONS[kind](Y[:5], 6, rng(), 0.5)
    with pytest.raises(UsageError, match="must be at least 1, got 0"):
        PARTITIONS[kind](Y, 0, rng(), 0.5)


def test_a_client_without_a_row_is_never_handed_out() -> None:
    with pytest.raises(UsageError, match=r"every client must have a row, got 90 clients, 100 rows and alpha 0\.01"):
        dirichlet(Y[:100], 90, rng(), 0.01)
    with pytest.raises(UsageError, match="must be positive, got 0"):
        dirichlet(Y, 5, rng(), 0)
