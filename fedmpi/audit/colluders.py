"""Workers of codedml that pool what they see, with Lagrange codes, BGW and BH08: T of them, and one more."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmpi.audit import recombination
from fedmpi.audit.finding import PICTURED, Finding, as_images
from fedmpi.audit.recording import Recorded
from fedmpi.audit.statistics import ALARM, buckets_for, least, p_value_same, p_value_uniform
from fedmpi.codedml.params import Params
from fedmpi.codedml.protocol import MASTER
from fedmpi.core import FieldArray
from fedmpi.errors import UsageError

SECRET = {
    "CodedData": ("X_tilde",),
    "CodedWeights": ("W_tilde",),
    "SharedWeights": ("W",),
    "SubShare": ("values",),
    "DoubleShare": ("low", "high"),
    "Masked": ("values",),
    "Opened": ("values",),
}
"""Messages to workers, and what in them must tell nothing."""

COALITIONS = 4
"""So many coalitions of each size are tried."""

CLAIMS = {
    "coded": "any T workers learn nothing, in the information-theoretic sense (Theorem 1)",
    "bgw": "any T parties learn nothing [Ben-Or, Goldwasser and Wigderson 1988]",
    "bh08": "any T parties learn nothing [Beerliová-Trubíniová and Hirt 2008]",
}

Views = dict[tuple[int, str, str], list[NDArray[np.uint32]]]
"""(source, message, field) → what a rank received of it, in order."""


def findings(run: Recorded) -> Iterator[Finding]:
    """Uniformity of what T workers see, and what T and T + 1 workers reconstruct."""
    if run.method not in CLAIMS:
        return
    group, T = group_of(run)
    views = {rank: secrets(run, rank) for rank in group}
    p = run.parameters(Params).prime
    tested = [[views[rank] for rank in ranks] for ranks in coalitions(group, T)]
    p_values = [least(uniformity(own, p, set(ranks))) for own, ranks in zip(tested, coalitions(group, T), strict=True)]
    yield statistical(run, T, "uniformity of all they see, and from one iteration to the next (χ²)", p_values)
    shares = {rank: np.concatenate(own[MASTER, "CodedData", "X_tilde"]) for rank, own in views.items()}
    for size in (T, T + 1):
        yield reconstruction(run, group, shares, T, size)


def comparison(run: Recorded, other: Recorded) -> Iterator[Finding]:
    """Whether what T workers see tells two data sets of one shape apart."""
    if run.method not in CLAIMS:
        return
    group, T = group_of(run)
    p_values = []
    for ranks in coalitions(group, T):
        one, two = (joint([secrets(each, rank) for rank in ranks], set(ranks)) for each in (run, other))
        p_values.append(least(_same(one, two, run.parameters(Params).prime)))
    yield statistical(run, T, "two-sample test between two data sets (χ²)", p_values)


def statistical(run: Recorded, T: int, attack: str, p_values: Sequence[float]) -> Finding:
    """A finding from one p-value of each coalition."""
    return Finding(
        run.system,
        described(run),
        who(T, T),
        "all messages to them",
        attack,
        CLAIMS[run.method],
        True,
        "p-value",
        tuple(p_values),
        sum(p < ALARM for p in p_values),
        seeds=frozenset([run.seed]),
    )


def described(run: Recorded) -> str:
    """The method, and its sizes."""
    known = run.result["params"]
    sizes = [f"{name} = {known[name]}" for name in ("N", "K", "T") if known.get(name) is not None]
    return f"{run.method}, {', '.join(sizes)}"


def who(count: int, T: int) -> str:
    """The coalition, for people."""
    return f"{count} of the workers (T)" if count == T else f"{count} of the workers (T + {count - T})"


def group_of(run: Recorded) -> tuple[range, int]:
    """The ranks that hold shares of one part of the data, and T."""
    workers = len(run.ranks) - 1
    params = run.parameters(Params)
    if run.method == "coded":
        return range(1, workers + 1), params.code(workers).privacy
    T, groups = params.groups(workers)
    return groups[0], T


def coalitions(group: range, size: int) -> Sequence[Sequence[int]]:
    """A few coalitions of neighbours."""
    return [range(first, first + size) for first in group[: len(group) - size + 1]][:COALITIONS]


def secrets(run: Recorded, rank: int) -> Views:
    """What a rank received that must tell nothing, flat."""
    views: Views = {}
    for seen in run.view(rank, *SECRET):
        for name in SECRET[seen.kind]:
            views.setdefault((seen.source, seen.kind, name), []).append(seen[name].reshape(-1))
    return views


def joint(own: Sequence[Views], inside: set[int]) -> dict[Any, NDArray[np.uint32]]:
    """What a coalition received from outside: all values of its members beside one another, and steps between two
    messages of one kind.
    """
    samples: dict[Any, NDArray[np.uint32]] = {}
    for key in own[0]:
        lists = [views.get(key, []) for views in own]
        if key[0] in inside:
            continue
        rows = [np.concatenate(values) for values in lists if values]
        same = any(np.array_equal(rows[0], other) for other in rows[1:])  # a king tells everybody the same
        if not same and len({len(row) for row in rows}) == 1:
            samples[key] = np.stack(rows)
        else:
            samples |= {(*key, i): row[None] for i, row in enumerate(rows[:1] if same else rows)}
    return samples


def steps(own: Sequence[Views], inside: set[int], p: int) -> dict[Any, NDArray[np.uint32]]:
    """Differences between one message and the next of its kind: of fresh masks they are uniform too."""
    samples = {}
    for i, views in enumerate(own):
        for key, values in views.items():
            pairs = [(a, b) for a, b in pairwise(values) if len(a) == len(b)]
            if key[0] not in inside and pairs:
                difference = np.concatenate([(b.astype(np.int64) - a) % p for a, b in pairs])
                samples[(*key, "step", i)] = difference[None].astype(np.uint32)
    return samples


def uniformity(own: Sequence[Views], p: int, inside: set[int]) -> Iterator[float]:
    """p-values of the hypothesis that each sample is uniform."""
    for rows in (joint(own, inside) | steps(own, inside, p)).values():
        if (buckets := buckets_for(*rows.shape)) > 1:
            yield p_value_uniform(rows, p, buckets)


def _same(one: dict[Any, NDArray[np.uint32]], other: dict[Any, NDArray[np.uint32]], p: int) -> Iterator[float]:
    if one.keys() != other.keys():
        raise UsageError("two runs must send the same messages to be compared, got others")
    for key, rows in one.items():
        size = min(rows.shape[1], other[key].shape[1])
        if (buckets := buckets_for(len(rows), size)) > 1:
            yield p_value_same(rows, other[key], p, buckets)


CONTROL = "more than T workers together are not covered (positive control)"


def reconstruction(run: Recorded, group: range, shares: dict[int, FieldArray], T: int, size: int) -> Finding:
    """How many of the private features coalitions of a size get right."""
    hidden = recombination.Hidden.of(run)
    scores, images = list[float](), dict[str, NDArray[np.floating]]()
    for ranks in recombination.coalitions(hidden, group, size, COALITIONS):
        found = recombination.recombine(hidden, group, ranks, [shares[rank] for rank in ranks])
        true = hidden.blocks[: len(found)]
        scores.append(float(np.mean(found.reshape(true.shape) != true)))
        if not images:
            columns, top = true.shape[2], float(true.max()) or 1.0
            seen = shares[ranks[0]] / hidden.params.prime
            features = columns - hidden.params.bias  # the last column is one of ones

            def picture(values: NDArray[np.floating], columns: int = columns, features: int = features) -> Any:
                return as_images(values.reshape(-1, columns)[:PICTURED, :features])

            images = {
                "private rows": picture(true[0] / top),
                "what one worker holds": picture(seen),
                f"what {size} workers reconstruct": picture(found[0] / top),
            }
    return Finding(
        run.system,
        described(run),
        who(size, T),
        "shares of the data",
        "recombination without the masks",
        CLAIMS[run.method] if size == T else CONTROL,
        size == T,
        "part of the features that is wrong",
        tuple(scores),
        sum(score == 0 for score in scores),
        seeds=frozenset([run.seed]),
        images=images,
    )
