"""Deep leakage from gradients: find the images whose gradient was shared [Zhu et al. 2019; Fan et al. 2020, Alg. 5]."""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedmpi.attacks.gradients import Distance, Gradient, soft_cross_entropy, trained
from fedmpi.attacks.labels import label_of
from fedmpi.errors import UsageError
from fedmpi.learn import stream

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Settings:
    """How deep leakage searches.

    Raises
    ------
    UsageError
        If a value breaks its rule.
    """

    steps: int = 150
    """Of L-BFGS's `step`, all restarts together; each makes `iterations` iterations."""
    iterations: int = 20
    """Of L-BFGS in a step."""
    history: int = 100
    """Pairs that L-BFGS keeps."""
    dtype: torch.dtype = torch.float64
    line_search: bool = True
    """Strong Wolfe conditions; without, every iteration goes the full length."""
    balance: float | None = 0.5
    """Weights of the layers, see `Distance`."""
    sent_only: bool = False
    """Compare only elements of the gradient that are not zero."""
    init: Literal["grey", "normal", "uniform", "pattern"] = "grey"
    """Where images begin: grey with a little noise, N(0, 1), U(0, 1), or a random 4x4 pattern repeated."""
    known_labels: bool = False
    """Take the label of a single row by iDLG's rule, and do not search for it."""
    tolerance: float = 3e-8
    """Distance at which the images are found; 0 never stops."""
    patience: int = 15
    """Steps without a tenth less of the distance, after which a search is at its end; 0: endless."""
    restarts: int = 2
    """Searches that may begin anew after one that diverged, or ended far away."""
    far: float = 1e-4
    """Distance above which a search ended far away."""

    def __post_init__(self) -> None:
        for name, least in {"steps": 1, "iterations": 1, "history": 1, "patience": 0, "restarts": 0}.items():
            if getattr(self, name) < least:
                raise UsageError(f"{name} must be at least {least}, got {getattr(self, name)}")


DEFAULT = Settings()

TEXTBOOK = Settings(
    steps=300,
    dtype=torch.float32,
    line_search=False,
    balance=None,
    init="normal",
    tolerance=0.0,
    patience=0,
    restarts=0,
)
"""The loop of the DLG paper's program: float32, step length 1, the plain sum of squares, 300 steps."""


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """What an attack found."""

    images: NDArray[np.float64]
    """Shape (N, *input_shape): the iterate with the least distance."""
    labels: NDArray[np.float64]
    """Probabilities, shape (N, C)."""
    distance: float
    steps: int
    evaluations: int
    """Gradients of the distance that were computed."""
    restarts: int
    seconds: float
    """Of this process's cores: with one thread, and whatever else the machine does."""


