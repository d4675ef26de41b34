"""The folder, the options, the progress and the costs of one run."""

import json
import re
import signal
import tomllib
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fedmpi.codedml.params import Params
from fedmpi.errors import FilesError, Interrupted, UsageError
from fedmpi.net import job_folder
from fedmpi.net.costs import Report
from fedmpi.net.transport import Meter
from fedmpi.runs.environment import process_age_seconds
from fedmpi.runs.folder import RunFolder, write_atomically
from fedmpi.runs.interruption import heed_signals
from fedmpi.runs.options import RunOptions, parse, to_toml
from fedmpi.runs.progress import Progress
from fedmpi.runs.result import costs

# -- folder -------------------------------------------------------------------------------------------------------


def test_a_folder_is_named_after_the_system_and_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda form, *when: "20260102-030405")
    folders = []
    for _ in range(3):
        folders.append(RunFolder(None, "codedml-coded", ""))
        assert not folders[-1].path.exists()  # before something is written
        folders[-1].log("begun")
    twins = [RunFolder(None, "x", "") for _ in range(2)]  # neither sees the other before one of them writes
    for twin in twins:
        twin.log("begun")
    assert twins[0].path != twins[1].path
    assert all(len((twin.path / "log.txt").read_text().splitlines()) == 1 for twin in twins)
    paths = [folder.path for folder in folders]
    base = Path("runs/codedml-coded-20260102-030405")
    assert paths == [base, base.with_name(base.name + "-2"), base.with_name(base.name + "-3")]
    assert all(path.is_dir() for path in paths)


def test_a_folder_that_holds_a_run_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "a" / "b", "x", "seed = 1\n")
    RunFolder(tmp_path / "a" / "b", "x", "")  # nothing has been written
    folder.log("begun")
    assert (tmp_path / "a" / "b" / "config.toml").read_text() == "seed = 1\n"
    with pytest.raises(UsageError, match=r"--out must be a new folder, got .*b, which holds a run"):
        RunFolder(tmp_path / "a" / "b", "x", "")


def test_what_is_written(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", "x", "")
    folder.write_json("result.json", {"a": [1, 2.5, "ü"]})
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == {"a": [1, 2.5, "ü"]}
    for i in range(3):
        folder.append_metrics({"iteration": i, "loss": 0.1})
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines] == [0, 1, 2]
    folder.log("hello")
    assert re.fullmatch(r"\d\d:\d\d:\d\d hello\n", (tmp_path / "run" / "log.txt").read_text())
    folder.write_arrays("model.npz", w=np.arange(3.0), names=np.array(["a"]))
    with np.load(tmp_path / "run" / "model.npz", allow_pickle=False) as model:
        assert sorted(model.files) == ["names", "w"]
        np.testing.assert_array_equal(model["w"], [0, 1, 2])
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "result.json",
        "metrics.jsonl",
        "log.txt",
        "model.npz",
        "config.toml",
    }


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(FilesError, match="no space"):
        write_atomically(path, b"new and longer")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_arrays_that_can_not_be_written_leave_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path / "run", "x", "")

    def full(*_: Any, **__: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("numpy.savez", full)
    with pytest.raises(OSError, match="no space"):
        folder.write_arrays("model.npz", w=np.zeros(3))
    assert not (tmp_path / "run" / "model.npz").exists()


# -- options ------------------------------------------------------------------------------------------------------


def parsed(*argv: Any) -> tuple[Params, RunOptions]:
    return parse(Params, [str(argument) for argument in argv], "program", "A description.")


def test_no_options_are_the_defaults() -> None:
    params, options = parsed()
    assert (params, options) == (Params(), RunOptions())


def test_short_flags_and_lists() -> None:
    params, options = parsed("-K", 3, "-T", 2, "-r", 1, "--classes", "a", "b", "--fit-range", -4, 4, "--no-bias")
    assert (params.parallelization, params.privacy, params.degree) == (3, 2, 1)
    assert params.fit_range == (-4.0, 4.0)
    assert not params.bias
    assert options.classes == ("a", "b")
    assert parsed("--parallelization", 3)[0] == parsed("-K", 3)[0]


@dataclass(frozen=True)
class Other:
    """Parameters of another system."""

    ratio: float = 0.5
    names: tuple[str, ...] = ("x", "y")
    flag: bool = True
    limit: int | None = None


def test_options_survive_toml_for_any_system(tmp_path: Path) -> None:
    given = (Other(0.25, ("p", "q r"), False, 7), RunOptions(dataset="a.csv", classes=("1", "-2"), seed=5, quiet=True))
    path = tmp_path / "config.toml"
    path.write_text(to_toml(*given))
    assert parse(Other, ["--config", str(path)], "program", "") == (given[0], _with(given[1], path))


def _with(options: RunOptions, config: Path) -> RunOptions:
    return RunOptions(**{**{name: getattr(options, name) for name in options.__dataclass_fields__}, "config": config})


@pytest.mark.parametrize("flag", ["--resume", "--config"])
@pytest.mark.parametrize("first", [["--encrypt", "--cluster-key", "key"], ["--cluster-key", "key"]])
def test_an_encrypted_run_goes_on_in_the_clear_on_demand_only(tmp_path: Path, flag: str, first: list[str]) -> None:
    config = tmp_path / "config.toml"
    config.write_text(to_toml(*parse(Other, first, "program", "")))
    again = [flag, str(tmp_path if flag == "--resume" else config)]
    with pytest.raises(UsageError, match=r"must stand on the command line.*config.toml is of an encrypted run"):
        parse(Other, again, "program", "")
    assert parse(Other, [*again, *first], "program", "")[1].encrypt
    assert not parse(Other, [*again, "--no-encrypt"], "program", "")[1].encrypt


def test_toml_holds_everything_that_is_set(tmp_path: Path) -> None:
    params = Params(paper=True, fit_range=(-4.0, 5.0))
    values = tomllib.loads(to_toml(params, RunOptions(out=tmp_path / "run", dry_run=True)))
    assert values["prime"] == 33554393
    assert values["fit_range"] == [-4.0, 5.0]
    assert values["paper"] is True
    assert "primes" not in values
    assert not {"dry_run", "config", "out", "record_views", "case", "dataset"} & values.keys()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = ", "--config must be TOML"),
        ("sead = 1", "the keys of .* must be options, got sead; did you mean seed?"),
        ("zzzzzz = 1", "the keys of .* must be options, got zzzzzz$"),
    ],
)
@pytest.mark.parametrize("form", ["--config={}", "--config {}"])
def test_a_wrong_configuration(text: str, message: str, form: str, tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message) as error:
        parsed(*form.format(path).split(" "))
    assert "\n" not in str(error.value)


