"""Workers of codedml that pool what they see, with Lagrange codes, BGW and BH08: T of them, and one more."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmpi.audit import recombination
from fedmpi.audit.finding import PICTURED, Finding, as_images
from fedmpi.audit.recording import Recorded, Seen
from fedmpi.audit.statistics import ALARM, buckets_for, least, p_value_same, p_value_uniform
from fedmpi.codedml.dealing import MASTER, CodedData, DataSeed, Share
from fedmpi.codedml.params import Params
from fedmpi.codedml.training import seeds
from fedmpi.core import FieldArray, PrimeField, Residues
from fedmpi.errors import UsageError

DATA = "share of the data"
"""What a worker's data messages come to, whether they are pieces or a seed: the kind and field of them in its views."""

SECRET = {
    "CodedVectors": ("V_tilde",),
    "CodedWeights": ("W_tilde",),
    "SharedWeights": ("W",),
    "SubShare": ("values",),
    "DoubleShare": ("low", "high"),
    "Masked": ("values",),
    "Opened": ("values",),
}
"""Messages to workers, and what in them must tell nothing."""

BETWEEN_PARTIES = {"SubShare", "DoubleShare", "Masked", "Opened"}
"""Those of `fedmpi.mpc`, which computes modulo one prime after the other; the others hold all primes side by side."""

FOR_ALL_BLOCKS = {"CodedVectors", "CodedWeights"}
"""Those of which, unless they are transposed, all blocks have the same."""

CLEAR = {"Setup": ("training",), "GroupSetup": ("first_rank",)}
"""Messages of what is public, and what in them names the receiver or the run."""

COALITIONS = 4
"""So many coalitions of each size are tried."""

CLAIMS = {
    "coded": "any T workers learn nothing, in the information-theoretic sense (Theorem 1)",
    "bgw": "any T parties learn nothing [Ben-Or, Goldwasser and Wigderson 1988]",
    "bh08": "any T parties learn nothing [Beerliová-Trubíniová and Hirt 2008]",
}

INSECURE = "not private: --insecure-repeatable-masks"

Key = tuple[int, str, str, int]
"""Source, message, field, and the number of the prime."""

Views = dict[Key, dict[int, NDArray[np.uint32]]]
"""What a rank received of it: number of the exchange, or of the message, → elements."""


def findings(run: Recorded) -> Iterator[Finding]:
    """Uniformity of what T workers see, and what T and T + 1 workers reconstruct."""
    if run.method not in CLAIMS:
        return
    group, T = group_of(run)
    primes = primes_of(run)
    if insecure(run):
        yield drawn_again(run, group)
    views = {rank: secrets(run, rank, primes) for rank in group}
    tested = [([views[rank] for rank in ranks], set(ranks)) for ranks in coalitions(group, T)]
    p_values = [least(uniformity(own, primes, inside)) for own, inside in tested]
    yield statistical(run, T, "uniformity of all they see, and from one iteration to the next (χ²)", p_values)
    shares = {
        rank: np.stack([np.concatenate([*own[MASTER, DATA, DATA, j].values()]) for j in range(len(primes))])
        for rank, own in views.items()
    }
    for size in (T, T + 1):
        yield reconstruction(run, group, shares, T, size)


def insecure(run: Recorded) -> bool:
    """Whether masks were made from --seed."""
    return bool(run.config.get("insecure_repeatable_masks"))


def drawn_again(run: Recorded, group: range) -> Finding:
    """What one worker knows of the others' shares of the data, if it knows --seed: the secret seeds of T of them."""
    source = seeds(run.parameters(Params), run.seed)
    again = {source() for rank in group if run.view(rank, "DataSeed")}
    wrong = [float(seen["seed"].tobytes() not in again) for rank in group for seen in run.view(rank, "DataSeed")]
    return Finding(
        run.system,
        described(run),
        "1 of the workers, who knows --seed",
        "--seed",
        "the seeds of T workers' shares, drawn again",
        INSECURE,
        False,
        "part that is wrong",
        tuple(wrong),
        wrong.count(0.0),
        seeds=frozenset([run.seed]),
    )


