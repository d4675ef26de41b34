"""`data`: list the data sets, or fetch one."""

import dataclasses
from typing import Annotated

import tyro

from fedmpi.cli.types import Folder


@dataclasses.dataclass(frozen=True)
class DataList:
    """List the data sets: what is here, and where the others belong."""

    data_dir: Folder = None
    """Folder of the data sets. Default: $FEDMPI_DATA, else the cache that `fedmpi data fetch` fills."""

    def __call__(self, options: list[str]) -> int:
        """Print the catalogue."""
        from fedmpi.data import catalogue

        for entry in catalogue(self.data_dir):
            print(f"{'ok' if entry.present else '--'}  {entry.name:<10} {entry.description} ({entry.where})")
        return 0


@dataclasses.dataclass(frozen=True)
class DataFetch:
    """Download a data set's official files, check them, and convert them."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """A name that `fedmpi data list` shows."""
    data_dir: Folder = None
    """Folder of the data sets. Default: $FEDMPI_DATA, else the cache that `fedmpi data fetch` fills."""

    def __call__(self, options: list[str]) -> int:
        """Fetch, and print what is there now."""
        from fedmpi.data import fetch

        for path in fetch(self.name, self.data_dir):
            print(path)
        return 0


@dataclasses.dataclass(frozen=True)
class Data:
    """List the data sets, or fetch one."""

    data: tyro.conf.OmitSubcommandPrefixes[
        Annotated[DataList, tyro.conf.subcommand("list")] | Annotated[DataFetch, tyro.conf.subcommand("fetch")]
    ]

    def __call__(self, options: list[str]) -> int:
        """Do it."""
        return self.data(options)
