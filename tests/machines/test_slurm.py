"""Runs as jobs of Slurm, with stand-ins for its commands: what is submitted, how it ends, and that it is cancelled."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedmpi.errors import UsageError
from fedmpi.machines.slurm import submission
from fedmpi.runs import batch
from fedmpi.study.comparison import make
from fedmpi.study.plan import Study

SBATCH = """#!/bin/bash
printf '%s\\n' "${@:1:$#-1}" > "$(dirname "$0")/words"
for word in "$@"; do case $word in --output=*) out=${word#--output=} ;; esac; done
echo "17;cluster"
sleep "$SECONDS_OF_A_JOB"
echo "fedmpi: error: the rule must hold, got 7" > "$out"
exit 2
"""

SCANCEL = '#!/bin/bash\necho "$@" > "$(dirname "$0")/cancelled"\n'


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of commands, first in PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("SECONDS_OF_A_JOB", "0")
    return folder


def test_a_run_is_submitted_with_its_tasks_and_ends_as_its_job_does(slurm: Path, tmp_path: Path) -> None:
    run = tmp_path / "a run"
    with pytest.raises(UsageError, match="got 2: the rule must hold, got 7"):
        batch.train(run, 6, ("--seed", "0"), "niss", slurm=True)
    words = (slurm / "words").read_text().splitlines()
    assert words == ["--parsable", "--wait", "--job-name=fedmpi", "--ntasks=6", f"--output={run}/slurm.out"]


def test_the_job_asks_slurm_for_its_hosts(tmp_path: Path) -> None:
    job = submission(tmp_path / "a run", "niss", 6, ["--dataset", "my table.csv"])[-1]
    first, second = (line.removesuffix(" && \\") for line in job.splitlines()[:2])
    assert first == f'hosts=$(mktemp) && {sys.executable} -m fedmpi.cli hostfile --slurm > "$hosts"'
    assert second == f"{sys.executable} -m fedmpi.cli run niss -n 6 --hostfile \"$hosts\" -- --dataset 'my table.csv'"
    subprocess.run(["bash", "-n"], input=job, text=True, check=True)


def test_a_job_that_is_no_longer_wanted_is_cancelled(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECONDS_OF_A_JOB", "8")
    process = subprocess.Popen(submission(tmp_path, "niss", 6, []), stderr=subprocess.DEVNULL)
    end = time.monotonic() + 20
    while not (tmp_path / "slurm.job").exists() or not (tmp_path / "slurm.job").read_text():
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) != 0
    assert (slurm / "cancelled").read_text() == "17\n"


def test_without_slurm_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UsageError, match="--launcher slurm must be used where Slurm is, got no sbatch"):
        make(Study(("codedml",), "digits"), tmp_path / "study", launcher="slurm")
    assert not (tmp_path / "study").exists()
