"""Pure mathematics: arrays in, arrays out. No messages, files, clocks, or randomness of its own.

Prime fields, and several of them side by side, are in `field` and `residues`. What hides numbers in them is in
`lagrange` (Lagrange codes) and `shamir` (Shamir's shares), and `reed_solomon` finds shares that are wrong. The rest
turns real numbers into integers and back, or is a function that several systems need. The C kernels, loaded by
`native`, each have a twin in numpy that gives the same bits.
"""

from fedmpi.core.field import DEFAULT_PRIME, FieldArray, PrimeField
from fedmpi.core.lagrange import LagrangeCode
from fedmpi.core.residues import WIDE_PRIMES, Residues
from fedmpi.core.shamir import Shamir

__all__ = ["DEFAULT_PRIME", "WIDE_PRIMES", "FieldArray", "LagrangeCode", "PrimeField", "Residues", "Shamir"]
