"""How runs end on several MPIs, as a table: ``python tests/machines/matrix.py``, with ``--mpi mpich`` on one.

Each cell is a run as users start it. It must end with the exit code that docs promise, with at most one line of ours,
and leave no process, no file in the temporary folder and none in /dev/shm, which is the cell's own for root.
"""

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # of a program the folder of tests is not on the path
from machines.trial import WHEELS, Ended, Here, Hosts, Mpi, Place, Run, installed, tried

TRAIN = ["-K", "1", "-T", "1", "--paper", "--no-compare", "--timeout", "20", "--quiet"]  # codedml with R = 4
SHORT = [*TRAIN, "--iterations", "3"]
LONG = [*TRAIN, "--iterations", "100000"]
SPARE = [*TRAIN, "--iterations", "60", "--inject", ",".join(f"slow={rank}:0.05s" for rank in range(1, 6))]
SYSTEMS = {
    "codedml": (5, SHORT),
    "ppadmm": (4, ["--iterations", "1", "--quiet"]),
    "niss": (4, ["--rounds", "1", "--quiet"]),
    "pbpfl": (3, ["--rounds", "1", "--quiet"]),
    "spn": (3, ["--rounds", "1", "--model", "mlp", "--quiet"]),
}
LARGE = """
import sys
from fedmpi.net import Message, UInt32
from fedmpi.net.mpi import job
import numpy as np

class Words(Message, tag=1):
    words: UInt32

with job() as ch:
    if ch.rank:
        ch.send(0, Words(np.full(25_000_000, ch.rank, np.uint32)))
    else:
        for rank in (1, 2):
            assert (ch.recv(rank, Words).words == rank).all()
        print("all 100 MB of both")
"""


@dataclass(frozen=True)
class Cell:
    """A line of the table."""

    name: str
    run: Callable[[Mpi, Place], Ended]
    codes: tuple[int, ...] = (0,)
    says: str = ""
    """What the one line has in it; empty: there is none."""
    check: Callable[[Mpi, Ended], str] = lambda mpi, ended: ""
    """What is wrong besides."""
    where: type[Place] = Here
    survives: bool = False
    """Whether the run ends well, without a line, where the MPI lets a job outlive its dead."""

    def judge(self, mpi: Mpi, place: Place) -> tuple[bool, str]:
        """Whether all is as it must be, and what stands in the table."""
        ended = self.run(mpi, place)
        survived = self.survives and ended.code == 0 and "Open MPI v5" in mpi.version
        done = ended.code == 0 and len(self.codes) > 1  # too late to be stopped
        wrong = [] if ended.code in self.codes or survived else [f"exit code {ended.code}"]
        wanted = self.says if not (survived or done) else ""
        if len(ended.said) != bool(wanted) or wanted not in "".join(ended.said):
            wrong.append(f"said {ended.said}")
        wrong += [
            f"{what} left: {left}" for what, left in (("process", ended.processes), ("file", ended.files)) if left
        ]
        wrong += ["a traceback"] if "Traceback" in ended.err else []
        if not wrong and (more := self.check(mpi, ended)):
            wrong.append(more)
        if wrong:
            print(ended.out[-1500:], ended.err[-3000:], sep="\n", file=sys.stderr)
        code = "killed" if ended.code < 0 else str(ended.code)
        return not wrong, "; ".join(wrong) or code


def system(name: str, *own: str, then: Callable[[Run], None] = lambda run: None) -> Callable[[Mpi, Place], Ended]:
    """A short run of a system."""
    ranks, options = SYSTEMS[name]

    def run(mpi: Mpi, place: Place) -> Ended:
        return tried(mpi, place, [name, "-n", str(ranks), *own, "--", *options], then)

    return run


def codedml(
    options: Sequence[str], then: Callable[[Run], None], *own: str, ranks: int = 5
) -> Callable[[Mpi, Place], Ended]:
    """A run of codedml to which something is done."""
    return lambda mpi, place: tried(mpi, place, ["codedml", "-n", str(ranks), *own, "--", *options], then)


