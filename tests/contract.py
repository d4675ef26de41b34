"""What every transport does the same way: one suite, run on threads and on MPI.

A scenario is one function that every one of `SIZE` ranks runs at the same time, with its own channel. Whatever it
leaves unread is drained by `Channel.close`, which `play` calls at the end: a transport that can't do that hangs or
fails here too.
"""

import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest

from fedmpi.errors import PeerFailed, ProtocolError, UsageError
from fedmpi.net import Channel, Float64, Message, UInt8, UInt32, UInt64
from fedmpi.net.meaning import anything
from fedmpi.net.message import encode

SIZE = 3
HANG_SECONDS = 30.0
"""No wait of a scenario that works lasts nearly as long."""

INLINE_BYTES = 64 << 10
CHUNK_BYTES = 16 << 20
LARGE = 1 << 17
"""Numbers of a type that no transport sends behind its header in one piece."""

Scenario = Callable[[Channel], None]
SCENARIOS: dict[str, Scenario] = {}


def scenario(function: Scenario) -> Scenario:
    SCENARIOS[function.__name__] = function
    return function


def play(function: Scenario) -> Scenario:
    """The scenario, and the orderly end of a job."""

    def role(ch: Channel) -> None:
        assert ch.size == SIZE
        function(ch)
        ch.timeout_seconds = HANG_SECONDS
        ch.close()

    return role


class Number(Message, tag=1):
    value: int


class Words(Message, tag=2):
    """Any → any: a vector, small or large."""

    iteration: int
    words: UInt32


class Octets(Message, tag=3):
    octets: UInt8


class Go(Message, tag=4):
    pass


ANYTHING = anything("frames carry everything; what a field means is another matter")


class Everything(Message, tag=5):
    flag: bool
    integer: Annotated[int, ANYTHING]
    real: Annotated[float, ANYTHING]
    text: Annotated[str, ANYTHING]
    raw: bytes
    octets: UInt8
    words: UInt32
    longs: UInt64
    reals: Annotated[Float64, ANYTHING]


class Matrix(Message, tag=6):
    rows: Float64


class Impostor(Message, tag=6):
    """Another type under the tag of `Matrix`."""

    rows: UInt32


class Never(Message, tag=7):
    """Nobody sends this."""


class Stop(Message, tag=8):
    pass


def words(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1 << 32, n, dtype=np.uint32)


def others(ch: Channel) -> list[int]:
    return [rank for rank in range(ch.size) if rank != ch.rank]


def meet(ch: Channel) -> None:
    """Everybody has reached this line, and what they sent before is on its way."""
    for rank in range(ch.size):
        ch.send(rank, Go())
    ch.gather(range(ch.size), Go)


def payload_type(tag: int) -> type[Any]:
    """A message type under a tag of its own, so that what is left of a broken frame disturbs no other."""

    class Payload(Message, tag=tag):
        octets: UInt8

    return Payload


# -- what arrives -------------------------------------------------------------------------------------------------


@scenario
def everybody_sends_8_mib_before_anyone_receives(ch: Channel) -> None:
    for dest in range(ch.size):
        ch.send(dest, Words(ch.rank, words(2 << 20, seed=10 * ch.rank + dest)))
    meet(ch)
    for source in range(ch.size):
        message = ch.recv(source, Words)
        assert message.iteration == source
        np.testing.assert_array_equal(message.words, words(2 << 20, seed=10 * source + ch.rank))
    ch.flush()
    assert ch.transport.outstanding_bytes() == 0


@scenario
def messages_of_one_type_from_one_source_arrive_in_order(ch: Channel) -> None:
    sizes = [0, 5, LARGE, 1, LARGE + 1, LARGE, 7]  # large ones travel another way than small ones
    if ch.rank != 0:
        for i, size in enumerate(sizes):
            ch.send(0, Words(100 * ch.rank + i, words(size, seed=i)))
            ch.send(0, Number(i))
        return
    meetings = [(i, source) for i in range(len(sizes)) for source in (2, 1)]
    for i, source in meetings:
        message = ch.recv(source, Words)
        assert message.iteration == 100 * source + i
        np.testing.assert_array_equal(message.words, words(sizes[i], seed=i))
    assert [ch.recv(source, Number).value for i, source in meetings] == [i for i, _ in meetings]


