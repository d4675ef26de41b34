"""fedmpi reproduce niss: which runs it asks for, and what it makes of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fedmpi.errors import UsageError
from fedmpi.experiments import niss
from fedmpi.niss.params import Params
from fedmpi.runs import parse

SCALE = niss.Scale("quick", ("mnist", "cifar10"), ("mlp", "cnn"), (0.03, 0.1), 5, True, 4)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[Params, Any]]:
    """What train was asked for, read by the system's own parser; accuracy falls with noise and τ²."""
    calls: list[tuple[Params, Any]] = []

    def train(folder: Path, ranks: int, options: Sequence[str], system: str) -> dict[str, Any]:
        assert (ranks, system) == (4, "niss")
        params, run = parse(Params, list(options), "test", "")
        calls.append((params, run))
        noise = 0.0 if params.method == "fedavg" else params.leftover * (params.noise_std or 0)
        return {"metrics": {"test_accuracy": 0.9 - noise}}

    monkeypatch.setattr(niss, "train", train)
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
    report = niss.reproduce(SCALE, tmp_path / "out", tmp_path).read_text()
    settings = {(run.dataset, params.partition, params.model) for params, run in asked}
    assert len(settings) == 8
    assert len(asked) == 8 * (1 + 2 * 4)
    mine = [params for params, run in asked if (run.dataset, params.partition, params.model) == ("mnist", "iid", "mlp")]
    assert [p.method for p in mine].count("dp-fedavg") == 2
    assert {p.tau2 for p in mine if p.method == "niss"} == {0.3, 0.6, 1.0}
    assert {round((p.noise_std or 0) * 30**0.5, 6) for p in mine if p.method != "fedavg"} == {0.03, 0.1}
    assert {(p.rounds, p.clients, p.fraction) for p in mine} == {(5, 100, 0.3)}
    row = next(line for line in report.splitlines() if line.startswith("| mnist, IID, MLP | 0.1"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[2] == "90.00 %"
    assert float(cells[5].removesuffix(" %")) == pytest.approx(90 - 100 * 0.1 / 30**0.5, abs=0.01)
    assert cells[-1] == "12 to 13"
    assert (tmp_path / "out" / "figure3.png").stat().st_size > 20_000


def test_a_missing_data_set_is_said_before_any_run(asked: list[tuple[Params, Any]], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="data set cifar10 must be there: fedmpi data fetch cifar10"):
        (tmp_path / "cifar10" / "test.npz").unlink()
        niss.reproduce(niss.FULL, tmp_path / "out", tmp_path)
    assert not asked


@pytest.mark.slow
def test_a_run_under_mpirun(tmp_path: Path) -> None:
    panel = niss.Panel("digits", "iid", "mlp", "")
    scale = niss.Scale("quick", ("digits",), ("mlp",), (0.1,), 1, False, 3)
    point = next(niss.runs(panel, scale, tmp_path, None))
    assert point.method == "fedavg"
    assert 0 < point.accuracy < 1
