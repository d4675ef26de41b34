"""A host of PBPFL's clients [Feng et al. 2020, section 3.2]: it answers for all of them, round after round."""

from functools import partial

import numpy as np

from fedmpi.federated import masked
from fedmpi.federated.messages import SERVER, be_ready, leave
from fedmpi.federated.serving import Host
from fedmpi.net import Channel
from fedmpi.net.orders import Leave
from fedmpi.pbpfl.client import Clients, Shifted
from fedmpi.pbpfl.messages import Final, Outputs, Round, Terms, to_bytes, weights
from fedmpi.pbpfl.params import Params
from fedmpi.pbpfl.perturbation import unshift
from fedmpi.pbpfl.ring import to_words
from fedmpi.securesum.scheme import Words


def host(ch: Channel, params: Params, own: Clients) -> None:
    """All clients of one rank, round after round."""
    h = len(own.differentiators[0].flat)
    be_ready(ch, {k: len(client.rows) for k, client in own.clients.items()})
    wanted = {"w": (h * params.item_bytes,), "r_a": (own.outputs if params.corrected else 0,)}
    while True:
        order = ch.recv_any(SERVER, (Round, Final, Leave), shapes=wanted, patient=True)
        if isinstance(order, Round):
            names = own.present(order.round)
            with ch.phase("compute"):
                terms = dict(zip(names, own.terms(order, names), strict=True))
            if params.masked:
                scheme = params.secure_sum(own.total, h)
                try:
                    masked.upload(ch, scheme, order.round, [*own.clients], partial(words_of, params, own, order, terms))
                except masked.LeftOutError:
                    break
            else:
                ch.send(SERVER, clear_upload(params, order.round, h, terms))
        elif isinstance(order, Final):
            with ch.phase("compute"):
                evaluation = own.evaluation(weights(order.w, params))
            ch.send(SERVER, evaluation)
        else:
            break
    leave(ch)


def words_of(params: Params, own: Clients, order: Round, terms: dict[int, Shifted]) -> dict[int, Words]:
    """N_k/N times the terms of each client, in fixed point."""
    words = {}
    for k, (values, shift) in terms.items():
        terms_of_k = unshift(values, shift, order.r_a) if params.corrected else values
        weighted = terms_of_k * (len(own.clients[k].rows) / order.rows)
        words[k] = to_words(weighted.reshape(-1), params, own.total)
    return words


def clear_upload(params: Params, t: int, h: int, terms: dict[int, Shifted]) -> Terms:
    """The terms of all clients of one rank as they are."""
    values = np.empty((len(terms), params.terms * h * params.item_bytes), np.uint8)
    for row, (own, _) in zip(values, terms.values(), strict=True):
        row[:] = to_bytes(own, params)
    values.flags.writeable = False  # lets the channel send them without a copy
    shifts = np.array([shift for _, shift in terms.values()])
    return Terms(t, np.array([*terms], np.uint32), shifts, values)


def serve(ch: Channel, own: Host[Params]) -> None:
    """Host: load the rows of the clients that live here, and compute for them until the server stops it."""
    last = ch.recv(SERVER, Outputs).layer
    host(ch, own.job.params, Clients.load(own.job, last, own.number, own.hosts, own.clients, own.threads))
