"""From raw features to X̄ and back to weights for raw features."""

import re

import numpy as np
import pytest
from scipy import sparse

from fedmpi.codedml import transform
from fedmpi.codedml.transform import Transform, parse_scale, row_chunks
from fedmpi.errors import HeadroomError, UsageError


def features(dtype: str = "f8", rows: int = 20, columns: int = 5) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, (rows, columns)).astype(dtype)


@pytest.mark.parametrize("dtype", ["u1", "u2", "i4", "f4", "f8"])
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_rows_are_centred_scaled_and_get_a_bias(dtype: str, center: bool, bias: bool) -> None:
    X = features(dtype)
    fitted = Transform.fit(X, center=center, scale="max", ones=bias)
    real = X.astype(float) - (X.astype(float).mean(axis=0) if center else 0)
    expected = real / np.abs(real).max()
    if bias:
        expected = np.hstack([expected, np.ones((20, 1))])
    np.testing.assert_allclose(fitted.apply(X), expected, rtol=1e-12, atol=1e-15)
    assert fitted.columns == 5 + bias
    assert fitted.apply(X).dtype == np.float64
    np.testing.assert_array_equal(X, features(dtype), "the caller's data must not change")


def test_unsigned_features_do_not_wrap_around_when_they_are_centred() -> None:
    X = np.array([[0], [200]], np.uint8)
    np.testing.assert_array_equal(Transform.fit(X, center=True, scale="none", ones=False).apply(X), [[-100.0], [100.0]])


@pytest.mark.parametrize(("scale", "divisor"), [("none", 1.0), ("50", 50.0), ("0.5", 0.5), ("max", 199.0)])
def test_scales(scale: str, divisor: float) -> None:
    X = features()
    X[3, 2] = -199
    fitted = Transform.fit(X, center=False, scale=scale, ones=False)
    np.testing.assert_allclose(fitted.apply(X), X / divisor)


def test_features_that_are_all_zero_stay_zero() -> None:
    fitted = Transform.fit(np.zeros((4, 2)), center=True, scale="max", ones=True)
    np.testing.assert_array_equal(fitted.apply(np.zeros((4, 2))), [[0, 0, 1]] * 4)


def test_what_was_learned_from_training_rows_is_applied_to_others() -> None:
    fitted = Transform.fit(np.array([[0.0], [4.0]]), center=True, scale="max", ones=True)
    np.testing.assert_array_equal(fitted.apply(np.array([[10.0]])), [[4.0, 1.0]])


@pytest.mark.parametrize("bits", [0, 2, 7])
def test_quantized_features_are_the_nearest_integers(bits: int) -> None:
    X = np.random.default_rng(1).normal(size=(30, 4))
    fitted = Transform.fit(X, center=False, scale="max", ones=True)
    X_bar, _ = fitted.quantized(X, bits, 2.0**24)
    small, _ = fitted.quantized(X, bits, 2.0**24, entry=1.0)
    assert X_bar.dtype == np.float32
    assert small.dtype == (np.int8 if bits < 7 else np.float32), "2^7 takes more than 8 bits"
    for integers in (X_bar, small):
        np.testing.assert_array_equal(integers, np.floor(fitted.apply(X) * 2**bits + 0.5))
        assert (integers[:, -1] == 2**bits).all()


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    X = features("u1", 50, 7)
    whole = Transform.fit(X, center=True, scale="max", ones=True)
    monkeypatch.setattr(transform, "_CHUNK_BYTES", 8 * 7 * 3)
    assert len(row_chunks(50, 7)) == 17
    parts = Transform.fit(X, center=True, scale="max", ones=True)
    np.testing.assert_array_equal(parts.mean, whole.mean)
    np.testing.assert_array_equal(parts.scale, whole.scale)
    np.testing.assert_array_equal(parts.quantized(X, 2, 2.0**24)[0], np.floor(whole.apply(X) * 4 + 0.5))


