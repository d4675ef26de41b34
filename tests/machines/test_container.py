"""The container image, built and run: without a Docker engine, by buildah on a base that debootstrap makes."""

import os
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fedmpi import __version__

ROOT = Path(__file__).parents[2]
Buildah = Callable[..., str]

_IMAGES_BYTES = 6 << 30
"""More than the images, and copies of them, take."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.waits,
    pytest.mark.skipif(
        os.geteuid() != 0 or not (shutil.which("buildah") and shutil.which("debootstrap")),
        reason="needs root, buildah and debootstrap",
    ),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for images: in memory, if there is plenty, since dpkg waits for the disk at each file."""
    memory, available = Path("/dev/shm"), re.search(r"MemAvailable: *(\d+) kB", Path("/proc/meminfo").read_text())
    room = min(1024 * int(available[1]), shutil.disk_usage(memory).free) if available and memory.is_dir() else 0
    folder = Path(tempfile.mkdtemp(dir=memory)) if room > _IMAGES_BYTES else tmp_path_factory.mktemp("container")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def command(files: Path) -> list[str]:
    """Buildah with a store of its own."""
    return ["buildah", "--storage-driver", "vfs", "--root", f"{files}/store", "--runroot", f"{files}/run"]


@pytest.fixture(scope="module")
def buildah(command: list[str]) -> Buildah:
    """``buildah(*arguments)`` returns what it prints; it shares the network of this machine."""

    def call(*arguments: str | Path, check: bool = True) -> str:
        done = subprocess.run(
            [*command, *map(str, arguments)],
            env={**os.environ, "BUILDAH_ISOLATION": "chroot"},
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    return call


@pytest.fixture(scope="module")
def base(files: Path, buildah: Buildah) -> str:
    """What the Dockerfile begins with, as far as it needs it: Debian 12 with Python 3.11 and its headers."""
    root = files / "base"
    packages = "--include=python3,python3-venv,libpython3.11-dev,ca-certificates"
    subprocess.run(["debootstrap", "--variant=minbase", packages, "bookworm", root], check=True, timeout=900)
    # As this machine sees the world, so must the container: behind a proxy it trusts the same certificates.
    trusted = os.environ.get("PIP_CERT") or ssl.get_default_verify_paths().cafile
    if trusted:
        shutil.copy(trusted, root / "etc/ssl/certs/ca-certificates.crt")
        (root / "etc/pip.conf").write_text("[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n")
    container = buildah("from", "--pull-never", "scratch")
    buildah("add", container, root, "/")
    buildah("config", "--env", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", container)
    buildah("commit", "--rm", container, "localhost/base")
    shutil.rmtree(root)
    return "localhost/base"


@pytest.fixture(scope="module")
def image(base: str, buildah: Buildah) -> str:
    """The image of docker/Dockerfile, built from this tree."""
    options = ["--pull-never", "--layers=false", "-f", ROOT / "docker/Dockerfile"]
    options += ["--build-arg", f"BASE={base}", "--build-arg", "EXTRAS=mpi"]  # torch is large
    buildah("bud", *options, "-t", "localhost/fedmpi", ROOT)
    return "localhost/fedmpi"


@pytest.fixture
def container(image: str, buildah: Buildah) -> Iterator[str]:
    """A container of the image."""
    name = buildah("from", "--pull-never", image)
    yield name
    buildah("rm", name)


def test_it_trains_as_an_ordinary_user_without_a_compiler(buildah: Buildah, container: str) -> None:
    run = ["run", container, "--"]
    printed = buildah(*run, "fedmpi", "run", "codedml", "-n", "5", "--", "--iterations", "3", "--quiet")
    assert "written to" in printed
    assert "uid=1000(fedmpi)" in buildah(*run, "id")
    assert "kernels    compiled" in buildah(*run, "fedmpi", "doctor")
    left = buildah(*run, "sh", "-c", "command -v gcc; ls /src /etc/ssh/ssh_host_* 2>/dev/null", check=False)
    assert left == ""  # no compiler, no sources, no host key that all containers would share


def test_ranks_reach_it_by_ssh_with_the_key_of_the_cluster_only(
    buildah: Buildah, container: str, command: list[str], tmp_path: Path
) -> None:
    for name in ("cluster", "other"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True, timeout=60)
    buildah("copy", "--chown", "1000", container, tmp_path / "cluster", "/run/secrets/cluster_key")
    serving = subprocess.Popen(
        [*command, "run", container, "--", "/home/fedmpi/start"],
        env={**os.environ, "BUILDAH_ISOLATION": "chroot"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: healthy(serving))
        for name, code in (("other", 255), ("cluster", 0)):
            done = login(tmp_path, name, "fedmpi --version")
            assert done.returncode == code, done.stderr
            assert (done.stdout == f"fedmpi {__version__}\n") == (code == 0)
    finally:
        serving.terminate()
        serving.wait(60)
    wait_until(lambda: not healthy(None))


def login(folder: Path, key: str, script: str) -> subprocess.CompletedProcess[str]:
    options = ["StrictHostKeyChecking=no", "BatchMode=yes", f"UserKnownHostsFile={folder}/known", "IdentitiesOnly=yes"]
    ssh = ["ssh", "-F", "none", "-p", "2222", *(word for option in options for word in ("-o", option))]
    destination = ["-o", "IdentityAgent=none", "-i", folder / key, "fedmpi@127.0.0.1"]
    return subprocess.run([*ssh, *destination, script], capture_output=True, text=True, check=False, timeout=60)


def healthy(serving: "subprocess.Popen[bytes] | None") -> bool:
    """What the image's own health check asks."""
    assert serving is None or serving.poll() is None, "sshd must go on"
    check = re.search(r'CMD \["python3", "-c", "(.*)"\]', (ROOT / "docker/Dockerfile").read_text())
    assert check is not None
    return subprocess.run([sys.executable, "-c", check[1]], capture_output=True, check=False).returncode == 0


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
