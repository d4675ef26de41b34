"""A system from `fedmpi new`: it is installed, runs, is reported and compared, without a change in fedmpi."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedmpi
from fedmpi.cli import main
from fedmpi.errors import UsageError
from fedmpi.new import write_package
from fedmpi.systems import find, names, program

NAME = "averageofmine"
SMALL = ["--rounds", "2", "--max-rows", "150"]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `fedmpi new` made."""
    folder = tmp_path_factory.mktemp("new")
    assert main(["new", NAME, "--folder", str(folder)]) == 0
    return folder / NAME


@pytest.fixture(scope="module")
def installed(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that pip installed it in, on the path of this process."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*pip, "--target", str(folder), str(package)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        importlib.invalidate_caches()
        yield folder


def on_path(installed: Path) -> str:
    """PYTHONPATH for ranks: they do not have the path of this process."""
    return os.pathsep.join(filter(None, [str(installed), os.environ.get("PYTHONPATH")]))


@pytest.fixture(scope="module")
def run(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run under mpirun."""
    out = tmp_path_factory.mktemp("runs") / "mine"
    env = os.environ | {"PYTHONPATH": on_path(installed)}
    command = [sys.executable, "-m", "fedmpi.cli", "run", NAME, "-n", "3", "--", *SMALL, "--out", str(out)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "nothing is private" in done.stdout
    return out


def test_it_is_found_like_the_others(installed):
    assert names()[-1] == NAME
    assert find(NAME).name == program(NAME) == NAME
    assert program("niss") == "fedmpi.niss"


def test_its_own_tests_pass(package, installed, tmp_path_factory, tmp_path):
    space: dict[str, Any] = {}
    exec((package / "tests" / f"test_{NAME}.py").read_text(), space)
    alone = space["trained"](tmp_path / "alone", ranks=2, clients=1)
    space["test_the_average_over_clients_is_the_gradient_of_all_rows"](alone, tmp_path)
    (tmp_path / "ranks").mkdir()
    space["test_the_number_of_ranks_changes_no_bit"](tmp_path / "ranks")
    assert sum(name.startswith("test_") for name in space) == 2


def test_it_runs_on_processes_and_from_python_with_the_same_bits(run):
    result = json.loads((run / "result.json").read_text())
    assert (result["system"], result["method"], result["ranks"]) == (NAME, "average", 3)
    here = fedmpi.train(NAME, ranks=3, rounds=2, max_rows=150, progress=False)
    for name, array in fedmpi.Run(run).model.arrays.items():
        np.testing.assert_array_equal(array, here.model.arrays[name])


def test_it_is_reported_and_used(run, capsys):
    assert main(["report", str(run)]) == 0
    page = (run / "report" / "report.html").read_text()
    assert NAME in page
    assert "Nothing is hidden: the server sees each client" in page
    assert fedmpi.load_model(run).predict(np.zeros((2, 64))).shape == (2,)


def test_it_is_compared(installed, tmp_path, monkeypatch, capsys):
    pytest.importorskip("fedmpi.study")
    monkeypatch.setenv("PYTHONPATH", on_path(installed))
    words = [
        "--systems",
        NAME,
        "--dataset",
        "digits",
        "--grid",
        "N=2",
        "--seeds",
        "1",
        "--out",
        str(tmp_path / "study"),
    ]
    assert main(["compare", *words, "--", *SMALL]) == 0
    assert f"{NAME}:average" in capsys.readouterr().out


def test_no_attack_knows_it(run, capsys):
    assert main(["audit", str(run)]) == 2
    assert f"no attack knows {NAME}" in capsys.readouterr().err


def test_what_is_written_is_small_and_of_its_name(tmp_path):
    package = write_package("small", tmp_path)
    code = [line for path in (package / "small").glob("*.py") for line in path.read_text().splitlines() if line.strip()]
    assert len(code) <= 150
    texts = [path.read_text() for path in package.rglob("*") if path.is_file()]
    assert not any("mysystem" in text for text in texts)
    assert len(texts) == 8


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Mine", "NAME must be that of a Python module"),
        ("my-system", "NAME must be that of a Python module"),
        ("class", "NAME must be that of a Python module"),
        ("../out", "NAME must be that of a Python module"),
        ("niss", "that system is there already"),
        ("json", "a module of this name is there already"),
    ],
)
def test_names_are_checked(name, text, tmp_path):
    with pytest.raises(UsageError, match=text):
        write_package(name, tmp_path)
    assert not [*tmp_path.iterdir()]


def test_nothing_is_written_over(tmp_path):
    write_package("quitenew", tmp_path)
    with pytest.raises(UsageError, match="--folder must be one where quitenew/ can be made"):
        write_package("quitenew", tmp_path)
    with pytest.raises(UsageError, match="system must be one of codedml"):
        find("quitenew")
