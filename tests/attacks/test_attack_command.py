"""``python -m fedmpi.attacks``: cases spread over ranks, defences, and what is written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fedmpi.attacks.case import Finding, attack, fresh_model, put, share
from fedmpi.attacks.command import line_of, run, why_not
from fedmpi.attacks.deep_leakage import Reconstruction
from fedmpi.attacks.gradients import gradient_of
from fedmpi.attacks.inverting import Settings as Inversion
from fedmpi.attacks.metrics import spread_of
from fedmpi.attacks.params import Params
from fedmpi.attacks.protocol import Case, Done, follow, lead
from fedmpi.crypto.random import SecretStream
from fedmpi.data import load
from fedmpi.errors import FedmpiError, UsageError
from fedmpi.net import Channel
from fedmpi.net.local import run_local
from fedmpi.runs.folder import RunFolder
from fedmpi.runs.model import write_model

SHAPE = (1, 8, 8)


def batch(seed: int, rows: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.random((rows, *SHAPE)), rng.integers(0, 10, rows)


def test_two_ranks_find_what_one_finds(mpirun: Callable[..., object], tmp_path: Path) -> None:
    options = ["--cases", "2", "--attack", "linear", "--model", "mlp", "--quiet"]
    run_local([lambda ch: run(ch, [*options, "--out", str(tmp_path / "1")])])
    done = mpirun(2, "-m", "fedmpi.attacks", *options, "--out", tmp_path / "2")
    assert done.returncode == 0, done.stderr
    results = [json.loads((tmp_path / str(ranks) / "result.json").read_text()) for ranks in (1, 2)]
    assert results[0]["metrics"]["recovered"] == 2
    assert results[0]["metrics"]["idlg_labels_right"] == 2
    assert results[0]["metrics"]["mean_rmse"] < 1e-5  # a float32 gradient
    assert [case["rmse"] for case in results[0]["cases"]] == [case["rmse"] for case in results[1]["cases"]]
    with np.load(tmp_path / "2" / "images.npz") as z:
        assert z["found"].shape == z["original"].shape == (2, *SHAPE)
        assert np.allclose(z["found"], z["original"], atol=1e-4)


def test_a_batch_is_found_or_the_last_lines_say_why_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*options: str) -> tuple[dict[str, Any], str]:
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        argv = ["--cases", "1", "--batch-size", "4", "--out", str(out), *options]
        run_local([lambda ch: run(ch, argv)])
        return json.loads((out / "result.json").read_text()), capsys.readouterr().out

    found, text = said("--model", "mlp", "--attack", "spear")
    assert (found["metrics"]["recovered"], found["metrics"]["membership_distance"]) == (4, 0)
    assert "why_not" not in found
    assert "not all recovered" not in text
    found, text = said("--model", "mlp", "--attack", "spear", "--defence", "dp", "--noise-std", "0.1")
    assert found["metrics"]["recovered"] == 0
    assert "--defence dp changes the gradient" in text
    _, text = said("--model", "dlnet", "--steps", "1")
    assert "256 unknown numbers" in text
    found, text = said("--model", "logistic", "--attack", "cocktail")
    assert "images are found nearly: a person would recognize " in text
    assert len(found["cases"][0]["psnr"]) == 4


def test_why_not() -> None:
    summary = {"metrics": {"recovered": 0, "rows": 4}}
    assert why_not(Params(), summary, 64, 1000) == ""
    assert "more starts" in why_not(Params(attack="spear", model="mlp", batch_size=4), summary, 64, 1000)
    assert "many batches have it" in why_not(Params(batch_size=4), summary, 64, 200)
    assert "another point" in why_not(Params(batch_size=4), summary, 64, 1000)
    for name in ("dlg", "inverting"):  # whose searches mix rows
        said = why_not(Params(attack=name, model="cnn", batch_size=8), summary, 64, 1000)  # type: ignore[arg-type]
        assert "--attack spear" in said
        assert "--attack cocktail" in said


def test_leader_and_ranks_share_the_cases() -> None:
    params = Params(attack="linear", model="mlp")
    batches = {seed: batch(seed) for seed in range(5)}
    seen: list[int] = []
    findings = run_local([lambda ch: lead(ch, params, batches, 10, lambda seed, _: seen.append(seed)), follow, follow])[
        0
    ]
    assert sorted(seen) == list(findings) == list(batches)
    for seed, (X, _) in batches.items():
        assert np.allclose(findings[seed].reconstruction.images, X, atol=1e-4)


def test_a_case_with_impossible_labels_is_refused() -> None:
    def liar(ch: Channel) -> None:
        ch.send(1, Case("{}", 0, 3, np.zeros((1, *SHAPE)), np.array([3], np.uint64), np.zeros(0)))
        ch.send(1, Done())

    with pytest.raises(FedmpiError, match="labels below 3"):
        run_local([liar, follow])


def test_the_weights_that_a_run_has_trained_are_attacked_on_every_rank(tmp_path: Path) -> None:
    """Killed: weights that stay with the leader; float32 for rows of --dtype float64."""
    model = fresh_model(Params(model="mlp"), SHAPE, 10, 77)
    arrays = {name: value.numpy() for name, value in model.state_dict().items()}
    write_model(RunFolder(tmp_path / "trained", "niss", ""), {"kind": "torch"}, arrays)
    told = ["--attack", "spear", "--model", "mlp", "--batch-size", "2", "--cases", "2", "--dtype", "float64", "--quiet"]
    told += ["--weights", str(tmp_path / "trained")]
    seen: list[list[np.ndarray]] = []

    def watched(params: Params, model: nn.Module, *rest: Any) -> Any:
        seen.append([value.numpy() for value in model.state_dict().values()])
        return share(params, model, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedmpi.attacks.case.share", watched)
        run_local([lambda ch: run(ch, [*told, "--out", str(tmp_path / "out")]), follow])
    for state in seen:
        assert all((mine == trained).all() for mine, trained in zip(state, arrays.values(), strict=True))
    found = json.loads((tmp_path / "out" / "result.json").read_text())
    assert (len(seen), found["metrics"]["recovered"]) == (2, 4)
    assert max(error for case in found["cases"] for error in case["mse"]) < 1e-20
    with pytest.raises(UsageError, match="--weights must be a run with --model cnn"):
        run_local([lambda ch: run(ch, [*told, "--model", "cnn", "--out", str(tmp_path / "none")])])
    with pytest.raises(FedmpiError, match="must be 55210 numbers, got 3"):
        put(model, np.zeros(3))


@pytest.mark.parametrize(
    ("defence", "ratio"),
    [
        ({"defence": "dp", "noise_std": 0.01}, 1),
        ({"defence": "ppdl", "share_fraction": 0.05}, 1),
        ({"defence": "spn"}, 1),
    ],
)
def test_each_defence_changes_the_gradient(defence: dict[str, object], ratio: float) -> None:
    X, y = batch(0)
    model = fresh_model(Params(), SHAPE, 10, 0)
    rows, labels = torch.from_numpy(X).float(), torch.from_numpy(y)
    clean = gradient_of(model, rows, labels)
    shared = share(Params(**defence), model, rows, labels, 10, SecretStream())  # type: ignore[arg-type]
    again = share(Params(**defence), model, rows, labels, 10, SecretStream())  # type: ignore[arg-type]
    assert [part.shape for part in shared] == [part.shape for part in clean]
    assert any((a != b).any() for a, b in zip(clean, shared, strict=True))
    repeated = all(bool((a == b).all()) for a, b in zip(shared, again, strict=True))
    assert repeated == (defence["defence"] == "ppdl")  # all else is secret, and fresh
    if defence["defence"] == "spn":  # the public head is trained on cross-entropy alone
        assert all(torch.allclose(a, b) for a, b in zip(clean[-2:], shared[-2:], strict=True))


def test_noise_spoils_the_linear_attack() -> None:
    X, y = batch(1)
    errors = []
    for params in (
        Params(attack="linear", model="mlp"),
        Params(attack="linear", model="mlp", defence="dp", noise_std=0.1),
    ):
        found = attack(params, 0, X, y, 10)
        errors.append(np.linalg.norm(found.reconstruction.images - X) / np.linalg.norm(X))
        assert (found.ratio == np.inf) == (params.defence == "none")
    assert errors[0] < 1e-4
    assert errors[1] > 0.1


def test_success_on_a_table_is_measured_by_its_own_spread(tmp_path: Path) -> None:
    """Ages and incomes are neither recovered by garbage nor lost by their units."""
    rng = np.random.default_rng(0)
    table = np.column_stack([rng.uniform(20, 90, 60), rng.normal(50000, 9000, 60), rng.normal(0, 1e-6, 60)])
    path = tmp_path / "table.csv"
    rows = [",".join([*map(repr, row.tolist()), "old" if row[0] > 55 else "young"]) for row in table]
    path.write_text("\n".join(["age,income,dose,state", *rows]))

    def recovered(attack: str, *options: str) -> int:
        out = tmp_path / attack / str(len(options))
        told = [
            "--attack",
            attack,
            "--model",
            "mlp",
            "--cases",
            "3",
            "--dataset",
            str(path),
            "--quiet",
            "--out",
            str(out),
        ]
        run_local([lambda ch: run(ch, [*told, *options])])
        return int(json.loads((out / "result.json").read_text())["metrics"]["recovered"])

    assert recovered("linear") == 3
    assert recovered("linear", "--defence", "dp", "--noise-std", "10") == 0
    X = 1e-3 * load(str(path), scale="standard").X_test[:1]
    guess = Reconstruction(np.zeros_like(X), np.eye(2)[:1], 0.0, 0, 0, 0, 0.0)
    assert line_of(0, Finding(guess, 1.0, 0), X, np.zeros(1, int), np.full(3, 1e-3), 1e-3)["recovered"] == 0
    raw = load(str(path), scale=None)
    assert np.allclose(spread_of(raw), raw.X_train.std(axis=0))
    assert spread_of(load("digits")) == 1


def test_the_gradient_of_a_frozen_layer_is_not_shared() -> None:
    X, y = batch(0)
    model = fresh_model(Params(model="mlp"), SHAPE, 10, 0)
    first = next(model.parameters()).requires_grad_(False)
    shared = gradient_of(model, torch.from_numpy(X).float(), torch.from_numpy(y))
    assert [part.shape for part in shared] == [p.shape for p in model.parameters() if p is not first]


def test_refusals() -> None:
    for wrong in (
        {"cases": 0},
        {"share_fraction": 0.0},
        {"margin": 0.5},
        {"reach": -1.0},
        {"first": -1},
        {"noise_std": -1.0},
        {"weights": "a", "reach": 0.3},
    ):
        with pytest.raises(UsageError):
            Params(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="--batch-size must be 1"):
        Params(attack="linear", batch_size=4)
    with pytest.raises(UsageError, match="first layer is fully connected"):
        attack(Params(attack="linear"), 0, *batch(0), 10)
    with pytest.raises(UsageError, match="fully connected layer and ReLU"):
        attack(Params(attack="spear"), 0, *batch(0), 10)
    with pytest.raises(UsageError, match="must meet images and a model that begins with a fully connected layer"):
        attack(Params(attack="cocktail"), 0, *batch(0), 10)
    with pytest.raises(UsageError, match="--smoothness"):
        Params(smoothness=-1.0)


PROGRAM = """
import torch
from inversefed.nn import MetaMonkey


