"""`fedmpi reproduce codedml`: runs that are not repeated, and a page that says what was measured and what projected."""

import csv
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fedmpi.bench import projection
from fedmpi.bench.projection import PROTOCOLS, project
from fedmpi.bench.rates import Rates
from fedmpi.bench.steps import Machines, Task
from fedmpi.bench.together import Together
from fedmpi.cli import main
from fedmpi.errors import FedmpiError, UsageError
from fedmpi.pages import figures
from fedmpi.reproduce.codedml import experiments, figure3_from, figure3_runs, pages, reproduce
from fedmpi.reproduce.codedml.gram import seconds_with_gram
from fedmpi.reproduce.codedml.settings import FULL, GISETTE, Scale
from fedmpi.runs import batch as jobs
from fedmpi.runs.result import SCHEMA

SCALE = Scale("quick", (10, 12), 3, 100, 7)
RATES = Rates(**dict.fromkeys(Rates.__annotations__, 1e9) | {"message_seconds": 1e-5})
SIGNATURE = b"\x89PNG"


# -- runs that are not repeated ------------------------------------------------------------------------------------


def result_of(launch: int) -> dict[str, int]:
    return {"schema": SCHEMA, "launch": launch}


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Replace mpirun by a script that writes a result; what was launched is kept."""
    launched: list[list[str]] = []

    def command(ranks: int, program: list[str]) -> tuple[list[str], list[str]]:
        launched.append([str(ranks), *program[3:]])
        out = Path(program[program.index("--out") + 1])
        if "--fail" in program:
            script = "import sys; print('fedmpi: error: the rule must hold, got 7', file=sys.stderr); sys.exit(2)"
        elif "--silent" in program:
            script = "pass"
        else:
            written = json.dumps(result_of(len(launched)))
            script = f"open({str(out / 'result.json')!r}, 'w').write({written!r})"
        return [sys.executable, "-c", script], []

    monkeypatch.setattr(jobs, "mpirun_command", command)
    return launched


def test_a_finished_run_is_not_run_again(launches: list[list[str]], tmp_path: Path) -> None:
    first = jobs.train(tmp_path / "run", 11, ["--method", "bgw"])
    assert jobs.train(tmp_path / "run", 11, ["--method", "bgw"]) == first == result_of(1)
    assert launches == [["11", "--method", "bgw", "--quiet", "--out", str(tmp_path / "run")]]


@pytest.mark.parametrize(("ranks", "options"), [(12, ["--method", "bgw"]), (11, ["--method", "bh08"])])
def test_other_arguments_are_another_run(
    launches: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str], ranks: int, options: list[str]
) -> None:
    jobs.train(tmp_path / "run", 11, ["--method", "bgw"])
    assert capsys.readouterr().err == ""
    (tmp_path / "run" / "config.toml").write_text("")
    assert jobs.train(tmp_path / "run", ranks, options) == result_of(2)
    assert not (tmp_path / "run" / "config.toml").exists()
    assert re.fullmatch("the run in .*run has other arguments .*: made anew\n", capsys.readouterr().err)


@pytest.mark.parametrize("left", ["", "{", "[]", "{}", '{"schema": 1}'])
def test_a_run_that_is_interrupted_or_of_an_older_version_is_run_again(
    launches: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str], left: str
) -> None:
    jobs.train(tmp_path / "run", 11, [])
    result = tmp_path / "run" / "result.json"
    if left:
        result.write_text(left)
    else:
        result.unlink()
    (tmp_path / "run" / "metrics.jsonl").write_text("half a lin")
    assert jobs.train(tmp_path / "run", 11, []) == result_of(2)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    assert capsys.readouterr().err.endswith("keys than today's: made anew\n") == bool(left)


def test_a_folder_of_somebody_else_stays(launches: list[list[str]], tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match=r"must be empty or hold arguments\.json, got"):
        jobs.train(tmp_path, 11, [])
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    assert launches == []


@pytest.mark.parametrize(
    ("option", "message"),
    [("--fail", "must end with 0, got 2: the rule must hold, got 7"), ("--silent", "must end with 0, got 0: it said")],
)
def test_a_run_that_fails_says_why(launches: list[list[str]], tmp_path: Path, option: str, message: str) -> None:
    for _ in range(2):  # and it is tried again
        with pytest.raises(FedmpiError, match=message) as caught:
            jobs.train(tmp_path / "run", 3, [option])
        assert "\n" not in str(caught.value)
    assert len(launches) == 2


def test_a_real_run(tmp_path: Path) -> None:
    options = ["--dataset", "digits", "--classes", "4", "9", "--iterations", "2", "--no-compare"]
    result = jobs.train(tmp_path / "run", 5, options)
    assert (result["ranks"], result["params"]["iterations"]) == (5, 2)
    written = (tmp_path / "run" / "result.json").stat().st_mtime_ns
    assert jobs.train(tmp_path / "run", 5, options) == result
    assert (tmp_path / "run" / "result.json").stat().st_mtime_ns == written


# -- the page ------------------------------------------------------------------------------------------------------

SECONDS = {"coded1": 1.0, "coded2": 2.0, "bh08": 6.0, "bgw": 8.0}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, list[str]]]:
    """Replace trainings by made-up results; what was asked for is kept."""
    calls: list[tuple[str, int, list[str]]] = []

    def train(
        folder: Path,
        ranks: int,
        options: Sequence[str],
        system: str = "codedml",
        *,
        resume: bool = False,
        slurm: bool = False,
    ) -> dict[str, Any]:
        assert (system, resume) == ("codedml", False)
        calls.append((folder.name, ranks, list(options)))
        folder.mkdir(parents=True, exist_ok=True)
        method = options[options.index("--method") + 1]
        iterations = int(options[options.index("--iterations") + 1])
        lines = [
            {"iteration": it, "test_accuracy": 0.5 + it / 1000, "train_loss": 1 / (1 + it)}
            for it in range(iterations + 1)
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        case = options[options.index("--case") + 1] if "--case" in options else ""
        total = SECONDS.get(method + case, 1.0)
        phases = {"encode": 0.25, "communicate": 0.125, "compute": 0.5, "prepare": 0.0625, "decode": 0.0625}
        return {
            "schema": SCHEMA,
            "method": method,
            "dataset": {"m": 100, "d": 64},
            "params": {"N": ranks - 1, "degree": 1, "iterations": iterations, "bias": True, "primes": [33554393]},
            "seconds": {**phases, "evaluate": 0.5, "offline": 0.375, "total": total + 0.5},
            "bytes": {"sent": {"master": 1000}},
            "metrics": {"test_accuracy": 0.55, "iterations": iterations},
        }

    monkeypatch.setattr(jobs, "train", train)
    monkeypatch.setattr(experiments, "calibrate", lambda: RATES)
    monkeypatch.setattr(projection, "measure", Together)  # at no cost
    monkeypatch.setattr(experiments, "integer_rate", lambda: 1e9)
    return calls


@pytest.fixture
def page(asked: list[Any], tmp_path: Path) -> tuple[Path, str]:
    path = reproduce(SCALE, tmp_path / "out", tmp_path / "no data")
    return path.parent, path.read_text()


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_file_of_the_page_is_there(page: tuple[Path, str]) -> None:
    out, text = page
    for name in ("figure3", "figure4", "figure5", "table2"):
        for key in ("digits", "gisette-stand-in"):
            assert f"({name}-{key}.csv)" in text
            assert read_csv(out / f"{name}-{key}.csv")
            if name != "table2":
                assert f"]({name}-{key}.png)" in text
                assert (out / f"{name}-{key}.png").read_bytes().startswith(SIGNATURE)


def test_the_page_tells_measured_from_projected(page: tuple[Path, str]) -> None:
    out, text = page
    rows = read_csv(out / "figure3-gisette-stand-in.csv")
    assert [(int(row["N"]), row["protocol"]) for row in rows] == [(N, p) for N in (10, 12) for p in PROTOCOLS]
    measured = [float(row["measured here"]) for row in rows]
    assert measured == [2.0, 2.0, 6.0, 8.0] * 2  # without evaluations
    paper_size = [float(row["projected, 6000 rows, 50 iterations"]) for row in rows]
    for row, seconds in zip(rows, paper_size, strict=True):
        expected = project(row["protocol"], int(row["N"]), GISETTE.size, Machines(), RATES).seconds["total"]
        assert seconds == expected
        assert float(row["projected"]) < seconds
    assert "| N | protocol | measured here | projected |" in text
    assert "measured here**: N + 1 ranks share" in text


def test_breakdown_and_speed_up_are_of_the_most_workers(page: tuple[Path, str]) -> None:
    out, text = page
    rows = [row for row in read_csv(out / "table2-digits.csv") if row["time"] == "measured here"]
    assert [row["protocol"] for row in rows] == list(PROTOCOLS)
    for row in rows:
        assert (row["encode"], row["communicate"], row["compute"]) == ("0.25", "0.125", "0.5")
        assert row["prepare + decode"] == "0.125"
        assert row["offline"] == ("0.375" if row["protocol"] == "bh08" else "")
    assert "### Breakdown for N = 12 (Table II)" in text
    stand_in = text.partition("## synthetic stand-in for GISETTE")[2]
    assert "| coded case 2 over bh08 | 3 |" in stand_in
    assert "| 5.2 |" in stand_in
    assert "| with X̃ᵀX̃ once | in each iteration |" in stand_in


def test_with_x_transposed_x_in_integers_bh08_has_the_paper_s_speed_up_and_bgw_has_not() -> None:
    """At a rate of 0.8 billion, as numpy has here; the paper: 4.4 times over BH08, and 22.5 times over BGW."""
    task, rates = Task(9019, 3073), RATES
    found = {}
    for once in (True, False):
        for name in ("coded case 1", "bh08", "bgw"):
            own = project(name, 50, task, Machines(), rates)
            found[name, once] = seconds_with_gram(own, task, rates, 8e8, once=once)
            assert found[name, once] > own.seconds["total"]
    assert found["coded case 1", False] == pytest.approx(50 * 564 * 3073**2 / 8e8, rel=0.1)  # ⌈9019/16⌉ rows
    for once in (True, False):
        assert 2.5 < found["bh08", once] / found["coded case 1", once] < 6
        assert 3 < found["bgw", once] / found["coded case 1", once] < 10


def test_projected_parts_add_up(page: tuple[Path, str]) -> None:
    out, _ = page
    for row in read_csv(out / "table2-gisette-stand-in.csv"):
        if row["time"] != "measured here":
            parts = sum(float(row[name]) for name in pages.BREAKDOWN if name not in ("total", "offline"))
            assert parts == pytest.approx(float(row["total"]))


def test_digits_are_named_where_cifar10_is_missing(page: tuple[Path, str]) -> None:
    _, text = page
    assert "CIFAR-10 is not on this machine: digits stand in for it." in text
    assert "22.5 |" not in text  # the paper's number is not beside another data set's


def test_cifar10_is_run_where_it_is(asked: list[Any], tmp_path: Path) -> None:
    for name in ("train.npz", "test.npz"):
        (tmp_path / "cifar10").mkdir(exist_ok=True)
        (tmp_path / "cifar10" / name).touch()
    text = reproduce(SCALE, tmp_path / "out", tmp_path).read_text()
    assert "digits" not in text
    assert "| coded case 2 over bgw | 4 |" in text
    assert "81.35%" in text
    names = [name for name, _, _ in asked]
    assert names[0] == "cifar10-coded2-10"  # N = 10 has T = 1 in both cases
    options = asked[0][2]
    assert options.count("--max-rows") == 1
    assert options[options.index("--max-rows") + 1] == "100"
    assert options[options.index("--data-dir") + 1] == str(tmp_path)
    curve = asked[names.index("cifar10-curve-coded")]
    assert curve[1] == 8
    assert curve[2][curve[2].index("--max-rows") + 1] == "9019"
    assert "--center" in curve[2]


def test_both_cases_are_run_where_they_differ(asked: list[Any], tmp_path: Path) -> None:
    reproduce(Scale("quick", (15,), 3, 100, 7), tmp_path / "out", tmp_path)
    names = [name for name, _, _ in asked]
    assert {"digits-coded1-15", "digits-coded2-15"} <= set(names)


def test_full_needs_cifar10(asked: list[Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="fedmpi data fetch cifar10"):
        reproduce(FULL, tmp_path / "out", tmp_path)
    assert asked == []


def test_matplotlib_is_asked_for_before_the_work(
    asked: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r'pip install "fedmpi\[report\]"'):
        reproduce(SCALE, tmp_path / "out", tmp_path)
    assert asked == []


def test_only_one_of_quick_and_full(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "codedml", "--quick", "--full"]) == 2
    assert capsys.readouterr().err == "fedmpi: error: only one of --quick and --full must be given, got both\n"


def test_the_command(asked: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["reproduce", "codedml", "--quick", "--out", str(tmp_path / "out"), "--data-dir", str(tmp_path)]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"written to {tmp_path / 'out' / 'report.md'}"
    assert len(lines) == len(asked) + 1
    assert lines[0].startswith("[ 1/")
    assert {ranks for _, ranks, options in asked if "--evaluate-every" in options} == {11, 31, 51}


@pytest.fixture
def made(asked: list[Any], tmp_path: Path) -> Path:
    """The runs of Figure 3, as if fetched from a cluster."""
    for name, (workers, options) in figure3_runs(FULL).items():
        folder = tmp_path / "made" / name
        result = jobs.train(folder, workers + 1, options)
        hosts = [f"host{number}" for number in range(workers + 1)]
        result |= {"ranks": workers + 1, "environment": {"hosts": hosts}}
        (folder / "result.json").write_text(json.dumps(result))
    asked.clear()
    return tmp_path / "made"


def test_figure_3_from_runs_made_elsewhere(
    made: Path, asked: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reproduce", "codedml", "--from", str(made), "--out", str(tmp_path / "out")]) == 0
    assert asked == [], "nothing is run"
    assert capsys.readouterr().out == f"written to {tmp_path / 'out' / 'report.md'}\n"
    text = (tmp_path / "out" / "report.md").read_text()
    assert "Figure 3 from runs on 51 machines" in text
    assert "measured here" not in text
    rows = read_csv(tmp_path / "out" / "figure3-cifar10.csv")
    assert len(rows) == len(FULL.workers) * len(PROTOCOLS)
    of_50 = {row["protocol"]: float(row["measured elsewhere"]) for row in rows if row["N"] == "50"}
    assert of_50 == {"coded case 1": 1.0, "coded case 2": 2.0, "bh08": 6.0, "bgw": 8.0}


def test_a_run_that_is_missing_or_another_one_is_named(made: Path, tmp_path: Path) -> None:
    path = made / "cifar10-bgw-50" / "result.json"
    path.write_text(path.read_text().replace('"ranks": 51', '"ranks": 11'))
    with pytest.raises(UsageError, match="cifar10-bgw-50 must be a run with 51 ranks, got bgw with 11"):
        figure3_from(made, tmp_path / "out")
    path.write_text(path.read_text().replace(f'"schema": {SCHEMA}', '"schema": 1'))
    with pytest.raises(UsageError, match=f"cifar10-bgw-50 must have schema {SCHEMA}, got 1"):
        figure3_from(made, tmp_path / "out")
    path.unlink()
    with pytest.raises(UsageError, match="--from must hold the finished run cifar10-bgw-50, got none in"):
        figure3_from(made, tmp_path / "out")
