"""How a rank leaves its job: after an error, or at an end that not all ranks have reached.

With an MPI that survives deaths (`survives`) a rank leaves by `os._exit`, without MPI's own end, which would wait
for all. Otherwise it takes the job down with it by `abort`.
"""

import contextlib
import errno
import fcntl
import os
import signal
import stat
import sys
import termios
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeGuard

from fedmpi.errors import FedmpiError, FilesError, Interrupted, PeerFailed, UsageError
from fedmpi.net.channel import Channel
from fedmpi.net.endpoint import Excused, Notice, describe
from fedmpi.net.job_folder import RESUME, take_word, told, write_exit_code
from fedmpi.net.message import Message
from fedmpi.net.siblings import wake_the_frozen
from fedmpi.rules import printable

GRACE_SECONDS = 5.0
"""How long one rank waits for the others to do what the end of the job asks of them."""

READ_SECONDS = 1.0
"""How long a rank that ends its job waits until what it printed is read."""

_LAUNCHERS = ("mpirun", "mpiexec", "prterun", "prte", "prted")

_REFUSED = (
    *(errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.ENOSPC, errno.EPERM, errno.EPIPE, errno.EROFS),
    *(errno.EIO, errno.EMFILE, errno.ENFILE, errno.ESTALE),
)
"""A disk is full or broken, a file belongs to others, nobody reads what is printed, too many files are open."""

Abort = Callable[[int], NoReturn]


def leave_with_error(ch: Channel, error: BaseException, abort: Abort, *, survives: bool) -> NoReturn:
    """End this rank, and with it the job unless rank 0 goes on without it; rank 0 prints the one line about it."""
    if is_of_files(error):
        error = FilesError.of(error)
    code = error.exit_code if isinstance(error, FedmpiError) else 4
    if isinstance(error, SystemExit):  # of the command line's parser: it has printed what there is to say
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    patience, ch.timeout_seconds = ch.timeout_seconds, GRACE_SECONDS
    ch.on_pause = lambda: None  # what asked for this end would ask again, and again
    if ch.rank != 0:
        _leave_as_follower(ch, error, code, patience, abort, survives)
    if isinstance(error, Interrupted):
        if take_word():
            (_report if code == PeerFailed.exit_code else _say)(describe(error))
    elif not isinstance(error, SystemExit):
        _report(describe(error))
    orderly = isinstance(error, UsageError | FilesError | SystemExit | Interrupted)
    wake_the_frozen()
    if survives:
        ch.fail(error, code)
        _leave_survivors(ch, code)
    write_exit_code(code)
    if orderly and not ch.departed:
        ch.fail(error, code)
        _leave_in_order(ch, code, abort)
    abort(code or 4)


def is_of_files(error: BaseException) -> TypeGuard[OSError]:
    """Whether the operating system refuses a file: no peer has failed then."""
    return isinstance(error, OSError) and (error.errno in _REFUSED or error.filename is not None)


def _leave_as_follower(
    ch: Channel, error: BaseException, code: int, patience: float, abort: Abort, survives: bool
) -> NoReturn:
    heard = error is ch.failure  # it is another rank's
    if heard and isinstance(error, PeerFailed) and error.rank == 0 and not _is_dead(ch, 0):
        if survives:
            _exit(0)
        _leave_in_order(ch, code, abort)
    if not heard:
        ch.fail(error, code)
    if ch.leader_stopped:
        _leave_stopped(ch, error, code, abort, survives)
    # A rank that does without others can be done without: the job may go on, and rank 0 may be busy for long.
    verdict, others = _hear_rank_0(ch, patience if ch.tolerated and not heard else GRACE_SECONDS)
    if verdict and survives:
        _exit(0)
    if verdict is Excused:
        while True:  # until rank 0 ends the job
            ch.transport.discard()
            ch.transport.pause(1.0)
    # Rank 0 is silent. Of several ranks that failed at once the lowest speaks, so that there is one message.
    if _is_dead(ch, 0):
        heard, others = False, {rank for rank in range(1, ch.rank) if not _is_dead(ch, rank)}
    if heard or min(others, default=ch.size) < ch.rank:
        time.sleep(GRACE_SECONDS if not _is_dead(ch, 0) else 0 if told() else 2 * READ_SECONDS)
    elif not (_is_dead(ch, 0) and told()):  # the launcher knows, and says how to go on
        reason = describe(error)
        own = isinstance(error, PeerFailed)
        line = reason if own else f"{ch.role_of(ch.rank)} (rank {ch.rank}) failed: {reason}"
        _report(f"{line}; {RESUME}" if _is_dead(ch, 0) else line)
    if survives:
        _exit(code or 4)
    abort(code or 4)


