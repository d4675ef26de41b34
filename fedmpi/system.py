"""The record that a system fills, and the life of its ranks: what the programs of all systems begin and end with.

`System` is what fedmpi knows of a system from outside: its name, its roles, and where the code of each lies. What rank
0 does in a run of it is a `Training` (training.py). A rank that follows loads nothing of that.
"""

import importlib
import importlib.util
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from fedmpi.errors import UsageError
from fedmpi.rules import printable_lines

if TYPE_CHECKING:
    from fedmpi.net import Channel
    from fedmpi.runs.hooks import Hooks
    from fedmpi.runs.job import Parameters
    from fedmpi.runs.options import RunOptions
    from fedmpi.runs.own_options import OwnOptions

P = TypeVar("P", bound="Parameters")


@dataclass(frozen=True)
class System:
    """All that the rest of fedmpi knows of a system.

    Code is named as ``module:attribute``, and imported when a rank needs it.
    """

    name: str
    """Of its package, and on the command line."""
    description: str
    """For --help."""
    roles: tuple[str, ...]
    """In the order of the ranks: each has one rank, and the last one all that are left."""
    training: str
    """A `fedmpi.training.Training`: what rank 0 does."""
    serve: str
    """(channel, own options) → None: what every other rank does, until rank 0 sends it home."""
    places: tuple[str, ...] = ()
    """What `fedmpi run --place` calls the roles of one rank. Default: as they are called here."""
    apart: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """Ranks that must not share a machine, and what they are, for people."""
    packages: tuple[str, ...] = ()
    """Packages beside numpy that rank 0 needs, and the ranks of the last role."""
    learns: Mapping[str, str] = field(default_factory=dict)
    """Method → who learns what, in a sentence or two for people; {N} stands for the run's parameter of that name,
    {N|text} for that or a text where it has none."""
    unsafe: Mapping[str, str] = field(default_factory=dict)
    """Option that takes the protection away, where it is set → what is said in place of `learns`."""
    plain: str = ""
    """The method that is the same without protection, where a run does not measure that itself."""
    parameters: str = ""
    """The options that this system alone has: a dataclass. Default: `Training.parameters`."""
    check: str = "fedmpi.system:check_common"
    """(`Asked`) → None: raises UsageError for combinations of options that the system does not have."""
    takes_own_rows: bool = False
    """Whether rows may lie apart (--own-rows)."""
    no_class_weight: str = ""
    """Why --class-weight can't be had, for people."""

    def who_learns(self, method: str, params: Mapping[str, Any]) -> str:
        """Who learns what in a run of a method, with the parameters of its result.json; empty where nothing is said."""

        def value(name: re.Match[str]) -> str:
            given = params.get(name[1], name[2])
            return "several" if given is None else f"{given:g}" if isinstance(given, float) else str(given)

        said = next((text for name, text in self.unsafe.items() if params.get(name)), self.learns.get(method, ""))
        return re.sub(r"{(\w+)(?:\|([^}]*))?}", value, said)

    @property
    def named_ranks(self) -> dict[str, int]:
        """The ranks that have a name, for --place."""
        return {name: rank for rank, name in enumerate(self.places or self.roles[:-1])}

    def role_of(self, rank: int) -> str:
        """What a rank does, for people."""
        return self.roles[min(rank, len(self.roles) - 1)].replace("_", " ")

    def ranks_of_roles(self, ranks: int) -> dict[str, int]:
        """Role → how many of so many ranks have it, in the order of the ranks."""
        return {**dict.fromkeys(self.roles[:-1], 1), self.roles[-1]: ranks - len(self.roles) + 1}

    def read(self, argv: list[str]) -> "tuple[Any, RunOptions]":
        """The system's parameters and the run's options, of a command line."""
        from fedmpi.runs.options import parse

        return parse(self.options(), argv, f"fedmpi run {self.name}", self.description)

    def options(self) -> type[Any]:
        """The dataclass of the options that this system alone has."""
        kind: type[Any] = named(self.parameters) if self.parameters else named(self.training).parameters
        return kind

    def foresee(self, argv: list[str], ranks: int, *, here: bool) -> None:
        """Refuse what can be refused before any rank starts, and without what computes.

        Parameters
        ----------
        argv : list of str
        ranks : int
        here : bool
            Whether rank 0 will run on this machine: only then are its files looked for.

        Raises
        ------
        UsageError, FilesError
        """
        if here:
            require(self.name, *self.packages)
        elif any(word.partition("=")[0] in ("--config", "--resume") for word in argv):
            return
        params, options = self.read(argv)
        named(self.check)(Asked(self, params, options, ranks, argv, here))
        if here:
            from fedmpi.runs.foresight import check_device, check_files

            check_files(options, group_column=getattr(params, "split_by", None))
            check_device(getattr(params, "device", "cpu"))

    def lead(self, ch: "Channel", argv: list[str], hooks: "Hooks | None" = None) -> None:
        """Rank 0: one training as the command line says, with the other ranks of a channel."""
        require(self.name, *self.packages)
        from fedmpi.net.job_folder import write_patience
        from fedmpi.runs.environment import process_age_seconds

        startup_seconds, make = process_age_seconds(), named(self.training)
        params, options = self.read(argv)
        ch.timeout_seconds = options.timeout
        write_patience(options.timeout)
        training = make(self, ch, params, options)
        training.hooks = hooks or training.hooks
        training.check(argv)
        training.load()
        if options.dry_run:
            print(printable_lines("\n".join([*training.heading(), *training.plan()])))
        else:
            try:
                training.run(0.0 if training.hooks.threads else startup_seconds)  # a notebook is as old as it is
            finally:
                training.release()
        training.dismiss()

    def follow(self, ch: "Channel", own: "OwnOptions") -> None:
        """Any other rank."""
        named(self.serve)(ch, own)

    def play(
        self,
        ch: "Channel",
        argv: list[str] | None = None,
        hooks: "Hooks | None" = None,
        heed: "Callable[[], None] | None" = None,
    ) -> None:
        """Rank 0 leads, and heeds signals; all others follow it. What a rank received is written, if it was told to.

        A signal that is sent to the job reaches every rank: the leader alone decides what becomes of it. `heed` is of
        `heed_signals`, where that was called earlier.
        """
        from fedmpi.runs.own_options import own_options

        argv = sys.argv[1:] if argv is None else argv
        own = own_options(argv)
        views = None if own.dry_run else own.views
        ch.record_views = views is not None
        if ch.rank == 0:
            from fedmpi.net.job_folder import write_leader
            from fedmpi.runs.interruption import heed_signals
            from fedmpi.runs.progress import end_live_line

            ch.on_pause = heed or heed_signals()
            write_leader()
            try:
                self.lead(ch, argv, hooks)
            finally:
                end_live_line()  # of a run that an error or a signal ends
        else:
            for number in (signal.SIGTERM, signal.SIGUSR1):
                signal.signal(number, signal.SIG_IGN)
            ch.leader_seconds = own.timeout or ch.leader_seconds
            self.follow(ch, own)
        if views is not None:
            ch.save_views(views)

    def on_threads(
        self,
        ranks: int,
        argv: "Sequence[object]",
        timeout_seconds: float = 600.0,
        hooks: "Hooks | None" = None,
    ) -> None:
        """A run in threads of this process in place of ranks; no views are written."""
        from fedmpi.net import run_local
        from fedmpi.runs.own_options import own_options

        words = [str(word) for word in argv]
        own = own_options(words)
        followers = [lambda ch: self.follow(ch, own)] * (ranks - 1)
        lead = lambda ch: self.lead(ch, words, hooks)  # noqa: E731
        run_local([lead, *followers], timeout_seconds=timeout_seconds, role_of=self.role_of)

    def main(self) -> None:
        """``mpirun -n N python -m fedmpi.NAME``: map each rank to its role."""
        from fedmpi.runs.interruption import heed_signals

        heed = heed_signals()  # before MPI starts, and takes its time
        from fedmpi.machines.encryption import encryption
        from fedmpi.machines.placement import confirm_places
        from fedmpi.net.mpi import job

        with job(role_of=self.role_of, wrap=encryption(sys.argv[1:])) as channel:
            confirm_places(channel)
            self.play(channel, heed=heed)


