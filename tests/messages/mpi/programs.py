"""Jobs that end well and badly: ``mpirun -n 3 python programs.py NAME``. Run by tests/messages/test_mpirun.py."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fedmpi.errors import Interrupted, TooFewWorkers, UsageError
from fedmpi.net import Channel, Message, UInt32, job_folder, leaving, mpi

LONG_SECONDS = 600.0


class Answer(Message, tag=1):
    words: UInt32


class Never(Message, tag=2):
    """Nobody sends this."""


def is_done(ch: Channel) -> None:
    """Every rank gets to its end."""
    ch.send(0, Answer(np.zeros(ch.rank, np.uint32)))
    if ch.rank == 0:
        assert sorted(ch.gather(range(ch.size), Answer)) == list(range(ch.size))
        print("done", flush=True)


def straggler(ch: Channel) -> None:
    """Two answers of 8 MiB to rank 0 and one to rank 1, and nobody reads them."""
    if ch.rank == 2:
        ch.recv(0, Answer)
        for dest in (0, 1, 0):
            ch.send(dest, Answer(np.zeros(2 << 20, np.uint32)))
    if ch.rank == 0:
        ch.send(2, Answer(np.zeros(0, np.uint32)))
        print("done", flush=True)


def worker_error(ch: Channel) -> None:
    if ch.rank == 1:
        raise ValueError("boom")
    ch.recv(1, Never)


def worker_error_while_all_others_close(ch: Channel) -> None:
    if ch.rank == 1:
        time.sleep(0.5)
        raise ValueError("boom")


def worker_error_while_the_master_computes(ch: Channel) -> None:
    if ch.rank == 1:
        raise ValueError("boom")
    if ch.rank == 0:
        time.sleep(LONG_SECONDS)
    ch.recv(1, Never)


def worker_usage_error(ch: Channel) -> None:
    if ch.rank == 2:
        raise UsageError("the data set of a worker must have 10 columns, got 9")
    ch.recv(2, Never)


def worker_leaves(ch: Channel) -> None:
    if ch.rank == 1:
        sys.exit(0)
    ch.recv(1, Never)


def worker_exits_with_7(ch: Channel) -> None:
    if ch.rank == 1:
        os._exit(7)
    ch.recv(1, Never)


def worker_exits_with_0(ch: Channel) -> None:
    if ch.rank == 1:
        os._exit(0)
    ch.recv(1, Never)


def worker_is_killed(ch: Channel) -> None:
    if ch.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    ch.recv(1, Never)


def worker_is_silent(ch: Channel) -> None:
    ch.timeout_seconds = 1
    if ch.rank == 2:
        time.sleep(LONG_SECONDS)
    if ch.rank == 0:
        ch.gather([2], Never)


def worker_is_silent_while_the_master_computes(ch: Channel) -> None:
    """Only rank 1 waits for rank 2."""
    ch.timeout_seconds = 1
    if ch.rank != 1:
        time.sleep(LONG_SECONDS)
    ch.recv(2, Never)


def master_is_silent(ch: Channel) -> None:
    ch.timeout_seconds = 1
    if ch.rank == 0:
        time.sleep(LONG_SECONDS)
    ch.recv(0, Never)


def master_error(ch: Channel) -> None:
    if ch.rank == 0:
        raise ValueError("boom")
    ch.recv(0, Never)


def master_error_while_workers_compute(ch: Channel) -> None:
    if ch.rank == 0:
        raise ValueError("boom")
    time.sleep(LONG_SECONDS)


def too_few_workers(ch: Channel) -> None:
    if ch.rank == 0:
        raise TooFewWorkers("answers must be 3 or more, got 2")
    ch.recv(0, Never)


def usage_error(ch: Channel) -> None:
    if ch.rank == 0:
        raise UsageError("K must be positive, got 0")
    ch.recv(0, Never)


def usage_error_after_workers_sent(ch: Channel) -> None:
    """8 MiB from every worker are on their way to a rank that will not read them."""
    if ch.rank == 0:
        time.sleep(0.5)
        raise UsageError("K must be positive, got 0")
    ch.send(0, Answer(np.zeros(2 << 20, np.uint32)))
    ch.recv(0, Never)


def usage_error_while_a_worker_computes(ch: Channel) -> None:
    if ch.rank == 0:
        raise UsageError("K must be positive, got 0")
    if ch.rank == 1:
        time.sleep(LONG_SECONDS)
    ch.recv(0, Never)


def usage_error_while_a_worker_is_frozen(ch: Channel) -> None:
    """The master can do without workers: it is woken, and leaves as all others do."""
    with_rank_2_frozen(ch)
    if ch.rank == 0:
        raise UsageError("K must be positive, got 0")
    ch.recv(0, Never)


def done_while_a_spare_is_frozen(ch: Channel) -> None:
    with_rank_2_frozen(ch)
    if ch.rank == 0:
        print("done", flush=True)


def with_rank_2_frozen(ch: Channel) -> None:
    ch.tolerated = range(1, ch.size) if ch.rank == 0 else ()
    if ch.rank == 2:
        ch.send(0, Answer(np.array([os.getpid()], np.uint32)))
        os.kill(os.getpid(), signal.SIGSTOP)
    if ch.rank == 0:
        pid = int(ch.recv(2, Answer).words[0])
        while job_folder.state_of(pid) != "T":
            time.sleep(0.01)


def stopped_by_a_signal(ch: Channel) -> None:
    """What asks for the end asks in every wait, as the signal's handler does."""

    def check() -> None:
        raise Interrupted("stopped by SIGTERM", 143)

    if ch.rank == 0:
        ch.on_pause = check
    ch.recv(1 if ch.rank == 0 else 0, Never)


