"""Ranks as threads: the contract of all transports, and the channel itself."""

import itertools
import struct
import threading
import time
import tracemalloc
from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from contract import HANG_SECONDS, LARGE, SCENARIOS, SIZE, Go, Never, Number, Stop, Words, play, words

from fedmpi.errors import FedmpiError, HeadroomError, PeerFailed, ProtocolError, TooFewWorkers, UsageError
from fedmpi.net import Channel, Message, UInt8, UInt32, UInt64, run_local
from fedmpi.net.channel import Closing
from fedmpi.net.endpoint import Notice, describe
from fedmpi.net.message import MAX_DIMENSIONS, encode
from fedmpi.rules import printable


@pytest.mark.parametrize("name", SCENARIOS)
def test_contract(name: str) -> None:
    run_local([play(SCENARIOS[name])] * SIZE, timeout_seconds=HANG_SECONDS)


def alone(role: Callable[[Channel], Any], **options: Any) -> Any:
    """Run one rank, which sends to itself."""
    return run_local([role], **{"timeout_seconds": HANG_SECONDS, **options})[0]


# -- run_local ----------------------------------------------------------------------------------------------------


def test_run_local_returns_the_results_by_rank() -> None:
    def role(ch: Channel) -> tuple[int, int]:
        return ch.rank, ch.size

    assert run_local([role] * 5) == [(rank, 5) for rank in range(5)]
    assert run_local([]) == []


def test_ranks_of_run_local_are_threads_at_the_same_time() -> None:
    barrier = threading.Barrier(4, timeout=HANG_SECONDS)
    assert sorted(run_local([lambda _: barrier.wait()] * 4)) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "error", [ValueError("boom"), UsageError("K must be positive, got 0"), SystemExit(3), KeyboardInterrupt()]
)
def test_run_local_raises_the_error_of_the_rank_that_failed_first(error: BaseException) -> None:
    seen: dict[int, BaseException] = {}

    def fails(ch: Channel) -> None:
        ch.gather([0, 2], Go)
        raise error

    def waits(ch: Channel) -> None:
        ch.send(1, Go())
        try:
            ch.recv(1, Never)
        except BaseException as failure:
            seen[ch.rank] = failure
            raise

    with pytest.raises(type(error)) as caught:
        run_local([waits, fails, waits], timeout_seconds=HANG_SECONDS)
    assert caught.value is error
    assert sorted(seen) == [0, 2]
    for failure in seen.values():
        assert isinstance(failure, PeerFailed)
        assert failure.rank == 1
        assert str(error) in str(failure)


def test_options_reach_every_channel() -> None:
    def role(ch: Channel) -> tuple[Any, ...]:
        return ch.timeout_seconds, ch.limit_bytes, ch.role_of(1), ch.record_views

    options = {"timeout_seconds": 5.0, "limit_bytes": 7, "role_of": lambda rank: "tracker", "record_views": True}
    assert run_local([role] * 2, **options) == [(5.0, 7, "tracker", True)] * 2
    assert alone(lambda ch: (ch.role_of(0), ch.role_of(3))) == ("master", "worker")


# -- errors -------------------------------------------------------------------------------------------------------


def test_errors_know_their_exit_codes() -> None:
    codes = {FedmpiError: 4, UsageError: 2, HeadroomError: 2, TooFewWorkers: 3, ProtocolError: 4}
    assert {error: error("x").exit_code for error in codes} == codes
    assert PeerFailed(3, "tracker", "left").exit_code == 4
    assert PeerFailed(3, "tracker", "left", 2).exit_code == 2
    assert str(PeerFailed(3, "tracker", "left")) == "tracker (rank 3) left"
    assert issubclass(UsageError, ValueError)
    assert issubclass(PeerFailed, ProtocolError)


def test_describe_is_one_line_and_says_where_an_unforeseen_error_is_from() -> None:
    assert describe(UsageError("K must be positive, got 0")) == "K must be positive, got 0"
    assert describe(ValueError("two\n  lines")) == "ValueError: two lines"
    assert describe(KeyboardInterrupt()) == "KeyboardInterrupt"
    try:
        struct.pack("<B", 256)
    except struct.error as error:
        line = error.__traceback__.tb_lineno  # type: ignore[union-attr]
        assert describe(error).endswith(f" ({__file__}:{line})")
        assert describe(error).startswith("error: ")


