"""`fedmpi compare`: which runs follow from a grid, that they are made once, and what table and picture say of them."""

import csv
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedmpi
from fedmpi.cli import main
from fedmpi.data import load
from fedmpi.errors import UsageError
from fedmpi.runs import batch
from fedmpi.runs.options import RunOptions
from fedmpi.runs.result import SCHEMA
from fedmpi.study.page import columns, escaped
from fedmpi.study.plan import Study, grid_values, option_values, read_toml, with_changes
from fedmpi.study.score import score
from fedmpi.study.table import AXES, Row, Spread

STAND_IN = f"""
import json, os, sys, time
from pathlib import Path
words = sys.argv[1:]
after = lambda name: words[words.index(name) + 1]
out, seed, method = Path(after('--out')), int(after('--seed')), after('--method')
with (out.parent / 'log').open('a') as log:
    log.write(f'{{out.name}}\\n')
time.sleep(float(os.environ.get('SECONDS_OF_A_RUN', '0')))
if method == 'bh08':
    print('fedmpi: error: the rows must be enough for a group, got 7', file=sys.stderr)
    sys.exit(2)
system = words[words.index('-m') + 1].removeprefix('fedmpi.')
accuracy = 0.9 - 0.01 * seed - 0.1 * (method == 'niss')
N = int(after('--clients')) if '--clients' in words else 5
roles = {{'master': 1, 'worker': 5}} if system == 'codedml' else {{'server': 1, 'tracker': 1, 'host': 2}}
last = list(roles)[-1]
by_role = {{**{{role: 10 for role in list(roles)[:-1]}}, last + '_mean': 7.0, last + '_max': 9}}
result = {{
    'schema': {SCHEMA}, 'system': system, 'method': method, 'roles': roles, 'seed': seed,
    'params': {{'N': N, 'T': 1, 'accuracy': accuracy}},
    'metrics': {{'test_accuracy': accuracy}}, 'seconds': {{'total': 1.0 + seed}},
    'cpu_seconds': by_role, 'bytes': {{'sent': by_role, 'received': by_role}},
}}
if system == 'codedml':
    result['metrics']['plain'] = {{'test_accuracy': 0.95}}
if method == 'niss':
    result['privacy'] = {{'upload': {{'rdp': float(after('--epsilon'))}}, 'model': {{'rdp': None}}}}
(out / 'result.json').write_text(json.dumps(result))
"""
"""What stands for mpirun: a result that follows from the options."""

STARTER = """
import sys
from fedmpi.cli import main
from fedmpi.runs import batch
script, *words = sys.argv[1:]
batch.mpirun_command = lambda ranks, program: ([sys.executable, '-c', script, *program], [])
sys.exit(main(words))
"""

STUDY = (
    "--systems",
    "codedml,codedml:bh08,niss",
    "--dataset",
    "digits",
    "--grid",
    "N=10",
    "epsilon=1,4",
    "--seeds",
    "2",
)


@pytest.fixture
def no_mpirun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        batch, "mpirun_command", lambda ranks, program: ([sys.executable, "-c", STAND_IN, *program], [])
    )


def made(out: Path) -> list[str]:
    """The runs that were started, in their order."""
    path = out / "runs" / "log"
    return path.read_text().split() if path.exists() else []


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "compare.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


# -- what is run ----------------------------------------------------------------------------------------------------


def study(systems: str, *grid: str, options: str = "", **rest: Any) -> Study:
    return Study(tuple(systems.split(",")), "digits", grid_values(grid), options=option_values(options.split()), **rest)


def test_a_parameter_that_means_nothing_to_a_method_does_not_multiply_its_runs() -> None:
    plan = study("codedml,niss,spn", "N=4,6", "T=1", "epsilon=1,5")
    assert [cell.name for cell in plan.cells] == [
        "codedml:coded N=4 T=1",
        "codedml:coded N=6 T=1",
        "niss N=4 epsilon=1",
        "niss N=4 epsilon=5",
        "niss N=6 epsilon=1",
        "niss N=6 epsilon=5",
        "spn N=4",
        "spn N=6",
    ]
    assert plan.remarks == [
        "the grid's T does not apply to niss, spn",
        "the grid's epsilon does not apply to codedml:coded, spn",
    ]


def test_n_is_workers_or_clients_who_share_ranks() -> None:
    coded, niss, ppadmm = study("codedml,niss,ppadmm", "N=8", hosts=3).cells
    assert (coded.ranks, niss.ranks, ppadmm.ranks) == (9, 2 + 3, 2 + 8)
    assert niss.options[-2:] == ("--clients", "8")
    assert study("niss", "N=2", hosts=3).cells[0].ranks == 4


