"""`doctor`: what works on this machine, or on a cluster."""

import dataclasses

from fedmpi.cli.types import File, Folder, Text
from fedmpi.rules import printable


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
        from fedmpi.machines.doctor import examine
        from fedmpi.machines.network import examine_hosts

        failures = 0
        checks = examine_hosts(self.hostfile, self.interface) if self.hostfile else examine(self.data_dir)
        for check in checks:
            mark = "ok" if check.ok else "--" if check.optional else "!!"
            print(f"{mark}  {check.name:<10} {printable(check.text)}", flush=True)
            failures += not check.ok and not check.optional
        return 2 if failures else 0
