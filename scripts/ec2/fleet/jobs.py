"""What is done with a cluster that runs: fedmpi is installed, run on all instances, and its results are fetched."""

import contextlib
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fleet import Failure
from fleet.cloud import Instance
from fleet.remote import LOST, Lost, Remote, everywhere, stream

Say = Callable[[str], None]

PROJECT = Path(__file__).resolve().parents[3]
RECONNECT_SECONDS = 60.0
"""How long `run` tries to reach the head again."""

_PAUSE_SECONDS = 2.0

ENVIRONMENT = """\
export FEDMPI_DATA="$PWD/data"
export PRTE_MCA_plm_ssh_args="-i $PWD/key -o IdentitiesOnly=yes -o BatchMode=yes -o ConnectTimeout=10 \
-o StrictHostKeyChecking=accept-new -o UserKnownHostsFile=$PWD/known_hosts"
export PRTE_MCA_plm_ssh_no_tree_spawn=1
"""
"""On the head: how mpirun, and with it `fedmpi doctor --hostfile`, reaches the others."""

NOTICE = """\
#!/bin/sh
# Prints what EC2 says two minutes before it takes this instance away; fails until then.
there=${FEDMPI_METADATA:-http://169.254.169.254}/latest
token=$(curl -sf -m 2 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$there/api/token") &&
    curl -sf -m 2 -H "X-aws-ec2-metadata-token: $token" "$there/meta-data/spot/instance-action"
"""

NOTICE_SECONDS = 5
"""How often the head asks."""

# A notice is to the program like Ctrl-C: it writes a checkpoint and ends. A worker's end needs none: docs/survival.md.
START = """
cd {folder} && mkdir -p jobs/{job} && . ./environment
setsid nohup sh -c '
    {command} > jobs/{job}/log 2>&1 & program=$!
    echo $program > jobs/{job}/program
    (until notice=$(./notice); do sleep {pause}; done
     echo "$notice" > jobs/{job}/notice; kill -TERM $program) > /dev/null 2>&1 & watch=$!
    wait $program; code=$?
    kill $watch
    echo $(( code == 255 ? 254 : code )) > jobs/{job}/exit-code
' > /dev/null 2>&1 < /dev/null & echo $! > jobs/{job}/pid
"""

FOLLOW = """
cd {folder}/jobs/{job} || exit 2
while [ ! -e log ]; do sleep 0.1; done
tail -s 0.2 -c +{start} -f --pid="$(cat pid)" log
exit "$(cat exit-code)"
"""

STOP = "cd {folder}/jobs/{job} && kill -TERM $(cat program)"


@dataclass(frozen=True)
class Fleet:
    """The running instances, the head first, and how to reach them.

    Parameters
    ----------
    instances : list of Instance
    remotes : list of Remote
        In the same order.
    folder : str
        There, for all that fedmpi needs.
    """

    instances: list[Instance]
    remotes: list[Remote]
    folder: str

    @property
    def head(self) -> Remote:
        """Where rank 0 runs, and mpirun."""
        return self.remotes[0]

    def hostfile(self, slots: int) -> bytes:
        """The hosts by the addresses that they know one another by."""
        return "".join(f"{instance.private_address} slots={slots}\n" for instance in self.instances).encode()


def push(
    fleet: Fleet,
    keys: Path,
    say: Say,
    *,
    setup: Path,
    data: Path | None,
    sets: Sequence[str],
    slots: int,
    wait: float,
    runs: Sequence[Path] = (),
) -> None:
    """Install this project's fedmpi on every instance, and all that the head needs.

    Parameters
    ----------
    keys : Path
        The folder of the cluster's key.
    setup : Path
        The script that installs.
    data : Path, optional
        Data sets, for the head.
    sets : sequence of str
        The folders in it that are copied.
    slots : int
        Ranks per instance.
    wait : float
        Seconds until ssh must work.
    runs : sequence of Path
        Folders of runs that the head goes on with.
    """
    if strangers := [run for run in runs if not run.is_dir()]:
        raise Failure(f"--run must be the folder of a run, got {strangers[0]}")
    everywhere(fleet.remotes, lambda remote: remote.wait(wait))
    say(f"{len(fleet.remotes)} instances answer")
    files: dict[str, Path | bytes] = {"setup": setup, "constraints.txt": PROJECT / "constraints.txt"}
    with tempfile.TemporaryDirectory() as name:
        archive = source_archive(Path(name))
        files[archive.name] = archive
        everywhere(fleet.remotes, lambda remote: remote.send(fleet.folder, files, executable=["setup"]))
    everywhere(fleet.remotes, lambda remote: remote.call(f"cd {fleet.folder} && ./setup", what="the installation"))
    say("fedmpi is installed")
    head: dict[str, Path | bytes] = {
        "key": keys / "key",
        "hosts": fleet.hostfile(slots),
        "environment": ENVIRONMENT.encode(),
        "notice": NOTICE.encode(),
    }
    fleet.head.send(fleet.folder, head, executable=["notice"])
    for run in runs:
        fleet.head.send(f"{fleet.folder}/runs/{run.resolve().name}", files_of(run, run))
        say(f"{run} is on the head, as runs/{run.resolve().name}")
    if data is not None:
        copied = {path: file for name in sets for path, file in files_of(data / name, data).items()}
        fleet.head.send(f"{fleet.folder}/data", copied)
        say(f"{len(copied)} files of data are on the head")


