"""Images of a batch as independent sources: found nearly in what a gradient mixes; rows of noise are not."""

import numpy as np
import pytest

from fedmpi.attacks.cocktail import independent_images
from fedmpi.attacks.metrics import match, psnr
from fedmpi.errors import UsageError

SHAPE, ROWS, UNITS = (3, 20, 20), 24, 60


def pictures(seed: int = 0) -> np.ndarray:
    """Boxes of some colours on a ground, shape (ROWS, N), in [0, 1]."""
    rng = np.random.default_rng(seed)
    found = np.ones((ROWS, *SHAPE)) * rng.uniform(size=(ROWS, 3, 1, 1))
    for image in found:
        for _ in range(5):
            (top, left), (height, width) = rng.integers(0, 14, 2), rng.integers(3, 12, 2)
            image[:, top : top + height, left : left + width] = rng.uniform(size=(3, 1, 1))
    return found.reshape(ROWS, -1)


def gradient(X: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the weights and biases of a layer, and what was sent back to it for each row."""
    D = np.random.default_rng(seed).normal(size=(len(X), UNITS))
    return D.T @ X, D.sum(axis=0), D


def test_pictures_are_found_in_the_sum_of_their_gradients() -> None:
    X = pictures()
    W, b, D = gradient(X)
    images, factors = independent_images(W, b, SHAPE, ROWS)
    order = match(images.reshape(-1, *SHAPE), X.reshape(-1, *SHAPE))
    near = psnr(images[order].reshape(-1, *SHAPE), X.reshape(-1, *SHAPE))
    assert (near > 18).sum() >= ROWS - 2
    alike = np.abs([np.corrcoef(a, b)[0, 1] for a, b in zip(factors[order], D, strict=True)])
    assert np.median(alike) > 0.95
    np.testing.assert_allclose(factors.T @ np.c_[images, np.ones(ROWS)], np.c_[W, b], atol=1e-8)


def test_nothing_is_found_where_rows_are_noise() -> None:
    """The positive control above, with rows whose numbers know nothing of their neighbours."""
    X = np.random.default_rng(1).uniform(size=(ROWS, int(np.prod(SHAPE))))
    W, b, _ = gradient(X)
    images, _ = independent_images(W, b, SHAPE, ROWS)
    images = images.reshape(-1, *SHAPE)
    assert psnr(images[match(images, X.reshape(-1, *SHAPE))], X.reshape(-1, *SHAPE)).max() < 18


def test_one_row_is_exact_and_no_gradient_is_refused() -> None:
    X = pictures()[:1]
    W, b, _ = gradient(X)
    np.testing.assert_allclose(independent_images(W, b, SHAPE, 5)[0], X, atol=1e-9)
    with pytest.raises(UsageError, match="must not be zero"):
        independent_images(0 * W, 0 * b, SHAPE, 5)
    with pytest.raises(UsageError, match=r"on images of shape \(3, 20, 20\)"):
        independent_images(W[:, 1:], b, SHAPE, 5)
