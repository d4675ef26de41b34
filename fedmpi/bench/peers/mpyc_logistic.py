"""Logistic regression with MPyC on shares of all rows, where it is installed.

``python -m fedmpi.bench.peers.mpyc_logistic ROWS COLUMNS J -M11`` prints JSON. The sigmoid is COPML's, 1/2 + z/8, and
so is the work of an iteration: two products with the rows, and the update.
"""

import json
import sys
import time

import numpy as np
from mpyc.runtime import mpc

FRACTION_BITS = 16


async def main(rows: int, columns: int, iterations: int) -> None:
    """Train on rows of random numbers, and check the weights against those of numpy; CPU seconds are of all parties."""
    await mpc.start()
    rng = np.random.default_rng(0)
    X, y = rng.uniform(-1, 1, (rows, columns)), rng.integers(0, 2, rows).astype(float)
    rate = 2.0**-4 / rows
    number = mpc.SecFxp(2 * FRACTION_BITS + 8, FRACTION_BITS)
    x, t, w = (mpc.input(number.array(v), senders=0) for v in (X, y - 0.5, np.zeros(columns)))
    for shared in (x, t, w):
        await mpc.gather(shared)
    await mpc.transfer(0)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(iterations):
        residuals = (x @ w) * 0.125 - t
        w = w - (x.T @ residuals) * rate
        await mpc.gather(w)
    cpu = time.process_time() - cpu
    spent = await mpc.transfer(cpu)
    wall = time.perf_counter() - wall
    opened = [float(value) for value in await mpc.output(w[:4])]
    if mpc.pid == 0:
        clear = np.zeros(columns)
        for _ in range(iterations):
            clear -= rate * X.T @ (0.125 * X @ clear - (y - 0.5))
        assert np.allclose(opened, clear[:4], atol=iterations * 2.0 ** (2 - FRACTION_BITS)), (opened, clear[:4])
        print(json.dumps({"seconds": wall, "cpu_seconds": sum(spent), "products": 2 * rows * columns * iterations}))
    await mpc.shutdown()


if __name__ == "__main__":
    mpc.run(main(*map(int, sys.argv[1:4])))