def files_of(folder: Path, base: Path) -> dict[str, Path | bytes]:
    """All files below a folder, by their places below another."""
    return {str(path.relative_to(base)): path for path in sorted(folder.rglob("*")) if path.is_file()}


def source_archive(folder: Path) -> Path:
    """The sdist of this project, which the instances build for their own processor."""
    command = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(folder), str(PROJECT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failure(f"python -m build must succeed, got: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
    (archive,) = folder.glob("*.tar.gz")
    return archive


def start(fleet: Fleet, system: str, ranks: int, interface: str | None, options: Sequence[str]) -> str:
    """Start a run on the head, where it goes on by itself; its name."""
    job = f"{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() % 10**9:09d}"
    network = ["--interface", interface] if interface else []
    command = ["venv/bin/fedmpi", "run", system, "-n", str(ranks), "--hostfile", "hosts", *network, "--", *options]
    quoted = shlex.join(command).replace("'", "'\\''")
    fleet.head.call(
        START.format(folder=fleet.folder, job=job, command=quoted, pause=NOTICE_SECONDS), what="starting the run"
    )
    return job


def follow(fleet: Fleet, job: str, say: Say) -> int:
    """Print what a run prints, until its end; its exit code. After Ctrl-C it is stopped, and followed to its end.

    Raises
    ------
    Lost
        If the head can't be reached any more; the run goes on.
    """
    printed, stopped, lost_at = 0, False, None
    while True:
        script = FOLLOW.format(folder=fleet.folder, job=job, start=printed + 1)
        before = printed
        try:
            code, printed = stream(fleet.head.command(script), skip=printed)
        except KeyboardInterrupt:
            if stopped:
                raise
            stopped = True
            say("stopping the run; once more leaves it alone")
            fleet.head.call(STOP.format(folder=fleet.folder, job=job), what="stopping the run")
            continue
        if code != LOST:
            return code
        if printed > before or lost_at is None:
            lost_at = time.monotonic()
            say("the connection was lost: the run goes on, connecting again")
        if time.monotonic() - lost_at > RECONNECT_SECONDS:
            raise Lost(f"the head must answer within {RECONNECT_SECONDS:g} s, and does not: run --attach {job}")
        time.sleep(_PAUSE_SECONDS)


def notice_of(fleet: Fleet, job: str) -> str:
    """What EC2 said, where it takes away the head and the run was stopped for that; empty otherwise."""
    script = f"cat {fleet.folder}/jobs/{job}/notice 2>/dev/null || true"
    return fleet.head.call(script, what="looking for a notice").strip()


def newest_job(fleet: Fleet) -> str:
    """The run that was started last."""
    names = fleet.head.call(f"cd {fleet.folder} && ls -1 jobs 2>/dev/null || true", what="looking for runs").split()
    if not names:
        raise Failure("--attach must be used after run, and there was none")
    if not re.fullmatch(r"[\d-]+", newest := max(names)):
        raise Failure(f"the names of runs in jobs/ must be times, got {newest!r}")
    return newest


def fetch(fleet: Fleet, to: Path) -> list[Path]:
    """Copy all run folders and logs from the head."""
    there = fleet.head.call(f"cd {fleet.folder} && ls -1d runs jobs 2>/dev/null || true", what="looking for runs")
    names = [name for name in ("runs", "jobs") if name in there.split()]  # whatever else the head may say
    if not names:
        raise Failure("fetch must be used after run, and there was none")
    return fleet.head.receive(fleet.folder, names, to)


def clean_up(keys: Path) -> None:
    """Remove the key of a cluster that is gone: one that `create` made, whose public half says so."""
    with contextlib.suppress(FileNotFoundError):
        if not (keys / "key.pub").read_text(errors="replace").strip().endswith(f" fedmpi-{keys.name}"):
            raise Failure(f"{keys} must hold keys that create made, to be deleted, got others: they are left alone")
    if (keys / "key").exists() and not (keys / "key.pub").exists():
        raise Failure(f"{keys} must hold keys that create made, to be deleted, got a key without its public half")
    for name in ("key", "key.pub", "known_hosts", "known_hosts.old"):
        (keys / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        keys.rmdir()