@scenario
def a_thousand_small_messages_wait_for_their_receiver(ch: Channel) -> None:
    for i in range(1000):
        for dest in others(ch):
            ch.send(dest, Number(1000 * ch.rank + i))
    meet(ch)
    for source in others(ch):
        assert [ch.recv(source, Number).value for _ in range(1000)] == list(range(1000 * source, 1000 * source + 1000))


@scenario
def two_types_from_one_source_can_be_received_in_the_other_order(ch: Channel) -> None:
    if ch.rank == 1:
        ch.send(0, Words(3, words(LARGE)))
        ch.send(0, Number(4))
        ch.send(0, Octets(np.zeros(5, np.uint8)))
    if ch.rank == 0:
        assert ch.recv(1, Octets).octets.shape == (5,)
        assert ch.recv(1, Number).value == 4
        np.testing.assert_array_equal(ch.recv(1, Words).words, words(LARGE))


@scenario
def a_rank_can_send_to_itself(ch: Channel) -> None:
    for size in (3, LARGE):
        ch.send(ch.rank, Words(ch.rank, words(size, seed=ch.rank)))
        message = ch.recv(ch.rank, Words)
        assert message.iteration == ch.rank
        np.testing.assert_array_equal(message.words, words(size, seed=ch.rank))
        assert ch.transport.poll(Words.tag, range(ch.size)) is None


@scenario
def the_sender_may_change_its_array_after_send(ch: Channel) -> None:
    for size in (8, LARGE):
        array = words(size, seed=size)
        for dest in others(ch):
            ch.send(dest, Words(0, array))
            array += np.uint32(1)
        array[:] = 0
        for source in others(ch):
            expected = words(size, seed=size) + np.uint32(others(Rank(source)).index(ch.rank))
            np.testing.assert_array_equal(ch.recv(source, Words).words, expected)


class Rank:
    size = SIZE

    def __init__(self, rank: int):
        self.rank = rank


@scenario
def received_arrays_are_read_only(ch: Channel) -> None:
    for size in (0, 8, LARGE):
        ch.send(ch.rank, Words(0, words(size)))
        received = ch.recv(ch.rank, Words).words
        assert not received.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            received[...] = 0


@scenario
def arrays_of_every_size_and_layout_arrive(ch: Channel) -> None:
    header = len(encode(Octets(np.zeros(0, np.uint8)))[0])
    shapes: list[tuple[int, ...]] = [(), (0,), (0, 7), (3, 0, 2), (1,), (2, 3, 4), (1, 2, 1, 2, 1, 2, 1, 2)]
    edges = (INLINE_BYTES - header, CHUNK_BYTES, 2 * CHUNK_BYTES + 3)
    shapes += [(edge + by,) for edge in edges for by in (-1, 0, 1)]
    successor, predecessor = (ch.rank + 1) % SIZE, (ch.rank - 1) % SIZE
    pattern = np.random.default_rng(1).integers(0, 256, 2 * CHUNK_BYTES + 4, dtype=np.uint8)
    for shape in shapes:
        sent = pattern[: math.prod(shape)].reshape(shape)
        ch.send(successor, Octets(sent))
        received = ch.recv(predecessor, Octets).octets
        assert received.shape == shape
        assert received.dtype == np.uint8
        assert np.array_equal(received, sent)
    matrix = np.arange(24.0).reshape(4, 6)
    frozen = matrix.copy()
    frozen.flags.writeable = False
    big = np.arange(3.0 * LARGE).reshape(LARGE, 3)
    for view in (matrix.T, matrix[::2, ::-3], np.asfortranarray(matrix), np.broadcast_to(2.0, (3, 2)), frozen, big.T):
        ch.send(successor, Matrix(view))
        assert np.array_equal(ch.recv(predecessor, Matrix).rows, view)


