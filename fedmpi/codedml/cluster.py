"""The workers of an MPI job, for programs that call the estimator themselves."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedmpi.codedml.service import serve
from fedmpi.errors import UsageError
from fedmpi.machines.encryption import encrypted
from fedmpi.net import Channel
from fedmpi.net.orders import dismiss

_channel: Channel | None = None
_used = False
_turn = threading.Lock()
"""Held by the thread that speaks with the workers: they serve one training after another."""


def current() -> Channel | None:
    """The channel to the workers of the surrounding ``with workers():``, if there is one."""
    return _channel


@contextmanager
def turn() -> Iterator[Channel]:
    """The channel to the workers for one thread, while others wait.

    Raises
    ------
    UsageError
        If the workers have been sent home meanwhile.
    """
    with _turn:
        if _channel is None:
            raise UsageError(
                "a fit must begin before the block `with workers():` ends, got a thread that waited too long"
            )
        yield _channel


@contextmanager
def workers(timeout_seconds: float = 600.0, *, cluster_key: Path | str | None = None) -> Iterator[None]:
    """Train on the ranks of this MPI job instead of threads.

    Rank 0 runs the block. All other ranks serve as workers while it lasts, and then leave the program: what
    stands below the block runs on rank 0 only, also where the training went on without a worker that was lost.
    Threads of the block may fit models; the workers serve them one after the other.

    Parameters
    ----------
    timeout_seconds : float
        No rank waits longer for another.
    cluster_key : Path or str, optional
        Encrypt every link under the key in this file of `fedmpi keygen`, on every host.

    Raises
    ------
    UsageError
        In a second block: the workers have left with the first.

    Examples
    --------
    ``mpirun -n 11 python train.py``, with train.py::

        from fedmpi.codedml import workers

        with workers():
            from fedmpi.codedml import CodedLogisticRegression

            model = CodedLogisticRegression().fit(X, y)
    """
    global _channel, _used
    if _used:
        raise UsageError("a program must have one `with workers():` block, got a second")
    _used = True
    from fedmpi.net.mpi import job

    wrap = encrypted(None if cluster_key is None else Path(cluster_key))
    with job(wrap=wrap, timeout_seconds=timeout_seconds, traceback=True, goes_on=True) as channel:
        if channel.rank == 0:
            _channel = channel
            try:
                yield
            finally:
                with _turn:  # a training of another thread ends first
                    _channel = None
            dismiss(channel)
        else:
            serve(channel)
    if channel.rank != 0:
        sys.exit(0)
