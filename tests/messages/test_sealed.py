"""Encrypted links: the contract of all transports, and a man in the middle."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from contract import HANG_SECONDS, SCENARIOS, SIZE, Go, Number, Octets, Words, play, words
from hypothesis import given, settings
from hypothesis import strategies as st
from protocol.codedml_threads import problem, train_on_threads
from scipy.stats import chisquare
from wire import IDENTITY, KEY, Sent, Wire, sealing

from fedmpi.codedml.params import Params
from fedmpi.crypto import seal
from fedmpi.crypto.keys import KeyPair
from fedmpi.crypto.seal import KeyAgreement
from fedmpi.errors import PeerFailed, ProtocolError
from fedmpi.net import Channel, run_local, sealed
from fedmpi.net.endpoint import Notice
from fedmpi.net.message import encode
from fedmpi.net.sealed import HELLO_TAG, SealedTransport

CLEAR_BYTES = 4
"""Before every sealed header: its length."""


@pytest.mark.parametrize("name", SCENARIOS)
def test_contract(name: str) -> None:
    run_local([play(SCENARIOS[name])] * SIZE, wrap=sealing(), timeout_seconds=HANG_SECONDS)


# -- a man in the middle ------------------------------------------------------------------------------------------


SENT = [Words(i, words(size, seed=i)) for i, size in enumerate((3, 500, 0, 40, 40, 500))]
"""What rank 1 sends to rank 0: some of it in several pieces, two of the same size."""


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Several pieces in a small frame."""
    if "contract" not in request.node.name:
        monkeypatch.setattr(sealed, "PIECE_BYTES", 512)


def recorded() -> tuple[Wire, list[Sent], list[Sent]]:
    """A job whose frames from rank 1 to 0 are on the wire; and those of other links, tags and sessions."""
    wires = [Wire(3) for _ in range(2)]
    frames: list[list[Sent]] = []
    for wire in wires:
        for source, dest in ((0, 1), (1, 2), (2, 0)):  # all three links greet
            wire.channels[source].send(dest, Go())
        wire.settle()
        for message in SENT:
            wire.channels[1].send(0, message)
        frames.append(wire.take())
    for source, dest in ((0, 1), (2, 0), (1, 2), (0, 2)):
        for message in SENT:
            wires[0].channels[source].send(dest, message)
    wires[0].channels[1].send(0, Octets(np.zeros(30, np.uint8)))
    return wires[0], frames[0], wires[0].take() + frames[1]


def heard(wire: Wire, expected: list[Words] = SENT) -> str:
    """What rank 0 says when it receives; what it took for good before that was sent, and in this order."""
    for message in expected:
        try:
            received = wire.channels[0].recv(1, Words)
        except ProtocolError as error:
            assert type(error) is ProtocolError
            return str(error)
        assert received.iteration == message.iteration
        np.testing.assert_array_equal(received.words, message.words)
    return "nothing"