def test_describe_of_an_error_of_ours_is_one_line_too() -> None:
    assert describe(UsageError("file a\nb must exist")).count("\n") == 0


@pytest.mark.parametrize("text", ["x" * 5000, "大" * 5000, "", "\0", "a file named \udcff"])
def test_any_text_of_an_error_can_be_told_to_the_others(text: str) -> None:
    """An undecodable file name has surrogates in it, which UTF-8 can't hold."""

    def fails(ch: Channel) -> None:
        ch.fail(UsageError(text), 2)

    def waits(ch: Channel) -> str:
        with pytest.raises(PeerFailed) as error:
            ch.recv(1, Never)
        assert error.value.exit_code == 2
        return error.value.reason

    reason = run_local([waits, fails], timeout_seconds=HANG_SECONDS)[0]
    assert reason.startswith("failed: " + printable(text)[:13])
    assert len(reason) <= 1100


# -- time and bytes -----------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    fake = SimpleNamespace(perf_counter=clock, monotonic=clock, thread_time=time.thread_time)
    monkeypatch.setattr("fedmpi.net.endpoint.time", fake)
    monkeypatch.setattr("fedmpi.net.transport.time", fake)
    return clock


def test_phases_charge_the_inner_one(clock: Clock) -> None:
    def role(ch: Channel) -> dict[str, float]:
        clock.now += 1  # nobody's
        with ch.phase("encode"):
            clock.now += 2
            with ch.phase("communicate"):
                clock.now += 4
                with ch.phase("encode"):
                    clock.now += 8
                clock.now += 16
            clock.now += 32
        clock.now += 64  # nobody's
        with pytest.raises(ZeroDivisionError), ch.phase("decode"):
            clock.now += 128
            raise ZeroDivisionError
        clock.now += 256  # nobody's
        with ch.phase("encode"):
            clock.now += 512
        return dict(ch.meter.seconds)

    assert alone(role) == {"encode": 2 + 8 + 32 + 512, "communicate": 4 + 16, "decode": 128}


def test_cpu_seconds_are_those_of_the_ranks_own_thread() -> None:
    def burns(ch: Channel) -> float:
        end = time.thread_time() + 0.1
        while time.thread_time() < end:
            sum(range(1000))
        ch.send(1, Go())
        return ch.meter.cpu_seconds

    def waits(ch: Channel) -> float:
        before = ch.meter.cpu_seconds
        ch.recv(0, Go)
        assert 0 <= before <= ch.meter.cpu_seconds
        return ch.meter.cpu_seconds

    burned, waited = run_local([burns, waits], timeout_seconds=HANG_SECONDS)
    assert burned >= 0.1
    assert waited < burned


def test_a_new_meter_is_empty_and_each_channel_has_its_own() -> None:
    def role(ch: Channel) -> Any:
        if ch.rank == 0:
            ch.send(1, Number(1))
        return ch.meter

    sender, idle = run_local([role] * 2)
    assert sender.messages_sent == {"Number": 1}
    assert sender.bytes_sent == {"Number": len(encode(Number(1))[0])}
    assert not idle.messages_sent and not idle.bytes_sent and not idle.bytes_received and idle.late == 0


def test_a_read_only_array_is_not_copied() -> None:
    def role(ch: Channel) -> None:
        array = words(LARGE)
        array.flags.writeable = False
        tracemalloc.start()
        ch.send(0, Words(0, array))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < array.nbytes // 4
        np.testing.assert_array_equal(ch.recv(0, Words).words, array)

    alone(role)


# -- views --------------------------------------------------------------------------------------------------------


class Sealed(Message, tag=30):
    text: str
    raw: bytes


