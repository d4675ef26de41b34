"""ssh to the instances. Files travel as tar archives through it, so that nothing else has to be installed."""

import io
import os
import shlex
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeVar

from fleet import Failure

T = TypeVar("T")

LOST = 255
"""ssh's own exit code: it could not connect, or was cut off."""

CONNECT_SECONDS = 10
_POLL_SECONDS = 2.0
_AT_ONCE = 16


class Lost(Failure):
    """ssh could not connect, or was cut off."""

    exit_code = 4


@dataclass(frozen=True)
class Remote:
    """One instance as ssh reaches it.

    Parameters
    ----------
    address, user : str
    keys : Path
        The folder of the cluster's key, and of what is known of the hosts' own.
    config : Path, optional
        A configuration of ssh, for a way through another host.
    """

    address: str
    user: str
    keys: Path
    config: Path | None = None

    def command(self, script: str) -> list[str]:
        """The ssh that runs a shell script there."""
        config = ["-F", str(self.config)] if self.config else []
        options = {
            "IdentityFile": self.keys / "key",
            "IdentitiesOnly": "yes",
            "BatchMode": "yes",
            "ConnectTimeout": CONNECT_SECONDS,
            "ServerAliveInterval": 10,
            "ServerAliveCountMax": 3,
            "StrictHostKeyChecking": "accept-new",
            "UserKnownHostsFile": self.keys / "known_hosts",
        }
        pairs = [argument for name, value in options.items() for argument in ("-o", f"{name}={value}")]
        return ["ssh", *config, *pairs, f"{self.user}@{self.address}", script]

    def call(self, script: str, *, stdin: bytes = b"", what: str) -> str:
        """Run a script; what it prints.

        Raises
        ------
        Lost
            If there was no connection.
        Failure
            If the script failed, with its last words.
        """
        done = subprocess.run(self.command(script), input=stdin, capture_output=True, check=False)
        if done.returncode:
            said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines() or ["nothing"]
            kind = Lost if done.returncode == LOST else Failure
            raise kind(f"{what} on {self.address} must succeed, got exit code {done.returncode}: {said[-1]}")
        return done.stdout.decode(errors="replace")

    def wait(self, seconds: float) -> None:
        """Wait until ssh works and the first start has done its installations."""
        end = time.monotonic() + seconds
        script = "command -v cloud-init >/dev/null || exit 0; cloud-init status --wait >/dev/null; true"
        while True:
            try:
                self.call(script, what="ssh")
                return
            except Lost as lost:
                if time.monotonic() > end:
                    raise Lost(f"{self.address} must answer within {seconds:g} s: {lost}") from None
            time.sleep(_POLL_SECONDS)

    def send(self, folder: str, files: Mapping[str, Path | bytes], *, executable: Iterable[str] = ()) -> None:
        """Write files into a folder there, readable for its user alone."""
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for name, content in files.items():
                data = content.read_bytes() if isinstance(content, Path) else content
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode, entry.mtime = (
                    len(data),
                    0o700 if name in executable else 0o600,
                    int(time.time()),
                )
                tar.addfile(entry, io.BytesIO(data))
        script = f"mkdir -p {shlex.quote(folder)} && cd {shlex.quote(folder)} && tar -xpf - --no-same-owner"
        self.call(script, stdin=archive.getvalue(), what="copying files")

    def receive(self, folder: str, names: Sequence[str], to: Path) -> list[Path]:
        """Copy folders from there to here; files appear whole or not at all."""
        to.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=to, prefix=".fetch-") as name:
            script = f"cd {shlex.quote(folder)} && tar -cf - -- {shlex.join(names)}"
            with subprocess.Popen(self.command(script), stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as ssh:
                assert ssh.stdout is not None
                whole = unpack(ssh.stdout, Path(name), names)
            if ssh.returncode or not whole:
                raise Lost(f"fetching from {self.address} must end with 0, got {ssh.returncode}: repeat it")
            return move(Path(name), to)


def unpack(stream: IO[bytes], to: Path, names: Sequence[str]) -> bool:
    """Unpack an archive that comes through a pipe; whether it was whole. It may hold folders of these names only."""
    data_filter: Any = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # from Python 3.11.4 on
    try:
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            for member in tar:
                path = PurePosixPath(member.name)
                if path.parts[:1] not in [(name,) for name in names] or ".." in path.parts:
                    raise tarfile.TarError(f"an archive must hold {' and '.join(names)} only, got {path}")
                if not (member.isdir() or (member.isfile() and len(path.parts) > 1)):
                    raise tarfile.TarError(f"an archive must hold files and folders, got {path}")
                tar.extract(member, to, **data_filter)
    except (tarfile.TarError, EOFError, OSError):
        stream.read()
        return False
    stream.read()
    return True


def move(source: Path, to: Path) -> list[Path]:
    """Move all files below one folder to the same places below another."""
    moved = []
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        target = to / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
        moved.append(target)
    return moved


def everywhere(remotes: Sequence[Remote], task: Callable[[Remote], T]) -> list[T]:
    """Do the same on all hosts at once; the first failure is raised when all have ended."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return [future.result() for future in [pool.submit(task, remote) for remote in remotes]]


def stream(command: Sequence[str], *, skip: int) -> tuple[int, int]:
    """Run a command and print what it prints; (its exit code, all bytes printed so far).

    Parameters
    ----------
    skip : int
        Bytes that were printed before.
    """
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, process_group=0) as process:
        assert process.stdout is not None
        try:
            while data := os.read(process.stdout.fileno(), 1 << 16):
                skip += len(data)
                sys.stdout.buffer.write(data)
                sys.stdout.flush()
        except BaseException:
            process.terminate()
            raise
    return process.returncode, skip
