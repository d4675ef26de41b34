"""The command line of CodedPrivateML, with threads for workers: what it writes, prints and refuses."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from protocol.codedml_threads import command_on_threads

from fedmpi.codedml import SYSTEM
from fedmpi.codedml.params import Params
from fedmpi.codedml.plain import train_quantized
from fedmpi.codedml.problem import Problem
from fedmpi.codedml.training import rounding_noise
from fedmpi.core.packing import packed_words
from fedmpi.data import load
from fedmpi.errors import HeadroomError, UsageError

FILES = {
    "config.toml",
    "metrics.jsonl",
    "frames.jsonl",
    "result.json",
    "model.npz",
    "model.json",
    "checkpoints",
    "log.txt",
}


def result_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights_of(folder: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    with np.load(folder / "model.npz", allow_pickle=False) as model:
        assert set(model.files) == {"coefficients", "intercepts", "classes"}
        return model["coefficients"], model["intercepts"], model["classes"].tolist()


def write_csv(path: Path, rows: list[list[Any]]) -> Path:
    path.write_text("\n".join(",".join(map(str, row)) for row in rows) + "\n")
    return path


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on two classes of digits, as the paper trains."""
    out = tmp_path_factory.mktemp("runs") / "digits"
    command_on_threads(10, "--paper", "--out", out, "--iterations", 15, "--seed", 3)
    return out


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the same run without any such flag."""
    out = tmp_path_factory.mktemp("runs") / "default"
    command_on_threads(10, "--out", out, "--seed", 3)
    return out


# -- the folder ---------------------------------------------------------------------------------------------------


def test_a_run_leaves_these_files(digits: Path) -> None:
    assert {path.name for path in digits.iterdir()} == FILES


KEYS = {
    "schema": 3,
    "system": "codedml",
    "method": "coded",
    "version": str,
    "ranks": 11,
    "roles": {"master": 1, "worker": 10},
    "params": dict,
    "dataset": {"name": "digits", "m": 289, "d": 64},
    "metrics": {"test_accuracy": float, "train_loss": float, "headroom_bits": float},
    "seconds": dict.fromkeys(("startup", "encode", "communicate", "compute", "decode", "total"), float),
    "cpu_seconds": dict.fromkeys(("master", "worker_mean", "worker_max"), float),
    "bytes": {"sent": {"master": int, "worker_mean": float}, "received": {"master": int, "worker_mean": float}},
    "messages": dict,
    "failures": [],
    "seed": 3,
    "environment": {"mpi": str, "python": str, "hosts": list},
}


def check_keys(got: Any, wanted: Any, path: str = "result") -> None:
    if isinstance(wanted, dict):
        assert wanted.keys() <= got.keys(), path
        for key, value in wanted.items():
            check_keys(got[key], value, f"{path}.{key}")
    elif isinstance(wanted, type):
        assert isinstance(got, (int, float) if wanted is float else wanted), path
    else:
        assert got == wanted, path


def test_a_run_without_flags_has_the_same_keys_and_what_was_chosen(default: Path) -> None:
    assert {path.name for path in default.iterdir()} == FILES
    summary = result_of(default)
    check_keys(summary, {key: value for key, value in KEYS.items() if key != "params"})
    params, metrics = summary["params"], summary["metrics"]
    assert params | {"K": 4, "T": 1, "N": 10, "R": 9, "solver": "lbfgs", "l2": 1.0, "scale": "column"} == params
    assert params["primes"]
    assert params["data_bits"] >= 4
    assert 0 < params["rounding"] <= 1 / 32
    assert params["erased"]["columns"] >= params["erased"]["erased_columns"] >= 0
    assert params["coefficients"] is None
    assert metrics["converged"]
    assert 0 < metrics["iterations"] < 50
    exchanges = summary["messages"]["sent"]["CodedVectors"] / 10
    assert 2 * metrics["iterations"] <= exchanges <= 2 * metrics["iterations"] + 1
    lines = lines_of(default)
    assert [line["iteration"] for line in lines] == list(range(metrics["iterations"] + 1))
    assert metrics["test_accuracy"] >= metrics["plain"]["test_accuracy"] - 0.015
    assert metrics["test_loss"] <= 1.1 * metrics["plain"]["test_loss"]


def test_the_default_weights_are_those_of_integers(default: Path) -> None:
    data, params = load("digits", classes=("4", "9"), seed=3), Params()
    problem = Problem.prepare(params, data.X_train, data.y_train, 2)
    W = train_quantized(params, problem, rounding_noise(3))
    coefficients, intercepts = problem.transform.original_units(W)
    np.testing.assert_array_equal(weights_of(default)[0], coefficients)
    np.testing.assert_array_equal(weights_of(default)[1], intercepts)


def test_result_json_has_the_keys_of_the_design(digits: Path) -> None:
    summary = result_of(digits)
    check_keys(summary, KEYS)
    assert (
        summary["params"]
        | {"K": 3, "T": 1, "N": 10, "R": 10, "prime": 33554393, "primes": [33554393], "iterations": 15}
        == (summary["params"])
    )
    assert summary["messages"]["sent"]["CodedWeights"] == 150
    assert summary["messages"]["received"]["CodedGradient"] <= 150
    data = 9 * packed_words(97 * 65, 25) + 8  # a worker has a seed of 32 bytes in place of its share
    assert summary["bytes"]["sent"]["master"] > 4 * (data + 10 * 15 * 65)
    parts = ("encode", "communicate", "compute", "decode")
    assert 0 < sum(summary["seconds"][part] for part in parts) <= summary["seconds"]["total"]


def test_metrics_jsonl_has_a_line_for_each_iteration_and_the_end(digits: Path) -> None:
    lines = lines_of(digits)
    assert [line["iteration"] for line in lines] == list(range(16))
    for key in ("train_loss", "train_accuracy", "test_accuracy", "seconds", "sent_bytes", "answers", "late"):
        assert all(key in line for line in lines), key
    assert lines[0]["train_loss"] == pytest.approx(np.log(2))
    assert lines[-1]["train_loss"] < 0.4
    summary = result_of(digits)["metrics"]
    assert {key: lines[-1][key] for key in ("train_loss", "train_accuracy", "test_accuracy")} == {
        key: summary[key] for key in ("train_loss", "train_accuracy", "test_accuracy")
    }
    sent = [line["sent_bytes"] for line in lines]
    assert all(np.diff(sent)[:-1] > 0)
    assert sent[-1] == sent[-2], "nothing is sent after the last iteration"
    assert all(np.diff([line["seconds"] for line in lines]) >= 0)
    assert [line["answers"] for line in lines] == list(range(0, 151, 10))  # N = R


def test_the_model_predicts_raw_rows_with_the_accuracy_reported(digits: Path) -> None:
    coefficients, intercepts, classes = weights_of(digits)
    data = load("digits", classes=("4", "9"), seed=3)
    assert classes == list(data.classes) == ["4", "9"]
    z = data.X_test @ coefficients.T + intercepts
    accuracy = float(np.mean((z[:, 0] > 0) == data.y_test))
    assert accuracy == result_of(digits)["metrics"]["test_accuracy"]
    assert accuracy > 0.9


def test_digits_are_learned_as_well_as_in_the_clear(digits: Path) -> None:
    metrics = result_of(digits)["metrics"]
    assert metrics["test_accuracy"] >= metrics["plain"]["test_accuracy"] - 0.015  # one of 72 rows
    assert metrics["plain"]["test_accuracy"] > 0.9
    assert abs(metrics["train_accuracy"] - metrics["plain"]["train_accuracy"]) < 0.02


def test_the_weights_are_those_of_the_roles_alone(digits: Path) -> None:
    """Nothing between the command line and the protocol adds chance of its own."""
    params, data = Params(paper=True, iterations=15), load("digits", classes=("4", "9"), seed=3)
    problem = Problem.prepare(params, data.X_train, data.y_train, 2)
    coefficients, intercepts = problem.transform.original_units(train_quantized(params, problem, rounding_noise(3)))
    np.testing.assert_array_equal(weights_of(digits)[0], coefficients)
    np.testing.assert_array_equal(weights_of(digits)[1], intercepts)


def test_config_toml_gives_the_same_run_again(digits: Path, tmp_path: Path) -> None:
    config = digits / "config.toml"
    values = tomllib.loads(config.read_text())
    assert values["iterations"] == 15
    assert values["prime"] == 33554393
    assert values["seed"] == 3
    command_on_threads(10, "--config", config, "--out", tmp_path / "again")
    for one, two in zip(weights_of(digits), weights_of(tmp_path / "again"), strict=True):
        np.testing.assert_array_equal(one, two)
    again = tomllib.loads((tmp_path / "again" / "config.toml").read_text())
    assert again == values


def test_every_option_survives_config_toml(tmp_path: Path) -> None:
    rows = [[i % 7, (3 * i) % 5, -(i % 3), i % 2] for i in range(40)]
    data = write_csv(tmp_path / "data.csv", rows)
    out = tmp_path / "one"
    command_on_threads(
        12, "--dataset", data, "--classes", 1, 0, "--label-column", 3, "-K", 2, "-T", 2, "-r", 1,
        "--fit-range", -4, 4.5, "--solver", "gradient", "--l2", 0.5, "--average",
        "--data-bits", 3, "--weight-bits", 5, "--coefficient-bits", 4, "--prime", 67108859,
        "--iterations", 4, "--learning-rate", "1/L", "--decay", 0.25, "--scale", "7.5", "--center", "--no-bias",
        "--max-rows", 30, "--test-fraction", 0.25, "--seed", 9, "--timeout", 25, "--evaluate-every", 2, "--no-compare",
        "--quiet", "--insecure-repeatable-masks", "--out", out,
    )  # fmt: skip
    command_on_threads(12, f"--config={out / 'config.toml'}", "--out", tmp_path / "two")
    np.testing.assert_array_equal(weights_of(out)[0], weights_of(tmp_path / "two")[0])
    one, two = result_of(out), result_of(tmp_path / "two")
    assert one["params"] == two["params"]
    assert one["params"] | {
        "K": 2, "T": 2, "data_bits": 3, "weight_bits": 5, "coefficient_bits": 4, "prime": 67108859, "decay": 0.25,
        "scale": "7.5", "center": True, "bias": False, "l2": 0.5, "average": True, "solver": "gradient",
    } == one["params"]  # fmt: skip
    assert one["dataset"] == two["dataset"]
    assert one["dataset"]["classes"] == ["1", "0"]
    assert "plain" not in two["metrics"]
    assert [line["iteration"] for line in lines_of(tmp_path / "two")] == [0, 2, 4]


def test_an_option_given_here_wins_over_the_file(digits: Path, tmp_path: Path) -> None:
    command_on_threads(10, "--iterations", 2, "--config", digits / "config.toml", "--out", tmp_path / "a", "--quiet")
    assert result_of(tmp_path / "a")["params"]["iterations"] == 2


# -- kinds of training --------------------------------------------------------------------------------------------


def test_three_classes(tmp_path: Path) -> None:
    command_on_threads(10, "--dataset", "digits", "--classes", 1, 7, 0, "--iterations", 20, "--out", tmp_path / "run")
    coefficients, intercepts, classes = weights_of(tmp_path / "run")
    assert coefficients.shape == (3, 64)
    assert classes == ["1", "7", "0"]
    data = load("digits", classes=("1", "7", "0"))
    accuracy = np.mean((data.X_test @ coefficients.T + intercepts).argmax(axis=1) == data.y_test)
    summary = result_of(tmp_path / "run")
    assert accuracy == summary["metrics"]["test_accuracy"] > 0.95
    assert summary["dataset"]["classes"] == ["1", "7", "0"]


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["-r", 1],
        ["--paper", "--data-bits", 6, "--weight-bits", 8, "--prime", 2147483647, "--iterations", 200],
    ],
)
def test_a_linear_model(options: list[Any], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (200, 3))
    y = X @ [2.0, -1.0, 0.5] + 0.25 + rng.normal(size=200) * 0.1
    np.savez(tmp_path / "data.npz", X=X, y=y)
    command_on_threads(
        7, "--dataset", tmp_path / "data.npz", "--model", "linear", *options, "--out", tmp_path / "run",
    )  # fmt: skip
    coefficients, intercepts, classes = weights_of(tmp_path / "run")
    np.testing.assert_allclose(coefficients[0], [2.0, -1.0, 0.5], atol=0.1)
    np.testing.assert_allclose(intercepts, [0.25], atol=0.1)
    assert classes == []
    metrics = result_of(tmp_path / "run")["metrics"]
    assert metrics["test_r2"] > 0.95
    assert abs(metrics["test_r2"] - metrics["plain"]["test_r2"]) < 0.01
    data = load(str(tmp_path / "data.npz"), regression=True)
    residual = data.X_test @ coefficients[0] + intercepts - data.y_test
    assert metrics["test_r2"] == pytest.approx(
        1 - np.sum(residual**2) / np.sum((data.y_test - data.y_test.mean()) ** 2)
    )
    assert metrics["test_rmse"] == pytest.approx(np.sqrt(np.mean(residual**2)))


def test_plain_training_needs_no_workers(tmp_path: Path, digits: Path) -> None:
    command_on_threads(
        0, "--method", "plain", "--paper", "--iterations", 15, "--seed", 3, "--out", tmp_path / "run"
    )  # fmt: skip
    summary = result_of(tmp_path / "run")
    assert summary["method"] == "plain"
    assert "headroom_bits" not in summary["metrics"]
    plain = result_of(digits)["metrics"]["plain"]
    assert {key: summary["metrics"][key] for key in plain} == plain
    assert summary["bytes"]["sent"]["master"] == 0


def test_insecure_masks_are_said_loudly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command_on_threads(7, "--iterations", 1, "--insecure-repeatable-masks", "--out", tmp_path / "run")
    said = capsys.readouterr().out
    assert "WARNING: the masks are made from --seed" in said
    assert "not private: masks for T=" in said
    assert "private against any" not in said
    summary = result_of(tmp_path / "run")
    assert SYSTEM.who_learns("coded", summary["params"]).startswith("Not private: masks are made from --seed")
    assert "random" in SYSTEM.who_learns("coded", summary["params"] | {"insecure_repeatable_masks": False})
    command_on_threads(7, "--insecure-repeatable-masks", "--dry-run")
    said = capsys.readouterr().out
    assert "workers, see the data, if they know --seed" in said
    assert "uniform field elements" not in said


def test_the_public_seed_of_a_run_does_not_become_that_of_its_masks(tmp_path: Path) -> None:
    """A run that goes on can't take to --insecure-repeatable-masks, nor come to look private; no seed is printed."""
    private, insecure = tmp_path / "private", tmp_path / "insecure"
    options = ("--iterations", 2, "--tolerance", 0, "--seed", 4711, "--no-compare")
    command_on_threads(7, *options, "--out", private)
    command_on_threads(7, *options, "--insecure-repeatable-masks", "--out", insecure)
    for folder, flag in ((private, "--insecure-repeatable-masks"), (insecure, "--no-insecure-repeatable-masks")):
        with pytest.raises(UsageError, match="--resume must keep insecure_repeatable_masks as the run began"):
            command_on_threads(7, "--resume", folder, "--iterations", 3, flag)
    with pytest.raises(UsageError, match="--resume must keep seed as the run began, whose masks") as refused:
        command_on_threads(7, "--resume", insecure, "--iterations", 3, "--seed", 5)
    assert "4711" not in str(refused.value)
    command_on_threads(7, "--resume", insecure, "--iterations", 3)