@dataclass(frozen=True)
class Asked(Generic[P]):
    """A command line that was read, and what it is for."""

    system: System
    params: P
    options: "RunOptions"
    ranks: int
    argv: list[str]
    here: bool = True
    """Whether rank 0 is on this machine: only then are its files looked at."""


def check_common(asked: Asked[Any]) -> None:
    """What all systems refuse.

    Raises
    ------
    UsageError
    """
    system, params, options = asked.system, asked.params, asked.options
    if options.schema is not None and not system.takes_own_rows:
        raise UsageError(f"--schema must not be given with {system.name}, which has all rows, got {options.schema}")
    options.check_own(asked.argv, getattr(params, "model", ""))
    if options.class_weight and system.no_class_weight:
        raise UsageError(f"--class-weight must not be given: {system.name} {system.no_class_weight}")
    if options.inject:
        instead = "--dropout" if hasattr(params, "dropout") else "no faults on purpose"
        raise UsageError(f"--inject must not be given: {system.name} has {instead}, got {options.inject}")


def named(code: str) -> Any:
    """What ``module:attribute`` names."""
    module, _, attribute = code.partition(":")
    return getattr(importlib.import_module(module), attribute)


def require(system: str, *packages: str) -> None:
    """Raise UsageError where a package that a system needs is missing."""
    for name in packages:
        if importlib.util.find_spec(name) is None:
            raise UsageError(f'{name} must be installed for {system}: pip install "fedmpi[torch]"')
