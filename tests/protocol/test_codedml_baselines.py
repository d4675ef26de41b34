"""The baselines of CodedPrivateML, BGW and BH08: the same weights to the bit, and whoever fails is named."""

import json
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from protocol.codedml_threads import HANG_SECONDS, by_integers, coded_data, command_on_threads, prepared, problem

from fedmpi.codedml import baseline, dealing
from fedmpi.codedml.baseline import GroupSetup, Ready, SharedGradient, SharedWeights
from fedmpi.codedml.dealing import SEED_BYTES, DataSeed
from fedmpi.codedml.params import Params
from fedmpi.codedml.protocol import Stop
from fedmpi.codedml.service import serve
from fedmpi.codedml.training import Outcome, new_task, rounding_noise, train
from fedmpi.core import WIDE_PRIMES, PrimeField
from fedmpi.core import field as field_module
from fedmpi.core.packing import packed_words
from fedmpi.errors import HeadroomError, PeerFailed, ProtocolError, UsageError
from fedmpi.mpc import double_sharings, reduce_bgw
from fedmpi.mpc.bgw import SubShare
from fedmpi.net import Channel, Message, run_local
from fedmpi.net.costs import Report
from fedmpi.net.message import encode
from fedmpi.net.orders import Leave, dismiss

WIDE = 2147483647
BASELINES = ["bgw", "bh08"]
every_baseline = pytest.mark.parametrize("method", BASELINES)
Role = Callable[[Channel], Any]


def train_all(
    trainings: list[tuple[Params, np.ndarray, np.ndarray]], workers: int, *, seed: int = 0, rate: float = 0.5
) -> tuple[list[Outcome], dict[int, Channel]]:
    """One training after another with the same threads for workers."""
    channels: dict[int, Channel] = {}

    def work(ch: Channel) -> None:
        channels[ch.rank] = ch
        serve(ch)

    def lead(ch: Channel) -> list[Outcome]:
        channels[0] = ch
        tasks = [new_task(params, prepared(params, X_bar, Y, rate), seed) for params, X_bar, Y in trainings]
        outcomes = [train(ch, task) for task in tasks]
        dismiss(ch)
        return outcomes

    return run_local([lead] + [work] * workers, timeout_seconds=HANG_SECONDS)[0], channels


def with_method(method: str, options: dict[str, Any]) -> Params:
    """The parameters of one method; T and G say nothing to the coded one, which takes its own."""
    if method == "coded":
        options = {key: value for key, value in options.items() if key not in ("privacy", "subgroups")}
    return Params(method=method, **{"paper": True, **options})  # type: ignore[arg-type]


# -- the same weights ---------------------------------------------------------------------------------------------

SQUARE: dict[str, Any] = {"degree": 2, "fit_range": (-3.0, 5.0), "coefficient_bits": 8, "prime": WIDE}
CUBIC: dict[str, Any] = {"degree": 3, "data_bits": 1, "weight_bits": 3, "coefficient_bits": 8, "prime": WIDE}