def test_a_run_on_a_small_set_of_each_format(tmp_path: Path) -> None:
    rows = [[i % 7, (3 * i) % 5, i % 2] for i in range(40)]
    csv = write_csv(tmp_path / "data.csv", [["a", "b", "label"], *rows])
    svm = tmp_path / "data.svm"
    svm.write_text("".join(f"{y} 1:{a} 2:{b}\n" for a, b, y in rows))
    npz = tmp_path / "data.npz"
    array = np.array(rows)
    np.savez(npz, X=array[:, :2], y=array[:, 2])
    models = []
    for path in (csv, svm, npz):
        command_on_threads(4, "--dataset", path, "--iterations", 3, "--quiet", "--out", tmp_path / path.suffix[1:])
        models.append(weights_of(tmp_path / path.suffix[1:])[0])
    np.testing.assert_array_equal(models[0], models[1])
    np.testing.assert_array_equal(models[0], models[2])


# -- what is printed ----------------------------------------------------------------------------------------------


def test_what_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command_on_threads(10, "--paper", "--iterations", 20, "--out", tmp_path / "run")
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert printed.err.startswith("fedmpi: warning: at most 1 of the workers must be on one machine, got 10 on ")
    assert printed.err.count("\n") == 1
    assert lines[0].startswith("CodedPrivateML with N=10 workers: K=3 blocks, private against any T=1 of them")
    assert lines[1] == "digits: 289 training and 72 test rows, 64 features, classes 4 9"
    assert [int(line.split("/")[0]) for line in lines if re.match(r" *\d+/20 ", line)] == list(range(0, 21, 2))
    assert re.search(r"coded +test accuracy 0\.\d{4}", printed.out)
    assert re.search(r"plain +test accuracy 0\.\d{4} .*not private", printed.out)
    assert lines[-1] == f"written to {tmp_path / 'run'}"
    assert "\x1b" not in printed.out


