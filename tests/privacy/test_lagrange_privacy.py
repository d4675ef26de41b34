"""Any T workers of a LagrangeCode learn nothing; each check is shown to see the mutations it is there for."""

from itertools import combinations

import numpy as np
import oracles
import pytest

from fedmpi.core.field import PrimeField
from fedmpi.core.lagrange import LagrangeCode, lagrange_basis
from fedmpi.crypto.random import FieldRandom, SecretStream

SMALL = 31  # every pair of elements of F_31 is a cell of its own: no dependence hides inside a bucket
SAMPLES = {2: 40_000, 3: 300_000}
"""By the workers that look at them at once: each of the 31^size cells of a χ² test must expect ten."""
SETTINGS = [(1, 1, 4), (2, 2, 7), (4, 2, 10), (3, 3, 8), (2, 5, 8)]  # K, T, N
METHODS = pytest.mark.parametrize("method", ["encode", "encode_repeated"])


# -- mutations ----------------------------------------------------------------------------------------------


class Overlapping(LagrangeCode):
    """Both kinds of points from 0, 1, …, as in the authors' later scripts: K workers receive a raw block."""

    first_alpha = 0

    def __init__(self, *settings):
        super().__init__(*settings)
        self.alphas = tuple(range(self.first_alpha, self.first_alpha + self.workers))
        self.encoding_matrix = lagrange_basis(self.field, self.betas, self.alphas)


class OverlappingOnce(Overlapping):
    """One worker alone stands at the point of a block: the second one (β_1)."""

    first_alpha = 1


class OtherMasks(LagrangeCode):
    """Base of codes that do not use the masks that they are given as they should."""

    def spoil(self, masks):
        raise NotImplementedError

    def encode(self, blocks, uniform):
        return super().encode(blocks, lambda shape: self.spoil(uniform(shape)))

    def encode_repeated(self, block, uniform):
        return super().encode_repeated(block, lambda shape: self.spoil(uniform(shape)))


class ZeroedMasks(OtherMasks):
    def spoil(self, masks):
        return np.zeros_like(masks)


class OneMaskTooFew(OtherMasks):
    """T - 1 masks: T workers together solve for the data."""

    def spoil(self, masks):
        masks = masks.copy()
        masks[-1] = 0
        return masks


class EqualMasks(OtherMasks):
    """One mask taken T times."""

    def spoil(self, masks):
        return np.broadcast_to(masks[0], masks.shape)


class OneMaskForAllElements(OtherMasks):
    def spoil(self, masks):
        return np.broadcast_to(masks[:, :1], masks.shape)


class ReusedMasks(OtherMasks):
    """The masks of the first encoding for all further ones."""

    kept = None

    def spoil(self, masks):
        self.kept = masks if self.kept is None else self.kept
        return self.kept


class TheSameShareTwice(OtherMasks):
    """For `completion`: all of the first T workers get the same share."""

    def spoil(self, shares):
        return np.broadcast_to(shares[0], shares.shape)


class AShareThatIsKnown(OtherMasks):
    """For `completion`: the last of the first T workers has zeros."""

    def spoil(self, shares):
        shares = shares.copy()
        shares[-1] = 0
        return shares


# -- checks -------------------------------------------------------------------------------------------------


def encoder(code, method):
    if method == "encode":
        return code.encode
    if method == "completion":
        return lambda data, uniform: completed(code, data, uniform)
    return lambda data, uniform: code.encode_repeated(data[0], uniform)


def completed(code, data, uniform):
    """What workers get of the data: the first T uniform shares, the others what follows from those."""
    first = uniform((code.privacy, *data.shape[1:]))
    if isinstance(code, OtherMasks):
        first = np.ascontiguousarray(code.spoil(first))
    return np.concatenate([first, code.field.matmul(code.completion, [*data, *first])])


def subsets_of(code, size):
    return list(combinations(range(code.workers), size))


def exact_check(check, code, method, subsets=None):
    subsets = subsets_of(code, code.privacy) if subsets is None else subsets
    check(encoder(code, method), code.parallelization, code.privacy, code.field.p, subsets)


def secret(p):
    """The real source of masks, repeatable."""
    return FieldRandom(p, SecretStream(bytes(range(32))))


def small_code(kind=LagrangeCode):
    return kind(PrimeField(SMALL), 2, 2, 5, 1)


def constant(*values, size=2):
    """The same data in every column."""
    return np.repeat(np.array(values, np.uint32)[:, None], SAMPLES[size], axis=1)


def check_uniform_views(code, method, size=2):
    for data in (constant(0, 0, size=size), constant(30, 30, size=size), constant(7, 19, size=size)):
        oracles.assert_views_are_uniform(encoder(code, method), data, SMALL, subsets_of(code, size), secret(SMALL))


def check_two_samples(code, method, size=2):
    oracles.assert_views_tell_no_data_apart(
        encoder(code, method),
        constant(0, 0, size=size),
        constant(1, 29, size=size),
        SMALL,
        subsets_of(code, size),
        secret(SMALL),
    )


def check_fresh_masks(code, first, second):
    oracles.assert_masks_are_fresh(encoder(code, first), encoder(code, second), constant(3, 11), SMALL, secret(SMALL))


# -- exact --------------------------------------------------------------------------------------------------

EXACT = pytest.mark.parametrize(
    "check", [oracles.assert_every_minor_is_invertible, oracles.assert_other_data_explain_the_view]
)


