"""`bench`: speed, as ratios within one run."""

import dataclasses
import json
from importlib import import_module
from typing import Annotated, Any, Literal

import tyro

from fedmpi.cli.types import File, Folder, Json
from fedmpi.errors import UsageError
from fedmpi.rules import at_least

Ranks = Annotated[int, tyro.conf.arg(aliases=["-n"])]


@dataclasses.dataclass(frozen=True)
class BenchKernels:
    """Time the C kernels and the random stream against numpy, in one process and one thread."""

    json: Json = False

    def __call__(self, options: list[str]) -> int:
        """Measure and print."""
        return _measure("kernels", self)


@dataclasses.dataclass(frozen=True)
class BenchCodedml:
    """Time 50 iterations of --paper on 6000 x 5000 synthetic data under mpirun, against the same in float64 numpy."""

    ranks: Ranks = 51
    """Ranks: 1 master and N - 1 workers."""
    json: Json = False

    def __call__(self, options: list[str]) -> int:
        """Measure and print."""
        return _measure("codedml", self)


@dataclasses.dataclass(frozen=True)
class BenchCopml:
    """Time COPML, with each of its encodings, beside BGW products without coding, in runs that take turns.

    SecretFlow's SPU, in an environment of its own, and MPyC are timed too where they are installed.
    """

    ranks: Ranks = 11
    """Owners, each a rank."""
    dataset: str = "mnist"
    """The data set, of which classes 4 and 9 are taken."""
    iterations: int = 25
    """Iterations of training."""
    rounds: int = 3
    """Runs of each kind; the fastest count."""
    spu_python: File = None
    """A Python that has spu. Default: ours, if it has it."""
    json: Json = False

    def __call__(self, options: list[str]) -> int:
        """Measure and print."""
        return _measure("copml", self, ranks=4, iterations=1, rounds=1)


@dataclasses.dataclass(frozen=True)
class BenchMaster:
    """Time the master's steps of an iteration with up to 1000 workers, without MPI, beside what the cost model says."""

    workers: tuple[int, ...] = (50, 200, 1000)
    """Numbers of workers."""
    json: Json = False

    def __call__(self, options: list[str]) -> int:
        """Measure and print."""
        return _measure("master", self)


@dataclasses.dataclass(frozen=True)
class BenchSecureSum:
    """Time a round of LightSecAgg and one of double masking, without MPI: of a client, of the server, and the bytes."""

    clients: int = 100
    """Clients of the round."""
    values: int = 100_000
    """Numbers in each client's vector."""
    lost: float = 0.3
    """The part of the clients that are lost before they upload."""
    json: Json = False

    def __call__(self, options: list[str]) -> int:
        """Measure and print."""
        if not 0 <= self.lost <= 0.9:
            raise UsageError(f"--lost must be in [0, 0.9], got {self.lost}")
        return _measure("secure_sum", self, clients=4, values=1)


@dataclasses.dataclass(frozen=True)
class BenchEncryption:
    """Time `bench codedml` with encrypted links against plain ones, in runs that take turns."""

    ranks: Ranks = 51
    """Ranks: 1 master and N - 1 workers."""
    rounds: int = 3
    """Runs of each kind; the fastest count."""
    json: Json = False

    def __call__(self, options: list[str]) -> int:
        """Measure and print."""
        return _measure("encryption", self, rounds=1)


@dataclasses.dataclass(frozen=True)
class BenchMpc:
    """Time the degree reduction of BGW or BH08, every party a rank; beside MPyC, where it is installed."""

    protocol: Literal["bgw", "bh08"] = "bgw"
    """The protocol that is timed."""
    parties: int = 7
    """Parties n, each a rank; the threshold is T = ⌊(n-1)/2⌋."""
    products: int = 262_144
    """Products in one batch."""
    json: Json = False

    def __call__(self, options: list[str]) -> int:
        """Measure and print."""
        return _measure("mpc", self, parties=3, products=1)


