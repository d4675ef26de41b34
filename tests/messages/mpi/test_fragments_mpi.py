"""Where no process may read another's memory, as in many containers: large payloads arrive in fragments."""

import pytest
from contract import HANG_SECONDS, Words, play, words
from mpi4py import MPI

from fedmpi.net import Channel
from fedmpi.net.doorbell import Doorbell
from fedmpi.net.mpi import MpiTransport, _MpiFrame

pytestmark = pytest.mark.mpi


def test_nobody_sleeps_for_a_ring_while_a_payload_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets on only while it is looked at, and its sender has rung long ago."""
    under_way, looks, done, wait = False, 0, _MpiFrame.done, Doorbell.wait

    def looked(frame: _MpiFrame) -> bool:
        nonlocal under_way, looks
        under_way = not done(frame)
        looks += under_way
        return not under_way

    def waited(doorbell: Doorbell, seconds: float) -> bool:
        assert not under_way
        return wait(doorbell, seconds)

    monkeypatch.setattr(_MpiFrame, "done", looked)
    monkeypatch.setattr(Doorbell, "wait", waited)

    def scenario(ch: Channel) -> None:
        if ch.rank == 1:
            for _ in range(4):
                ch.send(0, Words(0, words(4 << 20)))
        if ch.rank == 0:
            for _ in range(4):
                ch.recv(1, Words)
            assert looks, "without single copies a payload takes a while"

    play(scenario)(Channel(MpiTransport(MPI.COMM_WORLD.Dup()), timeout_seconds=HANG_SECONDS))
