"""The sets known by name: where they lie in the data folder and how they are read."""

import difflib
import importlib.util
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmpi.data.bank import read_bank
from fedmpi.data.csvfile import read_csv
from fedmpi.data.dataset import Raw, open_binary, reading
from fedmpi.data.files import read_npz, read_svm
from fedmpi.data.lesions import read_originals, read_small
from fedmpi.data.options import FileOptions
from fedmpi.data.regression import NAME, diabetes
from fedmpi.errors import UsageError

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
NO_FILE = "no file needed"


@dataclass(frozen=True)
class Entry:
    """One line of the catalogue.

    `where` is the place on disk of a set that is present or should be there, or says why it needs none.
    """

    name: str
    present: bool
    where: str
    description: str
    source: str
    by_hand: bool = False


@dataclass(frozen=True)
class Known:
    """A set known by name; any one of `layouts` (files in the data folder) is enough to read it.

    `by_hand`: its files can't be fetched without a person (an account, a form).
    """

    description: str
    source: str
    read: Callable[[list[Path]], Raw]
    layouts: tuple[tuple[str, ...], ...] = ()
    by_hand: bool = False


def data_folder(data_dir: str | Path | None = None) -> Path:
    """Return `data_dir`, else $FEDMPI_DATA, else ``fedmpi`` in the cache folder of the user."""
    if data_dir is not None:
        return Path(data_dir).expanduser()
    if folder := os.environ.get("FEDMPI_DATA"):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fedmpi"


def locate(known: Known, folder: Path) -> list[Path] | None:
    """Return the files of the first layout that is complete, or None."""
    for layout in known.layouts:
        found = [
            next((p for end in ("", ".bz2", ".gz") if (p := folder / (file + end)).is_file()), None) for file in layout
        ]
        paths = [path for path in found if path is not None]
        if len(paths) == len(layout):
            return paths
    return None


def catalogue(data_dir: str | Path | None = None) -> list[Entry]:
    """List the sets known by name.

    Parameters
    ----------
    data_dir : str or Path, optional
        The data folder; see `load`.

    Returns
    -------
    list of Entry
        In the order of the documentation.
    """
    folder = data_folder(data_dir)
    entries = []
    for name, known in KNOWN.items():
        place = str((folder / known.layouts[0][0]).parent) if known.layouts else NO_FILE
        present = not known.layouts or locate(known, folder) is not None
        entries.append(Entry(name, present, place, known.description, known.source, known.by_hand))
    return [*entries, STAND_IN, MADE_UP]


def not_fetchable(name: str, folder: Path) -> UsageError:
    """Return the error for a set that only a person can bring, which says what goes where."""
    files = " or ".join(", ".join(layout) for layout in KNOWN[name].layouts)
    return UsageError(f"data set {name} must be put by hand into {folder} as {files}, got none: {KNOWN[name].source}")


def unknown(name: str) -> UsageError:
    """Return the error for a name that is neither a known set nor a file."""
    names = [*KNOWN, STAND_IN.name, MADE_UP.name]
    near = difflib.get_close_matches(name, names if "-" in name else names[:-1], n=1, cutoff=0.5)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return UsageError(
        f"data set must be one of {', '.join(names)}, synthetic:m=..,d=..,density=.., "
        f"a file (.csv, .tsv, .parquet, .feather, .arff, .npz, .npy, .svm, .libsvm) or a folder/ of images, "
        f"got {name}{hint}"
    )


def find_known(name: str, data_dir: str | Path | None = None) -> list[Path]:
    """The files of a set of `KNOWN`.

    Raises
    ------
    UsageError
        If they are missing.
    """
    known, folder = KNOWN[name], data_folder(data_dir)
    paths = locate(known, folder)
    if paths is None and known.layouts:
        if known.by_hand:
            raise not_fetchable(name, folder)
        wanted = " or ".join(", ".join(layout) for layout in known.layouts)
        raise UsageError(
            f"data set {name} must be fetched first (fedmpi data fetch {name}), got no {wanted} in {folder}"
        )
    return paths or []


def read_known(name: str, data_dir: str | Path | None = None) -> Raw:
    """Read a set of `KNOWN`.

    Raises
    ------
    UsageError
        If its files are missing or damaged.
    """
    return KNOWN[name].read(find_known(name, data_dir))