@dataclasses.dataclass(frozen=True)
class BenchSurvival:
    """Time what dead, slow and lying workers cost, with --paper: 20 workers under mpirun, of which 16 are needed."""

    seeds: int = 3
    """Runs in which four workers are killed at random moments."""
    iterations: int = 40
    """Iterations of training J."""
    dataset: str = "synthetic:m=4000,d=1000,density=0.2"
    """The data set, as for `fedmpi run`."""
    json: Json = False

    def __call__(self, options: list[str]) -> int:
        """Measure and print."""
        return _measure("survival", self, seeds=1, iterations=1)


@dataclasses.dataclass(frozen=True)
class BenchPrecision:
    """Compare accuracy and log loss of codedml without any option with scikit-learn's, on up to 15 data sets."""

    sets: tuple[str, ...] = ()
    """Rows of the table, by name. Default: all; those whose files are not there are left out."""
    seed: int = 0
    """Seed of the splits and of the sets that are made up."""
    data_dir: Folder = None
    """Folder of the data sets. Default: $FEDMPI_DATA, else the cache that `fedmpi data fetch` fills."""
    json: Json = False

    def __call__(self, options: list[str]) -> int:
        """Measure and print."""
        return _measure("precision", self, seed=0)


@dataclasses.dataclass(frozen=True)
class BenchPpadmm:
    """Time the masks of PPADMM on one core, and an iteration against ADMM in the clear under mpirun."""

    participants: int = 10
    """Ranks besides the two servers."""
    rows: int = 500
    """Rows of each participant."""
    columns: int = 5000
    """Features d."""
    json: Json = False

    def __call__(self, options: list[str]) -> int:
        """Measure and print."""
        return _measure("ppadmm", self, participants=2, rows=1, columns=1)


@dataclasses.dataclass(frozen=True)
class BenchNiss:
    """Time a round of federated averaging on MNIST, plain and with noise that cancels, beside a plain torch loop.

    Flower's simulation and Apple's pfl are timed too where they are installed, in environments of their own.
    """

    ranks: Ranks = 4
    """Ranks: server, tracker and N - 2 hosts of the 100 clients."""
    rounds: int = 5
    """Rounds of each run."""
    model: Literal["mlp", "cnn"] = "mlp"
    """mlp: 30 clients and 5 epochs in a round; cnn: 10 clients and 1 epoch."""
    flower_python: File = None
    """A Python that has flwr[simulation] and torch. Default: ours, if it has them."""
    pfl_python: File = None
    """A Python that has pfl[pytorch]. Default: ours, if it has it."""
    json: Json = False

    def __call__(self, options: list[str]) -> int:
        """Measure and print."""
        return _measure("niss", self, ranks=3, rounds=1)


@dataclasses.dataclass(frozen=True)
class BenchPbpfl:
    """Time a round of PBPFL by part, client and server, against federated averaging: processor time of one thread."""

    model: str = "resnet20"
    """A model for images, as for `fedmpi run pbpfl`."""
    side: int = 28
    """Pixels of a side of the images."""
    batch_size: int = 32
    """Rows of a batch."""
    repeats: int = 5
    """Measurements of each part; their median counts."""
    json: Json = False

    def __call__(self, options: list[str]) -> int:
        """Measure and print."""
        return _measure("pbpfl", self, side=1, batch_size=1, repeats=1)


@dataclasses.dataclass(frozen=True)
class BenchSpn:
    """Time a client's step of each method of spn against the same step in plain torch: processor time of one thread."""

    model: str = "vgg16"
    """A model for images, as for `fedmpi run spn`."""
    side: int = 32
    """Pixels of a side of the images."""
    batch_size: int = 32
    """Rows of a batch."""
    repeats: int = 5
    """Pairs of steps, ours and torch's, that are timed in turns; their medians count."""
    json: Json = False

    def __call__(self, options: list[str]) -> int:
        """Measure and print."""
        return _measure("spn", self, side=1, batch_size=1, repeats=1)


