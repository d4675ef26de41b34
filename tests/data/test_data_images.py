"""CIFAR-100 and SVHN in their official formats, as tiny files."""

import hashlib
import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from fedmpi.data import download, fetch, load
from fedmpi.errors import UsageError

RNG = np.random.default_rng(0)


def cifar100_rows(count: int) -> np.ndarray:
    rows = RNG.integers(0, 256, (count, 3074), dtype=np.uint8)
    rows[:, 0] = np.arange(count) % 20
    rows[:, 1] = [7, 99] * (count // 2)
    return rows


def test_cifar100(tmp_path: Path) -> None:
    train, test = cifar100_rows(6), cifar100_rows(2)
    (tmp_path / "cifar100").mkdir()
    (tmp_path / "cifar100/train.bin").write_bytes(train.tobytes())
    (tmp_path / "cifar100/test.bin").write_bytes(test.tobytes())
    got = load("cifar100", data_dir=tmp_path)
    assert got.classes == ("7", "99")
    assert (got.X_train == train[:, 2:]).all()  # all red pixels first, row by row
    assert (got.X_test == test[:, 2:]).all()
    assert got.y_train.tolist() == [0, 1] * 3
    (tmp_path / "cifar100/test.bin").write_bytes(test.tobytes()[:-1])
    with pytest.raises(UsageError, match="rows of 3074 bytes"):
        load("cifar100", data_dir=tmp_path)
    test[0, 1] = 100
    (tmp_path / "cifar100/test.bin").write_bytes(test.tobytes())
    with pytest.raises(UsageError, match="labels must be below"):
        load("cifar100", data_dir=tmp_path)


def test_cifar100_is_taken_out_of_its_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {"train.bin": cifar100_rows(4).tobytes(), "test.bin": cifar100_rows(2).tobytes()}

    def archive(names: tuple[str, ...]) -> Path:
        path = tmp_path / "cifar-100-binary.tar.gz"
        with tarfile.open(path, "w:gz") as tar:
            for name in names:
                info = tarfile.TarInfo(f"cifar-100-binary/{name}")
                info.size = len(parts[name])
                tar.addfile(info, io.BytesIO(parts[name]))
        return path

    made = [tmp_path / "a", tmp_path / "b"]
    (entry,) = download.SOURCES["cifar100"][1]
    assert entry.convert is not None
    entry.convert(archive(("train.bin", "test.bin")), made)
    assert [path.read_bytes() for path in made] == [*parts.values()]
    with pytest.raises(ValueError, match=r"has no cifar-100-binary/test\.bin"):
        entry.convert(archive(("train.bin",)), made)


def svhn(folder: Path, labels: list[int], name: str = "train") -> np.ndarray:
    X = RNG.integers(0, 256, (32, 32, 3, len(labels)), dtype=np.uint8)
    folder.mkdir(exist_ok=True)
    savemat(folder / f"{name}_32x32.mat", {"X": X, "y": np.array(labels, np.uint8)[:, None]})
    return X


def test_svhn(tmp_path: Path) -> None:
    folder = tmp_path / "svhn"
    train = svhn(folder, [10, 1, 9, 10])
    svhn(folder, [1, 9], "test")
    got = load("svhn", data_dir=tmp_path)
    assert got.classes == ("0", "1", "9")  # label 10 is the digit 0
    assert got.y_train.tolist() == [0, 1, 2, 0]
    assert got.X_train[1].reshape(3, 32, 32)[2, 4, 5] == train[4, 5, 2, 1]
    assert got.X_train.dtype == np.uint8
    svhn(folder, [11, 1], "test")
    with pytest.raises(UsageError, match="labels must be 1 to 10"):
        load("svhn", data_dir=tmp_path)
    savemat(folder / "test_32x32.mat", {"X": train, "z": 1})
    with pytest.raises(UsageError, match="no MATLAB file with X and y"):
        load("svhn", data_dir=tmp_path)
    (folder / "test_32x32.mat").write_bytes(b"not a MATLAB file at all" * 20)
    with pytest.raises(UsageError, match="must be complete and readable"):
        load("svhn", data_dir=tmp_path)
    with pytest.raises(UsageError, match="must be fetched first"):
        load("svhn", data_dir=tmp_path / "elsewhere")


def test_svhn_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "mirror"
    svhn(source, [10, 1])
    svhn(source, [1, 10], "test")
    base, downloads = download.SOURCES["svhn"]
    digests = [hashlib.sha256((source / d.place).read_bytes()).hexdigest() for d in downloads]
    tiny = tuple(replace(d, known_hash=f"sha256:{digest}") for d, digest in zip(downloads, digests, strict=True))
    monkeypatch.setitem(download.SOURCES, "svhn", (base, tiny))

    def copy(url: str, path: str, fname: str, **_: object) -> str:
        target = Path(path) / fname
        target.write_bytes((source / fname).read_bytes())
        return str(target)

    monkeypatch.setattr("pooch.retrieve", copy)
    fetch("svhn", tmp_path / "data", progress=False)
    assert load("svhn", data_dir=tmp_path / "data").classes == ("0", "1")
