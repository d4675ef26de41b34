"""Loggers: TensorBoard, MLflow, W&B and those of other packages get runs, studies and audits as local files."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from report import folders, recorded
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fedmpi.audit import command
from fedmpi.audit.finding import Finding
from fedmpi.cli import main
from fedmpi.errors import UsageError
from fedmpi.runs import loggers
from fedmpi.runs.reading import runs_in

RUNS = ("niss", "fedavg")


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two runs, as a comparison leaves them."""
    recorded.write(tmp_path / "study" / "runs", RUNS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path / "study"


def lines_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def events_of(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return events


@pytest.mark.parametrize("verb", ["report", "watch"])
def test_a_study_in_tensorboard(study: Path, verb: str) -> None:
    assert main([verb, str(study), "--log", "tensorboard"]) == 0
    for name in RUNS:
        events, lines = events_of(study / "runs" / name), lines_of(study / "runs" / name)
        assert [(event.step, event.value) for event in events.Scalars("test_accuracy")] == [
            (line["iteration"], pytest.approx(line["test_accuracy"])) for line in lines
        ]
        if verb == "report":
            (final,) = events.Scalars("final/test_accuracy")
            assert final.step == lines[-1]["iteration"]


def test_a_study_in_mlflow(study: Path) -> None:
    tracking = pytest.importorskip("mlflow.tracking", reason="mlflow is not here: pip install 'fedmpi[mlflow]'")
    loggers.log_runs(["mlflow"], runs_in(study), "study")
    client = tracking.MlflowClient(Path("mlruns").resolve().as_uri())
    runs = client.search_runs([client.get_experiment_by_name("study").experiment_id])
    assert {run.info.run_name for run in runs} == set(RUNS)
    assert {run.info.status for run in runs} == {"FINISHED"}
    for run in runs:
        lines = lines_of(study / "runs" / run.info.run_name)
        history = client.get_metric_history(run.info.run_id, "test_accuracy")
        assert [(one.step, one.value) for one in history] == [(v["iteration"], v["test_accuracy"]) for v in lines]
        assert run.data.params["rounds"] == "15"


def test_a_study_in_wandb_without_a_network(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not here: pip install 'fedmpi[wandb]'")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    loggers.log_runs(["wandb"], runs_in(study), "study")
    for name in RUNS:
        (kept,) = (study / "runs" / name / "wandb").glob("offline-run-*/*.wandb")
        for _ in range(200):  # W&B's own process writes it
            if b"test_accuracy" in kept.read_bytes():
                break
            time.sleep(0.1)
        assert b"test_accuracy" in kept.read_bytes()


class Listed:
    """A logger of another package."""

    found: ClassVar[list[tuple[str, str, int, Mapping[str, float]]]] = []

    def __init__(self, folder: Path, config: Mapping[str, Any], study: str):
        self.folder, self.study = folder, study

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.found.append((self.folder.name, self.study, step, values))

    def close(self) -> None:
        self.found.append((self.folder.name, self.study, -1, {}))


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> type[Listed]:
    entry = SimpleNamespace(name="list", load=lambda: Listed)
    monkeypatch.setattr(loggers, "entry_points", lambda group: [entry] if group == "fedmpi.loggers" else [])
    monkeypatch.setattr(Listed, "found", [])
    return Listed


def test_a_logger_of_another_package(study: Path, listed: type[Listed], capsys: pytest.CaptureFixture[str]) -> None:
    loggers.log_runs(["list"], runs_in(study), "study")
    assert {(folder, of) for folder, of, *_ in listed.found} == {(name, "study") for name in RUNS}
    assert [step for folder, _, step, _ in listed.found if folder == "niss"] == [*range(16), 15, -1]
    assert main(["watch", str(study), "--log", "nothing"]) == 2
    assert "--log must be one of tensorboard, mlflow, wandb, list, got nothing" in capsys.readouterr().err


def test_names_of_an_enemy_go_nowhere(tmp_path: Path, listed: type[Listed]) -> None:
    loggers.log_runs(["list"], [folders.evil(tmp_path / "evil")])
    assert {name for *_, values in listed.found for name in values} == {"train_loss", "final/train_loss"}


def test_an_audit_tells_the_successes_of_each_attack(tmp_path: Path, listed: type[Listed]) -> None:
    finding = Finding("niss", "τ² = 0", "server", "saw", "labels (iDLG)", "claim", True, "right", (0.0, 1.0), 1)
    command._log([finding], ["list"], tmp_path)
    assert listed.found[0][2:] == (0, {"niss/tau2_0/server/labels_iDLG": 0.5})


def test_what_is_not_installed_is_named(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name in loggers.OWN:
        with pytest.raises(UsageError, match=rf'pip install "fedmpi\[{name}\]"'):
            loggers.opened([name], study)