def test_quiet_prints_the_summary_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command_on_threads(7, "--iterations", 3, "--tolerance", 0, "--quiet", "--out", tmp_path / "run")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["coded", "plain", "3", "written"]
    assert re.fullmatch(r"3 iterations, headroom \d+\.\d bits, \d+\.\d MB sent by the master", lines[2])


def test_what_was_chosen_is_said_in_one_line_and_so_is_the_end_before_the_last_iteration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command_on_threads(7, "--out", tmp_path / "run")
    out = capsys.readouterr().out
    (chosen,) = re.findall(r"^precision: .*$", out, re.MULTILINE)
    assert re.search(r"\d+ fractional bits of the features, which erase .*% of the non-zero entries and ", chosen)
    done = result_of(tmp_path / "run")["metrics"]["iterations"]
    assert re.search(rf"^ *{done}/50 ", out, re.MULTILINE), "the last iteration is shown"
    assert re.search(rf"^{done} iterations \(converged\), headroom ", out, re.MULTILINE)


@pytest.mark.parametrize("evaluate_every", [1, 7, 50])
def test_the_last_iteration_is_evaluated_wherever_it_is(evaluate_every: int, tmp_path: Path) -> None:
    command_on_threads(7, "--evaluate-every", evaluate_every, "--quiet", "--no-compare", "--out", tmp_path / "run")
    metrics, lines = result_of(tmp_path / "run")["metrics"], lines_of(tmp_path / "run")
    iterations = [line["iteration"] for line in lines]
    done = metrics["iterations"]
    assert iterations == sorted({*range(0, done, evaluate_every), done})
    assert lines[-1]["test_accuracy"] == metrics["test_accuracy"]


