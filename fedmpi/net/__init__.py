"""Typed messages between ranks: over MPI, or over threads in one process.

A protocol declares classes of `Message`, and sends and gathers them through a `Channel`, which checks what it receives,
counts bytes and seconds, and says who has failed. Below it lies a transport that moves bytes and nothing else: `mpi`,
`local`, or `sealed`, which encrypts either. What a peer sends is never trusted to have the right shape, or to come.
"""

from fedmpi.net.channel import Channel
from fedmpi.net.local import run_local
from fedmpi.net.message import Float64, Message, UInt8, UInt32, UInt64

__all__ = ["Channel", "Float64", "Message", "UInt8", "UInt32", "UInt64", "run_local"]
