"""Ranks as MPI processes. The only importer of mpi4py."""

import os
import sys
import time
from collections import defaultdict, deque
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from traceback import print_exception
from typing import Any, NoReturn

import mpi4py
import numpy as np
from numpy.typing import NDArray

from fedmpi.errors import FedmpiError, PeerFailed, ProtocolError, UsageError
from fedmpi.net.channel import Channel, Closing, Notice, describe
from fedmpi.net.message import HEADER_LIMIT

mpi4py.rc.threads = False  # one thread speaks to MPI: no locks

from mpi4py import MPI  # noqa: E402

INLINE_BYTES = 64 << 10
"""Messages up to this size travel as one MPI message."""

CHUNK_BYTES = 16 << 20
"""Larger arrays travel behind their header in pieces: MPI counts are 32 bits, and a piece that has arrived frees its
buffer."""

_PAYLOAD = 128  # MPI tag of the arrays of the message with tag t: _PAYLOAD + t
_GRACE_SECONDS = 5.0
_REAP_SENDS = 256
_SLEEP_SECONDS = 0.002
_LONGEST_SLEEP_SECONDS = 0.05


def _pieces(arrays: list[NDArray[Any]]) -> list[NDArray[np.uint8]]:
    flat = [array.reshape(-1).view(np.uint8) for array in arrays if array.size]
    return [raw[start : start + CHUNK_BYTES] for raw in flat for start in range(0, raw.size, CHUNK_BYTES)]


class _MpiFrame:
    """A header, and the pieces of the arrays behind it.

    A piece is received only after its size has been seen: given a longer one than asked for, Open MPI writes past
    the end of the buffer. Pieces of several frames from one source come in the order of their headers, so they
    are taken for the frame at the head of the source's `queue`.
    """

    def __init__(self, comm: MPI.Comm, source: int, tag: int, data: bytearray, queue: "deque[_MpiFrame]"):
        self.source = source
        self.header = memoryview(data)
        self._comm, self._tag, self._queue = comm, tag, queue
        self._size = 0
        self._pieces: deque[NDArray[np.uint8]] = deque()
        self._requests: list[MPI.Request] = []

    def receive(self, header_size: int, arrays: list[NDArray[Any]]) -> None:
        payload = self.header[header_size:]
        size = sum(array.nbytes for array in arrays)
        inline = header_size + size <= INLINE_BYTES
        if len(payload) != (size if inline else 0):
            raise self._wrong_size(size, len(payload))
        if not inline:
            self._size = size
            self._pieces.extend(_pieces(arrays))
            self._queue.append(self)
            return
        start = 0
        for array in arrays:
            array.reshape(-1).view(np.uint8)[:] = np.frombuffer(payload, np.uint8, array.nbytes, start)
            start += array.nbytes

    def done(self) -> bool:
        status = MPI.Status()
        while self._pieces and self._queue[0] is self:
            message = self._comm.Improbe(self.source, _PAYLOAD + self._tag, status)
            if message is None:
                break
            size = status.Get_count(MPI.BYTE)
            if size != self._pieces[0].size:
                message.Recv([bytearray(size), MPI.BYTE])
                self._queue.popleft()
                raise self._wrong_size(self._size, size)
            self._requests.append(message.Irecv([self._pieces.popleft(), MPI.BYTE]))
            if not self._pieces:
                self._queue.popleft()
        return not self._pieces and MPI.Request.Testall(self._requests)

    def _wrong_size(self, expected: int, got: int) -> ProtocolError:
        return ProtocolError(f"the payload from rank {self.source} must be {expected} bytes, got {got}")