def test_views_keep_late_messages_too_and_none_without_being_asked(tmp_path: Path) -> None:
    def role(ch: Channel) -> None:
        for i in (0, 1, 2):
            ch.send(ch.rank, Words(i, words(2)))
        assert ch.gather_first(1, [0], Words, iteration=2)[0].iteration == 2
        assert ch.meter.late == 2
        for i in (3, 4):
            ch.send(ch.rank, Words(i, words(2)))
        ch.recv_latest(0, Words, until=Stop)
        ch.send(0, Stop())
        assert ch.recv_latest(0, Words, until=Stop) is None
        ch.save_views(tmp_path / str(ch.record_views))

    alone(role, record_views=True)
    with np.load(tmp_path / "True" / "rank-0.npz") as archive:
        seen = [int(archive[key]) for key in archive if key.endswith("-Words-iteration")]
        assert seen == [0, 1, 2, 3, 4]
        assert all(key.split("-")[1] == "0" for key in archive)
    alone(role, record_views=False)
    with np.load(tmp_path / "False" / "rank-0.npz") as archive:
        assert list(archive) == []


@pytest.mark.parametrize("raw", [b"\x01\x02", b"\x01\0", b"\0\0", b""])
def test_views_keep_every_byte(tmp_path: Path, raw: bytes) -> None:
    """A ciphertext may end in zeros, which an array of numpy's type S drops."""

    def role(ch: Channel) -> None:
        ch.send(0, Sealed("größer", raw))
        ch.recv(0, Sealed)
        ch.save_views(tmp_path)

    alone(role, record_views=True)
    with np.load(tmp_path / "rank-0.npz", allow_pickle=False) as archive:
        assert str(archive["000000-0-Sealed-text"]) == "größer"
        saved = archive["000000-0-Sealed-raw"]
    assert saved.tobytes() == raw
    assert saved.dtype == np.uint8 or saved.item() == raw


# -- hostile frames -----------------------------------------------------------------------------------------------


class Hostile(Message, tag=40):
    number: int
    text: str
    first: UInt32
    second: UInt8


class Cube(Message, tag=41):
    cube: UInt64


VALID = Hostile(5, "größer", words(6).reshape(2, 3), np.arange(4, dtype=np.uint8))


def refused(frames: list[tuple[bytes, list[np.ndarray]]], cls: type[Message] = Hostile, **options: Any) -> list[str]:
    """Post frames, receive each, and return what the errors say. Afterwards the channel still works."""

    def role(ch: Channel) -> list[str]:
        said = []
        for header, arrays in frames:
            ch.transport.post(0, cls.tag, header, arrays)
            with pytest.raises(ProtocolError) as error:
                ch.recv(0, cls)
            assert not isinstance(error.value, PeerFailed)
            said.append(str(error.value))
        assert not ch.meter.bytes_received
        ch.send(0, VALID)
        assert ch.recv(0, Hostile).text == VALID.text
        return said

    return alone(role, **options)


def cube_header(*shape: int, ndim: int | None = None) -> bytes:
    prefix = encode(Cube(np.zeros((), np.uint64)))[0][:-1]
    return prefix + struct.pack("<B", len(shape) if ndim is None else ndim) + struct.pack(f"<{len(shape)}Q", *shape)


def test_a_header_cut_anywhere_is_refused() -> None:
    header, arrays = encode(VALID)
    said = refused([(header[:n], arrays) for n in range(len(header))])
    assert len(said) == len(header)
    assert all(line.startswith("Hostile from rank 0 must have ") for line in said)
    assert said[3] == "Hostile from rank 0 must have 8 bytes, got 3"


def test_another_magic_tag_or_schema_is_refused() -> None:
    header, arrays = encode(VALID)
    frames = [(header[:i] + bytes([header[i] ^ 1]) + header[i + 1 :], arrays) for i in range(8)]
    said = refused(frames)
    assert all("must have" in line and "got" in line for line in said)
    for line in said:  # also for the magic: what was expected and what came are not the same
        expected, got = line.split(" must have ")[1].split(", got ")
        assert expected != got


def test_bytes_that_are_no_text_are_refused() -> None:
    header, arrays = encode(VALID)
    at = header.index("größer".encode())
    frames = [(header[:at] + bad + header[at + len(bad) :], arrays) for bad in (b"\xff", b"\xc3(", b"\xed\xa0\x80")]
    assert set(refused(frames)) == {"Hostile from rank 0 must have text in text, got bytes that are not UTF-8"}