def test_a_configuration_that_can_not_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--config must be a readable file, got .*none\.toml: No such file"):
        parsed("--config", tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="--config must be TOML"):
        parsed("--config", tmp_path / "bytes.toml")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"evaluate_every": 0}, "--evaluate-every must be at least 1, got 0"),
        ({"timeout": 0.0}, "--timeout must be positive, got 0.0"),
        ({"timeout": float("nan")}, "--timeout must be positive, got nan"),
        ({"timeout": float("inf")}, "--timeout must be positive, got inf"),
        ({"seed": -1}, "--seed must be at least 0, got -1"),
    ],
)
def test_options_that_break_a_rule(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        RunOptions(**options)


# -- progress -----------------------------------------------------------------------------------------------------


def step(progress: Progress, iteration: int) -> None:
    meter = Meter()
    meter.bytes_sent["A"], meter.messages_received["B"], meter.late = 2_500_000, 7, 1
    progress.step(iteration, {"train_loss": 0.5, "test_accuracy": 0.75}, meter, ("B", "C"))


def test_progress_prints_about_ten_lines_and_records_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(RunFolder(tmp_path / "run", "x", ""), 50, quiet=False)
    for iteration in range(51):
        step(progress, iteration)
    lines = capsys.readouterr().out.splitlines()
    assert [int(line.split("/")[0]) for line in lines] == list(range(0, 51, 5))
    assert re.fullmatch(
        r" +50/50  train loss 0\.5000  test accuracy 0\.7500  \d+\.\d s  2\.5 MB  7 answers, 1 late", lines[-1]
    )
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [record["iteration"] for record in records] == list(range(51))
    assert records[3].keys() == {
        "iteration", "train_loss", "test_accuracy", "seconds", "sent_bytes", "answers", "late"
    }  # fmt: skip


def test_progress_says_how_long_the_rest_will_take(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("fedmpi.runs.progress.time", SimpleNamespace(perf_counter=lambda: now[0]))
    progress = Progress(RunFolder(tmp_path / "run", "x", ""), 10, quiet=False)
    for k in range(3, 11):  # a run that goes on after step 3, with a slow first step
        now[0] += 100 if k == 3 else 60
        step(progress, k)
    lines = capsys.readouterr().out.splitlines()
    found = [re.search(r"about (.*) left", line) for line in lines]
    assert [one and one[1] for one in found] == [None, "6 min", "5 min", "4 min", "3 min", "2 min", "60 s", None]


def test_ctrl_c_is_called_so_where_the_launcher_has_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A launcher that has told nothing sent nothing: Open MPI 4 ends all by SIGTERM once one has died."""
    monkeypatch.delenv(job_folder.VARIABLE, raising=False)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        check = heed_signals()
        check()
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Interrupted, match=r"^stopped by SIGTERM$") as of_user:
            check()
        monkeypatch.setenv(job_folder.VARIABLE, str(tmp_path))
        with pytest.raises(Interrupted, match=r"^all ranks must last as .* got SIGTERM from") as of_mpirun:
            check()
        job_folder.write_reason(tmp_path, "Ctrl-C")
        with pytest.raises(Interrupted, match=r"^stopped by Ctrl-C$") as of_launcher:
            check()
        assert [error.value.exit_code for error in (of_user, of_mpirun, of_launcher)] == [143, 4, 143]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_quiet_progress_records_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(RunFolder(tmp_path / "run", "x", ""), 3, quiet=True)
    progress.say("two\nlines")
    step(progress, 0)
    assert capsys.readouterr().out == ""
    assert len((tmp_path / "run" / "log.txt").read_text().splitlines()) == 2
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1


def test_progress_on_a_terminal_is_one_live_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDMPI_TERMINAL", "1")
    progress = Progress(RunFolder(tmp_path / "run", "x", ""), 3, quiet=False)
    for iteration in range(4):
        step(progress, iteration)
    progress.say("the end")
    progress.say("indeed")
    out = capsys.readouterr().out
    assert out.count("\r\x1b[2K\x1b[?7l") == 4
    assert out.endswith("late\x1b[?7h\nthe end\nindeed\n")
    assert out.count("\n") == 3


# -- costs --------------------------------------------------------------------------------------------------------


ROLES = {"master": 1, "worker": 2}


def channel(**seconds: float) -> Any:
    meter = Meter()
    meter.seconds.update(seconds)
    meter.bytes_sent.update({"A": 10, "B": 20})
    meter.bytes_received.update({"C": 7})
    meter.messages_sent.update({"A": 1, "B": 2})
    meter.messages_received.update({"C": 3})
    meter.late = 4
    return SimpleNamespace(meter=meter, transport=SimpleNamespace(library="threads"))


def report_of(compute: float, cpu: float, sent: int, host: str = "h") -> Report:
    return Report(compute, cpu, sent, 2 * sent, 1000 * sent, host)


def test_costs() -> None:
    reports = [report_of(1.0, 2.0, 10), report_of(3.0, 4.0, 30, "other")]
    phases = {"encode": 0.5, "communicate": 1.0, "wait": 4.0, "decode": 0.25}
    got = costs(channel(**phases), ROLES, dict(enumerate(reports, 1)), startup=1.5, total=7.0)
    assert got["seconds"] == {
        "startup": 1.5, "encode": 0.5, "decode": 0.25, "communicate": 2.0, "compute": 3.0, "total": 7.0
    }  # fmt: skip
    assert got["cpu_seconds"]["worker_mean"] == 3.0
    assert got["cpu_seconds"]["worker_max"] == 4.0
    assert got["cpu_seconds"]["master"] >= 0
    assert got["bytes"] == {
        "sent": {"master": 30, "worker_mean": 20.0, "worker_max": 30},
        "received": {"master": 7, "worker_mean": 40.0, "worker_max": 60},
    }
    assert got["messages"] == {"sent": {"A": 1, "B": 2}, "received": {"C": 3}, "late": 4}
    assert got["environment"]["mpi"] == "threads"
    assert {"h", "other"} < set(got["environment"]["hosts"])
    json.dumps(got)


def test_computing_is_never_more_than_the_time_waited() -> None:
    got = costs(channel(wait=1.0), ROLES, {1: report_of(5.0, 5.0, 1)})
    assert (got["seconds"]["communicate"], got["seconds"]["compute"]) == (0.0, 1.0)


def test_costs_without_others() -> None:
    got = costs(channel(), ROLES, {})
    assert set(got["seconds"].values()) == {0.0}
    assert got["bytes"]["sent"] == {"master": 30, "worker_mean": 0, "worker_max": 0}


def test_a_role_of_one_rank_stands_by_itself() -> None:
    roles = {"server": 1, "tracker": 1, "host": 2}
    reports = {1: report_of(9.0, 8.0, 10), 2: report_of(1.0, 2.0, 20), 3: report_of(3.0, 4.0, 40)}
    got = costs(channel(wait=5.0), roles, reports)
    assert got["bytes"]["sent"] == {"server": 30, "tracker": 10, "host_mean": 30.0, "host_max": 40}
    assert got["peak_memory_bytes"] == {"tracker": 10_000, "host_mean": 30_000.0, "host_max": 40_000}
    assert got["seconds"]["compute"] == 3.0


def test_the_age_of_this_process() -> None:
    age = process_age_seconds()
    assert 0 < age < 24 * 3600
    assert process_age_seconds() >= age


def test_columns_of_tables_are_scaled_unless_statistics_say_how() -> None:
    """The same for the systems with clients and for the audit of their runs."""
    assert RunOptions().scaled_load_arguments() == RunOptions().load_arguments() | {"scale": "standard"}
    given = RunOptions(statistics=Path("public.json"))
    assert given.scaled_load_arguments() == given.load_arguments()
