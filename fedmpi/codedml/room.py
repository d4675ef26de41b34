"""Whether the machines have room for their workers' shares of the data."""

from collections import defaultdict
from collections.abc import Mapping

from fedmpi.codedml.params import Params
from fedmpi.errors import UsageError
from fedmpi.machines.placement import Host


def check_room(
    params: Params, shape: tuple[int, int], primes: int, numbers: Mapping[str, int], hosts: Mapping[int, Host]
) -> None:
    """Refuse shares that do not fit into the memory that is free on a machine.

    Parameters
    ----------
    shape : (m, d)
        Of X̄: each of its K blocks, or of G groups of workers, is as long as a share.
    primes : int
        How many residues an element has.
    numbers : mapping
        N, T, and K and R or G.
    hosts : mapping
        Rank → its machine; where free memory is not known, nothing is refused.

    Raises
    ------
    UsageError
        With the K and N, or G, that it would take.
    """
    together: defaultdict[str, list[Host]] = defaultdict(list)
    for rank, host in hosts.items():
        if rank > 0 and host.free_bytes:
            together[host.name].append(host)
    (m, d), parts = shape, numbers.get("K", numbers.get("G", 1))
    row_bytes = 4 * primes * d
    share = row_bytes * -(-m // parts)
    free = {name: min(host.free_bytes for host in several) for name, several in together.items()}
    full = [name for name, several in together.items() if len(several) * share > free[name]]
    if params.method == "plain" or not full:
        return
    rows = min(free[name] // (len(together[name]) * row_bytes) for name in full)
    name, needed = full[0], -(-m // max(1, rows))
    if params.method == "coded":
        workers = params.power * (needed + numbers["T"] - 1) + 1 + 2 * params.byzantine + params.spares
        takes = f"K={needed}, so N={workers} workers for T={numbers['T']}"
    else:
        takes = f"G={needed} groups"
    raise UsageError(
        f"the workers' shares of the data must fit into the free memory of their machines, got "
        f"{len(together[name])} of {share / 1e9:.2g} GB on {name}, where {free[name] / 1e9:.2g} GB are free: it would "
        f"take {takes}, with no more workers on a machine than now"
    )
