"""Encrypted jobs as users start them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmpi.crypto.keys import create_key_file
from fedmpi.runs.model import read_arrays
from fedmpi.systems import OWN as SYSTEMS

Run = Callable[..., subprocess.CompletedProcess[str]]
OPTIONS = ["--iterations", "4", "--quiet"]


def model(folder: Path) -> dict[str, np.ndarray]:
    return read_arrays(folder)


def result(folder: Path) -> Any:
    return json.loads((folder / "result.json").read_text())


def errors(done: subprocess.CompletedProcess[str]) -> list[str]:
    lines = (done.stdout + done.stderr).splitlines()
    return [line.split("fedmpi: error: ")[1] for line in lines if "fedmpi: error: " in line]


@pytest.fixture
def key(tmp_path: Path) -> Path:
    create_key_file(tmp_path / "key")
    return tmp_path / "key"


def test_fedmpi_run_encrypts_and_gives_the_same_bits(tmp_path: Path) -> None:
    """With a key of its own, which no command line or environment holds, and which is gone at the end."""
    for name, flags in (("encrypted", ["--encrypt"]), ("plain", [])):
        command = [sys.executable, "-m", "fedmpi.cli", "run", "codedml", *flags, "-n", "5", "--", *OPTIONS]
        done = subprocess.run(
            [*command, "--out", str(tmp_path / name)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )
        assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("*.key")) == []
    encrypted, plain = model(tmp_path / "encrypted"), model(tmp_path / "plain")
    for name in plain:
        np.testing.assert_array_equal(encrypted[name], plain[name])
    assert result(tmp_path / "encrypted")["environment"]["mpi"].endswith(", encrypted")
    assert "encrypted" not in result(tmp_path / "plain")["environment"]["mpi"]
    config = (tmp_path / "encrypted" / "config.toml").read_text()
    assert "cluster" not in config  # a key is of one run
    assert "encrypt = true" in config  # and never forgotten: tests/product/test_runs.py


def test_mpirun_with_a_key_on_every_rank(mpirun: Run, tmp_path: Path, key: Path) -> None:
    """The baselines talk to one another too, and not only to the master."""
    options = ["--method", "bgw", *OPTIONS, "--encrypt", "--cluster-key", key, "--out", tmp_path / "run"]
    done = mpirun(10, "-m", "fedmpi.codedml", *options)
    assert done.returncode == 0, done.stderr
    assert result(tmp_path / "run")["environment"]["mpi"].endswith(", encrypted")


@pytest.mark.parametrize("system", SYSTEMS)
def test_no_system_forgets_to_encrypt(mpirun: Run, system: str, key: Path) -> None:
    """One that did not look at --cluster-key would send in the clear what its user believes to be sealed."""
    key.chmod(0o644)
    done = mpirun(3, "-m", f"fedmpi.{system}", "--cluster-key", key)
    assert done.returncode == 2, done.stderr
    assert errors(done) == [f"the cluster key file must be its owner's alone (chmod 600), got {key}: mode 644"]
    assert "Traceback" not in done.stderr


def test_programs_that_call_the_estimator_encrypt_too(mpirun: Run, tmp_path: Path, key: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\n"
        "from fedmpi.codedml import cluster, workers\n"
        "with workers(cluster_key=sys.argv[1]):\n"
        "    print(cluster.current().transport.library)\n"
    )
    done = mpirun(2, program, key)
    assert (done.returncode, done.stdout.strip()[-11:]) == (0, ", encrypted"), done.stderr


def test_encrypt_without_a_key_says_how_to_get_one(mpirun: Run) -> None:
    done = mpirun(3, "-m", "fedmpi.codedml", "--encrypt")
    assert done.returncode == 2, done.stderr
    assert errors(done) == [
        "--encrypt must come with --cluster-key FILE, or stand before -- of fedmpi run, got neither"
    ]


def test_a_key_in_a_configuration_file_is_refused(mpirun: Run, tmp_path: Path, key: Path) -> None:
    (tmp_path / "config.toml").write_text(f'cluster_key = "{key}"\n')
    done = mpirun(2, "-m", "fedmpi.codedml", "--config", tmp_path / "config.toml")
    assert done.returncode == 2, done.stderr
    assert errors(done) == ["--encrypt and --cluster-key must stand on the command line, where every rank sees them"]


@pytest.mark.parametrize("wrong", ["missing", "another"])
def test_workers_without_the_key_are_named(mpirun: Run, tmp_path: Path, key: Path, wrong: str) -> None:
    """A key file that was copied to one host only, or an old one on the others: too few workers are left."""
    create_key_file(tmp_path / "another")
    program = tmp_path / "program.py"
    program.write_text(
        "import os, runpy, sys\n"
        "from fedmpi.net import leaving\n"
        f"key = {str(key)!r}\n"
        "if os.environ['OMPI_COMM_WORLD_RANK'] in '34':\n"
        f"    key = {str(tmp_path / wrong)!r}\n"
        "    leaving.GRACE_SECONDS = 60.0  # rank 0 may be slow to start on a busy machine\n"
        "sys.argv[1:] += ['--cluster-key', key]\n"
        "runpy.run_module('fedmpi.codedml', run_name='__main__')\n"
    )
    done = mpirun(5, program, *OPTIONS, "--timeout", "60", "--out", tmp_path / "run")
    assert done.returncode == 3, done.stdout + done.stderr
    (said,) = errors(done)
    for rank in (3, 4):
        assert f"the link from rank {rank} to rank 0: " in said
    assert "the link from rank 1" not in said
    if wrong == "missing":
        assert "says 'the cluster key file must be readable, got " in said
    else:
        assert "must hold the same cluster key, got a hello made without it" in said
