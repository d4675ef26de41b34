"""The benchmark's own honesty: what it times, what it counts as memory, and what it does when a run fails.

How fast the machine is stands in README, not here.
"""

import inspect
import json
import os
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmpi.bench import codedml, copml, encryption, kernels, memory, mpc, secure_sum, spn, survival
from fedmpi.bench.timing import fastest
from fedmpi.cli import main
from fedmpi.codedml.faults import parse_faults
from fedmpi.errors import FedmpiError
from fedmpi.runs import batch as jobs


def test_functions_take_turns_and_the_shortest_time_of_each_counts() -> None:
    now, calls = 0.0, []
    durations = {"a": iter([5.0, 2.0, 9.0]), "b": iter([1.0, 4.0, 0.5])}

    def measured(name: str) -> None:
        nonlocal now
        calls.append(name)
        now += next(durations[name])

    times = fastest(lambda: measured("a"), lambda: measured("b"), rounds=3, clock=lambda: now)
    assert times == [2.0, 0.5]
    assert calls == list("ababab")


def test_the_wide_field_is_beside_a_narrow_one() -> None:
    figures = kernels.wide_field(40, 30, rounds=1)
    assert figures["bytes, several primes"] == {"two / 25 bits": 2.0, "two / 2^31-1": 2.0, "three / 25 bits": 3.0}
    for name in ("gradient", "products"):
        row = figures[f"{name}, several primes"]
        assert row.keys() == {"two / 25 bits", "two / 2^31-1", "three / 25 bits", "seconds"}
        assert all(value > 0 for value in row.values())


def test_each_method_of_spn_is_beside_torch() -> None:
    figures = spn.measure("dlnet", 8, 2, 1)
    assert list(figures) == ["fedavg", "dp", "ppdl", "spn"]
    assert all(row["ratio"] == row["milliseconds"] / row["torch_milliseconds"] for row in figures.values())


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codedml, "ROWS", 200)
    monkeypatch.setattr(codedml, "COLUMNS", 20)
    monkeypatch.setattr(codedml, "ITERATIONS", 3)


@pytest.mark.usefixtures("small")
def test_codedml_reports_all_figures_of_one_real_run() -> None:
    figures = codedml.measure(5)
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

    monkeypatch.setattr(encryption, "train", train)
    figures = encryption.measure(5, rounds=2)
    assert [encrypted for encrypted, _ in runs] == [False, True, False, True]
    seconds = [total for _, total in runs]
    assert figures["ratio"] == min(seconds[1::2]) / min(seconds[::2])
    assert figures["cpu_ratio"] == figures["cpu_seconds"]["encrypted"] / figures["cpu_seconds"]["plain"]
    assert figures["params"]["N"] == 4


@pytest.mark.usefixtures("small")
def test_a_run_that_fails_is_an_error_with_its_exit_code(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FedmpiError, match="must end with 0, got 2"):
        codedml.measure(3)
    assert "got N=2" in capfd.readouterr().err  # what the run said itself


def test_a_run_that_fails_ends_the_command_with_4(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(codedml, "mpirun_command", lambda ranks, program: ([sys.executable, "-c", "exit(9)"], []))
    monkeypatch.setattr(codedml, "float64_seconds", lambda: 1.0)
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

    monkeypatch.setattr(codedml, "sigmoid", sigmoid)
    codedml.float64_seconds()
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
        used = memory.PeakMemory(process.pid)
        end = time.monotonic() + 30
        while used.peak_bytes < HELD_BYTES and time.monotonic() < end:
            time.sleep(0.05)
        used.stop()
        process.communicate("\n")
    assert HELD_BYTES <= used.peak_bytes < 2 * HELD_BYTES


def test_the_peak_stays_when_memory_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = iter([3, 10, 4])
    last = []

    def pss(pid: int) -> int:
        size = next(sizes, 0)
        last.append(size)
        return size

    monkeypatch.setattr(memory, "_family", lambda pid: [pid])
    monkeypatch.setattr(memory, "_pss_bytes", pss)
    used = memory.PeakMemory(1)
    end = time.monotonic() + 30
    while last[-1:] != [0] and time.monotonic() < end:
        time.sleep(0.05)
    used.stop()
    assert (used.peak_bytes, last[:3]) == (10, [3, 10, 4])


def test_a_process_that_has_ended_has_no_memory() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert memory._pss_bytes(process.pid) == 0
    assert memory._pss_bytes(os.getpid()) > 10_000_000


OURS = {"total_cpu_seconds": 2.0, "training_cpu_seconds": 1.0, "total_seconds": 4.0, "training_seconds": 3.0}


def test_copml_is_held_against_peers_that_do_the_same_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """SPU gets the rows that the owners have, and MPyC is compared by products of an iteration."""
    asked, rows = [], []

    def last_json(command: list[str]) -> dict[str, float]:
        asked.append(command[-4:])
        if "fedmpi.bench.peers.mpyc_logistic" in command:
            return {"seconds": 50.0, "cpu_seconds": 1.0 * len(asked), "products": 10.0}
        if command[-2].endswith("rows.npz"):
            with np.load(command[-2]) as file:
                rows.append({name: file[name].shape for name in file.files})
            return {"seconds": 40.0, "cpu_seconds": 10.0, "test_accuracy": 0.9}
        slower = 3 if "bgw" in command else 1
        return {name: value * slower for name, value in OURS.items()} | {"products": 100, "test_accuracy": 0.9}

    monkeypatch.setattr(copml, "last_json", last_json)
    monkeypatch.setattr(copml, "has", lambda python, package: package == "spu")
    figures = copml.measure(4, "digits", iterations=7, rounds=2)
    assert asked[:3] == [["digits", method, encoding, "7"] for method, encoding in copml.METHODS.values()]
    assert asked[3][-1] == "7"
    assert len(asked) == 10
    assert rows[0].keys() == {"X", "y", "X_test", "y_test"}
    assert rows[0]["X"] == (*rows[0]["y"], 65)
    joint = figures["joint"]
    assert (joint["bgw_over_training_cpu"], joint["bgw_over_total"]) == (3, 3)
    assert (joint["spu_over_total_cpu"], joint["spu_over_total"]) == (5, 10)
    assert joint["mpyc_over_product"] == pytest.approx(5 / 10 / (1 / 100)), "the least of two turns"


@pytest.mark.parametrize("protocol", ["bgw", "bh08"])
def test_mpc_reports_real_products_beside_mpyc(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mpc, "MPYC_PRODUCTS", 100)
    figures = mpc.measure(protocol, 3, 1000)
    expected = {"products_per_second", "bytes_per_product", "mpyc_products_per_second", "speedup"}
    assert set(figures) == (expected | {"offline_products_per_second"} if protocol == "bh08" else expected)
    assert all(value > 0 for value in figures.values())
    # 2 · 4 bytes for each of two others, or 4 · 2/3 to kings and as many as a king; and headers
    payload = 8 if protocol == "bgw" else 16 / 3
    assert payload < figures["bytes_per_product"] < payload + 0.3


def test_mpc_says_why_it_failed() -> None:
    with pytest.raises(FedmpiError, match=r"ranks\.mpc none 10 must print JSON and end with 0, got \d+: .*"):
        mpc.measure("none", 3, 10)


@pytest.mark.parametrize("argv", [["--parties", "2"], ["--products", "0"]])
def test_mpc_refuses_too_few(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "mpc", *argv]) == 2
    assert f"{argv[0]} must be at least" in capsys.readouterr().err