# name: options, m, d, outputs, N
EXACT: dict[str, tuple[dict[str, Any], int, int, int, int]] = {
    "degree 1": ({}, 30, 5, 1, 9),
    "a larger last group": ({}, 30, 5, 1, 11),
    "a much larger last group": ({"privacy": 1}, 30, 5, 1, 16),
    "T = 2": ({}, 30, 5, 1, 16),
    "T = 2, given": ({"privacy": 2}, 30, 5, 1, 15),
    "degree 2": (SQUARE, 12, 4, 1, 10),
    "degree 2, T = 2": (SQUARE, 12, 4, 1, 15),
    "degree 2 on a symmetric range": ({"degree": 2, "prime": WIDE}, 12, 4, 1, 9),
    "degree 3": (CUBIC, 12, 4, 1, 10),
    "linear": ({"model": "linear"}, 30, 5, 1, 9),
    "four classes": ({}, 30, 5, 4, 9),
    "four classes, degree 2": (SQUARE, 12, 4, 4, 11),
    "m not divisible by G": ({}, 31, 5, 1, 9),
    "m not divisible by G, twice": ({}, 32, 5, 2, 10),
    "the last group has only rows of zeros": ({"subgroups": 4}, 5, 3, 1, 13),
    "G above m": ({"subgroups": 4}, 2, 3, 1, 12),
    "one row, one column": ({"subgroups": 1}, 1, 1, 1, 4),
    "one group": ({"subgroups": 1}, 20, 4, 1, 7),
    "two groups": ({"subgroups": 2, "privacy": 1}, 21, 4, 1, 8),
    "decay": ({"decay": 0.3}, 30, 5, 1, 9),
    "2^26 - 5": ({"prime": 67108859, "weight_bits": 7}, 30, 5, 1, 9),
    "2^31 - 1": ({"prime": WIDE, "weight_bits": 10}, 30, 5, 1, 9),
    "a prime without a kernel": ({"prime": 1_000_000_007}, 30, 5, 1, 9),
    "one prime of 26 bits": ({"primes": 1}, 30, 5, 1, 9),
    "two primes": ({"primes": 2}, 30, 5, 1, 9),
    "three primes and more bits than two have": ({"primes": 3, "weight_bits": 40}, 30, 5, 1, 9),
    "four classes, degree 2, two primes": ({**SQUARE, "prime": None, "primes": 2}, 12, 4, 4, 11),
    "bits that follow the data": ({"paper": False, "degree": 1, "data_bits": 3, "primes": 1}, 30, 5, 1, 9),
    "bits that follow the data, two primes": ({"paper": False, "degree": 1, "data_bits": 3, "primes": 2}, 30, 5, 1, 9),
    "bits that follow the data, degree 3": (
        {"paper": False, "degree": 3, "data_bits": 3, "primes": 3, "tolerance": 0.0},
        20,
        3,
        1,
        9,
    ),
    "bits that follow the data, four classes": ({"paper": False, "degree": 1, "data_bits": 3}, 30, 5, 4, 9),
}


def exactly(params: Params, X_bar: np.ndarray, Y: np.ndarray, seed: int = 0) -> np.ndarray:
    """The weights that integer arithmetic gives; and they must be worth comparing."""
    W = by_integers(params, prepared(params, X_bar, Y), rounding_noise(seed))[-1].W
    assert np.isfinite(W).all()
    assert (np.abs(W) > 2.0 ** -(params.weight_bits or 6)).any(), "weights that quantize to 0 would show no error"
    return W


WITHOUT_KERNELS = ("degree 1", "degree 2, T = 2", "2^31 - 1", "two primes", "bits that follow the data, four classes")
"""Trained with numpy too, whose products tests/mathematics/test_field_products.py compares with the compiled ones."""


