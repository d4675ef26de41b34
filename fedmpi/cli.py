"""The `fedmpi` command."""

import contextlib
import dataclasses
import json as json_format
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from fedmpi.errors import FedmpiError, UsageError
from fedmpi.hosts import parse_places
from fedmpi.launcher import run_ranks

SYSTEMS = ("codedml", "ppadmm", "niss", "pbpfl", "spn")


@dataclasses.dataclass(frozen=True)
class Run:
    """Run a system on N ranks of this machine or of a cluster; options of the system stand behind `--`.

    Example: fedmpi run codedml -n 11 -- --dataset mnist --classes 4 9
    """

    system: tyro.conf.Positional[Literal["codedml", "ppadmm", "niss", "pbpfl", "spn"]]
    """The system to run."""
    ranks: Annotated[int, tyro.conf.arg(aliases=["-n"])]
    """Ranks. codedml: a master and N - 1 workers; ppadmm: two servers and N - 2 participants; niss: a server, a
    tracker and N - 2 hosts of clients; pbpfl, spn: a server and N - 1 hosts of clients."""
    hostfile: Path | None = None
    """Hosts, one per line: `name slots=4`."""
    interface: str | None = None
    """The network between the hosts, where they have several: eth0, or 10.0.0.0/16."""
    tolerate_failures: bool = True
    """Let the job outlive ranks that die, as long as its protocol can do without them (needs Open MPI 5)."""
    encrypt: bool = False
    """Encrypt and authenticate every link, under a key for this run that all hosts get by ssh."""
    cluster_key: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Encrypt under this key, of `fedmpi keygen`, instead."""
    place: Annotated[str | None, tyro.conf.arg(metavar="ROLE=HOST,…")] = None
    """Hosts for named roles, or for ranks: master=hostA,7=hostB. The others fill the hosts in their order."""
    strict_placement: bool = False
    """Refuse to run where ranks that must not collude share a machine, instead of a warning."""

    def __call__(self, options: list[str]) -> int:
        """Start mpirun."""
        roles = getattr(import_module(f"fedmpi.{self.system}"), "ROLES", {})
        strict = ["--strict-placement"] if self.strict_placement else []
        with self.key_options() as own:
            return run_ranks(
                self.ranks,
                [sys.executable, "-m", f"fedmpi.{self.system}", *own, *options, *strict],
                self.hostfile,
                interface=self.interface,
                tolerate_failures=self.tolerate_failures,
                places=parse_places(self.place, roles) if self.place else None,
            )

    @contextlib.contextmanager
    def key_options(self) -> Iterator[list[str]]:
        """What tells the ranks where the cluster key is, while it is there."""
        if not self.encrypt and self.cluster_key is None:
            yield []
            return
        from fedmpi.key_distribution import distributed_key

        with distributed_key(self.cluster_key, self.hostfile) as path:
            yield ["--encrypt", "--cluster-key", str(path)]


@dataclasses.dataclass(frozen=True)
class Keygen:
    """Make a cluster key, for --cluster-key FILE: who holds it can take part in a job."""

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """A new file, which its owner alone may read."""

    def __call__(self, options: list[str]) -> int:
        """Make it."""
        from fedmpi.crypto.keys import create_key_file

        create_key_file(self.file)
        print(f"written to {self.file}, mode 0600")
        return 0


@dataclasses.dataclass(frozen=True)
class Hostfile:
    """Print a hostfile: fedmpi hostfile head:1 node[01-12] --slots 4 > hosts."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="HOST[:SLOTS] …")] = ()
    """Names, or patterns such as node[01-12,20]. Rank 0 goes to the first."""
    slots: int = 1
    """Ranks on each host that does not say how many."""
    slurm: bool = False
    """The hosts and tasks of this Slurm job."""
    mpich: bool = False
    """In the form of MPICH."""

    def __call__(self, options: list[str]) -> int:
        """Print one line per host."""
        from fedmpi import hosts

        if self.slurm == bool(self.names):
            raise UsageError(f"either --slurm or hosts must be given, got {'both' if self.slurm else 'neither'}")
        found = hosts.slurm_hosts() if self.slurm else hosts.named_hosts(self.names, self.slots)
        print(hosts.hostfile(found, mpich=self.mpich), end="")
        return 0


