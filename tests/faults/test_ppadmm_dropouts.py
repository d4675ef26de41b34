"""Participants that die, lag or return, and an S1 that asks for more than it may know."""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from protocol.ppadmm_threads import problem, train_on_threads

from fedmpi.core.fixed_point import decode
from fedmpi.errors import FedmpiError, HeadroomError, ProtocolError, TooFewWorkers
from fedmpi.net import Channel
from fedmpi.ppadmm import secure_sum
from fedmpi.ppadmm.auxiliary import VOID_ROUNDS, Guard
from fedmpi.ppadmm.metrics import centralized, mped
from fedmpi.ppadmm.params import FIRST_ITERATION, Params
from fedmpi.ppadmm.plain import train_plain
from fedmpi.ppadmm.protocol import Own, participant
from fedmpi.ppadmm.rounds import Back, Order, Rounds
from fedmpi.ppadmm.secure_sum import (
    AUXILIARY,
    Heard,
    MaskedUpdate,
    MaskSum,
    Present,
    Refused,
    Void,
    as_array,
    open_sum,
)
from fedmpi.ppadmm.service import salt_of

PARTS = problem(6, 30, 12)
PARAMS = Params(iterations=30, tolerance=0, penalty=20.0, deadline=20.0)
RANKS = range(2, 8)

Role = Callable[[Channel], Any]


class Death(FedmpiError):
    """What a participant dies of."""


def honest(ch: Channel, params: Params = PARAMS) -> Any:
    return participant(ch, params, Own(*PARTS[ch.rank - 2], salt_of(params)))


def dying(iteration: int, params: Params = PARAMS) -> Role:
    """A participant that dies when it is asked for an iteration."""

    def role(ch: Channel) -> Any:
        receive = ch.recv_latest

        def recv_latest(*args: Any, **options: Any) -> Any:
            order = receive(*args, **options)
            if isinstance(order, Order) and order.stage == FIRST_ITERATION + iteration:
                raise Death("out of power")
            return order

        ch.recv_latest = recv_latest  # type: ignore[method-assign]
        try:
            return honest(ch, params)
        except Death as error:
            ch.fail(error)
            return None

    return role


def members_by_round(threads: Any) -> list[list[int]]:
    return [answer.members.tolist() for answer in threads.views(0, MaskSum)]


# -- deaths -------------------------------------------------------------------------------------------------------


def test_the_others_go_on_without_one_that_dies() -> None:
    params = replace(PARAMS, iterations=400, tolerance=1e-10)
    threads = train_on_threads(params, PARTS, roles={4: dying(3, params)}, record_views=True)
    assert threads.training.failures == [{"rank": 4, "iteration": 3, "reason": "failed: out of power"}]
    seen = members_by_round(threads)
    assert seen[:5] == [[2, 3, 4, 5, 6, 7]] * 5
    assert seen[5:] == [[2, 3, 5, 6, 7]] * (len(seen) - 5)
    assert threads.training.iterations < 400
    # What is left is the problem of the others, of which ADMM finds the optimum (but for the old means).
    rest = replace(params, fit_intercept=False)
    X = np.concatenate([A for A, _ in PARTS])
    centred = [(A - X.mean(axis=0), b - np.concatenate([b for _, b in PARTS]).mean()) for A, b in PARTS]
    kept = [part for rank, part in zip(RANKS, centred, strict=True) if rank != 4]
    X, y = (np.concatenate(arrays) for arrays in zip(*kept, strict=True))
    assert mped(threads.training.coefficients, centralized(rest, X, y)[0]) < 1e-6


@pytest.mark.parametrize("method", ["ppadmm", "admm"])
def test_on_dropout_stop_ends_the_training(method: str) -> None:
    params = replace(PARAMS, on_dropout="stop", method=method)
    with pytest.raises(FedmpiError, match="out of power"):
        train_on_threads(params, PARTS, roles={4: dying(3, params)})


@pytest.mark.parametrize("method", ["ppadmm", "admm"])
def test_too_few_end_the_training(method: str) -> None:
    params = replace(PARAMS, method=method)
    roles = {rank: dying(rank, params) for rank in (2, 3, 4, 5)}
    with pytest.raises(TooFewWorkers, match=r"at least 3 participants must .*, got 2"):
        train_on_threads(params, PARTS, roles=roles)


def test_the_reason_of_a_usage_error_is_not_hidden() -> None:
    def overflowing(ch: Channel) -> Any:
        return participant(ch, PARAMS, Own(PARTS[0][0] * 1e25, PARTS[0][1], salt_of(PARAMS)))

    with pytest.raises(HeadroomError, match="a total must be below"):
        train_on_threads(PARAMS, PARTS, roles={5: overflowing})


