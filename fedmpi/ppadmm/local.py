"""What a participant makes of S1's orders, and what it keeps for a run that is resumed."""

import math
from typing import Protocol

import numpy as np

from fedmpi.errors import FilesError, ProtocolError
from fedmpi.ppadmm.admm import Shard, Vector
from fedmpi.ppadmm.params import FIRST_ITERATION, SQUARES, SUMS
from fedmpi.ppadmm.rounds import Order


class Shelf(Protocol):
    """Where a participant keeps its checkpoints."""

    def put(self, iteration: int, arrays: dict[str, Vector]) -> None:
        """Keep them."""

    def get(self, iteration: int) -> dict[str, Vector]:
        """What was kept for an iteration, or where the run allows it for one before."""
        ...


class Local:
    """What a participant makes of S1's orders.

    Parameters
    ----------
    shard : Shard
    shelf : Shelf, optional
    first_iteration : int
        The one that a resumed run goes on with; 0 where it is new.
    """

    def __init__(self, shard: Shard, shelf: Shelf | None = None, first_iteration: int = 0):
        self.shard, self._shelf, self._first = shard, shelf, first_iteration
        self._stage = self._stepped = -1
        self._told: tuple[int, bool, bytes] = (-1, False, b"")
        self._prepared: list[Vector] = []  # the means of features and target, and their scales
        self._vector: tuple[Vector, Vector] | None = None
        self.refused = ""
        """Why the checkpoint of the last order could not be written, if it could not."""

    def answer(self, order: Order) -> tuple[Vector, Vector] | None:
        """What to send: one number a feature, and the wide ones behind; None if it can't take part."""
        self._check(order)
        if order.stage == self._stage:  # a round failed: the same again, under another mask
            return self._vector
        self._restore()
        if not self.shard.begun and order.stage != self._stage + 1:  # it slept through a part of the preparation
            return None
        shard, nothing, values = self.shard, np.empty(0), order.values
        sizes = {SUMS: 0, SQUARES: shard.columns + 1, FIRST_ITERATION: shard.columns + 1}
        if values.shape != (sizes.get(order.stage, shard.columns),):
            raise ProtocolError(f"Order of stage {order.stage} must have other values, got shape {values.shape}")
        if order.stage == SUMS:
            self._vector = nothing, shard.sums()
        elif order.stage == SQUARES:
            self._prepared = [values]
            self._vector = nothing, shard.squares(values)
        elif order.stage == FIRST_ITERATION:
            self._begin(order.rho, values)
            self._vector = shard.update(np.zeros(shard.columns))
        else:
            self.step(order)
            self._vector = shard.update(values)
        self._stage = order.stage
        return self._vector

    def step(self, order: Order) -> None:
        """u_i ← u_i + x_i − z, once, if the last vector was in the last sum; the ρ of the order; and a checkpoint."""
        self._check(order)
        self._restore()
        self.refused = ""
        if order.counted and order.stage == self._stage + 1 and self._stepped < order.stage:
            self.shard.dual_step(order.values)
            self._stepped = order.stage
        self.shard.renew(checked(order.rho))
        if order.keep:
            if self._shelf is None:
                raise ProtocolError("a participant must have a folder (--out, --resume) to keep anything, got none")
            means, scales = self._prepared
            rho = np.array(self.shard.rho)
            kept = {"means": means, "scales": scales, "rho": rho, "u": self.shard.u, "norms": self.shard.norms}
            try:
                self._shelf.put(order.stage - FIRST_ITERATION, kept)
            except FilesError as error:  # its rows count all the same
                self.refused = str(error)[:500]

    def _check(self, order: Order) -> None:
        """Refuse an order that goes back, or says something else of a stage than the one before.

        What S2 compares between the participants is the last order of a stage: it must be that of all of them.
        """
        told = order.stage, order.counted, order.digest
        if order.stage < self._told[0] or (order.stage == self._told[0] and told != self._told):
            raise ProtocolError(
                f"Order of stage {order.stage} must be new or the same again, got another behind stage {self._told[0]}"
            )
        self._told = told

    def _begin(self, rho: float, scales: Vector) -> None:
        self._prepared.append(scales)
        self.shard.begin(checked(rho), scales)

    def _restore(self) -> None:
        """In a run that was resumed: what was kept, once."""
        shard = self.shard
        if not self._first or shard.begun:
            return
        if self._shelf is None:
            raise ProtocolError("a participant must have the folder of the run (--resume) to go on, got none")
        kept = self._shelf.get(self._first)
        shard.squares(kept["means"])
        self._prepared = [kept["means"]]
        self._begin(float(kept["rho"]), kept["scales"])
        shard.u, shard.norms = kept["u"].copy(), kept["norms"].copy()
        self._stage, self._stepped = FIRST_ITERATION + self._first - 1, FIRST_ITERATION + self._first


def checked(rho: float) -> float:
    """ρ of an order; ProtocolError if there can be none such."""
    if not 0 < rho < math.inf:
        raise ProtocolError(f"Order must have a positive ρ, got {rho}")
    return rho
