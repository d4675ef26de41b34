"""The same products with MPyC, where it is installed: ``python -m fedmpi.bench.peers.mpyc_products PRODUCTS -M7``."""

import json
import sys
import time

import numpy as np
from mpyc.runtime import mpc

from fedmpi.core import DEFAULT_PRIME

ROUNDS = 2


async def main(products: int) -> None:
    """Multiply two shared vectors; the fastest round counts. A few results are checked."""
    await mpc.start()
    field = mpc.SecFld(modulus=DEFAULT_PRIME)
    a, b = np.random.default_rng(0).integers(0, DEFAULT_PRIME, (2, products))
    x, y = (mpc.input(field.array(field.field.array(values)), senders=0) for values in (a, b))
    await mpc.gather(x)
    await mpc.gather(y)
    seconds = []
    for _ in range(ROUNDS):
        await mpc.transfer(0)
        start = time.perf_counter()
        z = x * y
        await mpc.gather(z)
        await mpc.transfer(0)
        seconds.append(time.perf_counter() - start)
    opened = [int(value) for value in await mpc.output(z[:8])]
    if mpc.pid == 0:
        assert opened == [int(value) for value in a[:8] * b[:8] % DEFAULT_PRIME]
        print(json.dumps({"products_per_second": products / min(seconds)}))
    await mpc.shutdown()


if __name__ == "__main__":
    mpc.run(main(int(sys.argv[1])))
