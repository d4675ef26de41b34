"""What a client computes: the gradient of the noisy loss, and the terms that let the server correct it."""

from typing import Any

import torch
from torch import nn

from fedmpi.learn import FlatModel


def squared_error(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """½‖y - ȳ‖² [Feng et al. 2020, eq. (3)], averaged over a batch."""
    return 0.5 * (outputs - targets).square().sum(1).mean()


class Differentiator:
    """Gradients of one model on batches of rows, at parameters that are set from outside.

    Parameters
    ----------
    model : torch.nn.Module
        Used, and its parameters changed.
    last : str
        Name of its last layer.
    device : str

    Notes
    -----
    One thread at a time may use it.
    """

    def __init__(self, model: nn.Module, last: str, device: str = "cpu"):
        self.flat = FlatModel(model, device)
        self.model = self.flat.model.train()
        self._parameters = list(self.model.parameters())
        layer = self.model.get_submodule(last)
        self._constant = 1.0 if getattr(layer, "bias", None) is not None else 0.0
        layer.register_forward_pre_hook(self._keep)
        self._penultimate = torch.empty(0)

    def _keep(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._penultimate = inputs[0]

    def forward(self, X: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """ŷ, shape (n, n_L), and α = Σ_j ŷ_j^(L-1), plus 1 where the last layer has a bias, shape (n,)."""
        outputs = self.model(X)
        return outputs, self._penultimate.sum(1) + self._constant

    def gradient(self, loss: torch.Tensor) -> torch.Tensor:
        """∂loss/∂W, shape (h,)."""
        return self._flat(torch.autograd.grad(loss, self._parameters))

    def terms(
        self, outputs: torch.Tensor, alpha: torch.Tensor, targets: torch.Tensor, r_a: torch.Tensor
    ) -> torch.Tensor:
        """∂L̂/∂Ŵ, σ and β of Lemma 2, averaged over a batch, shape (3, h).

        The average over samples of α_n ∂ŷ_n, (ŷ_n - ȳ_n) ∂α_n and α_n ∂α_n is one backward pass each: the factors
        are what is propagated back from ŷ and from α. So three passes share one forward pass.

        Parameters
        ----------
        outputs, alpha : Tensor
            From `forward`.
        targets : Tensor, shape (n, n_L)
            ȳ.
        r_a : Tensor, shape (n_L,)
        """
        n = len(outputs)
        residual, a = (outputs.detach() - targets) / n, alpha.detach() / n
        gradient = self._back([(outputs, residual)])
        sigma = self._back([(outputs, a[:, None] * r_a), (alpha, residual @ r_a)])
        beta = self._back([(alpha, a)], last=True)
        return torch.stack([gradient, sigma, beta])

    def _back(self, cotangents: list[tuple[torch.Tensor, torch.Tensor]], *, last: bool = False) -> torch.Tensor:
        sources = [(value, factor) for value, factor in cotangents if value.requires_grad]
        if not sources:  # α of a network of one layer is made of its inputs
            return torch.zeros_like(self.flat.values)
        values, factors = zip(*sources, strict=True)
        grads = torch.autograd.grad(values, self._parameters, factors, retain_graph=not last, allow_unused=True)
        return self._flat(grads)

    def _flat(self, grads: tuple[torch.Tensor | None, ...]) -> torch.Tensor:
        return torch.cat(
            [
                (torch.zeros_like(p) if grad is None else grad).reshape(-1)
                for p, grad in zip(self._parameters, grads, strict=True)
            ]
        )