@scenario
def every_type_of_field_arrives(ch: Channel) -> None:
    def message(scale: int) -> Everything:
        return Everything(
            flag=scale == 1,
            integer=-(1 << 63) if scale == 1 else (1 << 63) - 1,
            real=-math.inf if scale == 1 else 5e-324,
            text="" if scale == 1 else "größer ≠ 大\n\0",
            raw=b"" if scale == 1 else bytes(range(256)) + b"\0\0",
            octets=np.arange(256 * scale, dtype=np.uint8),
            words=np.full((3, scale), (1 << 32) - 1, np.uint32),
            longs=np.full((scale,), (1 << 64) - 1, np.uint64),
            reals=np.array([math.nan, -0.0, math.inf, 5e-324, 1.7976931348623157e308]),
        )

    for scale in (1, LARGE):
        sent = message(scale)
        for dest in others(ch):
            ch.send(dest, sent)
        for source in others(ch):
            received = ch.recv(source, Everything)
            assert isinstance(received, Everything)
            for name in ("flag", "integer", "real", "text", "raw"):
                assert getattr(received, name) == getattr(sent, name)
                assert type(getattr(received, name)) is type(getattr(sent, name))
            for name in ("octets", "words", "longs", "reals"):
                got, expected = getattr(received, name), getattr(sent, name)
                assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
                assert got.tobytes() == expected.tobytes()  # NaN and -0.0 too


@scenario
def bytes_counted_are_the_codecs(ch: Channel) -> None:
    messages = [Number(3), Words(1, words(10)), Words(2, words(LARGE)), Octets(np.zeros((0, 4), np.uint8))]
    expected: dict[str, int] = {}
    for message in messages:
        header, arrays = encode(message)
        name = type(message).__name__
        expected[name] = expected.get(name, 0) + len(header) + sum(array.nbytes for array in arrays)
        for dest in others(ch):
            ch.send(dest, message)
    for source in others(ch):
        for message in messages:
            ch.recv(source, type(message))
    doubled = {name: 2 * size for name, size in expected.items()}
    assert dict(ch.meter.bytes_sent) == dict(ch.meter.bytes_received) == doubled
    assert dict(ch.meter.messages_sent) == {"Number": 2, "Words": 4, "Octets": 2}
    assert expected["Words"] > 4 * (10 + LARGE)
    assert ch.meter.late == 0


@scenario
def views_hold_every_message_received(ch: Channel) -> None:
    ch.record_views = True
    for dest in range(ch.size):
        ch.send(dest, Number(10 * ch.rank + dest))
        ch.send(dest, Words(ch.rank, words(3 if dest else LARGE, seed=ch.rank)))
    for source in (2, 0, 1):
        ch.recv(source, Words)
        ch.recv(source, Number)
    with tempfile.TemporaryDirectory() as folder:
        ch.save_views(Path(folder) / "new" / "views")
        assert [path.name for path in (Path(folder) / "new" / "views").iterdir()] == [f"rank-{ch.rank}.npz"]
        with np.load(Path(folder) / "new" / "views" / f"rank-{ch.rank}.npz", allow_pickle=False) as archive:
            views = dict(archive)
    expected = {}
    for i, source in enumerate((2, 0, 1)):
        expected[f"{2 * i:06d}-{source}-Words-iteration"] = np.array(source)
        expected[f"{2 * i:06d}-{source}-Words-words"] = words(3 if ch.rank else LARGE, seed=source)
        expected[f"{2 * i + 1:06d}-{source}-Number-value"] = np.array(10 * source + ch.rank)
    assert list(views) == list(expected)
    assert all(np.array_equal(views[key], expected[key]) for key in expected)


# -- what is refused ----------------------------------------------------------------------------------------------


@scenario
def a_wrong_shape_is_refused(ch: Channel) -> None:
    cases = [((4, 6), (4, 7)), ((4, 6), (None, 7)), ((4, 6), (24,)), ((4, 6), (None, None, None)), ((), (1,))]
    cases += [((LARGE, 3), (3, LARGE))]
    if ch.rank == 1:
        for shape, _ in cases:
            ch.send(0, Matrix(np.zeros(shape)))
        ch.send(0, Go())
    if ch.rank == 0:
        for shape, wanted in cases:
            with pytest.raises(ProtocolError) as error:
                ch.recv(1, Matrix, shapes={"rows": wanted})
            expected = ", ".join("any" if n is None else str(n) for n in wanted)
            got = ", ".join(map(str, shape))
            assert str(error.value) == f"Matrix.rows from rank 1 must have shape ({expected}), got ({got})"
            assert error.value.exit_code == 4
        ch.recv(1, Go)


@scenario
def the_right_shape_is_accepted(ch: Channel) -> None:
    cases = [((4, 6), (4, 6)), ((4, 6), (None, 6)), ((0, 6), (None, None)), ((), ()), ((LARGE, 3), (LARGE, None))]
    for shape, wanted in cases:
        ch.send(ch.rank, Matrix(np.ones(shape)))
        assert ch.recv(ch.rank, Matrix, shapes={"rows": wanted}).rows.shape == shape


