"""The images of an attack, original above reconstruction, as PNG in the page itself."""

import base64
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROWS = ("original", "found")

_MOST_IMAGES = 12
_LARGEST_SIDE = 512
_LIMIT_BYTES = 1 << 26


def gallery(run: Path) -> str:
    """Images of images.npz as HTML, side by side; empty if there are none that can be shown."""
    rows = {name: images for name, images in _read(run / "images.npz").items() if len(images)}
    lines = []
    for name, images in rows.items():
        pictures = "".join(f'<img alt="{name} {k}" src="{_data_uri(image)}">' for k, image in enumerate(images))
        lines.append(f'<p class="soft">{name}</p><div class="strip">{pictures}</div>')
    return "".join(lines)


def _read(path: Path) -> dict[str, NDArray[np.uint8]]:
    """Name → images, shape (n, height, width, 3); what is too large, or no image, is left out."""
    found = {}
    if not path.is_file():
        return {}
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _LIMIT_BYTES:
                return {}
        with np.load(path, allow_pickle=False) as arrays:
            for name in ROWS:
                if name in arrays and (images := _pixels(arrays[name])) is not None:
                    found[name] = images
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError):
        return {}
    return found


def _pixels(values: NDArray[Any]) -> NDArray[np.uint8] | None:
    if values.ndim != 4 or values.dtype.kind != "f" or values.shape[1] not in (1, 3):
        return None
    if not 0 < min(values.shape[2:]) <= max(values.shape[2:]) <= _LARGEST_SIDE:
        return None
    colors = np.broadcast_to(values[:_MOST_IMAGES], (len(values[:_MOST_IMAGES]), 3, *values.shape[2:]))
    pixels: NDArray[np.uint8] = np.rint(np.clip(np.nan_to_num(colors), 0, 1) * 255).astype(np.uint8)
    return pixels.transpose(0, 2, 3, 1)


def _data_uri(image: NDArray[np.uint8]) -> str:
    """A PNG [RFC 2083] of 8 bits a colour: each row without a filter."""
    height, width, _ = image.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), image.reshape(height, -1)], axis=1)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows.tobytes())), chunk(b"IEND", b""))
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(parts)).decode()