def hit(number: int, when: Callable[[Run], None], who: Callable[[Run], int] = Run.launcher, twice: bool = False) -> Any:
    """A signal to a process of a run, at some moment."""

    def then(run: Run) -> None:
        when(run)
        with contextlib.suppress(ProcessLookupError, ValueError):  # it has ended
            os.kill(pid := who(run), number)
            if twice:
                time.sleep(0.1)
                os.kill(pid, number)

    return then


def placed(options: Sequence[str], place_of_master: str, then: Any = lambda run: None) -> Callable[[Mpi, Place], Ended]:
    """Two hosts, in a hostfile as people write them."""

    def run(mpi: Mpi, place: Place) -> Ended:
        with tempfile.NamedTemporaryFile("w", prefix="hosts-", newline="") as file:
            file.write("# ours\r\nhost1:3\r\nhost2 slots=3\r\n")
            file.flush()
            own = ["-n", "5", "--hostfile", file.name, "--interface", "eth0", "--place", f"master={place_of_master}"]
            return tried(mpi, place, ["codedml", *own, "--", *options], then)

    return run


def on_two_hosts(mpi: Mpi, ended: Ended) -> str:
    """Whether both hosts had ranks."""
    hosts = ended.result["environment"]["hosts"]
    return "" if sorted(hosts) == ["host1", "host2"] else f"ranks on {hosts}"


def encrypted(mpi: Mpi, ended: Ended) -> str:
    """Whether links were."""
    said = ended.result["environment"]["mpi"]
    return "" if said.endswith("encrypted") else f"MPI is {said}"


def lost(mpi: Mpi, ended: Ended) -> str:
    """Whether a run that outlived a rank says so."""
    if ended.code:
        return ""
    ranks = [failure["rank"] for failure in ended.result["failures"]]
    return "" if ranks == [5] else f"failures {ranks}"


def has_checkpoint(mpi: Mpi, ended: Ended) -> str:
    """Whether a run can go on."""
    return "" if any((ended.folder / "checkpoints").glob("*.npz")) else "no checkpoint"


def large(mpi: Mpi, place: Place) -> Ended:
    """Messages of 100 MB, from two ranks at once."""
    return tried(mpi, place, ["-c", LARGE], system=False)


def arrived(mpi: Mpi, ended: Ended) -> str:
    """Whether they have."""
    return "" if "all 100 MB of both" in ended.out else "not all of it arrived"


