"""COPML's owners that die, lag or lie once the rows are shared: the others' weights stay the same to the bit."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from protocol.copml_threads import Before, Case, Lows

from fedmpi.copml.member import OpenedShare, Owner, Task
from fedmpi.copml.params import Params
from fedmpi.copml.protocol import Chosen, GradientShare, MaskedShare, WeightShare
from fedmpi.copml.scale import residues
from fedmpi.errors import DecodingError, PeerFailed, ProtocolError, TooFewWorkers
from fedmpi.net import Channel, run_local


class Death(Exception):
    """Of an owner."""


def sending(change: Callable[[int, Any], Any]) -> Before:
    """An owner whose messages are changed on their way; None is sent to nobody."""

    def before(ch: Channel) -> None:
        send = ch.send

        def changed(dest: int, message: Any) -> None:
            if (instead := change(dest, message)) is not None:
                send(dest, instead)

        ch.send = changed  # type: ignore[method-assign]

    return before


def late(dest: int, message: Any) -> Any:
    if isinstance(message, GradientShare | WeightShare):
        time.sleep(0.05)
    return message


def dying(step: int) -> Before:
    def change(dest: int, message: Any) -> Any:
        if isinstance(message, WeightShare | GradientShare) and message.step == step:
            raise Death  # who holds shares of w̄ with the first, others with the second
        return message

    return sending(change)


def lying(kind: type[Any], step: int, by: int = 1, to: int | None = None) -> Before:
    """Shares of what is so much more, for a constant is shared by itself."""

    def change(dest: int, message: Any) -> Any:
        if isinstance(message, kind) and message.step == step and to in (None, dest):
            return kind(step, residues().add(message.values, np.full_like(message.values, by)))
        return message

    return sending(change)


@pytest.mark.parametrize("rank", [2, 5])
def test_an_owner_that_dies_once_the_rows_are_shared_changes_no_bit(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One who holds shares of the weights, or another."""
    case, lows = Case.of(6, spares=1), Lows(monkeypatch)
    with pytest.raises(Death):
        case.train({rank: dying(1)})
    np.testing.assert_array_equal(case.weights(), case.twin(lows))
    assert sorted(case.trained) == [other for other in range(6) if other != rank]
    assert [failure["rank"] for failure in case.trained[0].failures] == [rank]


@pytest.mark.parametrize(
    "options", [{}, {"spares": 3}, {"byzantine": 1}, {"privacy": 2, "spares": 4}, {"privacy": 3, "byzantine": 2}]
)
@pytest.mark.parametrize("N", [16, 17, 50])
def test_whoever_is_lost_enough_are_left_who_hold_the_weights(N: int, options: dict[str, int]) -> None:
    """The first T + 1 + N - R: with any R owners T + 1 of them are left, and 2A more, of whom A may lie."""
    params = Params(**options)
    sizes, task = params.sizes(N), Task(params, [9] * N, 4, 1, 1.0)
    for me in run_local([lambda ch: Owner(ch, task)] * N):
        assert me.holds == (me.ch.rank < len(me.holders) <= N)
        assert len(me.holders) - (N - sizes["R"]) == sizes["T"] + 1
        assert len(me.holders) >= sizes["T"] + 1 + 2 * params.byzantine
        assert [*me.helped] == ([rank for rank in range(N) if rank != me.ch.rank] if me.holds else [])


@pytest.mark.parametrize("rank", [2, 3])
def test_nobody_waits_for_a_late_owner(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it holds shares of the weights or not."""
    case, lows = Case.of(5), Lows(monkeypatch)
    case.train({rank: sending(late)})
    np.testing.assert_array_equal(case.weights(rank), case.twin(lows))
    chosen = [message.owners.tolist() for _, message in case.views[1] if isinstance(message, Chosen)]
    assert all(len(owners) == 4 for owners in chosen)
    assert [other for other in range(5) if other != rank] in chosen


def test_with_too_few_left_the_training_ends() -> None:
    case = Case.of(5)
    with pytest.raises((Death, TooFewWorkers, PeerFailed)):
        case.train({2: dying(1), 4: dying(2)})
    assert 0 not in case.trained


def test_before_the_rows_are_shared_everybody_is_needed() -> None:
    def gone(ch: Channel) -> None:
        raise Death

    case = Case.of(6, spares=1)
    with pytest.raises((Death, PeerFailed)):
        case.train({4: gone})
    assert not case.trained


@pytest.mark.parametrize("kind", [GradientShare, MaskedShare, WeightShare, OpenedShare])
def test_a_liar_is_named_and_changes_no_bit(kind: type[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Who computes something else, or shows another share of what is opened to all or to one."""
    case, lows = Case.of(6, byzantine=1, privacy=1), Lows(monkeypatch)
    step = 4 if kind is OpenedShare else 1
    case.train({3: lying(kind, step)})
    np.testing.assert_array_equal(case.weights(), case.twin(lows))
    found = {(f["rank"], f["reason"]) for rank in (0, 1, 2) for f in case.trained[rank].failures}
    assert found <= {(3, f"lied in iteration {step}")}
    assert found or kind is not GradientShare, "others may be fast enough that nobody looks at the liar's share"


def test_who_alone_is_lied_to_decodes_from_the_same_owners_as_all(monkeypatch: pytest.MonkeyPatch) -> None:
    case, lows = Case.of(6, byzantine=1, privacy=1, iterations=6), Lows(monkeypatch)
    case.train({4: sending(late), 5: sending(late), 1: lying(WeightShare, 1, to=3)})
    np.testing.assert_array_equal(case.weights(), case.twin(lows))
    assert {failure["rank"] for rank in case.trained for failure in case.trained[rank].failures} <= {1}
    assert [failure["rank"] for failure in case.trained[3].failures] == [1], "the late are not looked at"


def test_without_byzantine_a_lie_changes_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    case, lows = Case.of(4), Lows(monkeypatch)
    case.train({3: lying(GradientShare, 1, by=2**24)})
    assert (case.weights() != case.twin(lows)).any()


def test_more_liars_than_agreed_end_the_training() -> None:
    case = Case.of(6, byzantine=1, privacy=1)
    with pytest.raises((DecodingError, PeerFailed), match=r"at most 1 of 6 owners must lie|must be wrong|too few"):
        case.train({3: lying(GradientShare, 1), 4: lying(GradientShare, 1, by=5)})


def test_a_leader_that_names_others_than_owners_is_refused() -> None:
    def change(dest: int, message: Any) -> Any:
        if isinstance(message, Chosen):
            return Chosen(message.step, np.array([0, 1, 1, 9], np.uint32), message.last)
        return message

    case = Case.of(5)
    with pytest.raises((ProtocolError, PeerFailed), match="Chosen must name 4 owners or more in iteration 0"):
        case.train({0: sending(change)})


def test_a_residue_beyond_its_prime_is_refused_by_the_name_of_its_sender() -> None:
    def change(dest: int, message: Any) -> Any:
        if isinstance(message, GradientShare):
            return GradientShare(message.step, np.full_like(message.values, 2**32 - 1))
        return message

    case = Case.of(4)
    with pytest.raises((ProtocolError, PeerFailed), match="field elements from rank 2 must be below"):
        case.train({2: sending(change)})
