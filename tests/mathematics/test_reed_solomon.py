"""Errors among the values of a polynomial: noticed and located, exactly as far as that is possible."""

import galois
import numpy as np
import oracles
import pytest

from fedmpi.core.field import PrimeField
from fedmpi.core.reed_solomon import consistent, correctable, locate_errors, parity_checks
from fedmpi.core.shamir import Shamir
from fedmpi.errors import DecodingError, ProtocolError

FIELDS = {
    f"{p}-{'C' if compiled else 'numpy'}": PrimeField(p, compiled=compiled)
    for p in (33554393, 2**31 - 1)
    for compiled in (True, False)
}
every_field = pytest.mark.parametrize("field", FIELDS.values(), ids=FIELDS)
FIELD = PrimeField()

CODES = {
    "paper-like": (20, 15, 2),  # n, degree, errors: R = 16, A = 2
    "none to spare": (7, 2, 2),  # n = degree + 1 + 2·errors
    "degree 0": (5, 0, 2),
    "large": (50, 15, 17),
    "one of three": (4, 1, 1),
}
every_code = pytest.mark.parametrize(("n", "degree", "errors"), CODES.values(), ids=CODES)


def points(n, p, seed):
    """Different points, with 0, 1 and p - 1 among them."""
    more = np.random.default_rng(seed).choice(10**6, n, replace=False) + 2
    return [0, 1, p - 1, *more.tolist()][:n]


def evaluate(coefficients, nodes, p):
    """Values of polynomials (falling powers, one a column) at the nodes, by galois: shape (n, columns)."""
    GF = oracles.galois_field(p)
    columns = [galois.Poly(GF(column), field=GF)(GF(list(nodes))) for column in np.asarray(coefficients).T.tolist()]
    return np.array(columns).astype(np.uint32).T.copy()


def word(field, nodes, degree, columns=6, seed=0):
    """Values of random polynomials of exactly this degree: shape (n, columns)."""
    coefficients = oracles.uniform(field.p, seed)((degree + 1, columns))
    coefficients[0] |= 1
    return evaluate(coefficients, nodes, field.p)


# -- liars: each changes the values at `wrong`, which must be in `values` ------------------------------------------


def random_values(field, nodes, values, degree, wrong):
    values[wrong] = oracles.uniform(field.p, 5)(values[wrong].shape)


def constant_offset(field, nodes, values, degree, wrong):
    values[wrong] = field.add(values[wrong], np.uint32(1))


def all_zeros(field, nodes, values, degree, wrong):
    values[wrong] = 0


def one_coordinate(field, nodes, values, degree, wrong):
    values[wrong, 3] ^= 1


def another_coordinate_each(field, nodes, values, degree, wrong):
    for k, i in enumerate(wrong):
        values[i, k % values.shape[1]] ^= 1


def same_wrong_polynomial(field, nodes, values, degree, wrong):
    values[wrong] = word(field, nodes, degree, values.shape[1], seed=99)[wrong]


def as_close_to_the_honest_as_can_be(field, nodes, values, degree, wrong):
    """Values of the one polynomial plus another that is 0 at `degree` honest nodes."""
    honest = [node for i, node in enumerate(nodes) if i not in wrong][:degree]
    GF = oracles.galois_field(field.p)
    difference = galois.Poly.Roots(honest, field=GF)(GF(list(nodes))) if honest else GF([1] * len(nodes))
    for i in wrong:
        values[i] = field.add(values[i], np.full(values.shape[1], int(difference[i]), np.uint32))


LIARS = [
    random_values,
    constant_offset,
    all_zeros,
    one_coordinate,
    another_coordinate_each,
    same_wrong_polynomial,
    as_close_to_the_honest_as_can_be,
]
every_liar = pytest.mark.parametrize("lie", LIARS, ids=lambda lie: lie.__name__)


def locate(field, nodes, values, degree, errors, **options):
    return locate_errors(field, nodes, list(values), degree, errors, oracles.uniform(field.p, 77), **options)


# -- checks -------------------------------------------------------------------------------------------------------


@every_field
@every_code
def test_the_checks_are_zero_for_polynomials_of_the_degree_and_for_nothing_else(field, n, degree, errors):
    """H v = 0 for the d + 1 monomials that span them, and H has full rank: so its kernel holds nothing else."""
    nodes = points(n, field.p, 1)
    H = parity_checks(field, nodes, degree)
    assert H.shape == (n - degree - 1, n)
    assert field.contains(H)
    monomials = evaluate(np.eye(degree + 1, dtype=int), nodes, field.p)
    assert not oracles.product(H, monomials, field.p).any()
    assert oracles.rank(H, field.p) == n - degree - 1