def test_four_different_workers_are_killed_each_time() -> None:
    kills = [parse_faults(survival.deaths(seed, 40)) for seed in range(20)]
    assert all(len({fault.rank for fault in faults}) == 4 for faults in kills)
    assert all(fault.kind == "kill" and 0 <= fault.first < 40 for faults in kills for fault in faults)
    assert survival.deaths(3, 40) == survival.deaths(3, 40) != survival.deaths(4, 40)


@pytest.mark.parametrize(
    ("name", "passed"),
    [
        (
            "attacks",
            {
                "dataset": "cifar10",
                "cases": 6,
                "data_dir": None,
                "reference": None,
                "images": 4,
                "iterations": 4800,
            },
        ),
        ("codedml", {"ranks": 51}),
        ("copml", {"ranks": 11, "dataset": "mnist", "iterations": 25, "rounds": 3, "spu_python": None}),
        ("encryption", {"ranks": 51, "rounds": 3}),
        ("kernels", {}),
        ("mpc", {"protocol": "bgw", "parties": 7, "products": 262_144}),
        ("niss", {"ranks": 4, "rounds": 5, "model": "mlp", "flower_python": None, "pfl_python": None}),
        ("pbpfl", {"model": "resnet20", "side": 28, "batch_size": 32, "repeats": 5}),
        ("spn", {"model": "vgg16", "side": 32, "batch_size": 32, "repeats": 5}),
        ("ppadmm", {"participants": 10, "rows": 500, "columns": 5000}),
        ("precision", {"sets": (), "data_dir": None, "seed": 0}),
        ("survival", {"seeds": 3, "iterations": 40, "dataset": "synthetic:m=4000,d=1000,density=0.2"}),
    ],
)
def test_the_options_of_a_comparison_are_its_arguments(
    name: str, passed: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = import_module(f"fedmpi.bench.{name}")
    signature = inspect.signature(module.measure)
    monkeypatch.setattr(module, "measure", lambda **options: signature.bind(**options).arguments)
    assert main(["bench", name, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(passed))


@pytest.mark.slow
def test_survival_reports_all_figures_of_real_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survival, "WORKERS", 8)
    options = ("--paper", "-K", "1", "-T", "1", "--no-compare", "--quiet")  # R = 4
    monkeypatch.setattr(survival, "OPTIONS", options)
    monkeypatch.setattr(survival, "ROUNDS", 1)
    figures = survival.measure(1, 5, "synthetic:m=40,d=5,density=0.5")
    assert set(figures) == {"undisturbed", "death", "straggler", "byzantine 1", "byzantine 2"}
    assert (figures["death"]["runs"], figures["death"]["same_bits"]) == (1, True)
    assert figures["straggler"]["ratio"] > 0
    assert all(figures[f"byzantine {liars}"]["ratio"] > 1 for liars in (1, 2))


def test_a_run_that_faults_have_ended_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survival, "WORKERS", 4)
    with pytest.raises(FedmpiError, match="must end with 0, got 2"):
        survival.train(["--iterations", "2"])


def test_secure_sums_are_exact_and_cost_the_server_what_the_papers_count() -> None:
    """10 clients, 3 lost: 7 masks and 21 pairs; or 2 pieces of 7 sums modulo each of two primes."""
    figures = secure_sum.measure(clients=10, values=400)
    double, light = figures["double"], figures["lightsecagg"]
    assert double["error of the sum"] == light["error of the sum"] == 0
    words = "server M words, to unmask, as the papers count"
    assert double[words] == pytest.approx((7 + 7 * 3) * 400 / 1e6)
    assert light[words] == pytest.approx(2 * 7 * 400 / 1e6)
    assert light["client MB, for the others"] > 10 * double["client MB, for the others"]
    assert figures["lightsecagg / double"][words] == 0.5
