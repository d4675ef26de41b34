"""PPADMM as users start it: mpirun, the model of the threads, deaths and signals among real processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from protocol.ppadmm_threads import command_on_threads

from fedmpi.crypto.keys import create_key_file

Run = Callable[..., subprocess.CompletedProcess[str]]

OPTIONS = ["--dataset", "synthetic-lasso:n=400,d=20,noise=5,test=50", "--quiet"]
LONG = [*OPTIONS, "--iterations", "200", "--tolerance", "0", "--no-compare", "--timeout", "60", "--deadline", "30"]


def coefficients(folder: Path) -> np.ndarray:
    with np.load(folder / "model.npz", allow_pickle=False) as archive:
        return archive["coefficients"]


def close(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.abs(one - other).max() < 2.0**-30 * np.abs(other).max())


def start(ranks: int, *options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "fedmpi.cli", "run", "ppadmm", "-n", str(ranks), "--", *map(str, options)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_iterations(folder: Path, count: int) -> None:
    metrics, end = folder / "metrics.jsonl", time.monotonic() + 150
    while not (metrics.exists() and len(metrics.read_text().splitlines()) > count):
        assert time.monotonic() < end, "the run must make progress"
        time.sleep(0.02)


def process_of(rank: int, folder: Path) -> int:
    """The process number of a rank of the run in a folder."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        ours = b"fedmpi.ppadmm" in command and str(folder).encode() in command
        if ours and f"OMPI_COMM_WORLD_RANK={rank}".encode() in environment:
            return int(entry.name)
    raise AssertionError(f"rank {rank} must be there")


@pytest.mark.parametrize("links", ["in the clear", "encrypted"])
def test_mpirun_equals_threads(mpirun: Run, tmp_path: Path, links: str) -> None:
    key: list[Any] = []
    if links == "encrypted":
        create_key_file(tmp_path / "key")
        key = ["--cluster-key", tmp_path / "key"]
    done = mpirun(6, "-m", "fedmpi.ppadmm", *OPTIONS, *key, "--out", tmp_path / "mpi", "--record-views")
    assert done.returncode == 0, done.stderr
    assert "written to" in done.stdout
    command_on_threads(4, *OPTIONS, "--out", tmp_path / "threads")
    assert close(coefficients(tmp_path / "mpi"), coefficients(tmp_path / "threads"))
    summaries = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("mpi", "threads")]
    for key in ("params", "dataset", "ranks", "roles", "seed", "schema", "method"):
        assert summaries[0][key] == summaries[1][key], key
    views = {path.name: set(np.load(path)) for path in (tmp_path / "mpi" / "views").iterdir()}
    assert views.keys() == {f"rank-{rank}.npz" for rank in range(6)}
    assert any("MaskedUpdate-words" in key for key in views["rank-0.npz"])
    assert not any("Update" in key for key in views["rank-1.npz"])


@pytest.mark.parametrize(
    ("options", "text"),
    [(["--mask", "xor"], "xor"), (["--classes", "1"], "--classes must not be given for a regression, got 1")],
)
def test_a_usage_error_is_said_once(mpirun: Run, tmp_path: Path, options: list[str], text: str) -> None:
    done = mpirun(4, "-m", "fedmpi.ppadmm", *OPTIONS, *options, "--out", tmp_path / "run")
    assert done.returncode == 2
    assert done.stderr.count(text) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_killed_participant_is_left_out(tmp_path: Path) -> None:
    process = start(5, *LONG, "--out", tmp_path / "run")
    wait_for_iterations(tmp_path / "run", 5)
    os.kill(process_of(4, tmp_path / "run"), signal.SIGKILL)
    _, err = process.communicate(timeout=150)
    assert process.returncode == 0, err
    summary = json.loads((tmp_path / "run" / "result.json").read_text())
    assert [failure["rank"] for failure in summary["failures"]] == [4], "named once"
    told = summary["failures"][0]["reason"]
    assert told in ("died", "missed the deadline"), "S2 may leave it out before mpirun tells S1 of its death"
    assert summary["metrics"]["iterations"] == 200


@pytest.mark.slow
def test_a_signal_stops_the_run_and_it_goes_on_with_new_keys(tmp_path: Path) -> None:
    command_on_threads(2, *LONG, "--out", tmp_path / "whole")
    process = start(4, *LONG, "--out", tmp_path / "run")
    wait_for_iterations(tmp_path / "run", 5)
    os.kill(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=150)
    assert process.returncode == 143, err
    assert "stopped by SIGTERM; go on after iteration" in err
    resumed = start(4, "--resume", tmp_path / "run")
    _, err = resumed.communicate(timeout=150)
    assert resumed.returncode == 0, err
    assert close(coefficients(tmp_path / "run"), coefficients(tmp_path / "whole"))
    summary = json.loads((tmp_path / "run" / "result.json").read_text())
    assert summary["resumed_from"] >= 5
    iterations = [
        json.loads(line)["iteration"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert iterations == list(range(201))
