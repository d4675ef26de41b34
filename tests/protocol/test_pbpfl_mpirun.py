"""PBPFL under mpirun: its command line, and what it leaves behind."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from protocol.pbpfl_threads import DIGITS, Threads, failing_at, train

from fedmpi.machines.launcher import environment, mpirun_command
from fedmpi.runs.model import read_arrays

Run = Callable[..., subprocess.CompletedProcess[str]]

OPTIONS = ["-m", "fedmpi.pbpfl", "--dataset", "digits", "--max-rows", "200", "--clients", "5", "--rounds", "20"]


def test_a_run_and_what_it_leaves(mpirun: Run, tmp_path: Path) -> None:
    ran = mpirun(3, *OPTIONS, "--method", "pbpfl-masked", "--out", tmp_path / "run", "--record-views", timeout=300)
    assert ran.returncode == 0, ran.stderr
    assert "clients train perturbed weights; the server sees the sum of their gradients only" in ran.stdout
    assert "x the model to a client, 6.00 x from it" in ran.stdout
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert (result["system"], result["method"], result["ranks"]) == ("pbpfl", "pbpfl-masked", 3)
    assert result["roles"] == {"server": 1, "host": 2}
    assert result["params"]["clients"] == 5
    assert {"perturb", "update", "compute", "communicate", "total"} <= result["seconds"].keys()
    assert {"test_mse", "test_accuracy", "clients_mse", "communication"} <= result["metrics"].keys()
    assert sorted(path.name for path in (tmp_path / "run/views").iterdir()) == [f"rank-{r}.npz" for r in range(3)]
    clear = mpirun(2, *OPTIONS, "--method", "fedavg-mse", "--out", tmp_path / "clear", "--json", timeout=300)
    assert clear.returncode == 0, clear.stderr
    assert json.loads(clear.stdout)["metrics"]["rounds"] == 20
    one, two = read_arrays(tmp_path / "run"), read_arrays(tmp_path / "clear")
    assert [*one] == [*two]
    assert max(np.abs(one[name] - two[name]).max() for name in one) < 1e-4  # float32


@pytest.mark.slow
def test_training_goes_on_without_a_host_that_is_killed(tmp_path: Path) -> None:
    """With masks: the weights are those of federated averaging that loses the same clients."""
    options = ["--clients", "6", "--rounds", "5"]
    program = [sys.executable, Path(__file__).parent / "pbpfl_mpi.py", *DIGITS, *options]
    program += ["--method", "pbpfl-masked", "--quiet"]
    command, _ = mpirun_command(4, [*map(str, program), "--out", str(tmp_path / "run")], tolerate_failures=True)
    with environment() as variables:
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300, check=False)
    killed = Threads(tmp_path / "run")
    assert killed.result["metrics"]["rounds"] == 5, done.stderr
    lost = killed.result["failures"]
    assert {(entry["round"], entry["client"]) for entry in lost} == {(t, k) for t in (2, 3, 4) for k in (1, 4)}
    assert all("host (rank 2) died" in entry["reason"] for entry in lost)
    clear = train(tmp_path / "clear", "--method", "fedavg-mse", *options, hosts=3, roles={2: failing_at("Terms", 2)})
    assert np.abs(killed.w - clear.w).max() <= 1e-6
    whole = train(tmp_path / "whole", "--method", "fedavg-mse", *options, hosts=3)
    assert np.abs(killed.w - whole.w).max() > 1e-4


def test_an_error_is_one_line(mpirun: Run) -> None:
    ran = mpirun(2, *OPTIONS, "--model", "tests.no_such:Net", env=dict(os.environ))
    assert ran.returncode == 2
    assert ran.stderr.count("error: --model must be importable") == 1
    assert "Traceback" not in ran.stderr
