"""Full disks and folders that are gone: trainings go on, the model is saved elsewhere, and nothing is left half."""

import errno
import io
import json
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from protocol.codedml_threads import command_on_threads
from protocol.ppadmm_threads import problem, train_on_threads

from fedmpi import files
from fedmpi.errors import FilesError, UsageError
from fedmpi.net import Channel
from fedmpi.ppadmm.params import Params
from fedmpi.ppadmm.protocol import Keeper, Own, State, participant, primary_server
from fedmpi.ppadmm.service import salt_of
from fedmpi.runs import checkpoint, folder
from fedmpi.runs.checkpoint import read_checkpoint, write_checkpoint
from fedmpi.runs.folder import RunFolder

OPTIONS = ("--paper", "--no-compare", "--max-rows", "200", "--iterations", "6", "--quiet")


def full(*names: str) -> Callable[..., Any]:
    """Stands before a function that writes: the disk has no room for files of these names."""

    def before(write: Callable[..., Any]) -> Callable[..., Any]:
        def writing(path: Path, *args: Any, **options: Any) -> Any:
            if any(name in str(path) for name in names):
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(path, *args, **options)

        return writing

    return before


def test_metrics_and_checkpoints_that_can_not_be_written_end_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, lines = tmp_path / "run", list[str]()

    def after_two(path: Path, line: str, *args: Any) -> None:
        lines.append(line)
        if path.name == "metrics.jsonl" and len(lines) > 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        files.append_line(path, line, *args)

    monkeypatch.setattr(folder, "append_line", after_two)
    monkeypatch.setattr(folder, "replace_file", full("checkpoints/0")(files.replace_file))
    command_on_threads(4, *OPTIONS, "--checkpoint-every", 2, "--out", out)
    result = json.loads((out / "result.json").read_text())
    assert result["metrics"]["iterations"] == 6
    assert any("metrics.jsonl lacks steps" in warning for warning in result["warnings"])
    assert (out / "model.json").exists()
    said = capsys.readouterr().err
    assert said.count("metrics.jsonl must be readable and writable, got No space left on device; the training go") == 1
    assert not [*(out / "checkpoints").iterdir()]


def test_a_model_that_finds_no_room_goes_to_a_second_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(folder, "replace_file", full("run/model")(files.replace_file))
    with pytest.raises(
        FilesError, match=r"model\.npz must be .*; the model and what the run found out are in "
    ) as said:
        command_on_threads(4, *OPTIONS, "--out", tmp_path / "run")
    other = Path(str(said.value).rpartition(" are in ")[2])
    assert other.parent == tmp_path
    assert {"model.npz", "model.json", "result.json"} <= {path.name for path in other.iterdir()}


def test_a_line_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    files.append_line(path, "x" * 99)
    before, heard = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            files.append_line(path, "y" * 99)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, heard)
    assert path.read_text() == "x" * 99 + "\n"


def test_no_checkpoint_stands_without_its_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "replace_file", full("sha256")(files.replace_file))
    with pytest.raises(FilesError, match="sha256 must be readable and writable"):
        write_checkpoint(tmp_path, 3, {"w": np.ones(2)}, {})
    assert not [*(tmp_path / checkpoint.FOLDER).iterdir()]


def test_what_a_killed_run_left_half_goes(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / checkpoint.FOLDER).mkdir(parents=True)
    stale = run / ".metrics.jsonl.0123abcd", run / checkpoint.FOLDER / ".000003.npz.0123abcd"
    for path in (*stale, run / ".kept", run / checkpoint.FOLDER / "000003.npz"):
        path.write_text("half")
    RunFolder(run, "x", "", resumed=True).begin()
    write_checkpoint(run, 4, {"w": np.ones(2)}, {})
    assert not any(path.exists() for path in stale)
    assert (run / ".kept").exists()
    assert sorted(path.name for path in (run / checkpoint.FOLDER).glob("*.npz")) == ["000004.npz"]


def test_of_two_runs_in_one_folder_the_second_is_refused(tmp_path: Path) -> None:
    one, two = RunFolder(tmp_path / "run", "x", "first"), RunFolder(tmp_path / "run", "x", "second")
    one.begin()
    with pytest.raises(UsageError, match=r"--out must be a new folder, got .*, where another run has just begun"):
        two.begin()
    with pytest.raises(UsageError, match=r"--resume must name a run that has stopped, got .*, where one is at work"):
        RunFolder(tmp_path / "run", "x", "", resumed=True)
    assert (tmp_path / "run" / "config.toml").read_text() == "first"
    one.release()
    RunFolder(tmp_path / "run", "x", "", resumed=True)


# -- what is resumed from -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stopped") / "run"
    command_on_threads(4, *OPTIONS, "--checkpoint-every", 2, "--out", out)
    (out / "result.json").unlink()
    return out


