"""Rows that lie apart: each host reads its own file, no server reads a row, and what differs is refused by name."""

import csv
import json
import subprocess
import sys
import threading
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from fedmpi import load_model
from fedmpi.audit.statistics import p_value_of_words
from fedmpi.data import Table, load, schema
from fedmpi.data.schema import Schema
from fedmpi.errors import ProtocolError, UsageError
from fedmpi.federated.statistics import Moments, check_meaning
from fedmpi.machines.launcher import environment, mpirun_command
from fedmpi.net import Channel, run_local
from fedmpi.runs.own_options import own_options

COLUMNS = ["age", "pay", "job", "member"]
SYSTEMS = {
    "niss": (2, ["--rounds", "8", "--learning-rate", "0.1"]),
    "pbpfl": (1, ["--rounds", "60"]),
    "spn": (1, ["--rounds", "4", "--model", "mlp"]),
}
"""The rank of the first host, and options."""
HOSTS = 3


def write(folder: Path, ranks: int, edit: str = "") -> list[str]:
    """A schema and a file for each rank, with columns in different orders; the last one may not be as the others."""
    rng, jobs = np.random.default_rng(0), ["cook", "nurse", "smith"]
    for rank in range(ranks):
        header, n = list(COLUMNS), 60 + 10 * rank
        age, pay = rng.integers(20, 90, n), rng.normal(5e4, 9e3, n).round(2)
        work = [jobs[i % 2 + rank % 2] for i in range(n)]
        member = np.where(age > 55, "yes", "no").tolist()
        rows = [list(row) for row in zip(age.tolist(), pay.tolist(), work, member, strict=True)]
        if rank == ranks - 1:
            if edit == "column":
                header[1] = "salary"
            elif edit == "kind":
                rows = [[a, "much", *rest] for a, _, *rest in rows]
            elif edit == "value":
                rows[3][2] = "pilot"
            elif edit == "class":
                rows[3][3] = "perhaps"
        order = [0, 1, 2, 3] if rank % 2 else [2, 0, 3, 1]
        with (folder / f"rows-{rank}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([[row[k] for k in order] for row in [header, *rows]])
    columns: dict[str, Any] = {"age": "number", "pay": "number", "job": jobs}
    (folder / "schema.json").write_text(json.dumps({"columns": columns, "label": "member", "classes": ["no", "yes"]}))
    return ["--schema", str(folder / "schema.json"), "--own-rows", str(folder / "rows-{rank}.csv")]


def train(system: str, folder: Path, argv: list[str], views: dict[int, Any] | None = None) -> dict[str, Any]:
    record = import_module(f"fedmpi.{system}").SYSTEM
    first, options = SYSTEMS[system]
    argv = [*options, *argv, "--quiet", "--out", str(folder / "run")]

    def play(ch: Channel) -> None:
        if views is not None:
            views[ch.rank] = ch._views
        record.follow(ch, own_options(argv)) if ch.rank else record.lead(ch, argv)

    run_local([play] * (first + HOSTS), timeout_seconds=60.0, role_of=record.role_of, record_views=True)
    return dict(json.loads((folder / "run" / "result.json").read_text()))


def test_a_schema_may_be_longer_than_the_scalars_of_a_message(tmp_path: Path) -> None:
    names = [f"measurement of a sensor {k}" for k in range(3000)]
    for rank in range(1, 1 + HOSTS):
        rows = np.random.default_rng(rank).normal(size=(8, len(names))).round(2)
        lines = [",".join([*map(str, row), str(k % 2)]) for k, row in enumerate(rows)]
        (tmp_path / f"rows-{rank}.csv").write_text("\n".join([",".join([*names, "ill"]), *lines]))
    public = {"columns": dict.fromkeys(names, "number"), "label": "ill", "classes": ["0", "1"]}
    (tmp_path / "schema.json").write_text(json.dumps(public))
    argv = ["--schema", str(tmp_path / "schema.json"), "--own-rows", str(tmp_path / "rows-{rank}.csv")]
    result = train("spn", tmp_path, [*argv, "--model", "logistic", "--rounds", "1"])
    assert sum(result["metrics"]["test_classes"]) > 0


@pytest.mark.parametrize(
    "told", ["{", "3", "{}", '{"columns": 3, "classes": []}', '{"columns": [[]], "classes": []}', "\xff"]
)
def test_what_is_no_meaning_of_columns_is_the_server_s_fault(told: str) -> None:
    data = load("wine")
    with pytest.raises(ProtocolError, match="must be"):
        check_meaning(np.frombuffer(told.encode("latin-1"), np.uint8), data, 1)


def test_all_rows_may_be_trained_on(tmp_path: Path) -> None:
    argv = write(tmp_path, SYSTEMS["spn"][0] + HOSTS)
    result = train("spn", tmp_path, [*argv, "--test-fraction", "0"])
    assert not [key for key in result["metrics"] if key.startswith("test_")]


@pytest.mark.parametrize("system", SYSTEMS)
def test_accuracy_is_that_on_all_test_rows_and_no_server_reads_one(
    system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = SYSTEMS[system][0]
    argv, read, readers = write(tmp_path, first + HOSTS), schema.read_file, dict[str, int]()

    def reading(path: Path, *rest: Any) -> Any:
        readers[path.name] = threading.get_ident()
        return read(path, *rest)

    monkeypatch.setattr(schema, "read_file", reading)
    views: dict[int, Any] = {}
    result = train(system, tmp_path, argv, views)
    assert sorted(readers) == [f"rows-{rank}.csv" for rank in range(first, first + HOSTS)]
    assert len(set(readers.values())) == HOSTS, "each file by one rank"

    public = Schema.read(tmp_path / "schema.json")
    model, right, n = load_model(tmp_path / "run"), 0, 0
    for rank in range(first, first + HOSTS):
        own = public.rows(tmp_path / f"rows-{rank}.csv", test_fraction=0.2, seed=0)
        assert len(own.y_train) + len(own.y_test) == 60 + 10 * rank
        predicted = model.predict(Table(own.X_test, own.columns, own.values))
        right += int((predicted == np.array(public.classes)[own.y_test]).sum())
        n += len(predicted)
    metrics = result["metrics"]
    assert metrics["test_accuracy"] == right / n > 0.8
    assert sum(metrics["test_classes"]) == n
    sent = [m.words for _, m in views[0] if isinstance(m, Moments)]
    assert len(sent) == 2 * HOSTS, "statistics, and metrics"
    assert p_value_of_words([np.concatenate([w.reshape(-1) for w in sent])]) > 1e-6


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ("column", r'rows-4\.csv must have the columns of the schema, got "salary" besides'),
        ("kind", r'column "pay" of rows-4\.csv must hold numbers, got text'),
        ("value", r'column "job" of rows-4\.csv must have values of the schema, got "pilot"'),
        ("class", r'classes of rows-4\.csv must be those of the schema, got "perhaps"'),
    ],
)
def test_what_differs_from_the_schema_is_refused_by_name(edit: str, said: str, tmp_path: Path) -> None:
    argv = write(tmp_path, 2 + HOSTS, edit)
    with pytest.raises(UsageError, match=said):
        train("niss", tmp_path, argv)


