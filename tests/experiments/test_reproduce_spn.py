"""`fedmpi reproduce spn`: which runs it makes, and what it says of their results."""

import csv
from collections.abc import Sequence
from itertools import count, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmpi.crypto.random import SecretStream
from fedmpi.data import Entry
from fedmpi.reproduce import shared
from fedmpi.reproduce.spn import FULL, QUICK, experiments, paper, reproduce
from fedmpi.reproduce.spn.gradients import gradients
from fedmpi.reproduce.spn.mechanisms import mechanisms
from fedmpi.reproduce.spn.members import SHARED, members
from fedmpi.reproduce.spn.ratios import Perturbed, ratios
from fedmpi.reproduce.spn.settings import Scale, federations
from fedmpi.runs import batch as jobs

RMSE = {"dp": 0.4, "ppdl": 0.5, "spn": 1.2}
ACCURACY = {"fedavg": 0.7, "dp": 0.5, "ppdl": 0.6, "spn": 0.69, "standalone": 0.3}


def option(options: Sequence[str], name: str, default: str = "") -> str:
    return options[options.index(name) + 1] if name in options else default


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """Replace trainings and attacks by results that are known."""
    made: list[tuple[str, list[str]]] = []

    def train(
        folder: Path, ranks: int, options: Sequence[str], system: str, *, resume: bool, slurm: bool = False
    ) -> dict[str, Any]:
        assert (ranks, resume) == (1 if system == "attacks" else 2, False)
        made.append((system, list(options)))
        if system == "spn":
            return {"metrics": {"test_accuracy": ACCURACY[option(options, "--method")]}}
        cases, size = int(option(options, "--cases")), int(option(options, "--batch-size"))
        folder.mkdir(parents=True)
        rng = np.random.default_rng(0)
        original = rng.random((cases * size, 3, 8, 8))
        blind = option(options, "--defence") == "spn" and option(options, "--attack") == "dlg"
        found = rng.random(original.shape) if blind else original
        np.savez(folder / "images.npz", original=original, found=found)
        rmse = 0.2 if option(options, "--attack") == "secret-head" else RMSE[option(options, "--defence")]
        metrics = {"mean_rmse": rmse, "membership_distance": 0.25, "idlg_labels_right": cases if size == 1 else None}
        return {"cases": [{"ratio": 1.0}] * cases, "metrics": metrics}

    monkeypatch.setattr(jobs, "train", train)
    monkeypatch.setattr(
        experiments, "gradients", lambda dataset, data_dir: gradients("digits", None, rows=60, epochs=1)
    )
    monkeypatch.setattr(
        experiments, "ratios", lambda *_: {"27: SPN, 64 bits": Perturbed(1.25, 0.5), "28: SPN": Perturbed(1, None)}
    )
    told = members("digits", None, mechanisms((0.1,), ()), 20)
    monkeypatch.setattr(experiments, "members", lambda dataset, data_dir, mechanisms: told)
    monkeypatch.setattr(shared, "catalogue", lambda _: [Entry("cifar10", True, "", "", "")])
    return made


