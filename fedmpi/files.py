"""Files in folders that may be a stranger's: written whole or not at all and through no link, read without waiting.

What is written has the modes that the user's umask leaves of 0644, and of 0600 where it is nobody else's.
"""

import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

PUBLIC, PRIVATE = 0o644, 0o600
"""Modes of files, before the umask."""

PRIVATE_FOLDER = 0o700


@contextmanager
def replacing(path: Path, mode: int = PUBLIC) -> Iterator[BinaryIO]:
    """A temporary file beside `path`, which is renamed at the end: a link of this name is replaced, not followed.

    Raises
    ------
    OSError
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def replace_file(path: Path, data: bytes, mode: int = PUBLIC) -> None:
    """Write a file, whole or not at all.

    Raises
    ------
    OSError
    """
    with replacing(path, mode) as file:
        file.write(data)


def append_line(path: Path, line: str, mode: int = PUBLIC) -> None:
    """Add a line to a file, whole or not at all; it must be none that a link leads to.

    Raises
    ------
    OSError
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, mode), "wb", buffering=0) as file:
        before, data = os.fstat(file.fileno()), memoryview(f"{line}\n".encode())
        if not stat.S_ISREG(before.st_mode):
            raise OSError(errno.EINVAL, "it must be a file", str(path))
        try:
            while data:
                data = data[file.write(data) :]
        except OSError:
            os.ftruncate(file.fileno(), before.st_size)
            raise


def sweep(folder: Path) -> None:
    """Remove what `replacing` has left behind in a process that was killed."""
    for path in folder.glob(".*"):
        if re.fullmatch(r"\..+\.[0-9a-f]{8}", path.name) and path.is_file() and not path.is_symlink():
            with suppress(OSError):
                path.unlink()


def read_file(path: Path, most: int) -> bytes:
    """The first bytes of a file; of a pipe or device, for which one could wait for ever, nothing is read.

    Raises
    ------
    OSError
    """
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it must be a file", str(path))
        return file.read(most)


def own_folder(path: Path, mode: int = 0o755) -> Path:
    """Make a folder for what is written; one that is there already must be no link.

    Raises
    ------
    OSError
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        raise OSError(errno.ENOTDIR, "it must be a folder, and no link to one", str(path))
    path.mkdir(mode=mode, exist_ok=True)
    return path
