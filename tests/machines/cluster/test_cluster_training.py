"""Trainings on several hosts, started by real ssh, and what becomes of them when hosts fail."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from protocol.codedml_threads import command_on_threads

pytestmark = pytest.mark.slow

SECONDS = 120.0
OPTIONS = ["-K", "1", "-T", "1", "--paper", "--iterations", "100", "--no-compare", "--timeout", "20"]  # R = 4 of N = 8
ALL_BUT_ONE = ["-K", "2", *OPTIONS[2:]]  # R = 7
SLOW = ",".join(f"slow={rank}:0.05s" for rank in range(1, 9))
THIRD_HOST = {6, 7, 8}

Weights = dict[str, np.ndarray]


def weights(folder: Path) -> Weights:
    with np.load(folder / "model.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    """Of the same training on threads; K, T and N change no bit."""
    folder = tmp_path_factory.mktemp("local") / "run"
    command_on_threads(8, *OPTIONS, "--quiet", "--out", folder)
    return weights(folder)


def assert_same(folder: Path, expected: Weights) -> None:
    got = weights(folder)
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name])


def train(cluster: Any, *options: Any, encrypt: bool = False) -> "subprocess.Popen[str]":
    """A master and eight workers, three ranks on each host."""
    command = [sys.executable, "-m", "fedmpi.cli", "run", "codedml", "-n", "9", "--hostfile", "{hostfile}"]
    command += ["--encrypt", "--"] if encrypt else ["--"]
    return cluster.start([*command, *map(str, options)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def errors(said: str) -> list[str]:
    """What fedmpi says; before it may stand, on the same line, the end of what mpirun says."""
    return [error for line in said.splitlines() for error in line.partition("fedmpi: error: ")[2:] if error]


def wait_for_iteration(folder: Path, iteration: int) -> None:
    metrics, end = folder / "metrics.jsonl", time.monotonic() + SECONDS
    while not metrics.exists() or len(metrics.read_text().splitlines()) <= iteration:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_three_hosts_train_to_the_bits_of_one(
    virtual_cluster: Callable[..., Any], tmp_path: Path, local: Weights
) -> None:
    with virtual_cluster(slots=3, rate="100mbit") as cluster:
        process = train(cluster, *ALL_BUT_ONE, "--out", tmp_path / "run")
        _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, err
    assert_same(tmp_path / "run", local)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["environment"]["hosts"] == ["host1", "host2", "host3"]
    assert result["failures"] == []


@pytest.mark.parametrize("encrypt", [False, True])
def test_a_worker_killed_on_another_host_changes_no_bit(
    virtual_cluster: Callable[..., Any], tmp_path: Path, local: Weights, encrypt: bool
) -> None:
    with virtual_cluster(slots=3) as cluster:
        options = [*ALL_BUT_ONE, "--out", tmp_path / "run", "--inject", "kill=8@10"]
        process = train(cluster, *options, encrypt=encrypt)
        _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, err
    assert_same(tmp_path / "run", local)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert [(failure["rank"], failure["reason"]) for failure in result["failures"]] == [(8, "died")]
    assert result["environment"]["mpi"].endswith("encrypted") == encrypt


def test_a_host_that_is_cut_off_is_done_without(
    virtual_cluster: Callable[..., Any], tmp_path: Path, local: Weights
) -> None:
    with virtual_cluster(slots=3) as cluster:
        process = train(cluster, *OPTIONS, "--out", tmp_path / "run", "--inject", SLOW)
        wait_for_iteration(tmp_path / "run", 20)
        cluster.cut("host3")
        _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, err
    assert_same(tmp_path / "run", local)
    failures = json.loads((tmp_path / "run" / "result.json").read_text())["failures"]
    assert {failure["rank"] for failure in failures} == THIRD_HOST


@pytest.mark.parametrize(
    ("fault", "code", "reason"),
    [
        ("cut", 3, "CodedGradient must come from 7 of 8 ranks, got 5"),
        ("plug", 4, "mpirun must last as long as the job"),
    ],
)
def test_a_lost_host_that_is_needed_ends_the_job_with_one_line_and_a_checkpoint(
    virtual_cluster: Callable[..., Any], tmp_path: Path, local: Weights, fault: str, code: int, reason: str
) -> None:
    """Its cable is unplugged, or all its processes end at once."""
    with virtual_cluster(slots=3) as cluster:
        options = [*ALL_BUT_ONE, "--timeout", "10"]
        process = train(cluster, *options, "--out", tmp_path / "run", "--inject", SLOW)
        wait_for_iteration(tmp_path / "run", 20)
        cluster.cut("host3") if fault == "cut" else cluster.unplug("host3")
        _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == code, err
    assert len(errors(err)) == 1, err
    assert reason in errors(err)[0]
    command_on_threads(8, "--resume", tmp_path / "run")
    assert_same(tmp_path / "run", local)


def test_a_host_that_cannot_be_reached_is_named_in_one_line(
    virtual_cluster: Callable[..., Any], tmp_path: Path
) -> None:
    with virtual_cluster(hosts=2, slots=3) as cluster:
        with cluster.hostfile.open("a") as hostfile:
            hostfile.write("# below: nobody\n10.0.0.77 slots=3\n")
        process = train(cluster, *OPTIONS, "--out", tmp_path / "run")
        _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 4, err
    assert len(errors(err)) == 1, err
    assert errors(err)[0].startswith(f"every host of {cluster.hostfile} must be reached by ssh, got")
    assert "10.0.0.77: ssh: connect to host 10.0.0.77" in errors(err)[0]
    assert not (tmp_path / "run").exists()


def test_a_signal_reaches_a_master_on_another_host(virtual_cluster: Callable[..., Any], tmp_path: Path) -> None:
    """The launcher's temporary folder is its host's own: the number of the master's process is unknown, and no use."""
    command = ["env", "TMPDIR=/dev/shm", sys.executable, "-m", "fedmpi.cli", "run", "codedml", "-n", "6"]
    command += ["--hostfile", "{hostfile}", "--place", "master=host2", "--", *OPTIONS, "--iterations", "100000"]
    command += ["--quiet", "--out", str(tmp_path / "run")]
    with virtual_cluster(hosts=2, slots=3) as cluster:
        process = cluster.start(["sh", "-c", '"$@" & echo $!; wait $!', "sh", *command], stdout=-1, stderr=-1)
        launcher = process.stdout.readline().strip()
        wait_for_iteration(tmp_path / "run", 3)
        cluster.start(["kill", "-TERM", launcher]).wait()
        _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 143, err
    assert "fedmpi: stopped by SIGUSR1; go on after iteration" in err
    assert not errors(err)
