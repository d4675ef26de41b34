"""The last words of a rank that ends its job."""

import os
import sys
import threading
import time
from pathlib import Path

import pytest

from fedmpi.net import leaving


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
