"""Every system from Python: the bits of the command line, callbacks, groups, a job, and errors in words of Python."""

import csv
import gc
import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow
import pytest
import torch
from torch import nn

import fedmpi
from fedmpi.data import load
from fedmpi.data.memory import held
from fedmpi.errors import UsageError
from fedmpi.runs.model import read_arrays
from fedmpi.systems import find

rng = np.random.default_rng(0)
X = rng.normal(size=(90, 5))
Y = (X @ [1.0, -2.0, 0.5, 0.0, 1.0] > 0).astype(np.int64)
TARGET = X @ [1.0, -2.0, 0.5, 0.0, 1.0]
LOGISTIC = ["--model", "logistic", "--seed", "3"]

CASES: dict[str, tuple[int, list[str], dict[str, Any]]] = {
    "codedml": (4, ["--iterations", "3", "-K", "1", "-T", "1"], {"iterations": 3, "K": 1, "T": 1}),
    "ppadmm": (4, ["--iterations", "5", "--penalty", "0.5"], {"iterations": 5, "penalty": 0.5}),
    "niss": (
        4,
        ["--rounds", "2", "--method", "fedavg", "--clients", "3", *LOGISTIC],
        {"rounds": 2, "method": "fedavg", "clients": 3, "model": "logistic", "seed": 3},
    ),
    "pbpfl": (
        3,
        ["--rounds", "2", "--method", "fedavg-ce", "--model", "logistic", "--seed", "3"],
        {"rounds": 2, "method": "fedavg-ce", "model": "logistic", "seed": 3},
    ),
    "spn": (
        3,
        ["--rounds", "2", "--method", "fedavg", *LOGISTIC],
        {"rounds": 2, "method": "fedavg", "model": "logistic", "seed": 3},
    ),
}
"""System → ranks, and the same options for a command line and for Python; noise and masks that are secret aside."""

SLOW = {"codedml": {"solver": "gradient", "tolerance": 0.0}}
"""What does not converge in a few steps."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    np.savez(folder / "classes.npz", X=X, y=Y)
    np.savez(folder / "target.npz", X=X, y=TARGET)
    return folder


def same(one: Path, other: Path) -> None:
    a, b = read_arrays(one), read_arrays(other)
    assert [*a] == [*b]
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.parametrize("system", CASES)
def test_arrays_in_python_have_the_bits_of_a_file_on_the_command_line(system, files, tmp_path):
    ranks, words, options = CASES[system]
    file, y = ("target.npz", TARGET) if system == "ppadmm" else ("classes.npz", Y)
    find(system).on_threads(ranks, ["--dataset", files / file, "--out", tmp_path / "there", "--quiet", *words])
    run = fedmpi.train(system, X, y, ranks=ranks, progress=False, **options)
    same(tmp_path / "there", run.folder)
    assert run.result["metrics"] == json.loads((tmp_path / "there" / "result.json").read_text())["metrics"]


def test_processes_have_these_bits_too_and_a_job_runs_the_same_program(mpirun, files, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import numpy as np, fedmpi\n"
        f"z = np.load({str(files / 'classes.npz')!r})\n"
        f"run = fedmpi.train('codedml', z['X'], z['y'], iterations=3, K=1, T=1, out={str(tmp_path / 'job')!r})\n"
        "print('rank 0 goes on with', run.folder.name)\n"
    )
    job = mpirun(4, program)
    assert job.returncode == 0, job.stderr
    assert job.stdout.count("rank 0 goes on with job") == 1
    run = fedmpi.train("codedml", X, Y, ranks=4, progress=False, iterations=3, K=1, T=1)
    same(run.folder, tmp_path / "job")


def frame(rows: int = 60) -> pandas.DataFrame:
    draw = np.random.default_rng(1)
    return pandas.DataFrame(
        {
            "age": draw.integers(20, 90, rows),
            "pressure": np.where(draw.random(rows) < 0.1, np.nan, draw.normal(120, 10, rows).round(1)),
            "ward": draw.choice(["north", "south", "east"], rows),
            "smoker": draw.choice([True, False], rows),
            "ill": draw.choice(["yes", "no"], rows),
        }
    )


def test_a_dataframe_is_read_as_a_csv_file_with_the_same_columns(tmp_path):
    table = frame()
    table["smoker"] = table["smoker"].astype(int)
    table.to_csv(tmp_path / "table.csv", index=False, quoting=csv.QUOTE_MINIMAL)
    given = {"impute": "mean", "scale": "standard", "seed": 4, "group_column": "ward"}
    from_file = load(str(tmp_path / "table.csv"), **given)
    with held(table, "ill") as name:
        here = load(name, **given)
    np.testing.assert_array_equal(here.X_train, from_file.X_train)
    np.testing.assert_array_equal(here.X_test, from_file.X_test)
    np.testing.assert_array_equal(here.y_train, from_file.y_train)
    np.testing.assert_array_equal(here.groups, from_file.groups)
    assert (here.columns, here.classes) == (from_file.columns, from_file.classes)
    with held(pyarrow.Table.from_pandas(table, preserve_index=False), "ill") as name:
        np.testing.assert_array_equal(load(name, **given).X_train, here.X_train)


def test_a_dataframe_with_text_trains_and_predicts():
    table = frame()
    run = fedmpi.train(
        "niss", table[:40], "ill", X_test=table[40:], groups="ward", method="fedavg", model="logistic", rounds=2,
        impute="mean", progress=False,
    )  # fmt: skip
    assert run.result["params"]["clients"] == 3, "one for each ward"
    assert run.result["dataset"]["m"] == 40
    assert "ward" not in run.model.card["columns"]
    assert set(run.model.predict(table.drop(columns="ill"))) <= {"yes", "no"}


def test_rows_are_the_callers_and_stay_as_they_are():
    before, calls = X.copy(), torch.get_num_threads()
    fedmpi.train("codedml", X, Y, ranks=4, iterations=1, K=1, T=1, progress=False)
    np.testing.assert_array_equal(X, before)
    assert torch.get_num_threads() == calls


def test_rows_in_memory_can_not_be_named_from_elsewhere():
    with held(X, Y) as name:
        assert len(load(name).X_train) == 72
    with pytest.raises(UsageError, match="must be one that the program of this rank has"):
        load(name)


class Small(nn.Linear):
    """A model of one's own."""

    def __init__(self, shape: tuple[int, ...], classes: int):
        super().__init__(shape[0], classes)