def undecodable_name(ch: Channel) -> None:
    if ch.rank == 0:
        raise UsageError(f"the file {os.fsdecode(b'data-%c.npz' % 0xFF)} must exist")
    ch.recv(0, Never)


def asked_for_help(ch: Channel) -> None:
    if ch.rank == 0:
        print("usage: ...", flush=True)
        sys.exit(0)
    ch.recv(0, Never)


def wrong_option(ch: Channel) -> None:
    if ch.rank == 0:
        print("usage: ...", file=sys.stderr, flush=True)
        sys.exit(2)
    ch.recv(0, Never)


def worker_dies_before_its_message_is_fetched(ch: Channel) -> None:
    """Of a message of 60 kB over shared memory only the envelope is with rank 0 when the sender dies."""
    ch.tolerated = (1, 2)
    if ch.rank == 2:
        ch.send(0, Answer(np.array([os.getpid()], np.uint32)))
        ch.send(0, Answer(np.zeros(15_000, np.uint32)))
        os.kill(os.getpid(), signal.SIGKILL)
    if ch.rank == 0:
        process = Path(f"/proc/{ch.recv(2, Answer).words[0]}")
        while process.exists():
            time.sleep(0.01)
        assert ch.gather_within(30, (2,), Answer).keys() <= {2}
        ch.gather_within(30, (2,), Never)
        print("departed", *ch.departed, flush=True)


def a_frozen_rank_holds_up_nobody(ch: Channel) -> None:
    """Rank 1 is stopped before 24 MiB go to everybody; what is kept for it reaches it when it goes on."""
    others = range(1, ch.size)
    pieces = [np.full(1 << 18, i, np.uint32) for i in range(24)]
    if ch.rank != 0:
        ch.send(0, Answer(np.array([os.getpid()], np.uint32)))
        for piece in pieces:
            assert np.array_equal(ch.recv(0, Answer).words, piece)
        ch.send(0, Answer(np.array([ch.rank], np.uint32)))
        return
    pids = {rank: int(answer.words[0]) for rank, answer in ch.gather(others, Answer).items()}
    os.kill(pids[1], signal.SIGSTOP)
    kept = []
    for piece in pieces:
        ready = ch.await_room(others, 4 << 20, count=len(others) - 1)
        frozen = bool(kept) or 1 not in ready
        kept += [piece] if frozen else []
        for rank in others[1:] if frozen else others:
            ch.send(rank, Answer(piece))
    assert ch.gather(others[1:], Answer).keys() == set(others[1:])
    print("kept", 0 < len(kept) < len(pieces), flush=True)
    os.kill(pids[1], signal.SIGCONT)
    for piece in kept:
        ch.send(1, Answer(piece))
    assert ch.gather([1], Answer)[1].words == [1]
    print("done", flush=True)


def a_frozen_rank_holds_up_nobody_between_machines(ch: Channel) -> None:
    a_frozen_rank_holds_up_nobody(ch)


PROGRAMS: dict[str, Callable[[Channel], None]] = {
    name: value for name, value in dict(globals()).items() if getattr(value, "__module__", "") == "__main__"
}

if __name__ == "__main__":
    leaving.GRACE_SECONDS = 2.0  # of the jobs that end badly; 5 s in each of them would make the tests slow
    if sys.argv[1].endswith("_between_machines"):
        mpi._doorbell = lambda comm: None
    with mpi.job(timeout_seconds=60.0) as channel:
        PROGRAMS[sys.argv[1]](channel)
