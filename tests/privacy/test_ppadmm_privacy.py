"""What S1 and S2 see of a whole training: uniform words, and nothing that depends on the data.

Every message is recorded where it is sent, so that one that nobody asked for counts too. Keys come from seeds: each
check fails always or never. The mutations leave every iterate as it is: no test of accuracy would notice them. That
S2 answers once, and what S1 reads if it does not, is tested in protocol/test_ppadmm_dropouts.py.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import oracles
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from protocol.ppadmm_threads import Parts, problem, train_on_threads

from fedmpi.audit.statistics import octets
from fedmpi.crypto import masks
from fedmpi.crypto.keys import KeyPair, derive
from fedmpi.net import Channel, Message
from fedmpi.net.local import channels
from fedmpi.ppadmm import auxiliary, rounds, secure_sum, service
from fedmpi.ppadmm.params import Params
from fedmpi.ppadmm.rounds import Order
from fedmpi.ppadmm.secure_sum import Heard, MaskedUpdate, MaskSum, ParticipantKey, Present, key_info
from fedmpi.ppadmm.service import salt_of
from fedmpi.runs.job import Job

N, COLUMNS, ITERATIONS = 4, 40, 60
PARAMS = Params(iterations=ITERATIONS, tolerance=0, rho="50", fit_intercept=False, deadline=20.0)
FIRST_ROUND = 2
"""Of the iterations; the rounds before it have other sizes."""


@cache
def data_sets() -> dict[str, Parts]:
    """Three data sets of one shape."""
    zeros = [(np.zeros((20, COLUMNS)), np.zeros(20))] * N
    return {
        "random": problem(N, 20, COLUMNS),
        "zeros": zeros,
        "large": [(A, 1e5 * np.ones(20)) for A, _ in problem(N, 20, COLUMNS, seed=1)],
    }


class SeededPair(KeyPair):
    """A key pair that repeats."""

    def __init__(self, seed: bytes):
        self._private = X25519PrivateKey.from_private_bytes(seed)
        self.public = self._private.public_key().public_bytes_raw()


@dataclass
class Views:
    """What each rank was sent, with the sender, in order of each sender."""

    by_rank: dict[int, list[tuple[int, Message]]]
    iterates: list[np.ndarray] = field(default_factory=list)

    def to(self, rank: int, kind: type) -> list[tuple[int, Any]]:
        return [(source, message) for source, message in self.by_rank[rank] if isinstance(message, kind)]

    @property
    def uploads(self) -> np.ndarray:
        """What S1 got in the iterations, shape (participants, iterations, words)."""
        updates = {(source, m.round): m.words for source, m in self.to(0, MaskedUpdate)}
        rounds = range(FIRST_ROUND, FIRST_ROUND + ITERATIONS)
        return np.array([[updates[rank, round] for round in rounds] for rank in range(2, 2 + N)])

    @property
    def mask_sums(self) -> np.ndarray:
        """What S2 told S1 in the iterations, shape (iterations, words)."""
        return np.array([m.words for _, m in self.to(0, MaskSum)][FIRST_ROUND:])


def train(name: str, seed: int = 0) -> Views:
    by_rank: dict[int, list[tuple[int, Message]]] = {rank: [] for rank in range(N + 2)}

    def pairs(rank: int) -> Callable[[], KeyPair]:
        return lambda: SeededPair(bytes([seed]) * 16 + bytes([rank]) * 16)

    send = Channel.send

    def recording(ch: Channel, dest: int, message: Message) -> None:
        by_rank[dest].append((ch.rank, message))
        send(ch, dest, message)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Channel, "send", recording)
        threads = train_on_threads(PARAMS, data_sets()[name], pairs=pairs)
    return Views(by_rank, threads.iterates)


# -- the checks ---------------------------------------------------------------------------------------------------


def check_uniform(views: Callable[[str], Views]) -> None:
    """Every byte of an upload and of a sum of masks is uniform, and jointly those of any two of them."""
    for name in data_sets():
        seen = views(name)
        for words in (*seen.uploads, seen.mask_sums):
            for significance, values in enumerate(octets(words)):
                p_value = oracles.p_value_uniform(values[None], 256, 64)
                assert p_value > oracles.ALARM, f"byte {significance} is not uniform for {name}"
        everything = [*seen.uploads, seen.mask_sums]
        for k, one in enumerate(everything):
            for other in everything[k + 1 :]:
                for first, second in zip(octets(one), octets(other), strict=True):
                    p_value = oracles.p_value_uniform(np.stack([first, second]), 256, 8)
                    assert p_value > oracles.ALARM, f"two vectors of one round are dependent for {name}"


def check_two_samples(views: Callable[[str], Views]) -> None:
    """Nothing that S1 gets from a participant tells one data set from another."""
    first, *others = [views(name).uploads for name in data_sets()]
    for other in others:
        for participant in range(N):
            for one, two in zip(octets(first[participant]), octets(other[participant]), strict=True):
                assert oracles.p_value_same(one[None], two[None], 256, 64) > oracles.ALARM, "S1 tells the data apart"


def check_fresh(views: Callable[[str], Views]) -> None:
    """No mask is used twice: differences of uploads are uniform too, of two rounds and of two participants."""
    uploads = views("random").uploads
    for participant in range(N):
        for lag in (1, 2, 7):
            difference = uploads[participant, lag:] - uploads[participant, :-lag]
            for values in octets(difference):
                assert oracles.p_value_uniform(values[None], 256, 64) > oracles.ALARM, "two rounds share masks"
        for other in range(participant):
            for values in octets(uploads[participant] - uploads[other]):
                assert oracles.p_value_uniform(values[None], 256, 64) > oracles.ALARM, "participants share masks"


def check_unknown_key(views: Callable[[str], Views]) -> None:
    """No key that S1 has been sent, or can compute from what is public, unmasks an upload."""
    seen, salt = views("random"), salt_of(PARAMS)
    sent = [value for _, m in seen.by_rank[0] for value in vars(m).values() if isinstance(value, bytes)]
    for rank in range(2, 2 + N):
        info = key_info(0, rank)
        public = [bytes(32), salt, derive(salt, info=info), derive(b"", info=info, salt=salt)]
        for key in [*public, *sent, *(derive(value, info=info, salt=salt) for value in sent)]:
            words = np.array(
                [
                    m.words - masks.mask_words(PARAMS.mask, key, m.round, len(m.words))
                    for source, m in seen.to(0, MaskedUpdate)
                    if source == rank and m.round >= FIRST_ROUND
                ]
            )
            for values in octets(words):
                assert oracles.p_value_uniform(values[None], 256, 64) > oracles.ALARM, "S1 knows a key"


def said(message: Message) -> tuple[Any, ...]:
    values = [value.tobytes() if isinstance(value, np.ndarray) else value for value in vars(message).values()]
    return type(message).__name__, *values


def check_s2_sees_no_data(views: Callable[[str], Views]) -> None:
    """What S2 gets is the same to the bit for every data set, but for digests that are fresh every time."""
    seen, digests = [], list[bytes]()
    for name in data_sets():
        view = views(name)
        kinds = {type(message) for _, message in view.by_rank[1]}
        assert kinds == {ParticipantKey, Present, Heard, secure_sum.Done}, "S2 gets something else"
        spoken: dict[int, set[bytes]] = {}
        for _, message in view.to(1, Present):
            spoken.setdefault(message.round, set()).add(message.order)
        assert all(len(one) == 1 for one in spoken.values()), "participants have been told different things"
        digests += [digest for one in spoken.values() for digest in one]
        messages = [
            (source, said(replace(message, order=b"") if isinstance(message, Present) else message))
            for source, message in view.by_rank[1]
        ]
        seen.append({source: [m for s, m in messages if s == source] for source in range(N + 2)})
    assert seen[0] == seen[1] == seen[2], "S2 tells the data apart"
    assert len(set(digests)) == len(digests), "S2 knows again what an order said"


CHECKS = {
    "uniform": check_uniform,
    "two samples": check_two_samples,
    "fresh": check_fresh,
    "unknown key": check_unknown_key,
    "S2": check_s2_sees_no_data,
}


@cache
def honest(name: str) -> Views:
    return train(name, seed=1 + list(data_sets()).index(name))


@cache
def honest_with_the_same_keys(name: str) -> Views:
    return train(name)


@pytest.mark.parametrize("name", CHECKS)
def test_views(name: str) -> None:
    CHECKS[name](honest_with_the_same_keys if name == "S2" else honest)


def test_the_data_sets_make_different_trainings() -> None:
    last = {name: honest(name).iterates[-1] for name in data_sets()}
    assert not last["zeros"].any()
    assert np.abs(last["large"]).max() > 100 * np.abs(last["random"]).max() > 1


def test_participants_see_the_consensus_alone() -> None:
    """A participant gets orders, with z for values and ρ, and the model: the same as everybody gets."""
    view = honest("random")
    for rank in range(2, 2 + N):
        kinds = {type(message).__name__ for _, message in view.by_rank[rank]}
        assert kinds == {"AuxiliaryKey", "Order", "Finish", "Model"}
        assert [said(m) for _, m in view.to(rank, Order)] == [said(m) for _, m in view.to(2, Order)]
    scales, *orders = [m for _, m in view.to(2, Order) if m.round >= FIRST_ROUND]
    for order, iterate in zip(orders, view.iterates[1:-1], strict=True):
        np.testing.assert_array_equal(order.values * scales.values[-1] / scales.values[:-1], iterate)


# -- mutations ----------------------------------------------------------------------------------------------------

Patch = pytest.MonkeyPatch
mask_words = masks.mask_words


def masks_become(patch: Patch, change: Callable[..., np.ndarray]) -> None:
    """Change what both ends take for the mask."""
    patch.setattr(masks, "mask_words", change)
    patch.setattr(auxiliary, "mask_words", change)


def reused_mask(patch: Patch) -> None:
    masks_become(patch, lambda kind, key, round, count: mask_words(kind, key, 0, count))


def one_key_for_all(patch: Patch) -> None:
    patch.setattr(KeyPair, "shared", lambda pair, public, *, info, salt: bytes(31) + b"s")


def no_mask(patch: Patch) -> None:
    masks_become(patch, lambda kind, key, round, count: np.zeros(count, np.uint64))


def floats(patch: Patch) -> None:
    """Masks like those of doubles: 52 bits, added to values that are smaller, never reduced."""
    masks_become(patch, lambda kind, key, round, count: mask_words(kind, key, round, count) >> np.uint64(12))


def key_from_what_is_public(patch: Patch) -> None:
    patch.setattr(KeyPair, "shared", lambda pair, public, *, info, salt: derive(salt, info=info))


def key_sent_to_s1(patch: Patch) -> None:
    """S1 is told the key, as if it stood on the way."""
    shared = KeyPair.shared

    def leaking(pair: KeyPair, public: bytes, *, info: bytes, salt: bytes) -> bytes:
        key = shared(pair, public, info=info, salt=salt)
        leaked.append(key)
        return key

    leaked: list[bytes] = []
    patch.setattr(KeyPair, "shared", leaking)
    send = secure_sum.Sender.send

    def telling(sender: Any, round: int, *rest: Any) -> None:
        send(sender, round, *rest)
        for key in leaked:
            sender.ch.send(0, ParticipantKey(0, key, 0))

    patch.setattr(secure_sum.Sender, "send", telling)


def update_to_s2_too(patch: Patch) -> None:
    send = secure_sum.Sender.send

    def telling(sender: Any, round: int, *rest: Any) -> None:
        send(sender, round, *rest)
        sender.ch.send(1, MaskedUpdate(round, np.zeros(1, np.uint64)))

    patch.setattr(secure_sum.Sender, "send", telling)


def digest_without_nonce(patch: Patch) -> None:
    patch.setattr(rounds.secrets, "token_bytes", bytes)


MUTATIONS = {
    "a reused mask": (reused_mask, "fresh"),
    "one key for all participants": (one_key_for_all, "fresh"),
    "no mask": (no_mask, "uniform"),
    "no mask, two samples": (no_mask, "two samples"),
    "floats instead of the ring": (floats, "uniform"),
    "a key that S1 can compute": (key_from_what_is_public, "unknown key"),
    "a key that S1 is sent": (key_sent_to_s1, "unknown key"),
    "updates to S2": (update_to_s2_too, "S2"),
    "digests that S2 can try out": (digest_without_nonce, "S2"),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutations_are_caught_and_change_no_iterate(name: str, monkeypatch: Patch) -> None:
    mutate, check = MUTATIONS[name]
    mutate(monkeypatch)
    views = cache(lambda data: train(data, seed=0 if check == "S2" else 1 + list(data_sets()).index(data)))
    with pytest.raises(AssertionError):
        CHECKS[check](views)
    np.testing.assert_array_equal(views("random").iterates, honest("random").iterates)


def test_s2_gets_no_digest_of_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has it could try out data sets."""
    monkeypatch.setattr(service, "primary_server", lambda *_: None)
    first, *others = channels(5)
    service.lead(first, Job(PARAMS, "diabetes", {}, 0), digest=bytes(range(32)))
    told = [ch.recv(0, service.Setup, shapes=service.SHAPES).digest for ch in others]
    assert told == [b"", *[bytes(range(32))] * 3]
