"""Any T parties learn nothing from their shares; each check is shown to see the mutations it is there for."""

from itertools import combinations

import numpy as np
import oracles
import pytest

from fedmpi.core.field import PrimeField
from fedmpi.core.shamir import Shamir
from fedmpi.crypto.random import FieldRandom, SecretStream

SMALL = 31  # every pair of elements of F_31 is a cell of its own: no dependence hides inside a bucket
SAMPLES = {2: 40_000, 3: 300_000}
"""By the parties that look at them at once: each of the 31^size cells of a χ² test must expect ten."""
SETTINGS = [(3, 1), (6, 2), (8, 3), (7, 5)]  # n, T


# -- mutations ----------------------------------------------------------------------------------------------


class OtherCoefficients(Shamir):
    """Base of sharings that do not use the coefficients that they are given as they should."""

    def spoil(self, coefficients):
        raise NotImplementedError

    def share(self, secret, uniform):
        return super().share(secret, lambda shape: self.spoil(uniform(shape)))


class ZeroCoefficients(OtherCoefficients):
    def spoil(self, coefficients):
        return np.zeros_like(coefficients)


class OneDegreeTooLow(OtherCoefficients):
    """Degree T - 1: T shares reconstruct the secret."""

    def spoil(self, coefficients):
        coefficients = coefficients.copy()
        coefficients[-1] = 0
        return coefficients


class EqualCoefficients(OtherCoefficients):
    """One coefficient taken T times."""

    def spoil(self, coefficients):
        return np.broadcast_to(coefficients[0], coefficients.shape)


class ReusedCoefficients(OtherCoefficients):
    """The coefficients of the first sharing for all further ones."""

    kept = None

    def spoil(self, coefficients):
        self.kept = coefficients if self.kept is None else self.kept
        return self.kept


class PartyAtTheSecret(Shamir):
    """Points from 0: the first party receives the secret itself."""

    def __init__(self, field, parties, threshold):
        super().__init__(field, parties, threshold)
        self.points = tuple(range(parties))
        self._vandermonde = np.array(
            [[pow(x, k, field.p) for k in range(threshold + 1)] for x in self.points], np.uint32
        )


# -- checks -------------------------------------------------------------------------------------------------


def sharer(sharing):
    return lambda data, uniform: sharing.share(data[0], uniform)


def subsets_of(sharing, size):
    return list(combinations(range(sharing.parties), size))


def exact_check(check, sharing):
    check(sharer(sharing), 1, sharing.threshold, sharing.field.p, subsets_of(sharing, sharing.threshold))


def secret_random():
    """The real source of coefficients, repeatable."""
    return FieldRandom(SMALL, SecretStream(bytes(range(32))))


def small_sharing(kind=Shamir):
    return kind(PrimeField(SMALL), 5, 2)


def constant(value, size=2):
    return np.full((1, SAMPLES[size]), value, np.uint32)


def check_uniform_views(sharing, size=2):
    for value in (0, 1, 30):
        oracles.assert_views_are_uniform(
            sharer(sharing), constant(value, size), SMALL, subsets_of(sharing, size), secret_random()
        )


def check_two_samples(sharing, size=2):
    oracles.assert_views_tell_no_data_apart(
        sharer(sharing), constant(0, size), constant(17, size), SMALL, subsets_of(sharing, size), secret_random()
    )


def check_fresh_coefficients(sharing):
    oracles.assert_masks_are_fresh(sharer(sharing), sharer(sharing), constant(5), SMALL, secret_random())


EXACT = pytest.mark.parametrize(
    "check", [oracles.assert_every_minor_is_invertible, oracles.assert_other_data_explain_the_view]
)
STATISTICAL = pytest.mark.parametrize("check", [check_uniform_views, check_two_samples])
MUTANTS = pytest.mark.parametrize("mutant", [ZeroCoefficients, OneDegreeTooLow, EqualCoefficients, PartyAtTheSecret])


# -- exact --------------------------------------------------------------------------------------------------


@EXACT
@pytest.mark.parametrize("p", [SMALL, 2**25 - 39, 2**31 - 1])
@pytest.mark.parametrize("settings", SETTINGS)
def test_any_t_parties_see_what_any_other_secret_would_have_shown(check, p, settings):
    exact_check(check, Shamir(PrimeField(p), *settings))


@EXACT
@MUTANTS
@pytest.mark.parametrize("settings", [(6, 2), (8, 3)])
def test_the_exact_checks_see_every_mutation(check, mutant, settings):
    with pytest.raises(AssertionError):
        exact_check(check, mutant(PrimeField(), *settings))


# -- statistical --------------------------------------------------------------------------------------------


def test_views_of_t_parties_are_uniform():
    check_uniform_views(small_sharing())


def test_views_of_t_parties_tell_two_secrets_not_apart():
    check_two_samples(small_sharing())


def test_two_sharings_never_share_their_coefficients():
    check_fresh_coefficients(small_sharing())


@STATISTICAL
@MUTANTS
def test_the_statistical_checks_see_every_mutation(check, mutant):
    with pytest.raises(AssertionError):
        check(small_sharing(mutant))


@STATISTICAL
def test_the_statistical_checks_see_that_t_plus_one_parties_learn_the_secret(check):
    with pytest.raises(AssertionError):
        check(small_sharing(), 3)


@pytest.mark.parametrize("mutant", [ReusedCoefficients, ZeroCoefficients])
def test_the_check_of_fresh_coefficients_sees_coefficients_that_are_used_twice(mutant):
    with pytest.raises(AssertionError):
        check_fresh_coefficients(small_sharing(mutant))


def test_reused_coefficients_pass_every_check_of_one_sharing_alone():
    check_uniform_views(small_sharing(ReusedCoefficients))
    check_two_samples(small_sharing(ReusedCoefficients))
