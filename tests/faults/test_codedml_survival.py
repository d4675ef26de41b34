"""Workers that lie, die or lag, and runs that are stopped: the weights stay the same to the bit."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from protocol.codedml_threads import by_integers, command_on_threads, prepared, problem, train_on_threads

from fedmpi.codedml.faults import Fault, faults_of, parse_faults
from fedmpi.codedml.params import Params
from fedmpi.codedml.protocol import CodedGradient, CodedProduct
from fedmpi.codedml.service import serve
from fedmpi.errors import DecodingError, UsageError
from fedmpi.net import Channel

# -- liars --------------------------------------------------------------------------------------------------------

RNG = np.random.default_rng(5)
Lie = Callable[[int, int, np.ndarray, Params], np.ndarray]
ANSWERS = {CodedGradient: "gradient", CodedProduct: "product"}

# The paper's exchange and the two of the sigmoid itself, modulo one prime and several.
KINDS: dict[str, Params] = {
    "paper": Params(paper=True, parallelization=5, privacy=1, iterations=8, byzantine=2),
    "two exchanges": Params(parallelization=7, privacy=1, iterations=8, byzantine=2, data_bits=3, tolerance=0.0),
    "two primes": Params(
        parallelization=7, privacy=1, iterations=8, byzantine=2, data_bits=3, primes=2, solver="cg", tolerance=0.0
    ),
    "degree 1, three primes": Params(
        parallelization=5, privacy=1, iterations=8, byzantine=2, data_bits=3, primes=3, degree=1, tolerance=0.0
    ),
}


def enough(params: Params) -> int:
    """R + 2A workers: every lie brings all answers in."""
    return params.power * (params.parallelization + params.privacy - 1) + 1 + 2 * 2


@cache  # a liar that computed them anew would be later than all others, and its lies would not be looked at
def primes_of(params: Params) -> tuple[int, ...]:
    return prepared(params, *problem(40, 6)).precision.primes


def colluding(rank: int, iteration: int, answer: np.ndarray, params: Params) -> np.ndarray:
    """The right answer plus one polynomial of degree R - 1 that all liars share."""
    code = params.code(enough(params))
    point = code.alphas[rank - 1]
    shifts = [sum((k + 1) * pow(point, k, p) for k in range(code.recovery_threshold)) % p for p in primes_of(params)]
    return added(answer, shifts, params)


def added(answer: np.ndarray, shifts: list[int], params: Params) -> np.ndarray:
    """An answer to whose residues modulo each prime something is added."""
    wrong = answer.astype(np.int64)
    for j, (p, shift) in enumerate(zip(primes_of(params), shifts, strict=True)):
        wrong[j] = (wrong[j] + shift) % p
    return wrong.astype(np.uint32)


def in_one_prime(rank: int, iteration: int, answer: np.ndarray, params: Params) -> np.ndarray:
    """Right modulo all primes but the last."""
    q = len(answer)
    return added(answer, [0] * (q - 1) + [1 + iteration], params)


def each_in_another_prime(rank: int, iteration: int, answer: np.ndarray, params: Params) -> np.ndarray:
    shifts = [0] * len(answer)
    shifts[rank % len(answer)] = 5
    return added(answer, shifts, params)


def targeted(rank: int, iteration: int, answer: np.ndarray, params: Params) -> np.ndarray:
    """One entry of all."""
    wrong = answer.copy()
    wrong[0, :1] = (wrong[0, :1] + 1) % np.uint32(primes_of(params)[0])
    return wrong


LIES: dict[str, Lie] = {
    "random": lambda rank, it, answer, params: RNG.integers(0, min(primes_of(params)), answer.shape, np.uint32),
    "constant": lambda rank, it, answer, params: np.full_like(answer, 7),
    "targeted": targeted,
    "colluding": colluding,
    "in one prime": in_one_prime,
    "each in another prime": each_in_another_prime,
}


def liar(lie: Lie, first: int, params: Params) -> Callable[[Channel], None]:
    """A worker that lies from an exchange on."""

    def role(ch: Channel) -> None:
        send = ch.send

        def lying(dest: int, message: Any) -> None:
            if type(message) in ANSWERS and message.iteration >= first:
                right = getattr(message, ANSWERS[type(message)])
                message = type(message)(
                    message.training, message.iteration, lie(ch.rank, message.iteration, right, params)
                )
            send(dest, message)

        ch.send = lying  # type: ignore[method-assign]
        serve(ch)

    return role


def late_at(exchange: int) -> Callable[[Channel], None]:
    """An honest worker that is late once, so that others are among the first R + A then."""

    def role(ch: Channel) -> None:
        send = ch.send

        def slow(dest: int, message: Any) -> None:
            if type(message) in ANSWERS and message.iteration == exchange:
                time.sleep(0.1)
            send(dest, message)

        ch.send = slow  # type: ignore[method-assign]
        serve(ch)

    return role


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LIES)
def test_two_liars_of_many_are_named_and_change_no_bit(name: str, kind: str) -> None:
    params = KINDS[kind]
    X_bar, Y = problem(40, 6)
    expected = by_integers(params, prepared(params, X_bar, Y))[-1].W
    roles = {rank: liar(LIES[name], 3, params) for rank in (4, 11)} | {rank: late_at(3) for rank in (1, 2)}
    threads = train_on_threads(params, X_bar, Y, enough(params), roles=roles)
    np.testing.assert_array_equal(threads.W, expected)
    assert not threads.training.departures.keys() - {4, 11}, "nobody honest is blamed"
    departed = threads.channels[0].departed
    assert all("lied in iteration" in departed[rank].reason for rank in departed)
    # Whoever was never among the first R + A answers did no harm; with N = R + 2A one lie brings all answers in.
    assert threads.training.departures.keys() == {4, 11}
    first = 3 if params.degree else 1  # exchange 3 is that of the second iteration's residuals
    assert min(threads.training.departures.values()) >= first
    assert max(threads.training.departures.values()) < 8, "iterations are counted, not exchanges"


@pytest.mark.parametrize("kind", KINDS)
def test_a_residue_beyond_its_prime_is_a_lie_that_is_seen_at_once(kind: str) -> None:
    params = KINDS[kind]
    X_bar, Y = problem(40, 6)
    primes = primes_of(params)

    def beyond(rank: int, iteration: int, answer: np.ndarray, params: Params) -> np.ndarray:
        wrong = answer.copy()
        wrong[-1, 0, 0] = primes[-1]
        return wrong

    threads = train_on_threads(params, X_bar, Y, enough(params), roles={4: liar(beyond, 3, params)})
    np.testing.assert_array_equal(threads.W, by_integers(params, prepared(params, X_bar, Y))[-1].W)
    assert "field elements that must be below" in threads.channels[0].departed[4].reason


@pytest.mark.parametrize("kind", KINDS)
def test_without_byzantine_a_lie_changes_the_weights(kind: str) -> None:
    """The control: the liars of the other tests do lie."""
    params = replace(KINDS[kind], byzantine=0)
    X_bar, Y = problem(40, 6)
    R = enough(params) - 4
    assert params.code(R).recovery_threshold == R
    honest = train_on_threads(params, X_bar, Y, R)
    for lie in ("targeted", "in one prime"):
        try:
            lied = train_on_threads(params, X_bar, Y, R, roles={4: liar(LIES[lie], 3, params)})
        except UsageError:  # or the weights it leads to are beyond all bounds
            continue
        assert (lied.W != honest.W).any()


@pytest.mark.parametrize("kind", KINDS)
def test_more_liars_than_agreed_end_the_training(kind: str) -> None:
    params = KINDS[kind]
    roles = {rank: liar(LIES["random"], 3, params) for rank in (4, 11, 17)}
    with pytest.raises(DecodingError, match=f"at most 2 of {enough(params)} arrays must be wrong"):
        train_on_threads(params, *problem(40, 6), enough(params), roles=roles)


def test_too_few_workers_for_so_many_liars_are_refused() -> None:
    with pytest.raises(UsageError, match=re.escape("must be at least R + 2A (A=3) = 22, got N=20")):
        Params(paper=True, parallelization=5, privacy=1, byzantine=3).code(20)
    with pytest.raises(UsageError, match=re.escape("must be at least R + 2A (A=3) = 21, got N=20")):
        Params(parallelization=7, privacy=1, byzantine=3).code(20)


def test_spares_leave_workers_that_may_die() -> None:
    code = Params(spares=4, byzantine=2).code(50)
    assert code.recovery_threshold + 4 + 2 * 2 <= 50
    assert Params().code(50).recovery_threshold == 49
    assert Params(paper=True).code(50).recovery_threshold == 49


# -- faults -------------------------------------------------------------------------------------------------------


def test_faults_are_read() -> None:
    assert parse_faults("slow=3:0.5s,kill=7@12,lie=4@20,drop=0.01") == [
        Fault("slow", 3, 0, 0.5),
        Fault("kill", 7, 12),
        Fault("lie", 4, 20),
        Fault("drop", None, 0, 0.01),
    ]
    assert [fault.kind for fault in faults_of(7, "kill=7@12,lie=4,drop=0.5").faults] == ["kill", "drop"]
    assert parse_faults(None) == []


@pytest.mark.parametrize(
    "text", ["", "kill", "kill=x", "slow=3", "slow=3:1", "lie=4@", "drop=1.5", "kill=0", "sloth=3:1s"]
)
def test_faults_that_cannot_be_are_refused(text: str) -> None:
    if text == "":
        assert parse_faults(text) == []
        return
    with pytest.raises(UsageError):
        parse_faults(text)


# -- stopping and going on ----------------------------------------------------------------------------------------

OPTIONS = ["-K", "2", "-T", "1", "--iterations", "12", "--tolerance", "0", "--quiet", "--no-compare"]


def weights(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "model.npz") as file:
        return {name: file[name] for name in file.files}


def assert_same(folder: Path, expected: dict[str, np.ndarray]) -> None:
    got = weights(folder)
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that has written its checkpoints, and was killed before its end."""
    folder = tmp_path / "run"
    command_on_threads(7, *OPTIONS, "--out", folder, "--checkpoint-every", 5)
    (folder / "result.json").unlink()
    (folder / "model.npz").rename(tmp_path / "model.npz")
    for path in (folder / "checkpoints").glob("000012.*"):  # of the end
        path.unlink()
    return folder