@dataclasses.dataclass(frozen=True)
class Attack:
    """Reconstruct training data from the gradients that a client shares; options of the attack stand behind `--`.

    Example: fedmpi attack -- --dataset cifar10 --attack dlg --defence dp --noise 0.01
    """

    ranks: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 1
    """Ranks that attack, each another case."""
    hostfile: Path | None = None
    """Hosts, one per line: `name slots=4`."""

    def __call__(self, options: list[str]) -> int:
        """Start mpirun."""
        return run_ranks(self.ranks, [sys.executable, "-m", "fedmpi.attacks", *options], self.hostfile)


@dataclasses.dataclass(frozen=True)
class Audit:
    """Attack what each role of a run received (made with --record-views), and print what came of it.

    Example: fedmpi audit --all --quick
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN …")] = ()
    """Folders of runs; those of one method that differ in their data are compared."""
    all: bool = False
    """Make small runs of every system, and attack them; finished runs are kept."""
    quick: bool = False
    """With --all: 2 seeds, minutes on two cores, in place of 6."""
    out: Path | None = None
    """Folder of the report. Default: audit/ in the first RUN; with --all, of runs and report:
    runs/audit-quick or -full."""

    def __call__(self, options: list[str]) -> int:
        """Attack, and print where the report is."""
        from fedmpi.audit import campaign, command

        if self.all == bool(self.runs) or (self.quick and not self.all):
            raise UsageError("either folders of runs or --all [--quick] must be given, and not both")
        if not self.all:
            print(f"written to {command.audit(self.runs, self.out)}")
            return 0
        scale = campaign.QUICK if self.quick else campaign.FULL
        print(f"written to {command.audit_all(scale, self.out or Path('runs') / f'audit-{scale.name}')}")
        return 0


@dataclasses.dataclass(frozen=True)
class Doctor:
    """Say what works on this machine, what is missing, and how to get it."""

    data_dir: Path | None = None
    """Folder of the data sets. Default: $FEDMPI_DATA, else the cache."""
    hostfile: Path | None = None
    """Check these hosts, and the network between them, instead of this machine."""
    interface: str | None = None
    """Measure this network, as for fedmpi run."""

    def __call__(self, options: list[str]) -> int:
        """Print one line per check."""
        from fedmpi.doctor import examine
        from fedmpi.network import examine_hosts

        failures = 0
        checks = examine_hosts(self.hostfile, self.interface) if self.hostfile else examine(self.data_dir)
        for check in checks:
            mark = "ok" if check.ok else "--" if check.optional else "!!"
            print(f"{mark}  {check.name:<10} {check.text}", flush=True)
            failures += not check.ok and not check.optional
        return 2 if failures else 0


@dataclasses.dataclass(frozen=True)
class DataList:
    """List the data sets: what is here, and what can be fetched."""

    data_dir: Path | None = None
    """Folder of the data sets. Default: $FEDMPI_DATA, else the cache."""

    def __call__(self, options: list[str]) -> int:
        """Print the catalogue."""
        from fedmpi.data import catalogue

        for entry in catalogue(self.data_dir):
            print(f"{'ok' if entry.present else '--'}  {entry.name:<10} {entry.description} ({entry.where})")
        return 0


@dataclasses.dataclass(frozen=True)
class DataFetch:
    """Download a data set's official files, check them, and convert them."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """A name that `fedmpi data list` shows."""
    data_dir: Path | None = None
    """Where to. Default: $FEDMPI_DATA, else the cache."""

    def __call__(self, options: list[str]) -> int:
        """Fetch, and print what is there now."""
        from fedmpi.data import fetch

        for path in fetch(self.name, self.data_dir):
            print(path)
        return 0


@dataclasses.dataclass(frozen=True)
class Data:
    """List the data sets, or fetch one."""

    action: tyro.conf.OmitSubcommandPrefixes[
        Annotated[DataList, tyro.conf.subcommand("list")] | Annotated[DataFetch, tyro.conf.subcommand("fetch")]
    ]

    def __call__(self, options: list[str]) -> int:
        """Do it."""
        return self.action(options)


@dataclasses.dataclass(frozen=True)
class BenchKernels:
    """Time the C kernels and the random stream against numpy, in one process and one thread."""

    json: bool = False
    """Print JSON only."""

    def __call__(self, options: list[str]) -> int:
        """Measure and print."""
        from fedmpi.experiments import bench

        return _show(bench.kernels(), self.json)


@dataclasses.dataclass(frozen=True)
class BenchCodedml:
    """Time 50 iterations on 6000 x 5000 synthetic data under mpirun, against the same in float64 numpy."""

    ranks: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 51
    """Ranks: 1 master and N - 1 workers."""
    json: bool = False
    """Print JSON only."""

    def __call__(self, options: list[str]) -> int:
        """Measure and print."""
        from fedmpi.experiments import bench

        return _show(bench.codedml(self.ranks), self.json)