@EXACT
@METHODS
@pytest.mark.parametrize("p", [SMALL, 2**25 - 39, 2**31 - 1])
@pytest.mark.parametrize("settings", SETTINGS)
def test_any_t_workers_see_what_any_other_data_would_have_shown(check, method, p, settings):
    exact_check(check, LagrangeCode(PrimeField(p), *settings, 1), method)


@EXACT
@METHODS
def test_seven_of_the_papers_fifty_workers_see_what_any_other_data_would_have_shown(check, method):
    rng = np.random.default_rng(1)
    colluding = [sorted(rng.permutation(50)[:7].tolist()) for _ in range(20)]
    exact_check(check, LagrangeCode(PrimeField(), 10, 7, 50, 3), method, colluding)


@EXACT
@METHODS
@pytest.mark.parametrize("settings", [(2, 2, 7), (3, 3, 8)])
@pytest.mark.parametrize("mutant", [Overlapping, OverlappingOnce, ZeroedMasks, OneMaskTooFew, EqualMasks])
def test_the_exact_checks_see_every_mutation(check, method, settings, mutant):
    with pytest.raises(AssertionError):
        exact_check(check, mutant(PrimeField(), *settings, 1), method)


@EXACT
def test_the_exact_checks_see_that_t_plus_one_workers_learn_something(check):
    """The positive control: with one colluder more, no masks explain other data."""
    code = LagrangeCode(PrimeField(), 2, 2, 7, 1)
    for three in subsets_of(code, 3):
        with pytest.raises(AssertionError):
            exact_check(check, code, "encode", [three])


# -- statistical --------------------------------------------------------------------------------------------


@METHODS
def test_views_of_t_workers_are_uniform(method):
    check_uniform_views(small_code(), method)


@METHODS
def test_views_of_t_workers_tell_two_data_sets_not_apart(method):
    check_two_samples(small_code(), method)


@pytest.mark.parametrize("second", ["encode", "encode_repeated"])
@METHODS
def test_two_encodings_never_share_their_masks(method, second):
    check_fresh_masks(small_code(), method, second)


@pytest.mark.parametrize("p", [2**25 - 39, 2**31 - 1])
def test_single_views_in_the_real_fields_are_uniform(p):
    code = LagrangeCode(PrimeField(p), 2, 2, 5, 1)
    for value in (0, 1, p - 1):
        for share in code.encode(constant(value, value), secret(p)):
            assert oracles.p_value_uniform(share[None, :], p, 256) > oracles.ALARM
            assert oracles.p_value_uniform(share.reshape(2, -1), p, 16) > oracles.ALARM  # elements, jointly


@METHODS
@pytest.mark.parametrize("check", [check_uniform_views, check_two_samples])
@pytest.mark.parametrize(
    "mutant", [Overlapping, OverlappingOnce, ZeroedMasks, OneMaskTooFew, EqualMasks, OneMaskForAllElements]
)
def test_the_statistical_checks_see_every_mutation(check, method, mutant):
    with pytest.raises(AssertionError):
        check(small_code(mutant), method)


@METHODS
@pytest.mark.parametrize("check", [check_uniform_views, check_two_samples])
def test_the_statistical_checks_see_that_t_plus_one_workers_learn_something(check, method):
    with pytest.raises(AssertionError):
        check(small_code(), method, 3)


@pytest.mark.parametrize("second", ["encode", "encode_repeated"])
@METHODS
@pytest.mark.parametrize("mutant", [ReusedMasks, ZeroedMasks])
def test_the_check_of_fresh_masks_sees_masks_that_are_used_twice(mutant, method, second):
    with pytest.raises(AssertionError):
        check_fresh_masks(small_code(mutant), method, second)


def test_reused_masks_show_the_difference_of_two_data_sets_although_each_view_is_uniform():
    code = small_code(ReusedMasks)
    check_uniform_views(small_code(ReusedMasks), "encode")  # alone it looks perfect: freshness needs its own check
    one, two = code.encode(constant(3, 11), secret(SMALL)), code.encode(constant(4, 11), secret(SMALL))
    assert len(set(((two[0].astype(int) - one[0]) % SMALL).tolist())) == 1


# -- shares of the data, of which T are uniform and the others follow -----------------------------------------------

SPOILT = pytest.mark.parametrize("mutant", [TheSameShareTwice, AShareThatIsKnown, ZeroedMasks])


@EXACT
@pytest.mark.parametrize("p", [SMALL, 2**25 - 39, 2**31 - 1])
@pytest.mark.parametrize("settings", SETTINGS)
def test_any_t_workers_see_of_completed_shares_what_any_other_data_would_have_shown(check, p, settings):
    exact_check(check, LagrangeCode(PrimeField(p), *settings, 1), "completion")


@pytest.mark.parametrize("check", [check_uniform_views, check_two_samples])
def test_completed_views_of_t_workers_say_nothing(check):
    check(small_code(), "completion")


@EXACT
@SPOILT
def test_the_exact_checks_see_every_mutation_of_the_first_shares(check, mutant):
    with pytest.raises(AssertionError):
        exact_check(check, mutant(PrimeField(), 2, 2, 7, 1), "completion")


@SPOILT
@pytest.mark.parametrize("check", [check_uniform_views, check_two_samples])
def test_the_statistical_checks_see_every_mutation_of_the_first_shares(check, mutant):
    with pytest.raises(AssertionError):
        check(small_code(mutant), "completion")
