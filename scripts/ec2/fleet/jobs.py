"""What is done with a cluster that runs: fedmpi is installed, run on all instances, and its results are fetched."""

import contextlib
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

START = """
cd {folder} && mkdir -p jobs/{job} && . ./environment
setsid nohup sh -c '
    {command} > jobs/{job}/log 2>&1 & echo $! > jobs/{job}/program
    wait $!; code=$?
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
    fleet: Fleet, keys: Path, say: Say, *, setup: Path, data: Path | None, sets: Sequence[str], slots: int, wait: float
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
    """
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
    }
    fleet.head.send(fleet.folder, head)
    if data is not None:
        paths = [path for name in sets for path in sorted((data / name).rglob("*")) if path.is_file()]
        fleet.head.send(f"{fleet.folder}/data", {str(path.relative_to(data)): path for path in paths})
        say(f"{len(paths)} files of data are on the head")


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
    fleet.head.call(START.format(folder=fleet.folder, job=job, command=quoted), what="starting the run")
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


def newest_job(fleet: Fleet) -> str:
    """The run that was started last."""
    names = fleet.head.call(f"cd {fleet.folder} && ls -1 jobs 2>/dev/null || true", what="looking for runs").split()
    if not names:
        raise Failure("--attach must be used after run, and there was none")
    return max(names)


def fetch(fleet: Fleet, to: Path) -> list[Path]:
    """Copy all run folders and logs from the head."""
    names = fleet.head.call(f"cd {fleet.folder} && ls -1d runs jobs 2>/dev/null || true", what="looking for runs")
    if not names.split():
        raise Failure("fetch must be used after run, and there was none")
    return fleet.head.receive(fleet.folder, names.split(), to)


def clean_up(keys: Path) -> None:
    """Remove the key of a cluster that is gone."""
    for name in ("key", "key.pub", "known_hosts", "known_hosts.old"):
        (keys / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        keys.rmdir()