def test_json_prints_result_json_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command_on_threads(7, "--iterations", 3, "--json", "--out", tmp_path / "run")
    assert json.loads(capsys.readouterr().out) == result_of(tmp_path / "run")


def test_a_live_line_on_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDMPI_TERMINAL", "1")
    command_on_threads(7, "--paper", "--iterations", 3, "--out", tmp_path / "run")
    out = capsys.readouterr().out
    assert out.count("\r\x1b[2K") == 4
    live = out[out.index("\r") : out.rindex("\r") + 200].split("\r\x1b[2K")
    assert all("\n" not in part for part in live[1:4])


@pytest.mark.parametrize("paper", [False, True])
def test_a_dry_run_prints_the_bytes_and_does_nothing(
    paper: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--paper"] if paper else []
    command_on_threads(10, "--dry-run", "--out", tmp_path / "run", "--classes", 1, 2, 3, "--dataset", "digits", *flags)
    out = capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    data = load("digits", classes=("1", "2", "3"))
    rows = -(-len(data.X_train) // (3 if paper else 4))
    primes = 1 if paper else out.count("2^26-") + out.count("2^25-") + out.count("2^31-")
    each = 4 * primes * 3 * (65 if paper else 64 + rows)
    sizes = [25] if paper else [int(bits) for bits in re.findall(r"2\^(\d\d)-", out)]
    packed = 4 * sum(packed_words(rows * (65 if paper else 64), bits) for bits in sizes)
    assert f"once: 32 bytes, a seed, to each of 1 workers, and {packed:,} bytes of data to each of the other 9" in out
    at_most = "" if paper else "at most "
    assert f"each of {at_most}50 iterations: {each:,} bytes to and {each:,} bytes from each worker" in out
    assert "rank 0: master" in out
    assert "ranks 1 to 10: workers" in out


@pytest.mark.parametrize(
    "options",
    [
        ["--paper", "-r", 2, "--fit-range", -3, 5, "--prime", 2147483647, "--weight-bits", 3, "--coefficient-bits", 7],
        ["-r", 1, "--tolerance", 0, "--primes", 2],
        ["--solver", "nesterov"],
        ["--solver", "nesterov", "--primes", 2],
    ],
)
def test_the_bytes_of_a_dry_run_are_those_of_the_run(
    options: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*options, "--iterations", 7]
    command_on_threads(11, *options, "--dry-run")
    out = capsys.readouterr().out
    seed, once, to, up = (int(text.replace(",", "")) for text in re.findall(r"([\d,]+) bytes", out))
    command_on_threads(11, *options, "--out", tmp_path / "run", "--quiet")
    summary = result_of(tmp_path / "run")
    seeds = summary["params"]["T"] * summary["params"].get("G", 1)
    arrays = seeds * seed + (11 - seeds) * once + 11 * 7 * to
    messages = sum(summary["messages"]["sent"].values())
    assert arrays < summary["bytes"]["sent"]["master"] <= arrays + 120 * messages
    received = summary["messages"]["received"]
    exchanges = 1 if "CodedGradient" in received else 2
    answers = received["CodedGradient" if exchanges == 1 else "CodedProduct"]
    assert 7 * exchanges * summary["params"]["R"] <= answers <= 7 * exchanges * 11
    down = answers * up / exchanges
    # Of two exchanges a worker may have answered one alone, if it is not needed.
    slack = 4 * 7 * up if exchanges == 2 else 0
    reports = received["Report"]
    assert down - slack < summary["bytes"]["received"]["master"] <= down + slack + answers * 100 + reports * 200


def test_views_need_a_folder_that_every_rank_knows(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("record_views = true\n")
    for argv in (["--record-views"], ["--config", tmp_path / "c.toml", "--out", tmp_path / "run"]):
        with pytest.raises(UsageError, match="--record-views must stand on the command line, together with --out"):
            command_on_threads(4, "--iterations", 2, *argv)
    assert not (tmp_path / "run").exists()


# -- what is refused ----------------------------------------------------------------------------------------------


def labelled(value: Any = 1) -> list[list[Any]]:
    return [[i % 7, (3 * i) % 5, i % 2] for i in range(30)] + [[value, 1, 0]]


def files(folder: Path) -> dict[str, Path]:
    rng = np.random.default_rng(0)
    paths = {
        "nan": write_csv(folder / "nan.csv", labelled("nan")),
        "inf": write_csv(folder / "inf.csv", labelled("inf")),
        "text": write_csv(folder / "text.csv", labelled("seven")),
        "one class": write_csv(folder / "one.csv", [[i, 2 * i, 1] for i in range(10)]),
        "good": write_csv(folder / "good.csv", labelled()),
        "wide": folder / "wide.npz",
        "large": write_csv(folder / "large.csv", labelled(1e9)),
        "empty": folder / "empty.csv",
        "no rows": folder / "none.npz",
    }
    paths["empty"].write_text("")
    np.savez(paths["no rows"], X=np.zeros((0, 3)), y=np.zeros(0, int))
    np.savez(paths["wide"], X=np.ones((9000, 30)), y=rng.integers(0, 2, 9000))
    return paths


# name: workers, options ({name} stands for a file), what the line must say
REFUSED: dict[str, tuple[int, list[Any], list[str]]] = {
    "too few workers": (2, [], ["N must be at least 2·(K+T-1)+1 = 3", "got N=2", "start 4 ranks or more"]),
    "no workers": (0, [], ["N must be at least 2·(K+T-1)+1 = 3", "got N=0"]),
    "too few for degree 1": (3, ["-r", 1], ["N must be at least 3·(K+T-1)+1 = 4", "got N=3", "start 5 ranks or more"]),
    "below the threshold": (10, ["-K", 4, "-T", 2], ["2·(K+T-1)+1 = 2·(4+2-1)+1 = 11", "got N=10"]),
    "below the paper's": (10, ["--paper", "-K", 3, "-T", 2], ["3·(K+T-1)+1 = 3·(3+2-1)+1 = 13", "got N=10"]),
    "K of 0": (10, ["-K", 0], ["K must be at least 1, got 0"]),
    "T of 0": (10, ["-T", 0], ["T must be at least 1, got 0"]),
    "K below 0": (10, ["-K", -1, "-T", 1], ["K must be at least 1, got -1"]),
    "a case and K": (10, ["--case", 1, "-K", 2], ["--case must not be given together with -K or -T"]),
    "a composite modulus": (10, ["--prime", 33554395], ["got 33554395 = 5·7·277·3461", "nearest below: 33554393"]),
    "an even modulus": (10, ["--prime", 2**20], ["must be prime, got 1048576 = 2·2·", "nearest below: 1048573"]),
    "a modulus too large": (10, ["--prime", 2**31 + 11], ["must be an odd prime below 2^31, got 2147483659"]),
    "no iterations": (10, ["--iterations", 0], ["--iterations must be at least 1, got 0"]),
    "an unknown learning rate": (10, ["--learning-rate", "fast"], ["--learning-rate must be 2/L, 1/L", "got fast"]),
    "a coefficient that vanishes": (
        10,
        ["--paper", "--coefficient-bits", 1],
        ["--coefficient-bits must be at least 2", "got 1"],
    ),
    "an unknown set": (10, ["--dataset", "mnits"], ["data set must be one of", "got mnits", "did you mean mnist?"]),
    "a set that is not there": (
        10,
        ["--dataset", "mnist", "--data-dir", "{folder}"],
        ["mnist must be fetched first (fedmpi data fetch mnist)"],
    ),
    "a file that is not there": (10, ["--dataset", "{folder}/no.csv"], ["data file must exist, got", "no.csv"]),
    "an empty file": (10, ["--dataset", "{empty}"], ["must have rows of data, got an empty file"]),
    "no rows": (10, ["--dataset", "{no rows}"], ["must have rows and columns, got shape (0, 3)"]),
    "one class": (10, ["--dataset", "{one class}"], ["must have at least two classes, got one-class data"]),
    "one class asked for": (10, ["--dataset", "digits", "--classes", 4], ["must have at least two classes"]),
    "an unknown class": (10, ["--dataset", "digits", "--classes", 4, "x"], ["class of digits must be one of", "got x"]),
    "NaN": (10, ["--dataset", "{nan}"], ["nan.csv"]),
    "infinity": (10, ["--dataset", "{inf}"], ["inf.csv"]),
    "text": (10, ["--dataset", "{text}"], ["must hold only numbers or only text", "seven"]),
    "a class lost by --max-rows": (10, ["--dataset", "digits", "--max-rows", 1], ["must have a training row"]),
    "no rows wanted": (10, ["--max-rows", 0], ["max_rows must be at least 1, got 0"]),
    "no test rows": (10, ["--test-fraction", 1.5], ["test_fraction must lie in [0, 1), got 1.5"]),
    "a negative seed": (10, ["--seed", -1], ["--seed must be at least 0, got -1"]),
    "no time": (10, ["--timeout", 0], ["--timeout must be positive, got 0"]),
    "never evaluated": (10, ["--evaluate-every", 0], ["--evaluate-every must be at least 1, got 0"]),
    "classes of a regression": (
        10,
        ["--model", "linear", "--dataset", "digits", "--classes", 1, 2],
        ["classes must be empty for regression"],
    ),
    "a linear model without a target": (10, ["--model", "linear"], ["--model linear must have a --dataset"]),
    "a linear model of degree 2": (10, ["--model", "linear", "-r", 2], ["--degree must be 1 for a linear model"]),
    "a configuration that is not there": (10, ["--config", "{folder}/no.toml"], ["--config must be a readable file"]),
    "values too large for p": (
        10,
        ["--paper", "--dataset", "{large}", "--scale", "none"],
        ["quantized features must be below p/2 = 16777196", "got 4e+09", "--data-bits", "--scale column"],
    ),
    "too small a p": (
        10,
        ["--paper", "--prime", 10007],
        ["decoded values must be below p/2 = 5004, got", "in iteration 50", "take --primes 2, or leave out"],
    ),
    "too small a field": (
        10,
        ["--dataset", "{wide}", "--prime", 1000003, "--data-bits", 9],
        ["the range of the field must leave rounding errors of at most 25% for", "modulo 1000003: take --primes 2 or"],
    ),
}


def refusal(capsys: pytest.CaptureFixture[str], workers: int, *argv: Any) -> str:
    """The one line of a usage error."""
    with pytest.raises(UsageError) as error:
        command_on_threads(workers, *argv)
    printed = capsys.readouterr()
    assert error.value.exit_code == 2
    assert "\n" not in str(error.value)
    others = [line for line in printed.err.splitlines() if "must be on one machine" not in line]
    assert others == [], "the one line is all there is"
    return str(error.value)


@pytest.mark.parametrize("name", REFUSED)
def test_a_broken_rule_is_one_line_with_the_rule_and_the_value_and_nothing_is_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    workers, options, texts = REFUSED[name]
    folder = tmp_path / "in"
    folder.mkdir()
    known = {f"{{{key}}}": str(path) for key, path in files(folder).items()} | {"{folder}": str(folder)}
    argv = []
    for option in map(str, options):
        for key, value in known.items():
            option = option.replace(key, value)
        argv.append(option)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("FEDMPI_DATA", raising=False)
    before = sorted(path.name for path in folder.iterdir())
    text = refusal(capsys, workers, *argv, "--out", tmp_path / "run")
    assert [part for part in texts if part not in text] == []
    assert sorted(path.name for path in folder.iterdir()) == before
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").iterdir()), "something is half-written"


def test_weights_that_grow_too_large_for_p(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--paper", "--iterations", 400, "--learning-rate", 1000, "--quiet", "--out", tmp_path / "run"]
    text = refusal(capsys, 10, *argv)
    assert text.startswith("decoded values must be below p/2 = 16777196, got ")
    assert "--weight-bits" in text
    written = {path.name for path in (tmp_path / "run").iterdir()} if (tmp_path / "run").exists() else set()
    assert not written & {"model.npz", "result.json"}


@pytest.mark.parametrize("name", ["too small a p", "values too large for p", "too small a field"])
def test_what_does_not_fit_in_p_is_a_headroom_error(name: str, tmp_path: Path) -> None:
    workers, options, _ = REFUSED[name]
    paths = files(tmp_path)
    argv = [paths.get(str(option).strip("{}"), option) for option in options]
    with pytest.raises(HeadroomError):
        command_on_threads(workers, *argv, "--out", tmp_path / "run")


@pytest.mark.parametrize("name", ["too small a p", "too small a field", "weights that grow", "values too large for p"])
def test_what_the_headroom_error_says_helps(name: str, tmp_path: Path) -> None:
    """Each remedy that is named, alone, is enough."""
    paths = files(tmp_path)
    grow = (10, ["--paper", "--iterations", 60, "--learning-rate", 30], [])
    workers, options, _ = grow if name == "weights that grow" else REFUSED[name]
    argv = [paths.get(str(option).strip("{}"), option) for option in options]
    with pytest.raises(HeadroomError) as error:
        command_on_threads(workers, *argv, "--out", tmp_path / "run")
    advice = str(error.value).rpartition(": ")[2] if "follow" not in str(error.value) else str(error.value)
    remedies = [given.split() for given in re.findall(r"--(?:primes|data-bits|scale) \w+", advice)]
    assert bool(remedies) == (name != "weights that grow"), "nothing else helps weights that diverge"
    without_prime = [o for i, o in enumerate(argv) if o != "--prime" and (i == 0 or argv[i - 1] != "--prime")]
    tried = []
    for remedy in remedies:
        base = without_prime if remedy[0] == "--primes" else argv
        tried.append([*base, *remedy])
    if "leave out" in str(error.value):
        tried.append([option for option in without_prime if option != "--paper"])
    for number, again in enumerate(tried):
        command_on_threads(workers, *again, "--quiet", "--no-compare", "--out", tmp_path / f"run-{number}")
        assert result_of(tmp_path / f"run-{number}")["metrics"]["headroom_bits"] >= 0


def test_a_run_that_failed_does_not_show_in_the_next_one(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(HeadroomError):
        command_on_threads(7, "--paper", "--iterations", 400, "--learning-rate", 1000, "--out", out)
    assert not (out / "result.json").exists()
    with pytest.raises(UsageError, match="--out must be a new folder"):
        command_on_threads(7, "--iterations", 2, "--out", out)


def test_a_folder_that_holds_a_run_is_left_alone(digits: Path) -> None:
    before = {path: path.read_bytes() for path in digits.rglob("*.*")}
    with pytest.raises(UsageError, match=r"--out must be a new folder, got .*digits, which holds a run"):
        command_on_threads(10, "--out", digits)
    assert {path: path.read_bytes() for path in digits.rglob("*.*")} == before


def test_a_folder_that_can_not_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="--out must be a folder that can be made"):
        command_on_threads(10, "--out", tmp_path / "file" / "run")
    with pytest.raises(UsageError, match="--out must be a folder that can be made"):
        command_on_threads(10, "--out", tmp_path / "file")


@pytest.mark.parametrize(
    ("options", "texts"),
    [
        (["--iteration-count", "5"], ["--iteration-count"]),
        (["--iterations", "many"], ["--iterations", "many"]),
        (["--method", "magic"], ["--method", "magic", "coded", "plain"]),
        (["--case", "3"], ["--case", "3"]),
    ],
)
def test_an_option_that_the_parser_refuses(
    options: list[str], texts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refusal(capsys, 10, *options, "--out", tmp_path / "run")
    assert [text for text in texts if text not in message] == []
    assert not (tmp_path / "run").exists()


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        command_on_threads(10, "--help")
    assert end.value.code == 0
    out = capsys.readouterr().out
    for option in ("-K", "-T", "-r", "--dataset", "--classes", "--learning-rate", "--prime", "--config", "--dry-run"):
        assert option in out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("iterations = ", "--config must be TOML"),
        ("iteration = 5", "options, got iteration; did you mean iterations?"),
        ("[params]\niterations = 5", "must be options, got params"),
        ("iterations = 0", "--iterations must be at least 1, got 0"),
    ],
)
def test_a_configuration_that_is_wrong(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    assert message in refusal(capsys, 10, "--config", path, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()
