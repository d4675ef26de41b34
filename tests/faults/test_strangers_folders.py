"""A run folder from a stranger, of every kind: nothing is written outside it, nothing of it is run, nothing waits."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from protocol.codedml_threads import command_on_threads
from report import folders

from fedmpi.cli import main
from fedmpi.codedml.params import Params
from fedmpi.errors import FedmpiError, UsageError
from fedmpi.files import append_line, own_folder, read_file, replace_file
from fedmpi.pages.tables import plain
from fedmpi.report.watch import stopped
from fedmpi.rules import printable, printable_lines
from fedmpi.runs.checkpoint import read_checkpoint, write_checkpoint
from fedmpi.runs.folder import RunFolder
from fedmpi.runs.options import parse

OWN = "nobody may change this\n"
ESCAPE = "\x1b]0;owned\x07\x1b[2J"

CODE = """
import pathlib
pathlib.Path({ran!r}).touch()
class Model: pass
"""


def link(name: str) -> Callable[[Path, Path], None]:
    """A file that leads to one outside."""

    def make(run: Path, outside: Path) -> None:
        path = run / name
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(outside / "own")

    return make


def linked_folder(name: str) -> Callable[[Path, Path], None]:
    def make(run: Path, outside: Path) -> None:
        shutil.rmtree(run / name, ignore_errors=True)
        (run / name).symlink_to(outside, target_is_directory=True)

    return make


def pipe(name: str) -> Callable[[Path, Path], None]:
    """A FIFO: who opens it waits for a writer."""

    def make(run: Path, outside: Path) -> None:
        path = run / name
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        os.mkfifo(path)

    return make


def text(name: str, contents: str) -> Callable[[Path, Path], None]:
    def make(run: Path, outside: Path) -> None:
        path = run / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(contents.replace("OUTSIDE", str(outside)))

    return make


def result(**changes: object) -> Callable[[Path, Path], None]:
    def make(run: Path, outside: Path) -> None:
        path = run / "result.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return make


def unfinished(run: Path, outside: Path) -> None:
    (run / "result.json").unlink()


def zipped(name: str) -> Callable[[Path, Path], None]:
    """A view as numpy writes it, with members that are no messages."""

    def make(run: Path, outside: Path) -> None:
        (run / name).parent.mkdir(exist_ok=True)
        np.savez(run / name, **{"000000-0-Setup-rows": np.array(["x"]), "1-1-CodedWeights-W_tilde": np.zeros(0)})

    return make


def several(*makers: Callable[[Path, Path], None]) -> Callable[[Path, Path], None]:
    def make(run: Path, outside: Path) -> None:
        for maker in makers:
            maker(run, outside)

    return make


KINDS: dict[str, Callable[[Path, Path], None]] = {
    "every file of a report is a link": several(
        *(link(f"report/{name}") for name in ("costs.csv", "curves.csv", "loss.png", "report.html"))
    ),
    "report, audit and participants are links to folders": several(
        *map(linked_folder, ("report", "audit", "participants"))
    ),
    "log.txt is a link": link("log.txt"),
    "metrics.jsonl is a link": link("metrics.jsonl"),
    "checkpoints is a link to a folder": linked_folder("checkpoints"),
    "config.toml is a pipe": pipe("config.toml"),
    "result.json is a pipe": pipe("result.json"),
    "metrics.jsonl is a pipe": pipe("metrics.jsonl"),
    "log.txt is a pipe": several(unfinished, pipe("log.txt")),
    "images.npz is a pipe": pipe("images.npz"),
    "a view is a pipe": pipe("views/rank-0.npz"),
    "the model is a pipe": pipe("model.json"),
    "an integer of 5000 digits in the result": text("result.json", '{"ranks": ' + "9" * 5000 + "}"),
    "an integer of 5000 digits in the configuration": text("config.toml", "seed = " + "9" * 5000),
    "an iteration of 1e99": text(
        "metrics.jsonl", '{"iteration": 1e99, "loss": 1e99}\n{"iteration": -1e99, "loss": 0}\n'
    ),
    "views that are junk": several(*(text(f"views/rank-{rank}.npz", "PK\x03\x04junk") for rank in range(11))),
    "views of one kind of array": several(*(zipped(f"views/rank-{rank}.npz") for rank in range(11))),
    "the configuration names code": text("config.toml", 'model = "stranger:Model"\n'),
    "the configuration names another folder": text("config.toml", 'out = "OUTSIDE/run"\n'),
    "the configuration smuggles a flag": text("config.toml", 'classes = ["4", "--out", "OUTSIDE/run"]\n'),
    "text that a terminal would act upon": several(
        unfinished,
        text("config.toml", f"# fedmpi run x; touch OUTSIDE/ran; {ESCAPE}\n"),
        text("log.txt", f"ended: {ESCAPE}\n"),
    ),
    "a result of other types": result(ranks=-1, seed="x", metrics=[1], roles=7, dataset=[], bytes=1, failures="many"),
    "a name that a shell would act upon": result(system="x; touch OUTSIDE/ran #", ranks="1; id"),
    "JSON too deep to read": text("result.json", "[" * 100_000),
}


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders.coded(tmp_path_factory.mktemp("honest") / "run")


def resume(run: Path) -> None:
    """What rank 0 does with the folder of a run that goes on, without the training."""
    parse(Params, ["--resume", str(run)], "fedmpi", "")
    arrays, state, _ = read_checkpoint(run)
    folder = RunFolder(run, "again", "", resumed=True)
    folder.begin()
    write_checkpoint(run, 99, arrays, state)
    folder.go_on(1)
    folder.log("goes on")
    folder.append_metrics({"iteration": 1})


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_written_outside_nothing_is_run_and_nothing_waits(
    kind: str, honest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, outside, here = tmp_path / "run", tmp_path / "outside", tmp_path / "here"
    shutil.copytree(honest, run)
    outside.mkdir()
    here.mkdir()
    (outside / "own").write_text(OWN)
    write_checkpoint(run, 1, {"w": np.zeros(2)}, {"iteration": 1})
    (here / "stranger.py").write_text(CODE.format(ran=str(outside / "ran")))
    (here / "rows.csv").write_text("a,b\n1,2\n")
    KINDS[kind](run, outside)
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend(here)
    before = sorted(outside.rglob("*"))
    commands = (
        ["report", str(run)],
        ["watch", str(run)],
        ["audit", str(run)],
        ["predict", str(run), "rows.csv"],
        ["attack", "--", "--config", str(run / "config.toml"), "--dry-run", "--dataset", "nothing"],
    )
    for command in commands:
        code = main(command)
        said = capsys.readouterr()
        assert "Traceback" not in said.err, command
        assert code == 0 or len([line for line in said.err.splitlines() if "error" in line]) == 1, (command, said.err)
        assert "\x1b]" not in said.out + said.err, command
    try:
        resume(run)
    except FedmpiError as error:
        assert "\n" not in str(error)
    assert (outside / "own").read_text() == OWN
    assert sorted(outside.rglob("*")) == before
    page = run / "report" / "report.html"
    if page.is_file() and "shell" in kind:
        assert "-n &#x27;1; id&#x27;" in page.read_text()


def test_what_is_told_to_go_on_with_is_one_command(tmp_path: Path) -> None:
    """Of somebody's first line every word is quoted anew."""
    (tmp_path / "config.toml").write_text("# fedmpi run niss -n 3; touch 'a b' $(id)\n")
    write_checkpoint(tmp_path, 1, {"w": np.zeros(2)}, {"iteration": 1})
    assert "fedmpi run niss -n '3;' touch 'a b' '$(id)' -- --resume" in stopped(tmp_path)


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("=1+1", "'=1+1"),
        ("+cmd", "'+cmd"),
        ("-cmd|' /C calc'!A0", "'-cmd|' /C calc'!A0"),
        ("@SUM(1)", "'@SUM(1)"),
        ("\t=1", "'\t=1"),
        ("\r=1", "'\r=1"),
        ("-1.5", "-1.5"),
        ("+2e3", "+2e3"),
        (-1.5, -1.5),
        ("name", "name"),
    ],
)
def test_no_cell_is_a_formula_and_numbers_stay(cell: object, written: object) -> None:
    assert plain(cell) == written


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000, 0o027])
def test_files_follow_the_umask_and_the_rest_is_private(umask: int, tmp_path: Path) -> None:
    """Never wider than 0644; weights, checkpoints and the folder itself are their owner's alone."""
    before = os.umask(umask)
    try:
        folder = RunFolder(tmp_path / "a" / "run", "x", "seed = 1\n")
        folder.log("begun")
        folder.write_json("result.json", {})
        folder.write_arrays("model.npz", w=np.zeros(2))
        path = write_checkpoint(folder.path, 1, {"w": np.zeros(2)}, {})
    finally:
        os.umask(before)
    modes = {file.name: file.stat().st_mode & 0o777 for file in [folder.path, *folder.path.rglob("*")]}
    public = 0o644 & ~umask
    assert modes == {
        "run": 0o700,
        "checkpoints": 0o700,
        "config.toml": public,
        "log.txt": public,
        "result.json": public,
        "model.npz": 0o600,
        path.name: 0o600,
        f"{path.name}.sha256": public,
    }