@pytest.mark.parametrize(
    "shape",
    [
        (1 << 63, 1 << 63),
        ((1 << 64) - 1,) * MAX_DIMENSIONS,
        (1 << 32, 1 << 32),  # the product overflows to 0 in 64 bits
        (1 << 61, 1),  # eight bytes each: overflows to 0
        (1 << 32, (1 << 31) + 1, 2),
        (1 << 23,),
        (2, 3),  # one number above the limit below
    ],
)
def test_a_shape_above_the_limit_is_refused_before_memory_is_taken(shape: tuple[int, ...]) -> None:
    limit = 40 if shape == (2, 3) else 1 << 20
    tracemalloc.start()
    said = refused([(cube_header(*shape), [])], Cube, limit_bytes=limit)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20
    size = 8
    for n in shape:
        size *= n
    assert said == [f"Cube from rank 0 must hold at most {limit} bytes, got {size}"]


@pytest.mark.parametrize("shape", [(0, 1 << 63), (0, (1 << 64) - 1), (1 << 40, 0, 1 << 40), (0, 1 << 62)])
def test_an_empty_array_with_an_impossible_size_is_refused(shape: tuple[int, ...]) -> None:
    """No bytes, so no limit is passed, but numpy has no such array."""
    assert len(refused([(cube_header(*shape), [])], Cube)) == 1


@pytest.mark.parametrize("ndim", [MAX_DIMENSIONS + 1, 64, 255])
def test_too_many_dimensions_are_refused(ndim: int) -> None:
    said = refused([(cube_header(*[1] * ndim), [np.zeros(1, np.uint64)])], Cube)
    assert said == [f"Cube from rank 0 must have at most {MAX_DIMENSIONS} dimensions in cube, got {ndim}"]


def test_more_dimensions_than_sizes_are_refused() -> None:
    said = refused([(cube_header(1, 1, ndim=3), [np.zeros(1, np.uint64)])], Cube)
    assert said == ["Cube from rank 0 must have 33 bytes, got 25"]


def test_a_payload_that_is_shorter_or_longer_is_refused() -> None:
    header, (first, second) = encode(VALID)
    payloads = [[], [first], [first, second[:-1]], [first, np.zeros(5, np.uint8)], [first, second, second]]
    said = refused([(header, payload) for payload in payloads])
    assert said[2] == "the payload from rank 0 must be [24, 4] bytes, got [24, 3]"


def test_the_headers_limit_is_above_every_length_in_it() -> None:
    header, arrays = encode(VALID)
    at = header.index("größer".encode()) - 4
    claims = [header[:at] + struct.pack("<I", n) + header[at + 4 :] for n in (1000, 1 << 31, (1 << 32) - 1)]
    long = header[:at] + struct.pack("<I", 70000) + b"x" * 70000 + header[at + 12 :]
    assert len(refused([(claim, arrays) for claim in [*claims, long]])) == 4


def test_a_hostile_frame_is_refused_by_every_way_to_receive() -> None:
    header, _ = encode(Words(0, words(2)))

    def role(ch: Channel) -> None:
        receivers: list[Callable[[], Any]] = [
            lambda: ch.recv(0, Words),
            lambda: ch.recv_latest(0, Words, until=Stop),
            lambda: ch.gather([0], Words),
            lambda: ch.gather_first(1, [0], Words, iteration=0),
        ]
        for receive in receivers:
            for frame in (header[:-1], bytes(len(header))):
                ch.transport.post(0, Words.tag, frame, [])
                with pytest.raises(ProtocolError, match="Words from rank 0 must have"):
                    receive()
        ch.transport.post(0, Stop.tag, header, [])
        with pytest.raises(ProtocolError, match="Stop from rank 0 must have"):
            ch.recv_latest(0, Words, until=Stop)

    alone(role)


def test_a_hostile_notice_is_refused() -> None:
    def role(ch: Channel) -> None:
        ch.transport.post(0, Notice.tag, b"fM\x01", [])
        with pytest.raises(ProtocolError, match="Notice from rank 0 must have"):
            ch.recv(0, Never)

    alone(role)