TRAINS, FREEZE = Run.trains, signal.SIGSTOP
STOPPED = "stopped by"
CELLS = [
    *(Cell(f"{name} trains", system(name)) for name in SYSTEMS),
    Cell(
        "a spare worker killed",
        codedml(SPARE, hit(9, TRAINS, lambda run: run.rank(5)), ranks=6),
        (4,),
        "must last",
        lost,
        survives=True,
    ),
    Cell("a needed worker killed", codedml(LONG, hit(9, TRAINS, lambda run: run.rank(2))), (3, 4), "must"),
    Cell("a spare worker stopped", codedml(SPARE, hit(FREEZE, TRAINS, lambda run: run.rank(5)), ranks=6)),
    Cell(
        "a needed worker stopped",
        codedml([*LONG, "--timeout", "4"], hit(FREEZE, TRAINS, lambda run: run.rank(2))),
        (3,),
        "must come from",
        has_checkpoint,
    ),
    Cell(
        "rank 0 killed",
        codedml(LONG, hit(9, TRAINS, lambda run: run.rank(0))),
        (4,),
        "rank 0 must last as long as the job",
    ),
    Cell("mpirun killed", codedml(LONG, hit(9, TRAINS, Run.mpirun)), (4,), "mpirun"),
    Cell("`fedmpi run` killed", codedml(LONG, hit(9, TRAINS)), (-9,), STOPPED, has_checkpoint),
    Cell("Ctrl-C", codedml(LONG, hit(signal.SIGINT, TRAINS)), (143,), "stopped by Ctrl-C", has_checkpoint),
    Cell("Ctrl-C twice", codedml(LONG, hit(signal.SIGINT, TRAINS, twice=True)), (143,), "stopped by Ctrl-C"),
    Cell("Ctrl-C, early", codedml(LONG, hit(signal.SIGINT, Run.starts)), (143,), "stopped by Ctrl-C"),
    Cell("Ctrl-C, late", codedml(SHORT, hit(signal.SIGINT, Run.is_saved)), (0, 143), STOPPED),
    Cell("SIGTERM", codedml(LONG, hit(signal.SIGTERM, TRAINS)), (143,), "stopped by SIGTERM", has_checkpoint),
    Cell("SIGUSR1", codedml(LONG, hit(signal.SIGUSR1, TRAINS)), (0,), STOPPED, has_checkpoint),
    Cell("`--encrypt`", system("codedml", "--encrypt"), check=encrypted),
    Cell("messages of 100 MB", large, check=arrived),
    Cell("bad input, seen at once", codedml([*SHORT, "--dataset", "/no/such.csv"], lambda run: None), (2,), "must"),
    Cell(
        "bad input, seen by rank 0", placed([*SHORT, "--dataset", "/no/such.csv"], "host2"), (2,), "must", where=Hosts
    ),
    Cell("hostfile, rank 0 here", placed(SHORT, "host1"), check=on_two_hosts, where=Hosts),
    Cell("hostfile, rank 0 on the other host", placed(SHORT, "host2"), check=on_two_hosts, where=Hosts),
    Cell(
        "Ctrl-C, rank 0 on the other host",
        placed(LONG, "host2", hit(signal.SIGINT, TRAINS)),
        (143,),
        STOPPED,
        has_checkpoint,
        where=Hosts,
    ),
]


def table(mpis: Sequence[Mpi], rows: dict[str, dict[str, tuple[bool, str]]]) -> str:
    """The Markdown of all cells."""
    lines = [f"| | {' | '.join(mpi.version for mpi in mpis)} |", "| --- |" + " --- |" * len(mpis)]
    for name, row in rows.items():
        texts = [text if ok else f"**{text.replace('|', '/')}**" for ok, text in (row[mpi.name] for mpi in mpis)]
        lines.append(f"| {name} | {' | '.join(texts)} |")
    return "\n".join(lines) + "\n"


def tried_cells(mpis: Sequence[Mpi], cells: Sequence[Cell]) -> dict[str, dict[str, tuple[bool, str]]]:
    """Cell → MPI → whether it is as it must be, and its text."""
    rows: dict[str, dict[str, tuple[bool, str]]] = {cell.name: {} for cell in cells}
    for mpi in mpis:
        for kind in (Here, Hosts):
            if chosen := [cell for cell in cells if cell.where is kind]:
                with kind() as place:
                    for cell in chosen:
                        begun = time.monotonic()
                        rows[cell.name][mpi.name] = found = cell.judge(mpi, place)
                        seconds = time.monotonic() - begun
                        print(f"{mpi.name:8} {cell.name:35} {seconds:5.1f} s  {found[1]}", file=sys.stderr, flush=True)
    return rows


def main() -> int:
    """Make the table."""
    parser = argparse.ArgumentParser(prog="matrix.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--mpi", default=",".join(WHEELS), help=f"{', '.join(WHEELS)}, or an MPI's prefix")
    parser.add_argument("--cells", default="", help="only those with one of these words in their names, by commas")
    parser.add_argument(
        "--envs", type=Path, help="where environments with the wheels are, or will be. Default: made anew"
    )
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # runs of a shell's background job would ignore Ctrl-C
    words = options.cells.split(",")
    cells = [cell for cell in CELLS if any(word in cell.name for word in words)]
    with contextlib.ExitStack() as stack:
        folder = options.envs or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="matrix-envs-")))
        mpis = [installed(name, folder / Path(name).name) for name in options.mpi.split(",")]
        rows = tried_cells(mpis, cells)
    print(table(mpis, rows), end="")
    return int(not all(ok for row in rows.values() for ok, _ in row.values()))


if __name__ == "__main__":
    sys.exit(main())