def test_names_in_files_reach_a_terminal_without_what_it_would_act_upon(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names of classes and columns, in the lines of a run, in log.txt, and in errors."""
    rows = "".join(f"{k % 7},{(-1) ** k},{('a' + ESCAPE, 'b')[k % 2]}\n" for k in range(40))
    (tmp_path / "rows.csv").write_text(f"x,y{ESCAPE},label\n{rows}")
    command_on_threads(3, "--dataset", tmp_path / "rows.csv", "--out", tmp_path / "run", "--iterations", 2)
    assert main(["predict", str(tmp_path / "run"), str(tmp_path / "rows.csv")]) == 0
    assert main(["predict", str(tmp_path / f"no{ESCAPE}"), "rows.csv"]) == 2
    said = capsys.readouterr()
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "\x1b" not in said.out + said.err + log
    assert "\x07" not in said.out + said.err + log
    assert "\\x1b" in said.out


def test_printable_text_stays_as_it_is() -> None:
    assert printable("größer ≠ 大  x") == "größer ≠ 大  x"
    assert printable("a\nb\tc\xa0d\x00\u202e\udcff") == r"a b c d\x00\u202e\udcff"
    assert printable("x" * 2000) == "x" * 999 + "…"
    assert printable_lines("a\n\x1b") == "a\n\\x1b"


def test_a_pipe_or_a_link_is_refused_by_what_reads_and_writes(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "to-a-folder").symlink_to(tmp_path)
    for refused in (
        lambda: read_file(tmp_path / "pipe", 10),
        lambda: append_line(tmp_path / "pipe", "x"),
        lambda: append_line(tmp_path / "link", "x"),
        lambda: own_folder(tmp_path / "to-a-folder"),
    ):
        with pytest.raises(OSError, match=r".+"):
            refused()
    replace_file(tmp_path / "link", b"x")
    assert not (tmp_path / "target").exists()
    assert not (tmp_path / "link").is_symlink()


def test_code_that_a_configuration_names_must_stand_on_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('model = "stranger:Model"\n')
    argv = ["--config", str(tmp_path / "c.toml"), "--dry-run"]
    from fedmpi.attacks.command import run

    with pytest.raises(UsageError, match="--model stranger:Model must stand on the command line"):
        run(None, argv)  # type: ignore[arg-type]