# -- lagging and returning ----------------------------------------------------------------------------------------


class Pause:
    """A participant that stays away from an iteration until S1 has gone on without it."""

    def __init__(self, iteration: int, params: Params):
        self.stage, self.params, self.gone_on = FIRST_ITERATION + iteration, params, threading.Event()
        self.orders: list[Order] = []

    def __call__(self, ch: Channel) -> Any:
        receive = ch.recv_latest

        def recv_latest(*args: Any, **options: Any) -> Any:
            order = receive(*args, **options)
            if isinstance(order, Order):
                self.orders.append(order)
                if order.stage == self.stage:
                    assert self.gone_on.wait(30)
            return order

        ch.recv_latest = recv_latest  # type: ignore[method-assign]
        return honest(ch, self.params)

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        leave_out = Rounds._leave_one_out

        def left_out(rounds: Rounds, rank: int) -> None:
            leave_out(rounds, rank)
            self.gone_on.set()

        monkeypatch.setattr(Rounds, "_leave_one_out", left_out)


@pytest.mark.parametrize("method", ["ppadmm", "admm"])
def test_one_that_misses_the_deadline_returns_with_its_dual_variable(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = replace(
        PARAMS, method=method, on_dropout="rejoin", deadline=3.0, iterations=3000, tolerance=1e-10, rekey_every=2
    )
    pause = Pause(4, params)
    pause.watch(monkeypatch)
    threads = train_on_threads(params, PARTS, roles={6: pause}, record_views=True)
    assert threads.training.failures[0] == {"rank": 6, "iteration": 4, "reason": "missed the deadline"}
    assert len(threads.views(0, Back)) == len(threads.training.failures)
    assert [order.asked for order in pause.orders].count(False) >= 1
    assert pause.orders[-1].asked
    X, y = (np.concatenate(arrays) for arrays in zip(*PARTS, strict=True))
    assert mped(threads.training.coefficients, centralized(params, X, y)[0]) < 1e-6, "the optimum of all rows"


def test_one_that_misses_the_deadline_is_sent_home_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    params = replace(PARAMS, deadline=3.0)
    pause = Pause(4, params)
    pause.watch(monkeypatch)
    threads = train_on_threads(params, PARTS, roles={6: pause}, record_views=True)
    assert members_by_round(threads)[-1] == [2, 3, 4, 5, 7]
    assert threads.training.failures == [{"rank": 6, "iteration": 4, "reason": "missed the deadline"}]
    np.testing.assert_array_equal(threads.models[6][0], threads.training.coefficients)


# -- what S2 answers ----------------------------------------------------------------------------------------------


def heard(round: int, stage: int) -> Heard:
    return Heard(round, stage, 5, as_array([2, 3]))


def opened(guard: Guard, round: int, stage: int, claimed: Any, present: Any) -> Any:
    guard.admit(heard(round, stage))
    return guard.decide(claimed, {rank: Present(round, stage, 5, rank in guard.members, b"order") for rank in present})


def test_s2_answers_one_set_per_stage_and_round() -> None:
    guard = Guard(PARAMS, RANKS)
    assert opened(guard, 0, 0, RANKS, RANKS) == set(RANKS)
    for round, stage in ((0, 0), (1, 0), (0, 1), (2, 1), (1, 2), (-1, 1)):
        with pytest.raises(ProtocolError, match="S1 must ask for round 1 and stage 1, once"):
            guard.admit(heard(round, stage))
    assert opened(guard, 1, 1, RANKS, RANKS) == set(RANKS)


def test_s2_goes_by_what_it_has_seen_itself() -> None:
    guard = Guard(PARAMS, RANKS)
    assert opened(guard, 0, 0, RANKS, [2, 3, 4, 5]) == {2, 3, 4, 5}
    assert opened(guard, 1, 1, RANKS, RANKS) == {2, 3, 4, 5}, "who was left out stays out"
    guard = Guard(replace(PARAMS, on_dropout="rejoin"), RANKS)
    assert opened(guard, 0, 0, RANKS, [2, 3, 4, 5]) == {2, 3, 4, 5}
    assert opened(guard, 1, 1, RANKS, RANKS) == set(RANKS)


def test_s1_can_not_choose_the_members() -> None:
    """Whoever is present and missing in S1's list voids the round, and after a few S2 ends the training."""
    guard = Guard(PARAMS, RANKS)
    for round in range(VOID_ROUNDS - 1):
        assert isinstance(opened(guard, round, 0, [2, 3, 4, 5, 6], RANKS), Void)
    verdict = opened(guard, VOID_ROUNDS - 1, 0, [2, 3, 4, 5, 6], RANKS)
    assert isinstance(verdict, Refused)
    assert verdict.reason == "the updates of all who are present must reach S1, got none of ranks [7]"


def test_s2_refuses_small_sets() -> None:
    for least, present in ((None, [2, 3]), (5, [2, 3, 4, 5])):
        verdict = opened(Guard(replace(PARAMS, min_participants=least), RANKS), 0, 0, RANKS, present)
        assert isinstance(verdict, Refused)
        assert verdict.reason == f"at least {least or 3} participants must be present, got {len(present)}"
    guard = Guard(replace(PARAMS, on_dropout="stop"), RANKS)
    assert isinstance(opened(guard, 0, 0, RANKS, [2, 3, 4, 5, 6]), Refused)


def test_a_resumed_s2_knows_the_stage_and_the_members() -> None:
    guard = Guard(PARAMS, RANKS, first_stage=12, members=[2, 3, 4, 5])
    with pytest.raises(ProtocolError, match="round 0 and stage 12"):
        guard.admit(heard(0, 0))
    assert opened(guard, 0, 12, RANKS, RANKS) == {2, 3, 4, 5}


# -- attacks ------------------------------------------------------------------------------------------------------


def attacking(monkeypatch: pytest.MonkeyPatch, attack: Callable[..., Any]) -> list[Any]:
    """Let S1 do something else in iteration 5 instead of opening the sum."""
    answers: list[Any] = []

    def attacked(ch: Channel, params: Params, round: int, stage: int, updates: dict[int, MaskedUpdate]) -> Any:
        if stage != FIRST_ITERATION + 5:
            return open_sum(ch, params, round, stage, updates)
        return attack(ch, params, round, stage, updates, answers)

    monkeypatch.setattr("fedmpi.ppadmm.rounds.open_sum", attacked)
    return answers


def asks_twice(ch: Channel, params: Params, round: int, stage: int, updates: Any, answers: list[Any]) -> Any:
    """Attack 1: ask for the masks of all, then for those of all but rank 7, and subtract."""
    count = len(updates[2].words)
    ch.send(AUXILIARY, Heard(round, stage, count, as_array(updates)))
    answers.append(ch.recv(AUXILIARY, MaskSum))
    ch.send(AUXILIARY, Heard(round, stage, count, as_array(set(updates) - {7})))
    answers.append(ch.recv(AUXILIARY, MaskSum))
    return None


def test_s1_that_asks_twice_ends_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = attacking(monkeypatch, asks_twice)
    with pytest.raises(ProtocolError, match="S1 must ask for round 8 and stage 8, once, got round 7 and stage 7"):
        train_on_threads(PARAMS, PARTS)
    assert len(answers) == 1, "the second answer never came"


def test_the_attack_works_on_an_s2_that_answers_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: without the guard S1 reads the update of rank 7 to the last bit."""
    monkeypatch.setattr(Guard, "admit", lambda guard, heard: None)

    def believe(ch: Channel, heard: Heard, claimed: list[int], seconds: float) -> dict[int, Present]:
        return {rank: Present(heard.round, heard.stage, heard.count, True, b"") for rank in claimed}

    monkeypatch.setattr("fedmpi.ppadmm.auxiliary.see", believe)
    found: list[np.ndarray] = []

    def attack(*arguments: Any) -> Any:
        *_, updates, answers = arguments
        asks_twice(*arguments)
        # The sum of all masks less that of the others is the mask of rank 7.
        found.append(updates[7].words - (answers[0].words - answers[1].words))
        raise Death("has what it wanted")

    attacking(monkeypatch, attack)
    encoded: list[np.ndarray] = []

    def watched(ch: Channel) -> Any:
        send = secure_sum.Sender.send

        def spy(sender: Any, round: int, stage: int, told: Any, values: Any, wide: Any) -> None:
            if sender.ch is ch and stage == FIRST_ITERATION + 5:
                encoded.append(values)
            send(sender, round, stage, told, values, wide)

        monkeypatch.setattr(secure_sum.Sender, "send", spy)
        return honest(ch)

    with pytest.raises(Death):
        train_on_threads(PARAMS, PARTS, roles={7: watched})
    np.testing.assert_allclose(decode(found[0][:12], 40), encoded[0], atol=2.0**-40)


def hides_one(ch: Channel, params: Params, round: int, stage: int, updates: Any, answers: list[Any]) -> Any:
    """Attack 2: pretend not to have heard of rank 7, to get the sum of the others."""
    ch.send(AUXILIARY, Heard(round, stage, len(updates[2].words), as_array(set(updates) - {7})))
    answer = ch.recv_any(AUXILIARY, (MaskSum, Void, Refused))
    answers.append(answer)
    if isinstance(answer, Refused):
        raise TooFewWorkers(answer.reason)
    return None


def test_s1_that_hides_a_participant_learns_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = attacking(monkeypatch, hides_one)
    with pytest.raises(TooFewWorkers, match=r"the updates of all who are present must reach S1, got none of ranks \[7"):
        train_on_threads(PARAMS, PARTS)
    assert [type(answer) for answer in answers] == [Void] * (VOID_ROUNDS - 1) + [Refused]


def test_a_void_round_is_repeated_under_other_masks_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def hides_one_once(*arguments: Any) -> Any:
        *asked, answers = arguments
        return open_sum(*asked) if answers else hides_one(*arguments)

    answers = attacking(monkeypatch, hides_one_once)
    params = replace(PARAMS, min_participants=6)
    threads = train_on_threads(params, PARTS, record_views=True)
    assert [type(answer) for answer in answers] == [Void]
    expected: list[np.ndarray] = []
    train_plain(params, PARTS, lambda it, coefficients, intercept: expected.append(coefficients))
    for one, other in zip(threads.iterates, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=2.0**-30 * max(np.abs(other).max(), 1))
    first, again = (
        {source: m.words for source, m in threads.channels[0]._views if isinstance(m, MaskedUpdate) and m.round == r}
        for r in (7, 8)
    )
    for rank in RANKS:
        assert (first[rank] != again[rank]).all(), "the same values under another mask"


def repeats(z: dict[int, Order], dest: int, order: Order) -> Order | None:
    """Attack 3: have all but rank 7 send the same again for the same z; the difference of the sums is rank 7's."""
    z[order.stage] = order
    if order.stage != FIRST_ITERATION + 6:
        return order
    return None if dest == 7 else replace(z[order.stage - 1], round=order.round, stage=order.stage, counted=False)


def tells_apart(z: dict[int, Order], dest: int, order: Order) -> Order | None:
    """Attack 4: with a large ρ the x_i + u_i of all others is z."""
    z[order.stage] = order
    return order if order.stage != FIRST_ITERATION + 6 or dest == 7 else replace(order, rho=1e13)


LIES: dict[str, tuple[Any, str]] = {
    "the same z again, not counted": (
        repeats,
        r"S1 must say truly who was in the last sum, .* ranks \[2, 3, 4, 5, 6\]",
    ),
    "another ρ": (tells_apart, "S1 must give all participants the same order, got different ones"),
}


@pytest.mark.parametrize("name", LIES)
@pytest.mark.parametrize("guarded", [True, False])
def test_s1_that_lies_to_participants_learns_nothing(name: str, guarded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the control: without the comparison it has the update of rank 7."""
    lie, said = LIES[name]
    orders, sums, own = dict[int, Order](), dict[int, np.ndarray](), dict[int, np.ndarray]()
    deliver, add_up, encode = Channel.send, Rounds.add_up, secure_sum.Sender.send

    def lying(ch: Channel, dest: int, message: Any) -> None:
        told = lie(orders, dest, message) if isinstance(message, Order) else message
        if told is not None:
            deliver(ch, dest, told)

    def watched(self: Rounds, stage: int, *rest: Any, **options: Any) -> Any:
        found = add_up(self, stage, *rest, **options)
        sums[stage] = found[0]
        if stage == FIRST_ITERATION + 6:
            raise Death("has what it wanted")
        return found

    def spy(sender: Any, round: int, stage: int, told: Any, values: Any, wide: Any) -> None:
        if sender.ch.rank == 7:
            own[stage] = values
        encode(sender, round, stage, told, values, wide)

    monkeypatch.setattr(Channel, "send", lying)
    monkeypatch.setattr(Rounds, "add_up", watched)
    monkeypatch.setattr(secure_sum.Sender, "send", spy)
    if not guarded:
        monkeypatch.setattr(Guard, "lie", lambda *seen: "")
    with pytest.raises(TooFewWorkers if guarded else Death, match=said if guarded else "wanted"):
        train_on_threads(replace(PARAMS, deadline=1.0), PARTS)
    if guarded:
        return
    last = FIRST_ITERATION + 6
    if lie is repeats:
        np.testing.assert_allclose(sums[last - 1] - sums[last], own[last - 1], atol=2.0**-36)
    else:
        z = orders[last].values
        np.testing.assert_allclose(sums[last] - (len(PARTS) - 1) * z, own[last], atol=1e-6)
