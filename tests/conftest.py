"""Fixtures of all tests."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

pytest.register_assert_rewrite("contract")

for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGQUIT, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:  # by a shell that has us in the background: children inherit it
        signal.signal(number, usual)

# No test fails because a machine is slow.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

_MEASURED = "COVERAGE_PROCESS_CONFIG"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, what waits for a network before all: else one process ends alone.

    Processes take whole files, in this order (`--dist loadfile`); within a file nothing changes.
    """
    rank: dict[Path, int] = {}
    for item in items:
        marks = {mark.name for mark in item.iter_markers()}
        rank[item.path] = max(rank.get(item.path, 0), 2 if "waits" in marks else 1 if "slow" in marks else 0)
    items.sort(key=lambda item: -rank[item.path])


@pytest.fixture(scope="session", autouse=True)
def unmeasured() -> Iterator[str | None]:
    """Keep coverage out of the ranks, which it makes a third slower; what it would have them read, if it is on."""
    before = os.environ.pop(_MEASURED, None)
    yield before
    if before is not None:
        os.environ[_MEASURED] = before


@pytest.fixture
def measured(unmeasured: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let coverage into the ranks that a test starts."""
    if unmeasured is not None:
        monkeypatch.setenv(_MEASURED, unmeasured)


@pytest.fixture
def mpirun() -> Callable[..., subprocess.CompletedProcess[str]]:
    """``mpirun(n, *args, timeout=120, env={})`` runs ``python *args`` on n ranks and returns the CompletedProcess.

    With ``survive=True`` the job outlives a rank that dies.
    One that hangs is killed with all its ranks, and fails the test with what it had written.
    """
    return _mpirun


def _mpirun(
    n: int, *args: str | Path, timeout: float = 120, env: Mapping[str, str] | None = None, survive: bool = False
) -> subprocess.CompletedProcess[str]:
    from fedmpi.machines.launcher import environment, mpirun_command
    from fedmpi.net import job_folder

    command, _ = mpirun_command(n, [sys.executable, *map(str, args)], tolerate_failures=survive)
    with environment() as launcher:
        # As started by hand; and a parent that has initialized MPI itself must not look like the parent of these ranks.
        plain = {k: v for k, v in launcher.items() if not k.startswith(("PMIX_", "OMPI_COMM_WORLD_"))}
        process = subprocess.Popen(
            command,
            env={**plain, job_folder.VARIABLE: "", **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            _kill_session(process.pid)
            stdout, stderr = process.communicate()
            pytest.fail(f"mpirun {args} must end within {timeout} s; it wrote\n{stdout}\n{stderr}")
        except BaseException:
            _kill_session(process.pid)
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def _kill_session(leader: int) -> None:
    """Kill mpirun and its ranks: Open MPI gives each rank a process group of its own, but the session is shared."""
    os.killpg(leader, signal.SIGKILL)
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(int(folder.name)) == leader:
                os.kill(int(folder.name), signal.SIGKILL)
