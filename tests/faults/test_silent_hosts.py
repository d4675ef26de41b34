"""Hosts and participants that are lost before the first round, or frozen: left out after one wait, and taken back."""

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from protocol import niss_threads, ppadmm_threads

from fedmpi.errors import FedmpiError, ProtocolError, TooFewWorkers
from fedmpi.federated.messages import Setup
from fedmpi.net import Channel
from fedmpi.net.local import run_local
from fedmpi.net.orders import Leave
from fedmpi.niss import protocol as niss
from fedmpi.niss.params import Params
from fedmpi.ppadmm.params import Params as LassoParams
from fedmpi.ppadmm.protocol import primary_server
from fedmpi.spn import protocol as spn
from fedmpi.spn.params import Params as SpnParams

PARAMS = Params(method="niss", model="logistic", clients=6, fraction=1.0, rounds=4)
TIMEOUT = 4.0


class Dead(FedmpiError):
    """What a rank dies of."""


def dying(cls: type[Any]) -> Callable[[Channel], None]:
    """A rank that dies when it is told what is trained."""

    def role(ch: Channel) -> None:
        ch.recv(0, cls, shapes={"job": (None,)})
        ch.fail(Dead("out of power"))

    return role


def silent(cls: type[Any]) -> Callable[[Channel], None]:
    """A rank that is frozen when it is told what is trained."""
    return lambda ch: None


@pytest.mark.parametrize("lost", [dying, silent])
def test_a_host_that_is_lost_before_the_first_round_is_left_out(lost: Callable[[type], Any]) -> None:
    seen = niss_threads.train_on_threads(PARAMS, roles={3: lost(Setup)}, timeout_seconds=TIMEOUT)
    assert [outcome.sampled for outcome in seen.outcomes] == [4] * 4  # of six clients the two of rank 3 never came
    assert [outcome.arrived for outcome in seen.outcomes] == [4] * 4
    assert [*seen.channels[0].departed] == [3]
    assert np.isfinite(seen.state.w).all()


def test_a_host_whose_files_break_a_rule_still_ends_the_job() -> None:
    def refusing(ch: Channel) -> None:
        ch.recv(0, Setup, shapes={"job": (None,)})
        ch.fail(Dead("the data set must be the same on all ranks"), code=2)

    with pytest.raises(ProtocolError, match="the data set must be the same") as ended:
        niss_threads.train_on_threads(PARAMS, roles={3: refusing}, timeout_seconds=TIMEOUT)
    assert ended.value.exit_code == 2


class Frozen:
    """A host that stands still when it is asked for round 1, until the server has begun another without it."""

    def __init__(self, role: Callable[[Channel], Any], order: type[Any]):
        self.role, self.order, self.thawed, self.asked = role, order, threading.Event(), list[int]()

    def __call__(self, ch: Channel) -> Any:
        receive = ch.recv_any

        def recv_any(*args: Any, **options: Any) -> Any:
            order = receive(*args, **options)
            if isinstance(order, self.order):
                self.asked.append(order.round)
                if order.round == 1:
                    assert self.thawed.wait(30)
            return order

        ch.recv_any = recv_any  # type: ignore[method-assign]
        return self.role(ch)


