"""PPADMM: S1 alone, S2 alone, and S1 with S2, which its privacy does not survive."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from fedmpi.audit.finding import Finding
from fedmpi.audit.recording import Recorded, Seen, read_view
from fedmpi.audit.statistics import ALARM, least, octets, p_value_of_words, p_value_same
from fedmpi.core.fixed_point import decode_wide
from fedmpi.crypto.keys import KeyPair
from fedmpi.crypto.masks import mask_words
from fedmpi.net import Channel, run_local
from fedmpi.ppadmm.auxiliary import auxiliary_server
from fedmpi.ppadmm.params import FIRST_ITERATION, Params
from fedmpi.ppadmm.protocol import Own, participant, primary_server
from fedmpi.ppadmm.secure_sum import AUXILIARY, PRIMARY, key_info
from fedmpi.ppadmm.service import salt_of

CLAIM = "two servers that don't collude learn no participant's update"

CONTROL = "two servers that collude learn every update (positive control)"

PUBLIC_TO_S2 = {
    "ParticipantKey": {"epoch", "count"},
    "Present": {"round", "stage", "count", "counted"},
    "Done": set[str](),
}
"""What S2 may get besides `FRESH`: nothing in it depends on data."""

FRESH = frozenset(("public", "order"))
"""Fields of random bytes: public keys, and digests of orders with a nonce that S2 does not get."""

UPDATES = "masked updates of each participant"

COLUMNS = "masked sums of columns, and of squares, of each participant"

MASKS = "sums of masks, from S2"

SUCCESS = 1e-6
"""Relative error of sums that counts as having read them."""

TIMEOUT_SECONDS = 60.0

Words = NDArray[np.uint64]


def findings(run: Recorded) -> Iterator[Finding]:
    """S1: uniformity of every participant's words. S2: whether anything but keys and round numbers came."""
    if run.method != "ppadmm":
        return
    attack = "uniformity of words, and from one round to the next (χ²)"
    for saw, lots in ((UPDATES, updates_of(run)), (COLUMNS, columns_of(run)), (MASKS, masks_of(run))):
        p_values = [p_value_of_words([*words, *differences(words)]) for words in lots.values()]
        yield finding(run.seed, "S1", saw, attack, "p-value", p_values, [p < ALARM for p in p_values])
    strange = sum(not harmless(seen) for seen in run.view(AUXILIARY))
    saw, attack = "all messages to it", "any field that could depend on data"
    yield finding(run.seed, "S2", saw, attack, "messages with one", [float(strange)], [strange > 0])


def comparison(run: Recorded, other: Recorded) -> Iterator[Finding]:
    """Whether what S1 and S2 get tells two data sets of one shape apart."""
    if run.method != "ppadmm":
        return
    one, two = updates_of(run), updates_of(other)
    p_values = [least(_same(np.concatenate(one[rank]), np.concatenate(two[rank]))) for rank in one]
    attack = "two-sample test between two data sets (χ²)"
    yield finding(run.seed, "S1", UPDATES, attack, "p-value", p_values, [p < ALARM for p in p_values])
    told = [sorted(_public(seen) for seen in each.view(AUXILIARY)) for each in (run, other)]
    differ = told[0] != told[1] and len(told[0]) == len(told[1])  # the number of rounds is public
    saw, attack = "all messages to it but keys", "equality between two data sets"
    yield finding(run.seed, "S2", saw, attack, "whether they differ", [float(differ)], [differ])


def updates_of(run: Recorded) -> dict[int, list[Words]]:
    """Participant → its words of each iteration, as S1 got them."""
    updates: dict[int, list[Words]] = {}
    for seen in run.view(PRIMARY, "MaskedUpdate"):
        if int(seen["round"]) >= FIRST_ITERATION:
            updates.setdefault(seen.source, []).append(seen["words"])
    return updates


def columns_of(run: Recorded) -> dict[int, list[Words]]:
    """Participant → its words of what comes before the iterations, as S1 got them."""
    early: dict[int, list[Words]] = {}
    for seen in run.view(PRIMARY, "MaskedUpdate"):
        if int(seen["round"]) < FIRST_ITERATION:
            early.setdefault(seen.source, []).append(seen["words"])
    return early


def masks_of(run: Recorded) -> dict[int, list[Words]]:
    """What S2 told of the iterations: sums that are as uniform as the masks in them."""
    told = run.view(PRIMARY, "MaskSum")
    return {AUXILIARY: [seen["words"] for seen in told if int(seen["round"]) >= FIRST_ITERATION]}


def differences(words: list[Words]) -> list[Words]:
    """Between one round and the next: of fresh masks they are uniform too."""
    return [b - a for a, b in itertools.pairwise(words) if a.shape == b.shape]