def test_a_regression_on_rows_that_lie_apart_is_that_on_all_of_them(tmp_path: Path) -> None:
    """ppadmm: S1 reads no row; RMSE is that on the test rows of all participants, coefficients are scikit-learn's."""
    rng, N, X, y = np.random.default_rng(0), 3, [], []
    for rank in range(2, 2 + N):
        size, rooms = rng.normal(90, 30, 80), rng.integers(1, 7, 80)
        price = 3 * size + 20 * rooms + rng.normal(0, 5, 80)
        with (tmp_path / f"rows-{rank}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["price", "rooms", "size"], *zip(price, rooms, size, strict=True)])
    (tmp_path / "schema.json").write_text('{"columns": {"size": "number", "rooms": "number"}, "label": "price"}')
    argv = ["--schema", str(tmp_path / "schema.json"), "--own-rows", str(tmp_path / "rows-{rank}.csv")]
    argv += ["--penalty", "1", "--standardize", "--quiet", "--out", str(tmp_path / "run")]
    import_module("fedmpi.ppadmm").SYSTEM.on_threads(2 + N, argv)
    metrics = json.loads((tmp_path / "run" / "result.json").read_text())["metrics"]
    public, model, errors = Schema.read(tmp_path / "schema.json"), load_model(tmp_path / "run"), []
    for rank in range(2, 2 + N):
        own = public.rows(tmp_path / f"rows-{rank}.csv", test_fraction=0.2, seed=0)
        X.append(own.X_train)
        y.append(own.y_train)
        errors.append(model.predict(own.X_test) - own.y_test)
    assert metrics["test_rmse"] == pytest.approx(float(np.sqrt(np.mean(np.concatenate(errors) ** 2))), rel=1e-9)
    assert metrics["converged"]
    plain = LinearRegression().fit(np.concatenate(X), np.concatenate(y))
    there = np.concatenate(X[:1])
    np.testing.assert_allclose(model.predict(there), plain.predict(there), rtol=0.01)


def test_combinations_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    argv = write(tmp_path, 4)
    with pytest.raises(UsageError, match="--own-rows FILE must stand on the command line of every rank with rows"):
        train("spn", tmp_path, argv[:2])
    with pytest.raises(UsageError, match="--own-rows must be given with --schema"):
        train("spn", tmp_path, argv[2:])
    with pytest.raises(UsageError, match="--schema must be given without --dataset"):
        train("spn", tmp_path, [*argv, "--dataset", "digits"])
    with pytest.raises(UsageError, match="--schema must not be given with codedml, which has all rows"):
        import_module("fedmpi.codedml").SYSTEM.on_threads(5, argv[:2])
    (tmp_path / "bad.json").write_text('{"columns": {"age": []}, "label": "x", "classes": ["a", "b"]}')
    with pytest.raises(UsageError, match='column "age" of a schema must be "number" or a list of values'):
        train("spn", tmp_path, ["--schema", str(tmp_path / "bad.json")])


@pytest.mark.slow
def test_each_rank_has_its_own_command_line_under_mpirun(tmp_path: Path) -> None:
    """The server's has no file of rows."""
    public = [*write(tmp_path, 4)[:2], "--method", "fedavg"]  # without secret randomness
    common = [
        sys.executable,
        "-m",
        "fedmpi.spn",
        *SYSTEMS["spn"][1],
        "--quiet",
        *public,
        "--out",
        str(tmp_path / "run"),
    ]
    contexts, _ = mpirun_command(1, common)
    for rank in (1, 2, 3):
        contexts += [":", "-n", "1", *common, "--own-rows", str(tmp_path / f"rows-{rank}.csv")]
    with environment() as variables:
        done = subprocess.run(contexts, capture_output=True, text=True, env=variables, timeout=300)
    assert done.returncode == 0, done.stderr
    there = json.loads((tmp_path / "run" / "result.json").read_text())["metrics"]
    here = train("spn", tmp_path / "threads", [*public, "--own-rows", str(tmp_path / "rows-{rank}.csv")])["metrics"]
    assert (there["test_loss"], there["test_accuracy"]) == (here["test_loss"], here["test_accuracy"])


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"columns": {"a": "number"}, "label": "y", "classes": [0, 1]}, r"classes of a schema must be a list of text"),
        ({"columns": {"a": "text"}, "label": "y"}, r'column "a" of a schema must be a list of text'),
    ],
)
def test_a_schema_that_is_none_is_told_where(schema: dict[str, object], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        Schema.from_json(schema)