def changed_bits(data: st.DataObject, frames: list[Sent], others: list[Sent]) -> list[Sent]:
    i = data.draw(st.integers(0, len(frames) - 1))
    raw = bytearray(bytes(frames[i]))
    for bit in data.draw(st.sets(st.integers(0, 8 * len(raw) - 1), min_size=1, max_size=3)):
        raw[bit // 8] ^= 1 << bit % 8
    return [*frames[:i], frames[i].with_bytes(bytes(raw)), *frames[i + 1 :]]


def another_size(data: st.DataObject, frames: list[Sent], others: list[Sent]) -> list[Sent]:
    i = data.draw(st.integers(0, len(frames) - 1))
    raw = bytes(frames[i])
    cut = raw[: data.draw(st.integers(0, len(raw) - 1))]
    longer = raw + data.draw(st.binary(min_size=1, max_size=600))
    return [*frames[:i], frames[i].with_bytes(data.draw(st.sampled_from([cut, longer]))), *frames[i + 1 :]]


def replayed(data: st.DataObject, frames: list[Sent], others: list[Sent]) -> list[Sent]:
    i = data.draw(st.integers(0, len(frames) - 2))
    at = data.draw(st.integers(i + 1, len(frames) - 1))
    return [*frames[:at], frames[i], *frames[at:]]


def swapped(data: st.DataObject, frames: list[Sent], others: list[Sent]) -> list[Sent]:
    order = data.draw(st.permutations(range(len(frames))).filter(lambda order: order != sorted(order)))
    return [frames[i] for i in order]


def dropped(data: st.DataObject, frames: list[Sent], others: list[Sent]) -> list[Sent]:
    i = data.draw(st.integers(0, len(frames) - 2))  # the last one is missed at the deadline only
    return frames[:i] + frames[i + 1 :]


def foreign(data: st.DataObject, frames: list[Sent], others: list[Sent]) -> list[Sent]:
    """Reflected, of another link, of another tag, of another session."""
    i = data.draw(st.integers(0, len(frames) - 1))
    other = data.draw(st.sampled_from(others))
    return [*frames[:i], Sent(1, 0, Words.tag, other.header, other.payload), *frames[i + 1 :]]


def other_payload(data: st.DataObject, frames: list[Sent], others: list[Sent]) -> list[Sent]:
    """A true header, and the arrays of another frame of the same size."""
    first, second = frames[3], frames[4]
    frames[3] = Sent(1, 0, Words.tag, first.header, second.payload)
    return frames


def pieces_in_another_order(data: st.DataObject, frames: list[Sent], others: list[Sent]) -> list[Sent]:
    piece = 512 + 16
    payload = frames[1].payload[0]
    mixed = payload[piece : 2 * piece] + payload[:piece] + payload[2 * piece :]
    frames[1] = Sent(1, 0, Words.tag, frames[1].header, (mixed,))
    return frames


ATTACKS = [
    changed_bits,
    another_size,
    replayed,
    swapped,
    dropped,
    foreign,
    other_payload,
    pieces_in_another_order,
]


def test_frames_that_nobody_touched_arrive() -> None:
    wire, frames, _ = recorded()
    wire.deliver(*frames)
    assert heard(wire) == "nothing"


@pytest.mark.parametrize("attack", ATTACKS)
def test_every_attack_on_a_link_names_it(attack: Callable[..., list[Sent]]) -> None:
    @settings(max_examples=300 if attack in (changed_bits, another_size, foreign) else 50, deadline=None)
    @given(st.data())
    def attacked(data: st.DataObject) -> None:
        wire, frames, others = recorded()
        wire.deliver(*attack(data, list(frames), others))
        assert heard(wire).startswith("the link from rank 1 to rank 0: frame ")

    attacked()


@pytest.mark.parametrize("attack", [attack for attack in ATTACKS if attack is not another_size])
def test_attacks_pass_where_nothing_is_sealed(attack: Callable[..., list[Sent]]) -> None:
    """The tests above would notice a cipher that checks nothing; sizes are checked in any case."""

    def unsealed(data: st.DataObject) -> str:
        wire = Wire(2, lambda rank, inner: SealedTransport(inner, IDENTITY))
        wire.settle()
        for message in SENT:
            wire.channels[1].send(0, message)
        frames = wire.take()
        wire.deliver(*attack(data, list(frames), frames))
        try:
            return heard(wire)
        except AssertionError:
            return "another message"

    said = set()

    @settings(max_examples=100, deadline=None, derandomize=True)
    @given(st.data())
    def attacked(data: st.DataObject) -> None:
        said.add(unsealed(data))

    attacked()
    assert "another message" in said


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_wrong_hello_names_the_link(data: st.DataObject) -> None:
    """Changed, cut, longer, sent back, another rank's, one to another rank, one under another cluster key."""
    wire = Wire(3)
    wire.channels[1].send(2, Go())
    hellos = {(frame.source, frame.dest): frame for frame in wire.take()}
    own = hellos.pop((1, 0)).header
    at = data.draw(st.integers(0, 8 * len(own) - 1))
    flipped = bytearray(own)
    flipped[at // 8] ^= 1 << at % 8
    wrong = [bytes(flipped), own[: data.draw(st.integers(0, len(own) - 1))], own + b"\0"]
    wrong += [frame.header for frame in hellos.values()]
    wrong += [KeyAgreement(bytes(32), 1, 3).hello(0), KeyAgreement(KEY, 1, 4).hello(0)]
    wire.deliver(Sent(1, 0, HELLO_TAG, data.draw(st.sampled_from(wrong))))
    assert heard(wire) == (
        "the link from rank 1 to rank 0: rank 1 must hold the same cluster key, got a hello made without it"
    )


def test_the_hello_of_an_earlier_job_is_of_no_use() -> None:
    """It is authentic, but whoever repeats it does not have its key."""
    earlier, wire = Wire(2), Wire(2)
    hellos, recorded = wire.take(), [frame for frame in earlier.take() if frame.source == 1]
    wire.deliver(*[frame for frame in hellos if frame.dest == 1], *recorded)
    wire.channels[1].send(0, SENT[0])
    (frame,) = wire.take()
    wire.deliver(frame)
    assert heard(wire).startswith(f"the link from rank 1 to rank 0: frame 0 of tag {Words.tag} must be authentic")


def test_a_frame_before_any_hello_is_refused() -> None:
    wire = Wire(2)
    wire.deliver(*[frame for frame in wire.take() if frame.dest == 1])
    wire.channels[1].send(0, SENT[0])
    wire.deliver(*wire.take())
    assert heard(wire) == f"the link from rank 1 to rank 0 must begin with a hello, got a frame of tag {Words.tag}"


def test_a_second_hello_is_a_forged_notice() -> None:
    wire = Wire(2)
    hellos = wire.take()
    wire.deliver(*hellos, *hellos)
    with pytest.raises(PeerFailed, match=r"the link from rank 1 to rank 0: frame 0 of tag 127 must be authentic"):
        wire.channels[0].recv(1, Words)


def test_a_lost_frame_is_missed_at_the_deadline() -> None:
    wire, frames, _ = recorded()
    wire.channels[0].timeout_seconds = 0.1
    wire.deliver(*frames[:-1])
    assert heard(wire, SENT[:-1]) == "nothing"
    with pytest.raises(PeerFailed, match=r"^worker \(rank 1\) sent no Words for 0.1 s$"):
        wire.channels[0].recv(1, Words)


def test_a_key_of_low_order_is_refused_even_from_a_member(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KeyPair, "public", bytes(32), raising=False)
    member = KeyAgreement(KEY, 1, 2)
    member._pair.public = bytes(32)
    with pytest.raises(ProtocolError, match="an X25519 public key must not be of low order, got 0000"):
        KeyAgreement(KEY, 0, 2).accept(1, member.hello(0))


def test_a_tolerated_rank_with_a_forged_frame_departs_and_the_others_go_on() -> None:
    wire = Wire(3)
    wire.settle()
    ch = wire.channels[0]
    ch.tolerated = {1, 2}
    for message in SENT[:2]:
        wire.channels[1].send(0, message)
    wire.deliver(wire.take()[1])
    wire.channels[2].send(0, Words(7, words(2)))
    wire.settle()
    answers = ch.gather_first(1, [1, 2], Words, iteration=7)
    assert list(answers) == [2]
    assert "broke the protocol: the link from rank 1 to rank 0: frame 0" in str(ch.departed[1])


def test_a_tolerated_rank_with_another_key_departs_once() -> None:
    wire = Wire(3, lambda rank, inner: sealing(bytes(32) if rank == 1 else KEY)(inner))
    ch = wire.channels[0]
    ch.tolerated = {1, 2}
    wire.channels[2].send(0, Words(7, words(2)))
    wire.settle()
    assert list(ch.gather_within(5.0, [1, 2], Words)) == [2]
    assert "broke the protocol: the link from rank 1 to rank 0: rank 1 must hold the same" in str(ch.departed[1])
    assert ch.transport.poll(Words.tag, {1, 2}) is None


def test_a_rank_without_a_key_says_so_in_its_own_words() -> None:
    """Its notice comes in the clear where a hello should: nobody vouches for it, but a user is told."""
    wire = Wire(2, lambda rank, inner: inner if rank else sealing()(inner))
    wire.channels[1].fail(ProtocolError("the cluster key file must be readable"), 2)
    wire.settle()
    assert heard(wire) == (
        "the link from rank 1 to rank 0: not encrypted, and says 'the cluster key file must be readable'"
    )


def test_a_rank_that_does_not_encrypt_notices_one_that_does() -> None:
    wire = Wire(2, lambda rank, inner: inner if rank == 0 else sealing()(inner))
    wire.settle()
    with pytest.raises(PeerFailed, match="Notice from rank 1 must have the magic bytes"):
        wire.channels[0].recv(1, Words)


def test_what_waits_for_a_hello_counts_as_outstanding_until_the_rank_is_forgotten() -> None:
    wire = Wire(3)
    wire.channels[1].send(2, SENT[1])
    transport = wire.channels[1].transport
    header, arrays = encode(SENT[1])
    assert transport.outstanding_bytes() == transport.outstanding_bytes(2) == len(header) + arrays[0].nbytes
    assert transport.outstanding_bytes(0) == 0
    transport.forget(2)
    assert transport.outstanding_bytes() == 0
    wire.channels[1].send(2, SENT[1])
    assert transport.outstanding_bytes() == 0


# -- what an eavesdropper sees ------------------------------------------------------------------------------------


def plain_training(wrap: Any, seen: list[bytes] | None = None) -> np.ndarray:
    """A training of codedml on threads; `seen` gets what was sealed, without hellos and the lengths in the clear."""

    def tapped(inner: Any) -> Any:
        post, greeted = inner.post, set()

        def record(dest: int, tag: int, header: bytes, arrays: list[np.ndarray]) -> None:
            if seen is not None and dest in greeted:
                seen.append(header[CLEAR_BYTES:] + b"".join(array.tobytes() for array in arrays))
            greeted.add(dest)
            post(dest, tag, header, arrays)

        inner.post = record
        return wrap(inner)

    X_bar, Y = problem(120, 40, top=1)
    return train_on_threads(Params(iterations=3), X_bar, Y, 4, wrap=tapped, noise=zero_noise, uniform=no_masks).W


def zero_noise(iteration: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.zeros(shape)


def no_masks(shape: tuple[int, ...]) -> np.ndarray:
    """What is coded with these is small numbers and zeros: only the links hide it."""
    return np.zeros(shape, np.uint32)


def p_value(seen: list[bytes]) -> float:
    """Of the bytes being uniform."""
    counts = np.bincount(np.frombuffer(b"".join(seen), np.uint8), minlength=256)
    assert counts.sum() > 20_000
    return float(chisquare(counts).pvalue)


def test_what_is_on_the_wire_is_uniform() -> None:
    seen: list[bytes] = []
    plain_training(sealing(), seen)
    assert p_value(seen) > 1e-6
    assert len({frame[:16] for frame in seen}) == len(seen)  # equal messages look different
    plain = encode(Words(0, words(0)))[0][:3]  # the first bytes of every header
    assert sum(plain in frame for frame in seen) < len(seen) / 2


def test_the_check_of_the_wire_sees_links_that_seal_nothing() -> None:
    seen: list[bytes] = []
    plain_training(lambda inner: SealedTransport(inner, IDENTITY), seen)
    assert p_value(seen) < 1e-100
    assert len({frame[:16] for frame in seen}) < len(seen)


def test_training_gives_the_same_bits_encrypted() -> None:
    np.testing.assert_array_equal(plain_training(sealing()), plain_training(lambda inner: inner))


def test_no_nonce_is_used_twice_under_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    used = recorded_nonces(monkeypatch)
    assert len({key for key, _ in used}) == 7  # 0 ↔ 1, 0 ↔ 2, 1 ↔ 2, and 0 to itself
    assert max(used.values()) == 1
    assert all(len(nonce) == 12 for _, nonce in used)


def test_the_check_of_nonces_sees_one_that_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    for forgets in (lambda t, s, p: (t, 0, p), lambda t, s, p: (t, s, 0), lambda t, s, p: (0, s, p)):
        with monkeypatch.context() as patch:
            place = seal._place
            patch.setattr(seal, "_place", lambda *where, forgets=forgets, place=place: place(*forgets(*where)))
            assert max(recorded_nonces(patch).values()) > 1


def recorded_nonces(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[bytes, bytes]]:
    """How often each key and nonce were used to seal, in a job with many frames of several tags and pieces."""
    used: Counter[tuple[bytes, bytes]] = Counter()
    cipher = seal.AESGCM

    class Recording:
        def __init__(self, key: bytes):
            self.key, self.cipher = key, cipher(key)

        def encrypt_into(self, nonce: bytes, *rest: Any) -> int:
            used[self.key, nonce] += 1
            return self.cipher.encrypt_into(nonce, *rest)

        def decrypt_into(self, *rest: Any) -> int:
            return self.cipher.decrypt_into(*rest)

    monkeypatch.setattr(seal, "AESGCM", Recording)
    wire = Wire(3)
    wire.channels[1].send(2, Go())
    wire.settle()
    for source in range(3):
        for dest in {0, 1, 2} - {source or None}:
            for message in (*SENT, Number(1), Number(1), Notice(4, "gone"), Octets(np.zeros(2000, np.uint8))):
                wire.channels[source].send(dest, message)
    return used


def test_the_contract_is_played_encrypted() -> None:
    """Not below the encryption."""

    def role(ch: Channel) -> None:
        assert isinstance(ch.transport, SealedTransport)
        assert ch.transport.library == "threads, encrypted"

    run_local([role] * 2, wrap=sealing())