@dataclasses.dataclass(frozen=True)
class BenchAttacks:
    """Time deep leakage for each image it recovers, beside the DLG paper's loop, in one process and one thread.

    Inverting gradients is timed beside its authors' program where there is a checkout of that.
    """

    dataset: str = "cifar10"
    """The data set whose test rows are attacked."""
    cases: int = 6
    """Images that are attacked: 0, 1, …, with the seeds 0, 1, …"""
    data_dir: Folder = None
    """Folder of the data sets. Default: $FEDMPI_DATA, else the cache that `fedmpi data fetch` fills."""
    reference: Folder = None
    """A checkout of JonasGeiping/invertinggradients. Default: inverting gradients is left out."""
    images: int = 4
    """Images that are inverted by both: 0, 1, …"""
    iterations: int = 4800
    """Iterations of the authors' program for an image; 4800 is its default."""
    json: Json = False

    def __call__(self, options: list[str]) -> int:
        """Measure and print."""
        return _measure("attacks", self, cases=1, images=1, iterations=1)


@dataclasses.dataclass(frozen=True)
class BenchStartup:
    """Time how soon help, the version and wrong command lines answer, against a Python that does nothing."""

    rounds: int = 5
    """Rounds in which the command lines take turns; the shortest time counts."""
    json: Json = False

    def __call__(self, options: list[str]) -> int:
        """Measure and print."""
        return _measure("startup", self, rounds=1)


@dataclasses.dataclass(frozen=True)
class Bench:
    """Measure speed, as ratios within one run."""

    benchmark: tyro.conf.OmitSubcommandPrefixes[
        Annotated[BenchAttacks, tyro.conf.subcommand("attacks")]
        | Annotated[BenchKernels, tyro.conf.subcommand("kernels")]
        | Annotated[BenchCodedml, tyro.conf.subcommand("codedml")]
        | Annotated[BenchCopml, tyro.conf.subcommand("copml")]
        | Annotated[BenchEncryption, tyro.conf.subcommand("encryption")]
        | Annotated[BenchMaster, tyro.conf.subcommand("master")]
        | Annotated[BenchMpc, tyro.conf.subcommand("mpc")]
        | Annotated[BenchNiss, tyro.conf.subcommand("niss")]
        | Annotated[BenchPrecision, tyro.conf.subcommand("precision")]
        | Annotated[BenchSecureSum, tyro.conf.subcommand("secure-sum")]
        | Annotated[BenchStartup, tyro.conf.subcommand("startup")]
        | Annotated[BenchSurvival, tyro.conf.subcommand("survival")]
        | Annotated[BenchPpadmm, tyro.conf.subcommand("ppadmm")]
        | Annotated[BenchPbpfl, tyro.conf.subcommand("pbpfl")]
        | Annotated[BenchSpn, tyro.conf.subcommand("spn")]
    ]

    def __call__(self, options: list[str]) -> int:
        """Do it."""
        return self.benchmark(options)


def _measure(name: str, options: Any, **least: int) -> int:
    """Let `fedmpi.bench.<name>` measure, with the options as arguments, and print its figures.

    Parameters
    ----------
    least : int
        The smallest value of each option that has one.
    """
    at_least(options, **least)
    comparison: Any = import_module(f"fedmpi.bench.{name}")
    arguments = dataclasses.asdict(options)
    as_json = arguments.pop("json")
    figures = comparison.measure(**arguments)
    table = getattr(comparison, "table", _table)  # one of them has a table of its own
    print(json.dumps(figures) if as_json else table(figures))
    return 0


def _table(figures: dict[str, Any]) -> str:
    lines = []
    for name, values in figures.items():
        values = values if isinstance(values, dict) else {"": values}
        text = "  ".join(
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in values.items()
        )
        lines.append(f"{name:<10} {text}")
    return "\n".join(lines)
