"""`fedmpi reproduce pbpfl`: a page with the paper's tables, its numbers beside ours, and runs that go on."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fedmpi.bench.pbpfl import measure
from fedmpi.data import Entry
from fedmpi.errors import UsageError
from fedmpi.reproduce import shared
from fedmpi.reproduce.pbpfl import FULL, QUICK, experiments, reproduce
from fedmpi.reproduce.pbpfl.settings import Scale
from fedmpi.runs import batch as jobs
from fedmpi.runs.result import SCHEMA


@pytest.fixture
def canned(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Results without runs; what would have been run is kept."""
    ran: list[list[str]] = []

    def train(
        folder: Path, ranks: int, options: Sequence[str], system: str, *, resume: bool, slurm: bool = False
    ) -> dict[str, Any]:
        ran.append([system, *options])
        assert resume
        folder.mkdir(parents=True)
        curve = [{"iteration": t, "validation_accuracy": 0.6 + 0.01 * len(ran)} for t in range(3)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in curve))
        traffic = {"server_to_client": 1.0, "client_to_server": 3.0 if "pbpfl" in options else 1.0}
        clients = int(options[options.index("--clients") + 1])
        return {
            "params": {"clients": clients, "batch_size": 32},
            "dataset": {"m": 128 * clients},
            "metrics": {"test_mse": 0.061, "test_accuracy": 0.7, "rounds": 10, "communication": traffic},
        }

    monkeypatch.setattr(jobs, "train", train)
    parts = {"PP": 1.0, "LFP": 2.0, "LBP": 3.0, "MU": 4.0, "client": 5.0, "server": 5.0}
    times = {"fedavg": parts, "pbpfl": parts, "ratio": {"client": 2.34}}
    monkeypatch.setattr(experiments, "measure", lambda model, side, batch, repeats: times)
    entries = [Entry(name, True, "", "", "") for name in ("bank", "ham10000")]
    monkeypatch.setattr(shared, "catalogue", lambda data_dir: entries)
    return ran


@pytest.mark.parametrize("scale", [QUICK, FULL])
def test_the_page(scale: Scale, canned: list[list[str]], tmp_path: Path) -> None:
    text = reproduce(scale, tmp_path / "out", tmp_path).read_text()
    runs = len(scale.mlps) * len(scale.clients) * 2 + len(scale.resnets) * len(scale.clients) * 3 * scale.repeats
    assert len(canned) == runs
    assert all(options[0] == "pbpfl" and "--data-dir" in options for options in canned)
    assert ("**`--quick`: k = 1, 5; on bank" in text) == (scale is QUICK)
    assert "`--full`: k = 1, 5, 10; on bank mlp-3, mlp-5, mlp-7 with `--total-epochs 200`;" in text
    assert "| mlp-3 | 1 | 0.0610 | 0.0610 | +0.0e+00 | 0.059 | 0.06 |" in text
    assert "| resnet20 | 1 | fedavg-ce | 2.5 | 70.00 ± 0.00 | 66.90 |" in text
    assert "The client's time is 2.34 times that of FedAvg (paper: 2.50)" in text
    assert "| pbpfl | 1.00 x the model | 3.00 x the model |" in text
    for model in scale.resnets:
        assert (tmp_path / f"out/figure-3-{model}.png").read_bytes().startswith(b"\x89PNG")


def test_data_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="data set bank must be there, put by hand"):
        reproduce(QUICK, tmp_path / "out", tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("resume", [True, False])
def test_an_interrupted_run_goes_on_from_its_checkpoint(
    resume: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched: list[list[str]] = []
    result, written = tmp_path / "run/result.json", json.dumps({"schema": SCHEMA})

    def command(ranks: int, program: list[str]) -> tuple[list[str], list[str]]:
        launched.append(program[-2:])
        done = len(launched) > 1
        script = f"open({str(result)!r}, 'w').write({written!r})" if done else "import sys; sys.exit(143)"
        return [sys.executable, "-c", script], []

    monkeypatch.setattr(jobs, "mpirun_command", command)
    with pytest.raises(jobs.FedmpiError, match="must end with 0, got 143"):
        jobs.train(tmp_path / "run", 3, [], "pbpfl", resume=resume)
    (tmp_path / "run/checkpoints").mkdir()
    (tmp_path / "run/checkpoints/000001.npz.sha256").write_text("")
    assert jobs.train(tmp_path / "run", 3, [], "pbpfl", resume=resume) == {"schema": SCHEMA}
    assert [flag for flag, _ in launched] == ["--out", "--resume" if resume else "--out"]
    assert (tmp_path / "run/checkpoints").exists() == resume
    result.write_text("{}")
    assert jobs.train(tmp_path / "run", 3, [], "pbpfl", resume=resume) == {"schema": SCHEMA}
    assert launched[-1][0] == "--out", "what an older version finished does not go on"


def test_the_parts_of_a_round_are_measured() -> None:
    table = measure("cnn", 8, 4, 1)
    assert table["fedavg"]["PP"] == 0
    assert min(table["pbpfl"].values()) > 0
    assert table["ratio"]["client"] == pytest.approx(table["pbpfl"]["client"] / table["fedavg"]["client"])
