"""Preparations are plain data: what JSON keeps does the same to the bit."""

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedmpi.data import Preparation, Table
from fedmpi.data.preparation import FILLS, SCALES
from fedmpi.errors import UsageError

steady = settings(max_examples=150, deadline=None, derandomize=True, database=None)

cells = st.floats(-1e12, 1e12, allow_subnormal=False) | st.sampled_from([np.nan, 0.0, 1.0])
names = st.text(st.characters(codec="utf-8"), max_size=8)


@st.composite
def tables(draw):
    rows, columns = draw(st.integers(1, 12)), draw(st.integers(1, 5))
    X = draw(hnp.arrays(np.float64, (rows, columns), elements=cells))
    named = tuple(draw(st.lists(names, min_size=columns, max_size=columns, unique=True)))
    values = {}
    for k in draw(st.sets(st.integers(0, columns - 1))):
        values[k] = tuple(draw(st.lists(names, min_size=1, max_size=4, unique=True)))
        X[:, k] = draw(
            hnp.arrays(np.float64, rows, elements=st.sampled_from([*map(float, range(len(values[k]))), np.nan]))
        )
    return Table(X, named, values)


@steady
@given(tables(), st.sampled_from(SCALES), st.sampled_from(FILLS), st.sampled_from([0.0, 1.0, 5.0]), st.booleans())
def test_json_gives_the_same_bits(table, scale, impute, cut, drop):
    try:
        made = Preparation.fit(table, scale=scale, impute=impute, cut=cut, drop_constants=drop, classes=("a", "b"))
    except UsageError:
        assume(False)
    again = Preparation.from_json(made.to_json())
    assert again == made
    assert again.to_json() == made.to_json()
    X = made.apply(table)
    assert again.apply(table).tobytes() == X.tobytes()
    assert X.shape == (len(table.X), len(made.names))
    assert np.isfinite(X).all()


@steady
@given(tables(), st.randoms(use_true_random=False))
def test_the_order_of_columns_does_not_matter(table, random):
    try:
        made = Preparation.fit(table, impute="median")
    except UsageError:
        assume(False)
    order = list(range(len(table.names)))
    random.shuffle(order)
    other = Table(
        table.X[:, order],
        tuple(table.names[k] for k in order),
        {order.index(k): values for k, values in table.values.items()},
    )
    assert made.apply(other).tobytes() == made.apply(table).tobytes()
