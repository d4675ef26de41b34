"""Machines without room for the shares of their workers: refused, with what it would take."""

import re

import pytest

from fedmpi.codedml.layout import layout
from fedmpi.codedml.params import Params
from fedmpi.codedml.room import check_room
from fedmpi.errors import UsageError
from fedmpi.machines.placement import Host

GB = 10**9


def hosts(workers: int, machines: int, free_bytes: int) -> dict[int, Host]:
    """Rank 0 on the first machine, the workers in turn."""
    return {0: Host("m0", 1)} | {1 + i: Host(f"m{i % machines}", free_bytes) for i in range(workers)}


@pytest.mark.parametrize("options", [{}, {"degree": 1}, {"spares": 1, "byzantine": 1}])
def test_what_is_refused_would_fit_with_what_is_named(options: dict[str, int]) -> None:
    shape, free = (10**6, 3000), 10 * GB
    params = Params(privacy=1, **options)
    numbers = layout(params, 12)
    with pytest.raises(UsageError, match="must fit into the free memory of their machines, got 3 of") as refused:
        check_room(params, shape, 2, numbers, hosts(12, 4, free))
    found = re.search(r"K=(\d+), so N=(\d+) workers for T=1", str(refused.value))
    assert found
    needed, workers = map(int, found.groups())
    assert -(-shape[0] // needed) * 4 * 2 * shape[1] * 3 <= free < -(-shape[0] // (needed - 1)) * 4 * 2 * shape[1] * 3
    enough = layout(params, workers)
    assert enough["K"] >= needed
    check_room(params, shape, 2, enough, hosts(workers, -(-workers // 3), free))
    with pytest.raises(UsageError):
        check_room(params, shape, 2, layout(params, workers - 1), hosts(workers - 1, -(-workers // 3), free))


def test_a_machine_that_says_nothing_is_believed_to_have_room() -> None:
    params = Params()
    check_room(params, (10**7, 10**4), 1, layout(params, 5), hosts(5, 1, 0))


def test_groups_of_the_baselines() -> None:
    params = Params(method="bgw", subgroups=2)
    with pytest.raises(UsageError, match=r"got 6 of 4 GB on m0, where 5 GB are free: it would take G=10 groups"):
        check_room(params, (10**6, 2000), 1, layout(params, 6), hosts(6, 1, 5 * GB))
