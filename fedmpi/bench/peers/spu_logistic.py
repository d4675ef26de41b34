"""Private logistic regression with SecretFlow's SPU, all parties in one process: ``PYTHON spu_logistic.py FILE J``.

FILE is an .npz of X, y, X_test, y_test: rows in [0, 1] with ones behind, and labels of 0 and 1. ABY3 with 3 parties,
integers of 64 bits. Its Python needs no fedmpi.
"""

import json
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import spu
import spu.utils.simulation as simulation

PARTIES = 3


def main(file: str, iterations: int) -> None:
    """Train by gradient descent on all rows; time and CPU seconds of all parties, with compiling, without imports."""
    work = np.load(file)
    X, y = work["X"], work["y"]
    curvature = np.linalg.eigvalsh(X.T.astype(float) @ X)[-1] / 4
    rate = np.float32(1 / curvature)
    config = spu.RuntimeConfig(protocol=spu.ProtocolKind.ABY3, field=spu.FieldType.FM64)
    config.sigmoid_mode = spu.RuntimeConfig.SIGMOID_MM1  # a polynomial

    def train(X: jax.Array, y: jax.Array) -> jax.Array:
        w = jnp.zeros(X.shape[1], jnp.float32)
        for _ in range(iterations):
            w = w - rate * (X.T @ (jax.nn.sigmoid(X @ w) - y))
        return w

    run = simulation.sim_jax(simulation.Simulator(PARTIES, config), train)
    wall, cpu = time.perf_counter(), time.process_time()
    w = run(X, y)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    accuracy = float(((work["X_test"] @ w > 0) == work["y_test"]).mean())
    print(json.dumps({"seconds": wall, "cpu_seconds": cpu, "test_accuracy": accuracy}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
