"""Speed, always as a ratio to a plain computation measured in the same run: machines are shared and noisy."""

import importlib.util
import json
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from fedmpi.core import DEFAULT_PRIME, WIDE_PRIMES, FieldArray, PrimeField
from fedmpi.core.sigmoid import sigmoid
from fedmpi.crypto.keys import create_key_file
from fedmpi.crypto.random import FieldRandom
from fedmpi.errors import FedmpiError
from fedmpi.experiments.jobs import train
from fedmpi.launcher import environment, mpirun_command

ROUNDS = 7
ITERATIONS = 50
ROWS, COLUMNS = 6000, 5000
MPYC_PRODUCTS = 16_384


def fastest(*functions: Callable[[], Any], rounds: int = ROUNDS) -> list[float]:
    """The shortest time of each function in seconds, over rounds in which they take turns."""
    seconds = [float("inf")] * len(functions)
    for _ in range(rounds):
        for i, function in enumerate(functions):
            start = time.perf_counter()
            function()
            seconds[i] = min(seconds[i], time.perf_counter() - start)
    return seconds


def kernels() -> dict[str, Any]:
    """Gradient and encoding kernels against numpy, and the rate of the random stream; one thread."""
    field = PrimeField()
    uniform = FieldRandom(field.p)
    X, w = uniform((3000, 5000)), uniform((5000, 1, 1))
    coefficients = uniform((2,))
    X_real, w_real = np.random.default_rng(0).random((3000, 5000)), np.random.default_rng(1).random(5000)
    matrix, blocks = uniform((50, 17)), uniform((17, 375, 5000))
    matrix_int, blocks_int = matrix.astype(np.int64), blocks.reshape(17, -1).astype(np.int64)
    with threadpool_limits(1):
        gradient, floating = fastest(
            lambda: field.gradient(X, w, coefficients), lambda: X_real.T @ (X_real @ w_real), rounds=30
        )
        encode, integers = fastest(
            lambda: field.matmul(matrix, blocks), lambda: matrix_int @ blocks_int % field.p, rounds=3
        )
        (drawn,) = fastest(lambda: uniform((10_000_000,)))
    return {
        "compiled": field.compiled,
        "gradient": {"speedup": floating / gradient, "seconds": gradient, "float64_seconds": floating},
        "encode": {"speedup": integers / encode, "seconds": encode, "int64_seconds": integers},
        "random": {"elements_per_second": 10_000_000 / drawn},
        **wide_field(),
    }


def wide_field(rows: int = 3000, columns: int = 5000, rounds: int = 20) -> dict[str, Any]:
    """A worker's work modulo two and three primes of 26 bits, against one of 25 bits and 2^31 - 1; one thread.

    `gradient`: with a polynomial. `products`: with X and Xᵀ, without one. `bytes`: of the coded data.
    """
    sets: dict[str, tuple[int, ...]] = {
        "25 bits": (DEFAULT_PRIME,),
        "2^31-1": (2**31 - 1,),
        "two": WIDE_PRIMES[:2],
        "three": WIDE_PRIMES,
    }
    held: dict[int, tuple[PrimeField, FieldArray, FieldArray, FieldArray, FieldArray]] = {}
    for p in {p for primes in sets.values() for p in primes}:
        uniform = FieldRandom(p)
        held[p] = PrimeField(p), uniform((rows, columns)), uniform((columns, 1)), uniform((rows, 1)), uniform((2,))

    def gradient(primes: tuple[int, ...]) -> None:
        for field, X, w, _, coefficients in map(held.__getitem__, primes):
            field.gradient(X, w[:, None], coefficients)

    def products(primes: tuple[int, ...]) -> None:
        for field, X, w, s, _ in map(held.__getitem__, primes):
            field.product(X, w)
            field.transposed_product(X, s)

    figures: dict[str, Any] = {}
    with threadpool_limits(1):
        for name, work in (("gradient", gradient), ("products", products)):
            one, large, two, three = fastest(*(partial(work, primes) for primes in sets.values()), rounds=rounds)
            ratios = {"two / 25 bits": two / one, "two / 2^31-1": two / large, "three / 25 bits": three / one}
            figures[f"{name}, several primes"] = {**ratios, "seconds": two}
    size = {name: sum(held[p][1].nbytes for p in primes) for name, primes in sets.items()}
    figures["bytes, several primes"] = {
        f"{many} / {one}": size[many] / size[one]
        for many, one in (("two", "25 bits"), ("two", "2^31-1"), ("three", "25 bits"))
    }
    return figures


