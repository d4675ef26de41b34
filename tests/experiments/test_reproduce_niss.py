"""fedmpi reproduce niss: which runs it asks for, and what it makes of them."""

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedmpi.attacks.gradients import gradient_of
from fedmpi.cli import main
from fedmpi.data import load
from fedmpi.errors import UsageError
from fedmpi.learn import build_model, client_rows
from fedmpi.niss.accounting import Ledger, noise_of_model
from fedmpi.niss.params import Params
from fedmpi.reproduce.niss import epsilon, pages, reproduce, uploads
from fedmpi.reproduce.niss.experiments import points_of
from fedmpi.reproduce.niss.settings import FULL, QUICK, Panel, Scale
from fedmpi.runs import batch as jobs
from fedmpi.runs.options import parse

SCALE = Scale("quick", ("mnist", "cifar10"), ("mlp", "cnn"), (0.03, 0.1), 5, True, 3, 4, 2, 7)


def stated_result(params: Params) -> dict[str, Any]:
    """Of a run with the paper's own numbers, and one epoch of 60 batches for 30 clients with equal rows."""
    multiplier = params.std(1 / 30, 600) / params.sensitivity(1 / 30, 600)
    shares = {"shares": {"largest": params.share_count or 7}} if params.method == "niss" else {}
    privacy = {"noise_multiplier": multiplier, "delta": 1e-4, "upload": {"rdp": 30.0}, "model": {"rdp": None}}
    return {"metrics": {"test_accuracy": 0.5, "noise_std": 0.1, **shares}, "privacy": privacy}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[Params, Any]]:
    """What train was asked for, read by the system's own parser; accuracy falls with noise and τ²."""
    calls: list[tuple[Params, Any]] = []

    def train(
        folder: Path, ranks: int, options: Sequence[str], system: str, *, resume: bool, slurm: bool = False
    ) -> dict[str, Any]:
        assert (system, resume) == ("niss", False)
        if folder.name.startswith("uploads-"):
            return {}
        assert ranks == 4
        params, run = parse(Params, list(options), "test", "")
        if folder.name.startswith("stated-"):
            return stated_result(params)
        calls.append((params, run))
        left = {"fedavg": 0.0, "dp-fedavg": 1.0}.get(params.method, params.tau2)
        reached = 0.9 - left * (params.noise_std or 0) - 0.01 * (run.seed - 1)
        folder.mkdir(parents=True)
        lines = [{"iteration": t, "test_accuracy": reached * t / 5} for t in (0, 1, 5)]
        (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
        told = {"metrics": {"test_accuracy": reached}}
        if params.method == "fedavg":
            return told
        epsilon = {"upload": {"rdp": 30.0 + run.seed}, "model": {"rdp": 10 / left}}
        return told | {"privacy": epsilon | {"delta": 1e-4}}

    monkeypatch.setattr(jobs, "train", train)
    monkeypatch.setattr(jobs, "AT_ONCE", 1)  # the parser is not for threads
    monkeypatch.setattr(uploads, "attack_all", lambda out, *settings: (*settings[:-2], settings[-1]))
    monkeypatch.setattr(pages, "figure4", lambda out, settings: f"Figure 4 of {settings}")
    for files in (
        [
            f"mnist/{part}-ubyte.gz"
            for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
        ],
        ["cifar10/train.npz", "cifar10/test.npz"],
    ):
        for name in files:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
    return calls


def test_every_setting_is_run_and_drawn(asked: list[tuple[Params, Any]], tmp_path: Path) -> None:
    report = reproduce(SCALE, tmp_path / "out", tmp_path).read_text()
    settings = {(run.dataset, params.partition, params.model) for params, run in asked}
    assert len(settings) == 8
    assert len(asked) == 8 * (1 + 2 * 4) * 3
    assert {run.seed for _, run in asked} == {0, 1, 2}
    mine = [params for params, run in asked if (run.dataset, params.partition, params.model) == ("mnist", "iid", "mlp")]
    assert [p.method for p in mine].count("dp-fedavg") == 2 * 3
    assert {p.tau2 for p in mine if p.method == "niss"} == {0.3, 0.6, 1.0}
    assert {round((p.noise_std or 0) * 30**0.5, 6) for p in mine if p.method != "fedavg"} == {0.03, 0.1}
    assert {(p.rounds, p.clients, p.fraction) for p in mine} == {(5, 100, 0.3)}
    with (tmp_path / "out" / "figure3.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if (row["setting"], row["noise"]) == ("mnist, IID, MLP", "0.1")]
    assert [row[""] for row in rows] == ["τ² = 0", "τ² = 0.3", "τ² = 0.6", "τ² = 1", "DP-FedAvg"]
    lost = 100 * 0.1 / 30**0.5
    assert [row["test accuracy"] for row in rows][::4] == ["90.00 % ± 1.00", f"{90 - lost:.2f} % ± 1.00"]
    assert {row["ε of uploads"] for row in rows} == {"32"}, "of the worst seed; and of τ² = 0 as of the others"
    assert [row["ε of models"] for row in rows] == ["none", "33.3", "16.7", "10", "10"]
    assert [(row["gain"], row["paper's gain"]) for row in rows] == [("", "")] * 3 + [
        (f"{lost:.1f}", "12 to 13"),
        ("", ""),
    ]
    assert "| mnist, IID, MLP | 0.1 | τ² = 0.3 | " in report
    assert "| NISS, v = 1 | 1 | 0.1 | 50.00 % | 30 | none |" in report
    assert "an upload with it has ε = 10.6, exactly" in report, "Theorem 1 is not enough for ε = 10"
    assert report.splitlines()[-1] == f"Figure 4 of ('cifar10', 2, 7, {tmp_path!r})"
    for name in ("figure3.png", "rounds.png"):
        assert (tmp_path / "out" / name).stat().st_size > 20_000


def test_a_missing_data_set_is_said_before_any_run(asked: list[tuple[Params, Any]], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="data set cifar10 must be there: fedmpi data fetch cifar10"):
        (tmp_path / "cifar10" / "test.npz").unlink()
        reproduce(FULL, tmp_path / "out", tmp_path)
    assert not asked


def test_some_panels_only(asked: list[tuple[Params, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = reproduce(SCALE, tmp_path / "out", tmp_path, "mnist-iid").read_text()
    assert {(run.dataset, params.partition) for params, run in asked} == {("mnist", "iid")}
    assert {params.model for params, _ in asked} == {"mlp", "cnn"}
    assert "Figure 4 of ('mnist'" in report
    assert "The paper's own numbers" in report
    with pytest.raises(UsageError, match=r"--only must be epsilon, or begin like one of mnist-iid-mlp, .*, got svhn"):
        reproduce(SCALE, tmp_path / "out", tmp_path, "svhn")
    assert main(["reproduce", "spn", "--only", "mnist"]) == 2
    assert capsys.readouterr().err == "fedmpi: error: --only must be used with niss, got spn\n"


def test_a_reduced_panel_is_run_where_it_is_asked_for(asked: list[tuple[Params, Any]], tmp_path: Path) -> None:
    scale = replace(SCALE, models=("mlp",), asked=(Panel("mnist", "iid", "cnn", 6000),))
    report = reproduce(scale, tmp_path / "out", tmp_path, "mnist-iid-cnn").read_text()
    assert {(run.max_rows, run.seed, params.model) for params, run in asked} == {(6000, 0, "cnn")}
    assert len(asked) == 1 + 4
    assert "| mnist, IID, CNN, 6000 rows | 0.03 | τ² = 1 | " in report
    assert "One seed" in report
    assert "The paper's own numbers" not in report


@pytest.mark.slow
def test_a_run_under_mpirun(tmp_path: Path) -> None:
    panel = Panel("digits", "iid", "mlp")
    scale = Scale("quick", ("digits",), ("mlp",), (0.1,), 1, False, 1, 3, 1, 1)
    method, _, _, (run,) = next(points_of(panel, scale, tmp_path, None))
    assert method == "fedavg"
    assert 0 < jobs.train_all([run])[run.folder]["metrics"]["test_accuracy"] < 1


# -- Figure 4 -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_server_reads_the_gradient_from_a_real_upload_and_noise_hides_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The positive control first: FedAvg's upload is the gradient of the client's row, and the attack gets on."""
    kinds = uploads.kinds()
    monkeypatch.setattr(uploads, "kinds", lambda: [kinds[0], kinds[-1]])
    results = jobs.train_all(uploads.runs(tmp_path, "digits", None))
    text = pages.figure4(tmp_path, uploads.attack_all(tmp_path, "digits", 1, 3, results, None))
    data = load("digits", max_rows=uploads.CLIENTS, seed=0)
    parts = client_rows("iid", data.y_train, uploads.CLIENTS, 0)
    model = build_model(uploads.MODEL, (1, 8, 8), 10, 0, torch.float64)
    plain, hidden = (uploads.view(tmp_path / "runs" / f"uploads-digits-{i}") for i in range(2))
    for client in (0, 1):
        X = torch.tensor(data.X_train[parts[client]] / data.X_train.max()).reshape(1, 1, 8, 8)
        true = gradient_of(model, X, torch.tensor(data.y_train[parts[client]]))
        largest = max(float(part.abs().max()) for part in true)
        for expected, got, noisy in zip(
            true,
            uploads.gradient(plain, client, model),
            uploads.gradient(hidden, client, model),
            strict=True,
        ):
            np.testing.assert_allclose(got, expected, atol=1e-6 * largest)
            assert (noisy - expected).std() > 0.5
    fedavg, shared = (line.strip("| ").split(" | ") for line in text.splitlines()[-2:])
    assert (fedavg[0], shared[0]) == ("FedAvg", "NISS, τ² = 1")
    assert float(fedavg[4]) < float(shared[4])
    assert fedavg[-1] == "none"
    assert float(shared[-1]) > 0
    error = 3**0.5 * uploads.NOISE[-1]
    assert float(shared[2]) == pytest.approx(error, rel=0.1), "noise of its own, what it received, and its distortion"
    assert (tmp_path / "figure4.png").stat().st_size > 5_000


def test_the_noise_of_each_kind_is_what_the_figure_of_epsilon_says(tmp_path: Path) -> None:
    """It is z times the sum's sensitivity, in the view that a curve is of; and the figure and its table are drawn."""
    results: dict[tuple[str, float, int], Any] = {}
    for (kind, z, seed), run in epsilon.runs(QUICK, tmp_path).items():
        params, _ = parse(Params, list(run.options), "test", "")
        assert (params.method, params.clients_per_round(60)) == (kind, 60)
        ledger = {"upload": {"rdp": 100.0}, "model": {"rdp": 10.0}}
        if z:
            rows, h = np.full(60, 24), 650
            noise = noise_of_model(params, rows, np.arange(60), 60, h)
            own = Ledger.of_training(params, rows, [noise] * 10, [np.arange(60)] * 10, h)
            counted = own.multiplier if kind == "distributed-dp" else noise
            assert counted == pytest.approx(z, rel=1e-5), kind
            ledger = {"upload": {"rdp": own.upload("rdp")}, "model": {"rdp": own.model("rdp")}}
        metrics = {"test_accuracy": 0.9 if not z else 0.9 / (1 + z)}
        results[kind, z, seed] = {"metrics": metrics, "privacy": {"delta": 1e-4} | ledger}
    page = epsilon.write(tmp_path / "out", results).read_text()
    assert (tmp_path / "out" / "epsilon.png").stat().st_size > 10_000
    rows_of = [line for line in page.splitlines() if line.startswith("| central")]
    assert len(rows_of) == len(epsilon.LEVELS + epsilon.FARTHER)
    shown = {line.split("|")[1].strip(): line.split("|")[3].strip() for line in page.splitlines() if "| 2.8 |" in line}
    assert shown["distributed-dp"] == shown["central (dp-fedavg, models)"] == shown["NISS, τ² = 0.5, models"]
