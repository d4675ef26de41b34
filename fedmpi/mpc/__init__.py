"""Multi-party computation on Shamir shares over a channel: semi-honest, any T < n/2 parties learn nothing.

A `Party` is one member of a group with its field, its threshold and its channel; it shares values and opens them. What
is hard is to multiply: the product of two shares has twice the degree, and `bgw` and `bh08` each reduce it in their own
way. Parties that lie about a share that is opened can be caught: see `Party`.
"""

from fedmpi.mpc.bgw import reduce_bgw
from fedmpi.mpc.bh08 import DoubleSharings, double_sharings, reduce_bh08
from fedmpi.mpc.party import Party, open_, share

__all__ = ["DoubleSharings", "Party", "double_sharings", "open_", "reduce_bgw", "reduce_bh08", "share"]
