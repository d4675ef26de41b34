"""Runs of the experiments side by side, one by one, and after their starter was ended or killed."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fedmpi.errors import FedmpiError
from fedmpi.net.job_folder import VARIABLE
from fedmpi.runs import batch as jobs
from fedmpi.runs.result import SCHEMA

SECONDS = 60.0

FOLDERS = (VARIABLE, "OMPI_MCA_btl_sm_backing_directory")
"""What tells ranks the folder of their job, and that of the memory they share."""

RUN = f"""
import os, sys, time
from pathlib import Path
out = Path(sys.argv[sys.argv.index('--out') + 1])
with (out.parent / 'log').open('a') as log:
    log.write(f'begin {{out.name}} {{os.getpid()}} {{len(list(out.parent.glob("*/")))}}\\n')
(out / 'folders').write_text('\\n'.join(os.environ[name] for name in {FOLDERS} if name in os.environ))
end = time.monotonic() + {SECONDS}
for name in sys.argv[sys.argv.index('--wait-for') + 1].split(',') if '--wait-for' in sys.argv else ():
    while not (out.parent / name).exists():
        assert time.monotonic() < end, name
        time.sleep(0.01)
if '--silent' in sys.argv:
    sys.exit(1)
if '--fail' in sys.argv:
    sys.exit('[host:7] PMIX ERROR: of another layer\\nfedmpi: error: the rule must hold, got 7')
with (out.parent / 'log').open('a') as log:
    log.write(f'end {{out.name}}\\n')
(out / 'result.json').write_text('{{"schema": {SCHEMA}, "metrics": {{"test_rmse": 0.5}}}}')
"""
"""What stands for mpirun: waits for files beside its folder, and writes a result."""

STARTER = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from fedmpi.cli import main
from fedmpi.runs import batch as jobs
from fedmpi.reproduce import ppadmm
class Slow(ThreadPoolExecutor):
    def submit(self, *args, **kwargs):
        future = super().submit(*args, **kwargs)
        time.sleep(float(pause))
        return future
script, out, pause, *options = sys.argv[1:]
jobs.ThreadPoolExecutor = Slow
jobs.mpirun_command = lambda ranks, program: ([sys.executable, '-c', script, *program], [])
runs = [jobs.Run(Path(out) / 'a', 3, ()), jobs.Run(Path(out) / 'b', 3, tuple(options))]
ppadmm.reproduce = lambda scale, out, data_dir: jobs.train_all(runs)
sys.exit(main(['reproduce', 'ppadmm']))
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., jobs.Run]:
    """Name and options → a run of `RUN`."""

    def command(ranks: int, program: list[str]) -> tuple[list[str], list[str]]:
        return [sys.executable, "-c", RUN, *program], []

    monkeypatch.setattr(jobs, "mpirun_command", command)
    return lambda name, *options, timed=False: jobs.Run(tmp_path / name, 3, options, timed=timed)


def log(folder: Path) -> list[list[str]]:
    path = folder / "log"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_runs_that_are_not_timed_go_side_by_side(
    run: Callable[..., jobs.Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = run("a", "--wait-for", "b/arguments.json"), run("b", "--wait-for", "a/arguments.json")
    results = jobs.train_all([a, b, a])
    assert results == {one.folder: {"schema": SCHEMA, "metrics": {"test_rmse": 0.5}} for one in (a, b)}
    assert len(log(tmp_path)) == 4, "twice the same is run once"
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in sorted(lines)] in (["[1/2] a", "[2/2] b"], ["[1/2] b", "[2/2] a"])
    assert all(": test rmse 0.5000 (" in line for line in lines)


def test_a_timed_run_is_alone(run: Callable[..., jobs.Run], tmp_path: Path) -> None:
    jobs.train_all([run("x"), run("a", timed=True), run("b", timed=True), run("y")])
    assert begun_and_ended(tmp_path)[:4] == [["begin", "a"], ["end", "a"], ["begin", "b"], ["end", "b"]]
    assert [line[3] for line in log(tmp_path) if line[0] == "begin"][:2] == ["1", "2"], "no folder of a later run"
    assert len(log(tmp_path)) == 8


def test_a_run_that_fails_ends_those_beside_it(run: Callable[..., jobs.Run], tmp_path: Path) -> None:
    runs = [run("long", "--wait-for", "never"), run("bad", "--wait-for", "long/arguments.json,log", "--fail")]
    with pytest.raises(FedmpiError, match=r"bad must end with 0, got 1: the rule must hold, got 7"):
        jobs.train_all([*runs, *(run(f"later{i}") for i in range(20))])
    assert ["end", "long"] not in begun_and_ended(tmp_path)
    assert not any(is_alive(int(line[2])) for line in log(tmp_path) if line[0] == "begin")
    assert len(log(tmp_path)) < 20, "nothing is begun any more"
    with ThreadPoolExecutor(1) as pool:
        later = pool.submit(jobs.train, tmp_path / "next", 3, ["--wait-for", "go"])
        time.sleep(1.0)  # twice what a run that is to end is given
        (tmp_path / "go").touch()
        assert later.result(SECONDS)["metrics"] == {"test_rmse": 0.5}, "it is no part of what has failed"


@pytest.fixture
def half_done(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Who started two runs: a is done, and b waits for the file `go`."""
    command, said = [sys.executable, "-c", STARTER, RUN, str(tmp_path), "0", "--wait-for", "go"], tmp_path / "printed"
    with said.open("wb") as stdout, subprocess.Popen(command, stdout=stdout) as starter:
        wait_until(lambda: "[1/2] a" in said.read_text() and ["begin", "b"] in begun_and_ended(tmp_path))
        yield starter