@pytest.mark.parametrize("code", [0, -1, 256, 1 << 40])
def test_a_failed_worker_cant_end_the_job_as_a_success(code: int) -> None:
    """Exit codes are 8 bits, and a failure's is not 0."""

    def fails(ch: Channel) -> None:
        ch.send(0, Notice(code, "nothing to see here"))

    def waits(ch: Channel) -> int:
        with pytest.raises(ProtocolError) as error:
            ch.recv(1, Never)
        return error.value.exit_code

    assert 0 < run_local([waits, fails], timeout_seconds=HANG_SECONDS)[0] < 256


# -- waiting, with a transport and a clock under control ----------------------------------------------------------


@dataclass(eq=False)
class ScriptedFrame:
    """A frame of which the header is here; the payload comes when `here` says so."""

    source: int
    header: memoryview
    payload: list[np.ndarray]
    here: Callable[[], bool]
    arrays: list[np.ndarray] | None = None

    def receive(self, header_size: int, arrays: list[np.ndarray]) -> None:
        self.arrays = arrays

    def done(self) -> bool:
        assert self.arrays is not None
        if self.here():
            for array, payload in zip(self.arrays, self.payload, strict=True):
                array[...] = payload
            return True
        return False


class Scripted:
    """A transport whose frames arrive at set times; a pause takes a tenth of a second."""

    rank, size = 0, 4

    def __init__(self, clock: Clock):
        self.clock = clock
        self.start = clock.now
        self.frames: deque[tuple[float, int, ScriptedFrame]] = deque()
        self.pauses: list[float] = []
        self.on_the_way: Iterator[int] = itertools.repeat(0)

    def arrives(self, after: float, source: int, message: Message, payload_after: float | None = None) -> None:
        header, arrays = encode(message)
        ready = self.start + (after if payload_after is None else payload_after)
        frame = ScriptedFrame(source, memoryview(header), arrays, lambda: self.clock.now >= ready)
        self.frames.append((self.start + after, message.tag, frame))

    def post(self, dest: int, tag: int, header: bytes, arrays: list[np.ndarray]) -> None:
        raise AssertionError("nothing is sent here")

    def poll(self, tag: int, sources: Collection[int]) -> ScriptedFrame | None:
        for entry in self.frames:
            if entry[0] <= self.clock.now and entry[1] == tag and entry[2].source in sources:
                self.frames.remove(entry)
                return entry[2]
        return None

    def outstanding_bytes(self, dest: int | None = None) -> int:
        return next(self.on_the_way)

    def failed(self) -> tuple[int, ...]:
        return ()

    def stopped(self, rank: int) -> bool:
        return False

    def end(self, rank: int) -> None:
        pass

    def forget(self, rank: int) -> None:
        raise AssertionError("no rank departs here")

    def discard(self) -> int | None:
        return None

    def pause(self, waited_seconds: float) -> None:
        self.pauses.append(waited_seconds)
        self.clock.now += 0.1


@pytest.fixture
def scripted(clock: Clock) -> Scripted:
    return Scripted(clock)


def test_a_wait_ends_at_its_deadline_and_not_before(scripted: Scripted) -> None:
    ch = Channel(scripted, timeout_seconds=10)
    scripted.arrives(9.5, 1, Number(1))
    assert ch.recv(1, Number).value == 1
    start = scripted.clock.now
    with pytest.raises(PeerFailed, match=r"^worker \(rank 1\) sent no Number for 10 s$"):
        ch.recv(1, Number)
    assert 10 < scripted.clock.now - start < 10.3
    assert scripted.pauses[0] == 0
    assert scripted.pauses[90] == pytest.approx(9, abs=0.2)  # the transport is told how long, to rest more and more


def test_the_rest_of_a_message_has_a_deadline_too(scripted: Scripted) -> None:
    ch = Channel(scripted, timeout_seconds=10)
    scripted.arrives(0, 2, Words(0, words(3)), payload_after=1000)
    with pytest.raises(PeerFailed, match=r"^worker \(rank 2\) sent no the rest of Words|the rest of Words"):
        ch.recv(2, Words)