class GradientReconstructor:
    def __init__(self, model, mean_std, config, num_images):
        self.model = model
        assert config["max_iterations"] == 7

    def reconstruct(self, gradient, labels, img_shape):
        assert [part.shape for part in gradient] == [p.shape for p in self.model.parameters()]
        loss = torch.nn.functional.cross_entropy(self.model(torch.full((1, *img_shape), 0.5)), torch.tensor([0]))
        bias = torch.autograd.grad(loss, self.model[-1].bias)[0]
        assert torch.allclose(bias.abs().sum(), gradient[-1].abs().sum(), rtol=0.2)  # so the weights are the same
        print("as it goes on")
        return torch.full((1, *img_shape), 0.5), {}
"""


def test_the_benchmark_counts_what_both_loops_recover(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what inverting gradients finds beside its authors' program, of which this is a shadow."""
    from fedmpi.bench.attacks import measure

    (tmp_path / "inversefed" / "nn").mkdir(parents=True)
    (tmp_path / "inversefed" / "nn" / "modules.py").write_text("MetaMonkey = None")
    with pytest.raises(UsageError, match="--reference must be a checkout"):
        measure("digits", reference=tmp_path)
    (tmp_path / "inversefed" / "reconstruction_algorithms.py").write_text(PROGRAM)
    monkeypatch.setattr("fedmpi.attacks.params.Params.inversion", Inversion(steps=300))
    figures = measure("digits", cases=1, reference=tmp_path, images=1, iterations=7)
    assert figures["dlg"]["recovered"] == figures["labels_right"] == 1
    assert figures["dlg"]["evaluations"] < figures["textbook"]["evaluations"]
    each = [figures[name]["seconds_each"] for name in ("textbook", "dlg")]
    assert figures["ratio"] == each[0] / each[1]
    assert figures["inverting"]["mean_psnr"] > 20 > figures["reference"]["mean_psnr"]
    assert figures["inverting"]["cpu_over_reference"] > 0