@pytest.mark.parametrize(("rows", "columns"), [(0, 5), (1, 1), (10, 0), (100_000, 30), (7, 10_000_000)])
def test_row_chunks_cover_every_row_once(rows: int, columns: int) -> None:
    chunks = row_chunks(rows, columns)
    assert [i for chunk in chunks for i in (chunk.start, chunk.stop)][1:-1] == [
        i for chunk in chunks[1:] for i in (chunk.start, chunk.start)
    ]
    assert sum(chunk.stop - chunk.start for chunk in chunks) == rows
    assert all(8 * columns * (chunk.stop - chunk.start) <= max(8 << 20, 8 * columns) for chunk in chunks)


@pytest.mark.parametrize(
    ("largest", "bits", "p", "fits"),
    [
        (250.0, 1, 1009, True),
        (252.0, 1, 1009, True),
        (252.5, 1, 1009, False),  # 505 > 504.5
        (-252.5, 1, 1009, False),
        (2.0**24 - 1, 0, 2147483647, True),
        (2.0**24, 0, 2147483647, False),
        (1e30, 2, 33554393, False),
    ],
)
def test_values_too_large_for_the_field_are_refused(largest: float, bits: int, p: int, fits: bool) -> None:
    X = np.array([[largest], [0.0]])
    fitted = Transform.fit(X, center=False, scale="none", ones=False)
    if fits:
        assert fitted.quantized(X, bits, p / 2)[0][0, 0] == largest * 2**bits
        return
    with pytest.raises(HeadroomError) as error:
        fitted.quantized(X, bits, p / 2)
    text = str(error.value)
    assert text.startswith(
        f"quantized features must be below p/2 = {p / 2:.0f} and 2^24, got {abs(largest) * 2**bits:g}:"
    )
    for change in ("--data-bits", "--scale column"):
        assert change in text
    assert "\n" not in text


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_weights_in_original_units_give_the_same_outputs(center: bool, bias: bool) -> None:
    X = features()
    fitted = Transform.fit(X, center=center, scale="max", ones=bias)
    W = np.random.default_rng(2).normal(size=(fitted.columns, 3))
    coefficients, intercepts = fitted.original_units(W)
    assert coefficients.shape == (3, 5)
    assert intercepts.shape == (3,)
    np.testing.assert_allclose(X @ coefficients.T + intercepts, fitted.apply(X) @ W, rtol=1e-9, atol=1e-12)


# -- each column by itself ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("scale", ["column", "std"])
def test_each_column_has_its_own_scale(scale: str, center: bool) -> None:
    X = features() * np.array([1e-3, 1.0, 7.0, 1e6, 0.0])
    fitted = Transform.fit(X, center=center, scale=scale, ones=False)
    real = X - (X.mean(axis=0) if center else 0)
    divisor = np.abs(real).max(axis=0) if scale == "column" else X.std(axis=0)
    divisor[4] = 1.0  # zeros stay zeros
    np.testing.assert_allclose(fitted.scale, divisor, rtol=1e-12)
    np.testing.assert_allclose(fitted.apply(X), real / divisor, rtol=1e-9, atol=1e-9)
    assert not fitted.clipped.size


def test_a_constant_column_has_no_deviation_and_is_divided_by_its_value() -> None:
    X = np.column_stack([np.full(9, 0.1), np.arange(9.0)])
    fitted = Transform.fit(X, center=False, scale="std", ones=False)
    np.testing.assert_allclose(fitted.apply(X)[:, 0], 1.0)


def test_outliers_are_cut_off_and_told() -> None:
    X = np.random.default_rng(0).uniform(1, 2, (50, 3))
    X[7] *= 1e6
    fitted = Transform.fit(X, center=False, scale="column", ones=False)
    assert fitted.clipped.tolist() == [0, 1, 2]
    assert fitted.scale.max() < 2
    ordinary = np.delete(X, 7, axis=0)
    np.testing.assert_allclose(fitted.scale, ordinary.max(axis=0))
    np.testing.assert_allclose(fitted.apply(ordinary), ordinary / fitted.scale)
    beyond = fitted.apply(X[7:8])  # still far out, and no farther in any other row
    assert (beyond >= 1).all()
    assert (beyond <= 3).all()
    np.testing.assert_array_equal(fitted.apply(X[7:8] * 1e9), beyond)
    np.testing.assert_array_equal(fitted.apply(-X[7:8]), -beyond)
    whole = Transform.fit(X, center=False, scale="max", ones=False)
    assert not whole.clipped.size