def test_report(runs: list[tuple[str, list[str]]], tmp_path: Path) -> None:
    panels = federations(("cifar10", "svhn"), {"alexnet": ()}, (2, 4), ("--rounds", "2"))
    scale = Scale("quick", ("cifar10", "svhn"), {1: 12, 4: 12}, mechanisms((0.1,), (0.5,)), 5, 3, 100, panels)
    report = reproduce(scale, tmp_path).read_text()
    with (tmp_path / "cap-cifar10.csv").open() as file:
        caps = {(row["mechanism"], row["batch"]): row for row in csv.DictReader(file)}
    assert float(caps["SPN", "1"]["reconstruction"]) == pytest.approx(0.69 * 1.2)
    assert float(caps["SPN", "1"]["rMSE at most 1"]) == pytest.approx(0.69)
    assert float(caps["DP", "1"]["membership"]) == pytest.approx(0.5 * 0.25)
    assert float(caps["DP", "4"]["tracing"]) == 0
    assert float(caps["SPN", "1"]["tracing"]) > 0.2
    assert ("SPN, secret-head attack", "4") not in caps
    assert "0.69 / 0.24 / 0.61" in report
    assert "0.70 / 0.50 / 0.63" in report  # batches of 4
    assert "| 27: SPN, 64 bits | 1.25 |" in report
    assert "tracing: SPN > " in report
    assert "| SPN | 0.1 | " in report.partition("## 1000 rows")[2]
    for figure in ("figure4", "figure5-cifar10", "figure6-cifar10", "figure28"):
        assert (tmp_path / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
        assert f"({figure}.png)" in report
    with (tmp_path / "table11-cifar10.csv").open() as file:
        gaps = {row["mechanism"]: float(row["points below FedAvg"]) for row in csv.DictReader(file)}
    with (tmp_path / "table11-cifar10.csv").open() as file:
        assert {row["mechanism"]: row["paper"] for row in csv.DictReader(file)}["SPN"] == "0.6897"
    assert gaps == pytest.approx({"FedAvg": 0, "DP": 20, "PPDL-0.05": 10, "PPDL-0.3": 10, "SPN": 1})
    trainings = [options for system, options in runs if system == "spn"]
    assert {option(options, "--clients") for options in trainings} == {"10", "2", "4"}
    federated = [options for options in trainings if option(options, "--model") == "alexnet"]
    assert len(federated) == 2 * 2 * 6
    assert {option(options, "--dirichlet-alpha") for options in federated} == {"", "0.9"}
    assert "| cifar10, alexnet, non-IID | 4 | 30.0 % | 70.0 % | 69.0 % | 60.0 % | 60.0 % | 50.0 % |" in report
    assert "## svhn" not in report  # it is not there


def test_gradients_of_both_losses() -> None:
    layers = gradients("digits", None, rows=60, epochs=1)
    assert [layer.name for layer in layers] == [f"{i}.{kind}" for i in (0, 2, 4, 6) for kind in ("weight", "bias")]
    assert all(-1 <= layer.cosine <= 1 and np.abs(layer.polarization).max() > 0 for layer in layers)
    assert len({round(layer.cosine, 6) for layer in layers}) > 1


def test_scales_are_the_paper_s() -> None:
    assert FULL.rounds == 300
    assert tuple(FULL.cases) == tuple(QUICK.cases) == (1, 4, 8)
    assert {size * count for size, count in FULL.cases.items()} == {SHARED} == {1000}
    assert {(f.model, f.dataset, f.partition) for f in FULL.federations} == set(
        product(("alexnet", "vgg16"), FULL.datasets, ("iid", "dirichlet"))
    )
    assert {f.clients for f in FULL.federations} == {(8, 20, 50, 100)}
    by_name = {m.name: m for m in FULL.mechanisms}
    assert by_name["SPN"].values == (0.0001, 0.001, 0.01, 0.1, 0.2, 0.3, 0.4, 0.5)
    assert by_name["DP"].values == (0.0001, 0.001, 0.01, 0.1, 0.5)
    for m in QUICK.mechanisms:
        assert set(m.values) < set(by_name[m.name].values)  # so that each has its row of Table 11
    assert {len(column) for column in paper.ACCURACY.values()} == {23}
    assert paper.ACCURACY["cifar10"]["PPDL-0.3", 0.01] == 0.6783
    assert paper.ACCURACY["svhn"]["SPN", 0.5] == 0.8711


def test_rows_are_named_by_their_gradients_and_much_noise_hides_them() -> None:
    """The positive control is noise of nearly nothing; SPN's public head tells as much."""
    found = {
        (one.mechanism, one.setting): one for one in members("digits", None, mechanisms((20.0,), (1e-4, 50.0)), 50)
    }
    plain, hidden, secret = found["DP", 1e-4], found["DP", 50.0], found["SPN", 20.0]
    assert (plain.labels, plain.tracing, plain.named) == (0, 0, 1)
    assert plain.membership.true_positive_at(0.01) == 1
    assert (hidden.labels > 0.6, hidden.tracing > 0.6, hidden.named < 0.2) == (True, True, True)
    assert (secret.labels == 0, secret.tracing < 0.1, secret.named > 0.9) == (True, True, True)


def test_laplace_noise_and_bits_change_the_ratio_as_their_sizes_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures 26 and 27: at one scale Laplace noise deviates √2 times as far as Gaussian noise; more hides more."""
    keys = (number.to_bytes(32, "big") for number in count())  # of three images the ratios are known to a sixth
    monkeypatch.setattr("fedmpi.reproduce.spn.ratios.SecretStream", lambda: SecretStream(next(keys)))
    monkeypatch.setattr("fedmpi.reproduce.spn.ratios.ATTACKED", 1)
    found = ratios("digits", None, 10, 3)
    gaussian, laplace = (found[f"26: {kind} noise, σ = 0.01"].ratio for kind in ("gaussian", "laplace"))
    assert 1 < gaussian / laplace < 2
    few, many = (found[f"27: SPN, α₂ = 0.1, {bits} bits"].ratio for bits in (32, 128))
    assert few > 1.5 * many
    errors = [found[f"26: gaussian noise, σ = {noise:g}"].rmse for noise in (0.0001, 0.5)]
    assert errors[0] < 0.1 < errors[1]
    assert found["28: SPN, α₂ = 0.1, dlnet"].rmse is None
