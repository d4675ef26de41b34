"""Ranks that must not collude and share a machine: a warning, or with --strict-placement the end."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fedmpi.errors import UsageError
from fedmpi.machines import placement
from fedmpi.machines.placement import (
    PLACES,
    Apart,
    Host,
    check_placement,
    confirm_places,
    hosts_of_ranks,
    is_this_machine,
    named_places,
    violations,
)
from fedmpi.net import Channel, run_local

SERVERS = Apart("servers S1 and S2", (0, 1))
WORKERS = Apart("workers", range(2, 8), 2)
HERE = os.uname().nodename


def test_every_machine_with_too_many_is_named() -> None:
    hosts = {0: "a", 1: "b", 2: "a", 3: "c", 4: "c", 5: "c", 6: "b", 7: "c"}
    assert violations([SERVERS, WORKERS], hosts) == [
        "at most 2 of the workers must be on one machine, got 4 on c (ranks 3-5, 7)"
    ]
    assert violations([SERVERS, WORKERS], hosts | {1: "a", 7: "a"}) == [
        "at most 1 of the servers S1 and S2 must be on one machine, got 2 on a (ranks 0-1)",
        "at most 2 of the workers must be on one machine, got 3 on c (ranks 3-5)",
    ]


def named(name: str | None) -> Callable[[Channel], None]:
    """A rank whose machine has this name, or that does not tell it."""

    def role(ch: Channel) -> None:
        if name is not None:
            ch.send(0, Host(name, 0))
        ch.recv(0, Host)

    return role


def checked(second: str | None, *, strict: bool) -> None:
    """Two servers, on this machine and on another."""

    def first(ch: Channel) -> None:
        try:
            check_placement(ch, [SERVERS], strict=strict)
        finally:
            ch.send(1, Host("", 0))  # lets it go

    run_local([first, named(second)], timeout_seconds=30)


def test_servers_on_one_machine_are_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    checked(HERE, strict=False)
    assert capsys.readouterr().err == (
        f"fedmpi: warning: at most 1 of the servers S1 and S2 must be on one machine, got 2 on {HERE} (ranks 0-1)\n"
    )


def test_servers_on_two_machines_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    checked(f"not-{HERE}", strict=True)
    assert capsys.readouterr().err == ""


def test_strict_placement_ends_the_run() -> None:
    with pytest.raises(UsageError, match=re.escape("--strict-placement: at most 1 of the servers S1 and S2 must")):
        checked(HERE, strict=True)


def test_strict_placement_wants_to_know_every_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "START_SECONDS", 0.1)
    with pytest.raises(UsageError, match="every rank must name its machine, got nothing from ranks 1"):
        checked(None, strict=True)


def test_a_run_on_one_machine_warns_or_refuses(tmp_path: Path) -> None:
    def run(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "fedmpi.cli", "run", "codedml", "-n", "5", *options, "--", "--iterations", "1"]
        return subprocess.run(
            [*command, "--out", str(tmp_path / "run")], capture_output=True, text=True, check=False, timeout=120
        )

    rule = f"at most 1 of the workers must be on one machine, got 4 on {HERE} (ranks 1-4)"
    refused = run("--strict-placement")
    assert refused.returncode == 2
    assert f"fedmpi: error: --strict-placement: {rule}\n" in refused.stderr
    assert not (tmp_path / "run").exists()
    warned = run()
    assert (warned.returncode, warned.stderr.count(f"fedmpi: warning: {rule}\n")) == (0, 1), warned.stderr
    assert "strict_placement" not in (tmp_path / "run" / "config.toml").read_text()


def test_rank_0_knows_where_it_is() -> None:
    def alone(ch: Channel) -> None:
        (host,) = hosts_of_ranks(ch, (), 1.0).values()
        assert host.name == HERE
        assert host.free_bytes > 1 << 20

    run_local([alone])


def test_servers_that_must_not_collude_are_declared(tmp_path: Path) -> None:
    """PPADMM's two servers share this machine."""
    command = [sys.executable, "-m", "fedmpi.cli", "run", "ppadmm", "-n", "4", "--strict-placement"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert f"at most 1 of the servers S1 and S2 must be on one machine, got 2 on {HERE} (ranks 0-1)" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_ranks_that_a_launcher_puts_elsewhere_end_the_run_before_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 1 is not named, and says nothing."""
    monkeypatch.setattr(placement, "is_this_machine", lambda host: host == HERE)
    monkeypatch.setenv(PLACES, named_places({0: "localhost", 2: HERE}))
    run_local([confirm_places] * 3, timeout_seconds=30)
    monkeypatch.setenv(PLACES, named_places({0: "a", 2: "b"}))
    line = f"ranks must be where --place puts them, got rank 0 on {HERE}, not a, rank 2 on {HERE}, not b"
    with pytest.raises(UsageError, match=f"^{line}$"):
        run_local([confirm_places] * 3, timeout_seconds=30)
    monkeypatch.delenv(PLACES)
    run_local([confirm_places] * 3, timeout_seconds=30)


def test_a_machine_knows_its_names_and_addresses() -> None:
    for name in (HERE, HERE.upper(), f"{HERE}.example.com" if "." not in HERE else HERE, "127.0.0.1", f"me@{HERE}"):
        assert is_this_machine(name)
    assert not is_this_machine("192.0.2.1")  # of documents
