"""The benchmark's own honesty: what it times, what it counts as memory, and what it does when a run fails.

How fast the machine is stands in README, not here.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fedmpi.cli import main
from fedmpi.codedml.faults import parse_faults
from fedmpi.errors import FedmpiError
from fedmpi.experiments import bench, bench_survival, jobs


class Clock:
    """Time passes only where a function says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


def test_functions_take_turns_and_the_shortest_time_of_each_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = Clock(), []
    monkeypatch.setattr(bench, "time", clock)
    durations = {"a": iter([5.0, 2.0, 9.0]), "b": iter([1.0, 4.0, 0.5])}

    def measured(name: str) -> None:
        calls.append(name)
        clock.now += next(durations[name])

    assert bench.fastest(lambda: measured("a"), lambda: measured("b"), rounds=3) == [2.0, 0.5]
    assert calls == list("ababab")


def test_the_wide_field_is_beside_a_narrow_one() -> None:
    figures = bench.wide_field(40, 30, rounds=1)
    assert figures["bytes, several primes"] == {"two / 25 bits": 2.0, "two / 2^31-1": 2.0, "three / 25 bits": 3.0}
    for name in ("gradient", "products"):
        row = figures[f"{name}, several primes"]
        assert row.keys() == {"two / 25 bits", "two / 2^31-1", "three / 25 bits", "seconds"}
        assert all(value > 0 for value in row.values())


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "ROWS", 200)
    monkeypatch.setattr(bench, "COLUMNS", 20)
    monkeypatch.setattr(bench, "ITERATIONS", 3)


@pytest.mark.usefixtures("small")
def test_codedml_reports_all_figures_of_one_real_run() -> None:
    figures = bench.codedml(5)
    assert set(figures) >= {
        "ratio",
        "float64_seconds",
        "startup_seconds",
        "wall_seconds",
        "peak_pss_gb",
        "test_accuracy",
        "seconds",
        "params",
    }
    assert figures["params"] == {"N": 4, "K": 1, "T": 1, "R": 4}
    assert figures["ratio"] == figures["seconds"]["total"] / figures["float64_seconds"]
    assert figures["float64_seconds"] > 0
    assert figures["peak_pss_gb"] > 0.02  # five Pythons with numpy, whatever they share
    assert 0 <= figures["test_accuracy"] <= 1
    assert figures["seconds"]["total"] < figures["wall_seconds"]
    assert 0 < figures["startup_seconds"] < figures["wall_seconds"]


@pytest.mark.usefixtures("small")
def test_encryption_compares_real_runs_that_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []

    def train(folder: Path, ranks: int, options: list[str]) -> Any:
        result = jobs.train(folder, ranks, options)
        runs.append((result["environment"]["mpi"].endswith(", encrypted"), result["seconds"]["total"]))
        return result

    monkeypatch.setattr(bench, "train", train)
    figures = bench.encryption(5, rounds=2)
    assert [encrypted for encrypted, _ in runs] == [False, True, False, True]
    seconds = [total for _, total in runs]
    assert figures["ratio"] == min(seconds[1::2]) / min(seconds[::2])
    assert figures["cpu_ratio"] == figures["cpu_seconds"]["encrypted"] / figures["cpu_seconds"]["plain"]
    assert figures["params"]["N"] == 4


@pytest.mark.usefixtures("small")
def test_a_run_that_fails_is_an_error_with_its_exit_code(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FedmpiError, match="must end with 0, got 2"):
        bench.codedml(3)
    assert "got N=2" in capfd.readouterr().err  # what the run said itself


def test_a_run_that_fails_ends_the_command_with_4(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "mpirun_command", lambda ranks, program: ([sys.executable, "-c", "exit(9)"], []))
    monkeypatch.setattr(bench, "float64_seconds", lambda: 1.0)
    assert main(["bench", "codedml", "--json"]) == 4
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["fedmpi: error: the benchmark's run must end with 0, got 9"]


@pytest.mark.usefixtures("small")
def test_the_baseline_makes_as_many_steps_as_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = 0

    def sigmoid(z: object) -> float:
        nonlocal steps
        steps += 1
        assert z.shape == (200,)  # type: ignore[attr-defined]
        return 0.5

    monkeypatch.setattr(bench, "sigmoid", sigmoid)
    bench.float64_seconds()
    assert steps in (3, 6)  # of one round or of two


