"""Arrays of galois in PrimeField, LagrangeCode and Shamir, with galois' own arithmetic as the oracle."""

import sys

import galois
import numpy as np
import oracles
import pytest

from fedmpi.core import LagrangeCode, PrimeField, Shamir
from fedmpi.core.galois_arrays import galois_in_and_out
from fedmpi.errors import UsageError

F = PrimeField(2**25 - 39)
GF = oracles.galois_field(F.p)


def uniform(shape: tuple[int, ...]) -> galois.FieldArray:
    return GF.Random(shape, seed=sum(shape))


A, B, v, w = uniform((4, 3)), uniform((3, 2)), uniform((5,)), uniform((5, 1))[:, 0]


@pytest.mark.parametrize(
    ("ours", "galoiss"),
    [
        (lambda: F.product(A, B), lambda: A @ B),
        (lambda: F.transposed_product(A, A[:, :2]), lambda: A.T @ A[:, :2]),
        (lambda: F.matmul(A, [v, w, v]), lambda: A @ GF(np.stack([v, w, v]))),
        (lambda: F.add(v, w), lambda: v + w),
        (lambda: F.subtract(v, w), lambda: v - w),
        (lambda: F.multiply(v, w), lambda: v * w),
        (lambda: F.inverse(v[0]), lambda: GF(1) / v[0]),
    ],
)
def test_arithmetic_is_that_of_galois(ours, galoiss):
    result, expected = ours(), galoiss()
    assert type(result) is GF
    assert result.dtype == v.dtype
    assert np.array_equal(result, expected)


def test_a_polynomial_of_shares_decodes_to_that_of_the_blocks():
    code = LagrangeCode(F, parallelization=2, privacy=1, workers=7, degree=3)
    blocks = [uniform((2, 3)), uniform((2, 3)) + GF(1)]
    shares = code.encode(blocks, uniform)
    assert type(shares) is GF
    answers = {i: shares[i] * shares[i] * shares[i] + shares[i] for i in range(7)}
    expected = [block**3 + block for block in blocks]
    decoded = code.decode(answers)
    assert type(decoded) is GF
    assert all(np.array_equal(one, other) for one, other in zip(decoded, expected, strict=True))
    assert np.array_equal(code.decode_sums(answers)[0], expected[0] + expected[1])
    assert np.array_equal(code.encode_repeated(blocks[0], uniform), code.encode([blocks[0]] * 2, uniform))


def test_shares_of_shamir_lie_on_galois_polynomials():
    sharing, secret = Shamir(F, parties=5, threshold=2), GF([7, 8])
    shares = sharing.share(secret, uniform)
    assert type(shares) is GF
    for column, value in zip(shares.T, secret, strict=True):
        polynomial = galois.lagrange_poly(GF(sharing.points[:3]), column[:3])
        assert polynomial(GF(0)) == value
        assert polynomial(GF(5)) == column[4]
    found = sharing.reconstruct({i: shares[i] for i in (1, 3, 4)})
    assert type(found) is GF
    assert np.array_equal(found, secret)
    wrong = {i: shares[i] + GF(i == 2) for i in range(5)}
    corrected, liars = sharing.reconstruct_checked(wrong, 2, 1, uniform)
    assert type(corrected) is GF
    assert np.array_equal(corrected, secret)
    assert liars == {2}


def test_numbers_and_plain_arrays_stay_what_they_are():
    plain = F.array(v)
    assert type(plain) is np.ndarray
    assert plain.dtype == np.uint32
    assert np.array_equal(plain, v)
    assert F.contains(v)
    assert np.array_equal(F.array(F.to_signed(v)), plain)
    assert type(F.add(plain, plain)) is np.ndarray
    assert np.array_equal(F.add(v, plain), v + v), "both kinds together"
    assert F.inverse(2) == (F.p + 1) // 2


def test_another_field_is_refused():
    with pytest.raises(UsageError, match=r"arrays of galois must be of GF\(33554393\), got one of GF\(7\)"):
        F.add(galois.GF(7)([1]), v)


def test_without_galois_nothing_is_looked_at(monkeypatch):
    class Own:
        p = 7

        @galois_in_and_out
        def same(self, value: object) -> object:
            return value

    monkeypatch.delitem(sys.modules, "galois")
    assert Own().same(v) is v