def comparison(run: Recorded, other: Recorded) -> Iterator[Finding]:
    """Whether what T workers see tells two data sets of one shape apart, and what any one of them does."""
    if run.method not in CLAIMS:
        return
    group, T = group_of(run)
    differ = in_the_clear(run, group) != in_the_clear(other, group)
    yield Finding(
        run.system,
        described(run),
        "1 of the workers",
        "what is not coded, and how many messages there are",
        "equality between two data sets",
        "the field and the number of iterations follow from the data, unless --primes and --tolerance 0 are given",
        None,
        "whether they differ",
        (float(differ),),
        int(differ),
        seeds=frozenset([run.seed]),
    )
    primes = primes_of(run)
    if primes != primes_of(other):
        return  # uniform modulo one prime and modulo another are not alike
    p_values = []
    for ranks in coalitions(group, T):
        one, two = (joint([secrets(each, rank, primes) for rank in ranks], set(ranks)) for each in (run, other))
        p_values.append(least(_same(one, two, primes)))
    yield statistical(run, T, "two-sample test between two data sets (χ²)", p_values)


def primes_of(run: Recorded) -> tuple[int, ...]:
    """The moduli that the run was computed with.

    Raises
    ------
    UsageError
        If its result does not name them.
    """
    primes = run.result["params"].get("primes")
    if not (isinstance(primes, list) and primes and all(isinstance(p, int) for p in primes)):
        raise UsageError(f"result.json of {run.path} must name the primes of the run, got {primes!r}")
    return tuple(primes)


def in_the_clear(run: Recorded, group: range) -> tuple[Any, ...]:
    """What a worker knows without any share: the public messages, and the number of exchanges."""
    public = [
        (seen.kind, {name: value.tolist() for name, value in seen.fields.items() if name not in CLEAR[seen.kind]})
        for seen in run.view(group[0], *CLEAR)
    ]
    # of all of them, for one that falls behind is not asked for everything
    asked = [seen for rank in group for seen in run.view(rank, "CodedVectors", "CodedWeights", "SharedWeights")]
    return public, max((int(seen["iteration"]) for seen in asked), default=-1)


def statistical(run: Recorded, T: int, attack: str, p_values: Sequence[float]) -> Finding:
    """A finding from one p-value of each coalition."""
    return Finding(
        run.system,
        described(run),
        who(T, T),
        "all messages to them",
        attack,
        INSECURE if insecure(run) else CLAIMS[run.method],
        None if insecure(run) else True,
        "p-value",
        tuple(p_values),
        sum(p < ALARM for p in p_values),
        seeds=frozenset([run.seed]),
    )


def described(run: Recorded) -> str:
    """The method, and its sizes."""
    known = run.result["params"]
    sizes = [f"{name} = {known[name]}" for name in ("N", "K", "T") if known.get(name) is not None]
    polynomial = [] if known.get("degree") is None else [f"r = {known['degree']}"]
    return f"{run.method}, {', '.join(sizes + polynomial)}"


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


def factors(run: Recorded, rank: int, primes: Sequence[int]) -> list[int]:
    """What undoes, modulo each prime, the factor of a secret in the rank's shares of what is the same for all blocks.

    It is public. Vectors have as many bits as fit, but are small beside the primes: if masks were used again, the steps
    between shares would be multiples of small numbers, which look uniform until they are divided.
    """
    if run.method != "coded":
        return [1] * len(primes)  # of Shamir's sharing it is 1
    codes = (run.parameters(Params).code(len(run.ranks) - 1, PrimeField(p)) for p in primes)
    rows = ((code, code.encoding_matrix[rank - 1, : code.parallelization]) for code in codes)
    return [code.field.inverse(int(row.sum(dtype=np.uint64)) % code.field.p) for code, row in rows]


def held(run: Recorded, rank: int, primes: Sequence[int]) -> list[FieldArray]:
    """A worker's share of the data, in pieces of shape (primes, rows, d): unpacked, or stretched from its seed."""
    setup = run.view(rank, *CLEAR)[0]
    share = Share(Residues(primes), int(setup["rows"]), int(setup["columns"]))
    for seen in run.view(rank, "CodedData", "DataSeed"):
        if seen.kind == "DataSeed":
            share.take(DataSeed(int(seen["step"]), seen["seed"]))
        else:
            share.take(CodedData(int(seen["rows"]), seen["X_tilde"]))
    return share.pieces