HELD_BYTES = 100_000_000


def test_memory_is_that_of_all_descendants() -> None:
    """Of a job mpirun itself is small: its ranks are what counts."""
    holder = f"held = b'x' * {HELD_BYTES}; print('held', flush=True); input()"
    process = subprocess.Popen(
        ["/bin/sh", "-c", '"$0" -c "$1"; exit', sys.executable, holder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        memory = bench.PeakMemory(process.pid)
        end = time.monotonic() + 30
        while memory.peak_bytes < HELD_BYTES and time.monotonic() < end:
            time.sleep(0.05)
        memory.stop()
        process.communicate("\n")
    assert HELD_BYTES <= memory.peak_bytes < 2 * HELD_BYTES


def test_the_peak_stays_when_memory_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = iter([3, 10, 4])
    last = []

    def pss(pid: int) -> int:
        size = next(sizes, 0)
        last.append(size)
        return size

    monkeypatch.setattr(bench, "_family", lambda pid: [pid])
    monkeypatch.setattr(bench, "_pss_bytes", pss)
    memory = bench.PeakMemory(1)
    end = time.monotonic() + 30
    while last[-1:] != [0] and time.monotonic() < end:
        time.sleep(0.05)
    memory.stop()
    assert (memory.peak_bytes, last[:3]) == (10, [3, 10, 4])


def test_a_process_that_has_ended_has_no_memory() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert bench._pss_bytes(process.pid) == 0
    assert bench._pss_bytes(os.getpid()) > 10_000_000


@pytest.mark.parametrize("protocol", ["bgw", "bh08"])
def test_mpc_reports_real_products_beside_mpyc(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "MPYC_PRODUCTS", 100)
    figures = bench.mpc(protocol, 3, 1000)
    expected = {"products_per_second", "bytes_per_product", "mpyc_products_per_second", "speedup"}
    assert set(figures) == (expected | {"offline_products_per_second"} if protocol == "bh08" else expected)
    assert all(value > 0 for value in figures.values())
    # 2 · 4 bytes for each of two others, or 4 · 2/3 to kings and as many as a king; and headers
    payload = 8 if protocol == "bgw" else 16 / 3
    assert payload < figures["bytes_per_product"] < payload + 0.3


def test_mpc_says_why_it_failed() -> None:
    with pytest.raises(FedmpiError, match=r"bench_mpc none 10 must end with 0, got \d+: .*"):
        bench.mpc("none", 3, 10)


@pytest.mark.parametrize("argv", [["--parties", "2"], ["--products", "0"]])
def test_mpc_refuses_too_few(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "mpc", *argv]) == 2
    assert f"{argv[0]} must be at least" in capsys.readouterr().err


def test_four_different_workers_are_killed_each_time() -> None:
    kills = [parse_faults(bench_survival.deaths(seed, 40)) for seed in range(20)]
    assert all(len({fault.rank for fault in faults}) == 4 for faults in kills)
    assert all(fault.kind == "kill" and 0 <= fault.first < 40 for faults in kills for fault in faults)
    assert bench_survival.deaths(3, 40) == bench_survival.deaths(3, 40) != bench_survival.deaths(4, 40)


@pytest.mark.slow
def test_survival_reports_all_figures_of_real_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_survival, "WORKERS", 8)
    options = ("--paper", "-K", "1", "-T", "1", "--no-compare", "--quiet")  # R = 4
    monkeypatch.setattr(bench_survival, "OPTIONS", options)
    monkeypatch.setattr(bench_survival, "ROUNDS", 1)
    figures = bench_survival.survival(1, 5, "synthetic:m=40,d=5,density=0.5")
    assert set(figures) == {"undisturbed", "death", "straggler", "byzantine 1", "byzantine 2"}
    assert (figures["death"]["runs"], figures["death"]["same_bits"]) == (1, True)
    assert figures["straggler"]["ratio"] > 0
    assert all(figures[f"byzantine {liars}"]["ratio"] > 1 for liars in (1, 2))


def test_a_run_that_faults_have_ended_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_survival, "WORKERS", 4)
    with pytest.raises(FedmpiError, match="must end with 0, got 2"):
        bench_survival.train(["--iterations", "2"])