def test_a_gather_goes_on_while_answers_come(scripted: Scripted) -> None:
    ch = Channel(scripted, timeout_seconds=10)
    for source in (3, 1, 2):
        scripted.arrives(8.0 * source, source, Number(source))
    assert list(ch.gather([1, 2, 3], Number)) == [1, 2, 3]
    scripted.arrives(scripted.clock.now - scripted.start + 1, 1, Number(1))
    with pytest.raises(PeerFailed, match=r"\(rank 2\) sent no Number"):
        ch.gather([1, 2, 3], Number)


def test_a_payload_on_its_way_does_not_hold_up_the_others(scripted: Scripted) -> None:
    ch = Channel(scripted, timeout_seconds=10)
    scripted.arrives(0, 1, Words(0, words(3, seed=1)), payload_after=5)
    scripted.arrives(1, 2, Words(0, words(3, seed=2)))
    assert list(ch.gather_first(1, [1, 2], Words, iteration=0)) == [2]
    assert scripted.clock.now < scripted.start + 2
    assert ch.meter.late == 0
    # The next request: the late one is dropped when it is here, and hides nothing that comes after it.
    scripted.arrives(2, 1, Words(1, words(3, seed=3)))
    scripted.arrives(2, 2, Words(1, words(3, seed=4)))
    answers = ch.gather_first(2, [1, 2], Words, iteration=1)
    assert {source: message.iteration for source, message in answers.items()} == {1: 1, 2: 1}
    np.testing.assert_array_equal(answers[1].words, words(3, seed=3))
    assert ch.meter.late == 1
    assert ch.meter.bytes_received["Words"] == 4 * len(encode(Words(0, words(3)))[0]) + 4 * 12


def test_a_payload_on_its_way_is_dropped_when_another_type_is_asked_for(scripted: Scripted) -> None:
    ch = Channel(scripted, timeout_seconds=10)
    scripted.arrives(0, 1, Words(0, words(3)), payload_after=5)
    scripted.arrives(0, 2, Words(0, words(3)))
    assert list(ch.gather_first(1, [1, 2], Words)) == [2]
    scripted.arrives(0, 1, Number(7))
    scripted.arrives(0, 2, Number(8))
    assert {source: m.value for source, m in ch.gather([1, 2], Number).items()} == {1: 7, 2: 8}
    assert ch.meter.late == 1


def test_a_payload_on_its_way_is_no_answer_of_a_source_that_is_not_asked(scripted: Scripted) -> None:
    ch = Channel(scripted, timeout_seconds=10)
    scripted.arrives(0, 1, Words(0, words(3)), payload_after=5)
    scripted.arrives(0, 2, Words(0, words(3)))
    assert list(ch.gather_first(1, [1, 2], Words)) == [2]
    scripted.arrives(8, 2, Words(1, words(3)))
    assert list(ch.gather([2], Words)) == [2]


def test_a_payload_on_its_way_is_not_overtaken(scripted: Scripted) -> None:
    """Order per source and type: a late answer is dropped, it does not come back behind a newer message."""
    ch = Channel(scripted, timeout_seconds=10)
    scripted.arrives(0, 1, Words(0, words(3)), payload_after=5)
    scripted.arrives(0, 2, Words(0, words(3)))
    assert list(ch.gather_first(1, [1, 2], Words)) == [2]
    scripted.arrives(6, 1, Words(1, words(3)))
    scripted.arrives(7, 1, Words(2, words(3)))
    seen = [ch.recv(1, Words).iteration, ch.gather([1], Words)[1].iteration]
    assert seen in ([0, 1], [1, 2])


def test_answers_that_came_before_a_failure_still_count(scripted: Scripted) -> None:
    ch = Channel(scripted, timeout_seconds=10)
    scripted.arrives(0, 3, Notice(4, "gone"))
    scripted.arrives(0, 1, Number(1))
    scripted.arrives(0, 2, Number(2))
    assert ch.recv(1, Number).value == 1
    with pytest.raises(PeerFailed, match=r"^worker \(rank 3\) failed: gone$"):
        ch.recv(1, Number)
    assert ch.recv(2, Number).value == 2


