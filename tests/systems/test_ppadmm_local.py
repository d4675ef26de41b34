"""What a participant makes of orders: one dual step for a vector that counted, none for one that did not."""

from typing import Any

import numpy as np
import pytest

from fedmpi.errors import ProtocolError
from fedmpi.ppadmm.admm import Shard
from fedmpi.ppadmm.local import Local
from fedmpi.ppadmm.params import FIRST_ITERATION, SQUARES, SUMS
from fedmpi.ppadmm.rounds import Order

D = 3


class Memory:
    """A shelf that forgets at the end of the test."""

    def __init__(self) -> None:
        self.kept: dict[int, dict[str, np.ndarray]] = {}

    def put(self, iteration: int, arrays: dict[str, np.ndarray]) -> None:
        self.kept[iteration] = {name: array.copy() for name, array in arrays.items()}

    def get(self, iteration: int) -> dict[str, np.ndarray]:
        return self.kept[iteration]


def shard() -> Shard:
    rng = np.random.default_rng(0)
    return Shard(rng.normal(size=(5, D)), rng.normal(size=5))


def order(stage: int, values: np.ndarray, *, counted: bool = True, rho: float = 2.0, **rest: bool) -> Order:
    return Order(0, stage, counted, rest.get("asked", True), rest.get("keep", False), rho, b"", values)


def prepared(shelf: Memory | None = None) -> Local:
    local = Local(shard(), shelf)
    local.answer(order(SUMS, np.empty(0)))
    local.answer(order(SQUARES, np.zeros(D + 1)))
    local.answer(order(FIRST_ITERATION, np.ones(D + 1)))
    return local


Z = np.array([1.0, -1.0, 0.5])


def test_a_vector_that_counted_makes_one_dual_step() -> None:
    local = prepared()
    x = local.shard.x.copy()
    vector = local.answer(order(FIRST_ITERATION + 1, Z))
    np.testing.assert_array_equal(local.shard.u, x - Z)
    gap, size, dual = local.shard.norms
    assert (gap, size, dual) == pytest.approx(((x - Z) @ (x - Z), x @ x, (x - Z) @ (x - Z)))
    assert local.answer(order(FIRST_ITERATION + 1, Z)) is vector, "a round that failed: the same again"
    np.testing.assert_array_equal(local.shard.u, x - Z)


def test_a_vector_that_did_not_count_leaves_the_dual_variable() -> None:
    local = prepared()
    local.answer(order(FIRST_ITERATION + 1, Z))
    u = local.shard.u.copy()
    vector, _ = local.answer(order(FIRST_ITERATION + 5, 2 * Z, counted=False))  # it was away
    np.testing.assert_array_equal(local.shard.u, u)
    np.testing.assert_array_equal(vector, local.shard.x + u)
    local.answer(order(FIRST_ITERATION + 6, Z))
    assert (local.shard.u != u).all()


def test_one_that_slept_through_the_preparation_can_not_take_part() -> None:
    local = Local(shard())
    local.answer(order(SUMS, np.empty(0)))
    assert local.answer(order(FIRST_ITERATION, np.ones(D + 1))) is None
    assert Local(shard()).answer(order(SQUARES, np.zeros(D + 1))) is None


def test_one_that_was_away_has_its_dual_variable_under_the_new_rho() -> None:
    local = prepared()
    local.answer(order(FIRST_ITERATION + 1, Z))
    u = local.shard.u.copy()
    local.answer(order(FIRST_ITERATION + 5, Z, counted=False, rho=8.0))
    np.testing.assert_array_equal(local.shard.u, u / 4)
    for k, rho in enumerate((0.0, -1.0, np.nan, np.inf)):
        with pytest.raises(ProtocolError, match="must have a positive ρ, got"):
            local.answer(order(FIRST_ITERATION + 6 + k, Z, rho=rho))


@pytest.mark.parametrize("change", [{"rho": 3.0}, {"values": 2 * Z}, {"counted": False}, {"stage": FIRST_ITERATION}])
def test_an_order_says_the_same_again_or_something_of_a_later_stage(change: dict[str, Any]) -> None:
    local, given = prepared(), {"stage": FIRST_ITERATION + 1, "values": Z}
    first = local.answer(order(**given))
    assert local.answer(order(**given)) is first
    with pytest.raises(ProtocolError, match=r"must be new or the same again, got another behind stage 3"):
        local.answer(order(**given | change))
    with pytest.raises(ProtocolError, match="must be new or the same again"):
        local.step(order(**given | change, keep=True))


@pytest.mark.parametrize("asked", [True, False])
def test_what_was_kept_is_gone_on_from(asked: bool) -> None:
    shelf = Memory()
    whole, local = prepared(), prepared(shelf)
    keep = order(FIRST_ITERATION + 1, Z, keep=True, asked=asked, rho=3.0)
    if asked:
        local.answer(keep)
    else:  # the premature end
        local.step(keep)
        local.step(keep)
    assert shelf.kept.keys() == {1}
    expected = whole.answer(order(FIRST_ITERATION + 1, Z, rho=3.0))
    for counted in (True, False):  # S1 counts the members of the checkpoint: no second step
        resumed = Local(shard(), shelf, first_iteration=1)
        got = resumed.answer(order(FIRST_ITERATION + 1, Z, counted=counted, rho=3.0))
        for one, other in zip(got, expected, strict=True):
            np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(
        resumed.answer(order(FIRST_ITERATION + 2, Z / 2))[0], whole.answer(order(FIRST_ITERATION + 2, Z / 2))[0]
    )


def test_without_a_folder_nothing_is_kept_or_gone_on_from() -> None:
    with pytest.raises(ProtocolError, match="must have a folder"):
        prepared().answer(order(FIRST_ITERATION + 1, Z, keep=True))
    with pytest.raises(ProtocolError, match="must have the folder of the run"):
        Local(shard(), None, first_iteration=3).answer(order(FIRST_ITERATION + 3, Z))