def _digits(_: list[Path]) -> Raw:
    """Read scikit-learn's file without importing scikit-learn: every rank would take a second, with SciPy and all."""
    package = importlib.util.find_spec("sklearn")
    places = (package and package.submodule_search_locations) or []
    path = next((own for place in places if (own := Path(place, "datasets/data/digits.csv.gz")).exists()), None)
    if path is None:  # of a scikit-learn that keeps it elsewhere
        from sklearn.datasets import load_digits

        X, y = load_digits(return_X_y=True)
    else:
        with reading(path), open_binary(path) as f:
            table = np.loadtxt(f, np.int64, delimiter=",")
        X, y = table[:, :-1], table[:, -1]
    return Raw("digits", X.astype(np.uint8), y, shape=(1, 8, 8))


def read_idx(path: Path, ndim: int) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes, the format of MNIST.

    Raises
    ------
    UsageError
        If the file is damaged or does not hold `ndim`-dimensional bytes.
    """
    with reading(path), open_binary(path) as f:
        head = f.read(4 + 4 * ndim)
        if head[:4] != bytes((0, 0, 8, ndim)):
            raise ValueError(f"its first bytes say it is no {ndim}-dimensional IDX file of bytes")
        shape = [int(n) for n in np.frombuffer(head, ">u4", ndim, 4)]
        body = bytearray(f.read(math.prod(shape) + 1))  # a bytearray, so that the array can be written to
        return np.frombuffer(body, np.uint8).reshape(shape)


def _mnist(paths: list[Path]) -> Raw:
    X, y, X_test, y_test = (read_idx(path, ndim) for path, ndim in zip(paths, (3, 1, 3, 1), strict=True))
    return Raw("mnist", X.reshape(len(X), -1), y, X_test.reshape(len(X_test), -1), y_test, shape=(1, 28, 28))


def _cifar10(paths: list[Path]) -> Raw:
    parts: list[NDArray[Any]] = []
    for path in paths:
        with reading(path):
            part = read_npz(path)
            if part.X.shape[1:] != (3, 32, 32) or part.X.dtype != np.uint8 or part.y.max() >= len(CIFAR10_CLASSES):
                raise ValueError("it does not hold uint8 images of 3x32x32 with labels 0..9")
        parts += [part.X.reshape(len(part.X), -1), part.y]
    X, y, X_test, y_test = parts
    return Raw("cifar10", X, y, X_test, y_test, CIFAR10_CLASSES, shape=(3, 32, 32))


CIFAR100_ROW = 2 + 3 * 32 * 32  # bytes: the coarse label, the fine label, then the pixels


def _cifar100(paths: list[Path]) -> Raw:
    """Read the binary version; the labels are the 100 fine ones."""
    parts: list[NDArray[Any]] = []
    for path in paths:
        with reading(path), open_binary(path) as f:
            rows = np.frombuffer(bytearray(f.read()), np.uint8)
            if not len(rows) or len(rows) % CIFAR100_ROW:
                raise ValueError(f"it must hold rows of {CIFAR100_ROW} bytes, got {len(rows)} bytes")
            rows = rows.reshape(-1, CIFAR100_ROW)
            if rows[:, 0].max() >= 20 or rows[:, 1].max() >= 100:
                raise ValueError("its labels must be below 20 (coarse) and 100 (fine)")
        parts += [rows[:, 2:], rows[:, 1]]
    X, y, X_test, y_test = parts
    return Raw("cifar100", X, y, X_test, y_test, shape=(3, 32, 32))


def _svhn(paths: list[Path]) -> Raw:
    """Read the cropped digits, MATLAB files: images (32, 32, 3, m), and labels 1 to 10, where 10 is the digit 0."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    parts: list[NDArray[Any]] = []
    for path in paths:
        with reading(path):
            try:
                found = loadmat(path, variable_names=["X", "y"])
                X, y = found["X"], found["y"]
            except (MatReadError, KeyError, TypeError, NotImplementedError) as error:
                raise ValueError(f"it is no MATLAB file with X and y: {error}") from None
            if X.ndim != 4 or X.shape[:3] != (32, 32, 3) or X.dtype != np.uint8 or y.shape != (X.shape[3], 1):
                raise ValueError(f"it must hold bytes X (32, 32, 3, m) and y (m, 1), got {X.shape}, {y.shape}")
            if y.min() < 1 or y.max() > 10:
                raise ValueError(f"its labels must be 1 to 10, got {y.min()} to {y.max()}")
        parts += [np.ascontiguousarray(X.transpose(3, 2, 0, 1)).reshape(len(y), -1), (y[:, 0] % 10).astype(np.int64)]
    X, y, X_test, y_test = parts
    return Raw("svhn", X, y, X_test, y_test, shape=(3, 32, 32))


