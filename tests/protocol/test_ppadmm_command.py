"""The command line of PPADMM, with threads for the other ranks: what it writes, prints, refuses, and goes on from."""

import json
import re
import stat
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from protocol.ppadmm_threads import command_on_threads

from fedmpi.data import load
from fedmpi.errors import Interrupted, TooFewWorkers, UsageError
from fedmpi.ppadmm.checkpoints import RunKeeper
from fedmpi.ppadmm.protocol import State

SMALL = ["--dataset", "synthetic-lasso:n=400,d=20,noise=5,test=50"]
FILES = {"config.toml", "metrics.jsonl", "frames.jsonl", "result.json", "model.npz", "model.json", "log.txt"}


def result_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def model_of(folder: Path) -> tuple[np.ndarray, float]:
    with np.load(folder / "model.npz", allow_pickle=False) as model:
        assert set(model.files) == {"coefficients", "intercept"}
        return model["coefficients"], float(model["intercept"])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    command_on_threads(4, *SMALL, "--out", out, "--seed", 3)
    return out


# -- the folder ---------------------------------------------------------------------------------------------------


def test_a_run_leaves_these_files_and_a_right_model(run: Path) -> None:
    assert {path.name for path in run.iterdir()} == FILES
    data = load(SMALL[1], regression=True, seed=3)
    summary, (coefficients, intercept) = result_of(run), model_of(run)
    error = np.sqrt(np.mean((data.X_test @ coefficients + intercept - data.y_test) ** 2))
    metrics = summary["metrics"]
    assert metrics["test_rmse"] == pytest.approx(error)
    assert metrics["mped"] == pytest.approx(np.linalg.norm(coefficients - data.coefficients))
    assert metrics["distance_to_centralized"] < 1e-6
    assert metrics["centralized"]["test_rmse"] == pytest.approx(error, abs=1e-6)
    assert (summary["system"], summary["method"], summary["ranks"]) == ("ppadmm", "ppadmm", 6)
    assert summary["roles"] == {"primary_server": 1, "auxiliary_server": 1, "participant": 4}
    assert summary["dataset"]["m"] == 400
    assert summary["failures"] == []
    assert summary["resumed_from"] is None
    assert {"startup", "encode", "communicate", "compute", "decode", "total"} <= summary["seconds"].keys()
    assert {"mpi", "python", "hosts"} <= summary["environment"].keys()


def test_metrics_jsonl_has_a_line_for_each_iteration_and_the_end(run: Path) -> None:
    lines = lines_of(run)
    done = result_of(run)["metrics"]["iterations"]
    assert [line["iteration"] for line in lines] == list(range(done + 1))
    assert lines[-1]["test_rmse"] == result_of(run)["metrics"]["test_rmse"]
    times = [line["training_seconds"] for line in lines]
    assert 0 <= times[0] < 0.1
    assert all(np.diff(times) >= 0)


def test_config_toml_makes_the_same_run(run: Path, tmp_path: Path) -> None:
    assert tomllib.loads((run / "config.toml").read_text())["seed"] == 3
    command_on_threads(4, "--config", run / "config.toml", "--out", tmp_path / "again")
    np.testing.assert_array_equal(model_of(run)[0], model_of(tmp_path / "again")[0])


def test_json_prints_the_result_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command_on_threads(3, *SMALL, "--out", tmp_path / "run", "--json", "--iterations", 3)
    assert json.loads(capsys.readouterr().out) == result_of(tmp_path / "run")


