"""Thousands of mutated frames at every receiver: a ProtocolError, never a crash, a hang or memory above the limit."""

import importlib
import random
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from protocol.codedml_threads import command_on_threads
from wire import Sent, Wire, sealing

import fedmpi
from fedmpi.codedml.service import serve
from fedmpi.errors import FedmpiError, ProtocolError
from fedmpi.net import Channel, Message
from fedmpi.net.message import Header, encode
from fedmpi.net.sealed import SealedTransport
from fedmpi.net.transport import KEPT_TAGS


class Stop(Message, tag=100):
    """Of a tag that no message of the package has: a receiver that waits for it leaves the others alone."""


FRAMES = 10_000
EXAMPLES = 6
ROLE_FRAMES = 150
LIMIT_BYTES = 1 << 16
SLACK_BYTES = 1 << 16
"""What a receiver needs beside the arrays: a frame of these tests is smaller."""

Frames = list[Sent]


def message_types() -> list[type[Message]]:
    """Every message type of the package: whatever module defines one is imported."""
    root = Path(fedmpi.__file__).parent
    for path in sorted(root.rglob("*.py")):
        if "(Message, tag=" in path.read_text():
            importlib.import_module(".".join(["fedmpi", *path.relative_to(root).with_suffix("").parts]))
    return sorted((c for c in Message.__subclasses__() if c.__module__.startswith("fedmpi.")), key=lambda c: c.__name__)


TYPES = message_types()
SCALARS: dict[type, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    int: st.integers(-(1 << 63), (1 << 63) - 1),
    float: st.floats(),
    str: st.text("az\0\n~\x80ßÿ€\ufeff\uffff😀", max_size=12),  # of one to four bytes: all of Unicode takes a minute
    bytes: st.binary(max_size=12),
}


def messages(cls: type[Message]) -> st.SearchStrategy[Message]:
    shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5)
    fields = {name: SCALARS[kind] if kind in SCALARS else hnp.arrays(kind, shapes) for name, kind in cls._types.items()}
    return st.builds(cls, **fields)


MESSAGES = {cls: messages(cls) for cls in TYPES}