@scenario
def another_type_under_the_same_tag_is_refused(ch: Channel) -> None:
    if ch.rank == 1:
        ch.send(0, Impostor(words(3)))
        ch.send(0, Impostor(words(LARGE)))
    if ch.rank == 0:
        for _ in range(2):
            with pytest.raises(ProtocolError, match="Matrix from rank 1 must have tag 6 and schema 0x"):
                ch.recv(1, Matrix)


@scenario
def more_than_the_limit_is_refused(ch: Channel) -> None:
    ch.limit_bytes = 4 * LARGE
    ch.send(ch.rank, Words(0, words(LARGE)))
    assert ch.recv(ch.rank, Words).words.size == LARGE
    ch.send(ch.rank, Words(0, words(LARGE + 1)))
    expected = f"Words from rank {ch.rank} must hold at most {4 * LARGE} bytes, got {4 * LARGE + 4}"
    with pytest.raises(ProtocolError, match=expected):
        ch.recv(ch.rank, Words)


@scenario
def a_payload_of_another_size_than_announced_is_refused(ch: Channel) -> None:
    small, large = 100, 1 << 20
    cases = [(small, small - 1), (small, small + 1), (small, 0), (0, 1), (small, large)]
    cases += [(large, large - 1), (large, large + 1), (large, small)]
    cases += [(CHUNK_BYTES + 5, CHUNK_BYTES + 4), (CHUNK_BYTES + 5, CHUNK_BYTES + 6)]
    for i, (announced, sent) in enumerate(cases):
        payload = payload_type(20 + i)
        if ch.rank == 1:
            header, _ = encode(payload(np.zeros(announced, np.uint8)))
            ch.transport.post(0, payload.tag, header, [np.zeros(sent, np.uint8)])
        if ch.rank == 0:
            with pytest.raises(ProtocolError, match=rf"the payload from rank 1 must be .*{announced}.* bytes"):
                ch.recv(1, payload)


@scenario
def a_frame_that_is_no_header_is_refused(ch: Channel) -> None:
    valid = encode(Words(7, words(2)))[0]
    cases = [b"", b"f", valid[:-1], b"GM" + valid[2:], bytes(len(valid)), valid[:16] + b"\xff" + valid[17:]]
    if ch.rank == 1:
        for case in cases:
            ch.transport.post(0, Words.tag, case, [])
        ch.send(0, Words(8, words(2)))
    if ch.rank == 0:
        for _ in cases:
            with pytest.raises(ProtocolError, match="Words from rank 1 must have"):
                ch.recv(1, Words)
        assert ch.recv(1, Words).iteration == 8


# -- many sources -------------------------------------------------------------------------------------------------


@scenario
def gather_takes_one_message_from_each_source(ch: Channel) -> None:
    for size in (2, LARGE):
        for dest in range(ch.size):
            ch.send(dest, Words(ch.rank, words(size, seed=ch.rank)))
        gathered = ch.gather(range(ch.size), Words, shapes={"words": (size,)})
        assert sorted(gathered) == [0, 1, 2]
        for source, message in gathered.items():
            assert message.iteration == source
            np.testing.assert_array_equal(message.words, words(size, seed=source))
    assert ch.gather([], Words) == {}


@scenario
def a_peer_that_runs_ahead_is_not_lost(ch: Channel) -> None:
    rounds = 4
    if ch.rank == 1:
        for i in range(rounds):
            ch.send(0, Words(i, words(LARGE if i % 2 else 3, seed=i)))
        ch.send(0, Go())
    if ch.rank == 2:
        for i in range(rounds):
            ch.recv(0, Go)
            ch.send(0, Words(i, words(3, seed=i)))
    if ch.rank == 0:
        ch.recv(1, Go)
        for i in range(rounds):
            ch.send(2, Go())
            gathered = ch.gather([1, 2], Words)
            assert {source: message.iteration for source, message in gathered.items()} == {1: i, 2: i}
            np.testing.assert_array_equal(gathered[1].words, words(LARGE if i % 2 else 3, seed=i))
        assert ch.meter.late == 0


