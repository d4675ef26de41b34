"""How much an attack recovered, and what it costs to prevent that [Fan et al. 2020, sections 2.1 and 4.1]."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.signal import fftconvolve

from fedmpi.data import Dataset
from fedmpi.errors import UsageError

Images = NDArray[np.floating]
"""Shape (N, …), pixels in [0, 1]."""

PSNR, SSIM = 18.0, 0.5
"""A person recognizes an image at both, or more. A grey or mean image has neither."""


def spread_of(data: Dataset) -> NDArray[np.float64]:
    """What errors are measured by: of images 1, the range of a pixel; of each column of a table its deviation.

    Where a column of the training rows is constant, that is 1 too.
    """
    if data.shape:
        return np.ones(())
    deviations: NDArray[np.float64] = data.X_train.std(axis=0, dtype=np.float64)
    return np.where(deviations > 0, deviations, 1.0)


def relative_errors(found: Images, true: Images) -> NDArray[np.float64]:
    """The paper's rMSE of every image, ‖x* - x‖ / ‖x‖, shape (N,); infinite for a black image."""
    difference = _flat(found, true) - _rows(true)
    norms = np.linalg.norm(_rows(true), axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: NDArray[np.float64] = np.linalg.norm(difference, axis=1) / norms
    return ratio


def mean_squared_errors(found: Images, true: Images) -> NDArray[np.float64]:
    """Mean over the pixels of (x* - x)², shape (N,)."""
    errors: NDArray[np.float64] = ((_flat(found, true) - _rows(true)) ** 2).mean(axis=1)
    return errors


def psnr(found: Images, true: Images) -> NDArray[np.float64]:
    """Peak signal-to-noise ratio -10 log₁₀ MSE in decibels, shape (N,), of pixels in [0, 1]."""
    with np.errstate(divide="ignore"):
        decibels: NDArray[np.float64] = -10 * np.log10(mean_squared_errors(found, true))
    return decibels


def ssim(found: Images, true: Images) -> NDArray[np.float64]:
    """Structural similarity in [-1, 1], shape (N,) [Wang et al. 2004].

    Windows of 11x11 (or the largest odd size that fits), Gaussian with σ = 1.5, K₁ = 0.01, K₂ = 0.03; the mean over
    all places where a window fits, and over the channels.

    Parameters
    ----------
    found, true : array, shape (N, channels, height, width)
        Pixels in [0, 1].
    """
    x: NDArray[np.float64] = np.asarray(found, np.float64)
    y: NDArray[np.float64] = np.asarray(true, np.float64)
    if x.shape != y.shape or y.ndim != 4:
        raise UsageError(f"images must have the same shape (N, C, H, W), got {x.shape} and {y.shape}")
    size = min(11, *(side - (1 - side % 2) for side in y.shape[2:]))
    line = np.exp(-((np.arange(size) - size // 2) ** 2) / (2 * 1.5**2))
    window = np.outer(line, line)[None, None] / line.sum() ** 2

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        out: NDArray[np.float64] = fftconvolve(values, window, mode="valid", axes=(2, 3))
        return out

    mu_x, mu_y = mean(x), mean(y)
    var_x, var_y = mean(x**2) - mu_x**2, mean(y**2) - mu_y**2
    covariance = mean(x * y) - mu_x * mu_y
    c1, c2 = 0.01**2, 0.03**2
    similarity = ((2 * mu_x * mu_y + c1) * (2 * covariance + c2)) / ((mu_x**2 + mu_y**2 + c1) * (var_x + var_y + c2))
    out: NDArray[np.float64] = similarity.mean(axis=(1, 2, 3))
    return out


def match(found: Images, true: Images) -> NDArray[np.int64]:
    """Which image found is meant to be which true one, shape (N,): the assignment with the least squared error.

    ``found[match(found, true)]`` stands in the order of `true`; a gradient does not tell the order of a batch.
    """
    a, b = _flat(found, true), _rows(true)
    costs = (b**2).sum(1)[:, None] + (a**2).sum(1)[None, :] - 2 * b @ a.T
    rows, columns = linear_sum_assignment(np.where(np.isfinite(costs), costs, 1e300))
    order: NDArray[np.int64] = columns[np.argsort(rows)].astype(np.int64)
    return order


def perturbation_ratio(clean: Sequence[NDArray[np.floating]], shared: Sequence[NDArray[np.floating]]) -> float:
    """‖B_I‖ / ‖E_B‖: gradient over perturbation, in the Euclidean norm over all given parts; infinite without any.

    Parameters
    ----------
    clean : sequence of array
        Gradients without a defence: for B those of the biases.
    shared : sequence of array
        What was shared in their place.
    """
    gradient = sum(float((np.asarray(part, np.float64) ** 2).sum()) for part in clean)
    noise = sum(
        float(((np.asarray(b, np.float64) - np.asarray(a, np.float64)) ** 2).sum())
        for a, b in zip(clean, shared, strict=True)
    )
    return float(np.sqrt(gradient / noise)) if noise else float("inf")


@dataclass(frozen=True)
class Point:
    """One point of a privacy-preserving characteristic (PPC)."""

    setting: float
    """m: the parameter of the mechanism, such as σ or α₂."""
    ratio: float
    """‖B_I‖ / ‖E_B‖ at this setting."""
    accuracy: float
    """Acc, in [0, 1]."""
    distance: float
    """dist: rMSE, membership or tracing distance of the attack."""

    @property
    def control(self) -> float:
        """log₁₀(‖B_I‖/‖E_B‖ + 1), the horizontal axis of Figure 5."""
        return float(np.log10(self.ratio + 1))


def cap(points: Sequence[Point], *, clip: float = float("inf")) -> float:
    """Calibrated averaged performance, equation (1): the mean of Acc · dist over the settings.

    Parameters
    ----------
    points : sequence of Point
    clip : float
        Distances count for at most this: an rMSE of 5 tells no less of an image than one of 1, so that an attack that
        diverges raises a CAP without a clip.
    """
    if not points:
        raise UsageError("a CAP must have at least one point, got none")
    return float(np.mean([point.accuracy * min(point.distance, clip) for point in points]))


def _rows(images: Images) -> NDArray[np.float64]:
    return np.asarray(images, np.float64).reshape(len(images), -1)


def _flat(found: Images, true: Images) -> NDArray[np.float64]:
    if np.shape(found) != np.shape(true):
        raise UsageError(f"images must have the same shape, got {np.shape(found)} and {np.shape(true)}")
    return _rows(found)