def test_stale_answers_before_a_good_one_do_not_hide_it_from_a_failure(scripted: Scripted) -> None:
    ch = Channel(scripted, timeout_seconds=10)
    for i in range(5):
        scripted.arrives(0, 1, Words(i, words(1)))
    scripted.arrives(0, 1, Notice(4, "gone"))
    assert ch.gather_first(1, [1], Words, iteration=4)[1].iteration == 4


def test_flush_waits_until_little_enough_is_on_the_way(scripted: Scripted) -> None:
    ch = Channel(scripted, timeout_seconds=10)
    scripted.on_the_way = iter([100, 50, 11, 10])
    ch.flush(10)
    assert next(scripted.on_the_way, None) is None
    scripted.on_the_way = itertools.repeat(1)
    ch.flush(1)
    with pytest.raises(PeerFailed, match=r"\(rank 0\) waited 10 s for room"):
        ch.flush()


def test_room_is_awaited_while_somebody_takes_something(scripted: Scripted) -> None:
    """Rank 1 takes 10 bytes after every 9 s; rank 2 takes nothing."""
    start = scripted.clock.now
    sizes = {1: lambda: 50 - 10 * int((scripted.clock.now - start) / 9), 2: lambda: 50}
    scripted.outstanding_bytes = lambda dest=None: sizes[dest]()  # type: ignore[method-assign]
    ch = Channel(scripted, timeout_seconds=10)
    assert ch.await_room([1, 2], 49, 0) == set()
    assert ch.await_room([1, 2], 50, 0) == {1, 2}
    assert ch.await_room([1, 2], 20, 1) == {1}
    assert scripted.clock.now - start == pytest.approx(27, abs=0.3)
    assert ch.await_room([1, 2], 20, 1, linger_seconds=2) == {1}
    assert scripted.clock.now - start == pytest.approx(29, abs=0.3)
    sizes[1] = lambda: 20
    with pytest.raises(PeerFailed, match=r"\(rank 0\) waited 10 s for room"):
        ch.await_room([1, 2], 20, 2)


def test_who_takes_nothing_departs_if_others_are_enough(scripted: Scripted) -> None:
    sizes = {1: 0, 2: 50, 3: 60}
    scripted.outstanding_bytes = lambda dest=None: sizes[dest]  # type: ignore[method-assign]
    scripted.forget = lambda rank: None  # type: ignore[method-assign]
    ch = Channel(scripted, timeout_seconds=10)
    ch.tolerated = (1, 2, 3)
    with pytest.raises(TooFewWorkers) as error:
        ch.await_room([1, 2, 3], 0, 2)
    assert str(error.value) == (
        "room for messages must come from 2 of 3 ranks, got 1: "
        "worker (rank 2) took no message for 10 s; worker (rank 3) took no message for 10 s"
    )
    assert ch.await_room([1, 2, 3], 0, 1) == {1}


def test_close_of_rank_0_waits_for_everybody(scripted: Scripted) -> None:
    posted: list[tuple[int, int]] = []
    scripted.post = lambda dest, tag, header, arrays: posted.append((dest, tag))  # type: ignore[method-assign]
    ch = Channel(scripted, timeout_seconds=10)
    for source in (1, 3):
        scripted.arrives(source, source, Closing(True))
    scripted.arrives(4, 3, Notice(4, "too late to matter"))
    with pytest.raises(PeerFailed, match=r"^worker \(rank 2\) sent no Closing for 10 s$"):
        ch.close()
    assert posted == []
    for source in (1, 2, 3):
        scripted.arrives(0, source, Closing(True))
    ch.close()
    assert sorted(posted) == [(1, Closing.tag), (2, Closing.tag), (3, Closing.tag)]


def test_close_counts_what_it_drops(scripted: Scripted) -> None:
    scripted.size = 1
    left = [1, 0, 1, 1]  # one of the four is only a part of a message
    scripted.discard = lambda: left.pop() if left else None  # type: ignore[method-assign]
    scripted.on_the_way = iter([1, 1, 0, 0])
    ch = Channel(scripted, timeout_seconds=10)
    ch.close()
    assert left == []
    assert ch.meter.late == 3
