"""Wake-ups between ranks of one machine, between threads and processes of their own."""

import subprocess
import sys
import threading
import time

import pytest

from fedmpi.net.doorbell import NAME_BYTES, Doorbell

LONG = 30.0


def woken(bell: Doorbell) -> bool:
    """Whether somebody rings; all that rang until then are heard."""
    return bell.wait(LONG) and bell.heard()


@pytest.fixture
def pair() -> tuple[Doorbell, Doorbell]:
    bells = Doorbell(), Doorbell()
    for bell in bells:
        assert bell.reach([bell.name for bell in bells])
    for bell in bells:
        assert woken(bell)  # by the rings of `reach`
    return bells


def test_a_ring_wakes_the_sleeper(pair):
    one, other = pair
    start = time.monotonic()
    timer = threading.Timer(0.05, one.ring, [1])
    timer.start()
    assert woken(other)
    assert time.monotonic() - start < LONG
    timer.join()
    assert not other.wait(0.0)


def test_an_early_ring_is_not_lost_and_many_are_one(pair):
    one, other = pair
    assert all(one.ring(1) for _ in range(10_000))  # far more than the kernel keeps
    assert woken(other)
    assert not other.heard()
    assert not other.wait(0.0)
    assert not one.wait(0.0)


def test_busy_ranks_do_not_keep_rings_from_idle_ones():
    """What the kernel keeps for the busy ones is counted against their sender, not against them alone."""
    one, idle, *busy = (Doorbell() for _ in range(60))
    one.reach([bell.name for bell in (one, idle, *busy)])
    assert idle.wait(LONG)
    for rank in range(2, 2 + len(busy)):
        for _ in range(600):  # as many as the kernel keeps for one, and more
            assert one.ring(rank)
    assert one.ring(1)
    assert idle.wait(LONG)


def test_who_is_not_there_is_not_reached(pair):
    one, _ = pair
    assert not one.reach([one.name, bytes(NAME_BYTES)])
    assert not one.ring(1)


def test_another_process_can_ring(pair):
    one, _ = pair
    ring = "import sys; from fedmpi.net.doorbell import *; assert Doorbell().reach([bytes.fromhex(sys.argv[1])])"
    subprocess.run([sys.executable, "-c", ring, one.name.hex()], check=True)
    assert one.wait(LONG)