@dataclasses.dataclass(frozen=True)
class BenchEncryption:
    """Time `bench codedml` with encrypted links against plain ones, in runs that take turns."""

    ranks: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 51
    """Ranks: 1 master and N - 1 workers."""
    rounds: int = 3
    """Runs of each kind; the fastest count."""
    json: bool = False
    """Print JSON only."""

    def __call__(self, options: list[str]) -> int:
        """Measure and print."""
        from fedmpi.experiments import bench

        if self.rounds < 1:
            raise UsageError(f"--rounds must be at least 1, got {self.rounds}")
        return _show(bench.encryption(self.ranks, self.rounds), self.json)


@dataclasses.dataclass(frozen=True)
class BenchMpc:
    """Time the degree reduction of BGW or BH08, every party a rank; beside MPyC, where it is installed."""

    protocol: Literal["bgw", "bh08"] = "bgw"
    """The protocol."""
    parties: int = 7
    """n; the threshold is T = ⌊(n-1)/2⌋."""
    products: int = 262_144
    """Products in one batch."""
    json: bool = False
    """Print JSON only."""

    def __call__(self, options: list[str]) -> int:
        """Measure and print."""
        from fedmpi.experiments import bench

        if self.parties < 3 or self.products < 1:
            raise UsageError(f"--parties must be at least 3 and --products 1, got {self.parties} and {self.products}")
        return _show(bench.mpc(self.protocol, self.parties, self.products), self.json)


@dataclasses.dataclass(frozen=True)
class BenchSurvival:
    """Time what dead, slow and lying workers cost: 20 workers under mpirun, of which 16 are needed."""

    seeds: int = 3
    """Runs in which four workers are killed at random moments."""
    iterations: int = 40
    """J."""
    dataset: str = "synthetic:m=4000,d=1000,density=0.2"
    """As for a training."""
    json: bool = False
    """Print JSON only."""

    def __call__(self, options: list[str]) -> int:
        """Measure and print."""
        from fedmpi.experiments import bench_survival

        if self.seeds < 1 or self.iterations < 1:
            raise UsageError(f"--seeds and --iterations must be at least 1, got {self.seeds} and {self.iterations}")
        return _show(bench_survival.survival(self.seeds, self.iterations, self.dataset), self.json)


@dataclasses.dataclass(frozen=True)
class BenchPpadmm:
    """Time the masks of PPADMM on one core, and an iteration against ADMM in the clear under mpirun."""

    participants: int = 10
    """Ranks besides the two servers."""
    rows: int = 500
    """Of each participant."""
    columns: int = 5000
    """d."""
    json: bool = False
    """Print JSON only."""

    def __call__(self, options: list[str]) -> int:
        """Measure and print."""
        from fedmpi.experiments import bench

        if self.participants < 2 or self.rows < 1 or self.columns < 1:
            got = f"{self.participants}, {self.rows} and {self.columns}"
            raise UsageError(f"--participants must be at least 2, --rows and --columns 1, got {got}")
        return _show(bench.ppadmm(self.participants, self.rows, self.columns), self.json)


@dataclasses.dataclass(frozen=True)
class BenchNiss:
    """Time a round of federated averaging on MNIST, plain and with noise that cancels; beside Flower's simulation."""

    ranks: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 4
    """Ranks: server, tracker and N - 2 hosts of the 100 clients."""
    rounds: int = 5
    """Rounds of each run."""
    flower_python: Path | None = None
    """A Python that has flwr[simulation] and torch."""
    json: bool = False
    """Print JSON only."""

    def __call__(self, options: list[str]) -> int:
        """Measure and print."""
        from fedmpi.experiments import bench_niss

        if self.ranks < 3 or self.rounds < 1:
            raise UsageError(f"--ranks must be at least 3 and --rounds 1, got {self.ranks} and {self.rounds}")
        return _show(bench_niss.niss(self.ranks, self.rounds, self.flower_python), self.json)


