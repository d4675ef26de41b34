"""What ranks and launcher tell each other by files: junk in them is nothing said, and of two one has the word."""

import math
import os
import signal
import subprocess
from pathlib import Path

import pytest

from fedmpi.net import job_folder
from fedmpi.net.job_folder import Process
from fedmpi.net.local import channels
from fedmpi.net.orders import Leave


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(job_folder.VARIABLE, str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("text", ["", "junk", "1.5", "one two three"])
def test_junk_is_nothing_said(text: str, folder: Path) -> None:
    for name in ("exit-code", "patience", "rank-0", "begun-1"):
        (folder / name).write_text("" if text == "1.5" and name == "patience" else text)
    assert Process.read(text) is None
    assert job_folder.read_exit_code(folder) is None
    assert job_folder.read_patience(folder) == math.inf
    assert job_folder.read_leader(folder) is None
    assert job_folder.read_begun(folder) == {}


def test_one_of_two_has_the_word(folder: Path) -> None:
    assert job_folder.take_word(folder)
    assert not job_folder.take_word()


def test_a_process_that_has_ended_gets_no_signal(folder: Path) -> None:
    """Another process may have its number: it has another start."""
    job_folder.write_exit_code(3)
    assert job_folder.read_exit_code(folder) == 3
    here = Process.read(job_folder._this_process())
    assert here is not None
    assert here.state
    assert here.signal(signal.SIGCONT)
    other = Process(here.machine, os.getpid(), "1")
    assert not other.state
    assert not other.signal(signal.SIGKILL)
    assert job_folder.state_of(os.getpid()) in "RS"
    assert job_folder.state_of(2**22 + 1) == ""


def test_a_process_that_ends_while_it_is_looked_at_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux lets an open file of /proc fail once its process has been waited for."""
    process = subprocess.Popen(["sleep", "60"])

    def read_late(path: Path) -> str:
        with path.open() as opened:
            process.kill()
            process.wait()
            return opened.read()

    monkeypatch.setattr(Path, "read_text", read_late)
    assert job_folder.state_of(process.pid) == ""


def test_a_folder_that_has_gone_takes_nothing_with_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher has ended: who is left speaks for itself."""
    assert job_folder.take_word(folder / "gone")
    monkeypatch.setenv(job_folder.VARIABLE, str(folder / "gone"))
    job_folder.write_exit_code(2)
    assert job_folder.told() is None
    assert job_folder.read_reason() is None
    assert job_folder.take_word()
    assert not (folder / "gone").exists()


def test_rank_0_hears_why_it_was_sent_a_signal(folder: Path) -> None:
    assert job_folder.read_reason() is None
    assert job_folder.read_leader(folder) is None
    job_folder.write_reason(folder, "Ctrl-C")
    assert job_folder.read_reason() == "Ctrl-C"


def test_channels_of_one_thread_hear_one_another() -> None:
    first, second = channels(2)
    first.send(1, Leave())
    assert isinstance(second.recv(0, Leave), Leave)
