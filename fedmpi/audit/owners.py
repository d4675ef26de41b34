"""Owners of copml who pool what they see: T of them, and one more; and the numbers that are opened to all.

What an owner dealt itself is not in its view, so coalitions are judged by what came from outside.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmpi.audit.finding import PICTURED, Finding, as_images
from fedmpi.audit.recording import Recorded
from fedmpi.audit.statistics import ALARM, buckets_for, least, p_value_same, p_value_uniform
from fedmpi.copml import plain, service
from fedmpi.copml.member import Task
from fedmpi.copml.params import Params
from fedmpi.copml.scale import residues
from fedmpi.copml.sharing import Ring
from fedmpi.copml.truncation import centre, half
from fedmpi.core import FieldArray
from fedmpi.data import load
from fedmpi.data.partition import rows_of

HIDDEN = (
    *(
        "RowShare",
        "CodedShare",
        "CodedRows",
        "SumShare",
        "MeanShare",
        "RandomShare",
        "MaskShare",
        "WeightShare",
        "GradientShare",
    ),
    "SubShare",
)
"""Messages that must tell T owners nothing, even all of them together."""

COALITIONS = 4
"""So many coalitions are tried."""

CLAIMS = {
    "copml": "any T owners learn nothing but the model and the step (Theorem 1)",
    "bgw": "any T parties learn nothing [Ben-Or, Goldwasser and Wigderson 1988]",
}

KAPPA = "what is opened to round a number tells of it at most 2^-κ"

CONTROL = "more than T owners together are not covered (positive control)"

MOST_WRONG = 0.01
"""Of which no larger part is wrong is taken for known."""

Sample = dict[Any, NDArray[np.uint32]]
"""Source, message and prime → what each member received of it, shape (members, n)."""


@dataclass(frozen=True, eq=False)
class Judge:
    """What the adversary is held against; it has all rows."""

    run: Recorded

    @cached_property
    def params(self) -> Params:
        """Of the run."""
        return self.run.parameters(Params)

    @cached_property
    def ring(self) -> Ring:
        """Of the shares."""
        return Ring(residues(), len(self.run.ranks), self.T)

    @property
    def T(self) -> int:
        """The threshold."""
        return self.params.sizes(len(self.run.ranks))["T"]

    @cached_property
    def prepared(self) -> tuple[Task, list[NDArray[np.int32]], list[NDArray[np.int64]]] | None:
        """The task, and each owner's rows and targets; of a table, whose columns the owners prepare, nothing."""
        options, owners = self.run.options, len(self.run.ranks)
        data = load(options.dataset or "digits", seed=options.seed, **options.load_arguments())
        if not data.shape or self.params.split_by:
            return None
        mine = [rows_of(rank, owners, len(data.y_train)) for rank in self.run.ranks]
        rows = [*map(len, mine)]
        task, X, Y = service.prepared_rows(self.params, data, np.concatenate(mine), rows)
        X_bar, edges = plain.prepared(task, X, plain.means(task, X)), np.cumsum(rows)[:-1]
        return task, np.split(X_bar, edges), np.split(Y, edges)

    @cached_property
    def opened(self) -> list[FieldArray]:
        """What all owners see in each iteration: shares that any of them received, added up."""
        shares: dict[int, dict[int, FieldArray]] = {}
        for rank in self.run.ranks:
            for seen in self.run.view(rank, "MaskedShare"):
                shares.setdefault(int(seen["step"]), {})[seen.source] = seen["values"]
        return [self.ring.open(shares[step]) for step in sorted(shares)]

    @cached_property
    def sums_of_columns(self) -> FieldArray:
        """What all owners see of images with --center: shares that any of them received, added up; else nothing."""
        views = (seen for rank in self.run.ranks for seen in self.run.view(rank, "OpenedMeans"))
        shares = {seen.source: seen["values"] for seen in views}
        return self.ring.open(shares) if shares else np.zeros(0, np.uint32)

    @property
    def step_bits(self) -> int:
        """E of the step 2^-e, which all owners know."""
        return round(-math.log2(self.run.result["params"]["learning_rate"]))

    def first_gradient(self) -> NDArray[np.float64]:
        """What is rounded in the first iteration, in which the weights are 0."""
        assert self.prepared is not None
        task, X, Y = self.prepared
        scale = task.scale()
        residuals = scale.coefficients[0] - np.ldexp(np.concatenate(Y).astype(np.float64), scale.residual_bits)
        total: NDArray[np.float64] = np.concatenate(X).astype(np.float64).T @ residuals
        return total.reshape(-1)


