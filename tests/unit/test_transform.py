"""From raw features to X̄ and back to weights for raw features."""

import numpy as np
import pytest

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
    fitted = Transform.fit(X, center=center, scale="max", bias=bias)
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
    np.testing.assert_array_equal(Transform.fit(X, center=True, scale="none", bias=False).apply(X), [[-100.0], [100.0]])


@pytest.mark.parametrize(("scale", "divisor"), [("none", 1.0), ("50", 50.0), ("0.5", 0.5), ("max", 199.0)])
def test_scales(scale: str, divisor: float) -> None:
    X = features()
    X[3, 2] = -199
    fitted = Transform.fit(X, center=False, scale=scale, bias=False)
    np.testing.assert_allclose(fitted.apply(X), X / divisor)


def test_features_that_are_all_zero_stay_zero() -> None:
    fitted = Transform.fit(np.zeros((4, 2)), center=True, scale="max", bias=True)
    np.testing.assert_array_equal(fitted.apply(np.zeros((4, 2))), [[0, 0, 1]] * 4)


def test_what_was_learned_from_training_rows_is_applied_to_others() -> None:
    fitted = Transform.fit(np.array([[0.0], [4.0]]), center=True, scale="max", bias=True)
    np.testing.assert_array_equal(fitted.apply(np.array([[10.0]])), [[4.0, 1.0]])


@pytest.mark.parametrize("bits", [0, 2, 7])
def test_quantized_features_are_the_nearest_integers(bits: int) -> None:
    X = np.random.default_rng(1).normal(size=(30, 4))
    fitted = Transform.fit(X, center=False, scale="max", bias=True)
    X_bar = fitted.quantized(X, bits, 2**25 - 39)
    assert X_bar.dtype == np.float32
    np.testing.assert_array_equal(X_bar, np.floor(fitted.apply(X) * 2**bits + 0.5))
    assert (X_bar[:, -1] == 2**bits).all()


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    X = features("u1", 50, 7)
    whole = Transform.fit(X, center=True, scale="max", bias=True)
    monkeypatch.setattr(transform, "_CHUNK_BYTES", 8 * 7 * 3)
    assert len(row_chunks(50, 7)) == 17
    parts = Transform.fit(X, center=True, scale="max", bias=True)
    np.testing.assert_array_equal(parts.mean, whole.mean)
    assert parts.scale == whole.scale
    np.testing.assert_array_equal(parts.quantized(X, 2, 33554393), np.floor(whole.apply(X) * 4 + 0.5))


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
    fitted = Transform.fit(X, center=False, scale="none", bias=False)
    if fits:
        assert fitted.quantized(X, bits, p)[0, 0] == largest * 2**bits
        return
    with pytest.raises(HeadroomError) as error:
        fitted.quantized(X, bits, p)
    text = str(error.value)
    assert text.startswith(f"quantized features must be below p/2 = {p // 2} and 2^24, got {abs(largest) * 2**bits:g}:")
    for change in ("--data-bits", "--scale", "--prime"):
        assert change in text
    assert "\n" not in text


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_weights_in_original_units_give_the_same_outputs(center: bool, bias: bool) -> None:
    X = features()
    fitted = Transform.fit(X, center=center, scale="max", bias=bias)
    W = np.random.default_rng(2).normal(size=(fitted.columns, 3))
    coefficients, intercepts = fitted.original_units(W)
    assert coefficients.shape == (3, 5)
    assert intercepts.shape == (3,)
    np.testing.assert_allclose(X @ coefficients.T + intercepts, fitted.apply(X) @ W, rtol=1e-9, atol=1e-12)


def test_parse_scale() -> None:
    assert parse_scale("none") == 1.0
    assert parse_scale("2.5e1") == 25.0
    for bad in ("", "nan", "-1", "0", "inf", "one"):
        with pytest.raises(UsageError, match="--scale must be max, none or a positive number, got"):
            parse_scale(bad)
