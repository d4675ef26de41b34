"""What a secure sum costs, without MPI: LightSecAgg beside double masking, by clients, size and losses."""

import time
from typing import Any

import numpy as np

from fedmpi.securesum.double_masking import DoubleMasking
from fedmpi.securesum.lightsecagg import LightSecAgg
from fedmpi.securesum.scheme import Scheme

BITS = 40


def measure(clients: int = 100, values: int = 100_000, lost: float = 0.3) -> dict[str, Any]:
    """Seconds of a client and of the server in a round, and the bytes a client sends, for both constructions.

    The lost clients are lost after the others hold their shares and before they upload. Half of the clients may
    collude.

    Parameters
    ----------
    clients, values : int
        N, and the numbers in each client's vector.
    lost : float
        The part of the clients that are lost.
    """
    least = clients - int(lost * clients)
    schemes: list[Scheme] = [
        DoubleMasking(clients, least, values),
        LightSecAgg(clients, least, min(clients // 2, least - 1), values),
    ]
    figures = {scheme.name: _round(scheme, clients, values, least) for scheme in schemes}
    double, light = (figures[scheme.name] for scheme in schemes)
    ratios = {name: light[name] / double[name] for name in double if double[name]}
    return figures | {"lightsecagg / double": ratios}


def _round(scheme: Scheme, clients: int, values: int, least: int) -> dict[str, float]:
    """One round: every client's steps are timed, and divided by how many did them."""
    vector = np.linspace(-1, 1, values)
    words = scheme.encode(vector, BITS, clients)
    start = time.thread_time()
    members = [scheme.member(k, 0) for k in range(clients)]
    publics = {member.number: member.public for member in members}
    post = [member.envelopes(publics) for member in members]
    for sender, envelopes in enumerate(post):
        for receiver, envelope in envelopes.items():
            members[receiver].accept(sender, envelope)
    del post
    offline = (time.thread_time() - start) / clients
    start = time.thread_time()
    survivors = frozenset(range(least))
    hidden = [members[k].mask(words) for k in survivors]
    masking = (time.thread_time() - start) / least
    start = time.thread_time()
    told = {k: members[k].tell(survivors) for k in survivors}
    telling = (time.thread_time() - start) / least
    total = np.zeros(scheme.words, scheme.dtype)
    for row in hidden:
        total = scheme.add(total, row)
    start = time.thread_time()
    opened = scheme.unmask(total, 0, publics, survivors, told)
    unmasking = time.thread_time() - start
    clear = scheme.decode(words, BITS) * least
    return {
        "client s, before the upload": offline + masking,
        "client s, after it": telling,
        "server s": unmasking,
        "client MB, for the others": (clients - 1) * scheme.envelope_bytes / 1e6,
        "client MB, upload": words.nbytes / 1e6,
        "client MB, at the end": told[0].nbytes / 1e6,
        "error of the sum": float(np.abs(scheme.decode(opened, BITS) - clear).max()),
    }
