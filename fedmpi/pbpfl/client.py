"""The clients of PBPFL [Feng et al. 2020, section 3.2]: all that live on one rank."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from fedmpi.federated.rows import rows_here
from fedmpi.learn import stream, train_clients
from fedmpi.learn.randomness import draws, randomness
from fedmpi.pbpfl.gradients import Differentiator, squared_error
from fedmpi.pbpfl.messages import FINAL_ROWS, Evaluation, Round, weights
from fedmpi.pbpfl.params import Params
from fedmpi.pbpfl.problem import Part, Problem, evaluate
from fedmpi.runs.job import Job

Shifted = tuple[NDArray[np.float64], float]
"""Terms, shape (3, h), and γ̂."""


@dataclass(eq=False)
class Client:
    """One client: its rows, and the order in which it takes them."""

    number: int
    rows: Part
    seed: int
    batch_size: int
    _order: tuple[int, NDArray[np.int64]] = field(default=(-1, np.zeros(0, np.int64)))

    def batch(self, t: int) -> Part:
        """D_k^t: the batch of a round; every epoch in another order."""
        steps = -(-len(self.rows) // self.batch_size)
        epoch, step = divmod(t, steps)
        if self._order[0] != epoch:
            order = stream(self.seed, "batches", self.number, epoch).permutation(len(self.rows))
            self._order = epoch, order
        return self.rows.rows(self._order[1][step * self.batch_size : (step + 1) * self.batch_size])


@dataclass(frozen=True, eq=False)
class Clients:
    """The clients of one rank, and what they compute with."""

    params: Params
    clients: dict[int, Client]
    differentiators: list[Differentiator]
    """One for each thread."""
    outputs: int
    total: int
    """K."""
    seed: int
    draws: bool = False
    """Whether the model draws random numbers in training."""

    @classmethod
    def load(cls, job: Job[Params], last: str, host: int, hosts: int, clients: int, threads: int) -> "Clients":
        """Read the data set, and keep the rows of the clients of one host (0 ≤ host < hosts); `last` is a layer."""
        problem, params = Problem(job), job.params
        parts = rows_here(job, problem.data, host, hosts, clients)
        own = {k: Client(k, problem.training(parts[k], params.device), job.seed, params.batch_size) for k in parts}
        differentiators = [Differentiator(problem.model(), last, params.device) for _ in range(threads)]
        drawn = draws(problem.model(), problem.input_shape)
        return cls(params, own, differentiators, problem.outputs, clients, job.seed, drawn)

    def terms(self, order: Round, names: Sequence[int]) -> list[Shifted]:
        """∂L̂/∂Ŵ, σ and β of each client on its batch of the round, shape (3, h), and the shift they are for.

        In the clear, and without noise on the outputs, the gradient alone, shape (1, h), and 0.
        """
        w, t = weights(order.w, self.params), order.round
        r_a = torch.tensor(order.r_a, dtype=self.differentiators[0].flat.values.dtype, device=self.params.device)

        def one(own: Differentiator, k: int) -> Shifted:
            own.flat.load(w)
            batch = self.clients[k].batch(t)
            with randomness(self.draws, self.seed, k, t):
                outputs, hidden = own.forward(batch.X)
            shift = 0.0
            if self.params.corrected:
                terms, shift = own.terms(outputs, hidden, batch.targets, r_a)
            elif self.params.method == "fedavg-ce":
                assert batch.labels is not None  # `Params.wants_value` saw to it
                terms = own.gradient(torch.nn.functional.cross_entropy(outputs, batch.labels))[None]
            else:
                terms = own.gradient(squared_error(outputs, batch.targets))[None]
            return terms.to("cpu", torch.float64).numpy(), shift

        return train_clients(one, self.differentiators, names)

    def present(self, t: int) -> list[int]:
        """The clients that --dropout leaves in a round."""
        draws = stream(self.seed, "dropout", t).random(self.total)
        return [k for k in self.clients if draws[k] >= self.params.dropout]

    def evaluation(self, w: NDArray[np.float64]) -> Evaluation:
        """The final model on the first rows of each client, `FINAL_ROWS` at most."""
        own = self.differentiators[0]
        own.flat.load(w)
        own.model.eval()
        results = [evaluate(own.model, client.rows.first(FINAL_ROWS)) for client in self.clients.values()]
        own.model.train()
        errors, right = np.array(results).reshape(-1, 2).T
        return Evaluation(np.array([*self.clients], np.uint32), errors.astype(np.float64), right.astype(np.uint64))
