"""`fetch` from a server on this machine: the official formats, and downloads that go wrong."""

import gzip
import hashlib
import io
import os
import struct
import sys
import tarfile
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from fedmpi.data import download, fetch, load
from fedmpi.errors import UsageError

DATA = Path(os.environ.get("FEDMPI_DATA", "/nowhere"))


class Server(ThreadingHTTPServer):
    """Serves `files`; of the paths in `cut` it sends half and hangs up."""

    def __init__(self):
        self.files, self.cut, self.asked = {}, set(), []
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/mirror"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        place = self.path.removeprefix("/mirror/")
        self.server.asked.append(place)
        body = self.server.files.get(place)
        if body is None:
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        return self.wfile.write(body[: len(body) // 2] if place in self.server.cut else body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    pytest.importorskip("pooch", reason="pooch is not installed")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def expect(monkeypatch, name, files):
    """Make the checksums of the set those of these tiny files."""
    base, downloads = download.SOURCES[name]
    tiny = tuple(replace(d, known_hash=f"sha256:{hashlib.sha256(files[d.place]).hexdigest()}") for d in downloads)
    monkeypatch.setitem(download.SOURCES, name, (base, tiny))


def idx(array):
    head = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(head + array.astype(np.uint8).tobytes())


def mnist_files():
    images = np.random.default_rng(0).integers(0, 256, (6, 28, 28))
    train = {"train-images-idx3-ubyte.gz": idx(images), "train-labels-idx1-ubyte.gz": idx(np.arange(6) % 2)}
    test = {"t10k-images-idx3-ubyte.gz": idx(images[:4]), "t10k-labels-idx1-ubyte.gz": idx(np.arange(4) % 2)}
    return train | test


def cifar_rows():
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 256, (12, 3073), dtype=np.uint8)
    rows[:, 0] = [3, 5, 3, 5, 3, 5, 3, 5, 3, 5, 5, 3]
    return rows


def cifar_archive(rows, drop="", kind=tarfile.REGTYPE):
    """Ten training rows in five batches and two test rows, with the other members of the official archive."""
    batches = {f"data_batch_{k + 1}.bin": rows[2 * k : 2 * k + 2] for k in range(5)} | {"test_batch.bin": rows[10:]}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        members = {"batches.meta.txt": b"airplane\n", "../evil.bin": b"x"}
        for name, data in (members | {k: v.tobytes() for k, v in batches.items()}).items():
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(data)
            if name == "data_batch_1.bin":
                info.type = kind
                info.linkname = "/etc/hostname"
            if name != drop:
                tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def tree(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() or p.name.startswith("."))


# ------------------------------------------------------------------ what is fetched


def test_mnist(server, monkeypatch, tmp_path):
    server.files = mnist_files()
    expect(monkeypatch, "mnist", server.files)
    paths = fetch("mnist", tmp_path / "new", progress=False, base_url=server.url)
    assert tree(tmp_path / "new") == sorted(f"mnist/{name}" for name in server.files)
    assert {p.name: p.read_bytes() for p in paths} == server.files
    got = load("mnist", data_dir=tmp_path / "new")
    assert got.X_train.tobytes() == gzip.decompress(server.files["train-images-idx3-ubyte.gz"])[16:]
    assert got.y_test.tolist() == [0, 1, 0, 1]


def test_what_is_there_is_not_fetched_again(server, monkeypatch, tmp_path):
    server.files = mnist_files()
    expect(monkeypatch, "mnist", server.files)
    own = tmp_path / "mnist/train-images-idx3-ubyte.gz"
    own.parent.mkdir()
    own.write_bytes(b"the user's own")
    first = fetch("mnist", tmp_path, progress=False, base_url=server.url)
    assert len(server.asked) == 3
    assert own.read_bytes() == b"the user's own"
    assert fetch("mnist", tmp_path, progress=False, base_url=server.url) == first
    assert len(server.asked) == 3


def test_progress_bar(server, monkeypatch, tmp_path, capfd):
    pytest.importorskip("tqdm", reason="tqdm is not installed")
    server.files = mnist_files()
    expect(monkeypatch, "mnist", server.files)
    fetch("mnist", tmp_path / "a", progress=False, base_url=server.url)
    assert "100%" not in capfd.readouterr().err
    fetch("mnist", tmp_path / "b", base_url=server.url)
    assert "100%" in capfd.readouterr().err


def test_cifar10(server, monkeypatch, tmp_path):
    rows = cifar_rows()
    server.files = {"cifar-10-binary.tar.gz": cifar_archive(rows)}
    expect(monkeypatch, "cifar10", server.files)
    fetch("cifar10", tmp_path, progress=False, base_url=server.url)
    assert tree(tmp_path.parent / tmp_path.name) == ["cifar10/test.npz", "cifar10/train.npz"]
    with np.load(tmp_path / "cifar10/train.npz") as z:
        assert (z["X"].shape, z["X"].dtype) == ((10, 3, 32, 32), np.uint8)
    got = load("cifar10", data_dir=tmp_path, classes=("cat", "dog"))
    np.testing.assert_array_equal(got.X_train, rows[:10, 1:])
    np.testing.assert_array_equal(got.X_test, rows[10:, 1:])
    assert (got.y_train.tolist(), got.y_test.tolist()) == ([0, 1] * 5, [1, 0])


def test_cifar10_keeps_the_half_that_is_there(server, monkeypatch, tmp_path):
    server.files = {"cifar-10-binary.tar.gz": cifar_archive(cifar_rows())}
    expect(monkeypatch, "cifar10", server.files)
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10/test.npz").write_bytes(b"own")
    fetch("cifar10", tmp_path, progress=False, base_url=server.url)
    assert (tmp_path / "cifar10/test.npz").read_bytes() == b"own"
    assert (tmp_path / "cifar10/train.npz").is_file()


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        (
            cifar_archive(cifar_rows(), drop="data_batch_3.bin"),
            "has no cifar-10-batches-bin/data_batch_3.bin",
        ),
        (cifar_archive(cifar_rows(), drop="test_batch.bin"), "has no cifar-10-batches-bin/test_batch.bin"),
        (cifar_archive(cifar_rows(), kind=tarfile.SYMTYPE), "has no cifar-10-batches-bin/data_batch_1.bin"),
        (cifar_archive(cifar_rows()[:, :-1]), "reshape"),
        (b"no archive", "not a gzip file"),
        (cifar_archive(cifar_rows())[:-5000], "download of cifar10 must succeed"),
    ],
)
def test_cifar10_archive_that_is_none(server, monkeypatch, tmp_path, archive, message):
    server.files = {"cifar-10-binary.tar.gz": archive}
    expect(monkeypatch, "cifar10", server.files)
    with pytest.raises(UsageError, match=message):
        fetch("cifar10", tmp_path, progress=False, base_url=server.url)
    assert tree(tmp_path) == []


