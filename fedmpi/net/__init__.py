"""Typed messages between ranks: over MPI, or over threads in one process."""

from fedmpi.net.channel import Channel
from fedmpi.net.local import run_local
from fedmpi.net.message import Float64, Message, UInt8, UInt32, UInt64

__all__ = ["Channel", "Float64", "Message", "UInt8", "UInt32", "UInt64", "run_local"]