def rewritten(change: Callable[[dict[str, Any], dict[str, Any]], None]) -> Callable[[Path], None]:
    """A change of what is in a checkpoint, with a digest that fits."""

    def damage(last: Path) -> None:
        arrays, state, _ = read_checkpoint(last.parent.parent)
        change(arrays, state)
        write_checkpoint(last.parent.parent, int(last.stem), arrays, state)

    return damage


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def with_digest(data: bytes) -> Callable[[Path], None]:
    import hashlib

    def damage(last: Path) -> None:
        last.write_bytes(data)
        last.with_suffix(".npz.sha256").write_text(hashlib.sha256(data).hexdigest())

    return damage


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty digest": (lambda last: last.with_suffix(".npz.sha256").write_text(""), "SHA-256"),
    "zero bytes": (lambda last: last.write_bytes(b""), "SHA-256"),
    "truncated": (lambda last: last.write_bytes(last.read_bytes()[:100]), "SHA-256"),
    "no archive": (with_digest(b"PK\x03\x04 nothing"), ""),
    "no state": (with_digest(npz(W=np.ones(3))), "no state"),
    "other shapes": (rewritten(lambda arrays, state: arrays.update(W=np.ones((3, 1)))), "W must be of shape"),
    "NaN": (rewritten(lambda arrays, state: arrays.update(W=arrays["W"] * np.nan)), "not a number"),
    "infinite": (rewritten(lambda arrays, state: arrays.update(W=arrays["W"] + np.inf)), "W is not finite"),
    "no configuration": (rewritten(lambda arrays, state: state.pop("configuration")), "no configuration"),
    "no step": (rewritten(lambda arrays, state: state.update(iteration="6")), "not a number"),
    "no part of a state": (rewritten(lambda arrays, state: state.pop("headroom_bits")), "lacks a part"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_no_checkpoint_of_the_run_is_refused_and_the_one_before_used(
    name: str, stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    run, (damage, why) = tmp_path / "run", DAMAGES[name]
    shutil.copytree(stopped, run)
    damage(run / checkpoint.FOLDER / "000006.npz")
    command_on_threads(4, "--resume", run, "--no-quiet")
    said = capsys.readouterr().out
    assert f"{run / checkpoint.FOLDER / '000006.npz'} is refused: " in said
    assert why in said
    assert "going on after iteration 4" in said


def test_without_a_good_checkpoint_nothing_is_resumed(stopped: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(stopped, run := tmp_path / "run")
    for path in (run / checkpoint.FOLDER).glob("*.npz"):
        path.write_bytes(b"")
    with pytest.raises(UsageError, match="--resume must name the folder of a run that holds a whole checkpoint"):
        command_on_threads(4, "--resume", run)


# -- a participant's own disk -------------------------------------------------------------------------------------


class FullShelf:
    """A participant's folder on a disk that is full."""

    def put(self, iteration: int, arrays: dict[str, Any]) -> None:
        raise FilesError("participants/rank-3 must be readable and writable, got No space left on device")

    def get(self, iteration: int) -> dict[str, Any]:
        raise UsageError("nothing")


class Noting(Keeper):
    """What S1 was asked to save."""

    def __init__(self) -> None:
        self.saved, self.lacking = list[int](), list[tuple[int, str]]()

    def due(self, iteration: int) -> bool:
        return iteration > 0 and iteration % 2 == 0

    def save(self, state: State) -> None:
        self.saved.append(state.iteration)

    def lack(self, iteration: int, why: str) -> None:
        self.lacking.append((iteration, why))


def test_a_participant_that_can_not_write_its_checkpoint_stays() -> None:
    parts, params = problem(4, 20, 5), Params(iterations=5, tolerance=0, penalty=1.0)
    keeper, keeping = Noting(), Noting()

    def with_shelf(shelf: Any) -> Callable[[Channel], Any]:
        return lambda ch: participant(ch, params, Own(*parts[ch.rank - 2], salt_of(params), shelf=shelf))

    class Shelf(FullShelf):
        def put(self, iteration: int, arrays: dict[str, Any]) -> None:
            pass

    lead = {0: lambda ch: primary_server(ch, params, keeper=keeper)}
    others = dict.fromkeys(range(2, 6), with_shelf(Shelf()))
    threads = train_on_threads(params, parts, roles={**lead, **others, 3: with_shelf(FullShelf())})
    assert threads.training.failures == []
    assert keeper.saved == []
    assert [iteration for iteration, _ in keeper.lacking] == [2, 4]
    assert all("participant (rank 3): participants/rank-3 must be" in why for _, why in keeper.lacking)
    lead = {0: lambda ch: primary_server(ch, params, keeper=keeping)}
    undisturbed = train_on_threads(params, parts, roles={**lead, **others})
    assert keeping.saved == [2, 4]
    assert (undisturbed.training.coefficients == threads.training.coefficients).all()
