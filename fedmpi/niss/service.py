"""The whole life of the tracker; a host of clients is served by `client`."""

from fedmpi.federated.messages import SERVER
from fedmpi.machines.placement import tell_host
from fedmpi.net import Channel
from fedmpi.net.orders import Leave
from fedmpi.niss.protocol import TrackerSetup
from fedmpi.runs.own_options import OwnOptions


def serve(ch: Channel, own: OwnOptions) -> None:
    """Tracker, until the server stops it."""
    tell_host(ch)
    order = ch.recv_any(SERVER, (TrackerSetup, Leave), shapes={"tau2s": (None,)}, patient=True)
    if isinstance(order, TrackerSetup):
        from fedmpi.crypto.random import permutation
        from fedmpi.niss.tracker import tracker

        tracker(ch, order, permutation)
