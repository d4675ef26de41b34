"""Locating errors against a decoder that tries every set of positions, for any words that hypothesis can think of."""

from itertools import combinations

import galois
import numpy as np
import oracles
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmpi.core.field import PrimeField
from fedmpi.core.reed_solomon import consistent, correctable, locate_errors, parity_checks
from fedmpi.core.shamir import Shamir
from fedmpi.errors import DecodingError

# The same examples in every run, and no database in the tree.
steady = settings(max_examples=150, deadline=None, derandomize=True, database=None)

FIELDS = [PrimeField(p, compiled=compiled) for p in (10007, 33554393, 2**31 - 1) for compiled in (True, False)]
GALOIS = {field.p: oracles.galois_field(field.p) for field in FIELDS}
fields = st.sampled_from(FIELDS)
seeds = st.integers(0, 2**32 - 1)


@st.composite
def words(draw, largest=8, changed=True):
    """A field, nodes, a degree, and values: those of polynomials, with any number of changes, small ones often."""
    field = draw(fields)
    GF = GALOIS[field.p]
    n = draw(st.integers(1, largest))
    degree = draw(st.integers(0, n - 1))
    nodes = draw(st.lists(st.integers(0, field.p - 1), min_size=n, max_size=n, unique=True))
    columns = draw(st.integers(0, 3))
    elements = st.one_of(st.integers(0, 2), st.integers(0, field.p - 1))
    values = np.zeros((n, columns), np.uint32)
    for column in range(columns):
        polynomial = galois.Poly(draw(st.lists(elements, min_size=degree + 1, max_size=degree + 1)), field=GF)
        values[:, column] = np.array(polynomial(GF(nodes)))
    for i in draw(st.lists(st.integers(0, n - 1), unique=True)) if changed else []:
        for column in range(columns):
            change = draw(elements)
            values[i, column] = (int(values[i, column]) + change) % field.p
    return field, nodes, values, degree


def fits(field, nodes, values, degree):
    """Whether each column is of a polynomial of this degree, by galois."""
    GF = GALOIS[field.p]
    return all(galois.lagrange_poly(GF(list(nodes)), GF(list(c))).degree <= degree for c in values.T.tolist())


def smallest_fix(field, nodes, values, degree, max_errors):
    """The smallest set of positions without which the values fit; None if it has more than `max_errors`."""
    n = len(nodes)
    for count in range(max_errors + 1):
        for wrong in combinations(range(n), count):
            right = [i for i in range(n) if i not in wrong]
            if fits(field, [nodes[i] for i in right], values[right], degree):
                return set(wrong)
    return None


@steady
@given(words())
def test_consistent_means_that_galois_interpolates_to_the_degree(drawn):
    field, nodes, values, degree = drawn
    expected = fits(field, nodes, values, degree)
    assert consistent(field, nodes, list(values), degree) == expected
    assert (not oracles.product(parity_checks(field, nodes, degree), values, field.p).any()) == expected


@steady
@given(words(), st.data(), seeds)
def test_the_smallest_set_of_wrong_values_is_located(drawn, data, seed):
    field, nodes, values, degree = drawn
    max_errors = data.draw(st.integers(0, (len(nodes) - degree - 1) // 2))
    expected = smallest_fix(field, nodes, values, degree, max_errors)
    try:
        located = locate_errors(field, nodes, list(values), degree, max_errors, oracles.uniform(field.p, seed))
    except DecodingError:
        located = None
    assert located == expected


@steady
@given(words(largest=30, changed=False), st.data(), seeds)
def test_any_changes_of_few_enough_values_are_located(drawn, data, seed):
    field, nodes, values, degree = drawn
    n, columns = values.shape
    max_errors = (n - degree - 1) // 2
    changed = {}
    for i in data.draw(st.lists(st.integers(0, n - 1), unique=True, max_size=max_errors)):
        changes = data.draw(st.lists(st.integers(0, field.p - 1), min_size=columns, max_size=columns))
        values[i] = (values[i] + np.array(changes, np.uint64)) % field.p
        changed[i] = any(changes)
    located = locate_errors(field, nodes, list(values), degree, max_errors, oracles.uniform(field.p, seed))
    assert located == {i for i, wrong in changed.items() if wrong}


@steady
@given(fields, st.integers(1, 9), st.data(), seeds)
def test_up_to_e_lies_never_give_a_wrong_secret_where_they_can_be_noticed(field, n, data, seed):
    """Whatever the liars send: the secret, or an error."""
    degree = data.draw(st.integers(0, n - 1))
    errors = data.draw(st.integers(0, n - degree - 1))
    sharing = Shamir(field, n, degree)
    secret = oracles.uniform(field.p, seed)((2,))
    shares = sharing.share(secret, oracles.uniform(field.p, seed + 1))
    elements = st.one_of(st.integers(0, 2), st.integers(0, field.p - 1))
    liars = data.draw(st.lists(st.integers(0, n - 1), unique=True, max_size=errors))
    lies = set()
    for i in liars:
        before = shares[i].tolist()
        shares[i] = data.draw(st.lists(elements, min_size=2, max_size=2))
        if shares[i].tolist() != before:
            lies.add(i)
    try:
        opened, located = sharing.reconstruct_checked(
            dict(enumerate(shares)), degree, errors, oracles.uniform(field.p, seed + 2)
        )
    except DecodingError:
        assert len(lies) > correctable(n, degree, errors)
    else:
        np.testing.assert_array_equal(opened, secret)
        assert located == lies
