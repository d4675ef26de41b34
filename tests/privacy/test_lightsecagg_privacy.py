"""What an honest-but-curious server and T colluding members learn of the others by LightSecAgg: the sum, no more."""

import copy
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest

from fedmpi.core import LagrangeCode, PrimeField, Residues
from fedmpi.crypto.random import FieldRandom, SecretStream
from fedmpi.errors import ProtocolError
from fedmpi.securesum import lightsecagg
from fedmpi.securesum.lightsecagg import LightSecAgg, Member

N, U, T, LENGTH = 6, 4, 2, 4
SURVIVORS = frozenset(range(5))
VICTIM, OTHER = 3, 4
Mutation = Callable[[pytest.MonkeyPatch], None]


def gathered(scheme: LightSecAgg, round: int = 0) -> list[Member]:
    there = [scheme.member(k, round) for k in range(N)]
    publics = {m.number: m.public for m in there}
    for sender, envelopes in enumerate([m.envelopes(publics) for m in there]):
        for receiver, envelope in envelopes.items():
            there[receiver].accept(sender, envelope)
    return there


def inverse(field: PrimeField, matrix: np.ndarray) -> np.ndarray:
    """Of a square matrix modulo p, by Gauss and Jordan in integers of any size."""
    p, n = field.p, len(matrix)
    rows = [[int(v) for v in row] + [int(i == j) for j in range(n)] for i, row in enumerate(matrix)]
    for i in range(n):
        pivot = next(r for r in range(i, n) if rows[r][i] % p)
        rows[i], rows[pivot] = rows[pivot], rows[i]
        factor = pow(rows[i][i], -1, p)
        rows[i] = [v * factor % p for v in rows[i]]
        for r in range(n):
            if r != i:
                rows[r] = [(a - rows[r][i] * b) % p for a, b in zip(rows[r], rows[i], strict=True)]
    return np.array([row[n:] for row in rows], np.uint32)


def view(there: list[Member], scheme: LightSecAgg, words: np.ndarray, coalition: tuple[int, ...]) -> list[bytes]:
    """All that the server and a coalition see: hidden words, the coalition's values, and what the survivors tell."""
    held = [there[c]._held[k].tobytes() for c in coalition for k in range(N)]
    hidden = [m.mask(row).tobytes() for m, row in zip(there, words, strict=True)]
    return [*held, *hidden, *(there[k].tell(SURVIVORS).tobytes() for k in SURVIVORS)]


def explained(scheme: LightSecAgg, coalition: tuple[int, ...]) -> bool:
    """Whether another vector of the victim, whose difference is at another survivor, gives just the same view.

    The members' masks and values are changed as the difference δ takes it: z by ∓δ, and the T uniform pieces so that
    no value at the coalition moves.
    """
    there, residues = gathered(scheme), scheme.residues
    uniform = [FieldRandom(p) for p in residues.primes]
    words = np.stack([np.stack([draw((LENGTH,)) for draw in uniform]).reshape(-1) for _ in range(N)])
    delta = np.stack([draw((scheme.pieces, scheme.piece)) for draw in uniform])
    moves = []
    for field, code, change in zip(residues.fields, scheme.codes, delta, strict=True):
        rows = code.encoding_matrix[list(coalition[:T])]
        top, bottom = rows[:, : scheme.pieces], rows[:, scheme.pieces :]
        pieces = field.matmul(inverse(field, bottom), field.subtract(np.zeros_like(change), field.matmul(top, change)))
        moves.append(field.matmul(code.encoding_matrix, np.concatenate([change, pieces])))
    move = np.stack(moves, axis=1)  # (N, primes, piece): how every value changes
    others, other_words = twins(there), words.copy()
    flat = delta.reshape(len(delta), -1)[:, :LENGTH]
    for k, plus, minus in ((VICTIM, PrimeField.add, PrimeField.subtract), (OTHER, PrimeField.subtract, PrimeField.add)):
        shift(residues, others[k]._mask, flat, plus)
        shift(residues, other_words[k].reshape(flat.shape), flat, minus)
        for m in others:
            shift(residues, m._held[k], move[m.number], plus)
    return view(others, scheme, other_words, coalition) == view(there, scheme, words, coalition)


