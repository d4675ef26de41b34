"""The baseline without coding: all owners hold shares of all rows, and multiply them [Ben-Or et al. 1988].

Two products an iteration, each with a degree reduction, modulo each prime apart. Every owner is needed.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmpi.copml.member import Owner, RowShare, Watch
from fedmpi.core import FieldArray
from fedmpi.mpc import Party, reduce_bgw


class Products:
    """Gradients from shares of all rows; see `fedmpi.copml.protocol.Coded`."""

    def __init__(self, me: Owner, X_bar: NDArray[Any]):
        self.me, ring = me, me.ring
        self.parties = [
            Party(me.ch, field, range(me.N), me.T, uniform)
            for field, uniform in zip(ring.residues.fields, ring.uniforms, strict=True)
        ]

        def shares(some: slice) -> FieldArray:
            return ring.share(ring.residues.from_signed(X_bar[some]))

        slices = me.swapped(RowShare, me.task.rows, (), shares)
        self.X = me.laid((part for parts in slices for part in parts), sum(me.task.rows))
        self.constants = me.scale.coefficients

    def prepare(self) -> None:
        """Nothing: no product needs anything that is made before."""

    def gradient(self, step: int, w: FieldArray | None, watch: Watch) -> tuple[FieldArray | None, bool]:
        """[X̄ᵀ s̄(X̄w̄)], shape (q, d, C), and whether this iteration is the last."""
        me = self.me
        me.ch.on_pause()
        last = watch(step) or step + 1 >= me.task.params.iterations
        totals = []
        assert w is not None  # all hold shares of it
        for party, X, v in zip(self.parties, self.X, w, strict=True):
            field, c = party.field, self.constants
            with me.ch.phase("compute"):
                z = field.product(X, v)
            z = reduce_bgw(party, z.reshape(-1)).reshape(z.shape)
            with me.ch.phase("compute"):
                s = field.add(field.multiply(z, field.array([c[1]])), field.array([c[0]]))
                total = field.transposed_product(X, s)
            totals.append(reduce_bgw(party, total.reshape(-1)).reshape(total.shape))
        return np.stack(totals), last