def deep_leakage(
    model: nn.Module,
    gradient: Gradient,
    shape: Shape,
    classes: int,
    settings: Settings = DEFAULT,
    seed: int = 0,
) -> Reconstruction:
    """Images and labels whose gradient of cross-entropy is as close as possible to the one that was shared.

    Parameters
    ----------
    model : torch.nn.Module
        As the client had it; twice differentiable, or the search sees nothing.
    gradient : Gradient
        What was shared.
    shape : tuple of int
        (N, *input_shape) of the batch.
    classes : int
        C.
    settings : Settings
    seed : int
        Of the initial images and labels.

    Notes
    -----
    The order of the images in a batch leaves no trace in a gradient, see `metrics.match`.
    """
    attacked = copy.deepcopy(model).to(settings.dtype)
    parameters = trained(attacked)
    seen = tuple(part.to(settings.dtype) for part in gradient)
    distance = Distance(seen, settings.balance, sent_only=settings.sent_only)
    label = label_of(seen) if settings.known_labels else None
    if label is not None and shape[0] != 1:
        raise UsageError(f"rows must be 1 for iDLG's rule to tell the label, got {shape[0]}")

    def begin(attempt: int) -> list[torch.Tensor]:
        rng = stream(seed, "deep leakage", attempt)
        images = initial_images(shape, settings.init, rng).to(parameters[0])
        logits = torch.from_numpy(rng.standard_normal((shape[0], classes))).to(parameters[0])
        if label is not None:
            logits = torch.full_like(logits, -50.0)
            logits[0, label] = 50.0
        return [images, logits]

    def gap(images: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        loss = soft_cross_entropy(attacked(images), logits)
        return distance(torch.autograd.grad(loss, parameters, create_graph=True))

    found = search(begin, gap, settings, fixed=(1,) if label is not None else ())
    images, logits = found.variables
    return Reconstruction(
        images.double().cpu().numpy(),
        torch.softmax(logits.double(), 1).cpu().numpy(),
        found.distance,
        found.steps,
        found.evaluations,
        found.restarts,
        found.seconds,
    )


@dataclass(frozen=True, eq=False)
class Found:
    """The best point of a search."""

    variables: list[torch.Tensor]
    distance: float
    steps: int
    evaluations: int
    restarts: int
    seconds: float


def search(
    begin: Callable[[int], list[torch.Tensor]],
    gap: Callable[..., torch.Tensor],
    settings: Settings,
    fixed: tuple[int, ...] = (),
) -> Found:
    """Minimize by L-BFGS, begin anew after a divergence, and keep the best point.

    Parameters
    ----------
    begin : callable
        Attempt → the variables' initial values.
    gap : callable
        Of the variables → what is minimized.
    fixed : tuple of int
        Positions of variables that stay as they begin.
    """
    start = time.process_time()
    best = Found([], float("inf"), 0, 0, 0, 0.0)
    steps = evaluations = attempt = 0
    while attempt <= settings.restarts and steps < settings.steps:
        one = descend(begin(attempt), gap, settings, settings.steps - steps, fixed)
        steps, evaluations = steps + one.steps, evaluations + one.evaluations
        if one.distance < best.distance or not best.variables:
            best = one
        if best.distance <= settings.far:
            break
        attempt += 1
    return replace(
        best,
        steps=steps,
        evaluations=evaluations,
        restarts=min(attempt, settings.restarts),
        seconds=time.process_time() - start,
    )


def descend(
    variables: list[torch.Tensor],
    gap: Callable[..., torch.Tensor],
    settings: Settings,
    steps: int,
    fixed: tuple[int, ...],
) -> Found:
    """One search: until the tolerance, until nothing gets better, or until a value is no number."""
    free = [v.requires_grad_() for i, v in enumerate(variables) if i not in fixed]
    optimizer: Any = torch.optim.LBFGS(free, lr=1.0, max_iter=settings.iterations, history_size=settings.history)
    if settings.line_search:  # and no end but ours
        optimizer.param_groups[0].update(line_search_fn="strong_wolfe", tolerance_grad=0, tolerance_change=0)
    best, least, evaluations = [v.detach().clone() for v in variables], float("inf"), 0

    def closure() -> torch.Tensor:
        nonlocal best, least, evaluations
        value = gap(*variables)
        for v, derivative in zip(free, torch.autograd.grad(value, free), strict=True):
            v.grad = derivative
        evaluations += 1
        if float(value.detach()) < least:
            best, least = [v.detach().clone() for v in variables], float(value.detach())
        return value.detach()

    history = [float("inf")]
    step = 0
    while step < steps and least > settings.tolerance:
        value = float(optimizer.step(closure))
        step += 1
        history.append(least)
        if not np.isfinite(value) or not all(bool(v.isfinite().all()) for v in free):
            break
        if settings.patience and step > settings.patience and least > 0.9 * history[-1 - settings.patience]:
            break
    return Found(best, least, step, evaluations, 0, 0.0)


def initial_images(shape: Shape, kind: str, rng: np.random.Generator) -> torch.Tensor:
    """Where the search begins, float64; a pattern is repeated over images (…, height, width) [Wei et al. 2020]."""
    if kind == "normal":
        return torch.from_numpy(rng.standard_normal(shape))
    if kind == "uniform":
        return torch.from_numpy(rng.random(shape))
    if kind == "pattern" and len(shape) == 4:
        side = (4, 4)
        patch = rng.random((*shape[:2], *side))
        times = (1, 1, -(-shape[2] // side[0]), -(-shape[3] // side[1]))
        return torch.from_numpy(np.tile(patch, times)[:, :, : shape[2], : shape[3]].copy())
    return torch.from_numpy(0.5 + 0.01 * rng.standard_normal(shape))
