"""README and docs: every link leads somewhere, every flag exists, every command and program runs."""

import ast
import dataclasses
import inspect
import os
import re
import shlex
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from docs.pages import PAGES, ROOT, Block, blocks, broken, command_lines, links, mentions, runnable, transcripts

from fedmpi.cli.commands import COMMANDS
from fedmpi.cli.commands import command as command_class
from fedmpi.cli.run import arranged
from fedmpi.errors import FedmpiError, UsageError
from fedmpi.runs.commandline import read
from fedmpi.runs.options import RunOptions, parse
from fedmpi.systems import OWN as SYSTEMS

TESTS = ROOT / "tests"

NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


# -- links ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_link_and_anchor_resolves(name: str) -> None:
    page = ROOT / name
    assert [target for target in links(page) if broken(page, target)] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_file_that_a_page_names_is_there(name: str) -> None:
    named = re.findall(r"`((?:tests|docs|fedmpi|scripts|launch|docker)/[\w./*-]+)`", (ROOT / name).read_text())
    assert [path for path in named if not list(ROOT.glob(path.rstrip("/")))] == []


def test_a_broken_link_would_be_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A `b` c!\n\n## A b c\n[x](#a-b-c) [x](#a-b-c-1) [x](#a-b) [x](none.md) [x](page.md#zz) [x](https://x)\n"
    )
    assert [target for target in links(page) if broken(page, target)] == ["#a-b", "none.md", "page.md#zz"]


def test_every_page_can_be_found_from_the_index() -> None:
    index = ROOT / "docs" / "index.md"
    linked = {(index.parent / target.partition("#")[0]).resolve() for target in links(index)}
    assert {page for page in PAGES if page.parent == ROOT / "docs"} - {index} <= linked


