"""NISS as users start it: mpirun, the same model as on threads, a host that is killed, errors that are said once."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from protocol.niss_threads import SYNTHETIC, command_on_threads

from fedmpi.machines.launcher import environment, mpirun_command
from fedmpi.runs.model import read_arrays

Run = Callable[..., subprocess.CompletedProcess[str]]
HERE = Path(__file__).parent
OPTIONS = ["--dataset", SYNTHETIC, "--clients", 12, "--epochs", 1, "--rounds", 4, "--noise-std", 0.3, "--seed", 3]


def model(folder: Path) -> dict[str, np.ndarray]:
    return read_arrays(folder)


def test_mpirun_equals_threads_to_the_bit_and_the_tracker_loads_no_torch(mpirun: Run, tmp_path: Path) -> None:
    done = mpirun(5, HERE / "niss_mpi.py", "modules", tmp_path, *OPTIONS, "--out", tmp_path / "mpi", timeout=180)
    assert done.returncode == 0, done.stderr
    assert "written to" in done.stdout
    command_on_threads(2, *OPTIONS, "--method", "fedavg", "--out", tmp_path / "threads", "--quiet")
    one, two = model(tmp_path / "mpi"), model(tmp_path / "threads")
    assert one.keys() == two.keys()
    for key in one:
        np.testing.assert_array_equal(one[key], two[key])
    loaded = {rank: set(json.loads((tmp_path / f"modules-{rank}.json").read_text())) for rank in (1, 2)}
    assert not {"torch", "tyro", "sklearn", "scipy", "fedmpi.learn"} & loaded[1]
    assert "torch" in loaded[2]
    assert not {"tyro", "opacus"} & loaded[2]


def test_the_training_survives_a_host_that_is_killed(tmp_path: Path) -> None:
    program = [sys.executable, HERE / "niss_mpi.py", "killed", tmp_path, *OPTIONS, "--fraction", 1.0, "--quiet"]
    command, _ = mpirun_command(5, [*map(str, program), "--out", str(tmp_path / "run")], tolerate_failures=True)
    with environment() as variables:
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=180, check=False)
    summary = json.loads((tmp_path / "run" / "result.json").read_text())
    assert summary["metrics"]["rounds"] == 4, done.stderr
    lost = summary["failures"]
    assert {(entry["round"], entry["client"]) for entry in lost} == {(t, k) for t in (2, 3) for k in (1, 4, 7, 10)}
    assert "host (rank 3) died" in lost[0]["reason"]
    noise = [
        json.loads(line).get("noise_std") for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert noise[3] > 0 == noise[2] == noise[4]


def errors(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line.lstrip("\0") for line in (done.stdout + done.stderr).splitlines() if "fedmpi: error:" in line]


def test_a_broken_rule_ends_every_rank_with_2_and_one_line(mpirun: Run, tmp_path: Path) -> None:
    done = mpirun(4, "-m", "fedmpi.niss", *OPTIONS, "--clients", 500, "--out", tmp_path / "run", timeout=180)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    (said,) = errors(done)
    assert said.startswith("fedmpi: error: every client must have a row, got 240 rows for 500 clients")
    assert not (tmp_path / "run").exists()