@every_field
@every_code
def test_values_of_polynomials_are_consistent_and_each_change_of_one_value_is_not(field, n, degree, errors):
    nodes = points(n, field.p, 2)
    values = word(field, nodes, degree)
    assert consistent(field, nodes, list(values), degree)
    assert consistent(field, nodes, values, n - 1)
    if degree:
        assert not consistent(field, nodes, values, degree - 1)
    for i in range(n):
        changed = values.copy()
        changed[i, i % 6] ^= 1
        assert not consistent(field, nodes, list(changed), degree)
        assert consistent(field, nodes, list(changed), n - 1), "n values are always those of a polynomial of degree < n"


def test_arrays_of_any_shape_are_checked_in_every_coordinate():
    nodes = points(6, FIELD.p, 3)
    many = word(FIELD, nodes, 2, 6)
    for shape in [(), (1,), (0,), (2, 3), (0, 3), (2, 1, 3)]:
        values = many[:, : int(np.prod(shape))].reshape(6, *shape)
        assert consistent(FIELD, nodes, values, 2)
        assert locate(FIELD, nodes, values, 2, 1) == set()
        for coordinate in np.ndindex(shape):
            changed = values.copy()
            changed[(5, *coordinate)] ^= 1
            assert not consistent(FIELD, nodes, changed, 2)
            assert locate(FIELD, nodes, changed, 2, 1) == {5}


@pytest.mark.parametrize(("n", "count", "degree"), [(3, 3, 3), (3, 4, 1), (3, 2, 1), (3, 3, -1), (0, 0, 0)])
def test_too_few_values_are_no_answer(n, count, degree):
    with pytest.raises(ValueError, match=f"n > {degree} nodes, got {count} and n={n}"):
        consistent(FIELD, range(n), [np.zeros(2, np.uint32)] * count, degree)


@pytest.mark.parametrize(("n", "degree"), [(3, 3), (3, -1)])
def test_checks_of_too_few_nodes_are_refused(n, degree):
    with pytest.raises(ValueError, match=f"0 ≤ degree < n, got degree={degree}, n={n}"):
        parity_checks(FIELD, range(n), degree)


def test_checks_of_equal_nodes_are_refused():
    for nodes in ([1, 2, 1], [1, 2, FIELD.p + 1]):
        with pytest.raises(ValueError, match="distinct"):
            parity_checks(FIELD, nodes, 1)


# -- locating -----------------------------------------------------------------------------------------------------


@every_liar
@every_code
@every_field
def test_all_liars_up_to_the_allowed_number_are_located(field, n, degree, errors, lie):
    nodes = points(n, field.p, 4)
    honest = word(field, nodes, degree)
    for count in {0, 1, errors - 1, errors}:
        for seed in range(2):
            wrong = np.random.default_rng([count, seed]).permutation(n)[:count].tolist()
            values = honest.copy()
            lie(field, nodes, values, degree, wrong)
            before = values.copy()
            assert locate(field, nodes, values, degree, errors) == set(wrong)
            np.testing.assert_array_equal(values, before)


def test_every_pair_of_liars_among_twenty_is_located():
    nodes = points(20, FIELD.p, 5)
    honest = word(FIELD, nodes, 15, columns=2)
    for one in range(20):
        for other in range(one):
            values = honest.copy()
            values[one, 0] ^= 1
            values[other, 1] ^= 2
            assert locate(FIELD, nodes, values, 15, 2) == {one, other}


@pytest.mark.parametrize("lie", LIARS[:6], ids=lambda lie: lie.__name__)
@pytest.mark.parametrize("beyond", [1, 2])
@pytest.mark.parametrize("code", ["paper-like", "none to spare", "large"])  # with n - errors > errors + 2
def test_more_liars_are_refused_where_no_wrong_polynomial_is_near(code, lie, beyond):
    n, degree, errors = CODES[code]
    nodes = points(n, FIELD.p, 6)
    values = word(FIELD, nodes, degree)
    wrong = np.random.default_rng(6).permutation(n)[: errors + beyond].tolist()
    lie(FIELD, nodes, values, degree, wrong)
    with pytest.raises(DecodingError, match=f"^at most {errors} of {n} arrays must be wrong, got more$") as refused:
        locate(FIELD, nodes, values, degree, errors)
    assert isinstance(refused.value, ProtocolError)


