"""Encrypted links between MPI processes: the contract of all transports, and what a close and a foreign key need.

Run by tests/messages/test_mpirun.py. Every test has a communicator of its own.
"""

import tracemalloc
from collections.abc import Iterator

import pytest
from contract import HANG_SECONDS, SCENARIOS, SIZE, Go, Number, Words, play, words
from mpi4py import MPI
from wire import KEY, sealing

from fedmpi.errors import ProtocolError
from fedmpi.net import Channel
from fedmpi.net.mpi import MpiTransport

SIZE_LIMIT = 16 << 20

pytestmark = pytest.mark.mpi


def sealed_channel(key: bytes = KEY) -> Channel:
    assert MPI.COMM_WORLD.size == SIZE
    return Channel(sealing(key)(MpiTransport(MPI.COMM_WORLD.Dup())), timeout_seconds=HANG_SECONDS)


@pytest.fixture
def ch() -> Iterator[Channel]:
    return sealed_channel()


@pytest.mark.parametrize("name", SCENARIOS)
def test_contract(ch: Channel, name: str) -> None:
    play(SCENARIOS[name])(ch)


def test_close_counts_what_nobody_read_and_no_hello(ch: Channel) -> None:
    if ch.rank != 0:
        ch.send(0, Words(0, words(2 << 20)))
        ch.send(0, Number(0))
    ch.close()
    assert ch.meter.late == (4 if ch.rank == 0 else 0)


@pytest.mark.parametrize("seconds", [0.0, 0.3])
def test_a_large_answer_under_way_does_not_disturb_the_end(ch: Channel, seconds: float) -> None:
    """Its pieces are dropped one by one while rank 0 closes: what is left of it may not be taken for a forgery."""
    if ch.rank != 0:
        ch.recv(0, Go)
        for i in range(3):
            ch.send(0, Words(i, words(5 << 20)))
    else:
        for rank in (1, 2):
            ch.send(rank, Go())
        ch.gather_first(1, [1, 2], Words)
        ch.transport.pause(seconds)
    ch.close()


def test_a_rank_with_another_cluster_key_is_named() -> None:
    ch = sealed_channel(KEY if MPI.COMM_WORLD.rank != 2 else bytes(32))
    if ch.rank == 1:
        ch.send(0, Go())
    ch.send(2, Number(1))
    if ch.rank != 2:
        with pytest.raises(ProtocolError) as error:
            ch.recv(2, Number)
        assert str(error.value) == (
            f"the link from rank 2 to rank {ch.rank}: rank 2 must hold the same cluster key, "
            "got a hello made without it"
        )
        if ch.rank == 0:
            ch.recv(1, Go)  # the others still understand each other
    else:
        for source in (0, 1):
            with pytest.raises(ProtocolError, match=f"from rank {source} to rank 2: rank {source} must hold the same"):
                ch.recv(source, Number)


def test_a_rank_that_does_not_encrypt_is_named() -> None:
    inner = MpiTransport(MPI.COMM_WORLD.Dup())
    plain = Channel(inner, timeout_seconds=HANG_SECONDS)
    if inner.rank == 2:
        for dest in (0, 1):
            plain.send(dest, Words(1, words(100_000)))
        return
    ch = Channel(sealing()(inner), timeout_seconds=HANG_SECONDS)
    with pytest.raises(ProtocolError, match=r"the link from rank 2 to rank . must begin with a hello, got a frame of"):
        ch.recv(2, Words)


def test_an_oversized_frame_takes_no_memory(ch: Channel) -> None:
    """It can't be received in parts: it is refused, and stays where it is."""
    if ch.rank == 1:
        ch.send(0, Go())
        ch.flush()  # it waits for a hello
        ch.transport._inner.post(0, Words.tag, bytes(SIZE_LIMIT + 1), [])
    if ch.rank == 0:
        ch.recv(1, Go)
        tracemalloc.start()
        with pytest.raises(ProtocolError, match=f"the link from rank 1 to rank 0: frame 0 of tag {Words.tag} must be"):
            ch.recv(1, Words)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
        tracemalloc.stop()