def begun_and_ended(folder: Path) -> list[list[str]]:
    return [line[:2] for line in log(folder)]


def pid_of(name: str, folder: Path) -> int:
    return next(int(line[2]) for line in log(folder) if line[:2] == ["begin", name])


def test_sigterm_ends_the_runs_and_what_is_done_is_kept(
    half_done: subprocess.Popen[bytes], run: Callable[..., jobs.Run], tmp_path: Path
) -> None:
    half_done.send_signal(signal.SIGTERM)
    assert half_done.wait(SECONDS) == 143
    assert not is_alive(pid_of("b", tmp_path))
    (tmp_path / "go").touch()
    assert len(jobs.train_all([run("a"), run("b", "--wait-for", "go")])) == 2
    assert begun_and_ended(tmp_path).count(["begin", "a"]) == 1
    assert begun_and_ended(tmp_path).count(["begin", "b"]) == 2


def test_a_run_that_outlived_its_starter_is_waited_for(
    half_done: subprocess.Popen[bytes],
    run: Callable[..., jobs.Run],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    half_done.kill()
    half_done.wait(SECONDS)
    assert is_alive(pid_of("b", tmp_path))
    said: list[str] = []

    def waits() -> bool:
        said.append(capfd.readouterr().err)
        return any(said)

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(jobs.train_all, [run("a"), run("b", "--wait-for", "go")])
        wait_until(waits)
        (tmp_path / "go").touch()
        assert len(future.result(SECONDS)) == 2
    left = [Path(name) for name in (tmp_path / "b/folders").read_text().split()]
    assert left
    wait_until(lambda: not any(folder.exists() for folder in left))
    assert "".join(said) == f"the run in {tmp_path / 'b'} still goes on: waiting for its end\n"
    assert sorted(begun_and_ended(tmp_path)) == [["begin", "a"], ["begin", "b"], ["end", "a"], ["end", "b"]]


@pytest.mark.parametrize("pause", [pytest.param("0", id="later"), pytest.param("1", id="while-runs-are-handed-out")])
def test_sigterm_ends_the_wait_for_a_run_of_somebody_else(
    half_done: subprocess.Popen[bytes], tmp_path: Path, pause: str
) -> None:
    half_done.kill()
    half_done.wait(SECONDS)
    command, said = [sys.executable, "-c", STARTER, RUN, str(tmp_path), pause, "--wait-for", "go"], tmp_path / "said"
    with said.open("wb") as stderr, subprocess.Popen(command, stderr=stderr) as second:
        try:
            wait_until(lambda: "still goes on: waiting for its end" in said.read_text())
            second.send_signal(signal.SIGTERM)
            assert second.wait(SECONDS) == 143
        finally:
            second.kill()
    assert is_alive(pid_of("b", tmp_path)), "it is not ours to end, and its end was not waited for"
    (tmp_path / "go").touch()
    wait_until(lambda: ["end", "b"] in begun_and_ended(tmp_path))


def test_a_run_that_fails_without_a_word_is_an_error(run: Callable[..., jobs.Run], tmp_path: Path) -> None:
    with pytest.raises(FedmpiError, match="must end with 0, got 1: it said nothing"):
        jobs.train_all([run("a", "--silent")])
    assert [line[0] for line in log(tmp_path)] == ["begin"]
