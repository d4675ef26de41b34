"""The source archive and the wheel of all Pythons, installed into fresh virtual environments without a compiler."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
NO_COMPILER = {"CC": "/nowhere/cc"}


def called(*command: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> str:
    """What a command prints that must succeed; no package index is asked."""
    done = subprocess.run(
        [*map(str, command)],
        env=os.environ | {"PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"} | (env or {}),
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(source: Path, out: Path, *options: str, env: Mapping[str, str] | None = None) -> Path:
    """Build an archive of the project; its path."""
    command = [sys.executable, "-m", "build", "--no-isolation", *options, "--outdir", str(out), str(source)]
    called(*command, cwd=out.parent, env=env)
    (path,) = [*out.glob("*.whl"), *out.glob("*.tar.gz")]
    return path


def fresh_environment(folder: Path) -> Path:
    """A virtual environment that finds what fedmpi depends on in that of the tests, but no fedmpi; its python."""
    venv.create(folder)
    python = folder / "bin" / "python"
    site = called(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    Path(site, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def test_pinned_packages_run_on_the_first_python_that_is_promised() -> None:
    """Debian 12's own is 3.11.2: a pin that wants a later one leaves nothing to install there."""
    pinned = set(map(canonicalize_name, re.findall(r"^(\S+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)))
    (first,) = re.findall(r"^python_requires = >=(.*)$", (ROOT / "setup.cfg").read_text(), re.MULTILINE)
    here = [one.metadata for one in metadata.distributions() if canonicalize_name(one.metadata["Name"]) in pinned]
    assert len(here) > 0.8 * len(pinned)
    asked = {one["Name"]: one.get("Requires-Python", "") for one in here}
    assert {name: rule for name, rule in asked.items() if f"{first}.0" not in SpecifierSet(rule)} == {}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("sdist") / "dist", "--sdist")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sdist", "wheel"])
def test_what_is_built_installs_and_trains_without_a_compiler(kind: str, sdist: Path, tmp_path: Path) -> None:
    """The source archive on numpy alone; a wheel, one for all Pythons, with its kernels."""
    compiled_before = kind == "wheel"
    archive = sdist
    if compiled_before:  # of the unpacked source archive, as `python -m build` does
        called("tar", "-xzf", sdist, cwd=tmp_path)
        archive = build(tmp_path / sdist.name.removesuffix(".tar.gz"), tmp_path / "dist", "--wheel")
        assert "-cp311-abi3-" in archive.name
        called(sys.executable, "-m", "twine", "check", "--strict", sdist, archive, cwd=tmp_path)
    python = fresh_environment(tmp_path / "venv")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--ignore-installed"]
    called(*pip, "--no-build-isolation", archive, cwd=tmp_path, env=NO_COMPILER)

    program = "import fedmpi, fedmpi.core.field as f; print(fedmpi.__file__, f.kernels_are_compiled())"
    where, compiled = called(python, "-c", program, cwd=tmp_path).split()
    assert Path(where).is_relative_to(tmp_path / "venv"), "the installed one, not the clone"
    assert compiled == str(compiled_before)
    run = [tmp_path / "venv" / "bin" / "fedmpi", "run", "codedml", "-n", "5", "--"]
    called(*run, "--iterations", "5", "--quiet", "--out", tmp_path / "run", cwd=tmp_path)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["environment"]["kernels"] == ("compiled" if compiled_before else "numpy")
    assert result["metrics"]["test_accuracy"] > 0.9
    called(tmp_path / "venv" / "bin" / "fedmpi", "report", tmp_path / "run", cwd=tmp_path)  # with its style sheet
    assert (tmp_path / "run" / "report" / "report.html").is_file()
