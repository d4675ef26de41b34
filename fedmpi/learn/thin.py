"""Gradients of large linear layers on small batches, which are never written to memory.

The gradient of a weight, δᵀx, is made of B rows δ and x, and is as large as the weight. So autograd only tells δ and x,
and the product is added to the weights, or to their velocity, as it is computed. Its norm comes from two Gram matrices.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

LARGE = 1 << 16
"""Numbers in a weight from which on this is faster; what it costs more is some 20 microseconds a layer."""

Factors = tuple[torch.Tensor, torch.Tensor]
"""δ, shape (B, outputs), and x, shape (B, inputs)."""


class _Product(torch.autograd.Function):
    """x Wᵀ + b; backward, the gradient of W is not made but told."""

    @staticmethod
    def forward(ctx: Any, told: list[Factors], x: torch.Tensor, W: torch.Tensor, b: torch.Tensor | None) -> Any:
        ctx.save_for_backward(x, W)
        ctx.told, ctx.biased = told, b is not None
        return nn.functional.linear(x, W, b)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        x, W = ctx.saved_tensors
        delta = gradients[0]
        rows, inputs = delta.reshape(-1, W.shape[0]), x.reshape(-1, W.shape[1])
        of_W = None
        if torch.is_grad_enabled():  # somebody differentiates the gradient
            of_W = rows.t() @ inputs
        else:
            ctx.told.append((rows, inputs.detach()))
        return None, delta @ W if ctx.needs_input_grad[1] else None, of_W, rows.sum(0) if ctx.biased else None


class Gradients:
    """The gradients of a model's parameters after a backward pass, those of large linear layers as their factors.

    Parameters
    ----------
    model : torch.nn.Module
        Its large linear layers are changed so that they tell their factors.
    """

    def __init__(self, model: nn.Module):
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._told: dict[torch.Tensor, list[Factors]] = {}
        for layer in model.modules():
            if type(layer) is nn.Linear and layer.weight.requires_grad and layer.weight.numel() >= LARGE:
                self._change(layer, self._told.setdefault(layer.weight, []))

    @staticmethod
    def _change(layer: nn.Linear, told: list[Factors]) -> None:
        def forward(x: torch.Tensor) -> torch.Tensor:
            outputs: torch.Tensor = _Product.apply(told, x, layer.weight, layer.bias)  # type: ignore[no-untyped-call]
            return outputs

        layer.forward = forward  # type: ignore[method-assign, assignment]

    def take(self, loss: torch.Tensor) -> None:
        """Those of a loss, in place of those before."""
        for p in self._parameters:
            p.grad = None
        for told in self._told.values():
            told.clear()  # a model may have looked at gradients of its own
        torch.autograd.backward(loss)
        for weight, told in self._told.items():
            if len(told) > 1 or (told and weight.grad is not None):  # of several layers
                whole = torch.zeros_like(weight) if weight.grad is None else weight.grad
                for delta, x in told:
                    whole.addmm_(delta.t(), x)
                weight.grad = whole
                told.clear()

    @torch.no_grad()
    def norm(self) -> float:
        """Euclidean, of all together."""
        squares = 0.0
        for p in self._parameters:
            if p.grad is not None:
                squares += float(p.grad.norm()) ** 2
        for told in self._told.values():
            for delta, x in told:
                squares += float(torch.mm(x, x.t()).view(-1).dot(torch.mm(delta, delta.t()).view(-1)))
        return float(max(squares, 0.0) ** 0.5)

    @torch.no_grad()
    def add_to(self, targets: Iterable[torch.Tensor], factor: float, keep: float = 1.0) -> None:
        """Make it so: targets ← keep · targets + factor · gradients.

        Parameters
        ----------
        targets : iterable of Tensor
            One for each trained parameter, of its shape.
        """
        for p, target in zip(self._parameters, targets, strict=True):
            told = self._told.get(p)
            if told:
                delta, x = told[0]
                target.addmm_(delta.t(), x, beta=keep, alpha=factor)
                continue
            if keep != 1:
                target.mul_(keep)
            if p.grad is not None:
                target.add_(p.grad, alpha=factor)
