"""What can be said of a data set before its rows are read: whether it is there, and asked for in a way that it has."""

from collections.abc import Sequence
from pathlib import Path

from fedmpi.data import regression, synthetic
from fedmpi.data.files import kind_of
from fedmpi.data.known import KNOWN, find_known, unknown
from fedmpi.data.options import FileOptions
from fedmpi.errors import UsageError


def check_ranges(
    *, seed: int, max_rows: int | None, test_fraction: float, classes: Sequence[str], values: bool
) -> None:
    """Refuse numbers that no data set could be cut by; `values`: the labels are numbers to be predicted.

    Raises
    ------
    UsageError
    """
    if seed < 0:
        raise UsageError(f"seed must be at least 0, got {seed}")
    if max_rows is not None and max_rows < 1:
        raise UsageError(f"max_rows must be at least 1, got {max_rows}")
    if not 0 <= test_fraction < 1:
        raise UsageError(f"test_fraction must lie in [0, 1), got {test_fraction}")
    if values and classes:
        raise UsageError(f"classes must be empty for regression, got {', '.join(classes)}")


def check_source(
    name: str, data_dir: str | Path | None, options: FileOptions, test_file: str | Path | None = None
) -> None:
    """Refuse a name that is no data set, files that are not there, and what has no meaning for them.

    Parameters
    ----------
    name : str
        As in `fedmpi.data.load`, which refuses the same, and then reads.
    data_dir : str or Path, optional
    options : FileOptions
    test_file : str or Path, optional

    Raises
    ------
    UsageError
    """
    kind, colon, spec = name.partition(":")
    file = kind_of(name)
    if file is None:
        if test_file is not None:
            raise UsageError(f"test_file must be given beside a file of training rows only, got {name}")
        options.check(name, None)
        if kind == regression.NAME:
            regression.parse(spec)
        elif kind == "synthetic" and colon:
            synthetic.parse(synthetic.GISETTE if spec == "gisette" else spec)
        elif name in KNOWN:
            find_known(name, data_dir)
        elif not (name.endswith("/") or Path(name).expanduser().is_dir()):
            raise unknown(name)
        elif not Path(name).expanduser().is_dir():
            raise UsageError(f"folder of images must exist, got {name}")
        return
    path = Path(name).expanduser()
    if test_file is not None and kind_of(Path(test_file).name) != file:
        raise UsageError(f"test_file must be of the same kind as {path}, got {test_file}")
    for one in (path, *([Path(test_file).expanduser()] if test_file is not None else [])):
        if not one.is_file():
            raise UsageError(f"data file must exist, got {one}")
    options.check(str(path), file)