class MpiTransport:
    """Frames over a private duplicate of a communicator. See `fedmpi.net.channel.Transport`."""

    def __init__(self, comm: MPI.Comm):
        self._comm = comm
        self._comm.Set_errhandler(MPI.ERRORS_RETURN)
        self.rank, self.size = comm.rank, comm.size
        self.library = MPI.Get_library_version().split(",")[0].strip("\0 ")
        self._sends: deque[tuple[list[MPI.Request], list[Any], int]] = deque()
        self._outstanding = 0
        self._stash: defaultdict[int, deque[_MpiFrame]] = defaultdict(deque)
        self._queues: defaultdict[tuple[int, int], deque[_MpiFrame]] = defaultdict(deque)

    def post(self, dest: int, tag: int, header: bytes, arrays: list[NDArray[Any]]) -> None:
        """Start the sends and keep their buffers until they are complete.

        Blocking sends of 8 MB from everybody to everybody deadlock.
        """
        if len(self._sends) >= _REAP_SENDS:
            self.outstanding_bytes()
        size = len(header) + sum(array.nbytes for array in arrays)
        if size <= INLINE_BYTES:
            buffers: list[Any] = [b"".join([header, *(array.tobytes() for array in arrays)])]
        else:
            buffers = [header, *_pieces(arrays)]
        tags = [tag] + [_PAYLOAD + tag] * (len(buffers) - 1)
        requests = [self._comm.Isend([buffer, MPI.BYTE], dest, t) for buffer, t in zip(buffers, tags, strict=True)]
        self._sends.append((requests, buffers, size))
        self._outstanding += size

    def outstanding_bytes(self) -> int:
        """Bytes in sends that are not complete."""
        for _ in range(len(self._sends)):
            entry = self._sends.popleft()
            if MPI.Request.Testall(entry[0]):
                self._outstanding -= entry[2]
            else:
                self._sends.append(entry)
        return self._outstanding

    def poll(self, tag: int, sources: Collection[int]) -> _MpiFrame | None:
        """The next frame with this tag from one of the sources; frames from others are kept for later."""
        stash = self._stash[tag]
        for kept in stash:
            if kept.source in sources:
                stash.remove(kept)
                return kept
        source = next(iter(sources)) if len(sources) == 1 else MPI.ANY_SOURCE
        while (taken := self._take(source, tag)) is not None:
            if taken.source in sources:
                return taken
            stash.append(taken)
        return None

    def _take(self, source: int, tag: int) -> _MpiFrame | None:
        status = MPI.Status()
        message = self._comm.Improbe(source, tag, status)
        if message is None:
            return None
        data = bytearray(status.Get_count(MPI.BYTE))
        message.Recv([data, MPI.BYTE])
        if len(data) > (limit := INLINE_BYTES + HEADER_LIMIT):
            raise ProtocolError(f"a header from rank {status.source} must be at most {limit} bytes, got {len(data)}")
        return self._frame(status, data)

    def _frame(self, status: MPI.Status, data: bytearray) -> _MpiFrame:
        return _MpiFrame(self._comm, status.source, status.tag, data, self._queues[status.source, status.tag])

    def discard(self) -> int | None:
        """Take one MPI message that nobody will ask for, and drop it. Those of the channel itself are kept."""
        status = MPI.Status()
        message = self._comm.Improbe(MPI.ANY_SOURCE, MPI.ANY_TAG, status)
        if message is None:
            return None
        data = bytearray(status.Get_count(MPI.BYTE))
        message.Recv([data, MPI.BYTE])
        if status.tag in (Notice.tag, Closing.tag):
            self._stash[status.tag].append(self._frame(status, data))
            return 0
        return int(status.tag < _PAYLOAD)

    def pause(self, waited_seconds: float) -> None:
        """Yield at first, then sleep for a part of the time waited, so that idle ranks leave the cores to others."""
        self.outstanding_bytes()
        if waited_seconds < 1e-4:
            os.sched_yield()
        else:
            time.sleep(min(waited_seconds / 4, max(_SLEEP_SECONDS, waited_seconds / 100), _LONGEST_SLEEP_SECONDS))


@contextmanager
def job(*, traceback: bool = False, **options: Any) -> Iterator[Channel]:
    """The channel over all ranks of this MPI job, for the time of a block; an error in it ends the whole job.

    Parameters
    ----------
    traceback : bool
        Print tracebacks of errors that are not fedmpi's own. The environment variable FEDMPI_TRACEBACK=1 prints all.
    **options
        For the `Channel`.

    Notes
    -----
    An error is printed once, by rank 0 wherever it can still speak. A usage error of rank 0 ends every rank in
    good order with exit code 2; any other error aborts the job, within seconds whatever the others do.
    """
    channel = Channel(MpiTransport(MPI.COMM_WORLD.Dup()), **options)
    try:
        yield channel
        channel.close()
    except BaseException as error:
        if os.environ.get("FEDMPI_TRACEBACK") or (traceback and not isinstance(error, FedmpiError | SystemExit)):
            print_exception(error)
        _end(channel, error)


def _end(channel: Channel, error: BaseException) -> NoReturn:
    code = error.exit_code if isinstance(error, FedmpiError) else 4
    if isinstance(error, SystemExit):  # of the command line's parser: it has printed what there is to say
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    heard = error is channel.failure  # it is another rank's
    channel.timeout_seconds = _GRACE_SECONDS
    if channel.rank == 0:
        if not isinstance(error, SystemExit):
            _report(describe(error))
        if isinstance(error, UsageError | SystemExit):
            channel.fail(error, code)
            _leave_in_order(channel, code)
    elif heard and isinstance(error, PeerFailed) and error.rank == 0:
        _leave_in_order(channel, code)
    else:
        _let_rank_0_speak(channel, error, code or 4, heard)
    _abort(code or 4)


def _leave_in_order(channel: Channel, code: int) -> NoReturn:
    try:
        channel.close()
    except FedmpiError:  # somebody does not listen
        _abort(code)
    sys.exit(code)


def _let_rank_0_speak(channel: Channel, error: BaseException, code: int, heard: bool) -> None:
    """Tell everybody, and give rank 0 the time to print it and to end the job; if it does not, speak here.

    Of several ranks that failed at once the lowest speaks, so that there is one message.
    """
    if not heard:
        channel.fail(error, code)
    end = time.monotonic() + _GRACE_SECONDS
    others = [channel.failure.rank] if channel.failure else []
    while time.monotonic() < end:
        if (failed := channel.poll_notice()) is not None:
            others.append(failed.rank)
        channel.transport.pause(1.0)
    if heard or min(others, default=channel.size) < channel.rank:
        time.sleep(_GRACE_SECONDS)
    else:
        reason = describe(error)
        own = isinstance(error, PeerFailed)
        _report(reason if own else f"{channel.role_of(channel.rank)} (rank {channel.rank}) failed: {reason}")


def _report(line: str) -> None:
    sys.stdout.flush()
    print(f"fedmpi: error: {line}", file=sys.stderr, flush=True)


def _abort(code: int) -> NoReturn:
    MPI.COMM_WORLD.Abort(code)
    raise AssertionError("MPI_Abort returned")
