"""What a head node sends is unpacked below one folder, or not at all."""

import io
import tarfile
from pathlib import Path

import pytest
from fleet import Failure
from fleet.jobs import clean_up
from fleet.remote import unpack


def archive(name: str, kind: bytes = tarfile.REGTYPE) -> io.BytesIO:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for entry in (tarfile.TarInfo("runs"), tarfile.TarInfo("runs/a"), tarfile.TarInfo(name)):
            entry.type = tarfile.DIRTYPE if entry.name == "runs" else tarfile.REGTYPE
            if entry.name == name:
                entry.type, entry.linkname = kind, "/etc/passwd"
            tar.addfile(entry)
    stream.seek(0)
    return stream


def test_files_and_folders(tmp_path: Path) -> None:
    assert unpack(archive("runs/b"), tmp_path, ["runs", "jobs"])
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"a", "b"}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("../out", tarfile.REGTYPE),
        ("runs/../../out", tarfile.REGTYPE),
        ("runs/l", tarfile.SYMTYPE),
        ("h", tarfile.LNKTYPE),
        (".git/hooks/pre-commit", tarfile.REGTYPE),
        ("runs2", tarfile.REGTYPE),
        ("jobs", tarfile.REGTYPE),
    ],
)
def test_nothing_is_written_elsewhere(name: str, kind: bytes, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    assert not unpack(archive(name, kind), tmp_path / "in", ["runs", "jobs"])
    assert not [path for path in tmp_path.rglob("*") if path.name in ("out", "l", "h", "pre-commit", "runs2")]


def test_keys_that_create_did_not_make_are_left_alone(tmp_path: Path) -> None:
    keys = tmp_path / "fedmpi"
    keys.mkdir()
    (keys / "key").touch()
    (keys / "key.pub").write_text("ssh-ed25519 AAAA somebody@home\n")
    with pytest.raises(Failure, match="left alone"):
        clean_up(keys)
    assert (keys / "key").exists()
