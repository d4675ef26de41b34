"""Ranks as MPI processes. The only importer of mpi4py."""

import atexit
import os
import signal
import sys
import time
import warnings
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from traceback import print_exception
from typing import Any, NoReturn

import mpi4py
import numpy as np
from numpy.typing import NDArray

from fedmpi.errors import FedmpiError, ProtocolError, UsageError
from fedmpi.net.channel import Channel
from fedmpi.net.doorbell import NAME_BYTES, Doorbell
from fedmpi.net.job_folder import (
    FROZEN,
    Process,
    told,
    who,
    write_begun,
    write_exit_code,
    write_up,
)
from fedmpi.net.job_folder import (
    NAME_BYTES as WHO_BYTES,
)
from fedmpi.net.leaving import end_incomplete, leave_incomplete, leave_with_error, wait_until_read
from fedmpi.net.memory import keep_freed_memory
from fedmpi.net.message import HEADER_LIMIT
from fedmpi.net.siblings import wake_the_frozen
from fedmpi.net.transport import KEPT_TAGS, RefusedFrame, Transport
from fedmpi.net.worlds import check_mpi, check_world, is_first

mpi4py.rc.initialize = False  # `_begin` does it
mpi4py.rc.finalize = False  # `_finalize` does it, unless ranks are missing: MPI waits for them

write_begun()
_limit = os.environ.get("FEDMPI_START_ALARM", "")
signal.alarm(int(_limit) if _limit.isdecimal() else 0)  # on machines of which the launcher hears nothing
from mpi4py import MPI  # noqa: E402


def _begin() -> None:
    try:
        check_mpi(MPI.get_vendor()[0])
    except UsageError as error:
        if is_first():
            print(f"fedmpi: error: {error}", file=sys.stderr, flush=True)
            write_exit_code(error.exit_code)
        sys.exit(error.exit_code)
    if MPI.Is_initialized():
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a world of one: `check_world` says it, once
        MPI.Init_thread(MPI.THREAD_SERIALIZED)  # one thread at a time speaks to MPI: no locks


_begin()
signal.alarm(0)

INLINE_BYTES = 64 << 10
"""Messages up to this size travel as one MPI message."""

CHUNK_BYTES = 16 << 20
"""Larger arrays travel behind their header in pieces: MPI counts are 32 bits, and a piece that has arrived frees its
buffer."""

_DEATHS = (MPI.ERR_PROC_FAILED, MPI.ERR_PROC_FAILED_PENDING, MPI.ERR_IN_STATUS)
_UNUSED_TAG = 0
_REAP_SENDS = 256
_SLEEP_SECONDS = 75e-6
"""How long an idle rank with a core of its own sleeps between two looks, each of some 15 µs; of r ranks on c cores each
sleeps r/c times as long, so that they keep a fifth of the machine from its work at most."""
_NAP_SECONDS = 0.005
"""How long an idle rank sleeps at least where others wake it."""
_LOOKS = 2
"""MPI takes in what has arrived after it has looked for it: what somebody rang for is found at the second look."""
_FRESH_SECONDS = 50e-6
"""After a look that found nothing no other is worth its time for so long: who waits asks for several tags in turn."""
_LONGEST_SLEEP_SECONDS = 0.05

SURVIVES_DEATHS = os.environ.get("OMPI_MCA_mpi_ft_enable") == "1"  # noqa: SIM112
"""Whether the job was started by ``mpirun --with-ft ulfm``: then it outlives ranks that die."""


@atexit.register
def _finalize() -> None:
    if MPI.Is_initialized() and not MPI.Is_finalized():
        MPI.Finalize()


def _pieces(arrays: list[NDArray[Any]]) -> list[NDArray[np.uint8]]:
    flat = [array.reshape(-1).view(np.uint8) for array in arrays if array.size]
    return [raw[start : start + CHUNK_BYTES] for raw in flat for start in range(0, raw.size, CHUNK_BYTES)]


