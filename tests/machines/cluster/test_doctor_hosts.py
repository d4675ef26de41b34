"""`fedmpi doctor --hostfile` between hosts: what it measures, and the one line for each that is wrong."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fedmpi
from fedmpi import version


def doctor(cluster: Any, hostfile: str | Path = "{hostfile}") -> tuple[int, list[str]]:
    """The exit code, and the lines."""
    command = [sys.executable, "-m", "fedmpi.cli", "doctor", "--hostfile", str(hostfile)]
    process = cluster.start(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    out = process.communicate(timeout=120)[0]
    return process.returncode, out.splitlines()


def test_links_are_measured_and_what_is_wrong_is_named(virtual_cluster: Callable[..., Any], tmp_path: Path) -> None:
    with virtual_cluster(hosts=3, slots=2, rate="50mbit") as cluster:
        code, lines = doctor(cluster)
        assert code == 0, lines
        assert "ok  hosts      3 hosts answer" in lines
        assert any("all hosts are in 10.0.0.0/24 (eth0 everywhere)" in line for line in lines)
        (bandwidth,) = (line for line in lines if "Mbit/s one way" in line)
        low, high = float(bandwidth.split()[2]), float(bandwidth.split()[4])
        assert 0 < low <= high < 60, "4 MiB go through a link of 50 Mbit/s, not through memory"
        assert sum(line.startswith("ok  latency") for line in lines) == 4

        other = tmp_path / "version.py"
        other.write_text('"""Another."""\n\n__version__ = "0.0.1"\n')
        mount = f"PATH=$PATH:/usr/sbin:/sbin mount --bind {other} {version.__file__}"
        assert cluster.start(["ssh", "host3", mount]).wait(timeout=60) == 0
        code, lines = doctor(cluster)
        assert code == 2
        different = f"fedmpi must be the same everywhere, got {fedmpi.__version__} on host1, host2; 0.0.1 on host3"
        assert lines[-1] == f"!!  versions   {different}"

        (tmp_path / "hosts").write_text("host1 slots=1\nhost2 slots=1\nnowhere slots=1\n")
        cluster.cut("host2")
        code, lines = doctor(cluster, tmp_path / "hosts")
        assert code == 2
        assert [line.split(",")[0] for line in lines] == [
            "!!  host       host2: ssh must log in without a password (ssh-copy-id)",
            "!!  host       nowhere: ssh must log in without a password (ssh-copy-id)",
        ]
