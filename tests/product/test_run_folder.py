"""What all systems write, side by side: the same keys in the same order, and each of them documented."""

import json
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from fedmpi.systems import OWN as SYSTEMS

PAGE = (Path(__file__).parents[2] / "docs" / "run-folder.md").read_text()

OPTIONS = {
    "codedml": (5, ["--iterations", "2", "--max-rows", "60"]),
    "copml": (4, ["--dataset", "synthetic:m=60,d=9,density=1,test=20", "--iterations", "2"]),
    "ppadmm": (4, ["--dataset", "synthetic-lasso:n=60,d=5,test=20", "--iterations", "3"]),
    "niss": (
        4,
        ["--dataset", "synthetic:m=60,d=9,density=1,test=20", "--epochs", "1", "--rounds", "2", "--fraction", "1"],
    ),
    "pbpfl": (3, ["--dataset", "synthetic:m=60,d=9,density=1,test=20", "--rounds", "2"]),
    "spn": (3, ["--dataset", "synthetic:m=60,d=9,density=1,test=20", "--rounds", "2", "--model", "mlp"]),
}
"""Ranks, and options."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small run of every system."""
    found = {system: tmp_path_factory.mktemp("runs") / system for system in OPTIONS}
    for system, (ranks, options) in OPTIONS.items():
        import_module(f"fedmpi.{system}").SYSTEM.on_threads(ranks, [*options, "--quiet", "--out", found[system]])
    return found


def result_of(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "result.json").read_text(), parse_constant=pytest.fail)
    return values


def documented(heading: str) -> list[str]:
    """The keys of a section's table, in its order."""
    table = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    return [key for row in rows for key in re.findall(r"`(\w+)`", row)]


def test_all_systems_are_here() -> None:
    assert OPTIONS.keys() == set(SYSTEMS)


def test_the_keys_of_a_result_are_the_documented_ones_in_their_order(folders: dict[str, Path]) -> None:
    for system, folder in folders.items():
        seldom = ["layouts", "stopped_by_callback"]
        only_niss = ["privacy", *seldom] if system != "niss" else seldom
        assert [*result_of(folder)] == [key for key in documented("result.json") if key not in only_niss], system


def test_below_them_too_all_systems_say_the_same(folders: dict[str, Path]) -> None:
    for system, folder in folders.items():
        result = result_of(folder)
        first, *middle, last = result["roles"]
        assert [*import_module(f"fedmpi.{system}").SYSTEM.named_ranks.values()] == list(range(1 + len(middle)))
        by_role = [first, *middle, f"{last}_mean", f"{last}_max"]
        assert sum(result["roles"].values()) == result["ranks"] == OPTIONS[system][0]
        assert [*result["dataset"]] == ["name", "m", "d", "classes"]
        assert [*result["cpu_seconds"]] == [*result["bytes"]["sent"]] == [*result["bytes"]["received"]] == by_role
        assert [*result["peak_memory_bytes"]] == by_role[1:]
        assert [*result["messages"]] == ["sent", "received", "late"]
        assert [*result["environment"]][:4] == ["mpi", "python", "machine", "hosts"]
        assert [*result["seconds"]][:3] == ["startup", "encode", "decode"]
        assert [*result["seconds"]][-1] == "total"
        assert result["seconds"]["total"] > 0
        assert result["failures"] == []
        assert result["resumed_from"] is None
        done = {"codedml": "iterations", "copml": "iterations", "ppadmm": "iterations"}.get(system, "rounds")
        assert result["metrics"][done] == {"ppadmm": 3}.get(system, 2)
        params = import_module(f"fedmpi.{system}.params").Params
        assert result["params"].keys() >= params.__dataclass_fields__.keys()


def test_the_lines_of_all_systems_have_the_documented_keys(folders: dict[str, Path]) -> None:
    first, *last = documented("metrics.jsonl")
    for system, folder in folders.items():
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for line in lines:
            assert [next(iter(line)), *[*line][-4:]] == [first, *last], system
        measured = [name for name in lines[-1] if name.startswith(("train_", "validation_", "test_"))]
        assert measured, system
        assert set(measured) - {"training_seconds"} <= result_of(folder)["metrics"].keys(), system


def test_every_file_of_a_run_is_documented(folders: dict[str, Path]) -> None:
    named = set(re.findall(r"`([\w.]+)/?`", PAGE.split("## result.json")[0]))
    for folder in folders.values():
        assert {path.name for path in folder.iterdir()} <= named
