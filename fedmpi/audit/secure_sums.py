"""Double masking and LightSecAgg: the server alone, with as many clients as may collude, and with one too many."""

import itertools
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from fedmpi.audit.clients import SERVER
from fedmpi.audit.finding import Finding
from fedmpi.audit.recording import Recorded
from fedmpi.audit.statistics import ALARM, buckets_for, least, p_value_of_words, p_value_uniform
from fedmpi.audit.uploads import described
from fedmpi.errors import ProtocolError
from fedmpi.securesum.double_masking import DoubleMasking, half
from fedmpi.securesum.lightsecagg import PRIMES, LightSecAgg
from fedmpi.securesum.scheme import Member, Scheme

CLAIM = "the server, and T clients with it, learn the sum of a round's uploads alone"

CONTROL = "U clients and the server read every upload (positive control)"

CARRIED = ("Envelopes", "Shares")
"""Messages with envelopes in them."""

SEALED = "who carries an envelope learns nothing of what is in it (X25519, AES-256-GCM)"

CLIENTS, THRESHOLD, COLLUDING, LENGTH = 10, 7, 4, 500

BITS = 20
"""Behind the point of what is summed."""

READ = 0.5
"""A part of the numbers that counts as having read them."""


def findings(run: Recorded) -> Iterator[Finding]:
    """The server of a run: is what it gets of one client uniform, in each round and from one round to the next?"""
    name = run.config.get("secure_sum", "none")
    if name == "none":
        return
    views: dict[int, list[NDArray[np.unsignedinteger]]] = {}
    for seen in run.view(SERVER, "Masked"):
        for k, row in zip(seen["clients"].tolist(), seen["words"], strict=True):
            words = np.ascontiguousarray(row).view("<u8" if name == "double" else "<u4")
            views.setdefault(k, []).append(words)
    if not views:
        return
    test = of_words if name == "double" else of_residues
    p_values = [test(words) for words in views.values()]
    saw = f"one client's hidden words of {max(map(len, views.values()))} rounds"
    row = "server", saw, "uniformity of words, and between rounds (χ²)", CLAIM
    yield tested(run, row, p_values, target="updates")


def sealed(run: Recorded) -> Iterator[Finding]:
    """Whoever carries envelopes, as the server does: is what clients seal for one another uniform?"""
    seen = [one for rank in run.ranks for one in run.view(rank, *CARRIED)]
    apart = [one["sealed"].reshape(-1, one["sealed"].shape[-1]) for one in seen if one["sealed"].size]
    whole = [envelopes[envelopes.any(axis=1)] for envelopes in apart]  # a client has none for itself
    p_values = [p_value_of_words([one]) for one in whole if buckets_for(1, one.size) > 1]
    if not p_values:
        return
    row = "who carries them", "sealed shares of masks or of noise", "uniformity of bytes (χ²)", SEALED
    yield tested(run, row, p_values, target="shares")


def tested(run: Recorded, row: tuple[str, str, str, str], p_values: list[float], target: str) -> Finding:
    """Of numbers that must be uniform; the row names who sees which of them, the test, and the claim."""
    return Finding(
        run.system,
        described(run),
        *row,
        True,
        "p-value",
        tuple(p_values),
        sum(p < ALARM for p in p_values),
        seeds=frozenset([run.seed]),
        target=target,
    )


def of_words(words: list[NDArray[np.unsignedinteger]]) -> float:
    """Of words in Z_{2^64}."""
    return p_value_of_words([*words, *(b - a for a, b in itertools.pairwise(words))])


def of_residues(words: list[NDArray[np.unsignedinteger]]) -> float:
    """Of residues, those of one prime behind those of another."""
    p_values = []
    for j, p in enumerate(PRIMES):
        rows = [np.split(own, len(PRIMES))[j].astype(np.int64) for own in words]
        for row in [*rows, *((b - a) % p for a, b in itertools.pairwise(rows))]:
            p_values.append(p_value_uniform(row[None], p, buckets_for(1, len(row))))
    return least(p_values)


def together(seed: int) -> Iterator[Finding]:
    """One round in memory: what clients in league hold, and no run folder has, is at hand here."""
    rng = np.random.default_rng(seed)
    for scheme in (
        DoubleMasking(CLIENTS, THRESHOLD, LENGTH),
        LightSecAgg(CLIENTS, THRESHOLD, COLLUDING, LENGTH),
    ):
        for count, protects in ((scheme.colluding, True), (scheme.threshold, False)):
            members, publics = gathered(scheme)
            vectors = np.rint(rng.normal(size=(CLIENTS, LENGTH)) * 2.0**BITS) / 2.0**BITS
            hidden = [m.mask(scheme.encode(v, BITS, CLIENTS)) for m, v in zip(members, vectors, strict=True)]
            victims = range(count, CLIENTS)
            parts = [
                float(np.mean(opened(scheme, members[:count], publics, victim, hidden[victim]) == vectors[victim]))
                for victim in victims
            ]
            broken = [part > READ for part in parts]
            yield Finding(
                "niss",
                f"secure sum, {scheme.name}, U = {scheme.threshold}, T = {scheme.colluding}",
                f"server and {count} of the clients ({'T' if protects else 'U'})",
                "the words of one upload, and all that these clients hold (in one process)",
                "they tell of one upload what is told of sums",
                CLAIM if protects else CONTROL,
                protects,
                "part that is read",
                tuple(parts),
                sum(broken),
                seeds=frozenset([seed]),
                target="updates",
            )


def gathered(scheme: Scheme) -> tuple[list[Member], dict[int, bytes]]:
    """Members that have shared, and their public keys."""
    members = [scheme.member(k, 0) for k in range(CLIENTS)]
    publics = {m.number: m.public for m in members}
    for sender, envelopes in enumerate([m.envelopes(publics) for m in members]):
        for receiver, envelope in envelopes.items():
            members[receiver].accept(sender, envelope)
    return members, publics


def opened(
    scheme: Scheme,
    coalition: list[Member],
    publics: Mapping[int, bytes],
    victim: int,
    hidden: NDArray[np.unsignedinteger],
) -> NDArray[np.float64]:
    """What a server makes of one upload with those who tell what they hold, as though the victim alone had survived.

    Those that are missing tell zeros.
    """
    told = {m.number: holds(scheme, m, victim) for m in coalition}
    for k in range(CLIENTS):
        if len(told) < scheme.threshold and k not in told:
            told[k] = np.zeros(scheme.told(len(publics)), np.uint32)
    try:
        words = scheme.unmask(hidden, 0, publics, frozenset([victim]), told)
    except ProtocolError:
        return np.full(LENGTH, np.nan)
    return scheme.decode(words, BITS)


def holds(scheme: Scheme, member: Member, victim: int) -> NDArray[np.uint32]:
    """A member's part of what opens one upload."""
    if isinstance(scheme, LightSecAgg):
        return member.held[victim].reshape(-1)
    return np.concatenate([half(held, lost=k != victim) for k, held in sorted(member.held.items())])