def test_a_class_is_a_model():
    run = fedmpi.train("spn", X, Y, model=Small, method="fedavg", rounds=1, ranks=2, progress=False)
    assert run.model.predict(X[:3]).shape == (3,)
    assert run.model.card["architecture"].endswith(":Small")

    class Local(Small):
        pass

    with pytest.raises(UsageError, match="model must be a name, or a class or function at the top of a module"):
        fedmpi.train("spn", X, Y, model=Local)


METHODS = [
    ("codedml", {"method": "bgw", "subgroups": 1}),
    ("codedml", {"method": "plain"}),
    ("ppadmm", {"method": "dssgd"}),
]


@pytest.mark.parametrize(("system", "method"), [*((system, {}) for system in CASES), *METHODS], ids=str)
def test_a_callback_hears_each_step_and_may_end_the_training(system, method):
    ranks, _, options = CASES[system]
    if method:
        options = method
    step = "iterations" if system in ("codedml", "ppadmm") else "rounds"
    heard: list[int] = []

    def callback(number: int, metrics: Any) -> bool:
        assert metrics["iteration"] == number
        heard.append(number)
        return number == 1

    many = options | {step: 40}
    run = fedmpi.train(
        system, X, TARGET if system == "ppadmm" else Y, ranks=ranks, progress=False, callbacks=[callback], **many
    )
    assert heard == [0, 1, 2]
    assert run.result["metrics"][step] == 2
    assert run.result["stopped_by_callback"] == 1


def test_what_a_callback_raises_ends_the_run_and_is_raised():
    def callback(step: int, metrics: Any) -> None:
        if step == 1:
            raise ArithmeticError("too bad")

    with pytest.raises(ArithmeticError, match="too bad"):
        fedmpi.train("codedml", X, Y, ranks=4, K=1, T=1, callbacks=[callback], progress=False)