@pytest.mark.parametrize("method", ["ppadmm", "admm", "dssgd"])
def test_a_dry_run_says_what_would_be_sent(method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command_on_threads(3, *SMALL, "--dry-run", "--method", method, "--out", tmp_path / "run")
    out = capsys.readouterr().out
    assert "ranks 2 to 4: participants" in out
    assert not (tmp_path / "run").exists()
    if method == "dssgd":
        assert "costs ε = 1, all of them 500" in out
    else:
        assert "160 bytes to and" in out


def test_methods_agree_where_they_should(tmp_path: Path) -> None:
    for method in ("ppadmm", "admm", "dssgd"):
        command_on_threads(3, *SMALL, "--out", tmp_path / method, "--method", method, "--iterations", 30, "--quiet")
    metrics = {method: result_of(tmp_path / method)["metrics"] for method in ("ppadmm", "admm", "dssgd")}
    assert metrics["ppadmm"]["test_rmse"] == pytest.approx(metrics["admm"]["test_rmse"], rel=2**-30)
    assert metrics["dssgd"]["test_rmse"] > 2 * metrics["admm"]["test_rmse"]
    assert lines_of(tmp_path / "dssgd")[-1]["iteration"] == 30


@pytest.mark.parametrize(
    ("options", "closing", "warning"),
    [
        (
            ("--iterations", "4"),
            "4 iterations, not converged",
            "had not converged after 4 iterations: raise --iterations",
        ),
        (
            ("--fraction-bits", "20"),
            "not converged",
            "updates of 20 bits behind the point are too coarse for a tolerance",
        ),
        (("--rho", "1e20"), "not converged", "could not converge: updates of 40 bits"),
    ],
)
def test_a_run_that_has_not_converged_says_so(
    options: tuple[str, ...], closing: str, warning: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ("--dataset", "synthetic-lasso:n=60,d=5,test=20", "--iterations", "60")
    command_on_threads(3, *data, *options, "--out", tmp_path / "run")
    printed = capsys.readouterr().out
    assert closing in printed
    [text] = result_of(tmp_path / "run")["warnings"]
    assert warning in text
    assert f"WARNING: {text}" in printed


def test_a_file_of_ones_own_split_by_a_column(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3))
    y = X @ [1.0, -2.0, 0.0] + 4
    lines = ["site,a,b,c,cost"] + [
        f"{'pqr'[k % 3]},{','.join(map(str, row))},{target}" for k, (row, target) in enumerate(zip(X, y, strict=True))
    ]
    (tmp_path / "data.csv").write_text("\n".join(lines))
    options = ["--dataset", tmp_path / "data.csv", "--label-column", "cost", "--split-by", "site", "--penalty", 0]
    command_on_threads(3, *options, "--out", tmp_path / "run", "--quiet")
    coefficients, intercept = model_of(tmp_path / "run")
    np.testing.assert_allclose([*coefficients, intercept], [1, -2, 0, 4], atol=1e-8)
    assert result_of(tmp_path / "run")["metrics"]["mped"] < 1e-6, "to the centralized model"
    with pytest.raises(UsageError, match="must have at least 4 values, one a participant, got 3"):
        command_on_threads(4, *options, "--out", tmp_path / "other")


# -- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--classes", "1", "2"], "--classes must not be given for a regression, got 1 2"),
        (["--record-views"], "--record-views must stand on the command line, together with --out"),
        (["--checkpoint-every", "3"], "--checkpoint-every must be given with --out"),
        (["--inject", "kill=3"], "--inject must not be given"),
        (["--deadline", "700"], "--deadline must be at most --timeout, 600, got 700"),
        (
            ["--min-participants", "4"],
            "N must be at least 4, got N=3 (start 6 ranks or more",
        ),
        (["--label-column", "a"], "label_column must be given for tables and .npz files only"),
    ],
)
def test_options_that_contradict_one_another(options: list[str], text: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=re.escape(text)):
        command_on_threads(3, *SMALL, *options)


# -- stopping and going on ----------------------------------------------------------------------------------------