def shift(residues: Residues, rows: np.ndarray, by: np.ndarray, how: Callable[..., np.ndarray]) -> None:
    """Add to residues, or subtract, in place."""
    for field, row, change in zip(residues.fields, rows, by, strict=True):
        row[:] = how(field, row, change)


def twins(there: list[Member]) -> list[Member]:
    """The same members, with masks and values of their own."""
    copies = []
    for m in there:
        again = copy.copy(m)
        again._mask = m._mask.copy()
        again._held = {k: held.copy() for k, held in m._held.items()}
        copies.append(again)
    return copies


@pytest.mark.parametrize("coalition", [*combinations(range(3), T)])
def test_other_vectors_with_the_same_sum_explain_all_that_is_seen(coalition: tuple[int, ...]) -> None:
    assert explained(LightSecAgg(N, U, T, LENGTH), coalition)


def test_one_colluder_more_is_too_many() -> None:
    """The control: where the values at T members stay, those at another one move."""
    assert not explained(LightSecAgg(N, U, T, LENGTH), (0, 1, 2))


def recovered(scheme: LightSecAgg) -> bool:
    """Whether T members read the victim's mask, as they can if the pieces have no uniform part."""
    there = gathered(scheme)
    truth = there[VICTIM]._mask
    found = []
    for j, (field, code) in enumerate(zip(scheme.residues.fields, scheme.codes, strict=True)):
        rows = code.encoding_matrix[:T, : scheme.pieces]
        values = np.stack([there[c]._held[VICTIM][j] for c in range(T)])
        found.append(field.matmul(inverse(field, rows), values).reshape(-1)[:LENGTH])
    return np.array_equal(np.stack(found), truth)


def without_uniform_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the helpers of public implementations have it."""
    encode = LagrangeCode.encode
    monkeypatch.setattr(
        LagrangeCode, "encode", lambda self, blocks, uniform: encode(self, blocks, lambda s: np.zeros(s, np.uint32))
    )


@pytest.mark.parametrize(("mutation", "falls"), [(None, False), (without_uniform_part, True)])
def test_values_of_a_mask_have_a_uniform_part(
    mutation: Mutation | None, falls: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if mutation is not None:
        mutation(monkeypatch)
    assert recovered(LightSecAgg(N, U, T, LENGTH)) is falls


class Same(SecretStream):
    """A stream that begins anew for every member, and in every round."""

    def __init__(self) -> None:
        super().__init__(bytes(32))


@pytest.mark.parametrize(("stream", "falls"), [(SecretStream, False), (Same, True)])
def test_masks_are_fresh_in_every_round(stream: type, falls: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The difference of two uploads of one member is that of its vectors if a mask comes again."""
    monkeypatch.setattr(lightsecagg, "SecretStream", stream)
    scheme = LightSecAgg(N, U, T, LENGTH)
    first, second = (gathered(scheme, t)[VICTIM] for t in range(2))
    words = [scheme.encode(np.full(LENGTH, value), 20, N) for value in (1.0, 1.5)]
    rows = [scheme.split(m.mask(w)) for m, w in zip((first, second), words, strict=True)]
    difference = np.stack([f.subtract(b, a) for f, a, b in zip(scheme.residues.fields, *rows, strict=True)])
    assert np.array_equal(scheme.residues.reals(difference, 20), np.full(LENGTH, 0.5)) is falls


def test_a_late_upload_stays_hidden() -> None:
    """The server took the victim for lost and opened the others' sum; its upload, should it come, has its mask."""
    scheme = LightSecAgg(N, U, T, LENGTH)
    there = gathered(scheme)
    survivors = frozenset(range(N)) - {VICTIM}
    told = {k: there[k].tell(survivors) for k in survivors}
    publics = {m.number: m.public for m in there}
    total = np.zeros(scheme.words, np.uint32)
    for k in survivors:
        total = scheme.add(total, there[k].mask(scheme.encode(np.full(LENGTH, float(k)), 20, N)))
    opened = scheme.decode(scheme.unmask(total, 0, publics, survivors, told), 20)
    np.testing.assert_array_equal(opened, np.full(LENGTH, float(sum(survivors))))
    with pytest.raises(ProtocolError, match="asked once in round 0, got a second list"):
        there[0].tell(frozenset(range(N)))