def test_a_run_has_numbers_a_page_and_a_folder_while_it_lives(tmp_path, capsys):
    run = fedmpi.train("codedml", X, Y, ranks=4, iterations=2, K=1, T=1)
    assert "test accuracy" in capsys.readouterr().out
    assert run.metrics["iteration"].tolist() == [0, 1, 2]
    page = run.report()
    assert page._repr_html_().startswith("<iframe srcdoc=")
    assert page.path == run.folder / "report" / "report.html"
    assert "codedml" in repr(run)
    kept, folder = run.keep(tmp_path / "kept"), run.folder
    del run, page
    gc.collect()
    assert not folder.exists()
    assert kept.result["metrics"]["iterations"] == 2
    with pytest.raises(UsageError, match="folder must be that of a run that ended"):
        fedmpi.Run(tmp_path).result  # noqa: B018


def test_progress_false_prints_nothing(capfd):
    fedmpi.train("niss", X, Y, method="fedavg", model="logistic", rounds=1, progress=False)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"learning_rat": 1}, "got learning_rat; did you mean learning_rate?"),
        ({"rounds": "many"}, "rounds"),
        ({"method": "none"}, "none"),
        ({"fraction": -1.0}, "fraction must be in"),
        ({"dry_run": True}, "dry_run must be used on a command line"),
        ({"dataset": "digits"}, "dataset must not be given with X"),
        ({"ranks": 2}, "ranks must be at least 3"),
        ({"groups": "ward"}, "groups must be values, or a column of a DataFrame"),
        ({"groups": [1, 2]}, "groups must have a value for each row"),
        ({"X_test": X}, "y_test with X_test"),
        ({"split_by": "a", "groups": Y}, "split_by must not be given with groups"),
        ({"cluster_key": "key"}, "must be used on the ranks of a job"),
        ({"label_column": "y"}, "label_column must not be given with y"),
        ({"rounds": [[1]]}, "options must be numbers, text, paths or lists"),
    ],
)
def test_what_a_command_line_refuses_is_refused_in_words_of_python(options, text):
    with pytest.raises(UsageError) as error:
        fedmpi.train("niss", X, Y, progress=False, **options)
    assert text in str(error.value)
    assert "--" not in str(error.value)
    assert "\n" not in str(error.value)


def test_systems_that_do_not_deal_out_rows_or_are_unknown_are_named():
    with pytest.raises(UsageError, match="codedml does not deal out rows"):
        fedmpi.train("codedml", X, Y, groups=Y)
    with pytest.raises(UsageError, match="system must be one of codedml"):
        fedmpi.train("nis", X, Y)
    with pytest.raises(UsageError, match="X must be given with y"):
        fedmpi.train("niss", y=Y)


def test_a_run_that_was_kept_goes_on_with_the_same_bits(tmp_path):
    options = {"method": "fedavg", "model": "logistic", "ranks": 4, "progress": False}
    whole = fedmpi.train("niss", X, Y, rounds=4, **options)
    fedmpi.train("niss", X, Y, rounds=2, out=tmp_path / "run", **options)
    same(fedmpi.train("niss", X, Y, rounds=4, resume=tmp_path / "run", **options).folder, whole.folder)
    with pytest.raises(UsageError, match="data"):
        fedmpi.train("niss", X + 1, Y, rounds=6, resume=tmp_path / "run", **options)


@pytest.mark.parametrize("system", ["codedml", "spn"])
def test_ctrl_c_ends_the_threads_and_leaves_a_checkpoint(system, tmp_path):
    ranks, _, options = CASES[system]

    def interrupt(step: int, metrics: Any) -> None:
        if step == 1:
            os.kill(os.getpid(), signal.SIGINT)

    before, many = threading.active_count(), {"iterations" if system == "codedml" else "rounds": 500}
    run = {"ranks": ranks, "progress": False, "out": tmp_path / "run"}
    with pytest.raises(KeyboardInterrupt, match=r"go on after \w+ \d+ with --resume"):
        fedmpi.train(system, X, Y, callbacks=[interrupt], **run, **(options | many | SLOW.get(system, {})))
    assert threading.active_count() == before
    assert [*(tmp_path / "run" / "checkpoints").iterdir()]
    assert not (tmp_path / "run" / "result.json").exists()