RECEIVERS: dict[str, Callable[[Channel, type[Message]], Any]] = {
    "recv": lambda ch, cls: ch.recv(1, cls),
    "recv_any": lambda ch, cls: ch.recv_any(1, (Stop, cls)),
    "recv_latest": lambda ch, cls: ch.recv_latest(1, cls, until=Stop),
    "gather": lambda ch, cls: ch.gather([1], cls)[1],
    "gather_first": lambda ch, cls: ch.gather_first(1, [0, 1], cls)[1],
    "gather_within": lambda ch, cls: ch.gather_within(5.0, [1], cls)[1],
}


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Bytes changed, put in, taken out, repeated or cut off; all of it most often near the front, where headers are."""
    raw = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        at = rng.randrange(rng.choice((8, 40, len(raw))) + 1)
        some = rng.choice((rng.randbytes(1), rng.randbytes(8), b"\xff" * 8, bytes(8), b"\x01" + bytes(7)))
        kind = rng.randrange(6)
        if kind <= 1:
            raw[at : at + len(some)] = some
        elif kind == 2 and raw:
            raw[at % len(raw)] ^= 1 << rng.randrange(8)
        elif kind == 3:
            raw[at:at] = rng.choice((some, raw[at : at + 16], rng.randbytes(300)))
        elif kind == 4:
            del raw[at : at + len(some)]
        else:
            del raw[at:]
    return bytes(raw)


def sent(wire: Wire, message: Message) -> Sent:
    """The frame of a message from rank 1 to rank 0."""
    wire.settle()
    wire.channels[1].send(0, message)
    (frame,) = wire.take()
    return frame


def mutated_frame(frame: Sent, rng: random.Random) -> Sent:
    """Another frame: the header alone is mutated, or the payload too; or arrays are missing or more than they were."""
    kind = rng.randrange(4)
    if kind == 0:
        return frame.with_bytes(mutated(bytes(frame), rng))
    payload = list(frame.payload)
    if kind == 1 and payload:
        payload.pop(rng.randrange(len(payload)))
    elif kind == 1:
        payload.append(rng.randbytes(20))
    return Sent(1, 0, frame.tag, mutated(frame.header, rng), tuple(payload))


def received(ch: Channel, cls: type[Message], name: str) -> Message | str:
    """The message, or what is said instead of it; in any case within the limits of memory."""
    tracemalloc.start()
    try:
        message: Message | str = RECEIVERS[name](ch, cls)
    except ProtocolError as error:
        assert type(error) is ProtocolError  # PeerFailed would be a wait that came to its deadline
        message = str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak <= 2 * LIMIT_BYTES + SLACK_BYTES  # of sealed arrays there are two copies for a moment
    return message


def hostile(wrap: Any, check: Callable[[Sent, Message | str, type[Message]], None]) -> Counter[str]:
    """Mutated frames of every type at every receiver; some mutations change nothing and do not count."""
    counts: Counter[str] = Counter()

    for cls, some in MESSAGES.items():

        @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.just(cls), some, st.integers(0, 1 << 64))
        def one(cls: type[Message], message: Message, seed: int) -> None:
            rng = random.Random(seed)
            wire = Wire(2, lambda rank, inner: wrap(inner), limit_bytes=LIMIT_BYTES)
            true, ch = sent(wire, message), wire.channels[0]
            for _ in range(FRAMES // EXAMPLES // len(TYPES) + 4):  # a tenth of the mutations changes nothing
                frame = mutated_frame(true, rng)
                if (frame.header, frame.payload) == (true.header, true.payload):
                    continue
                name = rng.choice(list(RECEIVERS))
                wire.deliver(frame)
                if isinstance(ch.transport, SealedTransport):
                    ch.transport._received.clear()  # it expects the frame that was mutated
                check(frame, received(ch, cls, name), cls)
                counts[name] += 1
                counts[cls.__name__] += 1

        one()
    assert sum(counts[name] for name in RECEIVERS) > 0.9 * FRAMES
    return counts


def test_mutated_frames_are_refused_or_are_what_they_say() -> None:
    """Whoever changes a number makes another message, and only a role can know that it is wrong."""
    refused = 0

    def check(frame: Sent, got: Message | str, cls: type[Message]) -> None:
        nonlocal refused
        if isinstance(got, str):
            assert "rank 1" in got
            refused += 1
            return
        assert type(got) is cls
        header, arrays = encode(got)
        assert len(header) == len(frame.header)
        assert tuple(array.tobytes() for array in arrays) == frame.payload

    counts = hostile(lambda inner: inner, check)
    assert {cls.__name__ for cls in TYPES} <= counts.keys()
    assert counts.total() / 2 * 0.5 < refused


def test_mutated_frames_of_encrypted_links_are_all_refused() -> None:
    def check(frame: Sent, got: Message | str, cls: type[Message]) -> None:
        assert isinstance(got, str)
        assert got.startswith(f"the link from rank 1 to rank 0: frame 0 of tag {frame.tag} must be authentic")

    counts = hostile(sealing(), check)
    assert {cls.__name__ for cls in TYPES} <= counts.keys()


def test_the_types_are_those_of_all_systems() -> None:
    assert {
        "Notice",
        "Closing",
        "Report",
        "CodedData",
        "DataSeed",
        "CodedVectors",
        "CodedProduct",
        "GroupSetup",
        "Share",
        "OpenedDigests",
    } <= {cls.__name__ for cls in TYPES}


def test_the_check_of_memory_sees_a_header_that_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Header, "check", lambda *_: None)
    cls = next(cls for cls in TYPES if cls.__name__ == "CodedData")
    wire = Wire(2, lambda rank, inner: inner, limit_bytes=LIMIT_BYTES)
    wire.channels[1].limit_bytes = 1 << 30
    (header, _) = encode(cls(1, np.zeros((1, 0), np.uint32)))  # type: ignore[call-arg]
    claim = header[:-16] + (1 << 16).to_bytes(8, "little") + (64).to_bytes(8, "little")
    wire.deliver(Sent(1, 0, cls.tag, claim))
    with pytest.raises(AssertionError):
        received(wire.channels[0], cls, "recv")


# -- what the roles make of messages that the codec has let through -----------------------------------------------


class IdleError(Exception):
    """A role that waits for more: nothing was wrong with what came."""


def frames_to_worker(workers: int, options: str) -> list[Sent]:
    """What worker 1 of a training receives, from the master and the other workers."""
    seen: list[Sent] = []

    def tapped(inner: Any) -> Any:
        post = inner.post

        def record(dest: int, tag: int, header: bytes, arrays: list[np.ndarray]) -> None:
            seen.append(Sent(inner.rank, dest, tag, bytes(header), tuple(array.tobytes() for array in arrays)))
            post(dest, tag, header, arrays)

        inner.post = record
        return inner

    few = ["--iterations", "2", "--max-rows", "40", "--quiet"]
    command_on_threads(workers, *options.split(), *few, wrap=tapped)
    return [frame for frame in seen if frame.dest == 1 and frame.tag not in KEPT_TAGS]


def idle(ch: Channel) -> None:
    """Wait no longer than until nothing comes any more."""
    pauses = iter(range(2))

    def on_pause() -> None:
        if next(pauses, None) is None:
            raise IdleError

    ch.on_pause = on_pause


@pytest.mark.parametrize(
    ("workers", "options"),
    [(4, "--paper"), (3, "--primes 1"), (3, "--primes 2"), (9, "--paper --method bgw"), (9, "--method bgw --primes 2")],
)
def test_a_worker_refuses_what_it_cant_use(workers: int, options: str, tmp_path: Path, monkeypatch: Any) -> None:
    """Every error is one of ours, with its one line."""
    monkeypatch.chdir(tmp_path)
    frames = frames_to_worker(workers, options)
    ends: Counter[str] = Counter()
    rng = random.Random(1)
    for _ in range(ROLE_FRAMES):
        wire = Wire(workers + 1, lambda rank, inner: inner, limit_bytes=LIMIT_BYTES)
        i = rng.randrange(len(frames)) if rng.random() < 0.7 else 0
        wire.deliver(*frames[:i], changed_number(frames[i], rng), *frames[i + 1 :])
        ch = wire.channels[1]
        idle(ch)
        try:
            serve(ch)
            ends["done"] += 1
        except (FedmpiError, IdleError) as error:
            ends[type(error).__name__] += 1
    assert ends["ProtocolError"] > ROLE_FRAMES / 10, ends


def changed_number(frame: Sent, rng: random.Random) -> Sent:
    """The frame with other numbers behind the prefix: most often it still decodes."""
    raw = bytearray(frame.header)
    for _ in range(rng.choice((1, 1, 2))):
        at = rng.randrange(8, len(raw) + 1)
        some = rng.choice((rng.randbytes(1), rng.randbytes(8), b"\xff" * 8, bytes(8), b"\x01" + bytes(7)))
        raw[at : at + len(some)] = some[: len(raw) - at]
    return Sent(frame.source, frame.dest, frame.tag, bytes(raw), frame.payload)
