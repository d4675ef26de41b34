"""The files of the known sets: every layout, and damaged ones."""

import bz2
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from fedmpi.data import download, fetch, load
from fedmpi.errors import UsageError

DATA = Path(os.environ.get("FEDMPI_DATA", "/nowhere"))


@pytest.mark.skipif(not (DATA / "mnist").is_dir(), reason="$FEDMPI_DATA has no mnist")
def test_torn_mnist(tmp_path):
    shutil.copytree(DATA / "mnist", tmp_path / "mnist", copy_function=shutil.copyfile)
    images = tmp_path / "mnist/t10k-images-idx3-ubyte.gz"
    whole = images.read_bytes()
    images.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match=r"must be complete and readable, got .*t10k-images"):
        load("mnist", data_dir=tmp_path)
    images.write_bytes((tmp_path / "mnist/t10k-labels-idx1-ubyte.gz").read_bytes())
    with pytest.raises(UsageError, match="no 3-dimensional IDX file"):
        load("mnist", data_dir=tmp_path)


def test_cifar10_of_another_shape(tmp_path):
    (tmp_path / "cifar10").mkdir()
    for part in ("train", "test"):
        np.savez(tmp_path / f"cifar10/{part}.npz", X=np.zeros((2, 3, 32, 31), np.uint8), y=np.array([0, 1]))
    with pytest.raises(UsageError, match="does not hold uint8 images of 3x32x32"):
        load("cifar10", data_dir=tmp_path)


def test_gisette_of_libsvm(tmp_path):
    (tmp_path / "gisette").mkdir()
    (tmp_path / "gisette/gisette_scale.bz2").write_bytes(bz2.compress(b"1 1:0.5 3:-1\n-1 2:0.25\n"))
    (tmp_path / "gisette/gisette_scale.t").write_text("-1 1:0.5\n")
    got = load("gisette", data_dir=tmp_path)
    assert got.X_train.tolist() == [[0.5, 0, -1], [0, 0.25, 0]]
    assert got.X_test.tolist() == [[0.5, 0, 0]]
    assert (got.y_train.tolist(), got.y_test.tolist(), got.classes) == ([1, 0], [0], ("-1", "1"))
    (tmp_path / "gisette/gisette_scale.t").write_text("-1 4:0.5\n")
    with pytest.raises(UsageError, match="complete and readable"):
        load("gisette", data_dir=tmp_path)


def test_gisette_of_uci(tmp_path):
    folder = tmp_path / "gisette"
    folder.mkdir()
    (folder / "gisette_train.data").write_text("550 0 495 \n0 999 0 \n")
    (folder / "gisette_train.labels").write_text("1\n-1\n")
    (folder / "gisette_valid.data").write_text("1 2 3 \n")
    (folder / "gisette_valid.labels").write_text("-1\n")
    got = load("gisette", data_dir=tmp_path)
    assert (got.name, got.X_train.dtype) == ("gisette", np.uint16)
    assert got.X_train.tolist() == [[550, 0, 495], [0, 999, 0]]
    assert (got.y_train.tolist(), got.y_test.tolist()) == ([1, 0], [0])
    (folder / "gisette_train.data").write_text("550 0 495 \n0 99")
    with pytest.raises(UsageError, match="number of columns changed"):
        load("gisette", data_dir=tmp_path)


def test_each_source_is_official_and_has_a_checksum():
    for name, (base, downloads) in download.SOURCES.items():
        assert base.startswith("https://") or name == "svhn"  # its official server speaks http only
        files = {file for d in downloads for file in d.files}
        assert all(d.known_hash.split(":")[0] in ("sha256", "md5") for d in downloads)
        layouts = [set(layout) for layout in download.KNOWN[name].layouts]
        assert files in layouts or {file.removesuffix(".gz") for file in files} in layouts


def test_every_set_with_files_can_be_fetched_or_says_that_it_is_put_by_hand(tmp_path):
    for name, known in download.KNOWN.items():
        assert bool(known.layouts) == (known.by_hand or name in download.SOURCES), name
    with pytest.raises(UsageError, match=r"bank must be put by hand into .* as bank_marketing/"):
        load("bank", data_dir=tmp_path)


def test_sets_that_need_no_file(tmp_path):
    assert fetch("digits", tmp_path) == fetch("synthetic:gisette", tmp_path) == []
