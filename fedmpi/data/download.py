"""Download the known sets from their official places into the layout of the data folder."""

import gzip
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedmpi.data.dataset import DAMAGED, one_line
from fedmpi.data.known import KNOWN, STAND_IN, data_folder, locate, not_fetchable, unknown
from fedmpi.errors import UsageError

TIMEOUT_S = 30  # for the connection and for each read from it
CIFAR10_ROW = 1 + 3 * 32 * 32  # bytes: the label, then the pixels


@dataclass(frozen=True)
class Download:
    """One file to download.

    `place` is relative to the base URL of the set. `files` are what it becomes in the data folder, written
    by `convert` from the downloaded file (None: the one file is stored as it is).
    """

    place: str
    known_hash: str
    files: tuple[str, ...]
    convert: Callable[[Path, list[Path]], None] | None = None


def fetch(
    name: str, data_dir: str | Path | None = None, *, progress: bool = True, base_url: str | None = None
) -> list[Path]:
    """Download a known set; what is already there is left alone.

    A file appears in the data folder only when it is complete, so a call that failed can be repeated.

    Parameters
    ----------
    name : str
        A name of `catalogue`.
    data_dir : str or Path, optional
        The data folder; see `load`.
    progress : bool
        Show a progress bar for each file.
    base_url : str, optional
        Folder of a mirror that holds the same files as the official place.

    Returns
    -------
    list of Path
        The files of the set; empty for sets that need none.

    Raises
    ------
    UsageError
        If the set is unknown, pooch is missing, or a download fails or is not what it should be.
    """
    if name == STAND_IN.name:
        return []
    if name not in KNOWN:
        raise unknown(name)
    folder = data_folder(data_dir)
    if (present := locate(KNOWN[name], folder)) is not None or not KNOWN[name].layouts:
        return present or []
    if KNOWN[name].by_hand:
        raise not_fetchable(name, folder)
    official, downloads = SOURCES[name]
    base = (base_url or official).rstrip("/") + "/"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for download in downloads:
            _get(download, base + download.place, folder, progress)
    except ImportError as e:
        raise UsageError(f'pooch must be installed to fetch data (pip install "fedmpi[data]"), got {e}') from e
    except (*DAMAGED, tarfile.TarError) as e:
        raise UsageError(f"download of {name} must succeed, got {one_line(e)}") from e
    return locate(KNOWN[name], folder) or []


def _get(download: Download, url: str, folder: Path, progress: bool) -> None:
    """Download and convert in a folder of its own, then move the files that are missing into place."""
    missing = [file for file in download.files if not (folder / file).is_file()]
    if not missing:
        return
    import pooch

    # beside the target, so that the last step is a rename within one file system
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as tmp:
        got = pooch.retrieve(
            url,
            known_hash=download.known_hash,
            fname=Path(url).name,
            path=tmp,
            downloader=pooch.HTTPDownloader(progressbar=progress, timeout=TIMEOUT_S),
        )
        made = [Path(got)]
        if download.convert is not None:
            made = [Path(tmp) / f"{k}-{Path(file).name}" for k, file in enumerate(download.files)]
            download.convert(Path(got), made)
        for file, new in zip(download.files, made, strict=True):
            if file in missing:
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                new.replace(folder / file)