class _MpiFrame:
    """A header, and the pieces of the arrays behind it.

    A piece is received only after its size has been seen: given a longer one than asked for, Open MPI writes past
    the end of the buffer. Pieces of several frames from one source come in the order of their headers, so they
    are taken for the frame at the head of the source's `queue`.
    """

    def __init__(
        self,
        bulk: MPI.Comm,
        source: int,
        tag: int,
        data: bytearray,
        queue: "deque[_MpiFrame]",
        under_way: "set[_MpiFrame]",
    ):
        self.source = source
        self.header = memoryview(data)
        self._bulk, self._tag, self._queue, self._under_way = bulk, tag, queue, under_way
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
            self._under_way.add(self)
            return
        start = 0
        for array in arrays:
            array.reshape(-1).view(np.uint8)[:] = np.frombuffer(payload, np.uint8, array.nbytes, start)
            start += array.nbytes

    def done(self) -> bool:
        try:
            self._take_pieces()
            if self._pieces or not MPI.Request.Testall(self._requests):
                return False
        except MPI.Exception as error:
            _check_is_death(error)
            return False  # and never will be: the source departs
        self._under_way.discard(self)
        return True

    def _take_pieces(self) -> None:
        status = MPI.Status()
        while self._pieces and self._queue[0] is self:
            # MPI takes in what has arrived after it has looked for it: what is not found is found at a second look.
            where = self._bulk, self.source, self._tag, status
            message = _improbe(*where) or _improbe(*where)
            if message is None:
                break
            if (size := status.Get_count(MPI.BYTE)) != self._pieces[0].size:
                _receive(message, status)
                self._queue.popleft()
                self._under_way.discard(self)
                raise self._wrong_size(self._size, size)
            self._requests.append(message.Irecv([self._pieces.popleft(), MPI.BYTE]))
            if not self._pieces:
                self._queue.popleft()

    def _wrong_size(self, expected: int, got: int) -> ProtocolError:
        return ProtocolError(f"the payload from rank {self.source} must be {expected} bytes, got {got}")


def _receive(message: MPI.Message, status: MPI.Status) -> tuple[int, bytearray] | None:
    """The size and the bytes of an MPI message; of one larger than any of ours no bytes, nor memory for them.

    None if its source has died: the bytes were still with it.
    """
    size = status.Get_count(MPI.BYTE)
    data = bytearray(size if size <= CHUNK_BYTES else 0)
    try:
        if len(data) == size:
            message.Recv([data, MPI.BYTE])
    except MPI.Exception as error:
        _check_is_death(error)
        return None
    return size, data


def _check_is_death(error: MPI.Exception) -> None:
    """Raise the error unless it says that a peer died: then `MpiTransport.failed` says who."""
    if not SURVIVES_DEATHS or error.Get_error_class() not in _DEATHS:
        raise error


def _improbe(comm: MPI.Comm, source: int, tag: int, status: MPI.Status) -> MPI.Message | None:
    for _ in range(comm.size):  # each rank dies once
        try:
            return comm.Improbe(source, tag, status)
        except MPI.Exception as error:
            _check_is_death(error)
            if source != MPI.ANY_SOURCE:
                break
            comm.Ack_failed()  # else a receive from any source fails for ever
    return None


def _ranks_here(comm: MPI.Comm) -> int:
    """How many ranks are on this machine."""
    here = comm.Split_type(MPI.COMM_TYPE_SHARED)
    size = int(here.size)
    here.Free()
    return size


def _processes(comm: MPI.Comm) -> list[Process | None]:
    """Who all ranks are, as the operating system of their machines names them."""
    names = np.empty((comm.size, WHO_BYTES), np.uint8)
    comm.Allgather(np.frombuffer(who(), np.uint8), names)
    return [Process.read(name.tobytes().decode(errors="replace").rstrip("\0")) for name in names]


def _doorbell(comm: MPI.Comm) -> Doorbell | None:
    """For ranks that can all ring one another; else None on all of them."""
    try:
        doorbell = Doorbell()
    except OSError:
        doorbell = None
    names = np.empty((comm.size, NAME_BYTES), np.uint8)
    comm.Allgather(np.frombuffer(doorbell.name if doorbell else bytes(NAME_BYTES), np.uint8), names)
    reached = np.array([doorbell is not None and doorbell.reach([name.tobytes() for name in names])])
    comm.Allreduce(MPI.IN_PLACE, reached, MPI.LAND)
    if doorbell and not reached[0]:
        doorbell.close()
    return doorbell if reached[0] else None


