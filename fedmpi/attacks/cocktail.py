"""Images of a batch, or of many clients' batches, as independent sources [Kariyappa et al. 2023, Cocktail Party].

The gradient of a fully connected layer is a product Dᵀ X whose rows mix the rows of the batch X. The differences of
neighbouring pixels of photographs are mostly near zero, and those of one image are nearly independent of another's, so
that independent component analysis of the differences tells how to take the mixtures apart. The paper maximizes
independence, smoothness and difference by gradient descent; here FastICA works on edges in place of pixels. It needs no
ReLU, no parameters of the layer, and a unit for each row; what it finds is near the images, and never exact.
"""

import warnings

import numpy as np

from fedmpi.attacks.silence import Matrix
from fedmpi.attacks.spear import RANK
from fedmpi.errors import UsageError

ITERATIONS, TOLERANCE = 600, 1e-5
"""Of FastICA."""


def independent_images(
    weights: Matrix, biases: Matrix, shape: tuple[int, int, int], rows: int, seed: int = 0
) -> tuple[Matrix, Matrix]:
    """The inputs of a fully connected layer that are images, from the gradient of a batch.

    Parameters
    ----------
    weights : array, shape (M, N)
        Gradient of the M units' weights.
    biases : array, shape (M,)
    shape : tuple
        Channels, height and width of an image; N is their product.
    rows : int
        Of the batch. Of a gradient of higher rank the strongest so many directions are taken.
    seed : int
        Of the search.

    Returns
    -------
    images : array, shape (b, N)
        In no order; as many as the rank of the gradient allows.
    factors : array, shape (b, M)
        What is propagated back to each unit for each of them.

    Raises
    ------
    UsageError
        If the gradient is zero, or of inputs that are no such images.
    """
    from sklearn.decomposition import FastICA

    joined = np.c_[np.asarray(weights, np.float64), np.asarray(biases, np.float64)]  # an input ends in 1
    if joined.shape[1] != int(np.prod(shape)) + 1 or not np.abs(joined).max() > 0:
        raise UsageError(f"the gradient of a layer on images of shape {shape} must not be zero, got {weights.shape}")
    left, sizes, mixed = np.linalg.svd(joined, full_matrices=False)
    count = min(rows, int((sizes > RANK * sizes[0]).sum()))
    left, mixed = left[:, :count] * sizes[:count], mixed[:count]
    unmixing = np.eye(count)
    if count > 1:
        ica = FastICA(count, fun="exp", whiten="unit-variance", random_state=seed, max_iter=ITERATIONS, tol=TOLERANCE)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it has not converged: the best there is, is good
            ica.fit(edges(mixed[:, :-1], shape).T)
        unmixing = ica.components_
    sources, factors = unmixing @ mixed, np.linalg.solve(unmixing.T, left.T)
    ends = np.where(np.abs(sources[:, -1:]) > np.finfo(float).tiny, sources[:, -1:], 1.0)
    return sources[:, :-1] / ends, factors * ends


def edges(images: Matrix, shape: tuple[int, int, int]) -> Matrix:
    """Differences of neighbouring pixels, both ways, of images (b, N)."""
    pictures = images.reshape(-1, *shape)
    return np.concatenate([np.diff(pictures, axis=axis).reshape(len(images), -1) for axis in (2, 3)], axis=1)
