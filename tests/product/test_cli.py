"""The `fedmpi` command: help, exit codes, one line per error, and what it hands on."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmpi.bench import kernels as bench
from fedmpi.cli import main
from fedmpi.cli import run as run_command
from fedmpi.crypto.keys import create_key_file
from fedmpi.crypto.random import FieldRandom
from fedmpi.errors import PeerFailed, ProtocolError, TooFewWorkers, UsageError
from fedmpi.version import __version__

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What `fedmpi run` would have started."""
    calls: list[tuple[Any, ...]] = []

    def run_ranks(
        *arguments: Any,
        interface: str | None,
        tolerate_failures: bool,
        places: dict[int, str] | None,
        start_timeout: float,
    ) -> int:
        assert (interface, tolerate_failures, start_timeout) == (None, True, 180)
        calls.append((*arguments, places) if places else arguments)
        return 3

    monkeypatch.setattr(run_command, "run_ranks", run_ranks)
    return calls


def error_line(capsys: Capture) -> str:
    """The one line of an error, with nothing else printed."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("fedmpi: error: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    return err.removeprefix("fedmpi: error: ").strip()


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("", ["run", "keygen", "hostfile", "doctor", "data", "bench", "Privacy-preserving machine learning over MPI"]),
        ("keygen", ["FILE", "its owner alone may read"]),
        ("bench encryption", ["--rounds", "-n", "51", "--json"]),
        (
            "run",
            [
                "codedml",
                "-n",
                "--encrypt",
                "--cluster-key",
                "--hostfile",
                "fedmpi run codedml -n 11 -- --dataset mnist",
            ],
        ),
        ("doctor", ["--data-dir", "what is missing"]),
        ("data", ["list", "fetch"]),
        ("data list", ["--data-dir", "List the data sets"]),
        ("data fetch", ["A name that `fedmpi data list` shows", "--data-dir", "official files"]),
        ("bench", ["kernels", "codedml", "encryption", "mpc", "survival"]),
        ("bench kernels", ["--json", "numpy"]),
        ("bench codedml", ["--json", "-n", "51"]),
        ("bench survival", ["--seeds", "--iterations", "--dataset", "--json"]),
        ("bench mpc", ["--protocol", "--parties", "--products", "--json"]),
    ],
)
def test_help_of_every_command_names_what_it_takes(command: str, says: list[str], capsys: Capture) -> None:
    assert main([*command.split(), "--help"]) == 0
    out, err = capsys.readouterr()
    text = " ".join(out.replace("│", " ").split())
    assert [phrase for phrase in says if phrase not in text] == []
    assert err == ""


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["run"],
        ["run", "codedml"],
        ["run", "codedml", "-n", "five"],
        ["doctor", "--fast"],
        ["data"],
        ["data", "delete"],
        ["data", "fetch"],
        ["bench"],
        ["bench", "everything"],
        ["bench", "codedml", "-n", "many"],
    ],
)
def test_what_does_not_exist_is_refused_with_2(
    arguments: list[str], started: list[tuple[Any, ...]], capsys: Capture
) -> None:
    assert main(arguments) == 2
    assert " must " in error_line(capsys)
    assert started == []


def test_the_version_is_that_of_the_package(capsys: Capture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"fedmpi {__version__}\n"


def test_run_hands_options_behind_the_dashes_to_the_system(started: list[tuple[Any, ...]]) -> None:
    assert main(["run", "codedml", "-n", "5", "--", "--iterations", "2", "--quiet"]) == 3
    assert main(["run", "codedml", "--iterations", "2", "-n", "5", "--quiet"]) == 3, "a forgotten -- is understood"
    program = [sys.executable, "-m", "fedmpi.codedml", "--iterations", "2", "--quiet"]
    assert started == [(5, program, None)] * 2


@pytest.mark.parametrize("flags", [["--encrypt"], ["--encrypt", "--cluster-key", "key"], ["--cluster-key", "key"]])
def test_run_tells_the_ranks_where_the_key_is(
    flags: list[str], started: list[tuple[Any, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    create_key_file(tmp_path / "key")
    assert main(["run", "codedml", "-n", "5", *flags, "--", "--iterations", "2"]) == 3
    ((ranks, program, hosts),) = started
    assert (ranks, hosts, program[3:5], program[6:]) == (5, None, ["--encrypt", "--cluster-key"], ["--iterations", "2"])
    assert (program[5] == str(tmp_path / "key")) == ("--cluster-key" in flags)


@pytest.mark.parametrize("flag", ["-n", "--ranks"])
def test_run_hands_on_ranks_and_hostfile(flag: str, started: list[tuple[Any, ...]]) -> None:
    assert main(["run", "codedml", flag, "7", "--hostfile", "some/hosts"]) == 3
    assert started == [(7, [sys.executable, "-m", "fedmpi.codedml"], Path("some/hosts"))]


def test_run_hands_on_where_roles_and_ranks_must_run(started: list[tuple[Any, ...]]) -> None:
    assert main(["run", "codedml", "-n", "7", "--hostfile", "h", "--place", "master=a,3=b", "--strict-placement"]) == 3
    program = [sys.executable, "-m", "fedmpi.codedml", "--strict-placement"]
    assert started == [(7, program, Path("h"), {0: "a", 3: "b"})]


def test_run_refuses_roles_that_the_system_does_not_have(started: list[tuple[Any, ...]], capsys: Capture) -> None:
    assert main(["run", "codedml", "-n", "7", "--hostfile", "h", "--place", "tracker=a"]) == 2
    assert error_line(capsys) == "--place must be ROLE=HOST,… with the roles master, or a rank, got 'tracker=a'"
    assert started == []


@pytest.mark.parametrize(
    "command", ["doctor", "data list", "data fetch wine", "bench kernels", "bench codedml", "bench codedml -n 5"]
)
def test_commands_that_take_no_options_behind_the_dashes_refuse_them(
    command: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name in (
        ("fedmpi.machines.doctor", "examine"),
        ("fedmpi.data", "catalogue"),
        ("fedmpi.data", "fetch"),
        ("fedmpi.bench.kernels", "measure"),
        ("fedmpi.bench.codedml", "measure"),
    ):
        monkeypatch.setattr(f"{module}.{name}", lambda *_, **__: pytest.fail("nothing must run"))
    assert main([*command.split(), "--", "--iterations", "2"]) == 2
    assert error_line(capsys) == "options behind -- must be for run, compare or attack, got --iterations 2"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("-n must be at least 1, got 0"), 2),
        (TooFewWorkers("answers must be 4 or more, got 3"), 3),
        (ProtocolError("a frame must be whole, got half of it"), 4),
        (PeerFailed(3, "worker", "left"), 4),
    ],
)
def test_an_error_is_one_line_and_its_exit_code(
    error: Exception, code: int, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> int:
        raise error

    monkeypatch.setattr(run_command, "run_ranks", fails)
    assert main(["run", "codedml", "-n", "5"]) == code
    assert error_line(capsys) == str(error)


def test_ctrl_c_is_no_traceback(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("fedmpi.data.catalogue", interrupted)
    assert main(["data", "list"]) == 130
    assert capsys.readouterr() == ("", "fedmpi: stopped by Ctrl-C\n")


def listed(capsys: Capture) -> dict[str, tuple[str, str]]:
    """{name: (mark, the rest)} of `fedmpi data list`."""
    out, err = capsys.readouterr()
    assert err == ""
    rows = [line.split(maxsplit=2) for line in out.splitlines()]
    return {name: (mark, rest) for mark, name, rest in rows}


@pytest.mark.parametrize("by", ["option", "environment"])
def test_data_list_says_what_is_here_and_where_the_rest_belongs(
    by: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tabular").mkdir()
    (tmp_path / "tabular" / "winequality-white.csv").touch()
    monkeypatch.setenv("FEDMPI_DATA", str(tmp_path) if by == "environment" else "/nowhere")
    assert main(["data", "list", *(["--data-dir", str(tmp_path)] if by == "option" else [])]) == 0
    rows = listed(capsys)
    here = {"digits", "wine", "diabetes", "synthetic:gisette", "synthetic-lasso"}
    absent = {"mnist", "cifar10", "cifar100", "svhn", "gisette", "bank", "ham10000", "ham10000-64"}
    assert {name for name, (mark, _) in rows.items() if mark == "ok"} == here
    assert {name for name, (mark, _) in rows.items() if mark == "--"} == absent
    assert rows["mnist"][1].endswith(f"({tmp_path}/mnist)")


def test_data_fetch_prints_the_files_of_a_set_that_is_here(tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "tabular" / "winequality-white.csv"
    file.parent.mkdir()
    file.touch()
    assert main(["data", "fetch", "wine", "--data-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{file}\n"


def test_data_fetch_of_a_set_that_needs_no_file_does_nothing(tmp_path: Path, capsys: Capture) -> None:
    assert main(["data", "fetch", "digits", "--data-dir", str(tmp_path / "new")]) == 0
    assert capsys.readouterr() == ("", "")
    assert not (tmp_path / "new").exists()


def test_data_fetch_of_an_unknown_name_suggests_one(tmp_path: Path, capsys: Capture) -> None:
    assert main(["data", "fetch", "mnits", "--data-dir", str(tmp_path)]) == 2
    message = error_line(capsys)
    assert "got mnits (did you mean mnist?)" in message
    assert "cifar10" in message
    assert list(tmp_path.iterdir()) == []


def test_data_fetch_into_what_is_no_folder_is_one_line(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "file").write_text("precious")
    assert main(["data", "fetch", "wine", "--data-dir", str(tmp_path / "file")]) == 2
    assert str(tmp_path / "file") in error_line(capsys)
    assert (tmp_path / "file").read_text() == "precious"


class Narrow(FieldRandom):
    """Matrices of 100 columns instead of 5000."""

    def __call__(self, shape: tuple[int, ...]) -> np.ndarray:
        return super().__call__(tuple(100 if n == 5000 else n for n in shape))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure small matrices, once: what is tested here is the report."""
    fastest: Callable[..., list[float]] = bench.fastest
    monkeypatch.setattr(bench, "fastest", lambda *functions, **_: fastest(*functions, rounds=1))
    monkeypatch.setattr(bench, "FieldRandom", Narrow)


