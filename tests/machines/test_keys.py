"""Cluster keys: their files, their way to the hosts, and what is said where one is missing."""

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fedmpi.cli import main
from fedmpi.crypto.keys import KeyPair, create_key_file, derive, read_key_file
from fedmpi.errors import ProtocolError, UsageError
from fedmpi.machines import encryption
from fedmpi.machines.encryption import key_file_of
from fedmpi.machines.key_distribution import distributed_key


def test_keygen_makes_a_file_that_its_owner_alone_may_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = os.umask(0)
    try:
        keys = set()
        for name in ("one", "two"):
            assert main(["keygen", str(tmp_path / name)]) == 0
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
            keys.add(read_key_file(tmp_path / name))
    finally:
        os.umask(before)
    assert len(keys) == 2
    out, _ = capsys.readouterr()
    assert out.splitlines()[0] == f"written to {tmp_path / 'one'}, mode 0600"
    assert not any(key.hex() in out for key in keys)


def test_keygen_overwrites_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "key").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name, reason in (("key", "File exists"), ("link", "File exists"), ("no/folder", "No such file or directory")):
        assert main(["keygen", str(tmp_path / name)]) == 2
        error = f"fedmpi: error: the cluster key file must be a new file, got {tmp_path / name}: {reason}\n"
        assert capsys.readouterr() == ("", error)
    assert (tmp_path / "key").read_text() == "precious"
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601, 0o644])
def test_a_key_that_others_may_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    create_key_file(tmp_path / "key")
    (tmp_path / "key").chmod(mode)
    with pytest.raises(UsageError, match=rf"must be its owner's alone \(chmod 600\), got .*/key: mode {mode:o}$"):
        read_key_file(tmp_path / "key")
    (tmp_path / "key").chmod(0o400)
    assert len(read_key_file(tmp_path / "key")) == 32


@pytest.mark.parametrize(
    "text", ["", "00" * 31, "00" * 33, "0x" + "00" * 31, "zz" * 32, "00" * 32 + "\n\n", "00" * 32 + "\r\n"]
)
def test_a_file_that_holds_no_key_is_refused_and_not_shown(tmp_path: Path, text: str) -> None:
    path = tmp_path / "key"
    path.touch(0o600)
    path.write_text(text)
    with pytest.raises(UsageError) as error:
        read_key_file(path)
    assert str(error.value) == f"the cluster key file must hold 64 hexadecimal digits, got {path}"


def test_what_is_no_file_is_refused_without_a_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("pipe", "missing", ""):
        with pytest.raises(UsageError, match="the cluster key file must"):
            read_key_file(tmp_path / name)


def test_two_pairs_share_what_a_third_does_not() -> None:
    one, two, three = KeyPair(), KeyPair(), KeyPair()
    assert one.shared(two.public, info=b"a") == two.shared(one.public, info=b"a")
    secrets = {
        one.shared(two.public, info=b"a"),
        one.shared(two.public, info=b"b"),
        three.shared(two.public, info=b"a"),
    }
    secrets.add(one.shared(two.public, info=b"a", salt=b"s"))
    assert len(secrets) == 4
    for public, rule in ((bytes(32), "of low order"), (bytes(31), "be 32 bytes, got 31")):
        with pytest.raises(ProtocolError, match=rule):
            one.shared(public, info=b"a")


def test_derive_is_hkdf_sha256() -> None:
    """[RFC 5869], test case 1."""
    secret, salt, info = b"\x0b" * 22, bytes(range(13)), bytes(range(0xF0, 0xFA))
    expected = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    assert derive(secret, info=info, salt=salt, length=42).hex() == expected


# -- on their way to the ranks ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "path"),
    [
        ([], None),
        (["--iterations", "3"], None),
        (["--cluster-key", "file"], Path("file")),
        (["--encrypt", "--cluster-key=file", "--out", "x"], Path("file")),
        (["--cluster_key", "file"], Path("file")),
    ],
)
def test_every_rank_reads_its_own_command_line(argv: list[str], path: Path | None) -> None:
    assert key_file_of(argv) == path


def test_a_wish_to_encrypt_is_never_ignored() -> None:
    with pytest.raises(UsageError, match="--encrypt must come with --cluster-key FILE, or stand before --"):
        key_file_of(["--encrypt"])
    with pytest.raises(UsageError, match="--cluster-key must name a file, got nothing"):
        key_file_of(["--cluster-key"])