@scenario
def gather_first_leaves_others_for_other_calls(ch: Channel) -> None:
    """Sources that were not asked, and other types, stay where they are."""
    ch.send(0, Number(ch.rank))
    ch.send(0, Words(ch.rank, words(LARGE)))
    ch.send(0, Go())
    if ch.rank == 0:
        ch.gather(range(SIZE), Go)
        assert {s: m.value for s, m in ch.gather([1, 2], Number).items()} == {1: 1, 2: 2}
        assert {s: m.iteration for s, m in ch.gather([0, 2], Words).items()} == {0: 0, 2: 2}
        assert ch.recv(1, Words).iteration == 1
        assert ch.recv(0, Number).value == 0
        assert ch.meter.late == 0


@scenario
def gather_first_takes_the_fastest_and_drops_the_late(ch: Channel) -> None:
    for size in (3, LARGE):
        late = ch.meter.late
        if ch.rank == 1:
            for i in (0, 0, 1):  # its first answer comes twice
                ch.send(0, Words(i, words(size, seed=i)))
        if ch.rank == 2:
            ch.recv(0, Go)  # a straggler: it answers the first request when the second has been sent
            for i in (0, 1):
                ch.send(0, Words(i, words(size, seed=10 + i)))
        if ch.rank == 0:
            first = ch.gather_first(1, [1, 2], Words, iteration=0)
            assert {source: message.iteration for source, message in first.items()} == {1: 0}
            np.testing.assert_array_equal(first[1].words, words(size, seed=0))
            assert ch.meter.late == late
            ch.send(2, Go())
            second = ch.gather_first(2, [1, 2], Words, shapes={"words": (size,)}, iteration=1)
            assert {source: message.iteration for source, message in second.items()} == {1: 1, 2: 1}
            np.testing.assert_array_equal(second[1].words, words(size, seed=1))
            np.testing.assert_array_equal(second[2].words, words(size, seed=11))
            assert ch.meter.late == late + 2


@scenario
def recv_latest_returns_the_newest(ch: Channel) -> None:
    if ch.rank == 0:
        for dest in others(ch):
            for i in range(5):
                ch.send(dest, Words(i, words(3, seed=i)))
        meet(ch)
        ch.gather([1, 2], Number)
        for dest in others(ch):
            ch.send(dest, Words(5, words(LARGE)))
        ch.gather([1, 2], Number)
        for dest in others(ch):
            ch.send(dest, Words(6, words(1)))
            ch.send(dest, Stop())
        meet(ch)
    else:
        meet(ch)
        newest = ch.recv_latest(0, Words, until=Stop, shapes={"words": (None,)})
        assert newest is not None
        assert newest.iteration == 4
        np.testing.assert_array_equal(newest.words, words(3, seed=4))
        assert ch.meter.late == 4
        ch.send(0, Number(0))
        newest = ch.recv_latest(0, Words, until=Stop)
        assert newest is not None
        np.testing.assert_array_equal(newest.words, words(LARGE))
        ch.send(0, Number(0))
        meet(ch)
        assert ch.recv_latest(0, Words, until=Stop) is None
        assert ch.meter.late == 4


@scenario
def recv_latest_checks_shapes(ch: Channel) -> None:
    ch.send(ch.rank, Words(0, words(3)))
    with pytest.raises(ProtocolError, match=rf"Words.words from rank {ch.rank} must have shape \(4\), got \(3\)"):
        ch.recv_latest(ch.rank, Words, until=Stop, shapes={"words": (4,)})


@scenario
def gather_first_checks_shapes(ch: Channel) -> None:
    ch.send(0, Words(0, words(3)))
    if ch.rank == 0:
        with pytest.raises(ProtocolError, match=r"Words.words from rank [012] must have shape \(4\), got \(3\)"):
            ch.gather(range(SIZE), Words, shapes={"words": (4,)})


# -- failure ------------------------------------------------------------------------------------------------------


@scenario
def a_failure_reaches_everybody_who_waits(ch: Channel) -> None:
    if ch.rank == 1:
        for dest in others(ch):
            ch.send(dest, Number(1))
            ch.send(dest, Words(1, words(LARGE)))
        ch.fail(ValueError("the disk\nis full"))
        return
    ch.role_of = ("master", "helper", "worker").__getitem__
    assert ch.recv(1, Number).value == 1  # what was sent before the failure still counts
    np.testing.assert_array_equal(ch.gather([1], Words)[1].words, words(LARGE))
    waits: list[Callable[[], Any]] = [
        lambda: ch.recv(1, Never),
        lambda: ch.recv(0 if ch.rank == 2 else 2, Never),
        lambda: ch.gather(others(ch), Never),
        lambda: ch.recv_latest(1, Never, until=Stop),
    ]
    for wait in waits:
        with pytest.raises(PeerFailed) as error:
            wait()
        assert str(error.value) == "helper (rank 1) failed: ValueError: the disk is full"
        assert (error.value.rank, error.value.role, error.value.exit_code) == (1, "helper", 4)