KEPT = [*SMALL, "--iterations", "24", "--tolerance", "0", "--quiet", "--no-compare"]


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that a signal stopped after 13 iterations."""
    advance = RunKeeper.advance

    def interrupted(keeper: RunKeeper, state: State) -> None:
        if state.iteration == 13:
            raise Interrupted("stopped by SIGTERM", 143)
        advance(keeper, state)

    command_on_threads(4, *KEPT, "--out", tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="go on after iteration 13 with --resume"):
        patch.setattr(RunKeeper, "advance", interrupted)
        command_on_threads(4, *KEPT, "--out", tmp_path / "run", "--checkpoint-every", 5)
    return tmp_path / "run"


@pytest.mark.parametrize("options", [[], ["--mask", "sha256", "--rekey-every", "2"]])
def test_a_resumed_run_ends_with_the_same_bits(stopped: Path, options: list[str]) -> None:
    command_on_threads(4, "--resume", stopped, *options)
    np.testing.assert_array_equal(model_of(stopped)[0], model_of(stopped.parent / "whole")[0])
    assert result_of(stopped)["resumed_from"] == 13
    assert [line["iteration"] for line in lines_of(stopped)] == list(range(25))


def test_a_run_that_was_killed_goes_on_from_its_last_checkpoint(stopped: Path) -> None:
    for path in (stopped / "checkpoints").glob("000013*"):
        path.unlink()
    command_on_threads(4, "--resume", stopped)
    np.testing.assert_array_equal(model_of(stopped)[0], model_of(stopped.parent / "whole")[0])
    assert result_of(stopped)["resumed_from"] == 10


def test_everyone_keeps_its_own_and_no_key_or_mask(stopped: Path) -> None:
    for rank in (2, 3, 4, 5):
        folder = stopped / "participants" / f"rank-{rank}"
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert sorted(path.name for path in folder.glob("checkpoints/*.npz")) == [
            "000005.npz",
            "000010.npz",
            "000013.npz",
        ]
        with np.load(folder / "checkpoints" / "000013.npz") as file:
            assert set(file.files) == {"state", "means", "scales", "rho", "u", "norms"}
            assert file["u"].any()
    with np.load(stopped / "checkpoints" / "000013.npz") as file:
        assert set(file.files) == {"state", "z", "means", "scales"}
        state = json.loads(file["state"].tobytes())
    assert set(state) == {
        "iteration", "members", "rho", "curvature", "dual_residual", "configuration", "layouts",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "participants", "text"),
    [
        (["--penalty", "11"], 4, "--resume must keep penalty as the run began"),
        (["--seed", "1"], 4, "--resume must keep seed as the run began"),
        ([], 5, "--resume must keep participants as the run began, 4, got 5"),
    ],
)
def test_another_configuration_is_refused(stopped: Path, options: list[str], participants: int, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        command_on_threads(participants, "--resume", stopped, *options)


def test_other_data_are_refused_by_the_participant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 3)), rng.normal(size=40)
    np.savez(tmp_path / "data.npz", X=X, y=y)
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(RunKeeper, "advance", lambda keeper, state: raise_(Interrupted("stopped", 143)))
        command_on_threads(3, "--dataset", tmp_path / "data.npz", "--out", tmp_path / "run", "--quiet")
    np.savez(tmp_path / "data.npz", X=X + 1, y=y)
    with pytest.raises(Exception, match="--resume must keep data as the run began") as error:
        command_on_threads(3, "--resume", tmp_path / "run")
    assert error.value.exit_code == 2


def raise_(error: Exception) -> None:
    raise error


def test_dssgd_goes_on_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="go on after iteration 1 with"):
        patch.setattr(RunKeeper, "advance", lambda keeper, state: raise_(Interrupted("stopped", 143)))
        command_on_threads(4, *KEPT, "--method", "dssgd", "--out", tmp_path / "run")
    command_on_threads(4, "--resume", tmp_path / "run")
    assert result_of(tmp_path / "run")["resumed_from"] == 1
    assert [line["iteration"] for line in lines_of(tmp_path / "run")] == list(range(25))


def test_without_a_folder_that_all_know_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(RunKeeper, "advance", lambda keeper, state: raise_(TooFewWorkers("gone")))
    with pytest.raises(TooFewWorkers, match="gone; no checkpoint was written, for want of --out"):
        command_on_threads(4, *KEPT)
    assert not list(tmp_path.rglob("checkpoints"))
