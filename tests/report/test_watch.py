"""`fedmpi watch`: a run is followed from its folder, while it lasts and after."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedmpi.cli import main
from fedmpi.report.watch import follow
from fedmpi.runs.checkpoint import write_checkpoint
from fedmpi.runs.checkpointing import ENDED
from fedmpi.runs.folder import RunFolder, at_work


def steps(first: int, last: int, folder: RunFolder) -> None:
    for k in range(first, last):
        folder.append_metrics({"iteration": k, "train_loss": 1 / (k + 1), "seconds": 0.1 * k, "sent_bytes": 10})


@pytest.fixture
def ended(tmp_path: Path) -> Path:
    """A run of three steps."""
    folder = RunFolder(tmp_path / "run", "x", "")
    steps(0, 3, folder)
    folder.write_json("result.json", {"failures": []})
    return folder.path


def test_a_run_that_has_ended_is_told_at_once(ended: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", str(ended)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:4] for line in lines[:3]] == [
        [str(k), "train", "loss", f"{1 / (k + 1):.6g}"] for k in range(3)
    ]
    assert lines[3:] == [f"ended; 0 failures; fedmpi report {ended}"]


def test_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", str(tmp_path)]) == 2
    assert "a run must be a folder with config.toml or result.json, got" in capsys.readouterr().err


def test_a_run_is_followed_while_it_lasts(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", "x", "")
    steps(0, 2, folder)
    metrics = folder.path / "metrics.jsonl"

    def half() -> None:
        with metrics.open("a") as file:
            file.write('{"iteration": 2, "train_')

    def other_half() -> None:
        with metrics.open("a") as file:
            file.write('loss": 0.25}\n')

    def stopped_and_resumed() -> None:
        folder.forget_metrics(1)
        steps(1, 4, folder)

    def end() -> None:
        steps(4, 5, folder)
        folder.write_json("result.json", {})

    events = [half, other_half, stopped_and_resumed, end]
    seen = [line["iteration"] for line in follow(folder.path, lambda: events.pop(0)())]
    assert seen == [0, 1, 2, 2, 3, 4], "step 2 was done again, and was another one"
    assert not events


def test_a_run_that_was_stopped_is_told_with_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = RunFolder(tmp_path / "run", "x", "# fedmpi run codedml -n 4\nseed = 1\n")
    steps(0, 2, folder)
    folder.log(f"{ENDED}stopped by Ctrl-C")
    waited: list[None] = []

    def wait() -> None:
        waited.append(None)
        folder.release()

    assert at_work(folder.path)
    assert len(list(follow(folder.path, wait))) == 2
    assert waited, "nobody is told while the process is there"
    assert main(["watch", str(folder.path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:3] == ["stopped by Ctrl-C"]
    assert "it has no checkpoint" in lines[3]
    write_checkpoint(folder.path, 1, {}, {})
    assert main(["watch", str(folder.path)]) == 0
    assert capsys.readouterr().out.endswith(f"go on with: fedmpi run codedml -n 4 -- --resume {folder.path}\n")


def test_a_real_run_from_another_process(tmp_path: Path) -> None:
    out = tmp_path / "run"
    train = [sys.executable, "-c", f"""
import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from protocol.codedml_threads import command_on_threads
command_on_threads(10, "--out", {str(out)!r}, "--iterations", 8, "--tolerance", 0, "--quiet")
"""]  # fmt: skip
    with subprocess.Popen(train) as training:
        while not (out / "config.toml").exists():
            assert training.poll() in (None, 0)
            time.sleep(0.02)
        watching = subprocess.run(
            [sys.executable, "-m", "fedmpi.cli", "watch", str(out)],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    lines = watching.stdout.splitlines()
    assert [int(line.split()[0]) for line in lines[:-1]] == list(range(9))
    assert lines[-1].startswith("ended; 0 failures")


def test_tensorboard_gets_every_number(ended: Path) -> None:
    assert main(["watch", str(ended), "--log", "tensorboard"]) == 0
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(ended / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"train_loss", "seconds", "sent_bytes"}
    lines = [json.loads(line) for line in (ended / "metrics.jsonl").read_text().splitlines()]
    got = [(event.step, event.value) for event in events.Scalars("train_loss")]
    assert got == [(line["iteration"], pytest.approx(line["train_loss"])) for line in lines]


def test_a_logger_that_is_not_installed(
    ended: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["watch", str(ended), "--log", "wandb"]) == 2
    assert 'wandb must be installed for --log: pip install "fedmpi[wandb]"' in capsys.readouterr().err