def test_a_plain_run_has_the_same_options_but_those_of_protection() -> None:
    plan = study("niss,niss:dp-fedavg,spn:dp", "epsilon=1,5", options="--rounds 3 --spn.noise-std 0.1 --niss.epochs 2")
    plain = [plan.plain(cell) for cell in plan.cells]
    assert plain[0] == plain[1] == plain[2] == plain[3]
    assert plain[0] and " ".join(plain[0].options[2:]) == "--method fedavg --clients 10 --rounds 3 --epochs 2"
    assert plain[4] and " ".join(plain[4].options[2:]) == "--method fedavg --clients 10 --rounds 3"
    assert [study(name).plain(study(name).cells[0]) for name in ("codedml", "ppadmm", "niss:fedavg")] == [None] * 3


def test_the_more_narrowly_addressed_option_wins() -> None:
    plan = study("niss,niss:dp-fedavg", options="--niss:dp-fedavg.rounds 9 --rounds=3 --niss.rounds 5")
    rounds = [cell.options[cell.options.index("--rounds") + 1] for cell in plan.cells]
    assert rounds == ["5", "9"]


@pytest.mark.parametrize(
    ("systems", "grid", "options", "message"),
    [
        ("", "N=4", "", "system must be one of .*, got "),
        ("codedml:bgv", "N=4", "", "the method of codedml must be one of .*, got bgv; did you mean bgw"),
        ("codedml,codedml:coded", "N=4", "", "--systems must name each system and method once"),
        ("niss", "epsilonn=4", "", "--grid must name options of a system, got epsilonn; did you mean epsilon"),
        ("niss", "epsilon=-1", "", "--epsilon must be positive, got -1"),
        ("niss", "epsilon=a", "", "niss .*epsilon a|--epsilon"),
        ("niss", "epsilon=", "", "--grid must give each value of epsilon once"),
        ("niss", "N=0", "", "--grid must give N as a whole number of at least 1, got 0"),
        ("niss", "epsilon", "", "--grid must be of NAME=VALUE"),
        ("niss", "spn.alpha2=1", "", "--grid must name a system of this study before the dot, got spn.alpha2"),
        ("niss:fedavg", "epsilon=1", "", "epsilon must apply to some system of the study, got niss:fedavg"),
        ("niss", "seed=1", "", "--grid must leave seed to the study"),
        ("niss", "N=4", "--out x", "options must leave out to the study"),
        ("niss", "N=4", "rounds 3", "what stands behind -- must begin with an option, got rounds"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is(systems: str, grid: str, options: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        study(systems, grid, options=options)


def test_impossible_lines_are_known_before_anything_is_run() -> None:
    plan = study("codedml,codedml:bgw", "N=5")
    assert {cell.name: why for cell, why in plan.impossible.items()} == {
        "codedml:bgw N=5": "the number of workers N must be at least G·(2T+1) = 3·(2·1+1) = 9, got N=5"
    }
    with pytest.raises(UsageError, match=r"the number of workers N must be at least .* got N=2"):
        _ = study("codedml", "N=2").impossible
    with pytest.raises(UsageError, match="data set must be one of"):
        _ = Study(("codedml", "ppadmm"), "digitz").impossible


def test_a_study_can_be_written_and_read(tmp_path: Path) -> None:
    plan = study("codedml,niss", "N=4,6", "epsilon=0.5", options="--classes 4 9 --no-compare --niss.rounds 3", seeds=5)
    path = tmp_path / "study.toml"
    path.write_text(plan.to_toml())
    again = Study(**read_toml(path))
    assert (again, again.cells) == (plan, plan.cells)


def test_dotted_keys_of_a_file_need_no_quotes(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(
        'systems = ["niss", "spn"]\ndataset = "digits"\n[options]\nniss.rounds = 3\nniss.learning-rate = 0.5\n'
    )
    again = Study(**read_toml(path))
    assert again.options == {"niss.rounds": ("3",), "niss.learning_rate": ("0.5",)}


def test_a_file_that_has_changed_is_other_rows(tmp_path: Path) -> None:
    """The cache of runs is by what the file holds, not by its name alone."""
    path = tmp_path / "rows.csv"
    folders = []
    for text in ("a,b\n1,2\n", "a,b\n1,3\n", "a,b\n1,2\n"):
        path.write_text(text)
        folders.append(Study(("codedml",), str(path)).cells[0].run(tmp_path, 0).folder)
    assert folders[0] == folders[2] != folders[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sytems = []", r"the keys of .* must be systems, .* got sytems; did you mean systems\?"),
        ("systems = 5", "systems of .* must be names of systems, got 5"),
        ("dataset = [1]", r"dataset of .* must be a name or a file, got \[1\]"),
        ("seeds = '3'", "seeds of .* must be a whole number, got '3'"),
        ("seeds = true", "seeds of .* must be a whole number, got True"),
        ("grid = 3", "grid of .* must be a table, got 3"),
        ("systems = ", "the study must be TOML"),
    ],
)
def test_a_file_that_is_no_study_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_toml(path)


def test_what_the_command_line_says_wins(tmp_path: Path) -> None:
    file = {"systems": ("niss",), "dataset": "digits", "seeds": 5, "options": {"rounds": ("3",), "epochs": ("2",)}}
    none = {"grid": {}, "audit": False, "hosts": None, "systems": ()}
    changed = with_changes(file, **none, seeds=2, options={"rounds": ("9",)}, dataset=None)
    assert (changed.systems, changed.seeds, changed.dataset) == (("niss",), 2, "digits")
    assert changed.options == {"rounds": ("9",), "epochs": ("2",)}
    with pytest.raises(UsageError, match="--seeds must be a whole number of at least 1, got 0"):
        with_changes(file, seeds=0)


def test_all_systems_split_the_rows_in_the_same_way(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("a,b,y\n" + "".join(f"{k},{k % 7},{'yes' if k % 3 else 'no'}\n" for k in range(60)))
    options = RunOptions()
    coded = load(str(path), seed=3, **options.load_arguments())
    federated = load(str(path), seed=3, **options.scaled_load_arguments())
    assert (coded.y_test == federated.y_test).all()
    assert (coded.y_train == federated.y_train).all()
    scaled = (coded.X_train - coded.X_train.mean(axis=0)) / coded.X_train.std(axis=0)
    np.testing.assert_allclose(scaled, federated.X_train, atol=1e-6)


# -- that it is run once --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_mpirun")
def test_a_study_from_its_runs_to_its_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line that fails says why, and does not keep the others from going on; what was run is not run again."""
    assert main(["compare", *STUDY, "--out", str(tmp_path)]) == 4
    said = capsys.readouterr()
    assert "epsilon does not apply to codedml:coded, codedml:bh08" in said.err
    assert re.search(r"^\[1/10\] .* \(\d+ s, about \d+ s left\)$", said.err, re.MULTILINE)
    assert "\x1b" not in said.err + said.out
    first = made(tmp_path)
    assert len(first) == 9  # 2 of coded, 4 of niss, 2 of its plain counterpart, and bh08 once, since it was refused
    coded, bh08, niss_1, niss_4 = rows(tmp_path)
    assert (coded["mean"], coded["gap_to_plain"]) == ("0.895", "-0.05499999999999994")
    assert bh08["failure"] == "the rows must be enough for a group, got 7"
    assert (niss_1["epsilon_uploads"], niss_4["epsilon_uploads"]) == ("1.0", "4.0")
    assert (niss_1["gap_to_plain"], niss_1["epsilon_model"]) == ("-0.09999999999999998", "")
    assert (coded["bytes_sent"], niss_1["bytes_sent"]) == ("45.0", "34.0")
    html = (tmp_path / "compare.html").read_text()
    assert "the server sees each client" in html.lower()
    assert html.count("the rows must be enough for a group, got 7") == 1
    assert re.search(r"^codedml:coded +10 +0\.895 ± 0\.007 +−0\.055 ± 0\.007 ", said.out, re.MULTILINE)
    assert "codedml:bh08 N=10: the rows must be enough for a group, got 7" in said.out
    assert "<script" not in html
    for kind in ("png", "svg", "pdf"):
        assert (tmp_path / f"picture.{kind}").stat().st_size > 2000
    tex = (tmp_path / "compare.tex").read_text()
    assert r"0.895 $\pm$ 0.007" in tex
    assert tex.count("{") == tex.count("}")

    assert main(["compare", str(tmp_path / "study.toml"), "--out", str(tmp_path)]) == 4
    assert [name for name in made(tmp_path)[len(first) :] if "bh08" not in name] == []

    done = fedmpi.compare("codedml,niss", "digits", grid={"N": [10], "epsilon": [1, 4]}, seeds=2, out=tmp_path)
    assert done.complete
    assert [record["mean"] for record in done.records] == [0.895, 0.795, 0.795]
    assert len(done.table) == 3
    assert "<table>" in done._repr_html_()
    assert [name for name in made(tmp_path)[len(first) :] if "bh08" not in name] == []


@pytest.mark.usefixtures("no_mpirun")
def test_a_study_that_was_killed_goes_on_to_the_same_table(tmp_path: Path) -> None:
    words = ["compare", "--systems", "codedml", "--dataset", "digits", "--grid", "N=5,7", "--seeds", "2", "--out"]
    out = tmp_path / "killed"
    killed = subprocess.Popen(
        [sys.executable, "-c", STARTER, STAND_IN, *words, str(out)],
        env={**os.environ, "SECONDS_OF_A_RUN": "0.5"},
        stderr=subprocess.DEVNULL,
    )
    end = time.monotonic() + 60
    while len(made(out)) < 3:
        assert time.monotonic() < end
        assert killed.poll() is None
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (out / "compare.html").exists()
    assert main([*words, str(out)]) == 0
    assert 4 <= len(made(out)) <= 5  # the one that had begun may have ended by itself
    assert main([*words, str(tmp_path / "whole")]) == 0
    for name in ("compare.csv", "compare.tex", "compare.html", "picture.png"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.usefixtures("no_mpirun")
def test_a_folder_with_other_things_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    assert main(["compare", *STUDY, "--out", str(tmp_path)]) == 2
    assert "--out must be a new folder, or that of a study" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


# -- what it says ---------------------------------------------------------------------------------------------------


def test_both_halves_of_the_test_rows_count() -> None:
    metrics = {"test_accuracy": 0.8, "validation_accuracy": 0.9}
    assert score({"metrics": metrics}) == ("test accuracy", pytest.approx(0.85))
    assert score({"metrics": {"test_rmse": 3.0, "test_r2": 0.5}}) == ("test RMSE", 3.0)
    assert score({"metrics": {"test_mse": 8.0, "validation_mse": 10.0}}) == ("test RMSE", 3.0)
    assert score({"metrics": {}}) == ("", None)


def test_what_the_audit_recovered() -> None:
    """A coalition that is larger than promised is a control of the attack, no break of the method."""

    def found(adversary: str, successes: int, *, broken: bool) -> dict[str, Any]:
        return {"adversary": adversary, "target": "rows", "successes": successes, "attempts": 4, "broken": broken}

    few, many = "1 of the workers (T)", "2 of the workers (T + 1)"
    findings = [found(few, 0, broken=False), found(few, 1, broken=False), found(many, 4, broken=True)]
    attacked = dataclasses.replace(row("a", 0.9, 10, 0.3), findings=findings)
    assert attacked.audit_success == 0.25
    assert attacked.audit_text == (
        "1 of the workers (T): rows in 1 of 4 attempts (no more than by guessing); "
        "2 of the workers (T + 1), which is more than may collude: rows in 4 of 4 attempts"
    )
    assert dataclasses.replace(attacked, findings=[]).audit_text == "no known attack applies to such a run"


def row(name: str, mean: float, bytes_sent: float, threshold: float) -> Row:
    return Row(
        *(name, name, "codedml", "coded", {}, 1, "", "test accuracy", Spread(mean, None), None, "", None, None),
        *(threshold, None, Spread(bytes_sent, None), {}, {}, None),
    )


def test_the_front_has_those_that_none_beats_in_both() -> None:
    rows = [row("a", 0.9, 10, 0.3), row("b", 0.8, 5, 0.2), row("c", 0.8, 6, 0.4), row("d", 0.9, 10, 0.3)]
    by_title = {axis.title.split()[0]: axis for axis in AXES}
    assert by_title["bytes"].front(rows) == {"a", "b", "d"}
    assert by_title["T/N,"].front(rows) == {"a", "c", "d"}


def test_a_mean_over_fewer_seeds_says_so() -> None:
    rows = [row("a", 0.9, 10, 0.3), dataclasses.replace(row("b", 0.8, 5, 0.2), runs=3)]
    assert columns(rows)["test accuracy"] == ["0.900 (1 seed only)", "0.800"]


def test_latex_takes_any_text() -> None:
    assert escaped("50 % of a_b & τ² {x} ~ ^ \\") == (
        r"50 \% of a\_b \& $\tau$$^2$ \{x\} \textasciitilde{} \textasciicircum{} \textbackslash{}"
    )


def test_every_method_says_who_learns_what() -> None:
    from fedmpi.study.known import known
    from fedmpi.systems import OWN

    for name in OWN:
        assert set(known(name).methods) == set(known(name).system.learns)
    assert json.dumps(known("niss").system.plain) == '"fedavg"'