def test_a_frozen_host_of_niss_costs_one_wait_and_is_taken_back() -> None:
    frozen, begun = Frozen(niss_threads.trained_host(), niss.Round), time.monotonic()
    rounds = list[tuple[int, float]]()

    def before(state: niss.State, chosen: Any) -> bool:
        rounds.append((state.round, time.monotonic() - begun))
        if state.round == 3:
            frozen.thawed.set()
            time.sleep(1.5)  # it answers late, and is there again
        return True

    params = Params(method="niss", model="logistic", clients=6, fraction=1.0, rounds=6)
    seen = niss_threads.train_on_threads(
        params, roles={3: frozen}, watch=niss.Watch(before=before), timeout_seconds=TIMEOUT
    )
    assert [outcome.arrived for outcome in seen.outcomes][:3] == [6, 4, 4]
    assert seen.outcomes[-1].arrived == 6
    assert 1 in frozen.asked
    assert 2 not in frozen.asked
    assert 5 in frozen.asked
    at = dict(rounds)
    assert at[2] - at[1] >= TIMEOUT - 0.5  # once, and
    assert at[3] - at[2] < TIMEOUT  # never again
    reasons = {lost["reason"] for outcome in seen.outcomes for lost in outcome.lost}
    assert reasons == {f"host (rank 3) sent nothing for {TIMEOUT:g} s", "lives on a host that is not there"}


def test_a_frozen_tracker_is_named_after_one_wait() -> None:
    begun = time.monotonic()
    with pytest.raises(ProtocolError, match=r"^tracker \(rank 1\) sent no Ledger for 2 s$"):
        niss_threads.train_on_threads(
            PARAMS, roles={1: lambda ch: ch.recv(0, niss.TrackerSetup)}, timeout_seconds=TIMEOUT
        )
    assert time.monotonic() - begun < 3 * TIMEOUT


def test_hosts_of_spn_that_are_all_silent_end_the_training() -> None:
    def lead(ch: Channel) -> None:
        ch.tolerated = (1, 2)
        spn.server(ch, SpnParams(rounds=3), 2, spn.State(0, np.zeros((1, 3))), spn.Watch())

    with pytest.raises(TooFewWorkers, match=r"round 1: changes .* from at least 1 host, got 0: .*rank 1.*; .*rank 2"):
        run_local([lead, lambda ch: None, lambda ch: None], timeout_seconds=1.0)


def test_a_frozen_host_of_spn_is_asked_again_once_it_has_answered() -> None:
    asked: dict[int, list[int]] = {1: [], 2: []}
    late = threading.Event()

    def host(ch: Channel) -> None:
        while isinstance(order := ch.recv_any(0, (spn.Round, Leave), shapes={"G": (None, 3)}, patient=True), spn.Round):
            asked[ch.rank].append(order.round)
            if ch.rank == 2 and order.round == 0:
                assert late.wait(30)
            ch.send(0, spn.Changes(order.round, order.turn, order.clients, np.ones((1, 3))))

    def after(state: spn.State, lost: list[dict[str, Any]]) -> bool:
        if state.round == 2:
            late.set()
            time.sleep(0.5)
        return False

    def lead(ch: Channel) -> spn.State:
        ch.tolerated = (1, 2)
        watch = spn.Watch(after=after)
        state = spn.server(ch, SpnParams(rounds=4, clients=2), 2, spn.State(0, np.zeros((1, 3))), watch)
        for rank in (1, 2):
            ch.send(rank, Leave())
        return state

    run_local([lead, host, host], timeout_seconds=1.5)
    assert asked == {1: [0, 1, 2, 3], 2: [0, 2, 3]}


@pytest.mark.parametrize("lost", [dying, silent])
def test_a_participant_that_never_joins_is_left_out(lost: Callable[[type], Any]) -> None:
    parts = ppadmm_threads.problem(5, 20, 6)
    params = LassoParams(iterations=4, tolerance=0, penalty=1.0, deadline=5.0)

    def role(ch: Channel) -> None:
        if lost is dying:
            ch.fail(Dead("out of power"))

    def lead(ch: Channel) -> Any:
        ch.timeout_seconds, ch.tolerated = 2.0, range(2, ch.size)  # the others wait for longer than S1
        return primary_server(ch, params)

    threads = ppadmm_threads.train_on_threads(params, parts, roles={0: lead, 4: role})
    reason = "failed: out of power" if lost is dying else "did not join in time"
    assert threads.training.failures == [{"rank": 4, "iteration": 0, "reason": reason}]
    assert threads.training.iterations == 4
