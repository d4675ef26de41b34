"""HAM10000: images of skin lesions, of which several may show the same one."""

import csv
import hashlib
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedmpi.data.dataset import Raw, open_binary, reading
from fedmpi.errors import UsageError

CLASSES = ("akiec", "bcc", "bkl", "df", "nv", "vasc", "mel")
SIZE = 64
"""Pixels of a side of the images that are made from the original ones, as in the paper of PBPFL."""


def read_small(paths: list[Path]) -> Raw:
    """The images as 3x28x28, from one .npz file."""
    with reading(paths[0]), np.load(paths[0], allow_pickle=False) as file:
        X, y, lesion = file["X"], file["y"], file["lesion"]
        if X.shape[1:] != (28, 28, 3) or X.dtype != np.uint8 or not len(X) == len(y) == len(lesion):
            raise ValueError("it does not hold uint8 images of 28x28x3 with labels and lesions")
    return split("ham10000", X, y, lesion)


def read_originals(paths: list[Path]) -> Raw:
    """The images as 3x64x64, from the original files beside the first one, in the order of the metadata."""
    metadata, first = paths
    try:
        from PIL import Image
    except ImportError as error:
        raise UsageError(f"Pillow must be installed to read images (pip install pillow), got {error}") from None
    with reading(metadata), open_binary(metadata) as file:
        rows = list(csv.DictReader(io.TextIOWrapper(file, "utf-8")))
        y = np.array([CLASSES.index(row["dx"]) for row in rows])
        lesion = np.unique([row["lesion_id"] for row in rows], return_inverse=True)[1]
        names = [row["image_id"] for row in rows]
    X = np.empty((len(rows), SIZE, SIZE, 3), np.uint8)
    for image, name in zip(X, names, strict=True):
        path = first.parent / f"{name}{first.suffix}"
        with reading(path), Image.open(path) as original:
            side = min(original.size)
            left, top = ((length - side) // 2 for length in original.size)
            square = (left, top, left + side, top + side)
            image[:] = np.asarray(original.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BOX, square))
    return split("ham10000-64", X, y, lesion)


def split(name: str, X: NDArray[np.uint8], y: NDArray[np.int64], lesion: NDArray[np.int64]) -> Raw:
    """Every fifth lesion or so is for testing, with all of its images; always the same ones, in a random order.

    Parameters
    ----------
    X : array of uint8, shape (n, s, s, 3)
    y, lesion : array of int, shape (n,)
    """
    order = np.random.default_rng(0).permutation(len(X))  # the source is sorted by class
    X, y, lesion = X[order], y[order], lesion[order]
    flat = np.ascontiguousarray(X.transpose(0, 3, 1, 2)).reshape(len(X), -1)
    test = np.array([hashlib.sha256(b"lesion %d" % number).digest()[0] % 5 == 0 for number in lesion.tolist()])
    return Raw(name, flat[~test], y[~test], flat[test], y[test], CLASSES, shape=(3, *X.shape[1:3]))