def test_gisette(server, monkeypatch, tmp_path):
    server.files = {
        "GISETTE/gisette_train.data": b"550 0 495 \n0 999 0 \n",
        "GISETTE/gisette_train.labels": b"1\n-1\n",
        "GISETTE/gisette_valid.data": b"1 2 3 \n",
        "gisette_valid.labels": b"-1\n",
    }
    expect(monkeypatch, "gisette", server.files)
    fetch("gisette", tmp_path, progress=False, base_url=f"{server.url}/")
    got = load("gisette", data_dir=tmp_path)
    assert got.X_train.tolist() == [[550, 0, 495], [0, 999, 0]]
    assert (got.y_train.tolist(), got.X_test.tolist(), got.y_test.tolist()) == ([1, 0], [[1, 2, 3]], [0])


@pytest.mark.skipif(not (DATA / "tabular").is_dir(), reason="$FEDMPI_DATA has no tabular")
def test_wine_with_the_official_bytes_and_checksum(server, tmp_path):
    stored = gzip.decompress((DATA / "tabular/winequality-white.csv.gz").read_bytes())
    server.files = {"winequality-white.csv": stored.replace(b",", b";")}
    (path,) = fetch("wine", tmp_path, progress=False, base_url=server.url)
    assert path == tmp_path / "tabular/winequality-white.csv.gz"
    assert gzip.decompress(path.read_bytes()) == stored


@pytest.mark.skipif(not (DATA / "mnist").is_dir(), reason="$FEDMPI_DATA has no mnist")
def test_mnist_with_the_official_bytes_and_checksums(server, tmp_path):
    server.files = {p.name: p.read_bytes() for p in (DATA / "mnist").iterdir()}
    fetch("mnist", tmp_path, progress=False, base_url=server.url)
    assert len(load("mnist", data_dir=tmp_path).X_test) == 10000


# ------------------------------------------------------------------ what goes wrong


def test_wrong_checksum_then_repaired(server, monkeypatch, tmp_path):
    good = mnist_files()
    expect(monkeypatch, "mnist", good)
    server.files = good | {"t10k-labels-idx1-ubyte.gz": b"something else"}
    with pytest.raises(UsageError, match=r"download of mnist must succeed, got .*hash of downloaded file") as e:
        fetch("mnist", tmp_path, progress=False, base_url=server.url)
    assert "\n" not in str(e.value)
    whole = sorted(f"mnist/{name}" for name in good if name != "t10k-labels-idx1-ubyte.gz")
    assert tree(tmp_path) == whole
    server.files = good
    fetch("mnist", tmp_path, progress=False, base_url=server.url)
    assert {p.name: p.read_bytes() for p in (tmp_path / "mnist").iterdir()} == good
    assert len(server.asked) == 5  # the three good ones only once


def test_connection_cut_in_the_middle_then_repaired(server, monkeypatch, tmp_path):
    server.files = {"cifar-10-binary.tar.gz": cifar_archive(cifar_rows())}
    expect(monkeypatch, "cifar10", server.files)
    server.cut = set(server.files)
    with pytest.raises(UsageError, match="download of cifar10 must succeed, got"):
        fetch("cifar10", tmp_path, progress=False, base_url=server.url)
    assert tree(tmp_path) == []
    server.cut = set()
    assert len(fetch("cifar10", tmp_path, progress=False, base_url=server.url)) == 2


def test_interrupt_leaves_nothing(server, monkeypatch, tmp_path):
    server.files = {"cifar-10-binary.tar.gz": cifar_archive(cifar_rows())}
    expect(monkeypatch, "cifar10", server.files)
    save = np.savez

    def interrupted(path, **arrays):
        save(path, **arrays)
        if "test" in str(path):
            raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch("cifar10", tmp_path, progress=False, base_url=server.url)
    assert tree(tmp_path) == []


def test_no_such_file_and_no_such_server(server, tmp_path):
    for url, message in ((server.url, "got 404"), ("http://127.0.0.1:1", "got .*refused")):
        with pytest.raises(UsageError, match=f"^download of wine must succeed, {message}.*$"):
            fetch("wine", tmp_path, progress=False, base_url=url)
    assert tree(tmp_path) == []


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"download of wine must succeed, got .*file"):
        fetch("wine", tmp_path / "file" / "folder", progress=False)


def test_unknown_name(tmp_path):
    with pytest.raises(UsageError, match="did you mean mnist"):
        fetch("mnits", tmp_path)


def test_pooch_is_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(UsageError, match=r'pip install "fedmpi\[data\]"'):
        fetch("wine", tmp_path, progress=False)
    assert tree(tmp_path) == []
