"""Shamir: any T + 1 shares give the secret, a product needs 2T + 1."""

from itertools import combinations

import numpy as np
import oracles
import pytest

from fedmpi.core.field import PrimeField
from fedmpi.core.shamir import Shamir
from fedmpi.errors import UsageError

PRIMES = pytest.mark.parametrize("p", [101, 2**25 - 39, 2**31 - 1])
FIELD = PrimeField()


def subset(shares, parties):
    return {i: shares[i] for i in parties}


@PRIMES
@pytest.mark.parametrize(("parties", "threshold"), [(1, 0), (4, 0), (4, 1), (7, 3), (6, 5)])
def test_every_subset_of_one_more_than_the_threshold_reconstructs(p, parties, threshold):
    sharing = Shamir(PrimeField(p), parties, threshold)
    secret = oracles.uniform(p, 1)((2, 3))
    shares = sharing.share(secret, oracles.uniform(p, 2))
    assert shares.shape == (parties, 2, 3)
    for chosen in combinations(range(parties), threshold + 1):
        np.testing.assert_array_equal(sharing.reconstruct(subset(shares, chosen)), secret)


@PRIMES
def test_fifty_parties_reconstruct_from_random_subsets(p):
    sharing = Shamir(PrimeField(p), 50, 24)
    secret = oracles.uniform(p, 3)((6,))
    shares = sharing.share(secret, oracles.uniform(p, 4))
    rng = np.random.default_rng(5)
    for _ in range(10):
        chosen = rng.permutation(50)[:25].tolist()
        np.testing.assert_array_equal(sharing.reconstruct(subset(shares, chosen)), secret)


@PRIMES
def test_shares_lie_on_the_polynomial_through_the_secret_at_zero(p):
    sharing = Shamir(PrimeField(p), 5, 2)
    secret, coefficients = oracles.uniform(p, 6)((3,)), oracles.uniform(p, 7)((2, 3))
    shares = sharing.share(secret, lambda shape: coefficients)
    for column in range(3):
        a0, a1, a2 = int(secret[column]), int(coefficients[0, column]), int(coefficients[1, column])
        expected = [(a0 + a1 * x + a2 * x * x) % p for x in sharing.points]
        assert shares[:, column].tolist() == expected
        assert oracles.interpolate(sharing.points[:3], expected[:3], [0], p) == [a0]


@PRIMES
@pytest.mark.parametrize(("parties", "threshold"), [(3, 1), (6, 2), (7, 3)])
def test_products_of_shares_reconstruct_the_product_at_twice_the_degree(p, parties, threshold):
    sharing = Shamir(PrimeField(p), parties, threshold)
    a, b = oracles.uniform(p, 8)((4,)), oracles.uniform(p, 9)((4,))
    shares_a, shares_b = sharing.share(a, oracles.uniform(p, 10)), sharing.share(b, oracles.uniform(p, 11))
    products = (shares_a.astype(object) * shares_b % p).astype(np.uint32)
    expected = a.astype(object) * b % p
    for chosen in combinations(range(parties), 2 * threshold + 1):
        np.testing.assert_array_equal(sharing.reconstruct(subset(products, chosen), 2 * threshold), expected)
    assert (sharing.reconstruct(subset(products, range(parties))) != expected).any()  # degree T does not do


@PRIMES
@pytest.mark.parametrize(("parties", "threshold"), [(3, 1), (7, 3), (5, 0)])
def test_completed_shares_reconstruct(p, parties, threshold):
    sharing = Shamir(PrimeField(p), parties, threshold)
    secret, first = oracles.uniform(p, 1)((4,)), oracles.uniform(p, 2)((threshold, 4))
    others = sharing.field.matmul(sharing.completion, [secret, *first])
    shares = [*first, *others]
    assert len(shares) == parties
    for some in combinations(range(parties), threshold + 1):
        np.testing.assert_array_equal(sharing.reconstruct({i: shares[i] for i in some}), secret)


@PRIMES
def test_sums_of_shares_reconstruct_the_sum(p):
    field = PrimeField(p)
    sharing = Shamir(field, 5, 2)
    a, b = oracles.uniform(p, 12)((4,)), oracles.uniform(p, 13)((4,))
    sums = sharing.share(a, oracles.uniform(p, 14)).astype(np.int64) + sharing.share(b, oracles.uniform(p, 15))
    expected = (a.astype(np.int64) + b) % p
    np.testing.assert_array_equal(sharing.reconstruct(dict(enumerate(field.array(sums)))), expected)


def test_sharing_asks_once_for_one_coefficient_per_collusion_and_element():
    asked = []

    def uniform(shape):
        asked.append(shape)
        return oracles.uniform(FIELD.p, 1)(shape)

    Shamir(FIELD, 7, 3).share(oracles.uniform(FIELD.p, 2)((4, 5)), uniform)
    assert asked == [(3, 4, 5)]


def test_the_order_of_the_answers_and_more_of_them_change_nothing():
    sharing = Shamir(FIELD, 6, 2)
    secret = oracles.uniform(FIELD.p, 1)((4,))
    shares = sharing.share(secret, oracles.uniform(FIELD.p, 2))
    for chosen in ([5, 0, 3], [4, 3, 2, 1, 0], range(6)):
        np.testing.assert_array_equal(sharing.reconstruct(subset(shares, chosen)), secret)


def test_the_recombination_vector_is_that_of_galois():
    sharing = Shamir(FIELD, 7, 3)
    vector = sharing.recombination_vector([6, 2, 0, 3], 3)
    values = oracles.uniform(FIELD.p, 3)((4,)).tolist()
    expected = oracles.interpolate([sharing.points[i] for i in (6, 2, 0, 3)], values, [0], FIELD.p)
    assert vector.shape == (1, 4)
    assert oracles.product(vector, np.array(values)[:, None], FIELD.p)[0].tolist() == expected


def test_no_party_stands_at_the_secrets_point():
    points = [point % 101 for point in Shamir(PrimeField(101), 100, 3).points]
    assert sorted(points) == list(range(1, 101))


@pytest.mark.parametrize("p", [101, 2**25 - 39])
def test_single_secrets_without_a_shape_can_be_shared(p):
    sharing = Shamir(PrimeField(p), 4, 1)
    shares = sharing.share(np.array(42, np.uint32), oracles.uniform(p, 1))
    assert shares.shape == (4,)
    assert int(sharing.reconstruct(dict(enumerate(shares)))) == 42


@pytest.mark.parametrize(("parties", "threshold"), [(3, 3), (3, 4), (3, -1), (0, 0), (101, 1)])
def test_settings_that_break_a_rule_are_refused_with_the_values(parties, threshold):
    with pytest.raises(UsageError, match=rf"0 ≤ T < n < p, got T={threshold}, n={parties}, p=101$"):
        Shamir(PrimeField(101), parties, threshold)


def test_reconstruction_refuses_too_few_shares_with_both_numbers():
    sharing = Shamir(FIELD, 7, 3)
    shares = sharing.share(oracles.uniform(FIELD.p, 1)((4,)), oracles.uniform(FIELD.p, 2))
    with pytest.raises(ValueError, match="shares must be at least 4 for degree 3, got 3"):
        sharing.reconstruct(subset(shares, range(3)))
    with pytest.raises(ValueError, match="shares must be at least 7 for degree 6, got 6"):
        sharing.reconstruct(subset(shares, range(6)), 6)
