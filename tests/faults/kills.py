"""Kills and freezes of every role of every system, at five moments of a run, under `fedmpi run` and plain mpirun.

``python tests/faults/kills.py`` runs all of them; ``--draw 20 --seed 3`` some, ``--only niss`` those with a word in
their name. A case is one small run in which one rank kills or stops itself at a message: see `strike`, which the ranks
run before anything else. What must hold is said in `Case.judge`.
"""

import argparse
import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GRACE = 10.0
"""A job may last so long beyond its --timeout."""

MARK, ORDERS = "FEDMPI_KILLS_CASE", "FEDMPI_KILLS"
MOMENTS = ("start", "data", "first", "training", "end")


@dataclass(frozen=True)
class Role:
    """Who is struck, and at which of its messages: "<" received, ">" before it is sent."""

    name: str
    rank: int
    needed: bool
    """Whether the job can't go on without it."""
    data: str
    each: str
    """In every round."""
    end: str
    senders: int = 1
    """So many of them in a round."""


@dataclass(frozen=True)
class Played:
    """A system, as it is run here."""

    ranks: int
    options: tuple[str, ...]
    roles: tuple[Role, ...]


_FEDERATED = ("--dataset", "digits", "--rounds", "8", "--model", "mlp", "--clients", "6")

SYSTEMS = {
    "codedml": Played(
        6,
        ("--iterations", "8", "-K", "1", "-T", "1", "--paper", "--no-compare"),
        (
            Role("master", 0, True, ">Setup", "<CodedGradient", ">Stop", senders=5),
            Role("worker", 2, False, "<Setup", "<CodedWeights", "<Stop"),
        ),
    ),
    "ppadmm": Played(
        6,
        ("--iterations", "10", "--deadline", "3", "--tolerance", "0"),
        (
            Role("primary", 0, True, ">Setup", "<MaskSum", ">Done"),
            Role("auxiliary", 1, True, "<Setup", "<Heard", "<Done"),
            Role("participant", 3, False, "<Setup", "<Order", "<Model"),
        ),
    ),
    "niss": Played(
        5,
        (*_FEDERATED, "--fraction", "1.0"),
        (
            Role("server", 0, True, ">Setup", "<Uploads", ">Leave", senders=3),
            Role("tracker", 1, True, "<TrackerSetup", "<Sampled", "<Leave"),
            Role("host", 3, False, "<Setup", "<Round", "<Leave"),
        ),
    ),
    "pbpfl": Played(
        4,
        _FEDERATED,
        (
            Role("server", 0, True, ">Setup", "<Terms", ">Leave", senders=3),
            Role("host", 2, False, "<Setup", "<Round", "<Leave"),
        ),
    ),
    "spn": Played(
        4,
        _FEDERATED,
        (
            Role("server", 0, True, ">Setup", "<Changes", ">Leave", senders=3),
            Role("host", 2, False, "<Setup", "<Round", "<Leave"),
        ),
    ),
}


def strike() -> None:
    """In every rank, before anything else: end or stop this process where the case says so."""
    order = json.loads(os.environ[ORDERS])
    rank = next((os.environ[n] for n in ("OMPI_COMM_WORLD_RANK", "PMIX_RANK") if n in os.environ), "")
    if rank != str(order["rank"]):
        return

    def now() -> None:
        Path(order["struck"]).write_text(repr(time.time()))
        os.kill(os.getpid(), order["signal"])

    if order["moment"] == "start":
        now()
        return
    from fedmpi.net.channel import Channel
    from fedmpi.net.endpoint import Endpoint

    way, name, left = order["message"][0], order["message"][1:], [order["count"]]

    def note(this_way: str, message: Any) -> None:
        if this_way == way and type(message).__name__ == name:
            left[0] -= 1
            if not left[0]:
                now()

    received, send = Channel._finish, Endpoint.send

    def finish(self: Any, *args: Any) -> Any:
        message = received(self, *args)
        note("<", message)
        return message

    def sending(self: Any, dest: int, message: Any) -> None:
        note(">", message)
        send(self, dest, message)

    Channel._finish, Endpoint.send = finish, sending  # type: ignore[method-assign]