def test_a_key_of_one_run_is_gone_when_it_ends() -> None:
    with distributed_key(None, None) as path:
        first = read_key_file(path)
    assert not path.exists()
    with pytest.raises(RuntimeError), distributed_key(None, None) as again:
        assert read_key_file(again) != first
        raise RuntimeError
    assert not again.exists()


def test_a_key_of_the_user_stays_where_it_is(tmp_path: Path) -> None:
    create_key_file(tmp_path / "key")
    with distributed_key(tmp_path / "key", None) as path:
        assert path == tmp_path / "key"
    assert path.exists()
    path.chmod(0o644)
    with pytest.raises(UsageError, match="must be its owner's alone"), distributed_key(path, None):
        pytest.fail("nothing must start")


def test_in_a_job_of_a_scheduler_all_hosts_read_the_users_file(
    tmp_path: Path, ssh: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They share files, and often have no ssh; a key of one run is still brought by ssh, or refused with a way out."""
    lines = ssh("exit 255")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    (tmp_path / "hosts").write_text("far.invalid slots=2\n")
    create_key_file(tmp_path / "key")
    with distributed_key(tmp_path / "key", tmp_path / "hosts") as path:
        assert path == tmp_path / "key"
    assert not lines.exists()
    way_out = "got from far.invalid: exit code 255; in a job of Slurm take --cluster-key FILE, on shared files"
    with pytest.raises(UsageError, match=way_out), distributed_key(None, tmp_path / "hosts"):
        pytest.fail("nothing must start")


def test_sigterm_leaves_no_key_behind(tmp_path: Path) -> None:
    program = (
        "from fedmpi.machines.key_distribution import distributed_key\n"
        "with distributed_key(None, None) as path:\n    print(path, flush=True)\n    input()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        path = Path(process.stdout.readline().strip())
        assert path.exists()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
    assert not path.exists()


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """``ssh(script)`` puts an ssh on PATH that writes down what it is told; in the script $4 is the remote command."""
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")

    def install(script: str) -> Path:
        (tmp_path / "bin").mkdir()
        file = tmp_path / "bin" / "ssh"
        file.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/lines\nshift 3\n{script}\n')
        file.chmod(0o755)
        return tmp_path / "lines"

    return install


def test_hosts_get_the_key_by_ssh_and_lose_it(tmp_path: Path, ssh: Callable[[str], Path]) -> None:
    """The real shell command, run here: the key comes by standard input, and the file is its owner's alone."""
    lines = ssh('exec sh -c "$4"')
    (tmp_path / "hosts").write_text("far.invalid slots=2\nlocalhost slots=1\n")
    with distributed_key(None, tmp_path / "hosts") as path:
        key = read_key_file(path)
    assert not path.exists()
    said = lines.read_text()
    assert [line.split()[5] for line in said.splitlines()] == ["far.invalid"] * 2
    assert f"umask 077 && cat > {path}" in said
    assert key.hex() not in said


def test_a_host_that_does_not_take_the_key_ends_the_run_before_it_starts(
    tmp_path: Path, ssh: Callable[[str], Path]
) -> None:
    ssh("echo Permission denied >&2; exit 255")
    (tmp_path / "hosts").write_text("far.invalid slots=2\n")
    expected = "--encrypt must bring the key to every host by ssh, got from far.invalid: Permission denied"
    with pytest.raises(UsageError, match=expected), distributed_key(None, tmp_path / "hosts"):
        pytest.fail("nothing must start")


@pytest.mark.parametrize(("name", "stays"), [(f"fedmpi-{'0f' * 16}.key", False), ("cluster.key", True)])
def test_a_key_of_one_run_is_gone_once_all_ranks_have_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, stays: bool
) -> None:
    """A transport is there when all ranks have come so far: what needs no file by then is done before."""
    create_key_file(tmp_path / name)
    keys: list[bytes | None] = []
    monkeypatch.setattr(encryption, "_sealed", lambda transport, key: keys.append(key))
    wrap = encryption.encryption(["--encrypt", "--cluster-key", str(tmp_path / name)])
    assert (tmp_path / name).exists()
    (tmp_path / name).write_text("read by nobody any more")
    wrap(None)  # type: ignore[arg-type]
    assert (tmp_path / name).exists() is stays
    assert [len(key) for key in keys if key] == [32]