def codedml(ranks: int = 51) -> dict[str, Any]:
    """50 iterations of the paper's on 6000 x 5000 synthetic data under mpirun, case 2, against float64 numpy."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command, _ = mpirun_command(
            ranks, [sys.executable, "-m", "fedmpi.codedml", *_task(), "--quiet", "--out", str(out)]
        )
        before = float64_seconds()
        start = time.perf_counter()
        with (
            environment() as variables,
            subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL) as process,
        ):
            memory = PeakMemory(process.pid)
            code = process.wait()
            memory.stop()
        wall = time.perf_counter() - start
        if code != 0:
            raise FedmpiError(f"the benchmark's run must end with 0, got {code}")
        after = float64_seconds()
        result = json.loads((out / "result.json").read_text())
    baseline, seconds = (before + after) / 2, result["seconds"]
    return {
        "ratio": seconds["total"] / baseline,
        "float64_seconds": baseline,
        "startup_seconds": seconds["startup"],
        "wall_seconds": wall,
        "peak_pss_gb": memory.peak_bytes / 1e9,
        "test_accuracy": result["metrics"]["test_accuracy"],
        "seconds": seconds,
        "params": {key: result["params"][key] for key in ("N", "K", "T", "R")},
    }


def _task() -> list[str]:
    """What is trained; with --paper every iteration is one gradient, as in the baseline, and none is left out."""
    options = ["--dataset", f"synthetic:m={ROWS},d={COLUMNS},density=0.13", "--case", "2", "--paper"]
    return [*options, "--iterations", str(ITERATIONS), "--no-compare"]


def encryption(ranks: int = 51, rounds: int = 3) -> dict[str, Any]:
    """`codedml` with encrypted links against plain ones, in runs that take turns: the fastest of each, and CPU time."""
    runs: dict[str, list[dict[str, Any]]] = {"plain": [], "encrypted": []}
    with tempfile.TemporaryDirectory() as folder:
        key = Path(folder) / "key"
        create_key_file(key)
        for i in range(rounds):
            for name, own in (("plain", []), ("encrypted", ["--cluster-key", str(key)])):
                runs[name].append(train(Path(folder) / f"{name}-{i}", ranks, [*_task(), *own]))
    seconds = {name: [run["seconds"]["total"] for run in results] for name, results in runs.items()}
    cpu = {name: min(map(_cpu_seconds, results)) for name, results in runs.items()}
    return {
        "ratio": min(seconds["encrypted"]) / min(seconds["plain"]),
        "cpu_ratio": cpu["encrypted"] / cpu["plain"],
        "seconds": seconds,
        "cpu_seconds": cpu,
        "params": {key: runs["plain"][0]["params"][key] for key in ("N", "K", "T", "R")},
    }


def _cpu_seconds(run: dict[str, Any]) -> float:
    """Of all ranks."""
    seconds: float = run["cpu_seconds"]["master"] + run["params"]["N"] * run["cpu_seconds"]["worker_mean"]
    return seconds


def mpc(protocol: str, parties: int, products: int) -> dict[str, Any]:
    """Products per second of a degree reduction; beside those of MPyC, where it is installed."""
    program = [sys.executable, "-m", "fedmpi.experiments.bench_mpc", protocol, str(products)]
    figures: dict[str, Any] = _last_json(mpirun_command(parties, program)[0])
    if importlib.util.find_spec("mpyc") is not None:
        # MPyC is slow enough to be timed on fewer products; without --no-prss its set-up grows with C(n, T).
        options = [f"-M{parties}", "--no-log", *(["--no-prss"] if parties > 7 else [])]
        few = str(min(products, MPYC_PRODUCTS))
        rate = _last_json([sys.executable, "-m", "fedmpi.experiments.bench_mpyc", few, *options])["products_per_second"]
        figures |= {"mpyc_products_per_second": rate, "speedup": figures["products_per_second"] / rate}
    return figures


def ppadmm(participants: int, rows: int, columns: int) -> dict[str, Any]:
    """Masks, and iterations of PPADMM against those of ADMM: their work alone, and under mpirun."""
    from fedmpi.experiments import ppadmm_work

    program = [sys.executable, "-m", "fedmpi.experiments.bench_ppadmm", str(rows), str(columns)]
    work = {f"{name}, work": ratios for name, ratios in ppadmm_work.iteration(participants, rows, columns).items()}
    return {"masks": ppadmm_work.masks(), **work, **_last_json(mpirun_command(participants + 2, program)[0])}


def _last_json(command: list[str]) -> dict[str, Any]:
    with environment() as variables:
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode != 0 or not lines:
        reason = (done.stderr.strip().splitlines() or ["it said nothing"])[0]
        raise FedmpiError(f"{shlex.join(command)} must end with 0, got {done.returncode}: {reason}")
    figures: dict[str, Any] = json.loads(lines[-1])
    return figures


def float64_seconds() -> float:
    """The same number of gradient steps in float64 numpy on one core."""
    X = np.random.default_rng(0).random((ROWS, COLUMNS))
    y = (X[:, 0] > 0.5).astype(np.float64)

    def train() -> None:
        w = np.zeros(COLUMNS)
        for _ in range(ITERATIONS):
            w -= 1e-4 * (X.T @ (sigmoid(X @ w) - y))

    with threadpool_limits(1):
        return fastest(train, rounds=2)[0]


class PeakMemory:
    """Samples the proportional set size (PSS: shared pages counted once) of a process and all its children.

    Parameters
    ----------
    pid : int
    """

    def __init__(self, pid: int):
        self.pid, self.peak_bytes = pid, 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the sampling."""
        self._end.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._end.wait(0.5):
            self.peak_bytes = max(self.peak_bytes, sum(map(_pss_bytes, _family(self.pid))))


def _family(pid: int) -> list[int]:
    """A process and its descendants. mpirun's ranks are its children."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        parents.setdefault(int(fields[1]), []).append(int(entry.name))
    family, new = [], [pid]
    while new:
        member = new.pop()
        family.append(member)
        new += parents.get(member, [])
    return family


def _pss_bytes(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0