class MpiTransport:
    """Frames over private duplicates of a communicator, one for pieces. See `fedmpi.net.transport.Transport`.

    So one look for anything at all finds all headers and small messages that have come, under whatever tag.
    """

    def __init__(self, comm: MPI.Comm):
        self._comm, self._bulk = comm, comm.Dup()
        for each in (self._comm, self._bulk):
            each.Set_errhandler(MPI.ERRORS_RETURN)
        self.rank, self.size = comm.rank, comm.size
        self.library = MPI.Get_library_version().split(",")[0].strip("\0 ")
        self._sends: defaultdict[int, deque[tuple[list[MPI.Request], list[Any], int]]] = defaultdict(deque)
        self._outstanding: Counter[int] = Counter()
        self._posted = 0
        self._sending = False
        here = _ranks_here(comm)
        self._sleep_seconds = _SLEEP_SECONDS * max(1.0, here / (os.cpu_count() or 1))
        self._doorbell = _doorbell(comm) if here == comm.size > 1 else None
        self._spin_seconds = 0.0 if self._doorbell and here > (os.cpu_count() or 1) else 1e-4
        self._processes = _processes(comm)
        self._forgotten: set[int] = set()
        self._failed: frozenset[int] = frozenset()
        self._asked = self._looked = 0.0
        self._stash: defaultdict[int, deque[_MpiFrame | RefusedFrame]] = defaultdict(deque)
        self._queues: defaultdict[tuple[int, int], deque[_MpiFrame]] = defaultdict(deque)
        self._under_way: set[_MpiFrame] = set()

    def post(self, dest: int, tag: int, header: bytes, arrays: list[NDArray[Any]]) -> None:
        """Start the sends and keep their buffers until they are complete.

        Blocking sends of 8 MB from everybody to everybody deadlock.
        """
        self._posted += 1
        if self._posted % _REAP_SENDS == 0:
            self.outstanding_bytes()
        size = len(header) + sum(array.nbytes for array in arrays)
        if size <= INLINE_BYTES:
            buffers: list[Any] = [b"".join([header, *(array.tobytes() for array in arrays)])]
        else:
            buffers = [header, *_pieces(arrays)]
        # Synchronous: others may be done before they are received, of Intel MPI 8 MB, and `flush` would bound nothing.
        try:
            requests = [self._comm.Isend([buffers[0], MPI.BYTE], dest, tag)]
            requests += [self._bulk.Issend([piece, MPI.BYTE], dest, tag) for piece in buffers[1:]]
        except MPI.Exception as error:
            _check_is_death(error)
            return
        self._sends[dest].append((requests, buffers, size))
        self._outstanding[dest] += size
        self._sending = True
        if self._doorbell:
            self._doorbell.ring(dest)

    def outstanding_bytes(self, dest: int | None = None) -> int:
        """Bytes in sends (to one rank) that are not complete."""
        for rank in set(self._sends if dest is None else [dest]) - self._forgotten:
            sends = self._sends[rank]
            try:
                while sends and MPI.Request.Testall(sends[0][0]):  # what is behind it will be taken over after it
                    self._outstanding[rank] -= sends.popleft()[2]
            except MPI.Exception as error:
                _check_is_death(error)
                self.forget(rank)
            if not sends:
                del self._sends[rank], self._outstanding[rank]
        return sum(
            size for rank, size in self._outstanding.items() if dest in (None, rank) and rank not in self._forgotten
        )

    def failed(self) -> frozenset[int]:
        """Ranks that MPI has found dead; looked at a few times a second."""
        if SURVIVES_DEATHS and (now := time.monotonic()) - self._asked > _LONGEST_SLEEP_SECONDS:
            self._asked = now
            _improbe(self._comm, MPI.ANY_SOURCE, _UNUSED_TAG, MPI.Status())  # MPI learns of deaths while it is asked
            group = self._comm.Get_failed()
            if group.size > len(self._failed):
                ranks = MPI.Group.Translate_ranks(group, list(range(group.size)), self._comm.group)
                self._failed = frozenset(int(rank) for rank in ranks)
            group.Free()
        return self._failed

    def stopped(self, rank: int) -> bool:
        """Whether the process of a rank of this machine is stopped; a launcher sees that by itself."""
        process = None if told() else self._processes[rank]
        return process is not None and process.state in FROZEN

    def end(self, rank: int) -> None:
        """End the process of a rank that is stopped: mpirun waits for such a one."""
        process = self._processes[rank]
        if process is not None and process.state in FROZEN:
            process.signal(signal.SIGKILL)

    def forget(self, rank: int) -> None:
        """Drop what arrives from a rank, but for `KEPT_TAGS`; buffers that it may still take from stay here."""
        self._forgotten.add(rank)
        self._under_way -= {frame for frame in self._under_way if frame.source == rank}
        for tag in self._stash.keys() - set(KEPT_TAGS):
            self._stash[tag] = deque(frame for frame in self._stash[tag] if frame.source != rank)

    def poll(self, tag: int, sources: Collection[int]) -> _MpiFrame | RefusedFrame | None:
        """The next frame with this tag from one of the sources; frames from others are kept for later."""
        stash = self._stash[tag]
        if (kept := _first(stash, sources)) is None and time.monotonic() - self._looked > _FRESH_SECONDS:
            self._look()
            kept = _first(stash, sources)
        return kept

    def _look(self) -> None:
        """Keep all headers and small messages that have come."""
        looks = _LOOKS if self._doorbell and self._doorbell.heard() else 1
        status = MPI.Status()
        while looks:
            if (message := _improbe(self._comm, MPI.ANY_SOURCE, MPI.ANY_TAG, status)) is None:
                looks -= 1
            elif (received := _receive(message, status)) is not None:
                source, tag = status.source, status.tag
                if source not in self._forgotten or tag in KEPT_TAGS:
                    self._stash[tag].append(self._frame(source, tag, *received))
        self._looked = time.monotonic()

    def _frame(self, source: int, tag: int, size: int, data: bytearray) -> _MpiFrame | RefusedFrame:
        if size > (limit := INLINE_BYTES + HEADER_LIMIT):
            return RefusedFrame(source, f"a header from rank {source} must be at most {limit} bytes, got {size}")
        return _MpiFrame(self._bulk, source, tag, data, self._queues[source, tag], self._under_way)

    def discard(self) -> int | None:
        """Drop a message that nobody will ask for, or a piece of one. Those of the channel itself are kept."""
        self._look()
        for tag in self._stash.keys() - set(KEPT_TAGS):
            if self._stash[tag]:
                self._stash[tag].popleft()
                return 1
        status = MPI.Status()
        message = _improbe(self._bulk, MPI.ANY_SOURCE, MPI.ANY_TAG, status)
        if message is None:
            return None
        _receive(message, status)
        return 0

    def pause(self, waited_seconds: float) -> None:
        """Sleep for a part of the time waited, so that idle ranks leave the cores to others, or until somebody rings.

        Ranks that have cores of their own, or can't be rung, yield at first.
        """
        was_sending, self._sending = self._sending, bool(self._sends) and self.outstanding_bytes() > 0
        if waited_seconds < self._spin_seconds or (was_sending and not self._sending):
            os.sched_yield()
        elif self._doorbell is None or self._under_way or self._sends_bulk():  # these get on only while looked at
            longer = waited_seconds / (1000 if self._sending or self._under_way else 100)
            time.sleep(min(waited_seconds / 4, max(self._sleep_seconds, longer), _LONGEST_SLEEP_SECONDS))
        else:
            short = self._sending or waited_seconds < _NAP_SECONDS
            if self._doorbell.wait(_NAP_SECONDS if short else _LONGEST_SLEEP_SECONDS):
                self._look()

    def _sends_bulk(self) -> bool:
        """Whether something is on its way that receivers can't take at once."""
        return self._sending and any(size > INLINE_BYTES for sends in self._sends.values() for _, _, size in sends)