@pytest.mark.parametrize(
    ("name", "kernels"), [(name, "compiled") for name in EXACT] + [(name, "numpy") for name in WITHOUT_KERNELS]
)
def test_all_methods_give_the_same_weights_to_the_bit(name: str, kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if kernels == "numpy":
        monkeypatch.setattr(field_module, "_compiled", None)
    options, m, d, outputs, workers = EXACT[name]
    X_bar, Y = problem(m, d, outputs, seed=len(name), top=2 if options.get("degree") == 3 else 4)
    expected = None
    for method in ("coded", "bgw", "bh08"):
        params = with_method(method, {"iterations": 8, **options})
        assert PrimeField(params.prime or WIDE_PRIMES[0]).compiled <= (kernels == "compiled")
        expected = exactly(params, X_bar, Y) if expected is None else expected
        (outcome,), _ = train_all([(params, X_bar, Y)], workers)
        np.testing.assert_array_equal(outcome.W, expected, err_msg=method)
        assert outcome.headroom_bits is not None
        assert outcome.headroom_bits > 0
        assert sorted(outcome.reports) == list(range(1, workers + 1))


def test_all_these_settings_are_different_trainings() -> None:
    """The table above would prove little if its options had no effect."""
    X_bar, Y = problem(12, 4, top=2)
    options: list[dict[str, Any]] = [{}, SQUARE, CUBIC, {"decay": 0.3}, {"model": "linear"}, {"weight_bits": 10}]
    weights = {exactly(Params(paper=True, iterations=8, **some), X_bar, Y).tobytes() for some in options}
    assert len(weights) == len(options)


def test_primes_and_methods_change_no_bit_of_fixed_bits() -> None:
    """The same range or a wider one: the very same weights."""
    X_bar, Y = problem(30, 5, 3)
    weights = set()
    for method in ("coded", "bgw", "bh08"):
        for primes in (None, 1, 2, 3):
            params = with_method(method, {"iterations": 6, "primes": primes})
            (outcome,), _ = train_all([(params, X_bar, Y)], 10)
            weights.add(outcome.W.tobytes())
    assert weights == {exactly(with_method("coded", {"iterations": 6}), X_bar, Y).tobytes()}


def test_a_baseline_without_a_polynomial_takes_one_of_degree_1() -> None:
    for method in BASELINES:
        params = Params(method=method)  # type: ignore[arg-type]
        assert (params.degree, params.solver, params.fixed_bits) == (1, "cg", False)


def test_the_seed_is_that_of_the_rounding_noise_alone() -> None:
    X_bar, Y = problem(20, 3)
    weights = {}
    for method in ("coded", "bgw", "bh08"):
        params = with_method(method, {"iterations": 8})
        for seed in (3, 4):
            outcomes, _ = train_all([(params, X_bar, Y)] * 2, 9, seed=seed)
            np.testing.assert_array_equal(outcomes[0].W, outcomes[1].W)
            weights[method, seed] = outcomes[0].W
        np.testing.assert_array_equal(weights[method, 3], weights["coded", 3])
        np.testing.assert_array_equal(weights[method, 4], weights["coded", 4])
        assert not np.array_equal(weights[method, 3], weights[method, 4])


@every_baseline
@pytest.mark.parametrize("chunk_bytes", [1, 200, 4096])
def test_data_that_travel_in_pieces_give_the_same_weights(
    method: str, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dealing, "CHUNK_BYTES", chunk_bytes)
    params = with_method(method, {"iterations": 5})
    X_bar, Y = problem(23, 5)
    (outcome,), channels = train_all([(params, X_bar, Y)], 10)
    np.testing.assert_array_equal(outcome.W, exactly(params, X_bar, Y))
    pieces = {1: 8, 200: 3, 4096: 1}[chunk_bytes]  # 8 rows in a group; one row for 3 workers takes 60 bytes
    assert channels[2].meter.messages_received["CodedData"] == pieces


def test_one_training_after_another_with_the_same_workers() -> None:
    """Methods, shapes and groups change from one to the next, and nothing of the last is left."""
    trainings = []
    for turn, method in enumerate(["coded", "bgw", "bh08", "bgw", "coded", "bh08", "bh08"]):
        options = {"iterations": 3 + turn, **(SQUARE if turn == 5 else {}), "subgroups": 1 + turn % 3}
        trainings.append((with_method(method, options), *problem(20 + turn, 3 + turn % 2, 1 + turn % 3, seed=turn)))
    outcomes, _ = train_all(trainings, 10)
    for outcome, (params, X_bar, Y) in zip(outcomes, trainings, strict=True):
        np.testing.assert_array_equal(outcome.W, exactly(params, X_bar, Y), err_msg=params.method)


@every_baseline
def test_a_training_without_headroom_is_refused_by_every_method(method: str) -> None:
    X_bar, Y = problem(30, 4, top=30000)
    message = ""
    for name in ("coded", method):
        params = with_method(name, {"iterations": 4, "subgroups": 1})
        with pytest.raises(HeadroomError) as error:
            train_all([(params, X_bar, Y)], 4)
        assert "\n" not in str(error.value)
        assert message in ("", str(error.value))
        message = str(error.value)


# -- groups -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("workers", "options", "T", "sizes"),
    [
        (50, {}, 7, [15, 15, 20]),  # issue 3
        (40, {}, 6, [13, 13, 14]),
        (30, {}, 4, [9, 9, 12]),
        (20, {}, 2, [5, 5, 10]),
        (10, {}, 1, [3, 3, 4]),
        (9, {}, 1, [3, 3, 3]),
        (14, {}, 1, [3, 3, 8]),
        (15, {}, 2, [5, 5, 5]),
        (50, {"privacy": 2}, 2, [5, 5, 40]),
        (50, {"subgroups": 1}, 24, [50]),
        (3, {"subgroups": 1}, 1, [3]),
        (50, {"subgroups": 5}, 4, [9, 9, 9, 9, 14]),
    ],
)
@every_baseline
def test_groups(method: str, workers: int, options: dict[str, int], T: int, sizes: list[int]) -> None:
    threshold, groups = Params(method=method, **options).groups(workers)  # type: ignore[arg-type]
    assert threshold == T
    assert [len(group) for group in groups] == sizes
    assert [rank for group in groups for rank in group] == list(range(1, workers + 1))