@dataclasses.dataclass(frozen=True)
class BenchPbpfl:
    """Time a round of PBPFL by part, client and server, against federated averaging: processor time of one thread."""

    model: str = "resnet20"
    """A model for images."""
    side: int = 28
    """Pixels of a side of the images."""
    batch_size: int = 32
    """Rows."""
    repeats: int = 5
    """The median of so many is taken."""
    json: bool = False
    """Print JSON only."""

    def __call__(self, options: list[str]) -> int:
        """Measure and print."""
        from fedmpi.experiments.bench_pbpfl import measure

        if min(self.side, self.batch_size, self.repeats) < 1:
            raise UsageError(
                "--side, --batch-size and --repeats must be at least 1, "
                f"got {self.side}, {self.batch_size} and {self.repeats}"
            )
        return _show(measure(self.model, self.side, self.batch_size, self.repeats), self.json)


@dataclasses.dataclass(frozen=True)
class BenchAttacks:
    """Time deep leakage for each image it recovers, beside the DLG paper's loop, in one process and one thread."""

    dataset: str = "cifar10"
    """Whose test rows are attacked."""
    cases: int = 6
    """Images 0, 1, …, with the seeds 0, 1, …"""
    data_dir: Path | None = None
    """Folder of the data sets. Default: $FEDMPI_DATA, else the cache."""
    json: bool = False
    """Print JSON only."""

    def __call__(self, options: list[str]) -> int:
        """Measure and print."""
        from fedmpi.experiments import bench_attacks

        return _show(bench_attacks.attacks(self.dataset, self.cases, self.data_dir), self.json)


@dataclasses.dataclass(frozen=True)
class Bench:
    """Measure speed, as ratios within one run."""

    what: tyro.conf.OmitSubcommandPrefixes[
        Annotated[BenchAttacks, tyro.conf.subcommand("attacks")]
        | Annotated[BenchKernels, tyro.conf.subcommand("kernels")]
        | Annotated[BenchCodedml, tyro.conf.subcommand("codedml")]
        | Annotated[BenchEncryption, tyro.conf.subcommand("encryption")]
        | Annotated[BenchMpc, tyro.conf.subcommand("mpc")]
        | Annotated[BenchNiss, tyro.conf.subcommand("niss")]
        | Annotated[BenchSurvival, tyro.conf.subcommand("survival")]
        | Annotated[BenchPpadmm, tyro.conf.subcommand("ppadmm")]
        | Annotated[BenchPbpfl, tyro.conf.subcommand("pbpfl")]
    ]

    def __call__(self, options: list[str]) -> int:
        """Do it."""
        return self.what(options)


@dataclasses.dataclass(frozen=True)
class Project:
    """Say how long each protocol takes on N machines, from kernel rates measured here and counted bytes.

    See docs/cost-model.md for the formulas and what they leave out.
    """

    machines: tuple[int, ...] = (10, 20, 50, 100, 1000)
    """Numbers of workers; the master has one machine more."""
    rows: int = 9019
    """m, training rows."""
    columns: int = 3073
    """d, features and the column of ones."""
    degree: Annotated[int, tyro.conf.arg(aliases=["-r"])] = 1
    """r, of the polynomial."""
    iterations: int = 50
    """J."""
    bandwidth_gbit: float = 1.0
    """Of each machine's link, each way at the same time, Gbit/s."""
    latency_ms: float = 0.5
    """One way, ms."""
    speed: float = 1.0
    """Of one core there, relative to a core here."""
    json: bool = False
    """Print JSON only."""

    def __call__(self, options: list[str]) -> int:
        """Measure the rates and print a table."""
        from fedmpi.experiments import projection
        from fedmpi.experiments.rates import calibrate

        machines = projection.Machines(self.bandwidth_gbit * 1e9 / 8, self.latency_ms / 1e3, self.speed)
        task = projection.Task(self.rows, self.columns, self.degree, self.iterations)
        rates = calibrate()
        projections = projection.project_all(self.machines, task, machines, rates)
        if self.json:
            print(json_format.dumps(projection.as_json(projections, rates)))
        else:
            print("\n".join(projection.table(projections)))
        return 0


