"""Bank Marketing and HAM10000: what becomes of columns and images, and that no lesion is on both sides of the split."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from fedmpi.data import fetch, lesions, load
from fedmpi.errors import UsageError

DATA = Path(os.environ.get("FEDMPI_DATA", "/nowhere"))

BANK = """"age";"job";"duration";"y"
30;"clerk";100;"no"
40;"baker";250.5;"yes"
50;"clerk";0;"no"
60;"clerk";7;"yes"
"""


def bank(folder: Path, text: str) -> Path:
    (folder / "bank_marketing").mkdir(exist_ok=True)
    (folder / "bank_marketing/bank-additional-full.csv.gz").write_bytes(gzip.compress(text.encode()))
    return folder


def test_text_becomes_columns_and_numbers_stay(tmp_path: Path) -> None:
    data = load("bank", data_dir=bank(tmp_path, BANK), regression=True, test_fraction=0.3)
    both = np.concatenate([data.X_train, data.X_test])
    assert sorted(both.tolist()) == [[30, 0, 1, 100], [40, 1, 0, 250.5], [50, 0, 1, 0], [60, 0, 1, 7]]
    assert data.y_train.dtype == np.float64
    wanted = {30: 0, 40: 1, 50: 0, 60: 1}
    assert all(wanted[int(x[0])] == y for x, y in zip(data.X_train, data.y_train, strict=True))
    assert load("bank", data_dir=tmp_path, test_fraction=0.5).classes == ("no", "yes")


@pytest.mark.parametrize("text", [BANK.replace('"no"', '"maybe"'), "a;b\n1;2\n", '"age";"y"\n', BANK + "1;2\n"])
def test_a_damaged_bank_file_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="must be complete and readable"):
        load("bank", data_dir=bank(tmp_path, text))


@pytest.mark.skipif(not (DATA / "bank_marketing").is_dir(), reason="$FEDMPI_DATA has no bank_marketing")
def test_the_real_bank_file() -> None:
    data = load("bank", regression=True, test_fraction=0.2)
    assert (len(data.X_train) + len(data.X_test), data.X_train.shape[1]) == (41188, 63)
    assert data.y_train.sum() + data.y_test.sum() == 4640


@pytest.mark.skipif(not (DATA / "ham10000").is_dir(), reason="$FEDMPI_DATA has no ham10000")
def test_no_lesion_is_on_both_sides() -> None:
    data = load("ham10000")
    assert data.X_train.shape[1] == 3 * 28 * 28
    assert 0.15 < len(data.X_test) / 10015 < 0.25
    with np.load(DATA / "ham10000/ham10000_28x28_rgb.npz") as file:
        X, lesion = file["X"], file["lesion"]
    channels_first = X.transpose(0, 3, 1, 2).reshape(len(X), -1)
    of = {}
    for image, number in zip(channels_first, lesion.tolist(), strict=True):
        of.setdefault(image.tobytes(), number)
    train, test = ({of[image.tobytes()] for image in part} for part in (data.X_train, data.X_test))
    assert not train & test
    assert len(train | test) == len(set(lesion.tolist()))


def test_original_images(tmp_path: Path) -> None:
    Image = pytest.importorskip("PIL.Image")
    folder = tmp_path / "ham10000/images"
    folder.mkdir(parents=True)
    lines = ["lesion_id,image_id,dx"]
    for k in range(40):
        name = "ISIC_0027419" if k == 0 else f"ISIC_{k}"
        lines.append(f"HAM_{k // 2},{name},{lesions.CLASSES[k % 7]}")
        pixels = np.zeros((150, 200, 3), np.uint8)
        pixels[:, :25] = 255  # outside of the square in the middle
        pixels[:, 25:100] = (k, 100, 200)
        Image.fromarray(pixels).save(folder / f"{name}.jpg", quality=100, subsampling=0)
    (tmp_path / "ham10000/HAM10000_metadata.csv").write_text("\n".join(lines) + "\n")
    data = load("ham10000-64", data_dir=tmp_path)
    images = np.concatenate([data.X_train, data.X_test]).reshape(-1, 3, 64, 64)
    assert len(images) == 40
    left = np.sort(images[:, :, :, 5].mean(2), axis=0)
    np.testing.assert_allclose(left[:, 1:], [[100, 200]] * 40, atol=3)
    np.testing.assert_allclose(left[:, 0], np.arange(40), atol=3)
    reds = [
        set(np.round(part.reshape(-1, 3, 64, 64)[:, 0, :, 5].mean(1) / 2 - 0.25))
        for part in (data.X_train, data.X_test)
    ]
    assert len(reds[0] & reds[1]) <= 2  # JPEG may shift a colour by one


def test_sets_without_a_checked_source_say_where_to_put_them(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"bank must be put by hand into .* as bank_marketing/bank-additional-full.csv, got none"
    ):
        fetch("bank", tmp_path)
