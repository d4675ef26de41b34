"""Write a package from the files in `template`, in which `mysystem` stands for the name."""

import keyword
from importlib.resources import files
from importlib.resources.abc import Traversable
from importlib.util import find_spec
from pathlib import Path

from fedmpi.errors import UsageError
from fedmpi.systems import names

STANDS_FOR_THE_NAME = "mysystem"
ENDING = ".in"
"""Of the files of the template: they are no modules of fedmpi."""


def write_package(name: str, parent: Path) -> Path:
    """Write a package that runs as it is.

    Parameters
    ----------
    name : str
        Of the package, the module and the system.
    parent : Path
        Folder in which a folder of this name is made.

    Raises
    ------
    UsageError
        If the name is none of a new module, or the folder is there already or can't be made.
    """
    check(name)
    target = parent / name
    try:
        target.mkdir(parents=True)
        _copy(files("fedmpi.new") / "template", target, name)
    except OSError as error:
        raise UsageError(f"--folder must be one where {name}/ can be made, got {parent}: {error.strerror}") from None
    return target


def check(name: str) -> None:
    """Refuse a name that is none of a module, or that something has already.

    Raises
    ------
    UsageError
    """
    if not (name.isascii() and name.isidentifier() and name.islower()) or keyword.iskeyword(name):
        raise UsageError(f"NAME must be that of a Python module: small letters, digits and _, got {name}")
    if name in names():
        raise UsageError(f"NAME must be new, got {name}: that system is there already ({', '.join(names())})")
    if find_spec(name) is not None:
        raise UsageError(f"NAME must be new, got {name}: a module of this name is there already")


def _copy(source: Traversable, target: Path, name: str) -> None:
    for entry in source.iterdir():
        place = target / entry.name.replace(STANDS_FOR_THE_NAME, name).removesuffix(ENDING)
        if entry.is_dir():
            place.mkdir()
            _copy(entry, place, name)
        elif entry.name.endswith(ENDING):
            place.write_text(entry.read_text(encoding="utf-8").replace(STANDS_FOR_THE_NAME, name), encoding="utf-8")
