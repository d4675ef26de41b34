"""The runs that ``fedmpi audit --all`` attacks: every system, small, under mpirun, with all views recorded."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fedmpi.audit.recording import Recorded
from fedmpi.runs.batch import train

CLASSES = (("4", "9"), ("0", "1"))
"""Of digits, by turns: two data sets of one shape."""

LASSO = ("synthetic-lasso:n=300,d=100,noise=20,test=50", "synthetic-lasso:n=300,d=100,noise=1,sparsity=0.2,test=50")
"""By turns, too."""


@dataclass(frozen=True)
class Scale:
    """How much is run."""

    name: str
    seeds: int


QUICK = Scale("quick", 2)
FULL = Scale("full", 6)


@dataclass(frozen=True)
class Setting:
    """One run for each seed."""

    name: str
    system: str
    ranks: int
    options: tuple[str, ...]
    alternatives: tuple[tuple[str, ...], ...] = ((),)
    """Further options, by turns from seed to seed."""


_ONE_ROW = ("--dataset", "digits", "--clients", "24", "--max-rows", "24", "--rounds", "1", "--batch-size", "1")
"""Clients with one row each, which take one step; fewer rows do not have all classes."""

_UPLOAD = {
    "niss": (*_ONE_ROW, "--fraction", "1", "--epochs", "1", "--learning-rate", "0.1"),
    "pbpfl": _ONE_ROW,
    "spn": (*_ONE_ROW, "--optimizer", "sgd", "--learning-rate", "0.1"),
}

_EIGHT_ROWS = (
    *("--dataset", "digits", "--clients", "3", "--max-rows", "24", "--rounds", "1", "--batch-size", "8"),
    *("--epochs", "1", "--learning-rate", "0.1", "--model", "mlp"),
)
"""Clients with eight rows each, which take one step on all of them."""

_MEMBERS = (
    *("--dataset", "synthetic:m=200,d=1200,density=0.05,test=3000", "--clients", "4"),
    *("--rounds", "6", "--learning-rate", "0.1"),
)
"""Rows that a model learns by heart, and so many others that one part in a thousand can be told."""

_ALL = ("--fraction", "1")

_SUMMED = ("--dataset", "digits", "--clients", "10", "--max-rows", "80", "--rounds", "3", "--epochs", "1")

_TWO_CLASSES = ("--dataset", "digits", "--max-rows", "240", "--iterations", "10", "--no-compare")


def settings() -> Iterator[Setting]:
    """What is run for each seed."""
    classes = tuple(("--classes", *names) for names in CLASSES)
    # As many workers as have to answer, so that none is left behind.
    yield Setting("codedml-coded", "codedml", 8, (*_TWO_CLASSES, "-K", "2", "-T", "2"), classes)
    yield Setting("codedml-paper", "codedml", 11, (*_TWO_CLASSES, "-K", "2", "-T", "2", "--paper"), classes)
    for method in ("bgw", "bh08"):
        shared = (*_TWO_CLASSES, "--method", method, "-G", "1", "-T", "2")
        yield Setting(f"codedml-{method}", "codedml", 6, shared, classes)
    owned = ("--dataset", "digits", "--max-rows", "240", "--iterations", "5")
    yield Setting("copml", "copml", 7, (*owned, "-T", "2"), classes)
    yield Setting("copml-own", "copml", 7, (*owned, "-T", "1", "--encoding", "own"), classes)
    yield Setting("copml-bgw", "copml", 6, (*owned, "-T", "2", "--method", "bgw"), classes)
    lasso = tuple(("--dataset", name) for name in LASSO)
    yield Setting("ppadmm", "ppadmm", 5, ("--iterations", "20", "--tolerance", "0", "--no-compare"), lasso)
    for method in ("fedavg", "dp-fedavg"):
        yield Setting(f"niss-{method}", "niss", 3, (*_UPLOAD["niss"], "--method", method))
        yield Setting(f"niss-{method}-batch", "niss", 3, (*_EIGHT_ROWS, "--fraction", "1", "--method", method))
        yield Setting(f"niss-{method}-members", "niss", 3, (*_MEMBERS, *_ALL, "--method", method))
    for tau2 in ("0", "0.5", "1"):
        cancelling = (*_UPLOAD["niss"], "--share-count", "3", "--tau-squared", tau2)
        yield Setting(f"niss-tau2-{tau2}", "niss", 3, cancelling)
    yield Setting("niss-members", "niss", 3, (*_MEMBERS, *_ALL, "--share-count", "3"))
    for scheme in ("double", "lightsecagg"):
        summed = (*_SUMMED, "--method", "fedavg", "--secure-sum", scheme)
        yield Setting(f"niss-{scheme}", "niss", 3, summed)
    together = (*_SUMMED, "--method", "distributed-dp", "--secure-sum", "lightsecagg", "--clipping", "update")
    yield Setting("niss-distributed-dp", "niss", 3, (*together, "--epsilon", "3"))
    yield Setting("niss-distributed-quiet", "niss", 3, (*together, "--noise-std", "0"))
    cancelling = (*_EIGHT_ROWS, "--fraction", "1", "--share-count", "2", "--tau-squared", "0")
    yield Setting("niss-batch", "niss", 3, cancelling)
    yield Setting("pbpfl", "pbpfl", 2, _UPLOAD["pbpfl"])
    yield Setting("pbpfl-open", "pbpfl", 2, (*_UPLOAD["pbpfl"], "--gamma-range", "0", "0"))
    masked = (*_UPLOAD["pbpfl"], "--rounds", "3", "--method", "pbpfl-masked")
    yield Setting("pbpfl-masked", "pbpfl", 2, masked)
    model = ("--dataset", "digits", "--clients", "3", "--rounds", "60", "--checkpoint-every", "1", "--no-compare")
    yield Setting("pbpfl-model", "pbpfl", 2, model)
    learnt = (*_MEMBERS[:-4], "--rounds", "300", "--learning-rate", "0.1", "--batch-size", "10")
    yield Setting("pbpfl-members", "pbpfl", 2, (*learnt, "--checkpoint-every", "100", "--no-compare"))
    for network in ("mlp", "dlnet"):
        own = (*_UPLOAD["spn"], "--model", network)
        yield Setting(f"spn-{network}", "spn", 2, (*own, "--method", "spn", "--alpha2", "0.5"))
        yield Setting(f"spn-ppdl-{network}", "spn", 2, (*own, "--method", "ppdl", "--share-fraction", "0.05"))
    batch = (*_EIGHT_ROWS, "--optimizer", "sgd", "--method", "spn", "--alpha2", "0.5")
    yield Setting("spn-mlp-batch", "spn", 2, batch)
    slower = (*_MEMBERS[:-1], "0.03")  # at 0.1 one SPN in two diverges
    known = (*slower, "--model", "mlp", "--epochs", "5", "--optimizer", "sgd", "--method")
    yield Setting("spn-members", "spn", 2, (*known, "spn", "--alpha2", "0.5"))
    yield Setting("spn-fedavg-members", "spn", 2, (*known, "fedavg"))
    # a perturbation a hundred times the gradient: the case in which the paper promises that reconstruction fails
    yield Setting("spn-dlnet-20", "spn", 2, (*own, "--method", "spn", "--alpha2", "20"))
    yield Setting("spn-fedavg-dlnet", "spn", 2, (*own, "--method", "fedavg"))
    yield Setting("spn-dp-dlnet", "spn", 2, (*own, "--method", "dp", "--noise-std", "0.1"))


def recorded(scale: Scale, folder: Path) -> Iterator[Recorded]:
    """Run what is not there yet, and read all runs."""
    begun = time.perf_counter()
    for setting in settings():
        for seed in range(scale.seeds):
            turn = setting.alternatives[seed % len(setting.alternatives)]
            options = [*setting.options, *turn, "--seed", str(seed), "--record-views"]
            run = folder / f"{setting.name}-{seed}"
            train(run, setting.ranks, options, system=setting.system)
            yield Recorded.read(run)
        print(f"{setting.name}: {scale.seeds} runs, {time.perf_counter() - begun:.0f} s so far", flush=True)
