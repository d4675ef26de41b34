"""What is on this machine, or on a cluster: `doctor`, `data`."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro


@dataclasses.dataclass(frozen=True)
class Doctor:
    """Say what works on this machine, what is missing, and how to get it."""

    data_dir: Path | None = None
    """Folder of the data sets. Default: $FEDMPI_DATA, else the cache."""
    hostfile: Path | None = None
    """Check these hosts, and the network between them, instead of this machine."""
    interface: str | None = None
    """Measure this network, as for fedmpi run."""

    def __call__(self, options: list[str]) -> int:
        """Print one line per check."""
        from fedmpi.doctor import examine
        from fedmpi.network import examine_hosts

        failures = 0
        checks = examine_hosts(self.hostfile, self.interface) if self.hostfile else examine(self.data_dir)
        for check in checks:
            mark = "ok" if check.ok else "--" if check.optional else "!!"
            print(f"{mark}  {check.name:<10} {check.text}", flush=True)
            failures += not check.ok and not check.optional
        return 2 if failures else 0


@dataclasses.dataclass(frozen=True)
class DataList:
    """List the data sets: what is here, and what can be fetched."""

    data_dir: Path | None = None
    """Folder of the data sets. Default: $FEDMPI_DATA, else the cache."""

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
    data_dir: Path | None = None
    """Where to. Default: $FEDMPI_DATA, else the cache."""

    def __call__(self, options: list[str]) -> int:
        """Fetch, and print what is there now."""
        from fedmpi.data import fetch

        for path in fetch(self.name, self.data_dir):
            print(path)
        return 0


@dataclasses.dataclass(frozen=True)
class Data:
    """List the data sets, or fetch one."""

    action: tyro.conf.OmitSubcommandPrefixes[
        Annotated[DataList, tyro.conf.subcommand("list")] | Annotated[DataFetch, tyro.conf.subcommand("fetch")]
    ]

    def __call__(self, options: list[str]) -> int:
        """Do it."""
        return self.action(options)
