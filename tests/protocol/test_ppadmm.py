"""PPADMM on threads: every iterate is plain ADMM's, whatever hides the updates; and what is refused."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from protocol.ppadmm_threads import problem, train_on_threads
from sklearn.linear_model import Lasso

from fedmpi.crypto import masks
from fedmpi.crypto.keys import KeyPair
from fedmpi.errors import FedmpiError, PeerFailed, ProtocolError
from fedmpi.net import Channel
from fedmpi.ppadmm.auxiliary import auxiliary_server
from fedmpi.ppadmm.params import Params
from fedmpi.ppadmm.plain import train_plain
from fedmpi.ppadmm.protocol import primary_server
from fedmpi.ppadmm.rounds import Order
from fedmpi.ppadmm.secure_sum import AuxiliaryKey, MaskedUpdate, MaskSum, ParticipantKey
from fedmpi.ppadmm.service import salt_of

PARTS = problem(5, 30, 12)
FIXED = Params(iterations=40, tolerance=0, penalty=20.0)


def iterates_in_the_clear(params: Params, parts: Any = PARTS) -> list[np.ndarray]:
    seen: list[np.ndarray] = []
    train_plain(params, parts, lambda it, coefficients, intercept: seen.append(coefficients))
    return seen


def check_iterates(got: list[np.ndarray], expected: list[np.ndarray], bits: int = 30) -> None:
    assert len(got) == len(expected)
    for it, (one, other) in enumerate(zip(got, expected, strict=True)):
        assert np.abs(one - other).max() <= 2.0**-bits * np.abs(other).max(), f"iteration {it}"


VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "chacha20": {"mask": "chacha20"},
    "sha256": {"mask": "sha256"},
    "precompute": {"precompute": True},
    "rekey": {"rekey_every": 3},
    "standardize": {"standardize": True},
    "no intercept": {"fit_intercept": False},
    "elastic net": {"l1_ratio": 0.5},
    "given rho": {"rho": "25"},
    "mean rho": {"rho": "mean"},
    "in the clear": {"method": "admm"},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_iterate_is_plain_admms(name: str) -> None:
    params = replace(FIXED, **VARIANTS[name])
    threads = train_on_threads(params, PARTS)
    check_iterates(threads.iterates, iterates_in_the_clear(params))
    for rank in range(2, 7):
        coefficients, intercept = threads.models[rank]
        np.testing.assert_array_equal(coefficients, threads.training.coefficients)
        assert intercept == threads.training.intercept


def test_participants_of_different_size_and_more_columns_than_rows() -> None:
    parts = [(A[: 3 * k + 1], b[: 3 * k + 1]) for k, (A, b) in enumerate(PARTS)]
    check_iterates(train_on_threads(FIXED, parts).iterates, iterates_in_the_clear(FIXED, parts))


def test_the_final_model_is_scikit_learns() -> None:
    X, y = (np.concatenate(arrays) for arrays in zip(*PARTS, strict=True))
    oracle = Lasso(alpha=20 / len(y), tol=1e-12, max_iter=10**6).fit(X, y)
    training = train_on_threads(replace(FIXED, tolerance=1e-10, iterations=2000), PARTS).training
    assert training.iterations < 2000
    assert np.abs(training.coefficients - oracle.coef_).max() < 1e-6
    assert training.intercept == pytest.approx(float(oracle.intercept_), abs=1e-6)


def test_the_masks_change_no_bit() -> None:
    first, *others = (train_on_threads(replace(FIXED, mask=mask), PARTS) for mask in ("aes-ctr", "chacha20", "sha256"))
    again = train_on_threads(FIXED, PARTS)  # other keys
    for threads in (*others, again):
        np.testing.assert_array_equal(threads.iterates, first.iterates)


def test_fewer_fraction_bits_are_seen() -> None:
    """The control of the 2^-30: with 15 bits the iterates differ by more."""
    threads = train_on_threads(replace(FIXED, fraction_bits=15), PARTS)
    with pytest.raises(AssertionError, match="iteration 1"):
        check_iterates(threads.iterates, iterates_in_the_clear(FIXED))
    check_iterates(threads.iterates, iterates_in_the_clear(FIXED), bits=8)


@pytest.mark.parametrize("name", ["default", "precompute", "rekey"])
def test_a_participant_makes_each_mask_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: Counter[tuple[bytes, int]] = Counter()

    def counted(kind: masks.MaskKind, key: bytes, round: int, count: int) -> masks.Words:
        made[key, round] += 1
        return mask_words(kind, key, round, count)

    mask_words = masks.mask_words
    monkeypatch.setattr(masks, "mask_words", counted)  # of the participants; S2 imports the function itself
    train_on_threads(replace(FIXED, **VARIANTS[name]), PARTS)
    assert set(made.values()) == {1}
    assert len(made) == 5 * (40 + 2)


# -- who sends what to whom ---------------------------------------------------------------------------------------


def test_messages_and_words_are_those_of_the_protocol() -> None:
    threads = train_on_threads(FIXED, PARTS, record_views=True)
    rounds, d = 40 + 2, 12
    assert len(threads.views(0, MaskedUpdate)) == 5 * rounds
    words = [len(update.words) for update in threads.views(0, MaskedUpdate)]
    assert set(words) == {4 * (d + 2), 4 * (d + 1), d + 12}
    assert words.count(d + 12) == 5 * 40
    assert len(threads.views(0, MaskSum)) == rounds
    assert {type(message).__name__ for message in threads.views(1)} == {"ParticipantKey", "Present", "Heard", "Done"}
    for rank in range(2, 7):
        assert {type(message).__name__ for message in threads.views(rank)} == {
            "AuxiliaryKey", "Order", "Finish", "Model",
        }  # fmt: skip


def test_keys_are_agreed_on_without_s1_and_afresh() -> None:
    threads = train_on_threads(replace(FIXED, rekey_every=10, iterations=38), PARTS, record_views=True)
    for rank in range(2, 7):
        assert {source for source, message in threads.channels[rank]._views if isinstance(message, AuxiliaryKey)} == {1}
    keys = threads.views(1, ParticipantKey)
    assert sorted({key.epoch for key in keys}) == [0, 1, 2, 3]
    assert len(keys) == len({key.public for key in keys}) == 4 * 5, "new keys for each epoch and participant"
    assert not [m for m in threads.views(0) if isinstance(m, AuxiliaryKey | ParticipantKey)]


def test_no_mask_cancels_where_s2_was_told_other_parameters() -> None:
    params = replace(FIXED, iterations=2)
    roles = {1: lambda ch: auxiliary_server(ch, params, b"other")}
    expected = iterates_in_the_clear(params)
    with pytest.raises((AssertionError, FedmpiError)):
        check_iterates(train_on_threads(params, PARTS, roles=roles).iterates, expected)


# -- what is refused ----------------------------------------------------------------------------------------------


def test_an_overflow_is_refused_at_the_participant_with_its_coordinate() -> None:
    parts = list(PARTS)
    A, b = parts[2]
    parts[2] = (A / 1e9, b)  # its coefficients are too large for 40 bits behind the point
    params = replace(FIXED, fit_intercept=False, penalty=0.0, rho="1e-20")
    channels: dict[int, Channel] = {}
    pattern = r"x \+ u of coordinate \d+ must be below 2\^63/\(N·2\^f\) = 1.67772e\+06 in size for N = 5"
    with pytest.raises(Exception, match=pattern) as error:
        train_on_threads(params, parts, channels=channels)
    assert error.value.exit_code == 2
    assert channels[4].meter.messages_sent["MaskedUpdate"] == 2, "nothing was sent in the iteration"


def test_another_number_of_columns_is_refused() -> None:
    parts = [*PARTS[:-1], (PARTS[-1][0][:, :-1], PARTS[-1][1])]
    with pytest.raises(ProtocolError, match=re.escape("participant (rank 6) must have 12 columns, got 11")):
        train_on_threads(FIXED, parts)


def sending(change: Callable[[Any], Any], role: Callable[[Channel], Any]) -> Callable[[Channel], Any]:
    """A role whose messages are changed on their way."""

    def play(ch: Channel) -> Any:
        send = ch.send
        ch.send = lambda dest, message: send(dest, change(message))  # type: ignore[method-assign]
        return role(ch)

    return play


def lying_s2(change: Callable[[Any], Any]) -> dict[int, Callable[[Channel], Any]]:
    return {1: sending(change, lambda ch: auxiliary_server(ch, FIXED, salt_of(FIXED)))}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda m: MaskSum(m.round + 1, m.members, m.words), "MaskSum must be of round 0"),
        (lambda m: MaskSum(m.round, m.members[:0], m.words), r"got \[\]"),
        (lambda m: MaskSum(m.round, m.members + np.uint32(1), m.words), r"got \[3, 4, 5, 6, 7\]"),
        (lambda m: MaskSum(m.round, m.members, m.words[:-1]), "must have shape"),
    ],
)
def test_wrong_answers_of_s2_are_refused(change: Any, text: str) -> None:
    with pytest.raises(ProtocolError, match=text):
        train_on_threads(FIXED, PARTS, roles=lying_s2(lambda m: change(m) if isinstance(m, MaskSum) else m))


def test_orders_of_a_wrong_shape_are_refused() -> None:
    def shorter(message: Any) -> Any:
        if isinstance(message, Order) and message.stage == 4:
            return Order(message.round, 4, True, True, False, message.rho, message.nonce, message.values[:-1])
        return message

    roles = {0: sending(shorter, lambda ch: primary_server(ch, FIXED))}
    with pytest.raises(ProtocolError, match=r"Order of stage 4 must have other values, got shape \(11,\)"):
        train_on_threads(replace(FIXED, on_dropout="stop"), PARTS, roles=roles)


def test_a_key_of_low_order_is_refused() -> None:
    class Broken(KeyPair):
        def __init__(self) -> None:
            super().__init__()
            self.public = bytes(32)

    channels: dict[int, Channel] = {}
    params = replace(FIXED, iterations=2)
    threads = train_on_threads(params, PARTS, pairs=lambda rank: Broken if rank == 3 else KeyPair, channels=channels)
    assert "none of low order" in str(channels[1].departed[3])
    assert [gone["rank"] for gone in threads.training.failures] == [3], "and the honest ones stay"


def test_a_participant_that_fails_before_it_joins_ends_the_training() -> None:
    def broken(ch: Channel) -> None:
        raise RuntimeError("out of order")

    with pytest.raises((RuntimeError, PeerFailed), match="out of order"):
        train_on_threads(FIXED, PARTS, roles={4: broken})