def _leave_stopped(ch: Channel, error: BaseException, code: int, abort: Abort, survives: bool) -> NoReturn:
    """Rank 0 is stopped, and hears nothing: the lowest rank that lives ends it, the others if that does not."""
    end = time.monotonic() + 4 * GRACE_SECONDS
    lowest = ch.rank == min(rank for rank in range(1, ch.size) if not _is_dead(ch, rank))
    while not lowest and not _is_dead(ch, 0) and time.monotonic() < end:
        ch.transport.pause(1.0)
    if lowest or not _is_dead(ch, 0):
        _report(f"{describe(error)}; {RESUME}")
        wait_until_read()
        ch.transport.end(0)
    if survives:
        _exit(code or 4)
    abort(code or 4)


def _hear_rank_0(ch: Channel, seconds: float) -> tuple[type[Message] | None, set[int]]:
    """What rank 0 says within some time: that this rank is excused or that the job ends; and who else failed."""
    end = time.monotonic() + seconds
    others = {ch.failure.rank} if ch.failure else set()
    while time.monotonic() < end and not _is_dead(ch, 0):
        if ch.transport.poll(Excused.tag, (0,)) is not None:
            return Excused, others
        if (failed := ch.poll_notice()) is not None:
            if failed.rank == 0:
                return Notice, {0}
            others.add(failed.rank)
        ch.transport.pause(1.0)
    return None, others


def leave_incomplete(ch: Channel, abort: Abort, *, survives: bool) -> NoReturn:
    """End a job that is done, and from which some ranks have departed; see also `end_incomplete`."""
    if ch.rank == 0:
        if survives:
            _leave_survivors(ch, 0)
        write_exit_code(0)
        abort(0)
    if survives:
        _exit(0)
    time.sleep(GRACE_SECONDS)  # rank 0 ends the job
    abort(0)


def end_incomplete(ch: Channel, abort: Abort, *, survives: bool) -> None:
    """Rank 0, when its program ends some time after a job from which some ranks have departed."""
    code = int(hasattr(sys, "last_value"))  # there if an error has ended the program
    if survives:
        _outlast(ch, code)
        return
    write_exit_code(code)
    abort(code)


def _leave_survivors(ch: Channel, code: int) -> NoReturn:
    _outlast(ch, code)
    _exit(code)


def _outlast(ch: Channel, code: int) -> None:
    """Rank 0: wait until the others have left, and take the launcher down where one does not."""
    end = time.monotonic() + GRACE_SECONDS
    listening = [rank for rank in range(1, ch.size) if rank not in ch.departed]
    while not all(_is_dead(ch, rank) for rank in listening) and time.monotonic() < end:
        ch.transport.pause(1.0)
    write_exit_code(code)
    parent = Path(f"/proc/{os.getppid()}/comm")
    left = all(_is_dead(ch, rank) for rank in range(1, ch.size))
    if not left and parent.exists() and parent.read_text().strip() in _LAUNCHERS:
        sys.stdout.flush()
        os.kill(os.getppid(), signal.SIGTERM)


def _leave_in_order(ch: Channel, code: int, abort: Abort) -> NoReturn:
    try:
        complete = ch.close()
    except FedmpiError:  # somebody does not listen
        abort(code)
    if not complete:  # nor does somebody who can be done without: MPI's own end would wait for him
        abort(code)
    sys.exit(code)


def _is_dead(ch: Channel, rank: int) -> bool:
    return rank in ch.transport.failed()


def _report(line: str) -> None:
    _say(f"error: {line}")


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads it
        sys.stdout.flush()
    print(f"fedmpi: {printable(line, 4000)}", file=sys.stderr, flush=True)


def _exit(code: int) -> NoReturn:
    wait_until_read()
    os._exit(code)


def wait_until_read() -> None:
    """Give mpirun the time to read what this rank printed: when a job is aborted it may drop what pipes hold."""
    unread, end = array("i", [0]), time.monotonic() + READ_SECONDS
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # closed, or not a file
            stream.flush()
            while stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode) and time.monotonic() < end:
                fcntl.ioctl(stream.fileno(), termios.FIONREAD, unread)
                if not unread[0]:
                    break
                time.sleep(0.001)