def harmless(seen: Seen) -> bool:
    """Whether a message to S2 is of a known kind, with whole numbers of the protocol and fresh random bytes in it."""
    if seen.kind in ("Setup", "Leave", "Heard"):  # from S1, who has no data
        return seen.source == PRIMARY
    if seen.kind not in PUBLIC_TO_S2 or seen.fields.keys() - PUBLIC_TO_S2[seen.kind] - FRESH:
        return False
    return all(value.shape == () for name, value in seen.fields.items() if name not in FRESH)


def _public(seen: Seen) -> tuple[str, ...]:
    told = (*FRESH, "job")  # names and parameters differ between the two runs, and are public
    fields = {name: value.tolist() for name, value in seen.fields.items() if name not in told}
    return seen.kind, str(seen.source), str(sorted(fields.items()))


def _same(one: Words, two: Words) -> Iterator[float]:
    for a, b in zip(octets(one), octets(two), strict=True):
        yield p_value_same(a[None], b[None], 256, 64)


def finding(
    seed: int,
    adversary: str,
    saw: str,
    attack: str,
    measure: str,
    scores: Sequence[float],
    broken: Sequence[bool],
    *,
    protects: bool = True,
    claim: str = "",
) -> Finding:
    """A row of the table; by default the claim is the paper's, or that a control must work."""
    return Finding(
        "ppadmm",
        "ppadmm",
        adversary,
        saw,
        attack,
        claim or (CLAIM if protects else CONTROL),
        protects,
        measure,
        tuple(scores),
        sum(broken),
        seeds=frozenset([seed]),
        target="updates",
    )


# -- S1 with S2 -------------------------------------------------------------------------------------------------------


def together(seed: int, participants: int = 3, rows: int = 40, columns: int = 100) -> Iterator[Finding]:
    """One training on threads, so that S2's keys, which no run folder has, are there for S1.

    What is read are the sums of each participant's columns, which it sends under a mask, behind its number of rows,
    before the first iteration.
    """
    rng = np.random.default_rng(seed)
    parts = [(rng.normal(size=(rows, columns)), rng.normal(size=rows)) for _ in range(participants)]
    params, pairs = Params(iterations=3, tolerance=0, deadline=TIMEOUT_SECONDS), list[KeyPair]()
    salt = salt_of(params)

    def new_pair() -> KeyPair:
        pairs.append(KeyPair())
        return pairs[-1]

    def primary(ch: Channel) -> None:
        primary_server(ch, params)
        ch.save_views(folder)

    def auxiliary(ch: Channel) -> None:
        auxiliary_server(ch, params, salt, new_pair)
        ch.save_views(folder)

    def member(ch: Channel) -> None:
        participant(ch, params, Own(*parts[ch.rank - 2], salt))

    with TemporaryDirectory(prefix="fedmpi-") as name:
        folder = Path(name)
        run_local([primary, auxiliary, *[member] * participants], timeout_seconds=TIMEOUT_SECONDS, record_views=True)
        updates = read_view(folder / f"rank-{PRIMARY}.npz", "MaskedUpdate")
        publics = read_view(folder / f"rank-{AUXILIARY}.npz", "ParticipantKey")
    first = {seen.source: seen["words"] for seen in sorted(updates, key=lambda seen: seen.source) if seen["round"] == 0}
    keys = {
        seen.source: pairs[0].shared(seen["public"].tobytes(), info=key_info(0, seen.source), salt=salt)
        for seen in publics
    }
    unmasked = {rank: words - mask_words(params.mask, keys[rank], 0, len(words)) for rank, words in first.items()}
    sums = {rank: A.sum(axis=0) for rank, (A, _) in enumerate(parts, start=2)}
    for who, words, protects in (("S1", first, True), ("S1 and S2", unmasked, False)):
        found = {rank: decode_wide(words[rank])[1 : columns + 1] for rank in sums}
        errors = [float(np.linalg.norm(found[rank] - true) / np.linalg.norm(true)) for rank, true in sums.items()]
        saw = "updates of round 0 (on threads)" if protects else "updates of round 0, and S2's keys (on threads)"
        broken = [error < SUCCESS for error in errors]
        attack = "column sums of each participant"
        one = finding(seed, who, saw, attack, "relative error", errors, broken, protects=protects)
        yield with_picture(one, sums, found)


def with_picture(one: Finding, sums: dict[int, NDArray[np.float64]], found: dict[int, NDArray[np.float64]]) -> Finding:
    """The column sums of all participants, one a line."""
    true = np.stack(list(sums.values()))
    low, high = true.min(), true.max()

    def image(values: NDArray[np.float64]) -> NDArray[np.float64]:
        scaled: NDArray[np.float64] = np.clip((values - low) / (high - low), 0, 1)
        return scaled[None, None]

    seen = np.stack([found[rank] for rank in sums])
    return replace(one, images={"column sums of each participant": image(true), "read by the adversary": image(seen)})