def findings(run: Recorded) -> Iterator[Finding]:
    """Uniformity of what T owners see; rows and gradients that T, and T + 1, work out."""
    if run.method not in CLAIMS:
        return
    judge = Judge(run)
    groups = [range(first, first + judge.T) for first in run.ranks[: len(run.ranks) - judge.T + 1]][:COALITIONS]
    p_values = [least(uniformity(joint(run, ranks))) for ranks in groups]
    yield statistical(judge, "uniformity of all shares they see, and from one iteration to the next (χ²)", p_values)
    if judge.prepared is None:
        return
    yield changes(judge)
    for size in (judge.T, judge.T + 1):
        yield gradient(judge, size)
        if run.method == "bgw" or judge.params.encoding == "joint":
            yield rows(judge, size)


def comparison(run: Recorded, other: Recorded) -> Iterator[Finding]:
    """Whether what T owners see tells two data sets of one shape apart, and what any one of them is told."""
    if run.method not in CLAIMS:
        return
    judge = Judge(run)
    differ = [run.result["params"].get(name) != other.result["params"].get(name) for name in ("learning_rate", "rows")]
    sums, theirs = judge.sums_of_columns, Judge(other).sums_of_columns
    differ.append(not np.array_equal(sums, theirs))
    columns = " with --center also the sum of each pixel," if len(sums) else ""
    yield row(
        judge,
        "1 of the owners",
        "what is opened before training",
        "equality between two data sets",
        f"the sum of the owners' largest eigenvalues, which sets the step,{columns} is opened",
        None,
        "whether they differ",
        (float(any(differ)),),
        int(any(differ)),
    )
    p_values = []
    for first in run.ranks[:COALITIONS]:
        ranks = range(first, min(first + judge.T, len(run.ranks)))
        one, two = joint(run, ranks), joint(other, ranks)
        p_values.append(least(same(one, two)))
    yield statistical(judge, "two-sample test between two data sets (χ²)", p_values)


def described(judge: Judge) -> str:
    """The method, and its sizes."""
    sizes = judge.params.sizes(len(judge.run.ranks))
    own = ", own" if judge.params.encoding == "own" else ""
    return f"{judge.run.method}{own}, " + ", ".join(f"{name} = {sizes[name]}" for name in "NKT" if name in sizes)


def who(size: int, T: int) -> str:
    """The coalition, for people."""
    return f"{size} of the owners (T)" if size == T else f"{size} of the owners (T + {size - T})"


def row(judge: Judge, *cells: Any, **more: Any) -> Finding:
    """A finding of this run."""
    found = Finding(judge.run.system, described(judge), *cells, **more)
    return replace(found, seeds=frozenset([judge.run.seed]))


def statistical(judge: Judge, attack: str, p_values: Sequence[float]) -> Finding:
    """A finding from one p-value of each coalition."""
    return row(
        judge,
        who(judge.T, judge.T),
        "all shares that came to them",
        attack,
        CLAIMS[judge.run.method],
        True,
        "p-value",
        tuple(p_values),
        sum(p < ALARM for p in p_values),
    )


def received(run: Recorded, rank: int) -> dict[tuple[int, str], list[FieldArray]]:
    """What came to an owner that must tell nothing: (source, message) → arrays with the primes along the first axis.

    Products of shares are reduced modulo one prime after the other, in each product of each iteration.
    """
    found: dict[tuple[int, str], list[FieldArray]] = {}
    for seen in run.view(rank, *HIDDEN):
        found.setdefault((seen.source, seen.kind), []).append(seen["values"])
    primes = len(residues())
    for key, values in found.items():
        if key[1] == "SubShare":  # X̄w̄ modulo each prime and its X̄ᵀs̄, in turn
            pairs = [values[i : i + 2 * primes] for i in range(0, len(values), 2 * primes)]
            found[key] = [np.stack([one.reshape(-1) for one in pair[k::2]]) for pair in pairs for k in (0, 1)]
    return found


def joint(run: Recorded, ranks: Sequence[int]) -> Sample:
    """What a coalition received from outside: its members' shares of one thing beside one another, and their steps."""
    views = {rank: received(run, rank) for rank in ranks}
    samples: Sample = {}
    for key in sorted({key for own in views.values() for key in own}):
        if key[0] in ranks:
            continue
        lots = [
            np.concatenate([v.reshape(len(v), -1) for v in own[key]], axis=1) for own in views.values() if key in own
        ]
        together = [lots] if len({lot.shape for lot in lots}) == 1 else [[lot] for lot in lots]
        for i, group in enumerate(together):
            for j in range(len(group[0])):
                samples[(*key, i, j)] = np.stack([lot[j] for lot in group])
        for rank, own in views.items():
            pairs = [(a, b) for a, b in pairwise(own.get(key, ())) if a.shape == b.shape]
            for j, p in enumerate(residues().primes if pairs else ()):
                difference = np.concatenate([((b[j].astype(np.int64) - a[j]) % p).reshape(-1) for a, b in pairs])
                samples[(*key, "step", rank, j)] = difference[None].astype(np.uint32)
    return samples


