"""Wrong command lines end in one plain line before any rank starts; help, completion and a full disk."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest

from fedmpi.cli import main, run
from fedmpi.cli.commands import COMMANDS, command
from fedmpi.cli.completion import SCRIPTS, candidates
from fedmpi.learn.names import NAMES
from fedmpi.net import Channel
from fedmpi.runs.commandline import SYNONYMS, flags_of
from fedmpi.runs.options import RunOptions
from fedmpi.systems import OWN, find

Capture = pytest.CaptureFixture[str]

WRONG = {
    "": "the command must be one of run, ",
    "rnu codedml": "got rnu (did you mean run?)",
    "run": "fedmpi run must be given SYSTEM",
    "run nosuch -n 5": "system must be one of codedml, copml, ppadmm, niss, pbpfl, spn, got nosuch",
    "run codedml": "-n must be the number of ranks",
    "run codedml -n": "-n/--ranks must have a value, got none",
    "run codedml -n five": "-n/--ranks must be a whole number, got five",
    "run codedml -n 0": "the number of workers N must be at least",
    "run codedml -n 3 -- -K 2 -T 2": "(K+T-1)+1 = 2·(2+2-1)+1 = 7, got N=2",
    "run ppadmm -n 3": "the number of participants N must be at least 2, got N=1",
    "run niss -n 2": "there must be at least 3 ranks: a server, a tracker and a host of clients, got 2",
    "run pbpfl -n 2 -- --method pbpfl-masked": "--method pbpfl-masked must have at least 2 clients, got 1",
    "run ppadmm -n 5 -- --lambda 3": "got --lambda (did you mean --penalty?)",
    "run niss -n 5 --lr 1": "got --lr (did you mean --learning-rate?)",
    "run niss -n 5 -- --round 1": "got --round (did you mean --rounds?)",
    "run niss -n 5 --hostfle hosts": "got --hostfle (did you mean --hostfile?)",
    "run codedml -n 5 -- stray": "words behind fedmpi run codedml must be known, got stray",
    "run codedml -n 5 -- --iterations many": "--iterations must be a whole number, got many",
    "run codedml -n 5 -- --iterations": "--iterations must have a value, got none",
    "run niss -n 5 -- --epsilon big": "--epsilon must be a number, got big",
    "run niss -n 5 -- --max-epsilon big": "--max-epsilon must be a number, got big",
    "run codedml -n 5 -- --method code": "bgw, bh08, plain, got code (did you mean coded?)",
    "run niss -n 5 -- --fraction 2": "--fraction must be in (0, 1]",
    "run niss -n 5 -- --device abacus": "--device must be one that torch can use, got abacus",
    "run spn -n 5 -- --model resnet": "--model must be one of mlp, cnn,",
    "run niss -n 5 -- --dataset diggits": "got diggits (did you mean digits?)",
    "run niss -n 5 -- --dataset no/such.csv": "data file must exist, got no/such.csv",
    "run niss -n 5 -- --dataset no/such/": "folder of images must exist, got no/such/",
    "run niss -n 5 -- --dataset mnist --data-dir nowhere": "data set mnist must be fetched first",
    "run niss -n 5 -- --dataset digits --label-column y": "label_column must be given for tables and .npz files only",
    "run niss -n 5 -- --dataset {run}/my.csv --label-column z": "label_column must be one of u, v, y, got z",
    "run niss -n 5 -- --dataset {run}/my.csv --classes a q": "class of my.csv must be one of a, b, got q",
    "run niss -n 5 -- --dataset {run}/my.csv --image-shape 1 2 2": "image_shape must be (channels, height, width) of 2",
    "run niss -n 5 -- --test-fraction 2": "test_fraction must lie in [0, 1), got 2.0",
    "run niss -n 5 -- --config none.toml": "--config must be a readable file, got none.toml",
    "run niss -n 5 -- --resume nowhere": "--resume must name the folder of a run",
    "run niss -n 5 -- --out {run}": "--out must be a new folder, got {run}, which holds a run",
    "run niss -n 5 -- --out {run}/config.toml/x": "config.toml is a file",
    "run codedml -n 5 -- --inject kill=9": "--inject must name ranks from 1 to 4, got 9",
    "run ppadmm -n 5 -- --classes 1 2": "--classes must not be given for a regression, got 1 2",
    "run pbpfl -n 5 -- --class-weight balanced": "--class-weight must not be given: pbpfl recovers",
    "run codedml -n 5 --place nobody=here": "--place must be ROLE=HOST,",
    "attack -- --attack dl": "got dl (did you mean dlg?)",
    "attack -- --device abacus": "--device must be one that torch can use, got abacus",
    "attack -- --attack spear --device cuda": "--device must be cpu for --attack spear, got cuda",
    "attack -- --dataset nosuch.npz": "data file must exist, got nosuch.npz",
    "data fetch": "fedmpi data must be given NAME, got none",
    "bench kernel": "got kernel (did you mean kernels?)",
    "doctor --fast": "options of fedmpi doctor must be known, got --fast",
    "watch": "fedmpi watch must be given RUN, got none",
    "--print-completion tcsh": "--print-completion must be given one of bash, zsh, fish, got tcsh",
}
"""Command line → what its one line says."""


@pytest.fixture
def no_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_ranks(*_: Any, **__: Any) -> int:
        pytest.fail("no rank must start")

    monkeypatch.setattr(run, "run_ranks", run_ranks)
    monkeypatch.setattr("fedmpi.cli.attack.run_ranks", run_ranks)


@pytest.mark.usefixtures("no_ranks")
@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_command_line_is_one_plain_line_and_2(line: str, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "config.toml").touch()
    (tmp_path / "my.csv").write_text("u,v,y\n1,2,a\n3,4,b\n5,6,a\n7,8,b\n")
    assert main([word.format(run=tmp_path) for word in line.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("fedmpi: error: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert err.isprintable() or err[:-1].isprintable(), "no colour, no box"
    assert WRONG[line].format(run=tmp_path) in err


def test_a_wrong_line_and_help_of_a_shell_are_plain_and_need_neither_torch_nor_mpirun(tmp_path: Path) -> None:
    program = (
        "import sys; from fedmpi.cli import main; code = main(sys.argv[1:]); "
        "print(sorted({'torch', 'sklearn', 'scipy', 'mpi4py'} & set(sys.modules)), file=sys.stderr); sys.exit(code)"
    )
    for line, code, says in (
        ("run niss -n 5 -- --lr 1", 2, ""),
        ("run spn --help", 0, "--help-all"),
        ("--help", 0, "reproduce"),
    ):
        command_line = [sys.executable, "-c", program, *line.split()]
        done = subprocess.run(command_line, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr.splitlines()[-1]) == (code, "[]")
        assert says in done.stdout
        assert not set("─│╭╯\x1b") & set(done.stdout + done.stderr)


def test_the_version_imports_next_to_nothing() -> None:
    program = (
        "import sys; from fedmpi.cli import main; main(['--version']); print({'tyro', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.endswith("\nset()\n")


@pytest.mark.usefixtures("no_ranks")
@pytest.mark.parametrize("system", OWN)
def test_help_of_a_system_has_ten_options_and_two_examples(system: str, capsys: Capture) -> None:
    assert main(["run", system, "--help"]) == 0
    short = capsys.readouterr().out
    assert short.count("\n  --") + short.count("\n  -T") + short.count("\n  -K") == 10
    assert short.count(f"\n  fedmpi run {system} -n 6") == 2
    assert main(["run", system, "-n", "5", "--", "--help-all"]) == 0
    everything = capsys.readouterr().out
    wanted = {*flags_of(find(system).options()), *flags_of(RunOptions), *flags_of(run.Run)}
    assert {flag for flag in wanted if flag not in everything} <= {"--compare", "--inject", "--system"}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_what_they_say_of_themselves(name: str) -> None:
    said = (command(name).__doc__ or "").partition("\n")[0]
    assert said.split()[:2] == COMMANDS[name].split()[:2]


def test_what_others_call_an_option_leads_to_one_that_there_is() -> None:
    known = {flag for system in OWN for flag in flags_of(find(system).options())} | {*flags_of(RunOptions)}
    known |= {*flags_of(run.Run)}
    wrong = {name for name, meant in SYNONYMS.items() if not {f"--{one}" for one in meant.split()} & known}
    assert wrong == set()


def test_the_names_of_models_are_those_that_there_are() -> None:
    from fedmpi.learn.models import MODELS

    assert tuple(MODELS) == NAMES


def test_completion_knows_commands_systems_flags_and_their_values(capsys: Capture) -> None:
    assert set(COMMANDS) < set(candidates([]))
    assert set(candidates(["run"])) >= set(OWN)
    assert {"--hostfile", "--epsilon", "--out"} < set(candidates(["run", "niss"]))
    behind = candidates(["run", "niss", "-n", "5", "--"])
    assert "--epsilon" in behind
    assert "--hostfile" not in behind
    assert candidates(["run", "niss", "--", "--method"]) == ["niss", "dp-fedavg", "distributed-dp", "fedavg"]
    assert "digits" in candidates(["run", "niss", "--", "--dataset"])
    assert candidates(["run", "niss", "--", "--out"]) == [], "files may follow"
    for shell in SCRIPTS:
        assert main(["--print-completion", shell]) == 0
        assert "fedmpi --complete" in capsys.readouterr().out


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize(("target", "code", "says"), [("/dev/full", 5, "got No space left on device"), ("", 141, "")])
@pytest.mark.parametrize("command", ["--help", "run codedml --help"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_nobody_can_take(target: str, code: int, says: str, command: str, unbuffered: str) -> None:
    read, write = os.pipe()
    os.close(read)
    with open(target, "w") if target else os.fdopen(write, "w") as out:  # noqa: PTH123
        done = subprocess.run(
            [sys.executable, "-m", "fedmpi.cli", *command.split()],
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == code
    assert done.stderr.count("\n") == (1 if says else 0)
    assert says in done.stderr


@pytest.mark.parametrize(
    ("error", "of_files"),
    [
        (OSError(errno.EIO, "Input/output error"), True),
        (OSError(errno.EMFILE, "Too many open files"), True),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "metrics.jsonl"), True),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "result.json"), True),
        (OSError(errno.EPIPE, "Broken pipe"), True),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), False),
        (TimeoutError(errno.ETIMEDOUT, "Connection timed out"), False),
        (ValueError("no file"), False),
    ],
)
@pytest.mark.parametrize("rank", [0, 1])
def test_what_the_system_refuses_of_a_file_is_no_failed_peer(
    error: Exception, of_files: bool, rank: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """The job ends with 5, not with 4, whichever rank it was; before, only a full or locked disk did."""
    from fedmpi.net import run_local
    from fedmpi.net.leaving import leave_with_error

    codes = []

    def abort(code: int) -> NoReturn:
        codes.append(code)
        raise SystemExit(code)

    def play(ch: Channel) -> None:
        if ch.rank == rank:
            leave_with_error(ch, error, abort, survives=False)

    with pytest.raises(SystemExit):
        run_local([play, play], timeout_seconds=10.0)
    assert codes == [5 if of_files else 4]


def test_a_disk_that_is_full_is_named_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedmpi.errors import FilesError
    from fedmpi.runs.folder import RunFolder

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    folder = RunFolder(tmp_path, "x", "")
    monkeypatch.setattr("fedmpi.runs.folder.append_line", full)
    with pytest.raises(FilesError, match=r"metrics\.jsonl must be readable and writable, got No space left on device"):
        folder.append_metrics({"iteration": 0})
