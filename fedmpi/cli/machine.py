"""What is on this machine, or on a cluster: `doctor`, `data`."""

import dataclasses
from typing import Annotated

import tyro

from fedmpi.cli.flags import File, Folder, Text


@dataclasses.dataclass(frozen=True)
class Doctor:
    """Say what works on this machine, what is missing, and how to get it."""

    data_dir: Folder = None
    """Folder of the data sets. Default: $FEDMPI_DATA, else the cache that `fedmpi data fetch` fills."""
    hostfile: File = None
    """Check these hosts, and the network between them. Default: this machine."""
    interface: Text = None
    """The network between the hosts that is measured: eth0, or 10.0.0.0/16. Default: what MPI chooses."""

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