def test_a_resumed_run_ends_with_the_same_bits(run: Path) -> None:
    assert sorted(path.name for path in (run / "checkpoints").glob("*.npz")) == ["000005.npz", "000010.npz"]
    command_on_threads(7, "--resume", run)
    expected, got = weights(run.parent), weights(run)
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name])
    assert json.loads((run / "result.json").read_text())["resumed_from"] == 10
    iterations = [json.loads(line)["iteration"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert iterations == list(range(13)), "every iteration is there once"


SOLVERS: dict[str, list[str]] = {
    "lbfgs": [],
    "lbfgs, three classes, two primes": ["--dataset", "digits", "--classes", "1", "7", "0", "--primes", "2"],
    "cg": ["--solver", "cg"],
    "nesterov": ["--solver", "nesterov"],
    "gradient, averaged": ["--solver", "gradient", "--average"],
    "degree 1": ["-r", "1"],
    "degree 3, whose interval grows": ["-r", "3"],
    "paper": ["--paper"],
}


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_goes_on_to_the_same_bits(name: str, tmp_path: Path) -> None:
    options = [*OPTIONS, *SOLVERS[name], "--iterations", "9"]
    workers = 15 if name.startswith("degree 3") else 7
    command_on_threads(workers, *options, "--out", tmp_path / "whole")
    for stopped in (4, 6):
        folder = tmp_path / f"run-{stopped}"
        command_on_threads(workers, *options, "--out", folder, "--checkpoint-every", stopped)
        (folder / "result.json").unlink()
        for path in (folder / "checkpoints").glob("*.npz"):
            if int(path.stem) > stopped:
                path.unlink()
        command_on_threads(workers, "--resume", folder)
        assert_same(folder, weights(tmp_path / "whole"))
        results = [json.loads((f / "result.json").read_text()) for f in (tmp_path / "whole", folder)]
        assert results[1]["resumed_from"] == stopped
        for key in ("iterations", "converged", "test_accuracy", "test_loss", "headroom_bits"):
            assert results[0]["metrics"][key] == results[1]["metrics"][key], key
        assert results[0]["metrics"]["iterations"] == 9


def test_without_what_the_solver_remembers_it_would_end_elsewhere(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutation that the test above is there for: a checkpoint of the weights alone."""
    from fedmpi.codedml.command import CodedTraining

    unpack = CodedTraining.unpack
    monkeypatch.setattr(
        CodedTraining,
        "unpack",
        lambda self, arrays, values: replace(
            state := unpack(self, arrays, values),
            arrays={
                name: array for name, array in state.arrays.items() if name not in ("steps", "changes", "g", "step")
            },
        ),
    )
    (run / "checkpoints" / "000010.npz").unlink()
    command_on_threads(7, "--resume", run)
    assert (weights(run)["coefficients"] != weights(run.parent)["coefficients"]).any()


def test_resume_auto_goes_on_with_the_run_of_its_folder(run: Path) -> None:
    """The same command line, however often it is started."""
    command_on_threads(7, *OPTIONS, "--out", run, "--resume", "auto")
    assert json.loads((run / "result.json").read_text())["resumed_from"] == 10
    expected, got = weights(run.parent), weights(run)
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name])
    with pytest.raises(UsageError, match="which is done"):
        command_on_threads(7, *OPTIONS, "--out", run, "--resume", "auto")


def test_resume_auto_begins_where_there_is_no_checkpoint(run: Path) -> None:
    command_on_threads(7, *OPTIONS, "--out", run.parent / "new", "--resume=auto")
    for path in (run / "checkpoints").iterdir():
        path.unlink()
    command_on_threads(7, *OPTIONS, "--resume", "auto", "--out", run)
    for folder in (run, run.parent / "new"):
        assert json.loads((folder / "result.json").read_text())["resumed_from"] is None
        assert len((folder / "metrics.jsonl").read_text().splitlines()) == 13
    with pytest.raises(UsageError, match="which is done"):
        command_on_threads(7, *OPTIONS, "--resume", "auto", "--out", run)
    with pytest.raises(UsageError, match="--resume auto must be given with --out"):
        command_on_threads(7, *OPTIONS, "--resume", "auto")


@pytest.mark.parametrize("damage", ["torn", "foreign", "no digest"])
def test_a_damaged_checkpoint_is_refused_and_the_one_before_used(run: Path, damage: str) -> None:
    last = run / "checkpoints" / "000010.npz"
    if damage == "torn":
        last.write_bytes(last.read_bytes()[:-100])
    elif damage == "foreign":
        last.write_bytes((run / "checkpoints" / "000005.npz").read_bytes())
    else:
        last.with_suffix(".npz.sha256").unlink()
    command_on_threads(7, "--resume", run)
    assert json.loads((run / "result.json").read_text())["resumed_from"] == 5
    expected, got = weights(run.parent), weights(run)
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name])


@pytest.mark.parametrize(
    ("options", "key"),
    [(["--solver", "cg"], "solver"), (["--classes", "3", "5"], "classes"), (["--seed", "1"], "seed")],
)
def test_another_configuration_is_refused_by_its_key(run: Path, options: list[str], key: str) -> None:
    with pytest.raises(UsageError, match=f"--resume must keep {key} as the run began"):
        command_on_threads(7, "--resume", run, *options)


def test_other_data_under_the_same_name_are_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data, folder = tmp_path / "data.npz", tmp_path / "run"
    X, y = rng.random((40, 3)), np.arange(40) % 2
    np.savez(data, X=X, y=y)
    command_on_threads(7, *OPTIONS, "--dataset", data, "--out", folder, "--checkpoint-every", 5)
    (folder / "result.json").unlink()
    X[3, 1] = 1 - X[3, 1]
    np.savez(data, X=X, y=y)
    with pytest.raises(UsageError, match="--resume must keep data as the run began"):
        command_on_threads(7, "--resume", folder)


def test_a_run_that_is_done_or_never_was_cannot_be_resumed(tmp_path: Path, run: Path) -> None:
    with pytest.raises(UsageError, match="must name the folder of a run"):
        command_on_threads(7, "--resume", tmp_path / "nothing")
    command_on_threads(7, "--resume", run)
    with pytest.raises(UsageError, match=r"come with more iterations, got .*, which is done"):
        command_on_threads(7, "--resume", run)


# -- real processes -----------------------------------------------------------------------------------------------

# R = 16
TWENTY = ["--paper", "-K", "5", "-T", "1", "--iterations", "40", "--quiet", "--no-compare", "--timeout", "60"]


def fedmpi_run(ranks: int, *options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fedmpi.cli", "run", "codedml", "-n", str(ranks), "--", *map(str, options)],
        capture_output=True,
        text=True,
        timeout=150,
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    command_on_threads(20, *TWENTY, "--out", folder)
    return weights(folder)


@pytest.mark.slow
def test_four_killed_workers_of_twenty_change_no_bit(tmp_path: Path, undisturbed: dict[str, np.ndarray]) -> None:
    rng = np.random.default_rng(0)
    ranks, times = rng.choice(np.arange(1, 21), 4, replace=False), rng.integers(0, 35, 4)
    kills = ",".join(f"kill={rank}@{it}" for rank, it in zip(ranks, times, strict=True))
    done = fedmpi_run(21, *TWENTY, "--out", tmp_path / "run", "--inject", kills)
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "run", undisturbed)
    failures = json.loads((tmp_path / "run" / "result.json").read_text())["failures"]
    assert {failure["rank"] for failure in failures} == set(ranks.tolist())
    assert {failure["reason"] for failure in failures} == {"died"}


@pytest.mark.slow
def test_two_exchanges_survive_the_dead_the_slow_and_the_lying(tmp_path: Path) -> None:
    """R = 7 of 13 workers: two die, one lags, one lies; modulo two primes."""
    options = ["-K", "3", "-T", "1", "--iterations", "15", "--tolerance", "0", "--quiet", "--no-compare",
               "--timeout", "60", "--primes", "2"]  # fmt: skip
    command_on_threads(7, *options, "--out", tmp_path / "threads")
    faults = "kill=3@4,kill=12@9,slow=6:0.2s,lie=4@2"
    done = fedmpi_run(14, *options, "--byzantine", 1, "--out", tmp_path / "run", "--inject", faults)
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "run", weights(tmp_path / "threads"))
    failures = {f["rank"]: f for f in json.loads((tmp_path / "run" / "result.json").read_text())["failures"]}
    assert failures.keys() - {6} == {3, 4, 12}
    assert failures[3]["reason"] == failures[12]["reason"] == "died"
    # An iteration has two exchanges and counts once. A death may be noticed later, never sooner.
    assert failures[3]["iteration"] >= 4
    assert failures[12]["iteration"] >= 9
    assert failures[4]["reason"].startswith("lied in iteration ")


@pytest.mark.usefixtures("measured")
@pytest.mark.slow
def test_with_five_killed_the_run_ends_with_3_and_goes_on_later(
    tmp_path: Path, undisturbed: dict[str, np.ndarray]
) -> None:
    kills = "kill=3@5,kill=7@12,kill=8@12,kill=20@20,kill=9@21"
    failed = fedmpi_run(21, *TWENTY, "--out", tmp_path / "run", "--inject", kills)
    assert failed.returncode == 3
    lines = [line for line in failed.stderr.splitlines() if line.startswith("fedmpi: error")]
    assert len(lines) == 1
    assert "CodedGradient must come from 16 of 20 ranks, got 15" in lines[0]
    assert "worker (rank 9) died" in lines[0]
    assert "--resume" in lines[0]
    command_on_threads(20, "--resume", tmp_path / "run")
    assert_same(tmp_path / "run", undisturbed)


@pytest.mark.usefixtures("measured")
@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 0)])
def test_a_signal_writes_a_checkpoint_that_goes_on_to_the_same_bits(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    options = ["-K", "2", "-T", "1", "--iterations", "120", "--quiet", "--no-compare", "--timeout", "60"]
    options += ["--solver", "nesterov"]
    command_on_threads(7, *options, "--out", tmp_path / "whole")
    slow = ",".join(f"slow={rank}:0.05s" for rank in range(1, 8))
    own = [*options, "--out", str(tmp_path / "run"), "--inject", slow]
    process = subprocess.Popen(
        [sys.executable, "-m", "fedmpi.cli", "run", "codedml", "-n", "8", "--", *own],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    metrics, end = tmp_path / "run" / "metrics.jsonl", time.monotonic() + 60
    while not (metrics.exists() and len(metrics.read_text().splitlines()) > 20):
        assert time.monotonic() < end
        time.sleep(0.05)
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert f"stopped by {number.name}" in err
    assert not (tmp_path / "run" / "result.json").exists()
    command_on_threads(7, "--resume", tmp_path / "run")
    assert_same(tmp_path / "run", weights(tmp_path / "whole"))
