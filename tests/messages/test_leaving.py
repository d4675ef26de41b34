"""The last words of a rank that ends its job."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from fedmpi.errors import PeerFailed, ProtocolError, UsageError
from fedmpi.net import Channel, costs, job_folder, leaving
from fedmpi.net.endpoint import Excused, Notice
from fedmpi.net.local import channels


def pipe(monkeypatch: pytest.MonkeyPatch) -> int:
    """Make stderr a pipe; its other end."""
    end, ours = os.pipe()
    monkeypatch.setattr(sys, "stderr", os.fdopen(ours, "w"))
    return end


def test_the_end_of_a_job_waits_until_its_error_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = pipe(monkeypatch)
    print("fedmpi: error: one line", file=sys.stderr)
    read: list[bytes] = []
    late = threading.Timer(0.2, lambda: read.append(os.read(reader, 100)))
    late.start()
    leaving.wait_until_read()
    late.join(0.1)
    assert read == [b"fedmpi: error: one line\n"]


def test_it_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaving, "READ_SECONDS", 0.1)
    pipe(monkeypatch)
    print("nobody reads this", file=sys.stderr)
    begun = time.monotonic()
    leaving.wait_until_read()
    assert time.monotonic() - begun >= 0.1


def test_what_is_no_pipe_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waited"))
    with Path(os.devnull).open("w") as nowhere:
        monkeypatch.setattr(sys, "stderr", nowhere)
        leaving.wait_until_read()
    leaving.wait_until_read()  # and closed


# -- who leaves how: the ends of a process stand for themselves ------------------------------------------------------


Ends = Callable[..., None]


class Left(BaseException):
    """In place of the end of a process: how, and with which code."""

    def __init__(self, how: str, code: int):
        super().__init__(how, code)


def abort(code: int) -> NoReturn:
    raise Left("abort", code)


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Ends:
    """Ends that are told; who is dead is given. Nobody is waited for, and a job's folder is here."""

    def exit_here(code: int) -> NoReturn:
        raise Left("exit", code)

    def dead(*ranks: int) -> None:
        monkeypatch.setattr(leaving, "_is_dead", lambda ch, rank: rank in ranks)

    monkeypatch.setattr(leaving, "_exit", exit_here)
    monkeypatch.setattr(leaving, "GRACE_SECONDS", 0.05)
    monkeypatch.setenv(job_folder.VARIABLE, str(tmp_path))
    return dead


def left(ch: Channel, error: BaseException, *, survives: bool) -> tuple[Any, ...]:
    with pytest.raises(Left) as end:
        leaving.leave_with_error(ch, error, abort, survives=survives)
    return end.value.args


@pytest.mark.parametrize(("survives", "how"), [(True, "exit"), (False, "abort")])
def test_who_fails_while_rank_0_is_silent_says_so_itself(
    survives: bool, how: str, ends: Ends, capsys: pytest.CaptureFixture[str]
) -> None:
    _, follower = channels(2)
    assert left(follower, ValueError("boom"), survives=survives) == (how, 4)
    assert "fedmpi: error: worker (rank 1) failed: ValueError: boom" in capsys.readouterr().err


def test_of_several_that_failed_the_lowest_speaks(ends: Ends, capsys: pytest.CaptureFixture[str]) -> None:
    _, first, second = channels(3)
    first.send(2, Notice(4, "mine"))
    assert left(second, ValueError("boom"), survives=False) == ("abort", 4)
    assert capsys.readouterr().err == ""


def test_who_was_told_of_the_end_leaves_in_silence(ends: Ends, capsys: pytest.CaptureFixture[str]) -> None:
    lead, follower = channels(2)
    follower.failure = PeerFailed(0, "master", "failed: boom", 3)
    assert left(follower, follower.failure, survives=True) == ("exit", 0)
    lead.send(1, Notice(2, "the end"))
    assert left(follower, ValueError("boom"), survives=True) == ("exit", 0)
    assert capsys.readouterr().err == ""


