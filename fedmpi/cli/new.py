"""`new`: a system of one's own."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro


@dataclasses.dataclass(frozen=True)
class New:
    """Write a small package with a system that runs, and a test of it: put your protocol in its place.

    Example: fedmpi new mysystem
    """

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """Of the package, which is that of the system on the command line too."""
    folder: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path()
    """Where to write it: a folder of its name is made there."""

    def __call__(self, options: list[str]) -> int:
        """Write it, and say how to go on."""
        from fedmpi.new import write_package

        written = write_package(self.name, self.folder)
        print(f"written to {written}\ninstall it: pip install -e {written}\nrun it: fedmpi run {self.name} -n 4")
        return 0