@dataclasses.dataclass(frozen=True)
class Reproduce:
    """Run a paper's experiments on this machine, and write figures, tables and report.md; finished runs are kept."""

    system: tyro.conf.Positional[Literal["codedml", "ppadmm", "niss", "pbpfl", "spn", "all"]]
    """The paper's system; all: one after another, and one page of all of them. The same command again goes on."""
    quick: bool = False
    """Minutes on two cores: fewer ranks, rows, iterations and settings. The default."""
    full: bool = False
    """All of it."""
    from_: Annotated[Path | None, tyro.conf.arg(name="from", metavar="DIR")] = None
    """Figure 3 alone, from runs made elsewhere, as scripts/ec2/run_codedml_figure3 fetches them."""
    only: str | None = None
    """Of niss, only the panels that begin so, such as mnist-iid-mlp."""
    out: Path | None = None
    """Folder of the results. Default: runs/reproduce-<system>-quick or -full."""
    data_dir: Path | None = None
    """Folder of the data sets. Default: $FEDMPI_DATA, else the cache."""

    def __call__(self, options: list[str]) -> int:
        """Run, and print where the report is."""
        if self.quick and self.full:
            raise UsageError("only one of --quick and --full must be given, got both")
        if self.only is not None and self.system != "niss":
            raise UsageError(f"--only must be used with niss, got {self.system}")
        if self.from_ is not None:
            if self.system != "codedml":
                raise UsageError(f"--from must be used with codedml, got {self.system}")
            from fedmpi.experiments import codedml

            out = self.out or Path("runs") / f"reproduce-{self.system}-from-{self.from_.resolve().name}"
            print(f"written to {codedml.figure3_from(self.from_, out)}")
            return 0
        if self.system == "all":
            from fedmpi.report.papers import reproduce_all

            scale_name = "full" if self.full else "quick"
            out = self.out or Path("runs") / f"reproduce-all-{scale_name}"
            page, failed = reproduce_all(scale_name, out, self.data_dir)
            print(f"written to {page}")
            return next((error.exit_code for error in failed.values()), 0)
        experiments: Any = import_module(f"fedmpi.experiments.{self.system}")
        scale = experiments.FULL if self.full else experiments.QUICK
        out = self.out or Path("runs") / f"reproduce-{self.system}-{scale.name}"
        choice = {} if self.only is None else {"only": self.only}
        print(f"written to {experiments.reproduce(scale, out, self.data_dir, **choice)}")
        return 0


@dataclasses.dataclass(frozen=True)
class Report:
    """Write one self-contained HTML page about runs, side by side, with their curves as PNG and numbers as CSV.

    Example: fedmpi report runs/codedml-coded-20261121-105631
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN …")]
    """Folders of runs."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Where to. Default: the folder report in the first run."""

    def __call__(self, options: list[str]) -> int:
        """Write it, and print where it is."""
        from fedmpi.report import write_report

        if not self.runs:
            raise UsageError("report must be given the folders of runs, got none")
        print(f"written to {write_report(list(self.runs), self.out)}")
        return 0


@dataclasses.dataclass(frozen=True)
class Watch:
    """Follow a run from its folder until it ends; any number of them, from any machine that sees the folder.

    Example: fedmpi watch runs/codedml-coded-20261121-105631 --log tensorboard
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""
    log: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Pass each step on: tensorboard writes RUN/tensorboard, wandb to where its environment variables say."""

    def __call__(self, options: list[str]) -> int:
        """Print each step; Ctrl-C ends it, and not the run."""
        from fedmpi.report.folders import read_runs
        from fedmpi.report.watch import LOGGERS, watch

        read_runs([self.run])
        try:
            watch(self.run, lambda line: print(line, flush=True), [LOGGERS[name](self.run) for name in self.log])
        except KeyboardInterrupt:
            return 130
        return 0


def _show(figures: dict[str, Any], json: bool) -> int:
    if json:
        print(json_format.dumps(figures))
        return 0
    for name, values in figures.items():
        values = values if isinstance(values, dict) else {"": values}
        text = "  ".join(
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in values.items()
        )
        print(f"{name:<10} {text}")
    return 0


COMMANDS: dict[str, Any] = {
    "run": Run,
    "keygen": Keygen,
    "hostfile": Hostfile,
    "attack": Attack,
    "audit": Audit,
    "doctor": Doctor,
    "data": Data,
    "bench": Bench,
    "project": Project,
    "reproduce": Reproduce,
    "report": Report,
    "watch": Watch,
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit code is that of the command (0 done, 2 usage, …)."""
    argv = sys.argv[1:] if argv is None else argv
    own, options = argv, []
    if "--" in argv:
        own, options = argv[: argv.index("--")], argv[argv.index("--") + 1 :]
    command = tyro.extras.subcommand_cli_from_dict(
        COMMANDS, prog="fedmpi", args=own, description="Privacy-preserving machine learning over MPI."
    )
    try:
        if options and not isinstance(command, Run | Attack):
            raise UsageError(f"only run and attack take options behind --, got {' '.join(options)}")
        return int(command(options))
    except FedmpiError as error:
        print(f"fedmpi: error: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