@dataclass(frozen=True)
class Case:
    """One run, and what happens in it."""

    system: str
    role: Role
    moment: str
    fault: str
    launcher: str

    def __str__(self) -> str:
        return f"{self.system} {self.role.name} {self.fault} {self.moment} {self.launcher}"

    @property
    def unpromised(self) -> str:
        """Why nothing is promised of this case; empty where something is."""
        if self.launcher == "mpirun" and self.moment == "start":
            return "ranks that have not met wait in MPI_Init, and nobody is there to end them but fedmpi run"
        return ""

    @property
    def goes_on(self) -> bool:
        """Whether the job is to end well."""
        if self.moment == "start":
            return False
        return not self.role.needed or (self.moment == "end" and self.role.rank != 0)

    def run(self, timeout: float, slack: float) -> list[str]:
        """What did not hold."""
        with tempfile.TemporaryDirectory(prefix="kills-") as name:
            return self._run(Path(name), timeout, slack)

    def _run(self, folder: Path, timeout: float, slack: float) -> list[str]:
        played, mark, temporary = SYSTEMS[self.system], uuid.uuid4().hex, folder / "tmp"
        temporary.mkdir()
        (folder / "hook").mkdir()
        (folder / "hook" / "sitecustomize.py").write_text(
            f"import sys\nsys.path.append({str(Path(__file__).parent)!r})\nimport kills\nkills.strike()\n"
        )
        count = {"training": 5}.get(self.moment, 1)
        message = {"data": self.role.data, "end": self.role.end}.get(self.moment, self.role.each)
        number = int(signal.SIGKILL if self.fault == "kill" else signal.SIGSTOP)
        struck, out = folder / "struck", folder / "run"
        order = {
            "rank": self.role.rank,
            "moment": self.moment,
            "message": message,
            "count": count * (self.role.senders if self.moment == "training" else 1),
            "signal": number,
            "struck": str(struck),
        }
        paths = [str(folder / "hook"), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        environment = {
            **os.environ,
            MARK: mark,
            ORDERS: json.dumps(order),
            "PYTHONPATH": os.pathsep.join(paths),
            "TMPDIR": str(temporary),
            "OMP_NUM_THREADS": "1",
        }
        options = [*played.options, "--timeout", f"{timeout:g}", "--out", str(out), "--checkpoint-every", "3"]
        if self.launcher == "fedmpi":
            program = [sys.executable, "-m", "fedmpi.cli", "run", self.system, "-n", str(played.ranks)]
            program += ["--start-timeout", f"{timeout + slack:g}", "--", *options]
        else:
            mpirun = shutil.which("mpirun", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}") or "mpirun"
            root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
            program = [mpirun, "-n", str(played.ranks), *root, "--oversubscribe", "--bind-to", "none"]
            program += ["--with-ft", "ulfm", sys.executable, "-m", f"fedmpi.{self.system}", *options]
            environment |= {"OMPI_MCA_btl_sm_backing_directory": str(temporary)}
        with (folder / "out").open("w") as output, (folder / "err").open("w") as errors:
            process = subprocess.Popen(
                program, stdout=output, stderr=errors, stdin=subprocess.DEVNULL, env=environment, cwd=folder
            )
            begun, memory = time.time(), set[str]()
            while process.poll() is None:
                for pid in marked(mark):
                    memory |= memory_of(pid)
                at = float(struck.read_text() or 0) if struck.exists() else 0.0
                waited = time.time() - (at or begun + 60)
                if waited > timeout + GRACE + slack + 30:
                    break
                time.sleep(0.2)
        ended = time.time()
        while (left := marked(mark)) and time.time() < ended + 2.0 + slack:  # mpirun by itself does not wait for all
            time.sleep(0.1)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        if not struck.exists():
            said = (folder / "err").read_text()[-1500:] + (folder / "out").read_text()[-500:]
            return [f"the moment must come, got the end of the run with {process.returncode}: {said}"]
        took = ended - float(struck.read_text())
        limit = timeout + GRACE + slack
        wrong = [f"the job must end within {limit:g} s, got {took:.1f} s"] if took > limit else []
        wrong += [f"no process must be left, got {len(left)}"] if left else []
        if self.launcher == "fedmpi":
            rest = sorted(path.name for path in temporary.iterdir() if not path.name.startswith("torchinductor_"))
            wrong += [f"no temporary file must be left, got {rest}"] if rest else []
            wrong += [f"no shared memory must be left, got {one}" for one in memory if Path(one).exists()]

        return wrong + self.judge(process.returncode, (folder / "err").read_text(), out)

    def judge(self, code: int, err: str, out: Path) -> list[str]:
        """What is wrong with the exit code, the lines, the result and the files."""
        wrong = []
        lines = [line for line in err.splitlines() if line.startswith("fedmpi: error: ")]
        expected = 0 if self.goes_on else 4
        if (code != expected) if self.launcher == "fedmpi" else (bool(code) is not bool(expected) and expected):
            wrong.append(f"the exit code must be {expected}, got {code}")
        if len(lines) != (0 if self.goes_on else 1):
            wrong.append(f"there must be {0 if self.goes_on else 1} lines, got {lines or err[-800:]}")
        if "Traceback" in err:
            wrong.append(f"there must be no traceback, got {err[-1500:]}")
        who = (f"rank {self.role.rank}", f"dead: {self.role.rank}", f"frozen: {self.role.rank}")
        if not self.goes_on:
            told = any(word in line for line in lines for word in who)
            wrong += [] if told or not lines else [f"the line must name rank {self.role.rank}, got {lines}"]
        elif not (out / "result.json").exists():
            wrong.append(f"there must be a result, got none: {err[-800:]}")
        else:
            result = json.loads((out / "result.json").read_text())
            failures = json.dumps(result["failures"])
            woken = f"fedmpi: warning: rank {self.role.rank} ({self.role.name}) was stopped"  # a spare need not fail
            if not any(told in failures + err for told in (*who, f'"rank": {self.role.rank}', woken)):
                wrong.append(f"rank {self.role.rank} must be named, got {failures}")
        hidden = [path for path in out.rglob(".*") if path.is_file()] if out.exists() else []
        wrong += [f"no half file must be left, got {path.name}" for path in hidden]
        for path in out.rglob("*.npz") if out.exists() else ():
            if path.parent.name == "checkpoints" and not path.with_suffix(".npz.sha256").exists():
                wrong.append(f"checkpoints must have a digest, got {path.name} without")
        return wrong


def marked(mark: str) -> list[int]:
    """Processes of a case that have not ended."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                dead = (entry / "stat").read_text().rpartition(")")[2].split()[0] in "ZX"
                if not dead and f"{MARK}={mark}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


def memory_of(pid: int) -> set[str]:
    """Where a rank of `fedmpi run` shares memory."""
    with contextlib.suppress(OSError):
        for word in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            if word.startswith(b"OMPI_MCA_btl_sm_backing_directory=/dev/shm/"):
                return {word.partition(b"=")[2].decode()}
    return set()


def whole(system: str, kills: int, timeout: float, seed: int = 0) -> list[str]:
    """Kill a whole job again and again, and go on from what it left: what differs from a run that nobody disturbed."""
    played, mark, rng = SYSTEMS[system], uuid.uuid4().hex, random.Random(seed)
    # these two draw secrets anew, whose rounding, or noise, stays in the weights
    plain = {"spn": "fedavg", "pbpfl": "fedavg-mse"}
    methods = ["--method", plain[system]] if system in plain else []
    options = [*played.options, *methods, "--timeout", f"{timeout:g}", "--checkpoint-every", "1"]
    program = [sys.executable, "-m", "fedmpi.cli", "run", system, "-n", str(played.ranks), "--", *options, "--quiet"]
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        folder = Path(name)
        (folder / "tmp").mkdir()
        environment = {**os.environ, MARK: mark, "TMPDIR": str(folder / "tmp"), "OMP_NUM_THREADS": "1"}

        def begin(out: str) -> "subprocess.Popen[str]":
            auto = [*program, "--out", str(folder / out), "--resume", "auto"]
            pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
            return subprocess.Popen(auto, env=environment, cwd=folder, text=True, **pipes)  # type: ignore[call-overload]

        undisturbed = begin("undisturbed")
        begun = time.time()
        _, err = undisturbed.communicate()
        if undisturbed.returncode:
            return [f"the undisturbed run must end with 0, got {undisturbed.returncode}: {err[-500:]}"]
        lasts, done = time.time() - begun, 0
        while done < kills:
            if (folder / "killed" / "result.json").exists():  # killed when all was done: begun anew
                shutil.rmtree(folder / "killed")
            process = begin("killed")
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(rng.uniform(0.3, 1.0) * lasts)
            if process.poll() is not None and process.returncode:
                assert process.stderr is not None
                return [f"a run must go on after kill {done}, got {process.returncode}: {process.stderr.read()[-500:]}"]
            if process.poll() is not None:
                continue
            for pid in marked(mark):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.communicate()
            done += 1
        if (folder / "killed" / "result.json").exists():
            shutil.rmtree(folder / "killed")
        last = begin("killed")
        _, err = last.communicate()
        if last.returncode:
            return [f"the last run must end with 0, got {last.returncode}: {err[-500:]}"]
        wrong = []
        for one in sorted(folder.glob("undisturbed/model.[ns]*")):
            other = folder / "killed" / one.name
            if not other.exists() or other.read_bytes() != one.read_bytes():
                wrong.append(f"{one.name} must have the bits of the undisturbed run, got others")
        stale = [path.name for path in (folder / "killed").rglob(".*") if path.is_file()]
        return wrong + ([f"no stale file must be left, got {stale}"] if stale else [])


def cases() -> Iterator[Case]:
    """All of them."""
    for system, played in SYSTEMS.items():
        ways = itertools.product(played.roles, MOMENTS, ("kill", "freeze"), ("fedmpi", "mpirun"))
        for role, moment, fault, launcher in ways:
            yield Case(system, role, moment, fault, launcher)


def drawn(count: int, seed: int) -> list[Case]:
    """Some of those of which something is promised."""
    promised = [case for case in cases() if not case.unpromised]
    return random.Random(seed).sample(promised, count)


def main(argv: Sequence[str] | None = None) -> int:
    """Run cases, one line for each; the number of those in which something did not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draw", type=int, default=0, help="so many cases, drawn by --seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[], help="words that must be in the name of a case")
    parser.add_argument("--timeout", type=float, default=15.0, help="of every job: a start may take as long")
    parser.add_argument("--slack", type=float, default=0.0, help="seconds, where other work keeps the cores busy")
    parser.add_argument("--whole", type=int, default=0, help="kill a whole job so often in place of all that")
    asked = parser.parse_args(argv)
    if asked.whole:
        found = {name: whole(name, asked.whole, asked.timeout, asked.seed) for name in asked.only or SYSTEMS}
        for name, wrong in found.items():
            print(f"{'BAD' if wrong else 'ok '} {name}: {asked.whole} kills of the whole job  {'; '.join(wrong)}")
        return sum(map(bool, found.values()))
    chosen = drawn(asked.draw, asked.seed) if asked.draw else list(cases())
    chosen = [case for case in chosen if all(word in str(case).split() for word in asked.only)]
    bad = 0
    for case in chosen:
        if case.unpromised:
            print(f"-- {case}: {case.unpromised}", flush=True)
            continue
        begun = time.time()
        wrong = case.run(asked.timeout, asked.slack)
        bad += bool(wrong)
        verdict = "BAD" if wrong else "ok "
        print(f"{verdict} {case}: {time.time() - begun:.1f} s in all  {'; '.join(wrong)}", flush=True)
    print(f"{len(chosen)} cases, {bad} bad", flush=True)
    return bad


if __name__ == "__main__":
    sys.exit(min(main(), 125))