def _first(stash: deque[_MpiFrame | RefusedFrame], sources: Collection[int]) -> _MpiFrame | RefusedFrame | None:
    """The first frame from one of the sources, taken out."""
    for kept in stash:
        if kept.source in sources:
            stash.remove(kept)
            return kept
    return None


@contextmanager
def job(
    *,
    traceback: bool = False,
    goes_on: bool = False,
    wrap: Callable[[Transport], Transport] = lambda transport: transport,
    **options: Any,
) -> Iterator[Channel]:
    """The channel over all ranks of this MPI job, for the time of a block; an error in it ends the whole job.

    Parameters
    ----------
    traceback : bool
        Print tracebacks of errors that are not fedmpi's own. The environment variable FEDMPI_TRACEBACK=1 prints all.
    goes_on : bool
        Whether the program of rank 0 has more to do after the block, also where ranks are missing by then.
    wrap : callable
        Applied to the transport before anything is sent.
    **options
        For the `Channel`.

    Notes
    -----
    An error is printed once, by rank 0 wherever it can still speak. A usage error of rank 0 ends every rank in
    good order with exit code 2; any other error ends the job within seconds, whatever the others do, unless rank 0
    tolerates it. A rank that dies takes the job down with it, unless the job was started to survive that.
    """
    keep_freed_memory()
    inner = MpiTransport(MPI.COMM_WORLD.Dup())
    try:
        check_world(inner.size, inner.library)
        channel = Channel(wrap(inner), **options)
    except FedmpiError as error:
        leave_with_error(Channel(inner, **options), error, _abort, survives=SURVIVES_DEATHS)
    write_up()
    try:
        yield channel
        if channel.rank == 0:
            wake_the_frozen()
        complete = channel.close()
    except BaseException as error:
        if os.environ.get("FEDMPI_TRACEBACK") or (traceback and not isinstance(error, FedmpiError | SystemExit)):
            print_exception(error)
        leave_with_error(channel, error, _abort, survives=SURVIVES_DEATHS)
    if not complete and (not goes_on or (SURVIVES_DEATHS and channel.rank != 0)):
        leave_incomplete(channel, _abort, survives=SURVIVES_DEATHS)
    if not complete and channel.rank == 0:
        atexit.unregister(_finalize)
        atexit.register(end_incomplete, channel, _abort, survives=SURVIVES_DEATHS)
    if channel.rank == 0:
        write_exit_code(0)


def _abort(code: int) -> NoReturn:
    wait_until_read()
    MPI.COMM_WORLD.Abort(code)
    os._exit(code)  # MPICH's comes back where it has yet to tell other machines
