"""A file that is another on one rank is refused before training, in one line, by every system whose ranks read it."""

import threading
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmpi import data
from fedmpi.errors import UsageError
from fedmpi.net import Channel, run_local
from fedmpi.runs.own_options import own_options

RANKS = 5


def write(path: Path, edit: str = "") -> Path:
    """A table; or the same with one number, one name or one class changed."""
    rng = np.random.default_rng(0)
    X, label = rng.normal(size=(60, 2)), np.arange(60) % 2
    X[:, 1] += edit == "a number"
    header = "age,pay,member" if edit == "a name" else "age,income,member"
    rows = [f"{a!r},{b!r},{y + 7 * (edit == 'a class')}" for (a, b), y in zip(X.tolist(), label.tolist(), strict=True)]
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def train(system: str, edit: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run in which the last rank reads another version of the file."""
    path, other, here = write(folder / "t.csv"), write(folder / "other.csv", edit), threading.local()
    steps = "--iterations" if system == "ppadmm" else "--rounds"
    argv = ["--dataset", str(path), "--quiet", "--no-compare", "--out", str(folder / "run"), steps, "2"]
    argv += [] if system == "ppadmm" else ["--model", "mlp"]
    record, load = import_module(f"fedmpi.{system}").SYSTEM, data.load

    def load_here(name: str, **options: Any) -> Any:
        return load(str(other) if getattr(here, "elsewhere", False) else name, **options)

    def follow(ch: Channel) -> None:
        here.elsewhere = ch.rank == RANKS - 1
        record.follow(ch, own_options(argv))

    monkeypatch.setattr(data, "load", load_here)
    roles = [lambda ch: record.lead(ch, argv), *[follow] * (RANKS - 1)]
    run_local(roles, timeout_seconds=30.0, role_of=record.role_of)


@pytest.mark.parametrize("system", ["niss", "pbpfl", "spn", "ppadmm"])
@pytest.mark.parametrize("edit", ["", "a number", "a name", "a class"])
def test_another_version_of_the_file_is_refused(
    system: str, edit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {
        "a number": r"data set must be the same on all ranks, got another .* on rank 4 than on 0",
        "a name": r'(column "income" must be the same on all ranks|data set must be the same)',
        "a class": r"(classes must be the same on all ranks, got 7, 8 on rank 4|data set must be the same)",
    }
    if not edit:
        train(system, edit, tmp_path, monkeypatch)
        assert (tmp_path / "run" / "result.json").exists()
        return
    with pytest.raises(UsageError, match=said[edit]):
        train(system, edit, tmp_path, monkeypatch)
    assert not (tmp_path / "run" / "result.json").exists()
