"""What other hosts want to know of this one: ``python -m fedmpi.net.facts`` prints it as JSON."""

import fcntl
import ipaddress
import json
import os
import platform
import socket
import struct

from fedmpi.version import __version__

_GET_ADDRESS, _GET_NETMASK = 0x8915, 0x891B  # SIOCGIFADDR and SIOCGIFNETMASK of Linux


def networks() -> dict[str, str]:
    """The IPv4 networks of this host's interfaces, without the loopback; none where this is not Linux."""
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            try:
                answers = [fcntl.ioctl(sock, code, request)[20:24] for code in (_GET_ADDRESS, _GET_NETMASK)]
            except OSError:  # it has no address
                continue
            address, mask = (socket.inet_ntoa(answer) for answer in answers)
            if not ipaddress.ip_address(address).is_loopback:
                found[name] = str(ipaddress.ip_network(f"{address}/{mask}", strict=False))
    return found


def facts() -> dict[str, object]:
    """Versions, and networks."""
    return {
        "host": os.uname().nodename,
        "versions": {"fedmpi": __version__, "Python": platform.python_version(), "MPI": _mpi()},
        "networks": networks(),
    }


def _mpi() -> str:
    import mpi4py

    mpi4py.rc.initialize = False
    from mpi4py import MPI

    return MPI.Get_library_version().split(",")[0].strip("\0 ")


if __name__ == "__main__":
    print(json.dumps(facts()))