def test_once_rank_0_is_dead_the_lowest_that_lives_speaks(
    ends: Ends, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(job_folder.VARIABLE)  # no launcher, which would say it
    monkeypatch.setattr(leaving, "READ_SECONDS", 0.0)
    ends(0, 1)
    _, _, lowest, other = channels(4)
    died = PeerFailed(0, "master", "died")
    assert left(other, died, survives=True) == ("exit", 4)
    assert capsys.readouterr().err == ""
    assert left(lowest, died, survives=True) == ("exit", 4)
    assert capsys.readouterr().err == f"fedmpi: error: {died}; {job_folder.RESUME}\n"


@pytest.mark.parametrize(("survives", "how"), [(True, "exit"), (False, "abort")])
def test_a_stopped_rank_0_is_ended_by_the_lowest_or_else_by_the_others(
    survives: bool,
    how: str,
    ends: Ends,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ends()
    frozen = PeerFailed(0, "master", "is frozen")
    for ch in channels(3)[1:]:
        ended: list[int] = []
        monkeypatch.setattr(ch.transport, "end", ended.append)
        ch.leader_stopped = True
        assert left(ch, frozen, survives=survives) == (how, 4)
        assert ended == [0]
        assert f"is frozen; {job_folder.RESUME}" in capsys.readouterr().err


def test_what_rank_0_says_in_time_is_heard(ends: Ends) -> None:
    lead, first, second = channels(3)
    first.send(2, Notice(4, "mine"))
    assert leaving._hear_rank_0(second, 0.1) == (None, {1})
    lead.send(2, Excused())
    assert leaving._hear_rank_0(second, 60) == (Excused, set())
    lead.send(2, Notice(2, "the end"))
    assert leaving._hear_rank_0(second, 60) == (Notice, {0})


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(("survives", "how"), [(True, "exit"), (False, "abort")])
def test_a_job_that_is_done_without_some_ends_with_0(
    rank: int, survives: bool, how: str, ends: Ends, tmp_path: Path
) -> None:
    ends(1)
    with pytest.raises(Left) as end:
        leaving.leave_incomplete(channels(2)[rank], abort, survives=survives)
    assert end.value.args == (how, 0)
    assert job_folder.read_exit_code(tmp_path) == (0 if rank == 0 else None)


def test_a_program_that_goes_on_after_such_a_job_ends_with_its_own_code(
    ends: Ends, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends(1)
    lead = channels(2)[0]
    leaving.end_incomplete(lead, abort, survives=True)
    assert job_folder.read_exit_code(tmp_path) == 0
    monkeypatch.setattr(sys, "last_value", ValueError(), raising=False)
    with pytest.raises(Left, match="1") as end:
        leaving.end_incomplete(lead, abort, survives=False)
    assert end.value.args == ("abort", 1)
    assert job_folder.read_exit_code(tmp_path) == 1


@pytest.mark.parametrize("complete", [True, False, None])
def test_an_end_in_order_needs_all(complete: bool | None, ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever does not come to it would keep MPI's own end waiting."""
    lead, _ = channels(2)

    def close() -> bool:
        if complete is None:
            raise ProtocolError("somebody does not listen")
        return complete

    monkeypatch.setattr(lead, "close", close)
    with pytest.raises(SystemExit if complete else Left) as end:
        leaving.leave_with_error(lead, UsageError("--n must be 1, got 2"), abort, survives=False)
    assert end.value.args in ((2,), ("abort", 2))


def test_rank_0_takes_the_launcher_down_with_a_rank_that_does_not_leave(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends()
    sent: list[tuple[int, int]] = []
    name = Path(f"/proc/{os.getppid()}/comm").read_text().strip()
    monkeypatch.setattr(leaving, "_LAUNCHERS", (name,))
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    leaving._outlast(channels(2)[0], 0)
    assert sent == [(os.getppid(), leaving.signal.SIGTERM)]


def test_who_was_stopped_is_woken_and_named_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    variables = {**os.environ, "OMPI_COMM_WORLD_RANK": "1"}
    stopped = subprocess.Popen(["sleep", "60"], env=variables)
    try:
        monkeypatch.setattr(os, "getppid", os.getpid)
        stopped.send_signal(signal.SIGSTOP)
        while job_folder.state_of(stopped.pid) != "T":
            time.sleep(0.01)
        master, worker = channels(2)
        worker.send(0, costs.report(worker))
        assert list(costs.gather_reports(master)) == [1]
        assert job_folder.state_of(stopped.pid) != "T"
    finally:
        stopped.kill()
        stopped.wait()
    named = "fedmpi: warning: rank 1 (worker) was stopped by a signal; it goes on, to leave\n"
    assert capsys.readouterr().err == named
