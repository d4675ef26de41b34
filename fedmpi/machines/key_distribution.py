"""The cluster key of one run: on every host before the ranks start, and gone when all have read it."""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fedmpi.crypto.keys import KEY_BYTES, create_key_file, read_key_file
from fedmpi.errors import UsageError
from fedmpi.machines.hosts import read_hostfile, ssh_command
from fedmpi.machines.schedulers import scheduler

TAKING_SECONDS = 60.0
"""How long one host may take to take the key."""

REMOTE_FOLDER = Path("/tmp")
"""Exists on every host; the file's name can't be foreseen, and only its owner may read it."""


@contextlib.contextmanager
def distributed_key(key_file: Path | None, hostfile: Path | None) -> Iterator[Path]:
    """The path at which all ranks find the cluster key, for the time of a block.

    Parameters
    ----------
    key_file : Path, optional
        The key. Default: a fresh one, which nobody ever needs again.
    hostfile : Path, optional
        The hosts that get a copy by ssh; without it all ranks read a file of this machine. In the job of a scheduler,
        where hosts share files and often have no ssh, all ranks read the `key_file` itself.

    Raises
    ------
    UsageError
        If the key can't be read, or a host does not take it.

    Notes
    -----
    The key goes through ssh's standard input and lies in files that their owner alone may read. Command lines are open
    to everybody on a machine; mpirun copies environment variables into them, and every child process inherits those.
    Ranks remove the files as soon as all have read them (`fedmpi.machines.encryption`), so that no killed launcher
    leaves them behind; those that no rank has read go at the end of the block.
    """
    key = os.urandom(KEY_BYTES) if key_file is None else read_key_file(key_file)
    if key_file is not None and (hostfile is None or scheduler() is not None):
        yield key_file.absolute()
        return
    hosts = [host.name for host in read_hostfile(hostfile)] if hostfile else ["localhost"]
    remote = [host for host in hosts if not _is_here(host)]
    path = (REMOTE_FOLDER if hostfile else Path(tempfile.gettempdir())) / f"fedmpi-{secrets.token_hex(16)}.key"
    holders: list[str] = []

    def give(host: str) -> None:
        if error := _ssh(host, f"umask 077 && cat > {path}", f"{key.hex()}\n"):
            other = f"; in a job of {job.name} take --cluster-key FILE, on shared files" if (job := scheduler()) else ""
            raise UsageError(f"--encrypt must bring the key to every host by ssh, got from {host}: {error}{other}")
        holders.append(host)

    def take_back(host: str) -> None:
        if error := _ssh(host, f"rm -f {path}", ""):
            print(f"fedmpi: warning: {host} may still hold the key of this run, {path}: {error}", file=sys.stderr)

    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # else the key stayed behind
    try:
        if len(remote) < len(hosts):
            create_key_file(path, key)
        _on_all(remote, give)
        yield path
    finally:
        _on_all(holders, take_back)
        path.unlink(missing_ok=True)
        signal.signal(signal.SIGTERM, before)


def _is_here(host: str) -> bool:
    if host in (socket.gethostname(), socket.gethostname().partition(".")[0]):
        return True
    try:
        for family, kind, _, _, address in socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM):
            with socket.socket(family, kind) as own:
                own.bind(address)  # nobody can, but to an address of this machine
    except OSError:
        return False
    return True


def _on_all(hosts: Sequence[str], act: Callable[[str], None]) -> None:
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(act, hosts))


def _ssh(host: str, command: str, text: str) -> str:
    """Why a command failed on a host; nothing if it did not."""
    try:
        done = subprocess.run(
            ssh_command(host, command), input=text, capture_output=True, text=True, timeout=TAKING_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return ""
    return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
