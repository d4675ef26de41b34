"""Made-up classification data: sparse, of any shape, the same for the same seed."""

import math

import numpy as np

from fedmpi.data.dataset import Raw, check_size
from fedmpi.data.spec import numbers
from fedmpi.errors import UsageError

GISETTE = "m=6000,d=5000,density=0.13,test=1000"
TOP = 999  # the largest value, as in GISETTE
INFORMATIVE = 400  # columns that tell the classes apart, at most
SEPARATION = 4.4  # distance of two class means over all these columns, in standard deviations of a cell
MAX_SHIFT = 0.8  # of the mean of one column; 1 would be the whole range
BLOCK_ROWS = 256
_TYPES: dict[str, type[int] | type[float]] = {
    "m": int,
    "d": int,
    "density": float,
    "test": int,
    "classes": int,
}


def parse(spec: str) -> dict[str, int | float]:
    """Read ``m=6000,d=5000,density=0.13[,test=1000][,classes=2]``.

    Raises
    ------
    UsageError
        For a key that is unknown, missing or given twice, or a value that is out of range.
    """
    given = numbers(spec, _TYPES, "a synthetic set")
    if missing := [key for key in ("m", "d", "density") if key not in given]:
        raise UsageError(f"synthetic set must give m, d and density, got no {', '.join(missing)}")
    given = {"test": 1000, "classes": 2} | given
    for key, least in (("classes", 2), ("m", max(2, given["classes"])), ("d", 1), ("test", 1)):
        if given[key] < least:
            raise UsageError(f"{key} of a synthetic set must be at least {least}, got {given[key]}")
    if not 0 < given["density"] <= 1:
        raise UsageError(f"density of a synthetic set must be in (0, 1], got {given['density']:g}")
    return given


def make(spec: str, seed: int = 0) -> Raw:
    """Make a synthetic set.

    Every cell is nonzero with probability `density`, whatever the class. The value of a nonzero cell is
    uniform over 1..999, but in the informative columns a class leans to high or to low values. How far is
    chosen so that the class means lie `SEPARATION` apart: near enough that a linear model makes errors.

    Parameters
    ----------
    spec : str
        ``gisette`` or what `parse` reads; m counts the training rows, `test` the test rows.
    seed : int
        Seed of the generator.

    Returns
    -------
    Raw
        X uint16 of shape (m, d), y int64 of shape (m,), and the test part.
    """
    p = parse(GISETTE if spec == "gisette" else spec)
    m, d, test, classes, density = int(p["m"]), int(p["d"]), int(p["test"]), int(p["classes"]), p["density"]
    check_size(m + test, d, 2, "synthetic set")
    shape = f"{m}x{d}"
    stand_in = spec == "gisette"
    name = f"synthetic stand-in for GISETTE ({shape})" if stand_in else f"synthetic ({shape}, density {density:g})"

    rng = np.random.default_rng(seed)
    informative = rng.permutation(d)[:INFORMATIVE]
    high = rng.random((classes, len(informative))).argsort(axis=0) < classes // 2  # half of the classes lean high
    spread = math.sqrt(density / 3 - density**2 / 4)  # of one cell: uniform on (0, 1) with that probability, else 0
    shift = min(MAX_SHIFT, SEPARATION * spread / density / math.sqrt(len(informative)))
    lean = (1 + shift) / (1 - shift)  # the mean of u**lean and that of u**(1/lean) are `shift` apart
    power = np.where(high, 1 / lean, lean).astype(np.float32)

    y = np.concatenate([rng.permutation(np.arange(rows) % classes) for rows in (m, test)])
    X = np.empty((m + test, d), dtype=np.uint16)
    for start in range(0, len(X), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        u = rng.random(X[rows].shape, dtype=np.float32)
        u /= np.float32(density)  # below 1 with probability `density`, and then uniform
        u[:, informative] **= power[y[rows]]
        X[rows] = np.where(u < 1, 1 + (TOP - 0.1) * u, 0)
    return Raw(name, X[:m], y[:m], X[m:], y[m:], shape=square(X.shape[1]))


def square(features: int) -> tuple[int, ...]:
    """(1, s, s) or (3, s, s) where made-up rows can be square images, to try models of images with; else ()."""
    for channels in (1, 3):
        side = math.isqrt(features // channels)
        if side > 1 and channels * side * side == features:
            return (channels, side, side)
    return ()
