"""A job while it runs: whether its ranks come up, the signals that are meant for it, its end, and its exit code."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from fedmpi.errors import PeerFailed
from fedmpi.machines.hosts import ranges
from fedmpi.net import job_folder

START_SECONDS = 180.0
"""How long the ranks may take to come up: fifty hosts that read Python from one file server take a minute."""

PATIENCE_SECONDS = 30.0
"""After so long a start people are told whom it waits for."""

END_SECONDS = 5.0
"""How long mpirun may go on when rank 0 has ended the job: it waits for ever for ranks that hang."""

STOPPED = 143
"""Exit code of a run that a signal has stopped."""

_LAST_WORDS_SECONDS = 2.0
"""A rank died during the start: so long mpirun may take to notice, and to say it in its own words."""

_HOST_FAILED = 255
"""Open MPI's exit code where it could not start, or has lost, its daemon on a host."""

_KILLED = 128
"""A larger exit code of mpirun says that a signal has ended a rank."""

_OURS = (2, 3, 4, 5, STOPPED)
"""Exit codes of a rank 0 that ends the job itself."""

_FROZEN = ("T", "t")
"""States of a process that is stopped, or traced."""

_RESUME = "--resume DIR goes on from the run's last checkpoint, where there is one"

_POLL_SECONDS = 0.1

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGQUIT)


class Job:
    """A job that mpirun runs.

    Parameters
    ----------
    folder : Path
        The job's, in which ranks of this machine report.
    ranks : int
    start_timeout : float
        Seconds until all ranks must have come up.
    blame : callable, optional
        Where ranks run on other machines too: what is wrong with one of these, in one line, or None.
    """

    def __init__(
        self, folder: Path, ranks: int, *, start_timeout: float, blame: Callable[[], str | None] | None = None
    ):
        self.folder, self.ranks, self.start_timeout = folder, ranks, start_timeout
        self.blame, self.local = blame or (lambda: None), blame is None
        self.received: list[int] = []
        self.complaint = ""
        """Why the job was ended by us, if it was."""
        self._mpirun: subprocess.Popen[bytes] | None = None
        self._seen: dict[int, int] = {}  # process → rank, of mpirun's children
        self._begun = time.monotonic()
        self._warned = self._up = False
        self._by_mpirun = False  # whether rank 0 got another signal than the one that we received
        self._dead_since = self._ending_since = float("inf")

    @contextlib.contextmanager
    def heeding_signals(self) -> Iterator[None]:
        """For the time of a block signals end the job in order. What is ignored, as with nohup, stays ignored."""
        heeded = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self._heed) for number in heeded}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _heed(self, number: int, _: object) -> None:
        self.received.append(number)
        job_folder.write_reason(self.folder, name_of(number))
        if self._mpirun is not None:
            self._pass_on(number, again=self.received.count(number) > 1)

    def _pass_on(self, number: int, *, again: bool) -> None:
        leader = job_folder.read_leader(self.folder)
        if not again and leader and leader.signal(signal.SIGUSR1 if number == signal.SIGUSR1 else signal.SIGTERM):
            return
        if not again and job_folder.is_up(self.folder) and not _has_rank_0(job_folder.read_begun(self.folder)):
            # Rank 0 is on another machine: mpirun brings this signal to all ranks, and others heed it nowhere.
            self._by_mpirun = True
            self._signal_mpirun(signal.SIGUSR1, group=False)
            return
        self._end()

    def _end(self) -> None:
        self._ending_since = min(self._ending_since, time.monotonic())
        self._signal_mpirun(signal.SIGTERM)

    def _signal_mpirun(self, number: int, *, group: bool = True) -> None:
        """Its whole group: of some MPIs it is a script, which leaves the job running where it ends alone."""
        if self._mpirun is not None and self._mpirun.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if group else os.kill)(self._mpirun.pid, number)

    def run(self, command: Sequence[str], environment: Mapping[str, str]) -> int:
        """Run mpirun to its end; the job's exit code."""
        with self.heeding_signals():
            self._mpirun = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                process_group=0,  # Ctrl-C is for the launcher alone
            )
            if self.received:
                self._pass_on(self.received[0], again=False)
            code = self._wait(self._mpirun)
            orphaned = self._end_orphans()
        return self._verdict(code, orphaned)

    def _wait(self, mpirun: subprocess.Popen[bytes]) -> int:
        """Wait for mpirun, but not long for one that does not end although the job has; its exit code."""
        while mpirun.poll() is None and job_folder.read_exit_code(self.folder) is None:
            if time.monotonic() - self._ending_since > END_SECONDS:
                break
            if not self._up:
                self._watch_start(mpirun.pid)
            time.sleep(_POLL_SECONDS)
        try:
            return mpirun.wait(0 if job_folder.read_exit_code(self.folder) is None else END_SECONDS)
        except subprocess.TimeoutExpired:
            for pid in children(mpirun.pid):  # ranks that hang, and ssh to hosts that do not answer
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._signal_mpirun(signal.SIGKILL)
        return mpirun.wait()

    def _watch_start(self, mpirun: int) -> None:
        now = time.monotonic()
        self._up = job_folder.is_up(self.folder)
        if self._up or self.complaint:
            return
        begun = job_folder.read_begun(self.folder)
        living = ranks_of(children(mpirun))
        self._seen |= living
        dead = {rank for pid, rank in self._seen.items() if pid not in living}
        dead |= _dead(begun)
        self._dead_since = min(self._dead_since, now) if dead else float("inf")
        late = now - self._begun > self.start_timeout and bool(self.local or begun)
        if not (late or now - self._dead_since > _LAST_WORDS_SECONDS):
            if now - self._begun > PATIENCE_SECONDS and not self._warned:
                self._warned = True
                say(f"waiting for all ranks to come up; {self._muster(begun, dead)}")
            return
        within = f" within {self.start_timeout:g} s (--start-timeout)" if late else ""
        self.complaint = f"all {self.ranks} ranks must come up{within}, got ranks {self._muster(begun, dead)}"
        self._end()

    def _muster(self, begun: Mapping[int, job_folder.Process], dead: set[int]) -> str:
        """Who is there and who is not, for people."""
        stopped = {rank for rank, process in begun.items() if process.state in _FROZEN} - dead
        stopped |= {rank for pid, rank in self._seen.items() if job_folder.state_of(pid) in _FROZEN} - dead
        up = begun.keys() - dead - stopped
        silent = set(range(self.ranks)) - up - dead - stopped
        nothing = "said nothing" if self.local else "said nothing, or run on other machines"
        groups = ((up, "up"), (dead, "dead"), (stopped, "frozen"), (silent, nothing))
        return "; ".join(f"{what}: {ranges(sorted(of))}" for of, what in groups if of)

    def _end_orphans(self) -> bool:
        """End ranks of this machine that run on although mpirun has ended; rank 0 may save its work first."""
        leader = job_folder.read_leader(self.folder)
        if leader and leader.state in _FROZEN and job_folder.read_exit_code(self.folder) is None:
            self.complaint = self.complaint or f"rank 0 must last as long as the job, got it frozen; {_RESUME}"
            leader.signal(signal.SIGKILL)
        orphaned = leader is not None and leader.signal(signal.SIGTERM)
        end = time.monotonic() + END_SECONDS
        while time.monotonic() < end and leader and leader.state and job_folder.read_exit_code(self.folder) is None:
            time.sleep(_POLL_SECONDS)
        for process in (*job_folder.read_begun(self.folder).values(), *([leader] if leader else [])):
            process.signal(signal.SIGKILL)
        return orphaned

    def _verdict(self, code: int, orphaned: bool) -> int:
        """The job's exit code, from what rank 0 and we know: mpirun's own differs from MPI to MPI."""
        said, begun, up = (
            job_folder.read_exit_code(self.folder),
            job_folder.read_begun(self.folder),
            job_folder.is_up(self.folder),
        )
        if self.complaint:
            return complain(self.complaint)
        if self._by_mpirun and code == 0 and said in (None, 0):
            return 0 if self.received[0] == signal.SIGUSR1 else STOPPED
        if said is not None:
            if said == STOPPED and not self.received and code > _KILLED and code != said:
                return complain(
                    "all ranks must last as long as the job, got the death of one, and mpirun ended the others"
                )
            return said
        if self.received:
            say(f"stopped by {name_of(self.received[0])}, before rank 0 could say how far it was")
            return 0 if self.received[0] == signal.SIGUSR1 and not up else STOPPED
        if orphaned:
            return complain(
                "mpirun must last as long as the job, "
                f"got its end with exit code {code}: it may have lost a host, or the ssh to it"
            )
        if not up and code == _HOST_FAILED and (blame := self.blame()):
            return complain(blame)
        if not code or not begun or (not _has_rank_0(begun) and code in _OURS):
            return code
        if not up:
            return complain(f"all {self.ranks} ranks must come up, got ranks {self._muster(begun, _dead(begun))}")
        return complain(
            "rank 0 must last as long as the job, got its end before it could say why: "
            f"it died, or another rank did and mpirun ended all (exit code {code}); {_RESUME}"
        )


