"""What a master is asked to do, and what it ends with: shared by the coded protocol and the baselines."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fedmpi.codedml.descent import Descent, Noise, Workers
from fedmpi.codedml.params import Params
from fedmpi.codedml.problem import Problem
from fedmpi.codedml.solvers import State
from fedmpi.core.lagrange import Uniform
from fedmpi.crypto.random import fresh_seed
from fedmpi.errors import UsageError
from fedmpi.net import Channel
from fedmpi.net.costs import Report

Observe = Callable[[int, NDArray[np.float64]], None]
"""Called with (iteration, W) while the workers compute on what follows from W, and at the end."""


def ignore(iteration: int, W: NDArray[np.float64]) -> None:
    """Observe nothing."""


@dataclass(frozen=True, eq=False)
class Task:
    """One training.

    Parameters
    ----------
    params : Params
    problem : Problem
    noise : callable
        (step, shape) → the public and repeatable noise of stochastic quantization.
    uniforms : tuple of callables
        For each prime: shape → secret uniform elements of its field, to mask what is sent in each iteration.
    observe : callable
    start : State, optional
        Go on from here.
    advance : callable
        Called with the state after every iteration; true ends the training.
    keep : bool
        Workers keep their coded data for another training on the same rows.
    seed : callable
        Gives fresh secret seeds, from which T workers make their shares of the data.
    """

    params: Params
    problem: Problem
    noise: Noise
    uniforms: tuple[Uniform, ...]
    observe: Observe = ignore
    start: State | None = None
    advance: Callable[[State], bool] = lambda state: False
    keep: bool = False
    seed: Callable[[], bytes] = fresh_seed

    def train(
        self, ch: Channel, workers: Workers, blocks: list[slice], stop: Callable[[], dict[int, Report]]
    ) -> "Training":
        """Let the workers compute until the training is over, and stop them then, whatever happens."""
        seen = -1

        def observe(iteration: int, W: NDArray[np.float64]) -> None:
            nonlocal seen
            seen = iteration
            self.observe(iteration, W)

        descent = Descent(self.params, self.problem, self.noise, blocks, observe)
        state = self.start or descent.beginning
        try:
            states = descent.states(workers, state)
            while True:
                with ch.phase("solve"):
                    following = next(states, None)
                if following is None:
                    break
                state = following
                if self.advance(state):
                    break
        except UsageError:  # the workers stay ready for another training
            stop()
            raise
        if seen != state.iteration:
            with ch.phase("evaluate"):
                self.observe(state.iteration, state.W)
        return Training(state, stop())


@dataclass(frozen=True, eq=False)
class Training:
    """What the master ends with."""

    state: State
    reports: dict[int, Report]
    departures: dict[int, int] = field(default_factory=dict)
    """Worker → the iteration in which the training went on without it."""
    liars: dict[int, int] = field(default_factory=dict)
    """Member of a group → the first iteration in which its share had to be corrected."""

    @property
    def W(self) -> NDArray[np.float64]:
        """Weights, shape (d, C), the intercept in the last row if there is one."""
        return self.state.W

    @property
    def headroom_bits(self) -> float:
        """Bits that were left between the largest value that was possible and the largest that fits."""
        return self.state.headroom_bits