def secrets(run: Recorded, rank: int, primes: Sequence[int]) -> Views:
    """What a rank received that must tell nothing, flat, for each prime apart."""
    messages: dict[tuple[int, str, bool], list[Seen]] = {}
    for seen in run.view(rank, *SECRET):
        transposed = bool(seen.fields.get("transposed", False))
        messages.setdefault((seen.source, seen.kind, transposed), []).append(seen)
    iterations = len(messages.get((MASTER, "SharedWeights", False), ()))
    undo = factors(run, rank, primes)
    pieces = held(run, rank, primes)
    views: Views = {
        (MASTER, DATA, DATA, j): {i: x[j].ravel() for i, x in enumerate(pieces)} for j in range(len(primes))
    }
    for (source, kind, transposed), several in messages.items():
        # The parties reduce all products of an iteration modulo one prime before they turn to the next.
        times = len(primes) * (1 if kind == "DoubleShare" else max(iterations, 1))
        in_a_row = max(1, len(several) // times)
        for i, seen in enumerate(several):
            number = int(seen["iteration"]) if "iteration" in seen.fields else i
            for name in SECRET[kind]:
                apart = kind in BETWEEN_PARTIES
                for j, part in {i // in_a_row % len(primes): seen[name]}.items() if apart else enumerate(seen[name]):
                    values = part.ravel()
                    if kind in FOR_ALL_BLOCKS and not transposed:
                        values = (values.astype(np.int64) * undo[j] % primes[j]).astype(np.uint32)
                    views.setdefault((source, kind, f"{name}ᵀ" if transposed else name, j), {})[number] = values
    return views


def joint(own: Sequence[Views], inside: set[int]) -> dict[Any, NDArray[np.uint32]]:
    """What a coalition received from outside: all values of its members beside one another."""
    samples: dict[Any, NDArray[np.uint32]] = {}
    for key in own[0]:
        if key[0] in inside:
            continue
        received = [views[key] for views in own if key in views]
        # a member that fell behind was not asked for everything
        common = [number for number in received[0] if all(number in one for one in received)]
        if not common:
            continue
        rows = [np.concatenate([one[number] for number in common]) for one in received]
        # a king tells everybody the same
        same = key[1] in BETWEEN_PARTIES and any(np.array_equal(rows[0], other) for other in rows[1:])
        if not same and len({len(row) for row in rows}) == 1:
            samples[key] = np.stack(rows)
        else:
            samples |= {(*key, i): row[None] for i, row in enumerate(rows[:1] if same else rows)}
    return samples


def steps(own: Sequence[Views], inside: set[int], primes: Sequence[int]) -> dict[Any, NDArray[np.uint32]]:
    """Differences between one message and the next of its kind: of fresh masks they are uniform too."""
    samples = {}
    for i, views in enumerate(own):
        for key, values in views.items():
            pairs = [(a, b) for a, b in pairwise(values.values()) if len(a) == len(b)]
            if key[0] not in inside and pairs:
                difference = np.concatenate([(b.astype(np.int64) - a) % primes[key[3]] for a, b in pairs])
                samples[(*key, "step", i)] = difference[None].astype(np.uint32)
    return samples


def uniformity(own: Sequence[Views], primes: Sequence[int], inside: set[int]) -> Iterator[float]:
    """p-values of the hypothesis that each sample is uniform."""
    for key, rows in (joint(own, inside) | steps(own, inside, primes)).items():
        if (buckets := buckets_for(*rows.shape)) > 1:
            yield p_value_uniform(rows, primes[key[3]], buckets)


def _same(
    one: dict[Any, NDArray[np.uint32]], other: dict[Any, NDArray[np.uint32]], primes: Sequence[int]
) -> Iterator[float]:
    if one.keys() != other.keys():
        raise UsageError("two runs must send the same messages to be compared, got others")
    for key, rows in one.items():
        size = min(rows.shape[1], other[key].shape[1])
        if (buckets := buckets_for(len(rows), size)) > 1:
            yield p_value_same(rows, other[key], primes[key[3]], buckets)


CONTROL = "more than T workers together are not covered (positive control)"

MOST_WRONG = 0.01
"""Data of which no larger part is wrong is taken for known."""


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
            seen = shares[ranks[0]][0] / hidden.residues.primes[0]
            features = columns - hidden.params.has_ones  # the last column is one of ones

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
        (INSECURE if insecure(run) else CLAIMS[run.method]) if size == T else CONTROL,
        size == T and (None if insecure(run) else True),
        "part of the features that is wrong",
        tuple(scores),
        sum(score <= MOST_WRONG for score in scores),
        seeds=frozenset([run.seed]),
        images=images,
    )
