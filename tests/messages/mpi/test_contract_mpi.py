"""Ranks as MPI processes: the contract of all transports, and what only MPI can get wrong.

Every test has a communicator of its own, so one that fails leaves nothing behind for the next.
"""

from collections.abc import Iterator

import numpy as np
import pytest
from contract import HANG_SECONDS, SCENARIOS, SIZE, Go, Number, Words, payload_type, play, words
from mpi4py import MPI

from fedmpi.errors import PeerFailed, ProtocolError
from fedmpi.net import Channel
from fedmpi.net.message import encode
from fedmpi.net.mpi import MpiTransport

pytestmark = pytest.mark.mpi


@pytest.fixture
def ch() -> Iterator[Channel]:
    assert MPI.COMM_WORLD.size == SIZE
    return Channel(MpiTransport(MPI.COMM_WORLD.Dup()), timeout_seconds=HANG_SECONDS)


@pytest.mark.parametrize("name", SCENARIOS)
def test_contract(ch: Channel, name: str) -> None:
    play(SCENARIOS[name])(ch)


def test_ranks_ring_only_where_all_can_be_rung(ch: Channel, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> None:
        raise OSError("no such namespace")

    if ch.rank == 1:
        monkeypatch.setattr("fedmpi.net.mpi.Doorbell", none)
    silent = Channel(MpiTransport(MPI.COMM_WORLD.Dup()), timeout_seconds=HANG_SECONDS)
    assert [one.transport._doorbell is None for one in (ch, silent)] == [False, True]  # type: ignore[attr-defined]
    play(next(iter(SCENARIOS.values())))(silent)


def test_flush_gives_up_when_nobody_receives(ch: Channel) -> None:
    def scenario(ch: Channel) -> None:
        if ch.rank == 0:
            ch.send(1, Words(0, words(2 << 20)))
            assert ch.transport.outstanding_bytes() > 8 << 20
            ch.timeout_seconds = 0.3
            with pytest.raises(PeerFailed, match=r"0\.3 s"):
                ch.flush()
            ch.timeout_seconds = HANG_SECONDS
            ch.send(1, Go())
        if ch.rank == 1:
            ch.recv(0, Go)
            np.testing.assert_array_equal(ch.recv(0, Words).words, words(2 << 20))

    play(scenario)(ch)


def test_a_payload_that_never_comes_is_a_failure(ch: Channel) -> None:
    def scenario(ch: Channel) -> None:
        payload = payload_type(60)
        if ch.rank == 1:
            header, _ = encode(payload(np.zeros(1 << 20, np.uint8)))
            ch.transport.post(0, payload.tag, header, [])
            ch.send(0, Go())
        if ch.rank == 0:
            ch.recv(1, Go)
            ch.timeout_seconds = 0.3
            with pytest.raises(PeerFailed, match=r"^worker \(rank 1\) .*Payload"):
                ch.recv(1, payload)

    play(scenario)(ch)


def test_a_header_above_the_limit_is_refused(ch: Channel) -> None:
    def scenario(ch: Channel) -> None:
        if ch.rank == 1:
            ch.transport.post(0, Words.tag, encode(Words(0, words(1)))[0] + bytes(1 << 20), [])
        if ch.rank == 0:
            with pytest.raises(ProtocolError, match="a header from rank 1 must be at most 131072 bytes, got 1048"):
                ch.recv(1, Words)

    play(scenario)(ch)


def test_bytes_behind_an_inline_payload_are_refused(ch: Channel) -> None:
    def scenario(ch: Channel) -> None:
        header, arrays = encode(Words(0, words(3)))
        if ch.rank == 1:
            ch.transport.post(0, Words.tag, header, [*arrays, np.zeros(1, np.uint8)])
        if ch.rank == 0:
            with pytest.raises(ProtocolError, match=r"^the payload from rank 1 must be 12 bytes, got 13$"):
                ch.recv(1, Words)

    play(scenario)(ch)


def test_close_counts_what_nobody_read(ch: Channel) -> None:
    if ch.rank != 0:
        ch.send(0, Words(0, words(2 << 20)))
        ch.send(0, Number(0))
    ch.close()
    assert ch.meter.late == (4 if ch.rank == 0 else 0)  # messages, not the pieces of them, nor the channel's own


def test_a_longer_payload_writes_nothing_beyond_its_array(ch: Channel) -> None:
    """Open MPI 5.0 reports a receive that was too short, but has written the whole message by then."""

    def scenario(ch: Channel) -> None:
        announced, sent = 1 << 20, 3 << 20
        payload = payload_type(61)
        header, _ = encode(payload(np.zeros(announced, np.uint8)))
        if ch.rank == 1:
            ch.transport.post(0, payload.tag, header, [np.full(sent, 7, np.uint8)])
        if ch.rank == 0:
            memory = np.zeros(announced + sent, np.uint8)
            while (frame := ch.transport.poll(payload.tag, [1])) is None:
                pass
            with pytest.raises(ProtocolError, match="the payload from rank 1 must be 1048576 bytes"):
                frame.receive(len(header), [memory[:announced]])
                while not frame.done():
                    pass
            assert not memory[announced:].any()

    play(scenario)(ch)
