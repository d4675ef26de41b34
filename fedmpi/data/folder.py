"""A folder of images, a folder in it for each class."""

from pathlib import Path
from typing import Any

import numpy as np

from fedmpi.data.dataset import Raw, check_size, reading
from fedmpi.errors import UsageError

ENDS = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"))


def read_folder(folder: Path) -> Raw:
    """Read ``folder/CLASS/*.png``, or ``folder/train/CLASS/*`` and ``folder/test/CLASS/*``.

    The images have one size, which is checked before any is unpacked. They are grey if all are, else red, green and
    blue; whatever is transparent loses that. Rows are sorted by class and by the names of the files.

    Raises
    ------
    UsageError
        If Pillow is missing, there are no images, one is damaged, or sizes differ.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise UsageError(f'Pillow must be installed to read images (pip install "fedmpi[data]"), got {error}') from None
    if not folder.is_dir():
        raise UsageError(f"folder of images must exist, got {folder}")
    split = (folder / "train").is_dir() and (folder / "test").is_dir()
    parts = [_files(part) for part in ((folder / "train", folder / "test") if split else (folder,))]
    size, grey = None, True
    for path, _ in (image for part in parts for image in part):
        with reading(path), Image.open(path) as image:
            size = size or image.size
            grey &= image.mode in ("1", "L")
            if image.mode.startswith(("I", "F")):
                raise UsageError(f"images must have 8 bits a channel, got mode {image.mode} of {path}")
            if image.size != size:
                raise UsageError(
                    f"images of {folder} must have one size, got {size[0]}x{size[1]} and "
                    f"{image.size[0]}x{image.size[1]} ({path.name}): resize them first"
                )
    assert size is not None  # _files found some
    shape = (1 if grey else 3, size[1], size[0])
    arrays: list[Any] = []
    for part in parts:
        check_size(len(part), shape[0] * shape[1] * shape[2], 1, f"images of {folder}")
        X = np.empty((len(part), *shape), dtype=np.uint8)
        for row, (path, _) in zip(X, part, strict=True):
            with reading(path), Image.open(path) as image:
                pixels = np.asarray(image.convert("L" if grey else "RGB"))
                row[:] = pixels[None] if grey else pixels.transpose(2, 0, 1)
        arrays += [X.reshape(len(X), -1), np.array([label for _, label in part])]
    X, y, X_test, y_test = [*arrays, None, None][:4]
    return Raw(folder.resolve().name, X, y, X_test, y_test, shape=shape)


def _files(folder: Path) -> list[tuple[Path, str]]:
    """Every image with the name of its class."""
    found = [
        (path, kind.name)
        for kind in sorted(folder.iterdir())
        if kind.is_dir()
        for path in sorted(kind.iterdir())
        if path.suffix.lower() in ENDS
    ]
    if not found:
        raise UsageError(f"{folder} must hold a folder of images for each class, got none")
    return found