def _cifar10(archive: Path, made: list[Path]) -> None:
    """Read the binary version; members are read by name and nothing is extracted to disk."""
    batches = [f"cifar-10-batches-bin/{name}.bin" for name in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch")]
    data: dict[str, bytes] = {}
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            if member.name in batches and member.isreg() and (f := tar.extractfile(member)) is not None:
                data[member.name] = f.read()
    for path, names in zip(made, (batches[:5], batches[5:]), strict=True):
        if absent := [name for name in names if name not in data]:
            raise ValueError(f"the archive has no {', '.join(absent)}")
        rows = np.frombuffer(b"".join(data[name] for name in names), np.uint8).reshape(-1, CIFAR10_ROW)
        np.savez(path, X=rows[:, 1:].reshape(-1, 3, 32, 32), y=rows[:, 0])


def _cifar100(archive: Path, made: list[Path]) -> None:
    """Take the two files of rows out of the archive; nothing else is extracted."""
    with tarfile.open(archive, "r:gz") as tar:
        for path, name in zip(made, ("train.bin", "test.bin"), strict=True):
            member = next((m for m in tar.getmembers() if m.name == f"cifar-100-binary/{name}" and m.isreg()), None)
            if member is None or (file := tar.extractfile(member)) is None:
                raise ValueError(f"the archive has no cifar-100-binary/{name}")
            path.write_bytes(file.read())


def _wine(text: Path, made: list[Path]) -> None:
    """UCI separates by semicolons; no cell holds a comma."""
    made[0].write_bytes(gzip.compress(text.read_bytes().replace(b";", b","), mtime=0))


UCI = "https://archive.ics.uci.edu/ml/machine-learning-databases/"
SOURCES: dict[str, tuple[str, tuple[Download, ...]]] = {
    "mnist": (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        tuple(
            Download(f"{file}.gz", f"sha256:{sha}", (f"mnist/{file}.gz",))
            for file, sha in (
                (
                    "train-images-idx3-ubyte",
                    "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                ),
                (
                    "train-labels-idx1-ubyte",
                    "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                ),
                (
                    "t10k-images-idx3-ubyte",
                    "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                ),
                (
                    "t10k-labels-idx1-ubyte",
                    "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
                ),
            )
        ),
    ),
    "cifar10": (
        "https://www.cs.toronto.edu/~kriz/",
        (
            Download(
                "cifar-10-binary.tar.gz",
                "md5:c32a1d4ab5d03f1284b67883e8d87530",
                ("cifar10/train.npz", "cifar10/test.npz"),
                _cifar10,
            ),
        ),
    ),
    "cifar100": (
        "https://www.cs.toronto.edu/~kriz/",
        (
            Download(
                "cifar-100-binary.tar.gz",
                "md5:03b5dce01913d631647c71ecec9e9cb8",
                ("cifar100/train.bin", "cifar100/test.bin"),
                _cifar100,
            ),
        ),
    ),
    "svhn": (
        "http://ufldl.stanford.edu/housenumbers/",
        tuple(
            Download(f"{part}_32x32.mat", f"md5:{md5}", (f"svhn/{part}_32x32.mat",))
            for part, md5 in (
                ("train", "e26dedcc434d2e4c54c9b2d4a06d8373"),
                ("test", "eb5a983be6a315427106f1b164d9cef3"),
            )
        ),
    ),
    "gisette": (
        f"{UCI}gisette/",
        tuple(
            Download(place, f"sha256:{sha}", (f"gisette/{Path(place).name}",))
            for place, sha in (
                (
                    "GISETTE/gisette_train.data",
                    "6d4c5e998afe67937b9e77a3334e03c85e545ebc65a6eb1333ffc14125cfc389",
                ),
                (
                    "GISETTE/gisette_train.labels",
                    "42bd681fe51b161f033df773df14a0116e492676555ab14616c1b72edc054075",
                ),
                (
                    "GISETTE/gisette_valid.data",
                    "5cea897956dd172a006132738254a27a8f61ecc1ceb6f5b20639c281d2942254",
                ),
                ("gisette_valid.labels", "a6b857a0448023f033c4dda2ef848714b4be2ae45ce598d088fb3efb406e08c5"),
            )
        ),
    ),
    "wine": (
        f"{UCI}wine-quality/",
        (
            Download(
                "winequality-white.csv",
                "sha256:76c3f809815c17c07212622f776311faeb31e87610d52c26d87d6e361b169836",
                ("tabular/winequality-white.csv.gz",),
                _wine,
            ),
        ),
    ),
}