@scenario
def a_failure_carries_its_exit_code(ch: Channel) -> None:
    if ch.rank == 0:
        ch.fail(UsageError("T must be positive, got 0"), 2)
    else:
        with pytest.raises(PeerFailed, match=r"^master \(rank 0\) failed: T must be positive, got 0$") as error:
            ch.recv(0, Never)
        assert error.value.exit_code == 2


@scenario
def silence_until_the_deadline_is_a_failure(ch: Channel) -> None:
    ch.role_of = ("master", "helper", "worker").__getitem__
    if ch.rank == 1:
        ch.send(0, Number(1))
    ch.send(0, Words(0, words(1)))
    if ch.rank == 0:
        ch.gather(range(SIZE), Words)
        ch.timeout_seconds = 0.2
        cases: list[tuple[Callable[[], Any], str]] = [
            (lambda: ch.recv(2, Never), r"^worker \(rank 2\) sent no Never for 0.2 s$"),
            (lambda: ch.recv_latest(1, Never, until=Stop), r"^helper \(rank 1\) sent no Never for 0.2 s$"),
            (lambda: ch.gather([1, 2], Number), r"^worker \(rank 2\) sent no Number for 0.2 s$"),
        ]
        for wait, message in cases:
            with pytest.raises(PeerFailed, match=message) as error:
                wait()
            assert error.value.exit_code == 4


# -- the sender's memory, and the end -----------------------------------------------------------------------------


@scenario
def flush_bounds_what_is_on_the_way(ch: Channel) -> None:
    block, bound = 1 << 20, 5 << 20
    if ch.rank == 0:
        for i in range(8):
            for dest in others(ch):
                ch.send(dest, Words(i, words(block, seed=i)))
                ch.flush(bound)
                assert ch.transport.outstanding_bytes() <= bound
        ch.flush()
        assert ch.transport.outstanding_bytes() == 0
    else:
        for i in range(8):
            message = ch.recv(0, Words)
            assert message.iteration == i
            np.testing.assert_array_equal(message.words, words(block, seed=i))


@scenario
def room_is_told_of_each_rank(ch: Channel) -> None:
    """Rank 1 takes nothing at first; a transport may keep for it what was sent."""
    bound = 1 << 20
    if ch.rank == 0:
        assert ch.await_room([1, 2], 0, 2) == {1, 2}
        ch.send(1, Words(0, words(1 << 20)))
        for i in range(8):
            while 2 not in ch.await_room([1, 2], bound, 1):  # where all of it is kept for rank 1, that has room too
                time.sleep(0.001)
            ch.send(2, Words(i, words(1 << 18, seed=i)))
        assert ch.await_room([1, 2], bound, 0) <= {1, 2}
        ch.recv(2, Go)
        ch.send(1, Go())
        assert ch.await_room([1, 2], bound, 2) == {1, 2}
    if ch.rank == 1:
        ch.recv(0, Go)
        np.testing.assert_array_equal(ch.recv(0, Words).words, words(1 << 20))
    if ch.rank == 2:
        for i in range(8):
            np.testing.assert_array_equal(ch.recv(0, Words).words, words(1 << 18, seed=i))
        ch.send(0, Go())


@scenario
def close_drains_what_nobody_reads(ch: Channel) -> None:
    """8 MiB that nobody reads would hang the end of an MPI job."""
    for dest in others(ch):
        for _ in range(2):
            ch.send(dest, Words(0, words(2 << 20)))
        ch.send(dest, Number(0))
    if ch.rank == 0:
        ch.gather_first(1, others(ch), Words)  # the other's payload may be on its way when the end comes


@scenario
def close_waits_for_a_straggler(ch: Channel) -> None:
    """Rank 0 and 1 are in close() when rank 2 sends its last messages."""
    if ch.rank == 2:
        ch.recv(0, Go)
        ch.recv(1, Go)
        for dest in others(ch):
            ch.send(dest, Words(0, words(2 << 20)))
    else:
        ch.send(2, Go())
