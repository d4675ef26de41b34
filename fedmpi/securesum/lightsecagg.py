"""Sums whose masks are recovered at one stroke: LightSecAgg [So et al. 2022, section 3].

A member i hides its words under a uniform mask z_i. It cuts z_i in U - T pieces, adds T uniform ones, and gives every
member j the value [z_i]_j of the polynomial through all U of them. When the server knows who has survived, each
survivor tells the sum of its values over them, and any U such sums give the sum of the masks: one interpolation,
whoever was lost, where double masking makes the masks of each pair of a lost member and a survivor again.

Letters: N members, T of them may collude with the server, U survive.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fedmpi.core.field import FieldArray
from fedmpi.core.lagrange import LagrangeCode
from fedmpi.core.residues import WIDE_PRIMES, Residues
from fedmpi.crypto.envelope import OVERHEAD
from fedmpi.crypto.keys import KEY_BYTES
from fedmpi.crypto.random import FieldRandom, SecretStream, Stream
from fedmpi.errors import HeadroomError, ProtocolError, UsageError
from fedmpi.securesum import scheme
from fedmpi.securesum.scheme import Words

PRIMES = WIDE_PRIMES[:2]
"""Integers below 2^51 in size, as residues modulo two primes; everything is done modulo each."""


class LightSecAgg(scheme.Scheme):
    """LightSecAgg for vectors of one length.

    Parameters
    ----------
    members : int
        N; members are numbered from 0.
    threshold : int
        U.
    colluding : int
        T.
    length : int
        Numbers in a vector.

    Raises
    ------
    UsageError
        Unless 1 ≤ T < U ≤ N: with T = 0 the pieces have no uniform part, and a single member could read one of each.
    """

    name = "lightsecagg"
    public_bytes = KEY_BYTES
    dtype = np.dtype("<u4")

    def __init__(self, members: int, threshold: int, colluding: int, length: int):
        if not 1 <= colluding < threshold <= members:
            raise UsageError(
                f"lightsecagg must have 1 ≤ T < U ≤ N, got T = {colluding} that collude, U = {threshold} that survive, "
                f"N = {members} clients"
            )
        self.threshold, self.colluding, self.length = threshold, colluding, length
        self.residues = Residues(PRIMES)
        self.pieces = threshold - colluding
        self.piece = -(-length // self.pieces)
        self.words = len(PRIMES) * length
        self.envelope_bytes = 4 * self.told(0) + OVERHEAD
        self.codes = [LagrangeCode(field, self.pieces, colluding, members, 1) for field in self.residues.fields]

    def member(self, number: int, round: int) -> "Member":
        """A fresh member."""
        return Member(self, number, round)

    def told(self, sharers: int) -> int:
        """A value of one polynomial for each prime, whoever has shared."""
        return len(PRIMES) * self.piece

    def check_hidden(self, row: Words) -> None:
        """They are residues."""
        self.split(row)

    def check_told(self, row: NDArray[np.uint32]) -> None:
        """They are residues."""
        self.split(row)

    def add(self, total: Words, row: Words) -> Words:
        """Modulo each prime."""
        return self.residues.add(self.split(total), self.split(row)).reshape(-1)

    def unmask(
        self,
        total: Words,
        round: int,
        publics: Mapping[int, bytes],
        survivors: frozenset[int],
        told: Mapping[int, NDArray[np.uint32]],
    ) -> Words:
        """One interpolation [So et al. 2022, eq. (7)]."""
        if len(told) < self.threshold:
            raise ProtocolError(f"at least {self.threshold} members must tell, got {len(told)}")
        sums = {k: self.split(row) for k, row in told.items()}
        opened = []
        for j, (field, code, hidden) in enumerate(
            zip(self.residues.fields, self.codes, self.split(total), strict=True)
        ):
            mask = code.decode({k: row[j] for k, row in sums.items()}).reshape(-1)[: self.length]
            opened.append(field.subtract(hidden, mask))
        return np.concatenate(opened)

    def encode(self, values: NDArray[np.float64], bits: int, summands: int) -> Words:
        """Residues modulo two primes: N·|v|·2^bits must be below half of their product."""
        most = self.residues.half / summands * 2.0**-bits
        if not np.abs(values).max(initial=0.0) < most:  # nor is NaN
            wrong = values[~(np.abs(values) < most)][0]
            raise HeadroomError(f"a value must be below {most:.6g} in size for {summands} summands, got {wrong:.6g}")
        return self.residues.from_signed(np.rint(values * 2.0**bits)).reshape(-1)

    def decode(self, words: Words, bits: int) -> NDArray[np.float64]:
        """The reals of a sum of encoded vectors."""
        return self.residues.reals(self.split(words), bits)

    def split(self, words: Words) -> FieldArray:
        """Words as residues, shape (primes, n).

        Raises
        ------
        ProtocolError
            If they are none.
        """
        rows = words.reshape(len(PRIMES), -1)
        if not self.residues.contains(rows):
            raise ProtocolError(f"words must be residues modulo {PRIMES}, got larger ones")
        return rows


class Member(scheme.Member):
    """One member in one round.

    Parameters
    ----------
    plan : LightSecAgg
    number : int
        0 ≤ number < N.
    round : int
    stream : Stream, optional
        Default: a fresh `SecretStream`.
    """

    label = b"LightSecAgg share"

    def __init__(self, plan: LightSecAgg, number: int, round: int, stream: Stream | None = None):
        random = SecretStream() if stream is None else stream
        masks, dealt = [], []
        for field, code in zip(plan.residues.fields, plan.codes, strict=True):
            uniform = FieldRandom(field.p, random)
            mask = uniform((plan.pieces, plan.piece))
            dealt.append(code.encode(mask, uniform))
            masks.append(mask.reshape(-1)[: plan.length])
        super().__init__(number, round, plan.threshold, np.stack(dealt, axis=1))  # (N, primes, piece)
        self._plan, self._mask = plan, np.stack(masks)

    def read(self, contents: bytes) -> FieldArray:
        """[z_i]_j, shape (primes, piece)."""
        if len(contents) != 4 * self._plan.told(0):
            raise ProtocolError(f"an envelope must hold {4 * self._plan.told(0)} bytes, got {len(contents)}")
        return self._plan.split(np.frombuffer(contents, "<u4"))

    def mask(self, words: Words) -> Words:
        """The words of this member, hidden under z_i."""
        self._mask_once()
        return self._plan.add(words, self._mask.reshape(-1))

    def tell(self, survivors: frozenset[int]) -> NDArray[np.uint32]:
        """Σ [z_i]_j over the survivors i: of the sum of their masks, and of no other."""
        self._tell_once(survivors)
        total = np.zeros_like(self._held[self.number])
        for i in survivors:
            total = self._plan.residues.add(total, self._held[i])
        return total.reshape(-1)