def _gisette(paths: list[Path]) -> Raw:
    """Read the text files of UCI, or those of LIBSVM (the same data, scaled)."""
    if len(paths) == 2:
        with reading(paths[0]):
            X, y = read_svm(paths[0])
        with reading(paths[1]):
            X_test, y_test = read_svm(paths[1], X.shape[1])
        return Raw("gisette (LIBSVM, scaled)", X, y, X_test, y_test)
    parts: list[NDArray[Any]] = []
    for path, dtype in zip(paths, (np.uint16, np.int8, np.uint16, np.int8), strict=True):
        with reading(path):
            parts.append(np.loadtxt(path, dtype=dtype, ndmin=2 if dtype is np.uint16 else 1))
    X, y, X_test, y_test = parts
    return Raw("gisette", X, y, X_test, y_test)


def _wine(paths: list[Path]) -> Raw:
    with reading(paths[0]):
        raw = read_csv(paths[0], FileOptions("quality"))
    return Raw("wine", raw.X, raw.y, columns=raw.columns)


KNOWN = {
    "digits": Known("handwritten digits, 1797 images of 8x8, 10 classes", "scikit-learn load_digits (UCI)", _digits),
    "mnist": Known(
        "handwritten digits, 60000 + 10000 images of 28x28, 10 classes",
        "LeCun, Cortes, Burges 1998",
        _mnist,
        (
            (
                "mnist/train-images-idx3-ubyte.gz",
                "mnist/train-labels-idx1-ubyte.gz",
                "mnist/t10k-images-idx3-ubyte.gz",
                "mnist/t10k-labels-idx1-ubyte.gz",
            ),
        ),
    ),
    "cifar10": Known(
        "photographs, 50000 + 10000 images of 3x32x32, 10 classes",
        "Krizhevsky 2009",
        _cifar10,
        (("cifar10/train.npz", "cifar10/test.npz"),),
    ),
    "cifar100": Known(
        "photographs, 50000 + 10000 images of 3x32x32, 100 classes",
        "Krizhevsky 2009",
        _cifar100,
        (("cifar100/train.bin", "cifar100/test.bin"),),
    ),
    "svhn": Known(
        "house numbers, 73257 + 26032 images of 3x32x32, 10 classes",
        "Netzer et al. 2011",
        _svhn,
        (("svhn/train_32x32.mat", "svhn/test_32x32.mat"),),
    ),
    "gisette": Known(
        "digits 4 and 9 with probe columns, 6000 + 1000 rows of 5000, classes -1 and 1",
        "Guyon et al. 2004 (UCI)",
        _gisette,
        (
            (
                "gisette/gisette_train.data",
                "gisette/gisette_train.labels",
                "gisette/gisette_valid.data",
                "gisette/gisette_valid.labels",
            ),
            ("gisette/gisette_scale", "gisette/gisette_scale.t"),
        ),
    ),
    "wine": Known(
        "white wines, 4898 rows of 11, quality 3..9 (regression or 7 classes)",
        "Cortez et al. 2009 (UCI)",
        _wine,
        (("tabular/winequality-white.csv",),),
    ),
    "diabetes": Known(
        "diabetes progression, 442 rows of 10 (regression)", "scikit-learn load_diabetes (Efron et al. 2004)", diabetes
    ),
    "bank": Known(
        "bank marketing, 41188 rows of 63 (20 before one-hot), whether a client subscribed (0/1 or 2 classes)",
        "bank-additional-full.csv of Bank Marketing (UCI)",
        read_bank,
        (("bank_marketing/bank-additional-full.csv",),),
        by_hand=True,
    ),
    "ham10000": Known(
        "skin lesions, 10015 images of 3x28x28, 7 classes, split by lesion",
        "HAM10000 (Tschandl et al. 2018), averaged to 28x28",
        read_small,
        (("ham10000/ham10000_28x28_rgb.npz",),),
        by_hand=True,
    ),
    "ham10000-64": Known(
        "skin lesions, 10015 images of 3x64x64, 7 classes, split by lesion",
        "original images of HAM10000 (Tschandl et al. 2018)",
        read_originals,
        (("ham10000/HAM10000_metadata.csv", "ham10000/images/ISIC_0027419.jpg"),),
        by_hand=True,
    ),
}
STAND_IN = Entry(
    "synthetic:gisette",
    True,
    NO_FILE,
    "stand-in of the shape of GISETTE, 6000 + 1000 rows of 5000",
    "made up",
)
MADE_UP = Entry(
    NAME,
    True,
    NO_FILE,
    "regression on a few of many features, noise of deviation 20; or synthetic-lasso:n=..,d=..,sparsity=..,noise=..",
    "made up by scikit-learn make_regression",
)