def uniformity(samples: Sample) -> Iterator[float]:
    """p-values of the hypothesis that each sample is uniform."""
    for key, values in samples.items():
        if (buckets := buckets_for(*values.shape)) > 1:
            yield p_value_uniform(values, residues().primes[key[-1]], buckets)


def same(one: Sample, other: Mapping[Any, NDArray[np.uint32]]) -> Iterator[float]:
    """p-values of the hypothesis that samples of two runs come from one distribution."""
    for key in one.keys() & other.keys():
        size = min(one[key].shape[1], other[key].shape[1])
        if (buckets := buckets_for(len(one[key]), size)) > 1 and len(one[key]) == len(other[key]):
            yield p_value_same(one[key], other[key], residues().primes[key[-1]], buckets)


def changes(judge: Judge) -> Finding:
    """Two opened numbers under one mask differ by what a gradient has changed, which is small."""
    assert judge.prepared is not None
    ring, bound = judge.ring, judge.prepared[0].scale().bound
    apart = [np.abs(ring.residues.reals(ring.subtract(b, a), 0)) / (2 * bound) for a, b in pairwise(judge.opened)]
    scores = np.concatenate(apart)
    return row(
        judge,
        who(judge.T, judge.T),
        "the numbers that are opened in each iteration",
        "change of a gradient, by the difference of two of them",
        KAPPA,
        True,
        "difference over the largest that can be",
        tuple(scores.tolist()),
        int((scores < 1).sum()),
    )


def gradient(judge: Judge, size: int) -> Finding:
    """The first gradient, from the opened number: less the masks, of which T + 1 owners' shares are enough."""
    assert judge.prepared is not None
    ring, scale, true = judge.ring, judge.prepared[0].scale(), judge.first_gradient()
    guess = judge.opened[0]
    if size > judge.T:
        bits = scale.truncated_bits(judge.step_bits)
        inside = range(size)  # they hold shares, and none of them contributed to a mask
        shares: dict[int, FieldArray] = {}
        for rank in inside:
            own = [seen["values"][:, :, : len(true)] for seen in judge.run.view(rank, "MaskShare")]
            shares[rank] = np.ascontiguousarray(summed(ring, own))
        low, high = ring.open(shares).swapaxes(0, 1)
        masks = ring.add(low, ring.times(2**bits, high))
        moved = half(bits, judge.T + 1) + centre(bits, scale.mask_bits, judge.T + 1)
        guess = ring.plus(moved, ring.subtract(guess, masks))
    wrong = np.abs(ring.residues.reals(guess, 0) - true) / scale.bound
    return row(
        judge,
        who(size, judge.T),
        "the numbers that are opened, and shares of their masks",
        "gradient of the first iteration",
        KAPPA if size == judge.T else CONTROL,
        size == judge.T,
        "error over the largest gradient",
        tuple(wrong.tolist()),
        int((wrong < MOST_WRONG).sum()),
    )


def summed(ring: Ring, parts: Sequence[FieldArray]) -> FieldArray:
    """The sum of several."""
    total = parts[0]
    for part in parts[1:]:
        total = ring.add(total, part)
    return total


def rows(judge: Judge, size: int) -> Finding:
    """Rows of one owner, from the others' shares of them, as if they were of a degree below the coalition's size."""
    assert judge.prepared is not None
    ring, owners, X = judge.ring, judge.run.ranks, judge.prepared[1]
    scores, images = list[float](), dict[str, NDArray[np.floating]]()
    for victim in owners[:COALITIONS]:
        inside = [rank for rank in owners if rank != victim][-size:]
        slices = {
            rank: [seen["values"] for seen in judge.run.view(rank, "RowShare") if seen.source == victim]
            for rank in inside
        }
        shares = {rank: np.concatenate(of, axis=-2) for rank, of in slices.items()}
        found = ring.residues.reals(ring.open(shares, size - 1), 0).reshape(-1, X[victim].shape[1])[: len(X[victim])]
        scores.append(float(np.mean(found != X[victim])))
        if not images:
            top = float(X[victim].max()) or 1.0
            images = {
                "private rows": as_images(X[victim][:PICTURED, :-1] / top),
                f"what {size} owners reconstruct": as_images(np.clip(found[:PICTURED, :-1] / top, 0, 1)),
            }
    return row(
        judge,
        who(size, judge.T),
        "shares of an owner's rows",
        "interpolation",
        CLAIMS[judge.run.method] if size == judge.T else CONTROL,
        size == judge.T,
        "part of the features that is wrong",
        tuple(scores),
        sum(score <= MOST_WRONG for score in scores),
        images=images,
    )