def test_the_default_threshold_is_the_papers() -> None:
    """T = ⌊(N-3)/6⌋, as in case 2 of the coded method."""
    for workers in range(9, 200):
        T, groups = Params(method="bgw").groups(workers)
        assert T == (workers - 3) // 6 == Params(paper=True, case=2).code(workers).privacy
        assert all(len(group) == 2 * T + 1 for group in groups[:-1])
        assert len(groups[-1]) >= 2 * T + 1


@pytest.mark.parametrize(
    ("workers", "options", "message"),
    [
        (8, {}, "G·(2T+1) = 3·(2·1+1) = 9, got N=8"),
        (0, {}, "G·(2T+1) = 3·(2·1+1) = 9, got N=0"),
        (20, {"privacy": 3}, "G·(2T+1) = 3·(2·3+1) = 21, got N=20"),
        (50, {"privacy": 8}, "G·(2T+1) = 3·(2·8+1) = 51, got N=50"),
        (2, {"subgroups": 1}, "G·(2T+1) = 1·(2·1+1) = 3, got N=2"),
        (50, {"subgroups": 17}, "G·(2T+1) = 17·(2·1+1) = 51, got N=50"),
        (50, {"privacy": 0}, "privacy T must be at least 1, got 0"),
        (50, {"privacy": -2}, "privacy T must be at least 1, got -2"),
    ],
)
@every_baseline
def test_too_few_workers(method: str, workers: int, options: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)) as error:
        Params(method=method, **options).groups(workers)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


@every_baseline
@pytest.mark.parametrize("options", [{"parallelization": 2}, {"case": 2}, {"case": 1}, {"parallelization": 1}])
def test_k_and_cases_are_refused(method: str, options: dict[str, Any]) -> None:
    message = f"-K and --case must not be given with --method {method}, which takes -T and -G"
    with pytest.raises(UsageError, match=re.escape(message)):
        Params(method=method, **options)  # type: ignore[arg-type]
    Params(method=method, privacy=2, subgroups=2)  # type: ignore[arg-type]


def test_less_than_one_group_is_refused() -> None:
    with pytest.raises(UsageError, match="--subgroups must be at least 1, got 0"):
        Params(method="bgw", subgroups=0)