def test_the_page_of_tests_has_every_file_and_what_it_protects() -> None:
    """A file says what it protects in the first line of its docstring; the page puts these lines side by side."""
    rows = re.findall(r"^\| `([\w/]+\.py)` \| (.*?) \| [\d<?]+ \|$", (TESTS / "README.md").read_text(), re.MULTILINE)
    first = {
        str(path.relative_to(TESTS)): (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
        for path in TESTS.rglob("test_*.py")
    }
    assert {name: text.replace("\\|", "|") for name, text in rows} == first
    assert all(first.values())


# -- flags ----------------------------------------------------------------------------------------------------------


def check_line(command: str) -> None:
    """Parse a command line as the program does, without running it."""
    words = [word for word in shlex.split(command) if word != "…"]
    if words[0] == "fedmpi":
        if words[1] not in COMMANDS:
            raise UsageError(command)
        own, options = arranged(words[2:])
        if words[1] not in ("run", "attack"):
            own, options = words[2:], []
        if {"--help", "--help-all"} & {*own, *options}:
            return
        parsed: Any = read(command_class(words[1]), own, "fedmpi")
        if words[1] not in ("run", "attack"):
            return
        system = parsed.system if words[1] == "run" else "attacks"
        if system == "mysystem":  # of a package that `fedmpi new` writes: tests/product/test_new.py
            return
    else:
        system, options = words[2].removeprefix("fedmpi."), words[3:]
    params: Any = import_module(f"fedmpi.{system}.params").Params
    parse(params, options, "fedmpi", "")


def known_flags() -> set[str]:
    """Every flag of every command and system."""
    commands = [sys.modules[command_class(name).__module__] for name in COMMANDS]
    classes = [value for module in commands for value in vars(module).values() if dataclasses.is_dataclass(value)]
    classes += [import_module(f"fedmpi.{system}.params").Params for system in (*SYSTEMS, "attacks")]
    names = {field.name for one in [*classes, RunOptions] for field in dataclasses.fields(one)}
    flags = {f"--{name.strip('_').replace('_', '-')}" for name in names}
    return flags | {f"--no-{flag[2:]}" for flag in flags} | {"--help", "--help-all", "--print-completion"}


def check_mention(command: str) -> None:
    """Whether a command's name and all its flags exist."""
    assert command.split()[1] in COMMANDS, command
    assert set(re.findall(r"--[a-z][\w-]*", command)) <= known_flags(), command


@pytest.mark.parametrize("name", NAMES)
def test_every_flag_exists(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = []
    for check, commands in ((check_line, command_lines(ROOT / name)), (check_mention, mentions(ROOT / name))):
        for command in commands:
            try:
                check(command)
            except (SystemExit, FedmpiError, ValueError, AssertionError) as error:
                wrong.append((command, str(error), capsys.readouterr().err))
    assert wrong == []


@pytest.mark.parametrize("command", ["fedmpi run codedml -n 4 -- --itrations 3", "fedmpi bench kernel", "fedmpi rnu x"])
def test_a_wrong_flag_would_be_noticed(command: str) -> None:
    with pytest.raises((SystemExit, FedmpiError)):
        check_line(command)
    if "kernel" not in command:
        with pytest.raises(AssertionError):
            check_mention(command)


def test_exit_codes_are_documented() -> None:
    errors = import_module("fedmpi.errors")
    codes = {c.exit_code for c in vars(errors).values() if isinstance(c, type) and issubclass(c, FedmpiError)} | {
        0,
        143,
    }
    table = set(map(int, re.findall(r"^\| (\d+) \|", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE)))
    assert codes <= table


# -- programs and commands -------------------------------------------------------------------------------------------


def environment() -> dict[str, str]:
    """The Python of the tests first, one thread a rank, mpirun as root and beyond the cores."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PMIX_", "OMPI_COMM_WORLD_", "COV_"))}
    mpi = {
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    }
    return {
        **inherited,
        **mpi,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def run_script(script: str, folder: Path) -> str:
    """Run a script of the shell in a folder: what it prints."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as files:  # see fedmpi.machines.launcher.environment
        variables = environment() | {"TMPDIR": files}
        done = subprocess.run(
            ["bash", "-c", script], cwd=folder, env=variables, capture_output=True, text=True, timeout=300
        )
    assert done.returncode == 0, f"{script}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def run_page(page: Path, folder: Path) -> list[str]:
    """Run a page's shell blocks in a folder; what was run."""
    done: list[str] = []
    for block in blocks(page):
        if block.language == "python" and block.file_name:
            (folder / block.file_name).write_text(block.text)
        if block.language == "sh":
            script = [command for command in map(runnable, block.commands) if command and command not in done]
            done += script
            if script:
                run_script("\n".join(["set -euo pipefail", *script]), folder)
    return done


FIRST_RUN = ROOT / "docs" / "first-run.md"
README_FIRST = transcripts(ROOT / "README.md")[0][0].splitlines()[-1:]
"""A test of its own looks at what it prints."""

RUN = [
    name
    for name in NAMES
    if ROOT / name != FIRST_RUN
    and {c for b in blocks(ROOT / name) if b.language == "sh" for c in b.commands if runnable(c)} - {*README_FIRST}
]


@pytest.mark.slow
@pytest.mark.parametrize("name", RUN)
def test_every_command_runs(name: str, tmp_path: Path) -> None:
    assert run_page(ROOT / name, tmp_path)


def test_a_command_that_fails_would_be_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\n# a.py\nraise SystemExit(3)\n```\n\n```sh\npython a.py  # fails\ntrue\n```\n")
    with pytest.raises(AssertionError, match=r"python a\.py"):
        run_page(page, tmp_path)


def programs() -> list[Block]:
    """Python blocks that stand for themselves; those of codedml's page have a test of their own."""
    found = [block for page in PAGES for block in blocks(page) if block.language in ("python", "py")]
    return [block for block in found if not block.file_name and block.page.name != "codedml.md"]


@pytest.mark.parametrize("block", programs(), ids=lambda block: block.page.name)
def test_every_program_runs(block: Block, tmp_path: Path) -> None:
    run_script(f"python -c {shlex.quote(block.text)}", tmp_path)


def test_the_worked_example_is_short() -> None:
    (program,) = [b for b in blocks(ROOT / "docs" / "new-system.md") if b.file_name == "private_mean.py"]
    assert len(program.text.splitlines()) <= 100


def skeleton(line: str) -> str:
    """A line of output without its figures, and without what one machine says and another does not."""
    return re.sub(r"[-+]?\d[\d.e+-]*", "0", " ".join(line.split()))


def missing(command: str, promised: str, folder: Path) -> list[str]:
    """Run a command; the lines that a page promises and that it does not print."""
    printed = {skeleton(line) for line in run_script(command, folder).splitlines()}
    return [line for line in promised.splitlines() if line != "…" and skeleton(line) not in printed]


def test_the_readmes_first_run_prints_what_it_says(tmp_path: Path) -> None:
    assert missing(README_FIRST[0], transcripts(ROOT / "README.md")[0][1], tmp_path) == []


@pytest.mark.slow
def test_a_first_run_prints_what_its_page_says(tmp_path: Path) -> None:
    wrong = {command: missing(command, promised, tmp_path) for command, promised in transcripts(FIRST_RUN)}
    assert len(wrong) >= 7
    assert not any(wrong.values()), wrong


def test_a_line_that_is_not_printed_would_be_noticed(tmp_path: Path) -> None:
    assert missing("echo 'one 1.5e-3 s'; echo two", "one 2 s\n…\nthree\n", tmp_path) == ["three"]


# -- the reference ---------------------------------------------------------------------------------------------------


def test_the_reference_is_complete(tmp_path: Path) -> None:
    (command,) = [c for b in blocks(ROOT / "docs" / "api.md") if b.language == "sh" for c in b.commands]
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    subprocess.run([sys.executable, *shlex.split(command)[1:]], cwd=tmp_path, check=True)
    assert (tmp_path / "api" / "index.html").is_file()
    modules = re.findall(r'"(fedmpi[\w.]*)"', (ROOT / "scripts" / "reference.py").read_text())
    assert len(modules) > 8
    silent, missing = [], []
    for name in modules:
        module = import_module(name)
        page = (tmp_path / "api" / f"{name.replace('.', '/')}.html").read_text()
        for public in module.__all__:
            value = getattr(module, public)
            if (inspect.isclass(value) or inspect.isroutine(value)) and not (value.__doc__ or "").strip():
                silent.append(f"{name}.{public}")
            if f'id="{public}"' not in page:
                missing.append(f"{name}.{public}")
    assert (silent, missing) == ([], [])


def test_every_system_is_in_the_readme() -> None:
    assert all(f"fedmpi run {system}" in (ROOT / "README.md").read_text() for system in SYSTEMS)
