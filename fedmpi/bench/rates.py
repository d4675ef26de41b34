"""What one core of this machine does per second, for the cost model: about two seconds of measuring."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from fedmpi.bench.timing import fastest
from fedmpi.codedml.dealing import bits_of
from fedmpi.codedml.descent import public_coefficients
from fedmpi.codedml.headroom import Headroom
from fedmpi.codedml.objective import column_sums, target_correlation
from fedmpi.codedml.params import Params
from fedmpi.codedml.problem import Problem
from fedmpi.codedml.protocol import row_blocks
from fedmpi.codedml.transform import times
from fedmpi.core import PrimeField
from fedmpi.core.lagrange import lagrange_basis
from fedmpi.core.packing import pack, unpack
from fedmpi.crypto.random import FieldRandom
from fedmpi.net import Channel, Message, UInt32, run_local
from fedmpi.net.meaning import anything
from fedmpi.net.memory import keep_freed_memory

MESSAGES = 200
NODES = 100
LARGE_BYTES = 48 << 20
"""More than malloc keeps: a copy of it gets new pages, as data that arrives does."""


class Parcel(Message, tag=1):
    """To oneself: one number and one array, as in every message of an iteration."""

    iteration: int
    values: Annotated[UInt32, anything("a measurement's own")]


@dataclass(frozen=True)
class Rates:
    """Per second on one core, if not said otherwise; terms are products mod p that are added up."""

    matmul_terms: float
    """Terms of `PrimeField.matmul`."""
    matmul_outputs: float
    """Elements that it writes, on top of the terms."""
    recombine_terms: float
    """Terms of a matmul with one row of coefficients: a reconstruction."""
    gradient: float
    """Elements of X through `PrimeField.gradient` at r = 1: two products."""
    product: float
    """Elements of X through `PrimeField.product`."""
    transposed: float
    """Elements of X through `PrimeField.transposed_product`."""
    random: float
    """Uniform elements of F_p."""
    elementwise: float
    """Elements through a numpy step such as `from_signed`, `to_signed` or `add`."""
    basis_steps: float
    """nodes·(nodes + points) of `lagrange_basis`."""
    stream: float
    """Elements of X̄ through a product with a vector of small integers: the headroom check."""
    quantize: float
    """Elements of the data set through scaling, norms, quantization, step size and XᵀY: all before the iterations."""
    pack: float
    """Elements packed to the bits of the prime."""
    unpack: float
    """The same, at the other end."""
    copy_bytes: float
    """Bytes copied to new memory: the "link" between ranks of one machine."""
    message_seconds: float
    """Seconds of one end of one small message, without MPI."""

    def matmul(self, n: int, k: int, size: int) -> float:
        """Seconds of an (n, k) matrix times k arrays of `size` elements."""
        return n * k * size / self.matmul_terms + n * size / self.matmul_outputs

    def recombine(self, k: int, size: int) -> float:
        """Seconds of one linear combination of k arrays of `size` elements."""
        return k * size / self.recombine_terms

    def draw(self, size: int) -> float:
        """Seconds of `size` uniform elements."""
        return size / self.random

    def convert(self, size: int) -> float:
        """Seconds of an elementwise step."""
        return size / self.elementwise

    def basis(self, nodes: int, points: int) -> float:
        """Seconds of the Lagrange basis of so many nodes at so many points."""
        return nodes * (nodes + points) / self.basis_steps


def calibrate() -> Rates:
    """Measure this machine, one thread, the fastest of a few tries."""
    keep_freed_memory()  # as ranks do
    field = PrimeField()
    uniform = FieldRandom(field.p)
    m, d = 1000, 3000
    X, W, S, coefficients = uniform((m, d)), uniform((d, 1, 1)), uniform((m, 1)), uniform((2,))
    wide, narrow, one = uniform((50, 17)), uniform((50, 2)), uniform((1, 17))
    blocks = uniform((17, 60_000))
    large = np.zeros(LARGE_BYTES, np.uint8)
    large += 1  # so that it has pages of its own
    nodes, points = range(NODES), range(NODES, 2 * NODES)
    data = np.random.default_rng(0).normal(size=(m, d)).astype(np.float32)
    labels, paper = np.arange(m) % 2, Params(paper=True)
    X_bar = Problem.prepare(paper, data, labels, 2).X_bar
    signed, vector, bits = X_bar[:20], np.full((d, 1), 99), bits_of(field)
    words, unpacked = pack(X, bits), np.empty_like(X)
    with threadpool_limits(1):
        t_wide, t_narrow, t_one, t_gradient, t_product, t_transposed, t_random, t_convert, *others = fastest(
            lambda: field.matmul(wide, blocks),
            lambda: field.matmul(narrow, blocks[:2]),
            lambda: field.matmul(one, blocks),
            lambda: field.gradient(X, W, coefficients),
            lambda: field.product(X, W[:, :, 0]),
            lambda: field.transposed_product(X, S),
            lambda: uniform((m, d)),
            lambda: field.from_signed(signed),
            lambda: times(X_bar, vector),
            lambda: large.copy(),
            lambda: pack(X, bits),
            lambda: unpack(words, bits, X.shape, unpacked),
            rounds=10,
        )
        (t_quantize,) = fastest(lambda: prepared(paper, data, labels), rounds=3)
        t_basis, t_messages = fastest(lambda: lagrange_basis(field, nodes, points), exchange, rounds=20)
    t_stream, t_copy, t_pack, t_unpack = others
    columns = blocks.shape[1]
    per_output = max((t_narrow - t_wide * 2 / 17) / (1 - 2 / 17), t_narrow / 100)  # t = terms·a + outputs·b, solved
    return Rates(
        matmul_terms=50 * 17 * columns / (t_wide - per_output),
        matmul_outputs=50 * columns / per_output,
        recombine_terms=17 * columns / t_one,
        gradient=X.size / t_gradient,
        product=X.size / t_product,
        transposed=X.size / t_transposed,
        random=X.size / t_random,
        elementwise=signed.size / t_convert,
        basis_steps=2 * NODES**2 / t_basis,
        stream=X.size / t_stream,
        quantize=X.size / t_quantize,
        pack=X.size / t_pack,
        unpack=X.size / t_unpack,
        copy_bytes=large.nbytes / t_copy,
        message_seconds=t_messages / (2 * MESSAGES),
    )


def prepared(params: Params, data: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
    """All that the master does with the data before the first iteration but encode them."""
    problem = Problem.prepare(params, data, labels, 2)
    blocks = row_blocks(len(data), 1)
    Headroom(problem.X_bar, blocks, public_coefficients(params, problem), problem.precision.residues.half)
    column_sums(problem.X_bar, np.float64)
    target_correlation(problem.X_bar, problem.objective.Y)


def exchange() -> None:
    """Send small messages to oneself and receive them."""
    values = np.zeros(100, np.uint32)
    values.flags.writeable = False

    def role(ch: Channel) -> None:
        for it in range(MESSAGES):
            ch.send(0, Parcel(it, values))
            ch.recv(0, Parcel)

    run_local([role])
