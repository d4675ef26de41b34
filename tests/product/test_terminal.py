"""What a run shows on a terminal."""

import os
import pty
import subprocess
import sys
import threading
from pathlib import Path

import pytest


def on_a_terminal(*arguments: str) -> tuple[int, str]:
    """Exit code and standard output of `fedmpi run` whose output is a terminal."""
    leader, follower = pty.openpty()
    shown: list[bytes] = []

    def read() -> None:
        try:
            while data := os.read(leader, 65536):
                shown.append(data)
        except OSError:
            pass  # so a terminal ends whose last program is gone

    reader = threading.Thread(target=read)
    reader.start()
    try:
        command = [sys.executable, "-m", "fedmpi.cli", "run", *arguments]
        done = subprocess.run(command, stdout=follower, stderr=subprocess.PIPE, timeout=120, check=False)
    finally:
        os.close(follower)
        reader.join(10)
        os.close(leader)
    return done.returncode, b"".join(shown).decode()


RUNS = {
    "all iterations": ("codedml -n 5 -- --iterations 3", 0, "coded "),
    "it converges early": ("ppadmm -n 4 -- --dataset diabetes --tolerance 1e-3", 0, "ppadmm "),
    "a worker dies": ("codedml -n 4 -- --iterations 9 --tolerance 0 --inject kill=2@4", 3, ""),
}
"""Options, exit code, and what stands in the line below the live one."""


@pytest.mark.parametrize("name", RUNS)
def test_the_live_line_ends_before_anything_else_is_said(name: str, tmp_path: Path) -> None:
    arguments, code, below = RUNS[name]
    ended, shown = on_a_terminal(*arguments.split(), "--out", str(tmp_path / "run"))
    assert ended == code
    live, late, rest = shown[shown.rindex("\x1b[2K") :].partition("late")
    assert live.startswith("\x1b[2K\x1b[?7l"), shown  # whatever its width, it takes one row
    assert (live.count("/"), late) == (1, "late"), shown
    assert rest.startswith("\x1b[?7h"), shown
    assert rest.removeprefix("\x1b[?7h").lstrip("\r").startswith(f"\n{below}"), shown
