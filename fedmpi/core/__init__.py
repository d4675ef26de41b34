"""Pure mathematics: arrays in, arrays out. No messages, files, clocks, or randomness of its own."""

from fedmpi.core.field import DEFAULT_PRIME, FieldArray, PrimeField
from fedmpi.core.lagrange import LagrangeCode
from fedmpi.core.residues import WIDE_PRIMES, Residues
from fedmpi.core.shamir import Shamir

__all__ = ["DEFAULT_PRIME", "WIDE_PRIMES", "FieldArray", "LagrangeCode", "PrimeField", "Residues", "Shamir"]
