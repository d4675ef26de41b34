"""A real Slurm on the hosts of a virtual cluster: munge, a controller on the first host, and a node on each."""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TOOLS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "scontrol", "squeue", "sinfo")

PACKAGES = "slurm-wlm munge libpmix-dev"
"""Of Debian; its PMIx plugin loads libpmix.so, which the last one has."""

READY_SECONDS = 30.0

# A job that was requeued waits for cred_expire. CPUs are more than the machine has, for ranks that mostly wait.
CONFIGURATION = """
ClusterName=virtual
SlurmctldHost=host1
SlurmUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0
KillWait=10
ReturnToService=2
NodeName={nodes} CPUs=16 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP OverSubscribe=NO
"""


def missing() -> list[str]:
    """The programs that this machine lacks."""
    return [tool for tool in TOOLS if shutil.which(tool, path=_path()) is None]


def _path() -> str:
    return os.environ["PATH"] + ":/usr/sbin:/sbin"


class Slurm:
    """Slurm on a cluster, which ends with the cluster's hosts.

    Parameters
    ----------
    cluster : VirtualCluster
    """

    def __init__(self, cluster: Any):
        self.cluster = cluster
        self.folder = cluster.folder / "slurm"
        (self.folder / "state").mkdir(parents=True)
        (self.folder / "munge.key").write_bytes(os.urandom(64))
        (self.folder / "munge.key").chmod(0o600)
        text = CONFIGURATION.format(folder=self.folder, nodes=",".join(cluster.names))
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "mpi.conf").write_text(
            "PMIxCliTmpDirBase=/run\n"
        )  # the hosts share /tmp, and have names in common
        for name in cluster.names:
            (self.folder / name).mkdir()
            self._daemon(name, "munged", "--foreground", f"--key-file={self.folder}/munge.key", *_MUNGE)
        for name in cluster.names:
            self._wait(name, "test -S /run/munge/munge.socket.2")
        self._daemon("host1", "slurmctld", "-D")
        for name in cluster.names:
            self._daemon(name, "slurmd", "-D")
        self._wait("host1", f'test "$(sinfo -h -N -t idle | wc -l)" = {len(cluster.names)}')

    def start(self, *command: str | Path, host: str = "host1", **options: Any) -> "subprocess.Popen[str]":
        """Start a command on a host."""
        environment = ["env", f"SLURM_CONF={self.folder}/slurm.conf", f"PATH={_path()}"]
        return self.cluster.start([*environment, *map(str, command)], host=host, **options)

    def call(self, *command: str | Path, timeout: float = 200) -> subprocess.CompletedProcess[str]:
        """Run a command on the first host to its end; one that hangs fails the test with where its ranks stand."""
        mark = f"CALLED={secrets.token_hex(8)}"
        process = self.start(
            *("env", mark, "PYTHONFAULTHANDLER=1", *command), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            steps = self.call("squeue", "--steps", timeout=30).stdout
            waited_for = command_lines(mark)
            ranks = [pid for pid, line in waited_for.items() if "fedmpi" in line and "srun" not in line]
            for pids, number in ((ranks, signal.SIGABRT), (waited_for, signal.SIGKILL)):
                for pid in pids:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
                time.sleep(5)  # Python writes where it stood, and srun passes it on
            out, err = process.communicate()
            # One line: the summary of a test run shows no more of a failure.
            raise AssertionError(" | ".join(f"{command} hangs\n{err}\n{out}\n{steps}".splitlines())) from None
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def _daemon(self, host: str, *command: str) -> None:
        with (self.folder / f"{command[0]}.{host}.log").open("w") as log:
            script = 'mkdir -p /run/munge && exec "$@" < /dev/null'
            self.start("sh", "-c", script, "sh", *command, host=host, stdout=log, stderr=log)

    def _wait(self, host: str, condition: str) -> None:
        end = time.monotonic() + READY_SECONDS
        while self.start("sh", "-c", condition, host=host, stderr=subprocess.DEVNULL).wait():
            if time.monotonic() > end:
                raise AssertionError(f"{condition} on {host}: " + "".join(self.logs()))
            time.sleep(0.1)

    def logs(self) -> Sequence[str]:
        """What the daemons said."""
        return [f"{path.name}: {path.read_text()[-2000:]}\n" for path in self.folder.glob("*.log")]


def command_lines(variable: str = "") -> dict[int, str]:
    """Process → command line, of this machine's processes that have a text in their environment."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            command, environment = (folder / "cmdline").read_bytes(), (folder / "environ").read_bytes()
            if variable.encode() in environment:
                found[int(folder.name)] = command.decode()
    return found


_MUNGE = tuple(f"--{name}=/run/munge/munged.{name}" for name in ("log-file", "pid-file", "seed-file"))