@pytest.mark.parametrize(
    ("workers", "argv", "message"),
    [
        (8, ["--method", "bh08"], "G·(2T+1) = 3·(2·1+1) = 9, got N=8"),
        (11, ["--method", "bgw", "-G", "2", "-T", "3"], "G·(2T+1) = 2·(2·3+1) = 14, got N=11"),
    ],
)
def test_the_command_line_refuses_too_few_workers(workers: int, argv: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        command_on_threads(workers, *argv, "--out", tmp_path / "run", "--quiet")
    assert not (tmp_path / "run").exists()


@every_baseline
@pytest.mark.parametrize("argv", [["-K", "3"], ["--case", "1"]])
def test_the_command_line_refuses_k_and_cases(method: str, argv: list[str], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"-K and --case must not be given with --method {method}, which takes"):
        command_on_threads(9, "--method", method, *argv, "--out", tmp_path / "run", "--quiet")
    assert not (tmp_path / "run").exists()


# -- the command line ---------------------------------------------------------------------------------------------

OPTIONS = ["--paper", "--iterations", "4", "--seed", "3", "--quiet", "--no-compare", "--max-rows", "100"]


def model(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "model.npz") as file:
        return {name: file[name] for name in file.files}


def written(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


@pytest.fixture(scope="module")
def coded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("coded") / "run"
    command_on_threads(10, *OPTIONS, "--out", out)
    return out


@every_baseline
def test_mpirun_writes_the_same_model_as_threads_and_as_the_coded_method(
    method: str, coded: Path, mpirun: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    command_on_threads(10, "--method", method, *OPTIONS, "--out", tmp_path / "threads")
    done = mpirun(11, "-m", "fedmpi.codedml", "--method", method, *OPTIONS, "--out", tmp_path / "mpirun")
    assert done.returncode == 0, done.stderr
    expected = model(coded)
    assert np.abs(expected["coefficients"]).max() > 0
    for folder in (tmp_path / "threads", tmp_path / "mpirun"):
        found = model(folder)
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values, err_msg=f"{folder.name}: {name}")
        summary = written(folder)
        assert summary["method"] == method
        assert {key: summary["params"][key] for key in "NTG"} == {"N": 10, "T": 1, "G": 3}
        assert summary["roles"] == {"master": 1, "worker": 10}
        assert "K" not in summary["params"]
        metrics = written(coded)["metrics"]
        assert {k: v for k, v in summary["metrics"].items() if k != "headroom_bits"} == {
            k: v for k, v in metrics.items() if k != "headroom_bits"
        }
        assert (folder / "config.toml").exists()
    names = ("messages", "bytes")
    threads, processes = ({name: written(tmp_path / run)[name] for name in names} for run in ("threads", "mpirun"))
    assert threads["messages"] == processes["messages"]
    assert threads["bytes"] == processes["bytes"]


def test_a_configuration_that_a_run_wrote_repeats_it(tmp_path: Path) -> None:
    argv = ["--method", "bh08", "-G", "2", "-T", "2", *OPTIONS]
    command_on_threads(11, *argv, "--out", tmp_path / "one")
    command_on_threads(11, "--config", tmp_path / "one" / "config.toml", "--out", tmp_path / "two")
    assert written(tmp_path / "two")["params"] == written(tmp_path / "one")["params"]
    for name, values in model(tmp_path / "one").items():
        np.testing.assert_array_equal(model(tmp_path / "two")[name], values)


@every_baseline
def test_a_dry_run_says_what_goes_to_each_worker(
    method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command_on_threads(10, "--method", method, "--paper", "--dry-run", "--max-rows", "100", "--out", tmp_path / "run")
    shown = capsys.readouterr().out
    assert f"{method.upper()} with N=10 workers in G=3 groups, private against any T=1 of them" in shown
    data = 4 * packed_words(34 * 65, 25)  # a third of 100 rows, 64 pixels and a one
    assert f"once: 32 bytes, a seed, to each of 3 workers, and {data:,} bytes of data to each of the other 7" in shown
    assert not (tmp_path / "run").exists()


# -- offline and online -------------------------------------------------------------------------------------------

PAUSE = 0.4
"""Seconds; a sleep can take longer, never shorter."""


def timed(method: str, monkeypatch: pytest.MonkeyPatch, name: str, tmp_path: Path) -> tuple[dict[str, float], float]:
    """The seconds of result.json where one function of the members takes PAUSE longer; and all the time there was."""
    original = getattr(baseline, name)

    def slow(*args: Any, **options: Any) -> Any:
        time.sleep(PAUSE)
        return original(*args, **options)

    monkeypatch.setattr(baseline, name, slow)
    start = time.perf_counter()
    command_on_threads(9, "--method", method, *OPTIONS, "--out", tmp_path / "run")
    return written(tmp_path / "run")["seconds"], time.perf_counter() - start


def test_the_offline_time_of_bh08_is_reported_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seconds, wall = timed("bh08", monkeypatch, "double_sharings", tmp_path)
    assert seconds["offline"] >= 0.9 * PAUSE  # the master may come to wait a moment late
    assert wall - seconds["total"] >= seconds["offline"], "the total does not hold what was done offline"


def test_the_online_time_is_in_the_total(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """4 iterations, one reduction in each, at every member."""
    seconds, _ = timed("bh08", monkeypatch, "reduce_bh08", tmp_path)
    assert seconds["total"] >= 4 * PAUSE
    assert seconds["communicate"] + seconds["compute"] >= 0.9 * 4 * PAUSE


def test_waiting_for_the_data_is_not_offline_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """BGW prepares nothing, so nothing may be taken off its total: least of all the time the data take to arrive."""
    seconds, _ = timed("bgw", monkeypatch, "receive_data", tmp_path)
    assert seconds["total"] >= PAUSE
    assert seconds.get("offline", 0.0) < PAUSE


# -- bytes --------------------------------------------------------------------------------------------------------


def wire(message: Message) -> int:
    header, arrays = encode(message)
    return len(header) + sum(array.nbytes for array in arrays)


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.uint32)


@every_baseline
@pytest.mark.parametrize(("degree", "outputs"), [(1, 1), (2, 3)])
def test_bytes_sent(method: str, degree: int, outputs: int) -> None:
    """Each worker gets a third of the rows once, and dr weights per iteration; it sends d.

    Within a group of n the members exchange what degree reduction of m/G products, and of r - 1 more, takes.
    """
    m, d, workers, iterations = 24, 5, 10, 3
    options = SQUARE if degree == 2 else {}
    params = with_method(method, {"iterations": iterations, **options})
    _, channels = train_all([(params, *problem(m, d, outputs))], workers)
    sent = channels[0].meter.bytes_sent
    assert sent["CodedData"] == (workers - 3) * wire(
        coded_data(zeros(1, 8, d), params.prime or P)
    )  # T = 1 of each group gets a seed
    assert sent["DataSeed"] == 3 * wire(DataSeed(1, np.zeros(SEED_BYTES, np.uint8)))
    assert sent["SharedWeights"] == workers * iterations * wire(SharedWeights(0, zeros(1, d, degree, outputs)))
    products = [8 * degree * outputs] + [8 * outputs] * (degree - 1)
    for rank in range(1, workers + 1):
        meter = channels[rank].meter
        n, index = (4, rank - 7) if rank > 6 else (3, (rank - 1) % 3)
        assert meter.bytes_sent["SharedGradient"] == iterations * wire(SharedGradient(0, zeros(1, d, outputs)))
        if method == "bgw":
            expected = sum((n - 1) * wire(SubShare(zeros(count))) for count in products) if index < 3 else 0
            assert meter.bytes_sent["SubShare"] == iterations * expected
            assert set(meter.bytes_sent) <= {"Host", "Ready", "SubShare", "SharedGradient", "Report"}
        else:
            online = meter.bytes_sent["Masked"] + meter.bytes_sent["Opened"]
            headers = 40 * (meter.messages_sent["Masked"] + meter.messages_sent["Opened"])
            assert 0 < online <= 8 * iterations * sum(products) + headers
            assert meter.messages_sent["DoubleShare"] == n - 1


# -- members that fail or break the protocol ----------------------------------------------------------------------


def ends_of(roles: list[Role]) -> list[BaseException | None]:
    """The exception that each rank ended with."""
    ends: list[BaseException | None] = [None] * len(roles)

    def watching(role: Role) -> Role:
        def play(ch: Channel) -> Any:
            try:
                return role(ch)
            except BaseException as error:
                ends[ch.rank] = error
                ch.__dict__.pop("send", None)  # run_local tells the others by the same channel
                raise

        return play

    with pytest.raises(Exception):  # noqa: B017  # which one is the subject of the callers
        run_local([watching(role) for role in roles], timeout_seconds=HANG_SECONDS)
    return ends


def leading(method: str, **options: Any) -> Role:
    X_bar, Y = problem(20, 4)

    def lead(ch: Channel) -> None:
        params = with_method(method, {"iterations": 4, **options})
        train(ch, new_task(params, prepared(with_method(method, {}), X_bar, Y), 0))
        dismiss(ch)

    return lead


def sending(change: Callable[[Channel, Message], Message]) -> Role:
    """A worker whose messages are changed on their way."""

    def role(ch: Channel) -> None:
        send = ch.send
        ch.send = lambda dest, message: send(dest, change(ch, message))  # type: ignore[method-assign]
        serve(ch)

    return role


STAGES = {
    "bgw": ["Ready", "SubShare", "SharedGradient"],
    "bh08": ["DoubleShare", "Ready", "Masked", "Opened", "SharedGradient"],
}


@pytest.mark.parametrize(("method", "stage"), [(m, stage) for m, stages in STAGES.items() for stage in stages])
def test_a_member_that_raises_ends_the_training_of_everybody(method: str, stage: str) -> None:
    """Those of other groups too; and everybody says the same."""

    def raising(ch: Channel, message: Message) -> Message:
        if type(message).__name__ == stage and ch.meter.messages_sent[stage] == (stage in ("SubShare", "Masked")):
            raise RuntimeError("out of order")
        return message

    roles: list[Role] = [leading(method)] + [serve] * 10
    roles[5] = sending(raising)
    ends = ends_of(roles)
    assert isinstance(ends[5], RuntimeError)
    for rank, end in enumerate(ends):
        if rank != 5:
            assert isinstance(end, PeerFailed), rank
            assert "worker (rank 5) failed: RuntimeError: out of order (" in str(end)
            assert end.exit_code == 4
            assert "\n" not in str(end)


@pytest.mark.parametrize(("method", "stage"), [("bgw", "SubShare"), ("bh08", "DoubleShare"), ("bh08", "Masked")])
def test_the_member_that_is_silent_is_named(method: str, stage: str) -> None:
    """Its group waits for it, and the master for all of the group: the one to name is the one that began it."""

    def sleeping(ch: Channel, message: Message) -> Message:
        if type(message).__name__ == stage:
            ch.timeout_seconds = HANG_SECONDS
            ch.recv(0, Leave)  # which never comes
        return message

    lead = leading(method)

    def impatient(ch: Channel) -> None:
        ch.timeout_seconds = 1.0
        lead(ch)

    roles: list[Role] = [impatient] + [serve] * 10
    roles[5] = sending(sleeping)  # the second of its group
    for end in ends_of(roles):
        assert isinstance(end, PeerFailed)
        assert f"worker (rank 5) sent no {stage} for " in str(end)


def altered(kind: type[Message], **fields: Callable[[Any], Any]) -> Callable[[Channel, Message], Message]:
    def change(ch: Channel, message: Message) -> Message:
        if not isinstance(message, kind):
            return message
        kept = {name: getattr(message, name) for name in kind._types}
        return kind(**{name: fields[name](value) if name in fields else value for name, value in kept.items()})

    return change


P = Params(paper=True).prime
HOSTILE: dict[str, tuple[Any, str]] = {
    "p itself": (
        altered(SharedGradient, gradient=lambda g: np.full_like(g, P)),
        f"field elements from rank 5 must be below {P}, got {P}",
    ),
    "too many rows": (
        altered(SharedGradient, gradient=lambda g: np.concatenate([g, g[:, :1]], axis=1)),
        "SharedGradient.gradient from rank 5 must have shape (1, 4, 1), got (1, 5, 1)",
    ),
    "a transposed gradient": (
        altered(SharedGradient, gradient=lambda g: np.ascontiguousarray(g.transpose(0, 2, 1))),
        "SharedGradient.gradient from rank 5 must have shape (1, 4, 1), got (1, 1, 4)",
    ),
    "another iteration": (
        altered(SharedGradient, iteration=lambda it: it + 1),
        "SharedGradient from rank 5 must be of iteration 0, got 1",
    ),
}


@every_baseline
@pytest.mark.parametrize("name", HOSTILE)
def test_a_wrong_answer_is_refused_and_its_sender_named(method: str, name: str) -> None:
    change, message = HOSTILE[name]
    roles: list[Role] = [leading(method)] + [serve] * 10
    roles[5] = sending(change)
    ends = ends_of(roles)
    assert isinstance(ends[0], ProtocolError)
    assert str(ends[0]) == message
    for end in ends[1:]:
        assert isinstance(end, PeerFailed)
        assert str(end) == f"master (rank 0) failed: {message}"


SETUP: dict[str, Any] = {
    "timeout_seconds": HANG_SECONDS, "protocol": "bgw", "first_rank": 1, "parties": 3, "threshold": 1,
    "rows": 4, "columns": 3, "outputs": 1, "first_iteration": 0, "iterations": 1, "byzantine": 0,
    "primes": np.array([P], np.uint32), "coefficients": np.array([[5, 7]], np.uint32),
}  # fmt: skip
BROKEN: dict[str, tuple[dict[str, Any], list[Message], str]] = {
    "an unknown protocol": ({"protocol": "spdz"}, [coded_data(zeros(1, 4, 3))], "must be bgw or bh08, got spdz"),
    "no rows": ({"rows": 0}, [], "GroupSetup.rows from rank 0 must be from 1 to "),
    "a negative number of columns": ({"columns": -1}, [], "GroupSetup.columns from rank 0 must be from 1 to "),
    "no outputs": ({"outputs": 0}, [], "GroupSetup.outputs from rank 0 must be from 1 to "),
    "no polynomial": ({"coefficients": zeros(1, 1)}, [], "must hold two coefficients or more, got shape (1, 1)"),
    "coefficients beyond the field": (
        {"coefficients": np.array([[5, P]], np.uint32)}, [], f"field elements from rank 0 must be below {P}, got {P}",
    ),
    "a composite modulus": ({"primes": np.array([2**25 - 37], np.uint32)}, [], "the modulus must be prime"),
    "one prime twice": (
        {"primes": np.array([P, P], np.uint32)}, [], "primes must be one to three different ones",
    ),
    "coefficients of one prime of two": (
        {"primes": np.array([P, 2**26 - 5], np.uint32)}, [], "field elements from rank 0 must be below",
    ),
    "no privacy": ({"threshold": 0}, [], "the threshold must have 1 ≤ T < n/2, got T=0, n=3"),
    "a threshold too high": ({"threshold": 2}, [], "the threshold must have 1 ≤ T < n/2, got T=2, n=3"),
    "data of another width": ({}, [coded_data(zeros(1, 4, 2))], "CodedData of 4 rows must have 10 words, got (7,)"),
    "too many rows of data": ({}, [coded_data(zeros(1, 5, 3))], "CodedData must hold 1 to 4 rows, got 5"),
    "data beyond the field": (
        {}, [coded_data(np.full((1, 4, 3), P, np.uint32))], f"field elements from rank 0 must be below {P}, got {P}",
    ),
    "weights of another shape": (
        {}, [coded_data(zeros(1, 4, 3)), SharedWeights(0, zeros(1, 3, 2, 1))],
        "SharedWeights.W from rank 0 must have shape (1, 3, 1, 1), got (1, 3, 2, 1)",
    ),
    "weights of another iteration": (
        {}, [coded_data(zeros(1, 4, 3)), SharedWeights(1, zeros(1, 3, 1, 1))],
        "SharedWeights must be of iteration 0, got 1",
    ),
    "weights beyond the field": (
        {}, [coded_data(zeros(1, 4, 3)), SharedWeights(0, np.full((1, 3, 1, 1), P, np.uint32))],
        f"field elements from rank 0 must be below {P}, got {P}",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_member_refuses_what_breaks_the_protocol(name: str) -> None:
    changes, messages, text = BROKEN[name]

    def lead(ch: Channel) -> None:
        for rank in (1, 2, 3):
            for message in (GroupSetup(**{**SETUP, **changes}), *messages):
                ch.send(rank, message)
        ch.gather((1, 2, 3), Report)

    ends = ends_of([lead, serve, serve, serve])
    assert any(isinstance(end, ProtocolError | UsageError) and not isinstance(end, PeerFailed) for end in ends[1:])
    for end in ends:
        assert isinstance(end, ProtocolError | UsageError)
        assert text in str(end)


def test_members_follow_the_setup() -> None:
    """Three members by hand: [X̄ᵀ s(X̄ w̄)]_2T with the polynomial of the setup, against Python integers."""
    sharing = baseline.Shamir(baseline.PrimeField(P), 3, 1)
    rng = np.random.default_rng(0)
    X, W = rng.integers(0, P, (4, 3), np.uint32), rng.integers(0, P, (3, 1, 1), np.uint32)
    uniform = lambda shape: rng.integers(0, P, shape, np.uint32)  # noqa: E731

    def lead(ch: Channel) -> np.ndarray:
        data, weights = sharing.share(X, uniform), sharing.share(W, uniform)
        for rank in (1, 2, 3):
            ch.send(rank, GroupSetup(**SETUP))
            ch.send(rank, coded_data(data[rank - 1][None]))
        ch.gather((1, 2, 3), Ready)
        for rank in (1, 2, 3):
            ch.send(rank, SharedWeights(0, weights[rank - 1][None]))
        answers = ch.gather((1, 2, 3), SharedGradient)
        for rank in (1, 2, 3):
            ch.send(rank, Stop())
        ch.gather((1, 2, 3), Report)
        dismiss(ch)
        return sharing.reconstruct({rank - 1: a.gradient[0] for rank, a in answers.items()}, 2)

    gradient = run_local([lead, serve, serve, serve], timeout_seconds=HANG_SECONDS)[0]
    z = X.astype(object) @ W[:, 0].astype(object)
    np.testing.assert_array_equal(gradient, X.astype(object).T @ (5 + 7 * z) % P)


FAILING = """
import sys
from fedmpi.codedml import SYSTEM, baseline, dealing
from fedmpi.net.mpi import job

def failing(party, *rest):
    if party.ch.rank == 3:
        raise ValueError("boom")
    return original(party, *rest)

name = sys.argv.pop(1)
original = getattr(baseline, name)
setattr(baseline, name, failing)
with job() as channel:
    SYSTEM.play(channel)
"""


@pytest.mark.parametrize(("method", "where"), [("bgw", "reduce_bgw"), ("bh08", "double_sharings")])
def test_a_member_that_raises_ends_the_job_with_one_message(
    method: str, where: str, mpirun: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    assert getattr(baseline, where) in (reduce_bgw, double_sharings)
    done = mpirun(10, "-c", FAILING, where, "--method", method, *OPTIONS, "--out", tmp_path / "run", timeout=60)
    assert done.returncode == 4, done.stderr
    errors = re.findall(r"fedmpi: error: (.*)", done.stdout + done.stderr)
    assert len(errors) == 1, done.stderr
    assert errors[0].startswith("worker (rank 3) failed: ValueError: boom (")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "result.json").exists()