@pytest.mark.parametrize("rows", [19, 200])
def test_what_is_no_outlier_is_left_alone(rows: int) -> None:
    """Heavy tails, counts and sparse columns; and of fewer than 20 values none is called ordinary."""
    rng = np.random.default_rng(1)
    X = np.column_stack([rng.lognormal(0, 1, rows), rng.poisson(0.02, rows), rng.standard_cauchy(rows), np.ones(rows)])
    if rows < 20:
        X[3] *= 1e6
    assert Transform.fit(X, center=False, scale="column", ones=False).clipped.size == 0


@pytest.mark.parametrize("scale", ["column", "std", "max", "3"])
@pytest.mark.parametrize("center", [False, True])
def test_sparse_rows_are_those_of_the_same_dense_matrix(scale: str, center: bool) -> None:
    X = np.random.default_rng(2).poisson(0.1, (40, 6)).astype(float)
    rows = sparse.csr_array(X)
    dense, other = (Transform.fit(given, center=center, scale=scale, ones=True) for given in (X, rows))
    np.testing.assert_array_equal(other.scale, dense.scale)
    np.testing.assert_array_equal(other.mean, dense.mean)
    np.testing.assert_array_equal(other.apply(rows), dense.apply(X))
    np.testing.assert_array_equal(other.quantized(rows, 4, 1e6)[0], dense.quantized(X, 4, 1e6)[0])
    W = np.random.default_rng(3).normal(size=(7, 2))
    np.testing.assert_array_equal(other.outputs(rows, W), dense.outputs(X, W))


@pytest.mark.parametrize("unit", [1e-300, 1e-12, 1e12, 1e300])
@pytest.mark.parametrize("scale", ["column", "std"])
def test_units_from_1e_300_to_1e300_make_no_difference(unit: float, scale: str) -> None:
    X = np.random.default_rng(4).uniform(-1, 1, (30, 2))
    X[0] = [1, 1]
    one, two = (Transform.fit(given, center=False, scale=scale, ones=False) for given in (X, X * [1.0, unit]))
    np.testing.assert_allclose(two.apply(X * [1.0, unit]), one.apply(X), rtol=1e-9)


def test_values_beyond_1e300_are_refused_by_their_column() -> None:
    X = np.array([[1.0, 2.0], [1.0, -1.5e300]])
    with pytest.raises(UsageError, match=re.escape("at most 1e300 in absolute value, got 1.5e+300 in column 1")):
        Transform.fit(X, center=False, scale="column", ones=False)


def test_a_coefficient_beyond_float64_is_an_error_that_names_its_column() -> None:
    fitted = Transform.fit(np.array([[1.0, 1e-308], [0.5, 0.0]]), center=False, scale="column", ones=False)
    with pytest.raises(UsageError, match=re.escape("got 1e-308 in column 1")):
        fitted.original_units(np.array([[1.0], [7.0]]))


def test_what_quantization_erases_is_counted() -> None:
    X = np.array([[1.0, 0.0, 100.0, 5.0], [-0.5, 0.01, 100.0, 0.2], [0.02, 0.02, 100.0, 0.0]])
    _, erased = Transform.fit(X, center=False, scale="none", ones=True).quantized(X, 2, 1e6)
    # 0.02, 0.01 and 0.02 become 0; the second column constant, the third one was
    assert (erased.entries, erased.erased_entries) == (10, 3)
    assert (erased.columns, erased.erased_columns) == (3, 1)
    assert erased.text == "30.00% of the non-zero entries and 1 of 3 columns"


def test_parse_scale() -> None:
    assert parse_scale("none") == 1.0
    assert parse_scale("2.5e1") == 25.0
    for bad in ("", "nan", "-1", "0", "inf", "one"):
        with pytest.raises(UsageError, match="--scale must be column, std, max, none or a positive number, got"):
            parse_scale(bad)