@pytest.mark.usefixtures("quick")
def test_bench_kernels_prints_json_with_the_speedups(capsys: Capture) -> None:
    assert main(["bench", "kernels", "--json"]) == 0
    out, err = capsys.readouterr()
    figures = json.loads(out)
    assert err == ""
    for name, plain in (("gradient", "float64_seconds"), ("encode", "int64_seconds")):
        assert figures[name]["speedup"] > 0
        assert figures[name]["speedup"] == pytest.approx(figures[name][plain] / figures[name]["seconds"])
    assert figures["random"]["elements_per_second"] > 0
    assert isinstance(figures["compiled"], bool)


def test_bench_without_json_prints_a_line_for_each_figure(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = {"compiled": True, "gradient": {"speedup": 3.14159265, "seconds": 0.5}}
    monkeypatch.setattr(bench, "measure", lambda: figures)
    assert main(["bench", "kernels"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [
        ["compiled", "True"],
        ["gradient", "speedup", "3.142", "seconds", "0.5"],
    ]


@pytest.mark.parametrize(("arguments", "ranks"), [([], 51), (["-n", "5"], 5)])
def test_bench_codedml_runs_the_ranks_asked_for(
    arguments: list[str], ranks: int, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedmpi.bench.codedml.measure", lambda ranks: {"ranks": ranks})
    assert main(["bench", "codedml", "--json", *arguments]) == 0
    assert json.loads(capsys.readouterr().out) == {"ranks": ranks}


@pytest.mark.parametrize("command", [["-m", "fedmpi.cli"], [str(Path(sys.executable).parent / "fedmpi")]])
def test_the_command_of_the_shell_ends_with_the_exit_code(command: list[str]) -> None:
    program = [sys.executable, *command, "data", "fetch", "no such set"]
    done = subprocess.run(program, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("fedmpi: error: ")
    assert done.stderr.count("\n") == 1