@every_code
def test_one_liar_too_many_who_all_collude_blame_honest_ones_only_where_no_array_is_to_spare(n, degree, errors):
    """The limit that no decoder can pass: n - e values agree with the liars' polynomial."""
    for spare in (0, 1):
        size = degree + 1 + 2 * errors + spare
        nodes = points(size, FIELD.p, 7)
        values = word(FIELD, nodes, degree)
        wrong = list(range(size - errors - 1, size))
        as_close_to_the_honest_as_can_be(FIELD, nodes, values, degree, wrong)
        if spare:
            with pytest.raises(DecodingError):
                locate(FIELD, nodes, values, degree, errors)
        else:
            assert locate(FIELD, nodes, values, degree, errors) == set(range(degree, degree + errors))


@every_field
@every_code
def test_zeros_everywhere_are_right_and_what_differs_from_them_is_not(field, n, degree, errors):
    nodes = points(n, field.p, 9)
    values = np.zeros((n, 4), np.uint32)
    assert locate(field, nodes, values, degree, errors) == set()
    values[n - 1, 2] = field.p - 1
    assert locate(field, nodes, values, degree, errors) == {n - 1}


def test_with_no_error_allowed_nothing_is_located_and_everything_checked():
    nodes = points(5, FIELD.p, 10)
    values = word(FIELD, nodes, 2)
    assert locate(FIELD, nodes, values, 2, 0) == set()
    assert locate(FIELD, nodes[:3], values[:3], 2, 0) == set()
    values[1, 5] ^= 1
    with pytest.raises(DecodingError, match="at most 0 of 5 arrays must be wrong"):
        locate(FIELD, nodes, values, 2, 0)


@pytest.mark.parametrize(("n", "degree", "errors"), [(6, 2, 2), (4, 3, 1), (2, 2, 0), (5, 2, -1)])
def test_more_errors_than_the_code_can_locate_are_refused_at_once(n, degree, errors):
    with pytest.raises(ValueError, match=f"n ≥ {degree} \\+ 1 \\+ 2·{errors} to locate errors, got n={n}"):
        locate(FIELD, range(n), np.zeros((n, 2), np.uint32), degree, errors)


def test_liars_who_know_the_combinations_hide_but_nothing_wrong_is_let_through():
    """Why the combinations are secret, and why the rest is checked in every coordinate."""
    nodes = points(9, FIELD.p, 11)
    honest = word(FIELD, nodes, 4, columns=2)
    known = np.array([[1], [1]], np.uint32)
    values = honest.copy()
    values[3] = FIELD.add(values[3], np.array([5, FIELD.p - 5], np.uint32))  # 0 in the sum of both coordinates
    with pytest.raises(DecodingError):
        locate_errors(FIELD, nodes, list(values), 4, 2, lambda shape: known, combinations=1)
    assert locate(FIELD, nodes, values, 4, 2, combinations=1) == {3}


def test_each_combination_has_coefficients_of_its_own():
    asked = []

    def uniform(shape):
        asked.append(shape)
        return oracles.uniform(FIELD.p, 1)(shape)

    nodes = points(9, FIELD.p, 12)
    values = word(FIELD, nodes, 4).reshape(9, 2, 3)
    for combinations in (1, 3):
        locate_errors(FIELD, nodes, list(values), 4, 2, uniform, combinations)
    assert asked == [(6, 1), (6, 3)]


def test_a_liar_that_one_combination_misses_is_in_another():
    """Coordinate by coordinate: the positions of all combinations count."""
    nodes = points(9, FIELD.p, 13)
    values = word(FIELD, nodes, 4, columns=3)
    values[2, 0] ^= 1
    values[7, 2] ^= 1
    unit = np.eye(3, dtype=np.uint32)
    assert locate_errors(FIELD, nodes, list(values), 4, 2, lambda shape: unit) == {2, 7}


def test_views_of_a_larger_array_are_located_in():
    nodes = points(7, FIELD.p, 14)
    wide = np.zeros((7, 12), np.uint32)
    wide[:, ::2] = word(FIELD, nodes, 2)
    wide[4, 6] ^= 1
    wide.flags.writeable = False
    assert locate(FIELD, nodes, [row[::2] for row in wide], 2, 2) == {4}


# -- how many -----------------------------------------------------------------------------------------------------


def test_as_many_errors_are_corrected_as_leave_the_others_noticed():
    for n in range(1, 12):
        for degree in range(n):
            for errors in range(n):
                spare = n - degree - 1
                best = max((c for c in range(errors + 1) if c + errors <= spare), default=0)
                assert correctable(n, degree, errors) == best
                assert (best == errors) == (n >= degree + 1 + 2 * errors)


