"""`run`: a system on the ranks of this machine or of a cluster."""

import contextlib
import dataclasses
import sys
from collections.abc import Iterator
from typing import Annotated

import tyro

from fedmpi.cli.types import File, Text
from fedmpi.errors import UsageError
from fedmpi.machines.hosts import parse_places
from fedmpi.machines.launcher import run_ranks
from fedmpi.machines.schedulers import on_this_machine
from fedmpi.machines.supervision import START_SECONDS
from fedmpi.runs.commandline import read
from fedmpi.systems import find, program

VALUED = ("-n", "--ranks", "--hostfile", "--interface", "--cluster-key", "--place", "--start-timeout")
"""Options of `fedmpi run` itself that have a value."""
SWITCHES = (
    *(f"--{no}{name}" for name in ("tolerate-failures", "encrypt", "strict-placement") for no in ("", "no-")),
    "-h",
    "--help",
    "--help-all",
)
"""Those that have none."""


def run(words: list[str]) -> int:
    """What `fedmpi run` is told, with or without `--` before the options of the system."""
    own, options = arranged(words)
    asked = {*own, *options}
    system = own[0] if own and not own[0].startswith("-") else None
    if system is not None and asked & {"-h", "--help", "--help-all"}:
        from fedmpi.cli.options import show_help

        show_help(find(system), Run if "--help-all" in asked else None)
        return 0
    if system is not None and not any(word.partition("=")[0] in ("-n", "--ranks") for word in own):
        raise UsageError(f"-n must be the number of ranks, such as fedmpi run {find(system).name} -n 6, got none")
    return read(Run, own, "fedmpi run")(options)


def arranged(words: list[str]) -> tuple[list[str], list[str]]:
    """What is for `fedmpi run` itself, the system first, and the options of the system.

    What stands before `--` and is not known to `fedmpi run` is for the system too: a forgotten `--` is no mistake.
    """
    before, behind = words, list[str]()
    if "--" in words:
        before, behind = words[: words.index("--")], words[words.index("--") + 1 :]
    system, own, options = list[str](), list[str](), list[str]()
    left = iter(before)
    for word in left:
        flag = word.partition("=")[0].replace("_", "-")
        if flag in VALUED:
            own += [word] if "=" in word else [word, *([value] if (value := next(left, None)) is not None else [])]
        elif flag in SWITCHES:
            own.append(word)
        elif not system and not options and not word.startswith("-"):
            system.append(word)
        else:
            options.append(word)
    return [*system, *own], [*options, *behind]


@dataclasses.dataclass(frozen=True)
class Run:
    """Run a system on N ranks of this machine or of a cluster; options of the system stand behind `--`.

    Example: fedmpi run codedml -n 11 -- --dataset mnist --classes 4 9. Its options: fedmpi run codedml --help
    """

    system: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SYSTEM")]
    """The system to run: codedml, ppadmm, niss, pbpfl or spn, or one of another package."""
    ranks: Annotated[int, tyro.conf.arg(aliases=["-n"])]
    """Ranks. codedml: a master and N - 1 workers; ppadmm: two servers and N - 2 participants; niss: a server, a
    tracker and N - 2 hosts of clients; pbpfl, spn: a server and N - 1 hosts of clients."""
    hostfile: File = None
    """Hosts, one per line: `name slots=4`. Default: this machine alone, in a job of a scheduler its hosts."""
    interface: Text = None
    """The network between the hosts, where they have several: eth0, or 10.0.0.0/16. Default: what MPI chooses."""
    tolerate_failures: bool = True
    """Let the job outlive ranks that die, as long as its protocol can do without them (needs Open MPI 5)."""
    encrypt: bool = False
    """Encrypt and authenticate every link, under a key for this run that all hosts get by ssh."""
    cluster_key: File = None
    """Encrypt under this key, of `fedmpi keygen`. Default: one for this run, with --encrypt."""
    place: Annotated[str | None, tyro.conf.arg(metavar="ROLE=HOST,…", help_behavior_hint="")] = None
    """Hosts for named roles, or for ranks: master=hostA,7=hostB. The others fill the
    hosts in their order. Default: all do."""
    start_timeout: float = START_SECONDS
    """Seconds until all ranks must have come up."""
    strict_placement: bool = False
    """Refuse to run where ranks that must not collude share a machine, instead of a warning."""

    def __call__(self, options: list[str]) -> int:
        """Check what can be checked at once, and start mpirun."""
        system = find(self.system)
        places = parse_places(self.place, system.named_ranks) if self.place else None
        strict = ["--strict-placement"] if self.strict_placement else []
        encrypted = self.encrypt or self.cluster_key is not None
        key = ["--encrypt", "--cluster-key", str(self.cluster_key or "of this run")] if encrypted else []
        system.foresee([*key, *options, *strict], self.ranks, here=self.hostfile is None and on_this_machine())
        with self.key_options() as own:
            return run_ranks(
                self.ranks,
                [sys.executable, "-m", program(self.system), *own, *options, *strict],
                self.hostfile,
                interface=self.interface,
                tolerate_failures=self.tolerate_failures,
                places=places,
                start_timeout=self.start_timeout,
            )

    @contextlib.contextmanager
    def key_options(self) -> Iterator[list[str]]:
        """What tells the ranks where the cluster key is, while it is there."""
        if not self.encrypt and self.cluster_key is None:
            yield []
            return
        from fedmpi.machines.key_distribution import distributed_key

        with distributed_key(self.cluster_key, self.hostfile) as path:
            yield ["--encrypt", "--cluster-key", str(path)]