def _has_rank_0(begun: Mapping[int, job_folder.Process]) -> bool:
    return 0 in begun and begun[0].is_here


def _dead(begun: Mapping[int, job_folder.Process]) -> set[int]:
    return {rank for rank, process in begun.items() if process.is_here and not process.state}


def name_of(number: int) -> str:
    """A signal, for people."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


def complain(line: str) -> int:
    """Print an error of the job; its exit code."""
    say(f"error: {line}")
    return PeerFailed.exit_code


def say(line: str) -> None:
    """Print a line for people, unless nobody is there: the terminal may have been closed."""
    with contextlib.suppress(OSError):
        print(f"fedmpi: {line}", file=sys.stderr, flush=True)


def ranks_of(processes: Sequence[int]) -> dict[int, int]:
    """Process → rank, of those that are ranks of Open MPI."""
    found = {}
    for pid in processes:
        with contextlib.suppress(OSError):  # it has ended
            for word in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                if word.startswith(b"OMPI_COMM_WORLD_RANK="):
                    found[pid] = int(word.partition(b"=")[2])
    return found


def children(parent: int) -> list[int]:
    """Process numbers of a process's children; none where the operating system has no /proc."""
    found = []
    for listed in Path("/proc").glob(f"{parent}/task/*/children"):
        with contextlib.suppress(OSError):  # it has ended
            found += [int(pid) for pid in listed.read_text().split()]
    return found