# -- shares -------------------------------------------------------------------------------------------------------


@every_field
@pytest.mark.parametrize(("n", "degree"), [(4, 1), (5, 2), (7, 2), (9, 8), (20, 14), (20, 7)])
def test_reconstruction_corrects_and_notices_exactly_what_redundancy_allows(field, n, degree):
    sharing = Shamir(field, n, degree)
    secret = oracles.uniform(field.p, 1)((2, 3))
    honest = sharing.share(secret, oracles.uniform(field.p, 2))
    uniform = oracles.uniform(field.p, 3)
    for errors in range(n - degree + 1):
        for count in range(errors + 1):
            wrong = np.random.default_rng([errors, count]).permutation(n)[:count].tolist()
            shares = {i: share.copy() for i, share in enumerate(honest)}
            for i in wrong:
                shares[i][1, 2] ^= 1
            if n >= degree + 1 + 2 * errors or (count <= correctable(n, degree, errors)):
                opened, liars = sharing.reconstruct_checked(shares, degree, errors, uniform)
                np.testing.assert_array_equal(opened, secret)
                assert liars == set(wrong)
            elif n >= degree + 1 + errors:
                with pytest.raises(DecodingError):
                    sharing.reconstruct_checked(shares, degree, errors, uniform)


def test_no_number_of_liars_that_is_to_be_noticed_passes_by_colluding():
    """They agree on a wrong polynomial that is as near as can be: a decoder that corrected more would believe them."""
    for n in range(2, 10):
        for degree in range(n - 1):
            sharing = Shamir(FIELD, n, degree)
            honest = sharing.share(np.array([5, 6], np.uint32), oracles.uniform(FIELD.p, 4))
            for errors in range(1, n - degree):
                values = honest.copy()
                as_close_to_the_honest_as_can_be(FIELD, sharing.points, values, degree, list(range(n - errors, n)))
                try:
                    shares = dict(enumerate(values))
                    opened, liars = sharing.reconstruct_checked(shares, degree, errors, oracles.uniform(FIELD.p, 5))
                except DecodingError:
                    assert n < degree + 1 + 2 * errors
                else:
                    assert opened.tolist() == [5, 6]
                    assert liars == set(range(n - errors, n))


def test_one_liar_more_than_can_be_noticed_passes():
    """The boundary from the other side: n - degree colluding liars make another sharing."""
    sharing = Shamir(FIELD, 7, 2)
    values = sharing.share(np.array([5], np.uint32), oracles.uniform(FIELD.p, 6))
    as_close_to_the_honest_as_can_be(FIELD, sharing.points, values, 2, [2, 3, 4, 5, 6])
    opened, liars = sharing.reconstruct_checked(dict(enumerate(values)), 2, 4, oracles.uniform(FIELD.p, 7))
    assert opened[0] != 5
    assert liars == set()


def test_shares_of_some_parties_only_are_named_by_their_numbers():
    sharing = Shamir(FIELD, 9, 1)
    honest = sharing.share(np.array([5], np.uint32), oracles.uniform(FIELD.p, 8))
    shares = {i: honest[i].copy() for i in (8, 6, 1, 4)}
    shares[6][0] ^= 1
    opened, liars = sharing.reconstruct_checked(shares, 1, 1, oracles.uniform(FIELD.p, 9))
    assert (opened.tolist(), liars) == ([5], {6})
    del shares[8]
    with pytest.raises(DecodingError, match=r"all of 3 shares must lie on one polynomial of degree 1, got others"):
        sharing.reconstruct_checked(shares, 1, 1, oracles.uniform(FIELD.p, 9))
    with pytest.raises(ValueError, match="shares must be at least 4 for degree 3, got 3"):
        sharing.reconstruct_checked(shares, 3, 1, oracles.uniform(FIELD.p, 9))


def test_honest_shares_ask_for_no_randomness():
    def uniform(shape):
        raise AssertionError("nothing is wrong")

    sharing = Shamir(FIELD, 7, 2)
    secret = oracles.uniform(FIELD.p, 1)((4,))
    shares = dict(enumerate(sharing.share(secret, oracles.uniform(FIELD.p, 2))))
    opened, liars = sharing.reconstruct_checked(shares, 2, 2, uniform)
    np.testing.assert_array_equal(opened, sharing.reconstruct(shares))
    assert liars == set()
