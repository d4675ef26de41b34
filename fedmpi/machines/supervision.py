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
from fedmpi.machines.guard import MEMORY, guarded
from fedmpi.machines.hosts import ranges
from fedmpi.machines.srun import NAME as SRUN
from fedmpi.net import job_folder
from fedmpi.net.job_folder import FROZEN, RESUME
from fedmpi.net.siblings import children, ranks_of
from fedmpi.rules import printable

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

_OURS = (2, 3, 4, 5, STOPPED)
"""Exit codes of a rank 0 that ends the job itself."""

_POLL_SECONDS = 0.1

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGQUIT)


@contextlib.contextmanager
def leaving_in_order() -> Iterator[None]:
    """For the time of a block signals that end a process at once do so by an exception: its folders are removed."""

    def leave(number: int, _: object) -> None:
        say(f"stopped by {name_of(number)}, before a rank was started")
        raise SystemExit(STOPPED)

    with _handled((signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT), leave):
        yield


@contextlib.contextmanager
def _handled(numbers: Sequence[int], handler: Callable[[int, object], None]) -> Iterator[None]:
    """What is ignored, as with nohup, stays ignored."""
    heeded = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heeded}
    try:
        yield
    finally:
        for number, last in before.items():
            signal.signal(number, last)


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
    folders : sequence of Path
        Others that go with the job's.
    """

    def __init__(
        self,
        folder: Path,
        ranks: int,
        *,
        start_timeout: float,
        blame: Callable[[], str | None] | None = None,
        folders: Sequence[Path] = (),
    ):
        self.folders = [folder, *folders]
        self.folder, self.ranks, self.start_timeout = folder, ranks, start_timeout
        self.blame, self.local = blame or (lambda: None), blame is None
        self.received: list[int] = []
        self.complaint = ""
        """Why the job was ended by us, if it was."""
        self._mpirun: subprocess.Popen[bytes] | None = None
        self._starter = "mpirun"
        self._seen: dict[int, int] = {}  # process → rank, of mpirun's children
        self._memory: set[Path] = set()
        self._begun = time.monotonic()
        self._warned = self._up = self._has_word = False
        self._by_mpirun = False  # whether rank 0 got another signal than the one that we received
        self._dead_since = self._ending_since = self._frozen_since = float("inf")

    @contextlib.contextmanager
    def heeding_signals(self) -> Iterator[None]:
        """For the time of a block signals end the job in order."""
        with _handled(_SIGNALS, self._heed):
            yield

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
        self._has_word = self._has_word or bool(self.received and job_folder.take_word(self.folder))
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
            self._starter = SRUN if Path(command[0]).name == SRUN else self._starter
            self._mpirun = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                process_group=0,  # Ctrl-C is for the launcher alone
            )
            with guarded(self._mpirun.pid, self.folders):
                if self.received:
                    self._pass_on(self.received[0], again=False)
                code = self._wait(self._mpirun)
                orphaned = self._end_orphans(self._mpirun.pid)
            self._free_memory()
        return self._verdict(code, orphaned)

    def _wait(self, mpirun: subprocess.Popen[bytes]) -> int:
        """Wait for mpirun, but not long for one that does not end although the job has; its exit code."""
        while mpirun.poll() is None and job_folder.read_exit_code(self.folder) is None:
            if time.monotonic() - self._ending_since > END_SECONDS:
                break
            if not self._up:
                self._watch_start(mpirun.pid)
                self._note_memory()
            else:
                self._watch_leader()
            time.sleep(_POLL_SECONDS)
        try:
            return mpirun.wait(0 if job_folder.read_exit_code(self.folder) is None else END_SECONDS)
        except subprocess.TimeoutExpired:
            for pid in children(mpirun.pid):  # ranks that hang, and ssh to hosts that do not answer
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._signal_mpirun(signal.SIGKILL)
        return mpirun.wait()

    def _note_memory(self) -> None:
        """Remember a file of memory that the ranks of this machine share: of killed ones MPICH's and Intel's stay."""
        begun = [process.number for process in job_folder.read_begun(self.folder).values() if process.is_here]
        found = {path for pid in begun[:1] for path in shared_memory_of(pid)} - self._memory
        if found:
            self._memory |= found
            (self.folder / MEMORY).write_text("".join(f"{path}\n" for path in self._memory))

    def _free_memory(self) -> None:
        for path in self._memory:
            path.unlink(missing_ok=True)

    def _watch_start(self, mpirun: int) -> None:
        now = time.monotonic()
        self._up = job_folder.is_up(self.folder)
        if self._up or self._ending_since < float("inf"):  # ranks that we end need not come up
            return
        begun = job_folder.read_begun(self.folder)
        living = ranks_of(children(mpirun), inherited=os.environ)
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

    def _watch_leader(self) -> None:
        """End the job once rank 0 has been stopped for as long as ranks wait for one another, and others were not."""
        leader, begun = job_folder.read_leader(self.folder), job_folder.read_begun(self.folder)
        others = [process.state for rank, process in begun.items() if rank and process.is_here]
        paused = bool(others) and all(state in FROZEN for state in others)
        if leader is None or leader.state not in FROZEN or paused:
            self._frozen_since = float("inf")
            return
        self._frozen_since = min(self._frozen_since, time.monotonic())
        patience = job_folder.read_patience(self.folder)
        if time.monotonic() - self._frozen_since > patience and not self.complaint:
            self.complaint = f"rank 0 must last as long as the job, got it frozen for {patience:g} s; {RESUME}"
            leader.signal(signal.SIGKILL)
            self._end()

    def _muster(self, begun: Mapping[int, job_folder.Process], dead: set[int]) -> str:
        """Who is there and who is not, for people."""
        stopped = {rank for rank, process in begun.items() if process.state in FROZEN} - dead
        stopped |= {rank for pid, rank in self._seen.items() if job_folder.state_of(pid) in FROZEN} - dead
        up = begun.keys() - dead - stopped
        silent = set(range(self.ranks)) - up - dead - stopped
        nothing = "said nothing" if self.local else "said nothing, or run on other machines"
        groups = ((up, "up"), (dead, "dead"), (stopped, "frozen"), (silent, nothing))
        return "; ".join(f"{what}: {ranges(sorted(of))}" for of, what in groups if of)

    def _end_orphans(self, mpirun: int) -> bool:
        """End ranks of this machine that run on although mpirun has ended; rank 0 may save its work first."""
        leader = job_folder.read_leader(self.folder)
        if leader and leader.state in FROZEN and job_folder.read_exit_code(self.folder) is None:
            self.complaint = self.complaint or f"rank 0 must last as long as the job, got it frozen; {RESUME}"
            leader.signal(signal.SIGKILL)
        if not self.received:
            job_folder.write_reason(self.folder, "the end of mpirun")
        orphaned = leader is not None and leader.signal(signal.SIGTERM)
        end = time.monotonic() + END_SECONDS
        while time.monotonic() < end and leader and leader.state and job_folder.read_exit_code(self.folder) is None:
            time.sleep(_POLL_SECONDS)
        for process in (*job_folder.read_begun(self.folder).values(), *([leader] if leader else [])):
            process.signal(signal.SIGKILL)
        with contextlib.suppress(OSError):  # nothing is left of the group
            os.killpg(mpirun, signal.SIGKILL)
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
        if self._has_word or (said is None and self.received and job_folder.take_word(self.folder)):
            say(f"stopped by {name_of(self.received[0])}, before rank 0 could say how far it was")
        if said is not None and orphaned and not self.received and not job_folder.take_word(self.folder):
            return PeerFailed.exit_code if said == STOPPED else said  # rank 0 has told it
        if said is not None:
            return said
        if self.received:
            return 0 if self.received[0] == signal.SIGUSR1 and not up else STOPPED
        if orphaned or code < 0:
            return complain(
                f"{self._starter} must last as long as the job, got its end {_by(code)}: "
                "it may have lost a host, or the ssh to it"
            )
        if not up and code == _HOST_FAILED and (blame := self.blame()):
            return complain(blame)
        if not code or not begun or (not _has_rank_0(begun) and code in _OURS):
            return code
        if not up:
            return complain(f"all {self.ranks} ranks must come up, got ranks {self._muster(begun, _dead(begun))}")
        return complain(
            "rank 0 must last as long as the job, got its end before it could say why: "
            f"it died, or another rank did and {self._starter} ended all (exit code {code}); {RESUME}"
        )


def _by(code: int) -> str:
    return f"with exit code {code}" if code >= 0 else f"by {name_of(-code)}"


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
        print(f"fedmpi: {printable(line, 4000)}", file=sys.stderr, flush=True)


def shared_memory_of(pid: int) -> set[Path]:
    """Files of memory that a process shares with others; none where the operating system has no /proc."""
    with contextlib.suppress(OSError):  # it has ended
        names = (line.rpartition(" ")[2] for line in Path(f"/proc/{pid}/maps").read_text().splitlines())
        return {Path(name) for name in names if name.startswith("/dev/shm/")}
    return set()
