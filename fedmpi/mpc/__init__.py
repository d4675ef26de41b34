"""Multi-party computation on Shamir shares over a channel: semi-honest, any T < n/2 parties learn nothing.

Parties that lie about a share that is opened can be caught: see `Party`.
"""

from fedmpi.mpc.bgw import reduce_bgw
from fedmpi.mpc.bh08 import DoubleSharings, double_sharings, reduce_bh08
from fedmpi.mpc.party import Party, open_, share

__all__ = ["DoubleSharings", "Party", "double_sharings", "open_", "reduce_bgw", "reduce_bh08", "share"]
